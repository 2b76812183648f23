"""Winners as values and indices, and layers before and after them that use only their rows.

If k of n units win and k is far below n, most of a dense product with them is multiplication by 0. Here a code stores
its k values and their indices: decoding gathers k rows, and both gradients of either layer access only these. Kernels
have one row per unit, `[units, ...]`, so that rows are contiguous.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int, UInt

from sparsejax.functional.arguments import checked
from sparsejax.functional.selection import as_count, winners
from sparsejax.functional.shards import on_shards, vary_alike

_SPARSE = 1 / 32
"""Up to this density gathering is faster than a dense product on a CPU: see benchmarks/sae_decode.py."""
_SPARSE_ALONE = 0.4
"""The same for one example, whose dense product reads the whole kernel: see benchmarks/inference.py."""
_TOGETHER = 4
"""Rows gathered per loop iteration."""


class _Winners(NamedTuple):
    values: Float[Array, "*batch k"]
    indices: Int[Array, "*batch k"]


@jax.tree_util.register_pytree_node_class
class SparseCode(_Winners):
    """The winners of each row: a pair of arrays, and the number of units.

    Attributes:
      values: `[..., k]`.
      indices: of the units, `[..., k]`, int32 in [0, units), each row in ascending order; others are not checked.
      units: n, part of the tree structure, not an array; None if unknown.
    """

    units: int | None = None

    def __new__(cls, values: Any, indices: Any, units: int | None = None) -> "SparseCode":
        """Creates a code from values, indices and the number of units."""
        code = super().__new__(cls, values, indices)
        code.units = units
        return code

    def _replace(self, **changes: Any) -> "SparseCode":  # pyright: ignore[reportIncompatibleMethodOverride]
        """Returns a code with other values, indices or units; that of a NamedTuple would lose the units."""
        return SparseCode(**{"values": self.values, "indices": self.indices, "units": self.units, **changes})

    def to_dense(self, units: int | None = None) -> Float[Array, "*batch units"]:
        """Returns the dense form `[..., units]`; the number of units is only needed if `self.units` is None.

        Raises:
          ValueError: the number is unknown, or differs from `self.units`.
        """
        units = self.units if units is None else units
        if units is None:
            raise ValueError("This code has no number of units; pass it: code.to_dense(n).")
        return to_dense(self, units)

    def tree_flatten(self):
        """Returns the arrays, and the number of units."""
        return tuple(self), self.units

    @classmethod
    def tree_unflatten(cls, units, arrays):
        """Returns a code from its arrays and units."""
        values, indices = arrays
        return cls(values, indices, units)


@checked
def sparse_top_k(x: Float[Array, "*batch n"], k: int, *, rank: Float[Array, "*batch n"] | None = None) -> SparseCode:
    """Returns the k largest values of each row and their indices; ties keep the lower index.

    The gradient goes to the winners. It is the sort-free selection of `top_k`, followed by a search in the counts of
    winners per 32 units.

    Args:
      x: values `[..., n]`, float16, bfloat16 or float32.
      k: number of winners, 1 <= k <= n; static, because it is a shape. For a traced one use `top_k`.
      rank: values to rank by instead of x, `[..., n]`; no gradient passes.

    Returns:
      SparseCode, `[..., k]`, by ascending index.

    Raises:
      ValueError: k is not an int in [1, n].

    References:
      Makhzani & Frey, k-Sparse Autoencoders, 2013, section 2.
    """
    size = as_count(k, (), x.shape[-1], least=1)
    rank = lax.stop_gradient(x if rank is None else rank)
    return on_shards(partial(_sparse_top_k, k=size), lead=x.ndim - 1, rows={"x": x, "rank": rank}, shared={})


@checked
def to_dense(code: SparseCode, units: int) -> Float[Array, "*batch units"]:
    """Returns the dense form of a code: its values at their indices, zeros elsewhere.

    Args:
      code: values and indices `[..., k]`.
      units: n.

    Returns:
      Array `[..., units]`.

    Raises:
      ValueError: the code has another number of units, or more winners.
    """
    if code.units not in (None, units):
        raise ValueError(f"This is a code of {code.units} units, not of {units}; use code.to_dense().")
    if units < code.values.shape[-1]:
        raise ValueError(f"The code has {code.values.shape[-1]} winners; expected as many units or more, not {units}.")
    lead = code.values.ndim - 1
    return on_shards(_to_dense, lead=lead, rows={"code": code}, shared={"units": units})


@checked
def decode(code: SparseCode, kernel: Float[Array, "units outputs"]) -> Float[Array, "*batch outputs"]:
    """Returns the sum of the winners' rows, each times its value: the product of the dense code and the kernel.

    On a CPU rows are gathered if few units win: at most one in 32, also in the gradients, and up to two in five for
    small batches. Otherwise the product is dense, which is faster on matrix units.

    Args:
      code: values and indices `[..., k]`; the indices of a row differ.
      kernel: `[units, outputs]`, one row per unit.

    Returns:
      Array `[..., outputs]`.

    Raises:
      ValueError: values and indices differ in shape, or the kernel has another number of rows than the code has units
        (or, if `units` is None, too few rows for an index that is not traced).

    References:
      Gao et al., Scaling and evaluating sparse autoencoders, 2024, appendix on sparse kernels.
    """
    if code.values.shape != code.indices.shape:
        raise ValueError(f"A code has values {code.values.shape} and indices {code.indices.shape}; expected the same.")
    _check_kernel(code, kernel)
    return on_shards(_decode_rows, lead=code.values.ndim - 1, rows={"code": code}, shared={"kernel": kernel})


def _check_kernel(code: SparseCode, kernel: Array) -> None:
    units = code.units
    if units is None:
        # A code without `units`: its indices give a lower bound.
        indices = code.indices
        seen = indices.size > 0 and not isinstance(indices, Tracer) and getattr(indices, "is_fully_addressable", True)
        least = int(np.asarray(indices).max()) + 1 if seen else code.values.shape[-1]
        fits, expected = kernel.shape[0] >= least, f"at least {least}"
    else:
        fits, expected = kernel.shape[0] == units, str(units)
    if not fits:
        turned = " It seems to be transposed: pass kernel.T." if kernel.shape[-1] == units else ""
        raise ValueError(
            f"The kernel has shape {kernel.shape}, but the code is of {expected} units; expected [units, outputs], a "
            f"row for each unit.{turned}"
        )


def gathering_is_faster(density: float, batch: int | None = None) -> bool:
    """Returns whether a CPU is faster with only the winners' rows.

    Args:
      density: winners per example, as a fraction of the units.
      batch: number of examples whose rows are summed; None for the gradients.

    Returns:
      Whether `decode` gathers. Gathering reads rows for every example, a dense product reads the whole kernel once.

    References:
      benchmarks/inference.py and benchmarks/sae_decode.py, where this was measured.
    """
    return density <= (_SPARSE if batch is None else max(_SPARSE, _SPARSE_ALONE / math.sqrt(max(1, batch))))


@checked
def encode_top_k(
    x: Float[Array, "*batch inputs"],
    kernel: Float[Array, "units inputs"],
    bias: Float[Array, "units"],
    k: int,
    *,
    gain: Float[Array, "units"] | None = None,
) -> SparseCode:
    """Returns the k most active units of a dense layer, rectified.

    Only the forward product is dense; its gradients access only the winners' rows, as in `decode`.

    Args:
      x: inputs `[..., inputs]`.
      kernel: `[units, inputs]`, a row for each unit.
      bias: `[units]`.
      k: number of winners, 1 <= k <= units.
      gain: factor on each unit's activity in the ranking, `[units]`, such as from `boost`; winners keep their own
        value, and no gradient passes.

    Returns:
      SparseCode, `[..., k]`; if fewer than k units are positive, the other values are 0.

    Raises:
      ValueError: k is not an int in [1, units], or the kernel does not fit the inputs, or bias or gain the kernel.

    References:
      Makhzani & Frey, k-Sparse Autoencoders, 2013, section 2; Gao et al., Scaling and evaluating sparse autoencoders,
      2024, Eq. 4.
    """
    if kernel.shape[1] != x.shape[-1]:
        raise ValueError(
            f"The kernel has shape {kernel.shape}, but x has {x.shape[-1]} inputs; expected [units, inputs], a row for "
            "each unit (that of a dense layer, [inputs, units], is transposed)."
        )
    for name, weights in (("bias", bias), ("gain", gain)):
        if weights is not None and weights.shape != kernel.shape[:1]:
            raise ValueError(f"{name} has shape {weights.shape}; expected one for each unit, {kernel.shape[:1]}.")
    shared = {"kernel": kernel, "bias": bias, "gain": gain}
    encode = partial(_encode_rows, k=as_count(k, (), kernel.shape[0], least=1))
    return on_shards(encode, lead=x.ndim - 1, rows={"x": x}, shared=shared)


def _sparse_top_k(x: Array, rank: Array, k: Any) -> SparseCode:
    indices = _places(winners(rank, k, ties="first"), k)
    return SparseCode(jnp.take_along_axis(x, indices, axis=-1), indices, x.shape[-1])


def _to_dense(code: SparseCode, units: int) -> Array:
    values, indices = _flat(code.values), _flat(code.indices)
    rows = jnp.arange(len(values), dtype=jnp.int32)[:, None]
    dense = jnp.zeros((len(values), units), values.dtype).at[rows, indices].set(values, unique_indices=True)
    return dense.reshape(*code.values.shape[:-1], units)


def _decode_rows(code: SparseCode, kernel: Array) -> Array:
    arguments = vary_alike(_flat(code.values), _flat(code.indices), kernel)
    return _decode(*arguments).reshape(*code.values.shape[:-1], kernel.shape[-1])


def _encode_rows(x: Array, kernel: Array, bias: Array, gain: Array | None, k: Any) -> SparseCode:
    code: Any = _encode(*vary_alike(_flat(x), kernel, bias, gain), k)
    values, indices = (part.reshape(*x.shape[:-1], k) for part in code)
    return SparseCode(values, indices, kernel.shape[0])


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _encode(x: Array, kernel: Array, bias: Array, gain: Array | None, k: int) -> tuple[Array, Array]:
    h = x @ kernel.T + bias[None]
    values, indices = _sparse_top_k(h, lax.stop_gradient(h if gain is None else h * gain.astype(h.dtype)[None]), k)
    return jax.nn.relu(values), indices


def _encode_forward(x, kernel, bias, gain, k):
    code: Any = _encode(x, kernel, bias, gain, k)
    return code, (x, kernel, bias, code[0] > 0, code[1])


def _encode_backward(k, kept, upstream):
    x, kernel, bias, positive, indices = kept
    to_winners = jnp.where(positive, upstream[0], 0)
    to_bias = jnp.zeros_like(bias).at[indices.reshape(-1)].add(to_winners.reshape(-1))
    return _decode(to_winners, indices, kernel), _add_rows(to_winners, indices, x, kernel), to_bias, None


_encode.defvjp(_encode_forward, _encode_backward)


@jax.custom_vjp
def _decode(values: Array, indices: Array, kernel: Array) -> Array:
    def dense(values, indices, kernel):
        return _to_dense(SparseCode(values, indices), len(kernel)) @ kernel

    if not values.size:
        return jnp.zeros((len(values), kernel.shape[-1]), kernel.dtype)
    pays = gathering_is_faster(indices.shape[-1] / len(kernel), len(values))
    return _sparse_or(dense, _sum_rows, pays, values, indices, kernel)


def _decode_forward(values, indices, kernel):
    return _decode(values, indices, kernel), (values, indices, kernel)


def _decode_backward(kept, upstream):
    values, indices, kernel = kept
    return _pre_activations(upstream, indices, kernel), None, _add_rows(values, indices, upstream, kernel)


_decode.defvjp(_decode_forward, _decode_backward)


def _pre_activations(x: Array, indices: Array, kernel: Array) -> Array:
    """Returns the inputs of the given units, `[batch, k]`: the products of their rows and `x [batch, inputs]`."""

    def dense(x, indices, kernel):
        return jnp.take_along_axis(x @ kernel.T, indices, axis=-1)

    def gather(x, indices, kernel):
        return lax.map(lambda slot: jnp.sum(x * _row(kernel, slot), axis=-1), indices.T).T

    return _sparse_or(dense, gather, gathering_is_faster(indices.shape[-1] / len(kernel)), x, indices, kernel)


def _add_rows(values: Array, indices: Array, x: Array, kernel: Array) -> Array:
    """Returns the gradient of a kernel: adds the input `x [batch, inputs]` times its value to each winner's row."""

    def dense(values, indices, x):
        return (_to_dense(SparseCode(values, indices), len(kernel)).T @ x).astype(kernel.dtype)

    def scatter(values, indices, x):
        def add(rows, example):
            value, index, x = example
            change = value.astype(rows.dtype)[:, None] * x.astype(rows.dtype)[None]
            return rows.at[index].add(change, unique_indices=True, mode="drop"), None

        # Derive the zero from the examples so that it varies over the same mesh axes, which a constant does not. The
        # barrier keeps XLA from sharing one buffer between both layers' gradients and copying it.
        zero = lax.optimization_barrier((jnp.max(indices, initial=0) * 0).astype(_sum_dtype(kernel)))
        return lax.scan(add, jnp.full(kernel.shape, zero), (values, indices, x))[0].astype(kernel.dtype)

    return _sparse_or(dense, scatter, gathering_is_faster(indices.shape[-1] / len(kernel)), values, indices, x)


