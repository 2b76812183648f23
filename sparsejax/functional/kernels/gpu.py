"""k-winners of a row in one GPU kernel, which applies the boost, selects and writes the winners.

128 threads keep the keys of a row in registers and count there, so that passes access no memory and rows are
independent; values are read once more, from the cache, to be written. Mosaic compiles it, for NVIDIA GPUs from Hopper
on.
"""

import functools
import os
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, UInt

from sparsejax.functional.threshold import bisect

_THREADS = 128
_LONGEST = 24_576
"""Longest row that fits the registers."""
_OCTAVES = 4 << 23
"""Keys of four powers of two: the search starts this far below the largest key."""


def is_usable(shape: tuple[int, ...], dtype: Any) -> bool:
    """Returns whether the kernel supports rows of an array `[..., n]`.

    It is opt-in by SPARSEJAX_GPU_KERNELS=1 in the environment: it has been compiled for GPUs and its instructions
    simulated, but it has not been timed on a GPU. Otherwise a GPU uses the plain search.
    """
    fits = _THREADS <= shape[-1] <= _LONGEST and 0 not in shape
    return fits and dtype in (jnp.float32, jnp.bfloat16) and os.environ.get("SPARSEJAX_GPU_KERNELS") == "1"


@functools.partial(jax.custom_jvp, nondiff_argnums=(3, 4, 5))
def keep_winners(
    x: Float[Array, "rows n"],
    gain: Float[Array, "n"] | None,
    k: Int[Array, "rows"],
    first: bool,
    relu: bool,
    interpret: bool = False,
) -> Float[Array, "rows n"]:
    """Keeps those values of each row that are largest when multiplied by a gain, and zeroes the rest.

    The gradient is 1 on the winners, 0 elsewhere.

    Args:
      x: values `[rows, n]` of a shape and type that `is_usable` accepts.
      gain: factors of the ranking `[n]`, float32, or None; no gradient passes.
      k: winners of each row, 0 <= k <= n; not checked.
      first: of tied units keep only the first, exactly k in total.
      relu: also zero the winners that are negative.
      interpret: interpret the kernel, on any machine.

    Returns:
      Array like x.
    """
    return _select(x, gain, k, first, relu, interpret)[0]


@keep_winners.defjvp
def _keep_winners_jvp(first, relu, interpret, primals, tangents):
    x, gain, k = primals
    # The compiler merges the two identical calls; the y of this one would have no derivative.
    _, least, last = _select(lax.stop_gradient(x), gain, k, first, relu, interpret)
    place = lax.broadcasted_iota(jnp.int32, x.shape, 1) if first else None
    key = _key(lax.stop_gradient(x), None if gain is None else gain[None])
    won = _is_winner(x, key, place, least[:, None], last[:, None], k[:, None], relu)
    return keep_winners(x, gain, k, first, relu, interpret), jnp.where(won, tangents[0], jnp.zeros_like(x))


def _select(x, gain, k, first, relu, interpret):
    """Returns the kept values, and for each row the smallest key kept and the index of the last unit kept at it."""
    from jax.experimental import pallas as pl  # takes almost as long to import as JAX

    rows, n = x.shape
    operands = (x, k, jnp.arange(n, dtype=jnp.int32), *(() if gain is None else (gain,)))
    results = jax.eval_shape(lambda x, k: (x, k.astype(jnp.uint32), k), x, k)
    of_row = functools.partial(_kernel, first, relu)
    if interpret:
        return pl.pallas_call(lambda *refs: of_row(pl.program_id(0), *refs), results, grid=(rows,), interpret=True)(
            *operands
        )
    from jax.experimental.pallas import mosaic_gpu  # needs absl, which JAX does not install

    # Written values are not read again, so writes need not wait. With other semantics long rows take minutes.
    options = mosaic_gpu.CompilerParams(
        unsafe_no_auto_barriers=True, lowering_semantics=mosaic_gpu.LoweringSemantics.Lane
    )
    found = mosaic_gpu.kernel(
        lambda *refs: of_row(lax.axis_index("row"), *refs), out_type=results, grid=(rows,), grid_names=("row",),
        compiler_params=options,
    )(*operands)  # fmt: skip
    # The kernel drops the mesh axes its operands vary over. An always-false select on x restores them; XLA folds it.
    never = (x[0, 0] != x[0, 0]) & False
    return tuple(jnp.where(never, jnp.zeros_like(a), a) for a in found)


