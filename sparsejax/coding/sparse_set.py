"""Codes under the l0 penalty: sparse-set coding."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sparsejax.coding.iterate import check_loop, iterate, reached
from sparsejax.coding.largest import first_largest
from sparsejax.coding.problem import AnyArray, Code, arrays, fill_in, leave_out, restore_batch_axes
from sparsejax.coding.quadratic import product, ratio
from sparsejax.functional.arguments import checked


@checked
def sparse_set(
    x: Float[AnyArray, "*batch inputs"],
    dictionary: Float[AnyArray, "inputs atoms"],
    *,
    l0: float | Float[Array, ""],
    initial: Float[AnyArray, "*batch atoms"] | None = None,
    tolerance: float | Float[Array, ""] | None = 1e-5,
    max_iterations: int = 1000,
    check_every: int = 10,
) -> Code:
    r"""Codes x by the coordinate-wise minimisation of :math:`\frac12 \|x - D a\|^2 + \lambda_0 \|a\|_0`.

    Each iteration changes the one coefficient that lowers the objective most, to its best value given the others: an
    atom is added, refitted, or, unlike in matching pursuit, removed. The objective never rises. It converges when no
    change of a single coefficient lowers it, which need not be the global minimum (finding that is NP-hard).

    Args:
      x: `[..., inputs]`.
      dictionary: `[inputs, atoms]`, atoms of any norm.
      l0: lambda_0 > 0, the cost of an atom; may be traced.
      initial: a code to start from, `[..., atoms]`.
      tolerance: stop when one change can lower the objective by no more than this fraction of :math:`\|x\|^2 / 2`;
        None for exactly `max_iterations`.
      max_iterations: largest number of changes.
      check_every: iterations between two measures.

    Returns:
      Code, where the gap is the largest decrease by one change, over :math:`\|x\|^2 / 2`.

    Raises:
      ValueError: shapes do not fit, or a Python number is out of range.

    References:
      The objective is that of Rehn & Sommer, A network that uses few active neurones to code visual input predicts
      the diverse shapes of cortical receptive fields, 2007, with a factor 1/2 for the error; it is minimised by
      coordinate descent instead of their Hopfield network on a further approximation.
    """
    if isinstance(l0, (int, float)) and not l0 > 0:
        raise ValueError(f"l0 is {l0}; expected the cost of an atom, above 0.")
    check_loop(tolerance, max_iterations, check_every)
    x, dictionary, start, batch = arrays(x, dictionary, initial)
    settings = {"max_iterations": max_iterations, "check_every": check_every}
    return restore_batch_axes(_sparse_set(x, dictionary, start, l0, tolerance, **settings), batch)


@functools.partial(jax.jit, static_argnames=("max_iterations", "check_every"))
def _sparse_set(x, dictionary, start, l0, tolerance, *, max_iterations, check_every):
    x, start, finite = leave_out(x, start, dictionary)
    gram = product(dictionary.T, dictionary)
    squares = jnp.diagonal(gram)[None, :]
    safe = jnp.where(squares > 0, squares, 1)

    def best(state):
        """Returns each coefficient's best value and the resulting decrease of the objective."""
        code, c = state
        value = code + c / safe
        value = jnp.where(safe * value**2 > 2 * l0, value, 0)
        # 1/2 |r - d change|^2 expanded; the cost depends on whether the coefficient is 0.
        change = value - code
        gain = change * c - safe * change**2 / 2 + l0 * ((code != 0).astype(c.dtype) - (value != 0).astype(c.dtype))
        return change, gain

    def update(state, _):
        code, c = state
        change, gain = best(state)
        j = first_largest(gain)
        step = jnp.take_along_axis(change, j[:, None], 1)
        step = jnp.where(jnp.take_along_axis(gain, j[:, None], 1) > 0, step, 0)
        return code.at[jnp.arange(len(j), dtype=jnp.int32), j].add(step[:, 0]), c - step * gram[j]

    half = jnp.sum(x**2, -1) / 2
    state, taken, gap = iterate(
        update,
        lambda state, half: ratio(jnp.maximum(jnp.max(best(state)[1], -1), 0), half),
        (start, product(x - product(start, dictionary.T), dictionary)),
        half,
        tolerance=tolerance,
        max_iterations=max_iterations,
        check_every=check_every,
    )
    return fill_in(Code(state[0], taken, gap, reached(gap, tolerance)), finite)
