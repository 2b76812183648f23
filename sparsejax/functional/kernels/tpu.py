"""Functions of rows on a TPU, one block of rows at a time, which is loaded from memory only once."""

import functools
import os
from collections.abc import Callable

import jax
from jaxtyping import Array, Int

_HELD = 2**18
"""Values per block: VMEM holds two, one in use and one being loaded."""
_LONGEST = 2**17
"""Longest row: eight rows, which share a register, have to fit."""


def is_usable(shape: tuple[int, ...]) -> bool:
    """Returns whether rows of an array `[..., n]` can be processed in blocks.

    They cannot if they are empty or eight do not fit, with 64-bit types, which the kernels' compiler does not know, or
    if SPARSEJAX_TPU_KERNELS is 0 in the environment, for a TPU or version whose compiler rejects the kernel.
    """
    if jax.config.read("jax_enable_x64"):
        return False
    return 0 < shape[-1] <= _LONGEST and 0 not in shape and os.environ.get("SPARSEJAX_TPU_KERNELS") != "0"


def by_blocks(
    function: Callable, values: Int[Array, "*rows n"], k: Int[Array, "*rows"], *, interpret: bool = False
) -> tuple[Int[Array, "*rows"], Int[Array, "*rows"]]:
    """Applies a function of rows to one block of them at a time; the computation of the values is fused into the load.

    Args:
      function: from a reference to the values of a block `[block, n]`, which it may read repeatedly, and the block's k
        `[block, 1]` to two numbers per row, `[block, 1]` each.
      values: `[..., n]`, int32; rows as accepted by `is_usable`.
      k: a number for each row, int32.
      interpret: interpret the kernel, on any machine.

    Returns:
      The two numbers of each row, int32.
    """
    from jax.experimental import pallas as pl  # takes almost as long to import as JAX
    from jax.experimental.pallas import tpu as pltpu

    shape, rows, n = k.shape, k.size, values.shape[-1]
    block = min(rows, max(8, _HELD // n // 8 * 8))
    of_rows = pl.BlockSpec((block, 1), lambda i: (i, 0))
    values = values.reshape(rows, n)
    k = k.reshape(rows, 1) + (values[:, :1] & 0)  # so that it varies over the same mesh axes as the values and results
    result = jax.eval_shape(lambda k: k, k)
    first, second = pl.pallas_call(
        functools.partial(_kernel, function),
        grid=(pl.cdiv(rows, block),),
        in_specs=[pl.BlockSpec((block, n), lambda i: (i, 0)), of_rows],
        out_specs=[of_rows, of_rows],
        out_shape=[result, result],
        interpret=interpret,
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel",), allow_input_fusion=(True, True)),
    )(values, k)
    return first.reshape(shape), second.reshape(shape)


def _kernel(function: Callable, values, k, first, second):
    first[...], second[...] = function(values, k[...])
