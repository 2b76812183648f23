"""Exact selection of the k largest, without a sort.

Values at or above a threshold are kept, and `threshold` finds the threshold by counting. The cost is the same for every
k, so k may be traced; rows are independent, so a sharded batch is never gathered; and no gradient passes through it.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Bool, Float, Int, Num

from sparsejax.functional.arguments import checked
from sparsejax.functional.kernels import gpu as gpu_rows
from sparsejax.functional.shards import is_unsharded, on_shards, spread_like, vary_alike
from sparsejax.functional.threshold import ordered_key, threshold

Ties = Literal["first", "all"]
Count: TypeAlias = (
    int | np.integer | Int[Array, ""] | Int[Array, "*rows"] | Int[np.ndarray, ""] | Int[np.ndarray, "*rows"]
)
"""A number of units: one for all rows, or one for each."""
_CACHED = 2**20
"""Number of values that fit a CPU's cache."""


@checked
def kth_largest(x: Num[Array, "*shape"], k: Count, *, axis: int = -1) -> Num[Array, "..."]:
    """Returns the k-th largest value along an axis, exactly.

    NaN counts as the largest value of all, and -0 equals +0. The gradient is shared equally by the units with that
    value.

    Args:
      x: values `[..., n]`, floats, int32 or int64.
      k: rank, 1 <= k <= n, one or one per row `[...]`; an array of JAX is clipped to that range, because it may be
        traced.
      axis: the axis of the n values; the others are batch axes.

    Returns:
      Array `[...]` of the same dtype.

    Raises:
      ValueError: k is not an integer or outside [1, n], or has another shape; or x has another dtype.
    """
    x = jnp.moveaxis(x, axis, -1)
    rows, shared = _by_shape(x, as_count(k, x.shape[:-1], x.shape[-1], least=1))
    return on_shards(_kth_largest, lead=x.ndim - 1, rows=rows, shared=shared)


@checked
def top_k(x: Num[Array, "*shape"], k: Count, *, axis: int = -1, ties: Ties = "first") -> Num[Array, "*shape"]:
    """Keeps the k largest values along an axis and zeroes the rest.

    The gradient is 1 on the winners and 0 elsewhere.

    Args:
      x: values `[..., n]`, floats, int32 or int64.
      k: number of winners per row, 0 <= k <= n, one or one per row `[...]`; an array of JAX is clipped to that
        range, because it may be traced.
      axis: the axis of the n values; the others are batch axes.
      ties: "first" keeps exactly k, with the lower index first among ties, as `lax.top_k`; "all" keeps every unit tied
        at the threshold, which may be many more than k in bfloat16.

    Returns:
      Array like x.

    Raises:
      ValueError: k is not an integer or outside [0, n], or has another shape; ties is unknown; or x has another
        dtype.

    References:
      Makhzani & Frey, k-Sparse Autoencoders, 2013, section 2.
    """
    return jnp.moveaxis(keep(jnp.moveaxis(x, axis, -1), k, ties=ties), -1, axis)


def keep(
    x: Num[Array, "*shape"],
    k: Count,
    *,
    gain: Float[Array, "*rows units"] | None = None,
    axes: int = 1,
    ties: Ties = "first",
    relu: bool = False,
) -> Num[Array, "*shape"]:
    """Keeps the k values of each row that are largest when multiplied by a gain, and zeroes the rest.

    The gradient is 1 on the winners and 0 elsewhere.

    Args:
      x: values `[..., n]`, floats, int32 or int64.
      k: number of winners per row, 0 <= k <= size of a row, one or one per row; an array of JAX is clipped to
        that range, because it may be traced.
      gain: factors of the ranking, `[units]` or for each row `[..., units]`, of the type of x; units are the last
        axis. No gradient passes.
      axes: number of last axes that form a row.
      ties: as in `top_k`.
      relu: also zero the winners that are negative, and their gradient.

    Returns:
      Array like x.

    Raises:
      ValueError: as `winners`.
    """
    lead = x.ndim - axes
    rows, shared = _by_shape(x, as_count(k, x.shape[:lead], math.prod(x.shape[lead:]), least=0))
    (shared if gain is None or gain.ndim == 1 else rows)["gain"] = gain
    kept = on_shards(partial(_keep, axes=axes, ties=ties, relu=relu), lead=lead, rows=rows, shared=shared)
    return spread_like(kept, x)


