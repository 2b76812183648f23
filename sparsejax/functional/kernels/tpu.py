"""Functions of rows on a TPU, a block of rows at a time: however often they read it, it is fetched from memory once."""

import functools
import os
from collections.abc import Callable

import jax
from jaxtyping import Array, Int

_HELD = 2**18
"""Values of a block: the fast memory holds two, one that is worked on and one on its way."""
_LONGEST = 2**17
"""Values of a row: eight rows, which lie side by side in a register, have to fit."""


def usable(shape: tuple[int, ...]) -> bool:
    """Says whether rows of an array `[..., n]` may be worked on in blocks.

    They may not where there is nothing in them or eight do not fit, and where the environment sets
    SPARSEJAX_TPU_KERNELS to 0, for a TPU or version whose compiler refuses them.
    """
    return 0 < shape[-1] <= _LONGEST and 0 not in shape and os.environ.get("SPARSEJAX_TPU_KERNELS") != "0"


def by_blocks(
    function: Callable, values: Int[Array, "*rows n"], k: Int[Array, "*rows"], *, interpret: bool = False
) -> tuple[Int[Array, "*rows"], Int[Array, "*rows"]]:
    """Applies a function of rows to a block of them at a time; what makes the values is fused into the reading.

    Args:
      function: from a reference to the values of a block `[block, n]`, to be read as often as it likes, and the
        block's k `[block, 1]` to two numbers a row, `[block, 1]` each.
      values: `[..., n]`, int32; no row longer than `usable` says.
      k: a number for each row, int32.
      interpret: run it as a plain program, on any machine.

    Returns:
      The two numbers of each row, int32.
    """
    from jax.experimental import pallas as pl  # takes almost as long to import as JAX
    from jax.experimental.pallas import tpu as pltpu

    shape, rows, n = k.shape, k.size, values.shape[-1]
    block = min(rows, max(8, _HELD // n // 8 * 8))
    of_rows = pl.BlockSpec((block, 1), lambda i: (i, 0))
    values = values.reshape(rows, n)
    k = k.reshape(rows, 1) + (values[:, :1] & 0)  # so that it varies over the same mesh axes, as do the results
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
