"""Codes with another number of active units in every example, and layers that use only the active units' rows.

BatchTopK and JumpReLU keep few values of a batch, but not equally many in each example. A ragged code stores all of
them one after another, with their rows and units. Its capacity is static; how many values were kept is counted, so
that too many never pass unnoticed.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, UInt

from sparsejax.functional.arguments import checked
from sparsejax.functional.batch_top_k import batch_winners
from sparsejax.functional.shards import vary_alike

_TOGETHER = 128
"""Entries gathered or scattered per loop iteration."""


class _Entries(NamedTuple):
    values: Float[Array, "capacity"]
    rows: Int[Array, "capacity"]
    units: Int[Array, "capacity"]
    kept: Int[Array, ""]


@jax.tree_util.register_pytree_node_class
class RaggedCode(_Entries):
    """All kept values of a batch, by example and then by unit.

    Attributes:
      values: `[capacity]`; 0 in empty slots.
      rows: of the examples, `[capacity]`, int32; `batch` in empty slots.
      units: `[capacity]`, int32; `n` in empty slots.
      kept: number of values that passed, `[]`; if it exceeds the capacity, the last ones are missing.
      batch: number of examples; part of the tree structure.
      n: number of units; part of the tree structure.
    """

    batch: int
    n: int

    def __new__(cls, values: Any, rows: Any, units: Any, kept: Any, batch: int, n: int) -> "RaggedCode":
        """Creates a code from its entries, the number of examples and that of units."""
        code = super().__new__(cls, values, rows, units, kept)
        code.batch, code.n = batch, n
        return code

    @property
    def overflow(self) -> Int[Array, ""]:
        """Number of kept values that are missing."""
        return jnp.maximum(self.kept - self.values.shape[0], 0)

    def replace_values(self, values: Float[Array, "capacity"]) -> "RaggedCode":
        """Returns the code with other values of the same units."""
        return RaggedCode(values, self.rows, self.units, self.kept, self.batch, self.n)

    def to_dense(self) -> Float[Array, "batch n"]:
        """Returns the dense form `[batch, n]`."""
        empty = jnp.zeros((self.batch, self.n), self.values.dtype)
        return empty.at[self.rows, self.units].set(self.values, mode="drop", unique_indices=False)

    def sum_by_row(self, values: Float[Array, "capacity"]) -> Float[Array, "batch"]:
        """Returns the sum of a number for each entry over the entries of each example, `[batch]`."""
        return jnp.zeros(self.batch, values.dtype).at[self.rows].add(values, mode="drop")

    def count_by_unit(self) -> Int[Array, "n"]:
        """Returns the number of examples in which each unit is positive, `[n]`."""
        return jnp.zeros(self.n, jnp.int32).at[self.units].add((self.values > 0).astype(jnp.int32), mode="drop")

    def tree_flatten(self):
        """Returns the arrays, and the sizes."""
        return tuple(self), (self.batch, self.n)

    @classmethod
    def tree_unflatten(cls, sizes, arrays):
        """Returns a code from its arrays and sizes."""
        return cls(*arrays, *sizes)


@checked
def encode_batch_top_k(
    x: Float[Array, "batch inputs"],
    kernel: Float[Array, "units inputs"],
    bias: Float[Array, "units"],
    k: float | int | Float[Array, ""] | Int[Array, ""],
    *,
    capacity: int,
    gain: Float[Array, "units"] | None = None,
    axis_name: str | None = None,
) -> RaggedCode:
    """Returns the k * batch most active units of a dense layer over a whole batch, rectified.

    Only the forward product is dense; its gradients access only the winners' rows.

    Args:
      x: inputs `[batch, inputs]`.
      kernel: `[units, inputs]`, a row for each unit.
      bias: `[units]`.
      k: number of winners per example on average; may be traced.
      capacity: slots of the code; k * batch on one device. One of several devices may have more than its share.
      gain: factor on each unit's activity in the ranking, `[units]`; winners keep their own value.
      axis_name: mesh axis over which the batch is sharded, as in `batch_top_k`.

    Returns:
      RaggedCode of the positive winners.

    Raises:
      ValueError: shapes do not fit, the capacity is below 1, or a Python number k is outside [0, units].

    References:
      Bussmann et al., BatchTopK Sparse Autoencoders, 2024, Eq. 5.
    """
    _check(kernel, bias, x.shape[1], capacity)

    def choose(h: Array) -> Array:
        z = jax.nn.relu(h)
        return batch_winners(z if gain is None else z * gain.astype(h.dtype)[None], k, axis_name=axis_name) & (h > 0)

    return _encode(x, kernel, bias, choose, capacity)


@checked
def encode_above(
    x: Float[Array, "batch inputs"],
    kernel: Float[Array, "units inputs"],
    bias: Float[Array, "units"],
    floor: Float[Array, "units"],
    *,
    capacity: int,
) -> RaggedCode:
    """Returns the pre-activations of a dense layer above a floor of each unit.

    For JumpReLU the floor is its threshold minus half the bandwidth: `jump_relu` and `jump_step` of the values, with
    the thresholds of `code.units`, then have the gradients of the dense form.

    Args:
      x: inputs `[batch, inputs]`.
      kernel: `[units, inputs]`, a row for each unit.
      bias: `[units]`.
      floor: `[units]`; no gradient passes.
      capacity: slots of the code.

    Returns:
      RaggedCode of raw pre-activations.

    Raises:
      ValueError: shapes do not fit, or the capacity is below 1.

    References:
      Rajamanoharan et al., Jumping Ahead: Improving Reconstruction Fidelity with JumpReLU Sparse Autoencoders, 2024,
      Eq. 11 and 12: the window in which thresholds have a gradient.
    """
    _check(kernel, bias, x.shape[1], capacity)
    floor = lax.stop_gradient(floor)
    return _encode(x, kernel, bias, lambda h: h > floor.astype(h.dtype)[None], capacity)


@checked
def decode_ragged(code: RaggedCode, kernel: Float[Array, "units outputs"]) -> Float[Array, "batch outputs"]:
    """Returns the sum of the kept units' rows, each times its value: the product of the dense code and the kernel.

    On a CPU only these rows are accessed, also by the gradients; elsewhere the product is dense.

    Args:
      code: of a batch.
      kernel: `[units, outputs]`, a row for each unit.

    Returns:
      Array `[batch, outputs]`.

    Raises:
      ValueError: the kernel has another number of rows than the code has units.

    References:
      Gao et al., Scaling and evaluating sparse autoencoders, 2024, appendix on sparse kernels.
    """
    if len(kernel) != code.n:
        raise ValueError(
            f"The kernel has shape {kernel.shape}, but the code is of {code.n} units; expected a row each."
        )
    if not code.batch:
        return jnp.zeros((0, kernel.shape[-1]), kernel.dtype)
    values, rows, units, kernel = vary_alike(code.values, code.rows, code.units, kernel)
    return _decode(values, rows, units, kernel, code.batch)


def _check(kernel: Array, bias: Array, inputs: int, capacity: int) -> None:
    if kernel.shape[1] != inputs or bias.shape != kernel.shape[:1]:
        raise ValueError(
            f"The kernel has shape {kernel.shape} and the bias {bias.shape}, but x has {inputs} inputs; expected "
            "[units, inputs], a row for each unit (that of a dense layer is transposed), and [units]."
        )
    if capacity < 1:
        raise ValueError(f"capacity is {capacity}; expected the number of slots of the code, at least 1.")


def _encode(x: Array, kernel: Array, bias: Array, choose: Any, capacity: int) -> RaggedCode:
    """Returns the pre-activations that `choose(h)` marks, relative to a dense product without gradients."""
    if not len(x):
        rows, units = jnp.zeros(capacity, jnp.int32), jnp.full(capacity, len(kernel), jnp.int32)
        return RaggedCode(jnp.zeros(capacity, x.dtype), rows, units, jnp.int32(0), 0, len(kernel))
    x, kernel, bias = vary_alike(x, kernel, bias)
    h = lax.stop_gradient(x) @ lax.stop_gradient(kernel).T + lax.stop_gradient(bias)[None]
    rows, units, kept = _places(choose(h), capacity)
    values = h.at[rows, units].get(mode="fill", fill_value=0)
    values = _of_entries(x, kernel, bias, lax.stop_gradient(values), rows, units)
    return RaggedCode(values, rows, units, kept, len(x), len(kernel))


@jax.custom_vjp
def _of_entries(x: Array, kernel: Array, bias: Array, values: Array, rows: Array, units: Array) -> Array:
    """Returns values that were computed from the arguments; its gradient is that of this computation."""
    return values


def _of_entries_backward(kept, upstream):
    x, kernel, bias, rows, units = kept
    to_x = _sum_rows(upstream, rows, units, kernel, len(x))
    to_bias = jnp.zeros_like(bias).at[units].add(upstream.astype(bias.dtype), mode="drop")
    return to_x, _add_rows(upstream, rows, units, x, kernel), to_bias, jnp.zeros_like(upstream), None, None


_of_entries.defvjp(
    lambda x, kernel, bias, values, rows, units: (values, (x, kernel, bias, rows, units)), _of_entries_backward
)


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _decode(values: Array, rows: Array, units: Array, kernel: Array, batch: int) -> Array:
    return _sum_rows(values, rows, units, kernel, batch)


def _decode_backward(batch, kept, upstream):
    values, rows, units, kernel = kept
    to_values = _products(rows, units, upstream, kernel)
    return to_values, None, None, _add_rows(values, rows, units, upstream, kernel)


_decode.defvjp(
    lambda values, rows, units, kernel, batch: (
        _decode(values, rows, units, kernel, batch), (values, rows, units, kernel)
    ),
    _decode_backward,
)  # fmt: skip


def _sum_rows(values: Array, rows: Array, units: Array, kernel: Array, batch: int) -> Array:
    """Returns for each example the sum of its units' rows, times their values."""

    def dense(values, rows, units, kernel):
        return _spread(values, rows, units, batch, len(kernel)).astype(kernel.dtype) @ kernel

    def gather(values, rows, units, kernel):
        zero = (jnp.max(rows, initial=0) * 0).astype(_sum_dtype(kernel))

        def add(total, entries):
            value, row, unit = entries
            part = value.astype(total.dtype)[:, None] * kernel.at[unit].get(mode="fill", fill_value=0).astype(
                total.dtype
            )
            return total.at[row].add(part, mode="drop"), None

        total = jnp.full((batch, kernel.shape[-1]), zero)
        return lax.scan(add, total, _in_groups(values, rows, units, batch, len(kernel)))[0].astype(kernel.dtype)

    return lax.platform_dependent(values, rows, units, kernel, cpu=gather, default=dense)