@checked
def winners(rank: Num[Array, "*rows n"], k: Count, *, ties: Ties = "first") -> Bool[Array, "*rows n"]:
    """Marks the k units of highest rank in each row.

    Args:
      rank: values to rank by `[..., n]`; NaN is the highest. No gradient passes.
      k: number of winners per row, 0 <= k <= n, one or one per row `[...]`; an array of JAX is clipped to that
        range, because it may be traced.
      ties: "first" marks exactly k, with the lower index first among ties; "all" marks every unit tied at the
        threshold.

    Returns:
      Boolean array `[..., n]`.

    Raises:
      ValueError: k is not an integer or outside [0, n], or has another shape; ties is unknown; or rank has another
        dtype than a float, int32 and int64.
    """
    n = rank.shape[-1]
    k = as_count(k, rank.shape[:-1], n, least=0)
    if n == 0 or (isinstance(k, int) and k in (0, n)):
        return jnp.full_like(rank, n > 0 and k == n, bool)
    return spread_like((_first if ties == "first" else _all)(lax.stop_gradient(rank), _broadcast_k(k, rank)), rank)


def as_count(k: Count, rows: tuple[int, ...], n: int, *, least: int) -> int | Int[Array, "..."]:
    """Returns k as an int or as int32, `[]` or one for each row; a traced one, whose value is unknown, is clipped.

    Args:
      k: as converted by `checked`.
      rows: shape of the batch.
      n: units per row.
      least: the smallest k allowed.

    Raises:
      ValueError: k is outside [least, n] or has another shape.
    """
    expected = f"expected {least} <= k <= {n}"
    if n < least:
        raise ValueError(f"A row has {n} units; expected at least {least}.")
    if isinstance(k, int):
        if not least <= k <= n:
            raise ValueError(f"k is {k}, but a row has {n} units; {expected}.")
        return k
    if k.shape not in ((), rows):
        raise ValueError(f"k has shape {k.shape}; expected one for all rows, (), or one for each, {rows}.")
    if isinstance(k, np.ndarray) and k.size and not (least <= k.min() and k.max() <= n):
        raise ValueError(f"k ranges from {k.min()} to {k.max()}, but a row has {n} units; {expected}.")
    return jnp.clip(jnp.asarray(k), least, n).astype(jnp.int32)


