"""Greedy codes of at most k atoms: matching pursuit and orthogonal matching pursuit, all examples at once."""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from sparsejax.coding.iterate import check_loop, in_parts, iterate
from sparsejax.coding.largest import first_largest
from sparsejax.coding.objective import AnyArray, Code, problem, product, ratio, restore_batch_axes
from sparsejax.functional.arguments import checked

# An atom depends on those chosen before it if no more than this fraction of its squared norm is outside their span.
_DEPENDENT = 1e-5
# Rows of the Gram matrix subtracted in one pass over the correlations, which XLA vectorises and which reads the rows in
# place. More need fewer passes, but meet more empty slots; 4 to 16 take about as long.
_SLOTS_AT_ONCE = 8


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
    directions, lengths = _directions(dictionary)
    gram = product(directions.T, directions)

    def update(state, data):
        code, c = state
        j = first_largest(jnp.abs(c))
        change = jnp.take_along_axis(c, j[:, None], 1)
        code = code.at[jnp.arange(len(j), dtype=jnp.int32), j].add(change[:, 0])
        return code, c - change * gram[j]

    residual = x - product(start, dictionary.T)
    (code, _), taken, gap = iterate(
        update,
        lambda state, x: _remaining_energy(x, directions, state[0]),
        (start * lengths[None, :], product(residual, directions)),
        x,
        tolerance=tolerance,
        max_iterations=k,
        check_every=1,
    )
    return Code(code / lengths[None, :], taken, gap)


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

    The batch algorithm of Rubinstein et al.: no residual is computed, only its correlations with the atoms, from the
    Gram matrix G and the code on the chosen atoms S,

    .. math:: c = D^T x - G_S a_S

    For each example, the inverse M of the Cholesky factor of :math:`G_{SS}` grows by a row per step;
    :math:`M^T M c_S` is then the change of the coefficients, which also corrects earlier rounding errors. A step costs
    as many operations as the chosen atoms have entries in G.

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
      implementation of the K-SVD algorithm using batch orthogonal matching pursuit, 2008 (Batch-OMP; keeping the
      inverse of the Cholesky factor, and the correction by the current correlations, are ours).
    """
    _check(k, at_most)
    check_loop(tolerance, k)
    x, dictionary, _, batch = problem(x, dictionary, None)
    if at_most is None and not isinstance(k, int):
        raise ValueError("k is an array; pass a static upper bound, such as at_most=32, or a Python integer.")
    most = max(1, min(k if at_most is None else at_most, *dictionary.shape))
    return restore_batch_axes(_orthogonal(x, dictionary, jnp.minimum(k, most), tolerance, most=most), batch)


@functools.partial(jax.jit, static_argnames="most")
def _orthogonal(x, dictionary, k, tolerance, *, most):
    at_once = min(_SLOTS_AT_ONCE, most)
    slots = -(-most // at_once) * at_once
    directions, lengths = _directions(dictionary)
    gram = product(directions.T, directions)
    squares = jnp.diagonal(gram)  # 1 up to rounding, 0 for an atom of norm 0

    def append(j, values, c, chosen, inverse, free, count):
        """Adds atom j to the code of one example, unless it depends on those chosen, and refits all coefficients."""
        # Rows and columns of the inverse from `count` on are 0, so what the other slots contain does not matter.
        along = product(inverse, gram[j, chosen])
        left = squares[j] - jnp.sum(along**2)
        new = left > _DEPENDENT
        row = jax.nn.one_hot(count, slots, dtype=left.dtype) - product(along, inverse)
        row = jnp.where(new, row / jnp.sqrt(jnp.where(new, left, 1)), 0)
        inverse, chosen = inverse.at[count].set(row, mode="drop"), chosen.at[count].set(j, mode="drop")
        values = values + product(product(inverse, c[chosen]), inverse)
        return values, chosen, inverse, free.at[j].set(False), count + new.astype(jnp.int32)

    def update(state, data):
        values, c, chosen, inverse, free, count = state
        j = first_largest(jnp.where(free, jnp.abs(c), 0))
        values, chosen, inverse, free, count = jax.vmap(append)(j, values, c, chosen, inverse, free, count)
        c = _subtract_explained(data[0], gram, values, chosen, jnp.max(count, initial=0), at_once=at_once)
        return values, c, chosen, inverse, free, count

    @jax.vmap
    def spread(values, chosen):
        """Returns the code of the directions `[examples, atoms]`."""
        return jnp.zeros(lengths.shape, values.dtype).at[chosen].add(values)

    def solve(x):
        b = product(x, directions)
        state = (
            # Behind the barrier, or XLA would compute the first code, of zeros, entry by entry while it compiles.
            lax.optimization_barrier(jnp.zeros((len(x), slots), x.dtype)),
            b,
            jnp.zeros((len(x), slots), jnp.int32),
            jnp.zeros((len(x), slots, slots), x.dtype),
            jnp.ones(b.shape, bool),
            jnp.zeros(len(x), jnp.int32),
        )
        (values, _, chosen, *_), taken, gap = iterate(
            update,
            lambda state, data: _remaining_energy(data[1], directions, spread(state[0], state[2])),
            state,
            (b, x),
            tolerance=tolerance,
            max_iterations=k,
            check_every=1,
        )
        return Code(spread(values, chosen) / lengths[None, :], taken, gap)

    return in_parts(solve, x)


def _subtract_explained(b: Array, gram: Array, values: Array, chosen: Array, count: Array, *, at_once: int) -> Array:
    r"""Returns :math:`D^T r = D^T x - G_S a_S` `[examples, atoms]`, given b = D^T x.

    Args:
      b: `[examples, atoms]`.
      gram: `[atoms, atoms]`.
      values: a_S `[examples, slots]`, 0 in slots without an atom.
      chosen: S, the atom of each slot `[examples, slots]`.
      count: the slots in use.
      at_once: the slots, a divisor of their number, whose atoms are subtracted in one pass over the correlations.
    """

    def subtract(block: int | Array, c: Array) -> Array:
        for slot in range(at_once):
            value, j = (lax.dynamic_index_in_dim(a, block * at_once + slot, 1, False) for a in (values, chosen))
            c = c - value[:, None] * gram[j]
        return c

    # The first pass is apart from the loop, which would copy b.
    return lax.fori_loop(1, -(-count // at_once), subtract, subtract(0, b))


def _check(k: int | Array, at_most: int | None) -> None:
    if isinstance(k, int) and k < 0:
        raise ValueError(f"k is {k}; expected a number of steps, 0 or more.")
    if at_most is not None and at_most < 1:
        raise ValueError(f"at_most is {at_most}; expected 1 or more, a static upper bound of k.")


def _directions(dictionary: Array) -> tuple[Array, Array]:
    """Returns the atoms scaled to norm 1, and their norms `[atoms]`; atoms of norm 0 stay 0 and get 1."""
    squares = jnp.sum(dictionary**2, 0)
    lengths = jnp.sqrt(jnp.where(squares > 0, squares, 1))
    return jnp.where(squares[None, :] == 0, 0, dictionary / lengths[None, :]), lengths


def _remaining_energy(x: Array, dictionary: Array, code: Array) -> Array:
    """Returns the fraction of the energy of x in the residual."""
    return ratio(jnp.sum((x - product(code, dictionary.T)) ** 2, -1), jnp.sum(x**2, -1))
