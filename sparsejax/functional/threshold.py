"""The threshold of the k largest values, found by counting: each pass halves the interval of every row.

Values are mapped to integers of the same order, `ordered_key`. A pass costs the same for every k.
"""

import functools
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Int, Integer, Num

from sparsejax.functional.kernels import tpu as tpu_blocks
from sparsejax.functional.shards import is_unsharded

_HALVED = 80_000
"""From this many keys, searching their halves is faster than the whole keys: fewer bytes, more passes."""
_MANY = 32
"""From this many rows, one of them almost always has two keys that are very close."""
_LONG = 64
"""Joined slices of more values than this are split and joined once more (only once: 16 bits hold their counts)."""


def ordered_key(x: Num[Array, "*shape"]) -> Int[Array, "*shape"]:
    """Maps values to integers of the same width and order; all NaN to the largest, both zeros to 0.

    Args:
      x: values of dtype float64, float32, bfloat16, float16, int64 or int32.

    Returns:
      Array like x, int64, int32 or int16.

    Raises:
      ValueError: x has another dtype.
    """
    if x.dtype in (jnp.int32, jnp.int64):
        return x
    if x.dtype not in (jnp.float64, jnp.float32, jnp.bfloat16, jnp.float16):
        raise ValueError(
            f"Cannot rank values of dtype {x.dtype}; expected floats or 32-bit or 64-bit integers, such as "
            "x.astype(jnp.int32)."
        )
    integer = {2: jnp.int16, 4: jnp.int32, 8: jnp.int64}[x.dtype.itemsize]
    largest = jnp.asarray(jnp.iinfo(integer).max, integer)
    bits = lax.bitcast_convert_type(x, integer)
    key = jnp.where(bits < 0, -(bits & largest), bits)
    return jnp.where(jnp.isnan(x), largest, key)


def threshold(
    key: Int[Array, "*rows n"], k: Int[Array, ""] | Int[Array, "*rows"]
) -> tuple[Int[Array, "*rows"], Bool[Array, "*rows"]]:
    """Returns a t per row with k keys at or above it, and whether there are exactly k; if not, t is the k-th key.

    A CPU stops as soon as every row has converged. So does a TPU, for as many rows at a time as fit VMEM, so that all
    passes load them only once. Elsewhere the stopping test costs more than the passes it saves, so each pass determines
    several bits.

    Args:
      key: int64, int32 or int16, `[..., n]`.
      k: rank, 1 <= k <= n, int32, one or one for each row; not checked.

    Returns:
      The thresholds, of the dtype of key, and which rows have no tie at the threshold.
    """
    k = jnp.broadcast_to(k, key.shape[:-1])
    if key.dtype == jnp.int64:
        return _by_words(key, k)
    on_tpu = _by_blocks if tpu_blocks.is_usable(key.shape) and is_unsharded(key) else _by_bisection
    return lax.platform_dependent(key, k, cpu=_by_bisection, tpu=on_tpu, default=_by_digits)


def _by_words(key: Int[Array, "*rows n"], k: Int[Array, "*rows"]):
    """Searches the upper 32 bits of wide keys, then the lower ones of those whose upper ones are at the threshold."""
    upper, exactly = threshold((key >> 32).astype(jnp.int32), k)
    base = upper.astype(jnp.int64)[..., None] << 32
    lower = (jnp.clip(key, base, base + 0xFFFFFFFF) - (base + 2**31)).astype(jnp.int32)
    # If k keys have an upper part at or above that threshold, there is nothing left to search.
    within = jnp.where(exactly, 0, threshold(lower, k)[0].astype(jnp.int64) + 2**31)
    at = base[..., 0] + within
    return at, _number(key >= at[..., None]) == k


