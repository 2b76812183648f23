"""The largest values of a whole batch, and the running threshold that replaces their selection at inference."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from sparsejax.functional.arguments import checked
from sparsejax.functional.selection import Ties, last_kept, winners
from sparsejax.functional.threshold import bisect, ordered_key


@checked
def batch_top_k(
    x: Float[Array, "*batch n"],
    k: float | int | np.number | Float[Array, ""] | Int[Array, ""],
    *,
    ties: Ties = "first",
    axis_name: str | None = None,
) -> Float[Array, "*batch n"]:
    """Keeps the k * batch largest values of the whole batch and zeroes the rest.

    An example may keep more or fewer than k. The gradient is 1 on the winners and 0 elsewhere.

    Args:
      x: values `[..., n]`; the leading axes are the batch.
      k: number of winners per example on average, 0 <= k <= n, such as 2.5; `k * batch` is rounded down, or to the
        nearest if k is traced, and clipped.
      ties: "first" keeps exactly so many, with the earlier example and the lower index first among ties; "all" keeps
        every unit tied at the threshold.
      axis_name: mesh axis over which the batch is sharded; the batch is then that of all devices, in their order.

    Returns:
      Array like x.

    Raises:
      ValueError: a Python number k is outside [0, n].

    References:
      Bussmann et al., BatchTopK Sparse Autoencoders, 2024, Eq. 5.
    """
    won = batch_winners(lax.stop_gradient(x), k, ties=ties, axis_name=axis_name)
    return jnp.where(won, x, jnp.zeros((), x.dtype))


def batch_winners(
    rank: Array, k: Any, *, ties: Ties = "first", axis_name: str | None = None
) -> Bool[Array, "*batch n"]:
    """Marks the k * batch values of highest rank in a whole batch; arguments and errors as `batch_top_k`."""
    if not rank.size:
        return jnp.zeros(rank.shape, bool)
    n = rank.shape[-1]
    total = rank.size // n * (1 if axis_name is None else lax.axis_size(axis_name))
    if isinstance(k, (int, float, np.number)):
        if not 0 <= k <= n:
            raise ValueError(f"k is {k}, but an example has {n} values; expected 0 <= k <= {n}.")
        kept: int | Array = int(k * total + 1e-6)  # 2.3 * 10 is 22.999999999999996
    else:
        kept = jnp.clip(jnp.round(k.astype(jnp.float32) * total), 0, n * total).astype(jnp.int32)
    flat = rank.reshape(1, -1)
    won = winners(flat, kept, ties=ties) if axis_name is None else _winners_of_all(flat, kept, ties, axis_name)
    return won.reshape(rank.shape)


@checked
def update_threshold(
    threshold: Float[Array, ""],
    kept: Float[Array, "*shape"],
    *,
    decay: float = 0.999,
    axis_name: str | None = None,
) -> Float[Array, ""]:
    r"""Returns the running threshold after a batch: an average of the least positive value that each batch kept.

    At inference an example alone keeps the values above it, instead of the k * batch largest of a batch.

    Args:
      threshold: before the batch; a negative one is that of no batch, and is replaced.
      kept: what `batch_top_k` kept, `[..., n]`; values of 0 or less do not count.
      decay: weight of the earlier batches.
      axis_name: mesh axis over which the batch is sharded.

    Returns:
      The threshold `[]`, unchanged if nothing was kept.

    References:
      Bussmann et al., BatchTopK Sparse Autoencoders, 2024, section 3; the decay of dictionary_learning.
    """
    least = jnp.min(jnp.where(kept > 0, kept, jnp.inf), initial=jnp.inf).astype(threshold.dtype)
    if axis_name is not None:
        least = lax.pmin(least, axis_name)
    average = jnp.where(threshold < 0, least, decay * threshold + (1 - decay) * least)
    return lax.stop_gradient(jnp.where(jnp.isfinite(least), average, threshold))


def _winners_of_all(rank: Array, k: int | Array, ties: Ties, axis_name: str) -> Bool[Array, "1 n"]:
    """Marks the winners among the values of all devices; the counts of each pass are summed over them."""
    key = ordered_key(rank)
    bounds, wanted = jnp.iinfo(key.dtype), jnp.full((1,), k, jnp.int32)

    def count(marked: Array) -> Int[Array, "1"]:
        return lax.psum(jnp.sum(marked, axis=-1, dtype=jnp.int32), axis_name)

    high = lax.pmax(jnp.max(key, axis=-1), axis_name)
    low = jnp.full_like(high, bounds.min)
    probe = (low >> 1) + (high >> 1)
    at, _ = bisect(lambda probe: count(key >= probe[:, None]), jnp.maximum(wanted, 1), probe, low, high)
    some = (wanted > 0)[:, None]
    above, tied = key > at[:, None], key == at[:, None]
    if ties == "all":
        return (above | tied) & some
    spare, own = wanted - count(above), jnp.sum(tied, axis=-1, dtype=jnp.int32)
    here, places = lax.axis_index(axis_name), jnp.arange(lax.axis_size(axis_name), dtype=jnp.int32)
    each = lax.psum(jnp.where(places == here, own, 0), axis_name)
    earlier = jnp.sum(jnp.where(places < here, each, 0), keepdims=True, dtype=jnp.int32)
    left = jnp.clip(spare - earlier, 0, own)

    def find_last() -> Int[Array, "1"]:
        mine = jnp.sum(above, axis=-1, dtype=jnp.int32) + left
        return jnp.where(left > 0, last_kept(key, at + 0 * key[:, 0], mine), -1)

    # Ties are rare, and breaking them costs another search.
    last = lax.cond(jnp.sum(each, dtype=jnp.int32) == spare[0], lambda: 0 * left + key.shape[-1], find_last)
    place = lax.broadcasted_iota(jnp.int32, key.shape, 1)
    return (above | (tied & (place <= last[:, None]))) & some
