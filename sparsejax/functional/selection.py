"""Exact selection of the k largest, without a sort.

What lies at or above a threshold is kept, and `threshold` finds it by counting. That costs the same for every k, so k
may be traced; it keeps the rows of a batch apart, so a batch spread over devices is never gathered; and no gradient
passes through it.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Num

from sparsejax.functional.kernels import gpu as gpu_rows
from sparsejax.functional.threshold import ordered_key, threshold

Ties = Literal["all", "first"]
_CACHED = 2**20
"""So many values stay in a CPU's cache."""


def kth_largest(x: Num[Array, "*rows n"], k: int | Int[Array, ""]) -> Num[Array, "*rows"]:
    """Returns the k-th largest value of the last axis, exactly.

    NaN counts as the largest value of all, and -0 equals +0. The gradient goes to the units that hold the value,
    in equal parts.

    Args:
      x: values `[..., n]`, float16, bfloat16, float32 or int32.
      k: rank, 1 <= k <= n; may be traced (then it is clipped to that range).

    Returns:
      Array `[...]` of the same dtype.

    Raises:
      ValueError: k is a Python int outside [1, n] or a float, or x has another dtype.
    """
    check_k(k, x.shape[-1], least=1)
    k = jnp.clip(jnp.asarray(k, jnp.int32), 1, x.shape[-1])
    fixed = lax.stop_gradient(x)
    lowest_kept = _by_rows(lambda rows: _lowest_kept(ordered_key(rows), k), fixed)
    return _value_held(x, ordered_key(fixed) == lowest_kept[..., None])


def top_k(x: Num[Array, "*rows n"], k: int | Int[Array, ""], *, ties: Ties = "all") -> Num[Array, "*rows n"]:
    """Keeps the k largest values of the last axis and zeroes the rest.

    The gradient is 1 on the winners and 0 elsewhere.

    Args:
      x: values `[..., n]`, float16, bfloat16, float32 or int32.
      k: number of winners per row, 0 <= k <= n; may be traced (then it is clipped to that range).
      ties: "all" keeps every unit tied at the threshold (perhaps more than k), "first" exactly k, the lower index
        first, as `lax.top_k` orders them.

    Returns:
      Array like x.

    Raises:
      ValueError: k is a Python int outside [0, n] or a float, ties is unknown, or x has another dtype.

    References:
      Makhzani & Frey, k-Sparse Autoencoders, 2013, section 2.
    """
    return keep(x, k, ties=ties)


def keep(
    x: Num[Array, "*rows n"],
    k: int | Int[Array, ""],
    *,
    gain: Float[Array, "n"] | None = None,
    axes: int = 1,
    ties: Ties = "all",
    relu: bool = False,
) -> Num[Array, "*rows n"]:
    """Keeps the k values of each row that are largest when multiplied by a gain, and zeroes the rest.

    The gradient is 1 on the winners and 0 elsewhere.

    Args:
      x: values `[..., n]`, float16, bfloat16, float32 or int32.
      k: number of winners per row, 0 <= k <= size of a row; may be traced (then it is clipped to that range).
      gain: factors of the ranking `[n]`, of the type of x; no gradient passes.
      axes: how many of the last axes make a row.
      ties: as in `top_k`.
      relu: also zero the winners that are negative, and their gradient.

    Returns:
      Array like x.

    Raises:
      ValueError: as `winners`.
    """
    lead, row = x.shape[: x.ndim - axes], x.shape[x.ndim - axes :]
    size = math.prod(row)

    def by_marks(x):
        rank = lax.stop_gradient(x if gain is None else x * gain.reshape((1,) * (x.ndim - 1) + (-1,)))
        won = winners(rank.reshape(*lead, size), k, ties=ties).reshape(x.shape)
        if relu:
            # "not <= 0" rather than "> 0" lets NaN through.
            won = won & ~(lax.stop_gradient(x) <= 0)
        return jnp.where(won, x, jnp.zeros_like(x))

    def by_kernel(x):
        wanted = jnp.broadcast_to(jnp.clip(jnp.asarray(k, jnp.int32), 0, size), math.prod(lead))
        factors = None if gain is None else jnp.broadcast_to(gain.astype(jnp.float32), row).reshape(size)
        return gpu_rows.kept(x.reshape(-1, size), factors, wanted, ties == "first", relu).reshape(x.shape)

    if gpu_rows.usable((*lead, size), x.dtype):
        return lax.platform_dependent(x, cuda=by_kernel, default=by_marks)
    return by_marks(x)


def winners(rank: Num[Array, "*rows n"], k: int | Int[Array, ""], *, ties: Ties = "all") -> Bool[Array, "*rows n"]:
    """Marks the k units of highest rank in each row.

    Args:
      rank: what to rank by `[..., n]`; NaN is the highest. No gradient passes.
      k: number of winners per row, 0 <= k <= n; may be traced (then it is clipped to that range).
      ties: "all" marks every unit tied at the threshold, "first" exactly k, the lower index first.

    Returns:
      Boolean array `[..., n]`.

    Raises:
      ValueError: k is a Python int outside [0, n] or a float, ties is unknown, or rank has another dtype than
        float16, bfloat16, float32 and int32.
    """
    if ties not in ("all", "first"):
        raise ValueError(f"ties is {ties!r}; expected 'all' (keep every tied unit) or 'first' (keep exactly k).")
    n = rank.shape[-1]
    check_k(k, n, least=0)
    if isinstance(k, int) and k in (0, n):
        return jnp.full(rank.shape, k == n)
    k = jnp.clip(jnp.asarray(k, jnp.int32), 0, n)
    return _by_rows(lambda rows: _winners(rows, k, ties), lax.stop_gradient(rank))


