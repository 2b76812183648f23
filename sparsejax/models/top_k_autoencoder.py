"""An autoencoder with a code of values and indices, which also saves products in training."""

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
    r"""k of n units represent an input, and only their rows are used after the first product.

    .. math:: \hat x = W_d\, \mathrm{TopK}(W_e (x - b) + b_e) + b

    Weights into and out of a unit are stored as rows, `rows [hidden, inputs]`; they are equal at initialisation.

    References:
      Makhzani & Frey, k-Sparse Autoencoders, 2013; Gao et al., Scaling and evaluating sparse autoencoders, 2024, Eq. 4
      and 5; Ahmad & Scheinkman, How Can We Be So Dense?, 2019, for the boosting.
    """

    hidden: int = 10_000
    """Units of the code."""
    k: int = 100
    """Units that represent an input."""
    boost_strength: float = traced(0.0)
    """Boost strength (beta); without boosting most units of a large code never win."""
    period: int = 1000
    """Examples over which duty cycles are averaged."""

    @property
    def task(self) -> Literal["reconstruction"]:
        return "reconstruction"

    def check(self) -> None:
        expect("model.hidden", self.hidden, "a positive number of units", self.hidden > 0)
        expect("model.k", self.k, f"a number of winners from 1 to {self.hidden}", 1 <= self.k <= self.hidden)
        expect("model.boost_strength", self.boost_strength, "0 or more", self.boost_strength >= 0)
        expect("model.period", self.period, "a positive number of examples", self.period > 0)

    def init(self, key: PRNGKeyArray, example: Float[Array, "batch *shape"]) -> Variables:
        """Initialises a network for inputs `[batch, ...]`, which are flattened."""
        inputs = math.prod(example.shape[1:])
        rows = uniform_fan_in(key, (self.hidden, inputs), fan_in=inputs)
        encoder = {"rows": rows, "bias": jnp.zeros(self.hidden, jnp.float32)}
        decoder = {"kernel": jnp.copy(rows), "bias": jnp.zeros(inputs, jnp.float32)}
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

        In training it updates the duty cycles, over all of `axis_name`.
        """
        state = variables.state["hidden"]["boost"]
        encoder, decoder = variables.params["hidden"], variables.params["output"]
        centre = decoder["bias"][None]
        gain = boost(jnp.ones(self.hidden, jnp.float32), state, self.k / self.hidden, self.boost_strength)
        code = encode_top_k(x.reshape(x.shape[0], -1) - centre, encoder["rows"], encoder["bias"], self.k, gain=gain)
        prediction = decode(code, decoder["kernel"]) + centre
        if train:
            state = update_boost_state(state, code, period=self.period, axis_name=axis_name)
        # Removed by the compiler if the dense form is unused, as in training without a penalty.
        return Output(prediction, {"hidden": {"boost": state}}, {"hidden": code.to_dense()})

    def layers(self, example_shape: tuple[int, ...]) -> list[Layer]:
        return [Layer("hidden", self.hidden, self.k, self.k, inputs=(math.prod(example_shape),))]
