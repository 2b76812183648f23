"""The convolutional networks of "How Can We Be So Dense?": each layer dense or sparse, ReLU or k-winners."""

import dataclasses

import jax
from jaxtyping import Array, Float, Key, PRNGKeyArray

from sparsejax.errors import ConfigError
from sparsejax.functional import connections_per_unit, dropout, inference_k, max_pool2d
from sparsejax.functional.selection import Ties
from sparsejax.hyper import Hyper, hyper_of, traced
from sparsejax.models import blocks
from sparsejax.models.base import Layer, Output, Variables, check_boosting, expect, merged, needed


@dataclasses.dataclass(frozen=True)
class SparseCNN:
    """Convolutions, each followed by a 2 x 2 maximum and k-winners, then a hidden layer with sparse weights.

    The defaults are the paper's Sparse CNN-2.

    References:
      Ahmad & Scheinkman, How Can We Be So Dense?, 2019, section 3.2 and Table 3.
    """

    channels: tuple[int, ...] = (32, 64)
    """Filters of each convolution."""
    conv_k: tuple[int | None, ...] = traced((400, 300))
    """Winners of each convolution, of all its units after the pooling; None for ReLU."""
    hidden: int = 700
    """Units of the hidden layer."""
    hidden_k: int | None = traced(100)
    """Winners of the hidden layer; None for ReLU."""
    density: float = 0.3
    """Fraction of non-zero weights in the hidden layer."""
    conv_density: tuple[float, ...] | None = None
    """Fraction of non-zero weights of each convolution; None for dense ones, as in the paper."""
    kernel_size: int = 5
    """Height and width of the filters."""
    classes: int = 10
    """Number of classes."""
    boost_strength: float = traced(1.5)
    """Beta of the boost, in the first epoch."""
    boost_decay: float = traced(0.85)
    """Factor on the boost strength after each epoch."""
    k_inference_factor: float = traced(1.5)
    """Factor on every k at inference."""
    duty_period: int = 1000
    """Examples over which duty cycles are averaged."""
    local: bool = False
    """Let the channels of each position compete (conv_k is then out of the channels)."""
    ties: Ties = "first"
    """What becomes of units tied at the threshold: "first" keeps exactly k, "all" keeps them all."""
    batch_norm: bool = False
    """Normalise every layer before its activation, without scale or offset."""
    dropout: float | None = traced(None)
    """Probability of dropping a hidden unit; None for no dropout."""

    def __post_init__(self):
        expect("model.channels", self.channels, "one or more positive numbers",
                bool(self.channels) and min(self.channels) > 0)  # fmt: skip
        expect("model.hidden", self.hidden, "a positive number of units", self.hidden > 0)
        expect("model.conv_k", self.conv_k, f"one entry for each of the {len(self.channels)} convolutions",
                len(self.conv_k) == len(self.channels))  # fmt: skip
        expect("model.hidden_k", self.hidden_k, f"None or a number of winners from 1 to hidden={self.hidden}",
                self.hidden_k is None or 1 <= self.hidden_k <= self.hidden)  # fmt: skip
        densities = (self.density, *(self.conv_density or ()))
        expect("model.density", densities, "fractions of non-zero weights in (0, 1]",
                all(0 < density <= 1 for density in densities))  # fmt: skip
        expect("model.conv_density", self.conv_density, f"None or {len(self.channels)} fractions",
                self.conv_density is None or len(self.conv_density) == len(self.channels))  # fmt: skip
        check_boosting(self)
        expect("model.kernel_size, model.classes", (self.kernel_size, self.classes), "positive numbers",
                self.kernel_size > 0 and self.classes > 0)  # fmt: skip

    def init(self, key: PRNGKeyArray, example: Float[Array, "batch height width channels"]) -> Variables:
        """Draws a network for images `[batch, H, W, C]`.

        Raises:
          ConfigError: the images are too small for the convolutions, k exceeds the units of a layer, or a density
            leaves a unit without inputs.
        """
        shapes = self._shapes(example.shape[1:])
        params, state = {}, {}
        for (name, shape, k, density), layer_key in zip(shapes, jax.random.split(key, len(shapes)), strict=True):
            params[name], weights_state = blocks.init_weights(layer_key, shape, density)
            state[name] = weights_state
            if name != "output":
                state[name] |= blocks.init_activation(shape[-1], k)
                if self.batch_norm:
                    state[name]["norm"] = blocks.init_batch_norm(shape[-1])
        return Variables(params, state)

    def apply(
        self,
        variables: Variables,
        x: Float[Array, "batch height width channels"],
        *,
        key: Key[Array, "batch"] | None = None,
        train: bool = False,
        hyper: Hyper | None = None,
        axis_name: str | None = None,
    ) -> Output:
        """Returns logits `[batch, classes]`, the new state, and the output of every hidden layer.

        Args:
          variables: as `init` made them.
          x: images `[batch, H, W, C]`.
          key: one key per example `[batch]`; needed in training with dropout.
          train: update duty cycles and batch statistics, drop units, use k rather than k at inference.
          hyper: traced fields to use instead of this model's own.
          axis_name: mesh axis the batch is spread over.
        """
        hyper = merged(self, hyper, hyper_of(self))
        params, state, activations = variables.params, {}, {}
        settings = {
            "k_factor": hyper["k_inference_factor"],
            "boost_strength": hyper["boost_strength"],
            "period": self.duty_period,
            "local": self.local,
            "ties": self.ties,
            "train": train,
            "axis_name": axis_name,
        }
        for name, k in zip(self._names(), (*hyper["conv_k"], hyper["hidden_k"]), strict=True):
            layer = dict(variables.state[name])
            if name == "hidden":
                x = x.reshape(x.shape[0], -1)
            x = blocks.linear(params[name], layer, x)
            if self.batch_norm:
                x, layer["norm"] = blocks.batch_norm(layer["norm"], x, train=train, axis_name=axis_name)
            if x.ndim == 4:
                x = max_pool2d(x)
            elif train and hyper["dropout"] is not None:
                x = dropout(needed(key), x, rate=hyper["dropout"])
            x, state[name] = blocks.activate(layer, x, k=k, **settings)
            activations[name] = x
        state["output"] = variables.state["output"]
        return Output(blocks.linear(params["output"], {}, x), state, activations)

    def scheduled(self, hyper: Hyper, *, epoch: Array, step: Array) -> Hyper:
        """Returns the hyperparameters after `epoch` epochs: the boost strength has decayed that often."""
        return {**hyper, "boost_strength": hyper["boost_strength"] * hyper["boost_decay"] ** epoch}

    def layers(self, example_shape: tuple[int, ...]) -> list[Layer]:
        """Describes the hidden layers for images `[H, W, C]`; errors as in `init`."""
        described = []
        for name, shape, k, _ in self._shapes(example_shape)[:-1]:
            positions = self._positions(example_shape, name)
            units = shape[-1] * positions
            competitors = shape[-1] if self.local else units
            k_inference = None if k is None else int(inference_k(k, self.k_inference_factor, competitors))
            described.append(Layer(name, units, k, k_inference, positions, self.local and positions > 1))
        return described

    def _names(self) -> list[str]:
        return [f"conv{i + 1}" for i in range(len(self.channels))] + ["hidden"]

    def _positions(self, example_shape: tuple[int, ...], name: str) -> int:
        """Returns height * width of a layer after its pooling; 1 for the hidden layer."""
        if name == "hidden":
            return 1
        height, width = example_shape[:2]
        for _ in range(int(name.removeprefix("conv"))):
            height, width = (height - self.kernel_size + 1) // 2, (width - self.kernel_size + 1) // 2
        return max(height, 0) * max(width, 0)

    def _shapes(self, example_shape: tuple[int, ...]) -> list[tuple[str, tuple[int, ...], int | None, float]]:
        """Returns name, kernel shape, k and density of every layer, checked against the images."""
        layers, inputs = [], example_shape[-1]
        for i, (filters, k) in enumerate(zip(self.channels, self.conv_k, strict=True)):
            name, density = f"conv{i + 1}", self.conv_density[i] if self.conv_density else 1.0
            positions = self._positions(example_shape, name)
            if positions < 1:
                raise ConfigError(
                    f"Images of shape {example_shape} are too small for {len(self.channels)} convolutions with "
                    f"kernels of {self.kernel_size} and pooling by 2: nothing is left after {name}. Take fewer "
                    "model.channels or a smaller model.kernel_size."
                )
            competitors = filters if self.local else filters * positions
            expect(f"model.conv_k[{i}]", k, f"None or a number of winners from 1 to {competitors}, the units of "
                    f"{name}", k is None or 1 <= k <= competitors)  # fmt: skip
            layers.append((name, (self.kernel_size, self.kernel_size, inputs, filters), k, density))
            inputs = filters
        flat = inputs * self._positions(example_shape, layers[-1][0])
        layers.append(("hidden", (flat, self.hidden), self.hidden_k, self.density))
        layers.append(("output", (self.hidden, self.classes), None, 1.0))
        for name, shape, _, density in layers:
            try:
                connections_per_unit(shape, density)
            except ValueError as error:
                raise ConfigError(f"Layer {name}: {error}") from None
        return layers