def _by_shape(x: Array, k: int | Array) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns arguments with rows, and those shared by all rows."""
    return ({"x": x, "k": k}, {}) if np.ndim(k) else ({"x": x}, {"k": k})


def _keep(x: Array, k: int | Array, gain: Array | None, axes: int, ties: Ties, relu: bool) -> Array:
    lead, row = x.shape[: x.ndim - axes], x.shape[x.ndim - axes :]
    size = math.prod(row)

    def by_marks(x):
        factors = 1 if gain is None else gain.reshape(*gain.shape[:-1], *(1,) * (x.ndim - gain.ndim), gain.shape[-1])
        rank = lax.stop_gradient(x if gain is None else x * factors)
        won = winners(rank.reshape(*lead, size), k, ties=ties).reshape(x.shape)
        if relu:
            # "not <= 0" rather than "> 0" lets NaN through.
            won = won & ~(lax.stop_gradient(x) <= 0)
        return jnp.where(won, x, jnp.zeros((), x.dtype))

    def by_kernel(x):
        wanted = jnp.broadcast_to(k, lead).reshape(-1).astype(jnp.int32)
        factors = None if gain is None else jnp.broadcast_to(gain.astype(jnp.float32), row).reshape(size)
        return gpu_rows.keep_winners(x.reshape(-1, size), factors, wanted, ties == "first", relu).reshape(x.shape)

    if gpu_rows.is_usable((*lead, size), x.dtype) and is_unsharded(x) and (gain is None or gain.ndim == 1):
        return lax.platform_dependent(x, cuda=by_kernel, default=by_marks)
    return by_marks(x)


def _kth_largest(x: Array, k: int | Array) -> Array:
    fixed = lax.stop_gradient(x)
    return _held_value(x, ordered_key(fixed) == _lowest(fixed, _broadcast_k(k, x))[..., None])


def _broadcast_k(k: int | Array, x: Array) -> Int[Array, "..."]:
    return jnp.broadcast_to(jnp.asarray(k, jnp.int32), x.shape[:-1])


@partial(jax.jit, static_argnames="ties")
def _winners(rank: Num[Array, "*rows n"], k: Int[Array, "*rows"], ties: Ties) -> Bool[Array, "*rows n"]:
    key = ordered_key(rank)
    least, exactly = threshold(key, jnp.maximum(k, 1))
    some = (k > 0)[..., None]
    if ties == "all":
        return (key >= least[..., None]) & some
    # Ties are rare, and breaking them costs more than finding them. The conditional returns one number per row only,
    # because it would copy any result per unit.
    every = key.shape[-1] - 1
    last = lax.cond(jnp.all(exactly), lambda: jnp.full_like(least, every, jnp.int32), lambda: last_kept(key, least, k))
    place = lax.broadcasted_iota(jnp.int32, key.shape, key.ndim - 1)
    least = least[..., None]
    return ((key > least) | ((key == least) & (place <= last[..., None]))) & some


@jax.jit
def _lowest_kept(x: Num[Array, "*rows n"], k: Int[Array, "*rows"]) -> Int[Array, "*rows"]:
    key = ordered_key(x)
    least, _ = threshold(key, k)
    return jnp.min(jnp.where(key >= least[..., None], key, _largest(key)), axis=-1)


def _largest(key: Int[Array, "*rows n"]) -> Int[Array, ""]:
    return jnp.asarray(jnp.iinfo(key.dtype).max, key.dtype)


@jax.custom_jvp
def _held_value(x: Num[Array, "*rows n"], held: Bool[Array, "*rows n"]) -> Num[Array, "*rows"]:
    """Returns the value shared by the marked units of a row."""
    return jnp.take_along_axis(x, jnp.argmax(held, axis=-1, keepdims=True), axis=-1)[..., 0]


@_held_value.defjvp
def _held_value_jvp(primals, tangents):
    x, held = primals
    share = held.astype(jnp.float32) / jnp.sum(held.astype(jnp.float32), axis=-1, keepdims=True)
    return _held_value(x, held), jnp.sum(share.astype(x.dtype) * tangents[0], axis=-1)


def _by_rows(function: Callable[[Array, Array], Array], x: Num[Array, "*rows n"], k: Int[Array, "*rows"]) -> Array:
    """Applies a function of rows and their k; on a CPU to as many at a time as fit its cache.

    A pass then does not read them from memory again, and slow rows delay only a few others: [512, 24576] takes 14 ms
    instead of 73.
    """
    x, k = vary_alike(x, k)
    rows = x.size // max(1, x.shape[-1])
    held = max(1, _CACHED // max(1, x.shape[-1]))
    if rows <= 2 * held:
        return function(x, k)
    # Equal groups of about that size, if possible, avoid a copy.
    held = next((fewer for fewer in range(held, held // 4, -1) if rows % fewer == 0), held)

    def in_groups(x, k):
        flat, each = x.reshape(rows, x.shape[-1]), k.reshape(rows)
        grouped = rows // held * held
        groups = flat[:grouped].reshape(-1, held, x.shape[-1]), each[:grouped].reshape(-1, held)
        done = lax.map(lambda group: function(*group), groups)
        done = done.reshape(grouped, *done.shape[2:])
        if grouped < rows:
            done = jnp.concatenate([done, function(flat[grouped:], each[grouped:])])
        return done.reshape(*x.shape[:-1], *done.shape[1:])

    return lax.platform_dependent(x, k, cpu=in_groups, default=function)


def last_kept(key: Int[Array, "*rows n"], least: Int[Array, "*rows"], k: Int[Array, "*rows"]) -> Int[Array, "*rows"]:
    """Returns the index of the last kept unit among those tied at the threshold, for exactly k in total."""
    n = key.shape[-1]
    tied = key == least[..., None]
    spare = k - jnp.sum(key > least[..., None], axis=-1, dtype=jnp.int32)
    # The tied units by index, the first highest, in the top bits, so that the search for the last one ends early.
    free_bits = 31 - n.bit_length()
    height = spread_like(jnp.where(tied, (n - jnp.arange(n, dtype=jnp.int32)) << free_bits, 0), key)
    lowest, _ = threshold(height, jnp.maximum(spare, 1))
    lowest = jnp.min(jnp.where(height >= lowest[..., None], height, _largest(height)), axis=-1)
    return n - (lowest >> free_bits)


def _of_rows(function: Callable[[Array, Array], Array]) -> Callable[[Array, Array], Array]:
    """Returns a function of rows and their k that works with all kinds of parallelism; a `vmap` only adds rows.

    The condition on ties remains a single conditional, where a `vmap` would compute both branches, and a mapped axis
    may be sharded over an Explicit mesh.
    """

    @custom_vmap
    def mapped(x, k):
        return on_shards(partial(_by_rows, function), lead=x.ndim - 1, rows={"x": x, "k": k}, shared={})

    @mapped.def_vmap
    def _(size, batched, x, k):
        x, k = (a if own else jnp.broadcast_to(a, (size, *a.shape)) for a, own in zip((x, k), batched, strict=True))
        return mapped(x, k), True

    return mapped


_first, _all, _lowest = map(_of_rows, (partial(_winners, ties="first"), partial(_winners, ties="all"), _lowest_kept))