@partial(jax.jit, static_argnames="ties")
def _winners(rank: Num[Array, "*rows n"], k: Int[Array, ""], ties: Ties) -> Bool[Array, "*rows n"]:
    key = ordered_key(rank)
    least, exactly = threshold(key, jnp.maximum(k, 1))
    if ties == "all":
        return (key >= least[..., None]) & (k > 0)
    # Ties are rare, and breaking them costs more than finding them. A number for each row is all the condition
    # returns: it would write out and copy what it returns for each unit.
    every = key.shape[-1] - 1
    last = lax.cond(jnp.all(exactly), lambda: jnp.full_like(least, every, jnp.int32), lambda: _last_kept(key, least, k))
    place = lax.broadcasted_iota(jnp.int32, key.shape, key.ndim - 1)
    least = least[..., None]
    return ((key > least) | ((key == least) & (place <= last[..., None]))) & (k > 0)


@jax.jit
def _lowest_kept(key: Int[Array, "*rows n"], k: Int[Array, ""]) -> Int[Array, "*rows"]:
    least, _ = threshold(key, k)
    return jnp.min(jnp.where(key >= least[..., None], key, _largest(key)), axis=-1)


def _largest(key: Int[Array, "*rows n"]) -> Int[Array, ""]:
    return jnp.asarray(jnp.iinfo(key.dtype).max, key.dtype)


@jax.custom_jvp
def _value_held(x: Num[Array, "*rows n"], held: Bool[Array, "*rows n"]) -> Num[Array, "*rows"]:
    """Returns the one value that the marked units of a row share."""
    return jnp.take_along_axis(x, jnp.argmax(held, axis=-1, keepdims=True), axis=-1)[..., 0]


@_value_held.defjvp
def _value_held_jvp(primals, tangents):
    x, held = primals
    share = held.astype(jnp.float32) / jnp.sum(held.astype(jnp.float32), axis=-1, keepdims=True)
    return _value_held(x, held), jnp.sum(share.astype(x.dtype) * tangents[0], axis=-1)


def check_k(k: int | Int[Array, ""], n: int, *, least: int) -> None:
    """Refuses a Python k outside [least, n]; a traced one cannot be looked at.

    Raises:
      ValueError: k is out of range or no integer.
    """
    if isinstance(k, float):
        raise ValueError(f"k is {k!r}; expected a whole number of units (for a fraction f of n={n}, use round(f * n)).")
    if isinstance(k, int) and not least <= k <= n:
        raise ValueError(f"k is {k}, but a row has {n} units; expected {least} <= k <= {n}.")


def _by_rows(function: Callable[[Array], Array], x: Num[Array, "*rows n"]) -> Array:
    """Applies a function of rows; on a CPU to as many at a time as its cache holds.

    A pass then need not fetch them from memory again, and rows that take long hold up few others: [512, 24576] takes
    14 ms instead of 73.
    """
    rows = x.size // max(1, x.shape[-1])
    held = max(1, _CACHED // max(1, x.shape[-1]))
    if rows <= 2 * held:
        return function(x)
    # Equal groups, if there are any of about that size, save a copy of everything.
    held = next((fewer for fewer in range(held, held // 4, -1) if rows % fewer == 0), held)

    def in_groups(x):
        flat = x.reshape(rows, x.shape[-1])
        grouped = rows // held * held
        done = lax.map(function, flat[:grouped].reshape(-1, held, x.shape[-1]))
        done = done.reshape(grouped, *done.shape[2:])
        if grouped < rows:
            done = jnp.concatenate([done, function(flat[grouped:])])
        return done.reshape(*x.shape[:-1], *done.shape[1:])

    return lax.platform_dependent(x, cpu=in_groups, default=function)


def _last_kept(key: Int[Array, "*rows n"], least: Int[Array, "*rows"], k: Int[Array, ""]) -> Int[Array, "*rows"]:
    """Returns the place of the last unit kept of those tied at the threshold: the first ones that make k in all."""
    n = key.shape[-1]
    tied = key == least[..., None]
    spare = k - jnp.sum((key > least[..., None]).astype(jnp.int32), axis=-1)
    # The tied units by place, the first highest, in the topmost bits: so the search for the last of them ends soon.
    free_bits = 31 - n.bit_length()
    height = jnp.where(tied, (n - jnp.arange(n)) << free_bits, 0)
    lowest, _ = threshold(height, jnp.maximum(spare, 1))
    lowest = jnp.min(jnp.where(height >= lowest[..., None], height, _largest(height)), axis=-1)
    return n - (lowest >> free_bits)
