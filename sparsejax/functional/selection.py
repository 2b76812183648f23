"""Exact selection of the k largest, without a sort.

A threshold is built bit by bit: values are mapped to integers of the same order, and each pass counts how many of a
row lie at or above a probe. That costs the same for every k, so k may be traced; it keeps the rows of a batch apart,
so a batch spread over devices is never gathered; and no gradient passes through it.
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Int, Num

Ties = Literal["all", "first"]
_LOWEST = -(2**31)
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
    return jnp.where(winners(lax.stop_gradient(x), k, ties=ties), x, jnp.zeros_like(x))


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


def _winners(rank: Num[Array, "*rows n"], k: Int[Array, ""], ties: Ties) -> Bool[Array, "*rows n"]:
    key = ordered_key(rank)
    threshold, count = _threshold(key, jnp.maximum(k, 1))
    kept = (key >= threshold[..., None]) & (k > 0)
    if ties == "all":
        return kept
    # Ties are rare, and breaking them costs more than finding them.
    return lax.cond(jnp.any(count > k), lambda kept: _drop_late_ties(kept, key, k), lambda kept: kept, kept)


def _lowest_kept(key: Int[Array, "*rows n"], k: Int[Array, ""]) -> Int[Array, "*rows"]:
    threshold, _ = _threshold(key, k)
    return jnp.min(jnp.where(key >= threshold[..., None], key, jnp.iinfo(jnp.int32).max), axis=-1)


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


def ordered_key(x: Num[Array, "*shape"]) -> Int[Array, "*shape"]:
    """Maps values to int32 of the same order; all NaN to the largest, both zeros to 0."""
    if x.dtype == jnp.int32:
        return x
    if x.dtype not in (jnp.float32, jnp.bfloat16, jnp.float16):
        raise ValueError(f"Cannot rank values of dtype {x.dtype}; expected float32, bfloat16, float16 or int32.")
    x = x.astype(jnp.float32)
    bits = lax.bitcast_convert_type(jnp.where(x == 0, jnp.zeros_like(x), x), jnp.int32)
    key = jnp.where(bits < 0, bits ^ jnp.int32(0x7FFFFFFF), bits)
    return jnp.where(jnp.isnan(x), jnp.int32(0x7FFFFFFF), key)


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


def _threshold(key: Int[Array, "*rows n"], k: Int[Array, ""]) -> tuple[Int[Array, "*rows"], Int[Array, "*rows"]]:
    """Returns a t per row with exactly k keys at or above it (the k-th key where ties forbid that), and how many.

    Stopping as soon as every row is settled suits a CPU; elsewhere asking whether to stop costs more than the passes
    it saves, and several bits are settled at once.
    """
    k = jnp.broadcast_to(k, key.shape[:-1])
    return lax.platform_dependent(key, k, cpu=_threshold_bitwise, default=_threshold_radix)


def _threshold_bitwise(key: Int[Array, "*rows n"], k: Int[Array, "*rows"]):
    """Settles one bit a pass, the highest first, until every row has k keys at or above its threshold."""
    n = key.shape[-1]
    # Padding, where nothing divides n, makes the slices equal; it lies below every probe and is never counted.
    key = jnp.pad(key, [(0, 0)] * (key.ndim - 1) + [(0, -n % _parts(n))], constant_values=_LOWEST)

    def settle(carry):
        bit, threshold, count = carry
        probe = threshold + (jnp.int32(1) << bit)
        at_probe = _count(key, probe)
        enough = (at_probe >= k) & (count != k)
        return bit - 1, jnp.where(enough, probe, threshold), jnp.where(enough, at_probe, count)

    zero = key[..., 0] & 0  # varies over the same mesh axes as the keys, which a constant would not
    start = (jnp.int32(31), zero + _LOWEST, zero + n)
    return lax.while_loop(lambda carry: (carry[0] >= 0) & jnp.any(carry[2] != k), settle, start)[1:]


def _threshold_radix(key: Int[Array, "*rows n"], k: Int[Array, "*rows"], bits: int = 4):
    """Settles `bits` bits a pass, the highest first: 32 / bits passes, whatever the data."""
    threshold = (key[..., 0] & 0) + _LOWEST
    for shift in range(32 - bits, -1, -bits):
        digits = (jnp.arange(1, 2**bits, dtype=jnp.uint32) << shift).astype(jnp.int32)
        probes = threshold[..., None] + digits.reshape((1,) * threshold.ndim + (-1,))
        at_probe = jnp.sum((key[..., None, :] >= probes[..., None]).astype(jnp.int32), axis=-1)
        threshold = threshold + (jnp.sum((at_probe >= k[..., None]).astype(jnp.int32), axis=-1) << shift)
    return threshold, jnp.sum((key >= threshold[..., None]).astype(jnp.int32), axis=-1)


def _parts(n: int) -> int:
    """Returns into how many slices a row is cut: of the numbers that divide it, if any do, the one nearest the best."""
    best = 32 if n >= 512 else 8 if n >= 64 else 1
    return min((parts for parts in range(best // 2 + 1, 2 * best + 1) if n % parts == 0),
               key=lambda parts: abs(parts - best), default=best)  # fmt: skip


def _count(key: Int[Array, "*rows n"], probe: Int[Array, "*rows"]) -> Int[Array, "*rows"]:
    """Counts the keys at or above the probe in each row, as a sum over equal slices of it.

    XLA's CPU backend writes the comparison of a whole row to memory and adds it up in a second loop; a sum of slices
    it fuses and vectorises: a pass over [64, 4608] takes 10 us instead of 55.
    """
    slices = jnp.split(key, _parts(key.shape[-1]), axis=-1)
    return jnp.sum(sum((part >= probe[..., None]).astype(jnp.int32) for part in slices), axis=-1)


def _drop_late_ties(kept: Bool[Array, "*rows n"], key: Int[Array, "*rows n"], k: Int[Array, ""]):
    """Keeps, of the units tied at the threshold, only as many of the lowest index as make k in all."""
    lowest_kept = jnp.min(jnp.where(kept, key, jnp.iinfo(jnp.int32).max), axis=-1, keepdims=True)
    tied = key == lowest_kept
    spare = k - jnp.sum((key > lowest_kept).astype(jnp.int32), axis=-1)
    # The tied units by place, the first highest, in the topmost bits: so the search for the last of them ends soon.
    n = key.shape[-1]
    place = jnp.where(tied, (n - jnp.arange(n)) << (31 - n.bit_length()), 0)
    last, _ = _threshold(place, jnp.maximum(spare, 1))
    return kept & (~tied | (place >= last[..., None]))