def _sum_rows(values: Array, indices: Array, kernel: Array) -> Array:
    """Returns the sum of the winners' rows times their values, some rows per loop iteration."""
    slots, (before, after) = values.shape[-1], (values.T[..., None], indices.T)
    first = (slots - 1) % _TOGETHER + 1

    def add(total, some):
        for value, index in zip(*some, strict=True):
            total = total + (value * _row(kernel, index)).astype(total.dtype)
        return total, None

    total = (before[0] * _row(kernel, after[0])).astype(_sum_dtype(kernel))
    total, _ = add(total, (before[1:first], after[1:first]))
    grouped = jax.tree.map(lambda a: a[first:].reshape(-1, _TOGETHER, *a.shape[1:]), (before, after))
    return lax.scan(add, total, grouped)[0].astype(kernel.dtype)


def _row(kernel: Array, index: Array) -> Array:
    return jnp.take(kernel, index, axis=0, mode="clip")


def _sum_dtype(kernel: Array) -> jnp.dtype:
    """Returns the type of sums: half precision is too coarse for long ones."""
    return jnp.dtype(jnp.float32) if kernel.dtype.itemsize < 4 else kernel.dtype


def _sparse_or(dense: Callable[..., Array], sparse: Callable[..., Array], pays: bool, *arguments: Array) -> Array:
    """Applies the sparse function if it is faster and the program runs on a CPU, else the dense one."""
    return lax.platform_dependent(*arguments, cpu=sparse, default=dense) if pays else dense(*arguments)