def _add_rows(values: Array, rows: Array, units: Array, x: Array, kernel: Array) -> Array:
    """Returns the gradient of a kernel: adds each entry's value times its example's `x` to its unit's row."""

    def dense(values, rows, units, x):
        return (_spread(values, rows, units, len(x), len(kernel)).astype(x.dtype).T @ x).astype(kernel.dtype)

    def scatter(values, rows, units, x):
        def add(total, entries):
            value, row, unit = entries
            part = value.astype(total.dtype)[:, None] * x.at[row].get(mode="fill", fill_value=0).astype(total.dtype)
            return total.at[unit].add(part, mode="drop"), None

        # The zero is derived from the entries, so that it varies over the same mesh axes. The barrier keeps XLA from
        # sharing one buffer between both layers' gradients and copying it.
        zero = lax.optimization_barrier((jnp.max(rows, initial=0) * 0).astype(_sum_dtype(kernel)))
        groups = _in_groups(values, rows, units, len(x), len(kernel))
        return lax.scan(add, jnp.full(kernel.shape, zero), groups)[0].astype(kernel.dtype)

    return lax.platform_dependent(values, rows, units, x, cpu=scatter, default=dense)


def _products(rows: Array, units: Array, x: Array, kernel: Array) -> Array:
    """Returns for each entry the product of its example's `x` and its unit's row; 0 in empty slots."""

    def product(entries):
        row, unit = entries
        left = x.at[row].get(mode="fill", fill_value=0)
        return jnp.sum(left * kernel.at[unit].get(mode="fill", fill_value=0).astype(x.dtype), axis=-1)

    def gather(rows, units):
        _, row, unit = _in_groups(jnp.zeros_like(rows), rows, units, len(x), len(kernel))
        return lax.map(product, (row, unit)).reshape(-1)[: rows.shape[0]]

    def dense(rows, units):
        return (x @ kernel.T).at[rows, units].get(mode="fill", fill_value=0)

    return lax.platform_dependent(rows, units, cpu=gather, default=dense)


