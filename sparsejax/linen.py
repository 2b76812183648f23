"""Flax Linen layers over `sparsejax.functional`: the same arrays, bit for bit, with the state kept by Flax.

`KWinners` keeps its duty cycles in the collection "boost", sparse layers their masks in "masks"; neither is trained.
In training, name what may change: `model.apply(variables, x, train=True, mutable=["boost"])`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from sparsejax import functional
from sparsejax.functional.masks import fan_in_of
from sparsejax.functional.selection import Ties

Initializer = Callable[..., Array]


def _fan_in_bound(fan_in: int) -> Initializer:
    """Draws biases as PyTorch does, from the fan-in of their layer."""
    return lambda key, shape: functional.uniform_fan_in(key, shape, fan_in=fan_in)


class TopK(nn.Module):
    """Keeps the k largest units of each example and zeroes the rest: `functional.top_k`.

    Attributes:
      k: number of winners.
      ties: "all" keeps every unit tied at the threshold, "first" exactly k.

    Example:
      >>> TopK(k=1).apply({}, jnp.array([[1.0, 3.0, 2.0]]))
      Array([[0., 3., 0.]], dtype=float32)

    References:
      Makhzani & Frey, k-Sparse Autoencoders, 2013, section 2.
    """

    k: int
    ties: Ties = "all"

    def __call__(self, x: Float[Array, "*batch units"]) -> Float[Array, "*batch units"]:
        """Maps activations `[..., units]` to their winners."""
        return functional.top_k(x, self.k, ties=self.ties)


class KWinners(nn.Module):
    """Keeps the k most active units of each example, idle units being favoured: `functional.k_winners`.

    Duty cycles are the variable "state" of the collection "boost"; they change only with `train=True`.

    Attributes:
      k: winners per example in training.
      boost_strength: beta; 0 is plain Top-K. A traced number may be passed in the call instead.
      period: number of examples over which duty cycles are averaged.
      ties: "all" keeps every unit tied at the threshold, "first" exactly k.
      relu: also zero the winners that are negative.
      k_inference_factor: factor on k without `train`; the paper takes 1.5.
      axis_name: mesh axis the batch is spread over; counts are summed over it.

    Example:
      >>> layer = KWinners(k=1)
      >>> x = jnp.array([[1.0, 3.0, 2.0]])
      >>> variables = layer.init(jax.random.key(0), x, train=False)
      >>> y, updated = layer.apply(variables, x, train=True, mutable=["boost"])
      >>> updated["boost"]["state"].duty_cycle
      Array([0., 1., 0.], dtype=float32)

    References:
      Ahmad & Scheinkman, How Can We Be So Dense?, 2019, section 3.
    """

    k: int
    boost_strength: float | Array = 0.0
    period: int = 1000
    ties: Ties = "all"
    relu: bool = False
    k_inference_factor: float = 1.0
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "batch *units"], *, train: bool) -> Float[Array, "batch *units"]:
        """Maps activations `[batch, units]` to their winners; with `train` it also counts them."""
        state = self.variable("boost", "state", functional.init_boost_state, x.shape[-1])
        k = self.k if train else inference_k(self.k, self.k_inference_factor, self._competitors(x))
        y = self._winners(x, state.value, k)
        if train and not self.is_initializing():
            state.value = functional.update_boost_state(state.value, y, period=self.period, axis_name=self.axis_name)
        return y

    def _competitors(self, x: Float[Array, "batch *units"]) -> int:
        return x.shape[-1]

    def _winners(self, x, state, k):
        return functional.k_winners(
            x, state, k=k, boost_strength=self.boost_strength, ties=self.ties, relu=self.relu
        )
