"""Greedy codes of at most k atoms: matching pursuit and orthogonal matching pursuit, all examples at once."""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from sparsejax.coding.iterate import check_loop, iterate
from sparsejax.coding.objective import AnyArray, Code, correlations, problem, product, ratio, restore_batch_axes
from sparsejax.functional.arguments import checked


@checked
def matching_pursuit(
    x: Float[AnyArray, "*batch inputs"],
    dictionary: Float[AnyArray, "inputs atoms"],
    *,
    k: int | Int[Array, ""],
    initial: Float[AnyArray, "*batch atoms"] | None = None,
    tolerance: float | Float[Array, ""] | None = None,
) -> Code:
    r"""Codes x by k steps, each adding the atom that explains most of the residual.

    .. math:: j = \arg\max_i |\langle r, d_i \rangle| / \|d_i\|, \qquad
        a_j \leftarrow a_j + \langle r, d_j \rangle / \|d_j\|^2

    An atom may be chosen again: its coefficient accumulates, so there are at most k atoms in the code.

    Args:
      x: `[..., inputs]`.
      dictionary: `[inputs, atoms]`, atoms of any norm; atoms of norm 0 are never chosen.
      k: steps, 0 or more; may be traced.
      initial: a code to start from, `[..., atoms]`.
      tolerance: stop for an example when this fraction of its energy is left; None for all k steps.

    Returns:
      Code, where the gap is the remaining fraction of the energy, :math:`\|r\|^2 / \|x\|^2` (0 for x = 0).

    Raises:
      ValueError: shapes do not fit, or a Python number is out of range.

    References:
      Mallat & Zhang, Matching pursuits with time-frequency dictionaries, 1993.
    """
    _check(k, None)
    check_loop(tolerance, k)
    x, dictionary, start, batch = problem(x, dictionary, initial)
    return restore_batch_axes(_matching_pursuit(x, dictionary, start, k, tolerance), batch)


@jax.jit
def _matching_pursuit(x, dictionary, start, k, tolerance):
    gram = product(dictionary.T, dictionary)
    squares = jnp.diagonal(gram)

    def update(state, data):
        code, c = state
        j = _best(c, squares)
        change = _at(c, j) / jnp.where(squares > 0, squares, 1)[j]
        return code.at[jnp.arange(len(j), dtype=jnp.int32), j].add(change), c - change[:, None] * gram[j]

    residual = x - product(start, dictionary.T)
    state, taken, gap = iterate(
        update,
        lambda state, x: _remaining_energy(x, dictionary, state[0]),
        (start, product(residual, dictionary)),
        x,
        tolerance=tolerance,
        max_iterations=k,
        check_every=1,
    )
    return Code(state[0], taken, gap)


@checked
def orthogonal_matching_pursuit(
    x: Float[AnyArray, "*batch inputs"],
    dictionary: Float[AnyArray, "inputs atoms"],
    *,
    k: int | Int[Array, ""],
    at_most: int | None = None,
    tolerance: float | Float[Array, ""] | None = None,
) -> Code:
    r"""Codes x by k different atoms, chosen as in `matching_pursuit`; refits all coefficients at each step.

    For each example, the inverse M of the Gram matrix' Cholesky factor grows by a row per step; :math:`M^T M c_S` is
    then the change of the coefficients, which also corrects earlier rounding errors. Correlations are recomputed from
    the code: a matrix product, which takes most of the time.

    Args:
      x: `[..., inputs]`.
      dictionary: `[inputs, atoms]`, atoms of any norm; an atom in the span of those already chosen (to 1e-5 of its
        squared norm) is never chosen.
      k: steps, 0 or more; may be traced.
      at_most: a static upper bound of k, which a traced k needs; None for k itself.
      tolerance: stop for an example when this fraction of its energy is left; None for all k steps.

    Returns:
      Code, where the gap is the remaining fraction of the energy.

    Raises:
      ValueError: shapes do not fit, a Python number is out of range, or k is traced without a bound.

    References:
      Pati, Rezaiifar & Krishnaprasad, Orthogonal matching pursuit, 1993; Rubinstein, Zibulevsky & Elad, Efficient
      implementation of the K-SVD algorithm using batch orthogonal matching pursuit, 2008 (the Cholesky factor; keeping
      its inverse, and the correction by the current correlations, are ours).
    """
    _check(k, at_most)
    check_loop(tolerance, k)
    x, dictionary, start, batch = problem(x, dictionary, None)
    if at_most is None and not isinstance(k, int):
        raise ValueError("k is an array; pass a static upper bound, such as at_most=32, or a Python integer.")
    slots = max(1, min(k if at_most is None else at_most, *dictionary.shape))
    return restore_batch_axes(_orthogonal(x, dictionary, start, jnp.minimum(k, slots), tolerance, slots=slots), batch)


