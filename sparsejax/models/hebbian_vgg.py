"""VGG-16 with competing first blocks: Hebbian/anti-Hebbian costs, divisive normalisation, adaptive thresholds."""

import math
from collections.abc import Iterator
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PRNGKeyArray

from sparsejax.configuration import configuration, traced
from sparsejax.errors import ConfigError
from sparsejax.functional import (
    adaptive_threshold,
    conv2d,
    conv2d_twice,
    divisive_norm,
    hebbian_cost,
    max_pool2d,
    mean_threshold,
    uniform_fan_in,
    unit_norm,
)
from sparsejax.models import blocks
from sparsejax.models.base import Layer, Model, Output, Variables, expect

VGG16 = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)


class _Block(NamedTuple):
    """A convolution: its name, channels in and out, whether it is a HaH block, and whether max pooling follows."""

    name: str
    inputs: int
    channels: int
    hebbian: bool
    pooled: bool


@configuration
class HebbianVGG(Model):
    r"""Blocks of convolutions of unit norm and ReLU, padded to the size of the image, and a linear classifier.

    The first `hebbian` of them are HaH blocks: ReLU, divisive normalisation, threshold; each adds its cost,
    :math:`-\alpha L`, to the training loss. The others have batch norm after the ReLU. With `hebbian` 0 it is the
    paper's standard network.

    The defaults are those of the paper's code, which differ from the text in `demote` (0.1 in the text), `norm_pool`
    (1) and `local_costs` (not mentioned).

    References:
      Cekic, Bakiskan & Madhow, Neuro-Inspired Deep Neural Networks with Sparse, Strong Activations, 2022.
    """

    widths: tuple[int, ...] = VGG16
    """Channels of each convolution; 0 for 2 x 2 max pooling."""
    kernel_size: int = 3
    """Height and width of the kernels, an odd number."""
    padded: bool = True
    """Pad images with zeros, so that convolutions preserve their size."""
    hidden: int | None = None
    """ReLU units between the convolutions and the classifier; None for none, as in the paper."""
    hebbian: int = 6
    """Number of HaH blocks at the start."""
    alphas: tuple[float, ...] = traced((4.5e-3, 2.5e-3, 1.3e-3, 1e-3, 8e-4, 5e-4))
    """Weight of the cost of each HaH block."""
    demote: float = traced(1.0)
    """Weight of the less active neurons in the cost (lambda in Eq. 4)."""
    promoted: float = 0.1
    """Fraction of the neurons that count as the most active in the cost."""
    local_costs: bool = True
    """Let a block's cost change only its own kernel, not earlier ones."""
    norm: Literal["divisive", "batch"] = "divisive"
    """Normalisation in the HaH blocks."""
    suppression: float = traced(0.1)
    """Weight of the image's most active position in the divisive normalisation (sigma in Eq. 2)."""
    norm_pool: int = 3
    """Side of the square of positions for the maximum in the divisive normalisation; 1 for none."""
    threshold: Literal["quantile", "mean", "none"] = "quantile"
    """Threshold of the HaH blocks: keep each neuron's largest positions (`keep`), those above its mean, or all."""
    keep: float = 0.2
    """Fraction of the positions kept by the quantile threshold."""
    classes: int = 10
    """Number of classes."""

    @property
    def task(self) -> Literal["classification"]:
        return "classification"

    def check(self) -> None:
        widths = [width for width in self.widths if width]
        expect("model.widths", self.widths, "channels of one or more convolutions, and 0 for max pooling after one",
               bool(widths) and min(self.widths) >= 0 and self.widths[0] > 0
               and all(a or b for a, b in zip(self.widths, self.widths[1:], strict=False)))  # fmt: skip
        expect("model.kernel_size", self.kernel_size, "an odd number of pixels", self.kernel_size % 2 == 1)
        expect(
            "model.hidden", self.hidden, "None or a positive number of units", self.hidden is None or self.hidden > 0
        )
        expect("model.hebbian", self.hebbian, f"a number of blocks from 0 to {len(widths)}",
               0 <= self.hebbian <= len(widths))  # fmt: skip
        expect("model.alphas", self.alphas, f"one weight of 0 or more for each of the {self.hebbian} HaH blocks",
               len(self.alphas) == self.hebbian and min(self.alphas, default=0) >= 0)  # fmt: skip
        expect("model.demote", self.demote, "a weight of 0 or more", self.demote >= 0)
        expect("model.suppression", self.suppression, "a weight in [0, 1]", 0 <= self.suppression <= 1)
        expect("model.norm_pool", self.norm_pool, "an odd number of positions", self.norm_pool % 2 == 1)
        expect("model.keep", self.keep, "a fraction in (0, 1]", 0 < self.keep <= 1)
        few = min(widths[: self.hebbian], default=2)
        expect("model.promoted", self.promoted, f"a fraction of {few} neurons that leaves some on either side",
               self.promoted > 0 and -(-self.promoted * few // 1) < few)  # fmt: skip
        expect("model.classes", self.classes, "a positive number", self.classes > 0)

    def init(self, key: PRNGKeyArray, example: Float[Array, "batch height width channels"]) -> Variables:
        """Initialises a network as PyTorch does.

        Raises:
          ConfigError: the example is not an image, or too small for the pooling.
        """
        params: dict[str, blocks.Params] = {}
        state: dict[str, blocks.State] = {}
        shape = example.shape[1:]
        for block in self._blocks(shape):
            key, own = jax.random.split(key)
            kernel_shape = (self.kernel_size, self.kernel_size, block.inputs, block.channels)
            params[block.name] = {"kernel": uniform_fan_in(own, kernel_shape)}
            if self._batch_norm(block):
                params[f"{block.name}_norm"] = blocks.init_scale(block.channels)
                state[block.name] = blocks.init_batch_norm(block.channels)
        features = math.prod(self._sizes(shape)[-1])
        if self.hidden is not None:
            key, own = jax.random.split(key)
            params["hidden"] = blocks.init_weights(own, (features, self.hidden))[0]
        params["output"] = blocks.init_weights(key, (self.hidden or features, self.classes))[0]
        return Variables(params, state)

    def apply(
        self,
        variables: Variables,
        x: Float[Array, "batch height width channels"],
        *,
        key: Key[Array, "batch"] | None = None,
        train: bool = False,
        axis_name: str | None = None,
    ) -> Output:
        """Returns logits `[batch, classes]`, and as activations the output of each block, after pooling.

        In training it normalises by the batch, over all of `axis_name`, and updates the running statistics; the HaH
        blocks' costs, multiplied by minus their weights, are the losses `hebbian1` and so on.

        Raises:
          ConfigError: x has no images, or they are too small for the pooling.
        """
        params, state = variables.params, {}
        activations: dict[str, Array] = {}
        losses: dict[str, Array] = {}
        for i, block in enumerate(self._blocks(x.shape[1:])):
            name = block.name
            kernel = unit_norm(params[name]["kernel"])
            padding = "SAME" if self.padded else "VALID"
            if block.hebbian and train and self.local_costs:
                response, own = conv2d_twice(x, kernel, padding)
            else:
                response = own = conv2d(x, kernel, padding)
            if block.hebbian and train:
                cost = hebbian_cost(jax.nn.relu(own), demote=self.demote, promoted=self.promoted)
                losses[f"hebbian{i + 1}"] = -self.alphas[i] * cost
            x = jax.nn.relu(response)
            if self._batch_norm(block):
                norm = params[f"{name}_norm"]
                x, state[name] = blocks.batch_norm(
                    variables.state[name], x, train=train, axis_name=axis_name, params=norm
                )
            else:
                x = divisive_norm(x, sigma=jnp.asarray(self.suppression, x.dtype), pool=self.norm_pool)
            if block.hebbian and self.threshold != "none":
                x = adaptive_threshold(x, keep=self.keep) if self.threshold == "quantile" else mean_threshold(x)
            activations[name] = x = max_pool2d(x) if block.pooled else x
        x = x.reshape(x.shape[0], -1)
        if self.hidden is not None:
            activations["hidden"] = x = jax.nn.relu(blocks.linear(params["hidden"], {}, x))
        return Output(blocks.linear(params["output"], {}, x), state, activations, losses or None)

    def block_inputs(self, variables: Variables, x: Float[Array, "batch height width channels"]) -> dict[str, Array]:
        """Returns the input of every convolution: the images, then the outputs of the blocks."""
        names = [block.name for block in self._blocks(x.shape[1:])]
        passed = self.apply(variables, x).activations
        return dict(zip(names, [x, *(passed[name] for name in names[:-1])], strict=True))

    def layers(self, example_shape: tuple[int, ...]) -> list[Layer]:
        sizes = self._sizes(example_shape)
        described = [
            Layer(block.name, math.prod(passed), inputs=seen, padding=self._edge)
            for block, seen, passed in zip(self._blocks(example_shape), sizes[:-1], sizes[1:], strict=True)
        ]
        if self.hidden is not None:
            described.append(Layer("hidden", self.hidden, inputs=(math.prod(sizes[-1]),)))
        return described

    @property
    def _edge(self) -> int:
        return self.kernel_size // 2 if self.padded else 0

    def _batch_norm(self, block: _Block) -> bool:
        return not block.hebbian or self.norm == "batch"

    def _blocks(self, shape: tuple[int, ...]) -> Iterator[_Block]:
        self._sizes(shape)
        inputs, count = shape[2], 0
        for i, width in enumerate(self.widths):
            if width:
                pooled = i + 1 < len(self.widths) and self.widths[i + 1] == 0
                count += 1
                yield _Block(f"conv{count}", inputs, width, count <= self.hebbian, pooled)
                inputs = width

    def _sizes(self, shape: tuple[int, ...]) -> list[tuple[int, int, int]]:
        """Returns height, width and channels of the input of every convolution, and of the final output."""
        if len(shape) != 3:
            raise ConfigError(f"An example has shape {shape}; a HebbianVGG expects [height, width, channels].")
        height, width, channels = shape
        lost, sizes = self.kernel_size - 1 - 2 * self._edge, [shape]
        for entry in self.widths:
            if entry:
                height, width, channels = height - lost, width - lost, entry
                sizes.append((height, width, channels))
            else:
                height, width = height // 2, width // 2
                sizes[-1] = (height, width, channels)
        if min(height, width) < 1:
            raise ConfigError(
                f"Images of shape {shape} are too small for the convolutions and the {self.widths.count(0)} pools of "
                "model.widths, each of which halves height and width; remove some."
            )
        return sizes
