"""Fully connected networks with k-winners and sparse weights."""

import dataclasses

import jax
from jaxtyping import Array, Float, Key, PRNGKeyArray

from sparsejax.errors import ConfigError
from sparsejax.functional import connections_per_unit, dropout, inference_k
from sparsejax.functional.selection import Ties
from sparsejax.hyper import Hyper, hyper_of, traced
from sparsejax.models import blocks
from sparsejax.models.base import Layer, Output, Variables, check_boosting, expect, merged, needed


@dataclasses.dataclass(frozen=True)
class SparseMLP:
    """Hidden layers with sparse weights and k-winners, then a dense output layer.

    References:
      Ahmad & Scheinkman, How Can We Be So Dense?, 2019, section 3.
    """

    hidden: tuple[int, ...] = (700,)
    """Units of each hidden layer."""
    k: tuple[int | None, ...] = traced((100,))
    """Winners of each hidden layer; None for ReLU."""
    density: float = 0.3
    """Fraction of non-zero weights in the hidden layers."""
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
    ties: Ties = "first"
    """What becomes of units tied at the threshold: "first" keeps exactly k, "all" keeps them all."""
    batch_norm: bool = False
    """Normalise every layer before its activation, without scale or offset."""
    dropout: float | None = traced(None)
    """Probability of dropping a hidden unit; None for no dropout."""

    def __post_init__(self):
        expect("model.hidden", self.hidden, "one or more positive numbers", bool(self.hidden) and min(self.hidden) > 0)
        expect("model.k", self.k, f"one entry for each of the {len(self.hidden)} hidden layers",
               len(self.k) == len(self.hidden))  # fmt: skip
        for i, (units, k) in enumerate(zip(self.hidden, self.k, strict=True)):
            expect(f"model.k[{i}]", k, f"None or a number of winners from 1 to {units}", k is None or 1 <= k <= units)
        expect("model.density", self.density, "a fraction of non-zero weights in (0, 1]", 0 < self.density <= 1)
        expect("model.classes", self.classes, "a positive number", self.classes > 0)
        check_boosting(self)

    def init(self, key: PRNGKeyArray, example: Float[Array, "batch *shape"]) -> Variables:
        """Draws a network for inputs `[batch, ...]`, which are flattened.

        Raises:
          ConfigError: a density leaves a unit without inputs.
        """
        params, state = {}, {}
        inputs = example[0].size
        keys = jax.random.split(key, len(self.hidden) + 1)
        for name, units, k, layer_key in zip(self._names(), self.hidden, self.k, keys[:-1], strict=True):
            try:
                connections_per_unit((inputs, units), self.density)
            except ValueError as error:
                raise ConfigError(f"Layer {name}: {error}") from None
            params[name], state[name] = blocks.init_weights(layer_key, (inputs, units), self.density)
            state[name] |= blocks.init_activation(units, k)
            if self.batch_norm:
                state[name]["norm"] = blocks.init_batch_norm(units)
            inputs = units
        params["output"], state["output"] = blocks.init_weights(keys[-1], (inputs, self.classes), 1.0)
        return Variables(params, state)

    def apply(
        self,
        variables: Variables,
        x: Float[Array, "batch *shape"],
        *,
        key: Key[Array, "batch"] | None = None,
        train: bool = False,
        hyper: Hyper | None = None,
        axis_name: str | None = None,
    ) -> Output:
        """Returns logits `[batch, classes]`, the new state and the hidden activations; as `SparseCNN.apply`."""
        hyper = merged(self, hyper, hyper_of(self))
        params, state, activations = variables.params, {}, {}
        x = x.reshape(x.shape[0], -1)
        for i, (name, k) in enumerate(zip(self._names(), hyper["k"], strict=True)):
            layer = dict(variables.state[name])
            x = blocks.linear(params[name], layer, x)
            if self.batch_norm:
                x, layer["norm"] = blocks.batch_norm(layer["norm"], x, train=train, axis_name=axis_name)
            if train and hyper["dropout"] is not None:
                layer_keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(needed(key), i)
                x = dropout(layer_keys, x, rate=hyper["dropout"])
            x, state[name] = blocks.activate(
                layer, x, k=k, k_factor=hyper["k_inference_factor"], boost_strength=hyper["boost_strength"],
                period=self.duty_period, local=False, ties=self.ties, train=train, axis_name=axis_name,
            )  # fmt: skip
            activations[name] = x
        state["output"] = variables.state["output"]
        return Output(blocks.linear(params["output"], {}, x), state, activations)

    def scheduled(self, hyper: Hyper, *, epoch: Array, step: Array) -> Hyper:
        """Returns the hyperparameters after `epoch` epochs: the boost strength has decayed that often."""
        return {**hyper, "boost_strength": hyper["boost_strength"] * hyper["boost_decay"] ** epoch}

    def layers(self, example_shape: tuple[int, ...]) -> list[Layer]:
        """Describes the hidden layers."""
        return [
            Layer(name, units, k, None if k is None else int(inference_k(k, self.k_inference_factor, units)))
            for name, units, k in zip(self._names(), self.hidden, self.k, strict=True)
        ]

    def _names(self) -> list[str]:
        return [f"hidden{i + 1}" for i in range(len(self.hidden))]
