"""Sparse connectivity that moves while it is trained: weak weights are dropped and as many others grown."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from sparsejax.functional.masks import fan_in_of
from sparsejax.functional.selection import winners


def rewire(
    key: PRNGKeyArray,
    weights: Float[Array, "*inputs units"],
    mask: Bool[Array, "*inputs units"],
    gradient: Float[Array, "*inputs units"] | None,
    fraction: float | Float[Array, ""],
) -> tuple[Float[Array, "*inputs units"], Bool[Array, "*inputs units"]]:
    """Drops each unit's weakest weights and grows as many: SET at random, RigL where the gradient is largest.

    Every unit keeps exactly its number of connections, of which round(fraction * connections) are dropped. What is
    grown comes from all places not kept, so that a dropped weight may return, and begins at 0: the network's output
    changes only by what is dropped.

    Args:
      key: a PRNG key; unused with a gradient.
      weights: `[inputs, units]` or `[height, width, channels, units]`.
      mask: like weights, True where connected.
      gradient: of the loss to every weight, the masked ones too; None to grow at random.
      fraction: of the connections to move, in [0, 1]; may be traced.

    Returns:
      The weights, 0 where newly grown or not connected, and the mask.

    Raises:
      ValueError: shapes differ, or fraction is a Python number outside [0, 1].

    References:
      Mocanu et al., Scalable Training of Artificial Neural Networks with Adaptive Sparse Connectivity, 2018 (SET, which
      drops the smallest positive and largest negative weights; by magnitude here); Evci et al., Rigging the Lottery,
      2020, Algorithm 1 (RigL).
    """
    if weights.shape != mask.shape or (gradient is not None and gradient.shape != weights.shape):
        others = mask.shape if gradient is None else (mask.shape, gradient.shape)
        raise ValueError(f"weights have shape {weights.shape}, mask and gradient {others}; expected one shape for all.")
    if isinstance(fraction, (int, float)) and not 0 <= fraction <= 1:
        raise ValueError(f"fraction is {fraction}; expected the part of the connections to move, in [0, 1].")
    fan_in, units = fan_in_of(weights.shape), weights.shape[-1]

    def by_unit(array):
        return array.reshape(fan_in, units).T

    connected = by_unit(mask)
    count = jnp.sum(connected.astype(jnp.int32), axis=-1)
    moved = jnp.round(jnp.asarray(fraction, jnp.float32) * count.astype(jnp.float32)).astype(jnp.int32)
    # -1 ranks below every magnitude and every random number, so that it is never chosen.
    kept = _best(jnp.where(connected, jnp.abs(by_unit(weights)), -1.0), count - moved)
    if gradient is None:
        score = (jax.random.bits(key, (units, fan_in), jnp.uint32) >> 1).astype(jnp.int32)
    else:
        score = jnp.abs(by_unit(gradient))
    grown = _best(jnp.where(kept, jnp.full_like(score, -1), score), moved)
    kept, grown = kept.T.reshape(mask.shape), grown.T.reshape(mask.shape)
    return jnp.where(kept, weights, jnp.zeros_like(weights)), kept | grown


def _best(score, k):
    """Marks the k of highest score in each row, each row with its own k."""
    return jax.vmap(lambda row, k: winners(row, k, ties="first"))(score, k)
