"""An autoencoder whose code is kept as its winners: what is saved by sparsity is saved in training, too."""

import dataclasses
import math
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PRNGKeyArray

from sparsejax.functional import decode, encode_top_k, spread, uniform_fan_in
from sparsejax.hyper import Hyper
from sparsejax.models.base import Layer, Output, Variables, expect, merged


@dataclasses.dataclass(frozen=True, kw_only=True)
class TopKAutoencoder:
    r"""k of n units represent an input, and only their rows are touched after the first product.

    .. math:: \hat x = W_d\, \mathrm{TopK}(W_e (x - b) + b_e) + b

    Weights into a unit lie in one row, `rows [hidden, inputs]`, as those out of it do; at the start they are the same.

    References:
      Makhzani & Frey, k-Sparse Autoencoders, 2013; Gao et al., Scaling and evaluating sparse autoencoders, 2024, Eq. 4
      and 5.
    """

    hidden: int = 10_000
    """Units of the code."""
    k: int = 100
    """Units that represent an input."""
    classes: ClassVar[None] = None
    """It has as many outputs as inputs."""

    def __post_init__(self):
        expect("model.hidden", self.hidden, "a positive number of units", self.hidden > 0)
        expect("model.k", self.k, f"a number of winners from 1 to {self.hidden}", 1 <= self.k <= self.hidden)

    def init(
        self, key: PRNGKeyArray, example: Float[Array, "batch *shape"], *, hyper: Hyper | None = None
    ) -> Variables:
        """Draws a network for inputs `[batch, ...]`, which are flattened."""
        inputs = math.prod(example.shape[1:])
        rows = uniform_fan_in(key, (self.hidden, inputs), fan_in=inputs)
        encoder = {"rows": rows, "bias": jnp.zeros(self.hidden)}
        return Variables({"hidden": encoder, "output": {"kernel": jnp.copy(rows), "bias": jnp.zeros(inputs)}}, {})

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
        """Returns reconstructions `[batch, inputs]` and the code, spread out: `[batch, hidden]`.

        Args:
          variables: as `init` made them.
          x: inputs `[batch, ...]`.
          key: not needed, for nothing is random.
          train: not needed, for training is no different.
          hyper: there are no traced fields.
          axis_name: not needed, for nothing is averaged over the batch.

        Raises:
          ValueError: hyper names a field.
        """
        merged(self, hyper, {})
        encoder, decoder = variables.params["hidden"], variables.params["output"]
        centre = decoder["bias"][None]
        code = encode_top_k(x.reshape(x.shape[0], -1) - centre, encoder["rows"], encoder["bias"], self.k)
        prediction = decode(code, decoder["kernel"]) + centre
        return Output(prediction, variables.state, {"hidden": spread(code, self.hidden)})

    def scheduled(self, hyper: Hyper, *, epoch: Array, step: Array) -> Hyper:
        """Returns the hyperparameters as they are: nothing has a schedule."""
        return hyper

    def layers(self, example_shape: tuple[int, ...]) -> list[Layer]:
        """Describes the code for reports."""
        return [Layer("hidden", self.hidden, self.k, self.k, inputs=(math.prod(example_shape),))]