def _kernel(first, relu, row, x, k, places, *others):
    from jax.experimental import pallas as pl

    *gain, y, least, last = others
    n = x.shape[-1]
    width = _THREADS * (2 if n % 2 == 0 and n >= 2 * _THREADS else 1)  # two adjacent values per thread for even n
    left = n % width
    # The last part overlaps the previous one; only the rest of it counts.
    parts = [pl.ds(start, width) for start in (*range(0, n - left, width), *([n - width] if left else []))]

    def keys_of(part):
        return _key(x[row, part], gain[0][part] if gain else None)

    keys = [keys_of(part) for part in parts]
    if left:
        keys[-1] = jnp.where(places[parts[-1]] >= n - left, keys[-1], jnp.uint32(0))
    wanted = k[row]
    low, exactly = _threshold(keys, jnp.maximum(wanted, 1))
    end = jnp.int32(n)
    if first:
        end = _last_tied(lambda: [places[part] for part in parts], keys, low, exactly, jnp.maximum(wanted, 1), n)
    least[row], last[row] = low, end
    for part in parts:
        values = x[row, part]
        won = _is_winner(values, keys_of(part), places[part] if first else None, low, end, wanted, relu)
        y[row, part] = jnp.where(won, values, jnp.zeros((), values.dtype))


def _threshold(keys: list[Array], k: Int[Array, ""]) -> tuple[UInt[Array, ""], Bool[Array, ""]]:
    """Returns a key with k at or above it, and whether there are exactly k; if not, it is the k-th key."""
    largest = jnp.max(functools.reduce(jnp.maximum, keys))
    probe = jnp.maximum(largest, jnp.uint32(_OCTAVES + 1)) - jnp.uint32(_OCTAVES)
    none = largest * jnp.uint32(0)
    low, high = bisect(lambda probe: _total(key >= probe for key in keys), k, probe, none, largest)
    return low, low > high


def _last_tied(places: Callable[[], list[Array]], keys: list[Array], low, exactly, k, n: int) -> Int[Array, ""]:
    """Returns the index of the last kept key equal to `low`; without ties there is no search."""

    def at_or_above(height):  # earlier places rank higher
        height = height.astype(jnp.int32)
        return _total((key == low) & (n - place >= height) for key, place in zip(keys, places(), strict=True))

    spare, none = k - _total(key > low for key in keys), low * jnp.uint32(0)
    top = jnp.where(exactly, none, jnp.uint32(n))
    height, _ = bisect(at_or_above, spare, none + jnp.uint32(n // 2 + 1), none, top)
    return n - height.astype(jnp.int32)


def _total(marked: Iterable[Bool[Array, "width"]]) -> Int[Array, ""]:
    return jnp.sum(functools.reduce(jnp.add, (part.astype(jnp.int32) for part in marked)), dtype=jnp.int32)


def _key(x: Float[Array, "*shape"], gain: Float[Array, "*#shape"] | None) -> UInt[Array, "*shape"]:
    """Returns unsigned integers in the order of the competing values; NaN are highest, both zeros equal.

    They are never 0. Unlike signed ones they are independent of how a compiler compares.
    """
    rank = x.astype(jnp.float32)
    rank = rank if gain is None else rank * gain
    bits = lax.bitcast_convert_type(rank, jnp.uint32)
    zero, highest = jnp.uint32(2**31), jnp.uint32(2**32 - 1)
    key = jnp.where(bits >= zero, highest - bits, bits + zero)
    return jnp.where(rank != rank, highest, jnp.where(rank == 0, zero, key))


def _is_winner(x, key, place, least, last, k, relu):
    won = key >= least if place is None else (key > least) | ((key == least) & (place <= last))
    return won & (k > 0) & ((x > 0) | (x != x)) if relu else won & (k > 0)
