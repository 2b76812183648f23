"""ConvMixer: convolutions that mix positions and channels in turn, with a pooled output as latent vector."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PRNGKeyArray

from sparsejax.configuration import configuration
from sparsejax.errors import ConfigError
from sparsejax.functional import depthwise_conv2d, uniform_fan_in
from sparsejax.functional.normal import gelu
from sparsejax.models import blocks
from sparsejax.models.base import MOST_BLOCKS, Layer, Model, Output, Variables, expect
from sparsejax.models.blocks import Params


@configuration
class ConvMixer(Model):
    r"""A classifier of images whose pooled features are used as latents.

    Patches are embedded as vectors; then each of the `depth` blocks mixes positions and channels, with N the batch
    norm:

    .. math:: x = N(g(\mathrm{patches}(x) W + b)), \quad
        x \leftarrow x + N(g(\mathrm{depthwise}(x) + b)), \quad x \leftarrow N(g(x W + b))

    with g the GELU; the mean over the positions is the latent, which a linear layer classifies. The defaults are the
    authors' for CIFAR-10.

    References:
      Trockman & Kolter, Patches Are All You Need?, 2022, section 2 and appendix A.
    """

    width: int = 256
    """Channels, and features of the latent."""
    depth: int = 8
    """Blocks."""
    kernel: int = 5
    """Height and width of the depthwise filters."""
    patch: int = 2
    """Height and width of the patches."""
    classes: int = 10
    """Number of classes."""

    @property
    def task(self) -> Literal["classification"]:
        return "classification"

    def check(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            expect(f"model.{field.name}", value, "a positive number", value >= 1)
        expect("model.depth", self.depth, f"{MOST_BLOCKS} blocks or fewer", self.depth <= MOST_BLOCKS)

    def init(self, key: PRNGKeyArray, example: Float[Array, "batch height width channels"]) -> Variables:
        """Initialises a network as PyTorch does, like the authors' code.

        Raises:
          ConfigError: the example is not an image, or its sides are not multiples of the patch.
        """
        inputs = self._check(example.shape[1:])
        keys = iter(jax.random.split(key, 2 + 2 * self.depth))
        params: dict[str, Params] = {"patch": self._dense(next(keys), inputs, self.width)}
        for i in range(1, self.depth + 1):
            params[f"depthwise{i}"] = self._depthwise(next(keys))
            params[f"pointwise{i}"] = self._dense(next(keys), self.width, self.width)
        normalised = list(params)
        params["output"] = self._dense(next(keys), self.width, self.classes)
        params |= {f"{name}_norm": blocks.init_scale(self.width) for name in normalised}
        return Variables(params, {name: blocks.init_batch_norm(self.width) for name in normalised})

    def apply(
        self,
        variables: Variables,
        x: Float[Array, "batch height width channels"],
        *,
        key: Key[Array, "batch"] | None = None,
        train: bool = False,
        axis_name: str | None = None,
    ) -> Output:
        """Returns logits `[batch, classes]`, and as the activation `latent` the pooled features `[batch, width]`.

        In training it normalises by the batch, over all of `axis_name`, and updates the running statistics.

        Raises:
          ConfigError: x has no images, or their sides are not multiples of the patch.
        """
        self._check(x.shape[1:])
        params, state = variables.params, {}

        def finish(name: str, x: Array) -> Array:
            h, norm = gelu(x), params[f"{name}_norm"]
            y, state[name] = blocks.batch_norm(variables.state[name], h, train=train, axis_name=axis_name, params=norm)
            return y

        x = finish("patch", blocks.linear(params["patch"], {}, _patches(x, self.patch)))
        for i in range(1, self.depth + 1):
            depthwise = params[f"depthwise{i}"]
            mixed = depthwise_conv2d(x, depthwise["kernel"]) + depthwise["bias"].reshape(1, 1, 1, -1)
            x = x + finish(f"depthwise{i}", mixed)
            x = finish(f"pointwise{i}", blocks.linear(params[f"pointwise{i}"], {}, x))
        latent = jnp.mean(x, axis=(1, 2))
        return Output(blocks.linear(params["output"], {}, latent), state, {"latent": latent})

    def layers(self, example_shape: tuple[int, ...]) -> list[Layer]:
        return [Layer("latent", self.width)]

    def _dense(self, key: PRNGKeyArray, inputs: int, units: int) -> Params:
        return blocks.init_weights(key, (inputs, units))[0]

    def _depthwise(self, key: PRNGKeyArray) -> Params:
        kernel_key, bias_key = jax.random.split(key)
        fan_in = self.kernel**2
        kernel = uniform_fan_in(kernel_key, (self.kernel, self.kernel, self.width), fan_in)
        return {"kernel": kernel, "bias": uniform_fan_in(bias_key, (self.width,), fan_in)}

    def _check(self, shape: tuple[int, ...]) -> int:
        """Checks that the input is an image of whole patches; returns the values per patch."""
        if len(shape) != 3 or shape[0] % self.patch or shape[1] % self.patch:
            raise ConfigError(
                f"An example has shape {shape}; a ConvMixer expects [height, width, channels] with sides that are "
                f"multiples of model.patch, which is {self.patch}."
            )
        return self.patch**2 * shape[2]


def _patches(x: Float[Array, "batch height width channels"], size: int) -> Float[Array, "batch rows columns inputs"]:
    """Cuts images into non-overlapping squares, each flattened to one vector."""
    batch, height, width, channels = x.shape
    rows, columns = height // size, width // size
    x = x.reshape(batch, rows, size, columns, size, channels).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, rows, columns, size * size * channels)
