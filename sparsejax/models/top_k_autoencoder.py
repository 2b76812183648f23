"""An autoencoder whose code is kept as its winners: what is saved by sparsity is saved in training, too."""

import math
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PRNGKeyArray

from sparsejax.configuration import configuration, traced
from sparsejax.functional import (
    boost,
    decode,
    encode_top_k,
    init_boost_state,
    uniform_fan_in,
    update_boost_state,
)
from sparsejax.models.base import Layer, Model, Output, Variables, expect


@configuration
class TopKAutoencoder(Model):
    r"""k of n units represent an input, and only their rows are touched after the first product.

    .. math:: \hat x = W_d\, \mathrm{TopK}(W_e (x - b) + b_e) + b

    Weights into a unit lie in one row, `rows [hidden, inputs]`, as those out of it do; at the start they are the same.

    References:
      Makhzani & Frey, k-Sparse Autoencoders, 2013; Gao et al., Scaling and evaluating sparse autoencoders, 2024, Eq. 4
      and 5; Ahmad & Scheinkman, How Can We Be So Dense?, 2019, for the boosting.
    """

    hidden: int = 10_000
    """Units of the code."""
    k: int = 100
    """Units that represent an input."""
    boost_strength: float = traced(0.0)
    """How much units that won seldom recently are favoured; without it most units of a large code never win."""
    period: int = 1000
    """Examples over which it is averaged how often a unit wins."""

    @property
    def task(self) -> Literal["reconstruction"]:
        """Reconstruction."""
        return "reconstruction"

    def check(self) -> None:
        """Raise a ConfigError that names a field out of range."""
        expect("model.hidden", self.hidden, "a positive number of units", self.hidden > 0)
        expect("model.k", self.k, f"a number of winners from 1 to {self.hidden}", 1 <= self.k <= self.hidden)
        expect("model.boost_strength", self.boost_strength, "0 or more", self.boost_strength >= 0)
        expect("model.period", self.period, "a positive number of examples", self.period > 0)

    def init(self, key: PRNGKeyArray, example: Float[Array, "batch *shape"]) -> Variables:
        """Draws a network for inputs `[batch, ...]`, which are flattened."""
        inputs = math.prod(example.shape[1:])
        rows = uniform_fan_in(key, (self.hidden, inputs), fan_in=inputs)
        encoder = {"rows": rows, "bias": jnp.zeros(self.hidden)}
        decoder = {"kernel": jnp.copy(rows), "bias": jnp.zeros(inputs)}
        return Variables({"hidden": encoder, "output": decoder}, {"hidden": {"boost": init_boost_state(self.hidden)}})

    def apply(
        self,
        variables: Variables,
        x: Float[Array, "batch *shape"],
        *,
        key: Key[Array, "batch"] | None = None,
        train: bool = False,
        axis_name: str | None = None,
    ) -> Output:
        """Returns reconstructions `[batch, inputs]` and the code in its dense form, `[batch, hidden]`.

        Args:
          variables: as `init` made them.
          x: inputs `[batch, ...]`.
          key: not needed, for nothing is random.
          train: count who wins.
          axis_name: mesh axis the batch is spread over, for the count.

        """
        state = variables.state["hidden"]["boost"]
        encoder, decoder = variables.params["hidden"], variables.params["output"]
        centre = decoder["bias"][None]
        gain = boost(jnp.ones(self.hidden), state, self.k / self.hidden, self.boost_strength)
        code = encode_top_k(x.reshape(x.shape[0], -1) - centre, encoder["rows"], encoder["bias"], self.k, gain=gain)
        prediction = decode(code, decoder["kernel"]) + centre
        if train:
            state = update_boost_state(state, code, period=self.period, axis_name=axis_name)
        # Compiled only where somebody looks at the dense form: training without a penalty leaves it away.
        return Output(prediction, {"hidden": {"boost": state}}, {"hidden": code.to_dense()})

    def layers(self, example_shape: tuple[int, ...]) -> list[Layer]:
        """Describes the code for reports."""
        return [Layer("hidden", self.hidden, self.k, self.k, inputs=(math.prod(example_shape),))]