@functools.partial(jax.jit, static_argnames="slots")
def _orthogonal(x, dictionary, start, k, tolerance, *, slots):
    gram, evaluate = product(dictionary.T, dictionary), correlations(dictionary)
    squares = jnp.diagonal(gram)

    def update(state, data):
        code, c, chosen, inverse, free, count = state
        examples, slot = jnp.arange(len(count), dtype=jnp.int32), jnp.arange(slots, dtype=jnp.int32)
        j = _best(jnp.where(free, c, 0), squares)
        products = jnp.where(slot[None, :] < count[:, None], gram[j[:, None], chosen], 0)
        along = jnp.einsum("est,et->es", inverse, products, precision=lax.Precision.HIGHEST)
        left = squares[j] - jnp.sum(along**2, -1)
        new = left > 1e-5 * squares[j]  # also false for an atom of norm 0
        length = jnp.sqrt(jnp.where(new, left, 1))
        row = -jnp.einsum("es,est->et", along, inverse, precision=lax.Precision.HIGHEST)
        row = (row + jax.nn.one_hot(count, slots, dtype=row.dtype)) / length[:, None]
        row = jnp.where(new[:, None], row, 0)
        inverse = inverse.at[examples, count].set(row, mode="drop")
        chosen = chosen.at[examples, count].set(j, mode="drop")
        count = count + new.astype(jnp.int32)
        on = jnp.where(slot[None, :] < count[:, None], jnp.take_along_axis(c, chosen, 1), 0)
        along = jnp.einsum("est,et->es", inverse, on, precision=lax.Precision.HIGHEST)
        change = jnp.einsum("es,est->et", along, inverse, precision=lax.Precision.HIGHEST)
        code = code.at[examples[:, None], chosen].add(change)
        return code, evaluate(code, *data)[0], chosen, inverse, free.at[examples, j].set(False), count

    state = (
        start,
        product(x, dictionary),
        jnp.zeros((len(x), slots), jnp.int32),
        jnp.zeros((len(x), slots, slots), x.dtype),
        jnp.ones(start.shape, bool),
        jnp.zeros(len(x), jnp.int32),
    )
    state, taken, gap = iterate(
        update,
        lambda state, data: _remaining_energy(data[1], dictionary, state[0]),
        state,
        (product(x, dictionary), x),
        tolerance=tolerance,
        max_iterations=k,
        check_every=1,
    )
    return Code(state[0], taken, gap)


def _check(k: int | Array, at_most: int | None) -> None:
    if isinstance(k, int) and k < 0:
        raise ValueError(f"k is {k}; expected a number of steps, 0 or more.")
    if at_most is not None and at_most < 1:
        raise ValueError(f"at_most is {at_most}; expected 1 or more, a static upper bound of k.")


def _best(c: Array, squares: Array) -> Array:
    """Returns the atom whose direction correlates best with the residual, for each example."""
    lengths = jnp.sqrt(jnp.where(squares > 0, squares, jnp.inf))
    return lax.argmax(jnp.abs(c) / lengths[None, :], 1, jnp.int32)


def _at(c: Array, j: Array) -> Array:
    return jnp.take_along_axis(c, j[:, None], 1)[:, 0]


def _remaining_energy(x: Array, dictionary: Array, code: Array) -> Array:
    """Returns the fraction of the energy of x in the residual."""
    return ratio(jnp.sum((x - product(code, dictionary.T)) ** 2, -1), jnp.sum(x**2, -1))