def _spread(values: Array, rows: Array, units: Array, batch: int, n: int) -> Array:
    return jnp.zeros((batch, n), values.dtype).at[rows, units].set(values, mode="drop")


def _in_groups(values: Array, rows: Array, units: Array, batch: int, n: int) -> tuple[Array, Array, Array]:
    """Returns the entries in groups of a loop's iterations, the last one filled with empty slots."""
    short = -values.shape[0] % _TOGETHER
    filled = (jnp.pad(values, (0, short)), jnp.pad(rows, (0, short), constant_values=batch),
              jnp.pad(units, (0, short), constant_values=n))  # fmt: skip
    values, rows, units = (array.reshape(-1, _TOGETHER) for array in filled)
    return values, rows, units


def _places(kept: Bool[Array, "batch n"], capacity: int) -> tuple[Int[Array, "c"], Int[Array, "c"], Int[Array, ""]]:
    """Returns rows and units of the marked values in order, as many as the capacity, and their number.

    Marks are packed into words. The row of the j-th mark is found in the cumulative counts of rows, its word in those
    of the row's words, and its position in the word by five halvings.
    """
    batch, n = kept.shape
    marks = jnp.pad(kept, [(0, 0), (0, -n % 32)])
    bits = marks.reshape(batch, marks.shape[1] // 32, 32).astype(jnp.uint32)
    bits = bits << lax.broadcasted_iota(jnp.uint32, bits.shape, 2)
    words: UInt[Array, "batch words"] = jnp.sum(bits, axis=-1, dtype=jnp.uint32)
    counts = lax.population_count(words).astype(jnp.int32)
    upto = jnp.cumsum(counts, axis=-1, dtype=jnp.int32)
    ends = jnp.cumsum(upto[:, -1], dtype=jnp.int32)
    order = jnp.arange(capacity, dtype=jnp.int32)
    row = jnp.searchsorted(ends, order, side="right", method="scan_unrolled").astype(jnp.int32)
    at = jnp.minimum(row, batch - 1)
    rank = order - (ends[at] - upto[at, -1])
    low, high = jnp.zeros_like(at), jnp.full_like(at, words.shape[1] - 1)
    for _ in range(max(1, words.shape[1] - 1).bit_length()):
        middle = (low + high) >> 1
        beyond = upto[at, middle] <= rank
        low, high = jnp.where(beyond, middle + 1, low), jnp.where(beyond, high, middle)
    low = jnp.minimum(low, words.shape[1] - 1)
    word, rank = words[at, low], rank - (upto[at, low] - counts[at, low])
    place = jnp.zeros_like(low)
    for half in (16, 8, 4, 2, 1):
        part = word & jnp.uint32((1 << half) - 1)
        below = lax.population_count(part).astype(jnp.int32)
        beyond = rank >= below
        word, rank = jnp.where(beyond, word >> half, part), jnp.where(beyond, rank - below, rank)
        place = place + jnp.where(beyond, half, 0)
    filled = order < ends[-1]
    return jnp.where(filled, row, batch), jnp.where(filled, low * 32 + place, n), ends[-1]


def _sum_dtype(kernel: Array) -> jnp.dtype:
    """Returns the type of sums: half precision is too coarse for long ones."""
    return jnp.dtype(jnp.float32) if kernel.dtype.itemsize < 4 else kernel.dtype