def _flat(rows: Array) -> Array:
    """Returns rows with one batch axis."""
    return rows.reshape(math.prod(rows.shape[:-1]), rows.shape[-1])


def _places(kept: Bool[Array, "*batch n"], k: int) -> Int[Array, "*batch k"]:
    """Returns the indices of the k marked units of each row, in ascending order.

    Marks are packed into words. The word of a row's j-th winner is found in the cumulative counts, its position in the
    word by five halvings.
    """
    kept = jnp.pad(kept, [(0, 0)] * (kept.ndim - 1) + [(0, -kept.shape[-1] % 32)])
    bits = kept.reshape(*kept.shape[:-1], kept.shape[-1] // 32, 32).astype(jnp.uint32)
    bits = bits << lax.broadcasted_iota(jnp.uint32, bits.shape, bits.ndim - 1)
    words: UInt[Array, "*batch words"] = jnp.sum(bits, axis=-1, dtype=jnp.uint32)
    counts = lax.population_count(words).astype(jnp.int32)
    upto = jnp.cumsum(counts, axis=-1)
    order = jnp.arange(k, dtype=jnp.int32)
    find = jax.vmap(lambda upto: jnp.searchsorted(upto, order, side="right", method="scan_unrolled"))
    block = find(_flat(upto)).reshape(*upto.shape[:-1], k).astype(jnp.int32)
    word = jnp.take_along_axis(words, block, axis=-1)
    rank = jnp.broadcast_to(order, block.shape) - jnp.take_along_axis(upto - counts, block, axis=-1)
    place = jnp.zeros_like(block)
    for half in (16, 8, 4, 2, 1):
        low = word & jnp.uint32((1 << half) - 1)
        below = lax.population_count(low).astype(jnp.int32)
        beyond = rank >= below
        word, rank = jnp.where(beyond, word >> half, low), jnp.where(beyond, rank - below, rank)
        place = place + jnp.where(beyond, half, 0)
    return block * 32 + place