def _by_bisection(key: Int[Array, "*rows n"], k: Int[Array, "*rows"]):
    """Halves the interval of each row until its threshold is known.

    For many wide keys the upper halves are searched first, then the lower halves of those whose upper half is at the
    threshold: twice as many fit into a register and into the cache.
    """
    if key.dtype == jnp.int16 or key.size < _HALVED:
        at, exactly = _find(key, k, *_first_probe(_largest(key), key.dtype))
        return at.astype(key.dtype), exactly
    upper_half, lowest, beyond = (key >> 16).astype(jnp.int16), -(2**15), 2**15 - 1
    upper, high = bisect(functools.partial(_count, upper_half), k, *_first_probe(_largest(upper_half), jnp.int16))
    # Keys outside that half are clipped to its ends: those above stay at or above every probe, those below stay below.
    base = upper[..., None] << 16
    lower_half = (jnp.clip(key, base, base + 0xFFFF) - (base + 2**15)).astype(jnp.int16)
    start = (upper & 0) + lowest  # varies over the mesh axes of the keys, unlike a constant
    high = jnp.where(upper > high, lowest - 1, beyond)  # converged rows stay converged
    at, exactly = _find(lower_half, k, _middle(start, high), start, high)
    return (upper << 16) + (at - lowest), exactly


def _find(key: Int[Array, "*rows n"], k: Int[Array, "*rows"], probe: Int[Array, "*rows"], low, high):
    """Returns the thresholds in `[low, high]`, and whether they have exactly k keys at or above them."""
    many = key.size // key.shape[-1] >= _MANY
    low, high = bisect(functools.partial(_count, key), k, probe, low, high, short=int(many))
    if not many:
        return low, low > high
    # The barrier keeps XLA from repeating the select for every unit.
    at = lax.optimization_barrier(jnp.where(low > high, low, _largest(key, high)))
    return at, (low > high) | (_count(key, at) == k)


def _by_blocks(key: Int[Array, "*rows n"], k: Int[Array, "*rows"]):
    """The same on a TPU, whose vectors have 32 bits."""

    def of_block(keys, k):
        def count(probe):
            return jnp.sum((keys[...] >= probe).astype(jnp.int32), axis=-1, keepdims=True, dtype=jnp.int32)

        low, high = bisect(count, k, *_first_probe(jnp.max(keys[...], axis=-1, keepdims=True), key.dtype))
        return low, (low > high).astype(jnp.int32)

    low, settled = tpu_blocks.by_blocks(of_block, key.astype(jnp.int32), k)
    return low.astype(key.dtype), settled != 0


def bisect(count: Callable, k: Int[Array, "*rows"], probe: Integer[Array, "*rows"], low, high, *, short: int = 0):
    """Narrows the intervals `[low, high]` of the thresholds until each has converged, low >= high.

    `count` returns how many of a row's values are at or above its probe; `probe` are the first probes. If low exceeds
    high, exactly k values are at or above low; if they are equal, low is the k-th value. With `short` 1 they also
    become equal once k - 1 values are above them, and the k-th is the largest value up to there; the search then ends
    earlier for values that are close.
    """

    def narrow(state):
        probe, low, high = state
        at_probe, open = count(probe), low < high
        # For an interval of one value the probe may be the smallest integer, below which there is none.
        high = jnp.where((at_probe <= k) & open, probe - 1, high)
        low = jnp.where(at_probe >= k, probe, jnp.where((at_probe >= k - short) & open, high, low))
        return _middle(low, high), low, high

    def unsettled(state):
        open = state[1] < state[2]
        return jnp.any(open) if open.ndim else open  # a GPU kernel cannot reduce a scalar

    return lax.while_loop(unsettled, narrow, (probe, low, high))[1:]


def _middle(low: Integer[Array, "*rows"], high: Integer[Array, "*rows"]) -> Integer[Array, "*rows"]:
    """Returns the mean rounded up, without overflow; low where it exceeds high by one."""
    return (low >> 1) + (high >> 1) + ((low | high) & 1)


def _first_probe(largest: Int[Array, "*rows"], dtype, octaves: int = 4):
    """Returns a probe four powers of two below the largest value, below most thresholds, and the bounds."""
    bounds = jnp.iinfo(dtype)
    span = octaves << (bounds.bits - 9)  # the exponent has eight bits after the sign
    return jnp.maximum(largest, bounds.min + 1 + span) - span, (largest & 0) + bounds.min, largest


