"""Base class of k-winners networks: a sequence of hidden layers with k-winners, and a dense output layer."""

import dataclasses
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from sparsejax.configuration import configuration, is_concrete, traced
from sparsejax.errors import ConfigError
from sparsejax.functional import add_noise, connections_per_unit, dropout, inference_k, max_pool2d
from sparsejax.functional.selection import Ties
from sparsejax.models import blocks
from sparsejax.models.base import Layer, Model, Output, Variables, expect


class Stage(NamedTuple):
    """One hidden layer: the shape of its kernel, `[inputs, units]` or `[H, W, inputs, filters]`; its winners (None for
    ReLU); its fraction of non-zero weights (None for dense ones); for a convolution the positions of its feature map
    after pooling, height and width of its input, and those of the pooling windows.
    """

    name: str
    shape: tuple[int, ...]
    k: Any
    density: Any
    positions: int = 1
    image: tuple[int, ...] = ()
    pool: int = 2


@configuration
class SparseNetwork(Model):
    """A stack of hidden layers, which subclasses define by `stages`, with the names of their k fields in `winners`."""

    _winners: ClassVar[tuple[str, ...]]
    """Fields that hold numbers of winners."""
    density: float | None = traced(0.3)
    """Fraction of non-zero weights in the fully connected hidden layers; None for dense ones."""
    classes: int = 10
    """Number of classes."""
    boost_strength: float = traced(1.5)
    """Boost strength (beta) in the first epoch."""
    boost_decay: float = traced(0.85)
    """Factor on the boost strength after each epoch."""
    k_inference_factor: float = traced(1.0)
    """Factor on every k at inference; 1.5 in the paper."""
    k_schedule: Literal["constant", "linear", "exponential"] = "constant"
    """Schedule of every k, from k_start times its value down to its value."""
    k_start: float = traced(1.0)
    """Initial factor on every k with a schedule; k is at most all units."""
    k_epochs: float = traced(10.0)
    """Epochs of the k schedule."""
    period: int = 1000
    """Examples over which duty cycles are averaged."""
    local: bool = False
    """Let only the channels of each position of a feature map compete (k is then out of the channels)."""
    ties: Ties = "first"
    """Units tied at the threshold: "first" keeps exactly k, "all" keeps all of them."""
    batch_norm: bool = False
    """Normalise every layer before its activation, without scale or offset."""
    sigma: float | None = traced(None)
    """Standard deviation of Gaussian noise on the examples in training; None for none."""
    dropout: float | None = traced(None)
    """Probability of dropping a unit of a fully connected hidden layer; None for no dropout."""

    @property
    def task(self) -> Literal["classification"]:
        return "classification"

    def check(self) -> None:
        some = self.density is None or 0 < self.density <= 1
        expect("model.density", self.density, "None or a fraction of non-zero weights in (0, 1]", some)
        expect("model.classes", self.classes, "a positive number", self.classes > 0)
        expect("model.boost_strength", self.boost_strength, "0 (no boosting) or more", self.boost_strength >= 0)
        expect("model.boost_decay", self.boost_decay, "a factor in [0, 1]", 0 <= self.boost_decay <= 1)
        expect("model.k_inference_factor", self.k_inference_factor, "a positive factor", self.k_inference_factor > 0)
        expect("model.k_start", self.k_start, "a positive factor", self.k_start > 0)
        expect("model.k_epochs", self.k_epochs, "a positive number of epochs", self.k_epochs > 0)
        expect("model.period", self.period, "a positive number of examples", self.period > 0)
        expect(
            "model.sigma",
            self.sigma,
            "None or a standard deviation of 0 or more",
            self.sigma is None or self.sigma >= 0,
        )
        probable = self.dropout is None or 0 <= self.dropout < 1
        expect("model.dropout", self.dropout, "None or a probability in [0, 1)", probable)

    def seen(self, x: Float[Array, "batch *shape"]) -> Float[Array, "batch *shape"]:
        """Returns the inputs of the first layer: by default those of the network."""
        return x

    def stages(self, example_shape: tuple[int, ...]) -> list[Stage]:
        """Describes the hidden layers for one example of that shape, in order.

        Raises:
          ConfigError: the network does not fit the example.
        """
        raise NotImplementedError

    def init(self, key: PRNGKeyArray, example: Float[Array, "batch *shape"]) -> Variables:
        """Initialises a network for inputs `[batch, ...]`.

        Raises:
          ConfigError: the network does not fit the example, k exceeds the units of a layer, or a density leaves a unit
            without inputs.
        """
        stages = self._checked_stages(example.shape[1:])
        keys = jax.random.split(key, len(stages) + 1)
        params, state = {}, {}
        for stage, layer_key in zip(stages, keys[:-1], strict=True):
            features = stage.shape[-1]
            params[stage.name], weights_state = blocks.init_weights(layer_key, stage.shape, stage.density)
            state[stage.name] = weights_state | blocks.init_activation(features, stage.k)
            if self.batch_norm:
                state[stage.name]["norm"] = blocks.init_batch_norm(features)
        inputs = stages[-1].shape[-1] * stages[-1].positions
        params["output"], state["output"] = blocks.init_weights(keys[-1], (inputs, self.classes))
        return Variables(params, state)

    def apply(
        self,
        variables: Variables,
        x: Float[Array, "batch *shape"],
        *,
        key: PRNGKeyArray | None = None,
        train: bool = False,
        axis_name: str | None = None,
    ) -> Output:
        """Returns logits `[batch, classes]`, the new state, and the output of every hidden layer.

        Args:
          variables: from `init`.
          x: inputs `[batch, ...]`, images as `[batch, H, W, C]`.
          key: one key per example `[batch]`; needed in training with noise or dropout.
          train: add noise, update duty cycles and batch statistics, apply dropout, use k instead of k at inference.
          axis_name: mesh axis over which the batch is sharded.

        Raises:
          ValueError: key is missing.
        """
        params, state, activations = variables.params, {}, {}
        stages = self.stages(x.shape[1:])
        if train and self.sigma is not None:
            x = add_noise(_layer_keys(key, len(stages)), x, sigma=self.sigma)
        for index, stage in enumerate(stages):
            name, layer = stage.name, dict(variables.state[stage.name])
            convolution = len(stage.shape) == 4
            x = blocks.multiply(params[name], layer, x if convolution else x.reshape(x.shape[0], -1))
            if convolution and not self.batch_norm:
                x = max_pool2d(x, stage.pool)  # before the bias, which changes no maximum: fewer additions
            x = blocks.add_bias(params[name], x)
            if self.batch_norm:
                x, layer["norm"] = blocks.batch_norm(layer["norm"], x, train=train, axis_name=axis_name)
            if convolution and self.batch_norm:
                x = max_pool2d(x, stage.pool)
            elif not convolution and train and self.dropout is not None:
                x = dropout(_layer_keys(key, index), x, rate=self.dropout)
            x, state[name] = blocks.activate(
                layer,
                x,
                k=stage.k,
                k_inference_factor=self.k_inference_factor,
                boost_strength=self.boost_strength,
                period=self.period,
                local=self.local,
                ties=self.ties,
                train=train,
                axis_name=axis_name,
            )
            activations[name] = x
        state["output"] = variables.state["output"]
        return Output(blocks.linear(params["output"], {}, x.reshape(x.shape[0], -1)), state, activations)

    def at(self, epoch: Array | float, step: Array | int) -> "SparseNetwork":
        """Returns the model after `epoch` epochs: with its boost strength and k by their schedules."""
        now = dataclasses.replace(self, boost_strength=self.boost_strength * self.boost_decay**epoch)
        if self.k_schedule == "constant":
            return now
        left = 1 - jnp.minimum(epoch / self.k_epochs, 1.0)
        factor = 1 + (self.k_start - 1) * left if self.k_schedule == "linear" else self.k_start**left
        winners = {name: getattr(self, name) for name in self._winners}
        scheduled = jax.tree.map(lambda k: inference_k(k, factor, 2**30), winners)
        return dataclasses.replace(now, **scheduled)

    def layers(self, example_shape: tuple[int, ...]) -> list[Layer]:
        """Describes the hidden layers for reports; errors as in `init`."""
        described = []
        for stage in self._checked_stages(example_shape):
            competitors = self.competitors(stage)
            k_inference = None if stage.k is None else int(inference_k(stage.k, self.k_inference_factor, competitors))
            units, local = stage.shape[-1] * stage.positions, self.local and stage.positions > 1
            inputs = (*stage.image, stage.shape[-2])
            described.append(Layer(stage.name, units, stage.k, k_inference, stage.positions, local, inputs=inputs))
        return described

    def competitors(self, stage: Stage) -> int:
        """Returns the number of competing units of a hidden layer."""
        return stage.shape[-1] if self.local else stage.shape[-1] * stage.positions

    def _checked_stages(self, example_shape: tuple[int, ...]) -> list[Stage]:
        stages = self.stages(example_shape)
        for stage in stages if is_concrete(self) else ():
            competitors = self.competitors(stage)
            expected = f"None or a number of winners from 1 to {competitors}, the units of {stage.name}"
            expect(f"k of {stage.name}", stage.k, expected, stage.k is None or 1 <= stage.k <= competitors)
            if stage.density is None:
                continue
            try:
                connections_per_unit(stage.shape, stage.density)
            except ValueError as error:
                raise ConfigError(f"Layer {stage.name}: {error}") from None
        return stages


def _layer_keys(key: PRNGKeyArray | None, index: int) -> PRNGKeyArray:
    """Returns each example's key for one layer."""
    if key is None:
        raise ValueError("Training with noise or dropout needs `key`: one PRNG key per example [batch].")
    return jax.vmap(jax.random.fold_in, in_axes=(0, None))(key, index)