def _largest(values: Int[Array, "*rows n"], most: Int[Array, "*rows"] | None = None) -> Int[Array, "*rows"]:
    """Returns the largest value of each row, or the largest up to `most`."""
    least = jnp.asarray(jnp.iinfo(values.dtype).min, values.dtype)

    def up_to_most(part):
        return part if most is None else jnp.where(part <= most.astype(part.dtype)[..., None], part, least)

    return _over_slices(values, up_to_most, jnp.maximum, jnp.max, least).astype(jnp.int32)


def _count(values: Int[Array, "*rows n"], probe: Int[Array, "*rows"]) -> Int[Array, "*rows"]:
    """Counts the values at or above the probe in each row."""
    probe = probe.astype(values.dtype)

    def at_or_above(part):
        return (part >= probe[..., None]).astype(values.dtype)

    def total(part, axis):
        if values.shape[-1] > jnp.iinfo(values.dtype).max:  # otherwise the whole loop would use wider integers
            return jnp.sum(lax.optimization_barrier(part).astype(jnp.int32), axis=axis, dtype=jnp.int32)
        return jnp.sum(part, axis=axis, dtype=part.dtype).astype(jnp.int32)

    return _over_slices(values, at_or_above, jnp.add, total, jnp.zeros((), values.dtype))


def _over_slices(
    values: Int[Array, "*rows n"], of: Callable, join: Callable, reduce: Callable, nothing: Int[Array, ""]
):
    """Reduces the rows of a function of values, after joining slices; `nothing` is the neutral element.

    XLA's CPU backend writes a whole transformed row to memory and reduces it in a second loop; equal slices are joined
    in one vectorised loop: a pass over [64, 4608] takes 10 us instead of 55.
    """
    joined = _join(values, of, join, nothing)
    if joined.shape[-1] > _LONG:
        joined = _join(joined, lambda part: part, join, nothing)
    return reduce(joined, axis=-1)


def _join(values: Int[Array, "*rows n"], of: Callable, join: Callable, nothing: Int[Array, ""]):
    """Joins the slices of each row; the remainder is in a slice that overlaps the previous one.

    Padding would copy everything, and a separate loop for the remainder costs a third of a pass.
    """
    n = values.shape[-1]
    parts, width = _slices(n)
    slices = [of(lax.slice_in_dim(values, i * width, (i + 1) * width, axis=-1)) for i in range(parts)]
    if left := n - parts * width:
        last = of(lax.slice_in_dim(values, n - width, n, axis=-1))
        fresh = lax.broadcasted_iota(jnp.int32, last.shape, last.ndim - 1) >= width - left
        slices.append(jnp.where(fresh, last, nothing))
    return functools.reduce(join, slices)


def _slices(n: int) -> tuple[int, int]:
    """Returns the number of slices of a row, and their width: a multiple of 16 with the smallest remainder."""
    if n < 64:
        return 1, n
    most = min(40 if n >= 512 else 12, n // 16)
    cuts = [(parts, n // parts // 16 * 16) for parts in range(most // 2, most + 1)]
    return max(cuts, key=lambda cut: (cut[0] * cut[1], -cut[0]))


def _by_digits(key: Int[Array, "*rows n"], k: Int[Array, "*rows"], bits: int = 3):
    """Determines `bits` bits per pass, the highest first: a fixed number of passes for any data.

    A GPU's compiler fuses up to eight separate sums, one per probe, into one read.
    """
    bounds = jnp.iinfo(key.dtype)
    at, left = (key[..., 0] & 0).astype(jnp.int32) + bounds.min, bounds.bits
    while left > 0:
        settled = min(bits, left)
        left -= settled
        digits = [np.uint32(digit << left).astype(np.int32) for digit in range(1, 2**settled)]
        counts = [_number(key >= (at + digit).astype(key.dtype)[..., None]) for digit in digits]
        at = at + (functools.reduce(jnp.add, [(count >= k).astype(jnp.int32) for count in counts]) << left)
    at = at.astype(key.dtype)
    return at, _number(key >= at[..., None]) == k


def _number(marked: Bool[Array, "*rows n"]) -> Int[Array, "*rows"]:
    return jnp.sum(marked, axis=-1, dtype=jnp.int32)
