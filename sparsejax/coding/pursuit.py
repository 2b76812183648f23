"""Greedy codes of at most k atoms: matching pursuit and orthogonal matching pursuit, all examples at once."""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from sparsejax.coding.implicit import solver
from sparsejax.coding.iterate import check_loop, in_parts, iterate, reached
from sparsejax.coding.largest import first_largest
from sparsejax.coding.penalties import L1
from sparsejax.coding.problem import AnyArray, Code, Problem, arrays, check_weight, observe, restore_batch_axes
from sparsejax.coding.quadratic import observed, product, ratio
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

    An atom may be chosen again: its coefficient accumulates, so there are at most k atoms in the code. Once the
    residual is rounding, nothing more is added.

    Args:
      x: `[..., inputs]`.
      dictionary: `[inputs, atoms]`, atoms of any norm; atoms of norm 0 are never chosen.
      k: steps, 0 or more; may be traced. With an integer and no tolerance, the code has derivatives in reverse mode,
        through the steps, with the choices fixed.
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
    x, dictionary, start, batch = arrays(x, dictionary, initial)
    problem = Problem(x, dictionary, start, L1(0.0), 0.0, None)
    static = k if isinstance(k, int) and tolerance is None else None  # a loop with a static end has a reverse mode
    solved = _matching_pursuit(problem, None, (None if static is not None else k, tolerance), static=static)
    return restore_batch_axes(solved, batch)


@solver("static")
def _matching_pursuit(problem, goal, options, *, static):
    k, tolerance = options
    x, start = problem.x, problem.start
    directions, lengths = _directions(problem.dictionary)
    gram = product(directions.T, directions)
    b = product(x, directions)

    def update(state, data):
        code, c = state
        j = first_largest(jnp.abs(c))
        change = jnp.take_along_axis(c, j[:, None], 1)
        change = jnp.where(jnp.abs(change) > _rounding(data[1], 1)[:, None], change, 0)
        code = code.at[jnp.arange(len(j), dtype=jnp.int32), j].add(change[:, 0])
        return code, c - change * gram[j]

    (code, _), taken, gap = iterate(
        update,
        lambda state, data: _remaining_energy(data[0], directions, state[0]),
        (start * lengths[None, :], b - product(product(start, problem.dictionary.T), directions)),
        (x, b),
        tolerance=tolerance,
        max_iterations=k if static is None else static,
        check_every=1,
    )
    return Code(code / lengths[None, :], taken, gap, reached(gap, tolerance))


@checked
def orthogonal_matching_pursuit(
    x: Float[AnyArray, "*batch inputs"],
    dictionary: Float[AnyArray, "inputs atoms"],
    *,
    k: int | Int[Array, ""] | None = None,
    at_most: int | None = None,
    tolerance: float | Float[Array, ""] | None = None,
    error: float | Float[AnyArray, "*errors"] | None = None,
    mask: Bool[AnyArray, "*observed"] | None = None,
) -> Code:
    r"""Codes x by k different atoms, chosen as in `matching_pursuit`; refits all coefficients at each step.

    The batch algorithm of Rubinstein et al.: no residual is computed, only its correlations with the atoms, from the
    Gram matrix G and the code on the chosen atoms S,

    .. math:: c = D^T x - G_S a_S

    For each example, the inverse M of the Cholesky factor of :math:`G_{SS}` grows by a row per step;
    :math:`M^T M c_S` is then the change of the coefficients, which also corrects earlier rounding errors. A step costs
    as many operations as the chosen atoms have entries in G. The code has derivatives, in forward and reverse mode:
    those of the least-squares solution on its atoms.

    Args:
      x: `[..., inputs]`.
      dictionary: `[inputs, atoms]`, atoms of any norm; an atom in the span of those already chosen (to 1e-5 of its
        squared norm) is never chosen, nor is any once the residual is rounding.
      k: steps, 0 or more; may be traced. None for as many as the tolerance or the error needs.
      at_most: a static upper bound of k, which a traced k needs; None for k itself, or for the largest possible.
      tolerance: stop for an example when this fraction of its energy is left; None for all k steps.
      error: stop for an example when this squared error is left, in the squared unit of x: a number, or one for each
        example `[...]`.
      mask: True for the inputs that were observed, broadcast to x: the others have no error, and may be nan. Atoms are
        compared by their observed parts. One mask per example needs the residual rather than the Gram matrix, which
        takes several times as long. None for all.

    Returns:
      Code, where the gap is the remaining fraction of the energy.

    Raises:
      ValueError: shapes do not fit, a Python number is out of range, k is traced without a bound, or there is neither
        k, nor tolerance, nor error.

    References:
      Pati, Rezaiifar & Krishnaprasad, Orthogonal matching pursuit, 1993; Rubinstein, Zibulevsky & Elad, Efficient
      implementation of the K-SVD algorithm using batch orthogonal matching pursuit, 2008 (Batch-OMP; keeping the
      inverse of the Cholesky factor, and the correction by the current correlations, are ours).
    """
    if k is None and tolerance is None and error is None:
        raise ValueError("k, tolerance and error are None; expected how many atoms to choose, or what error to reach.")
    _check(k, at_most)
    check_loop(tolerance, 0 if k is None else k)
    x, dictionary, start, batch = arrays(x, dictionary, None)
    if error is not None:
        check_weight("error", error)
        if jnp.ndim(error) and jnp.shape(error) != batch:
            raise ValueError(f"error has shape {jnp.shape(error)}; expected a number, or one per example, {batch}.")
        error = jnp.broadcast_to(jnp.asarray(error, x.dtype), batch).reshape(-1)
    if at_most is None and isinstance(k, jax.Array):
        raise ValueError("k is an array; pass a static upper bound, such as at_most=32, or a Python integer.")
    bounds = [n for n in (k, at_most) if isinstance(n, int)]
    most = max(1, min(*bounds, *dictionary.shape))
    steps = jnp.asarray(most if k is None else jnp.minimum(k, most), jnp.int32)
    x, dictionary, mask = observe(x, dictionary, mask, batch)
    problem = Problem(x, dictionary, start, L1(0.0), 0.0, mask)
    return restore_batch_axes(_orthogonal(problem, (steps, tolerance, error), most=most), batch)


@solver("most")
def _orthogonal(problem, goal, _, *, most):
    k, tolerance, error = goal
    allowed = None
    if tolerance is not None or error is not None:
        allowed = jnp.zeros(len(problem.x), problem.x.dtype) if error is None else error
        if tolerance is not None:
            allowed = jnp.maximum(allowed, tolerance * jnp.sum(problem.x**2, -1))
    given = (problem.x, *([] if allowed is None else [allowed]), *([] if problem.mask is None else [problem.mask]))

    def solve(x, *more):
        allowed_here, mask = (
            more[0] if allowed is not None else None,
            more[-1] if problem.mask is not None else None,
        )
        of = _by_gram if mask is None else _by_residual
        return of(x, problem.dictionary, mask, k, allowed_here, most=most)

    return in_parts(solve, *given)


def _by_gram(x, dictionary, _, k, allowed, *, most):
    at_once = min(_SLOTS_AT_ONCE, most)
    slots = -(-most // at_once) * at_once
    directions, lengths = _directions(dictionary)
    gram = product(directions.T, directions)
    squares = jnp.diagonal(gram)  # 1 up to rounding, 0 for an atom of norm 0

    def update(state, data):
        values, c, chosen, inverse, free, count = state
        j = first_largest(jnp.where(free, jnp.abs(c), 0))
        values, chosen, inverse, free, count = jax.vmap(_append)(
            j, gram[j[:, None], chosen], squares[j], values, c, chosen, inverse, free, count, _rounding(data[1], 16)
        )
        c = _subtract_explained(data[1], gram, values, chosen, jnp.max(count, initial=0), at_once=at_once)
        return values, c, chosen, inverse, free, count

    b = product(x, directions)
    # Behind the barrier, or XLA would compute the first code, of zeros, entry by entry while it compiles.
    values = lax.optimization_barrier(jnp.zeros((len(x), slots), x.dtype))
    state = (values, b, *_nothing_chosen(b, slots))

    def energy_of(state, data):
        return jnp.sum((data[0] - product(_spread(state[0], state[2], lengths), directions.T)) ** 2, -1)

    def code_of(state):
        return _spread(state[0], state[2], lengths) / lengths[None, :]

    return _pursue(update, energy_of, state, (x, b), k, allowed, code_of)


def _by_residual(x, dictionary, mask, k, allowed, *, most):
    """As `_by_gram`, for examples whose observed inputs differ: then so do the Gram matrices."""
    lengths = jnp.sqrt(product(mask.astype(x.dtype), dictionary**2))
    scale = jnp.where(lengths > 0, 1 / jnp.where(lengths > 0, lengths, 1), 0)

    def update(state, data):
        values, c, chosen, inverse, free, count, atoms = state
        x, b, scale, mask = data
        j = first_largest(jnp.where(free, jnp.abs(c), 0))
        new = observed(dictionary.T[j] * jnp.take_along_axis(scale, j[:, None], 1), mask)
        along = jnp.einsum("esi,ei->es", atoms, new, precision=lax.Precision.HIGHEST)
        before = count
        values, chosen, inverse, free, count = jax.vmap(_append)(
            j, along, jnp.sum(new**2, -1), values, c, chosen, inverse, free, count, _rounding(b, 16)
        )
        slot = jnp.arange(values.shape[1], dtype=jnp.int32)[None, :] == before[:, None]
        atoms = jnp.where((slot & (count > before)[:, None])[:, :, None], new[:, None, :], atoms)
        residual = x - jnp.einsum("es,esi->ei", values, atoms, precision=lax.Precision.HIGHEST)
        return values, product(residual, dictionary) * scale, chosen, inverse, free, count, atoms

    b = product(x, dictionary) * scale
    values = jnp.zeros((len(x), most), x.dtype)
    state = (values, b, *_nothing_chosen(b, most), jnp.zeros((len(x), most, x.shape[1]), x.dtype))

    def energy_of(state, data):
        explained = jnp.einsum("es,esi->ei", state[0], state[6], precision=lax.Precision.HIGHEST)
        return jnp.sum((data[0] - explained) ** 2, -1)

    def code_of(state):
        return _spread(state[0], state[2], lengths[0]) * scale

    return _pursue(update, energy_of, state, (x, b, scale, mask), k, allowed, code_of)


def _append(j, along, square, values, c, chosen, inverse, free, count, rounding):
    """Adds atom j to the code of one example, unless it depends on those chosen, and refits all coefficients.

    Args:
      j: the atom.
      along: its products with the chosen atoms `[slots]`.
      square: its squared length.
      values: coefficients of the chosen atoms `[slots]`.
      c: correlations of all atoms with the residual `[atoms]`.
      chosen: the chosen atoms `[slots]`.
      inverse: that of the Cholesky factor of their Gram matrix `[slots, slots]`. From row and column `count` on it is
        0, so what the other slots contain does not matter.
      free: which atoms may be chosen `[atoms]`.
      count: of chosen atoms.
      rounding: the largest correlation that is only rounding.
    """
    along = product(inverse, along)
    left = square - jnp.sum(along**2)
    new = (left > _DEPENDENT) & (jnp.abs(c[j]) > rounding)
    row = jax.nn.one_hot(count, len(values), dtype=left.dtype) - product(along, inverse)
    row = jnp.where(new, row / jnp.sqrt(jnp.where(new, left, 1)), 0)
    inverse, chosen = inverse.at[count].set(row, mode="drop"), chosen.at[count].set(j, mode="drop")
    values = values + product(product(inverse, c[chosen]), inverse)
    return values, chosen, inverse, free.at[j].set(False), count + new.astype(jnp.int32)


def _nothing_chosen(b: Array, slots: int) -> tuple[Array, ...]:
    examples = len(b)
    return (
        jnp.zeros((examples, slots), jnp.int32),
        jnp.zeros((examples, slots, slots), b.dtype),
        jnp.ones(b.shape, bool),
        jnp.zeros(examples, jnp.int32),
    )


def _pursue(update, energy_of, state, data, k, allowed, code_of) -> Code:
    """Takes k steps, or until the energy that an example is allowed to keep is left."""
    whole = jnp.sum(data[0] ** 2, -1)

    def measure(state, given):
        data, _, whole = given
        return ratio(energy_of(state, data), whole)

    def measure_both(state, given):
        energy, allowed = energy_of(state, given[0]), given[1]
        excess = jnp.where(energy > allowed, energy / jnp.where(allowed > 0, allowed, jnp.finfo(energy.dtype).tiny), 0)
        return excess, ratio(energy, given[2])

    limited = allowed is not None
    tolerance = (1.0, jnp.inf) if limited else None
    state, taken, left = iterate(
        lambda state, given: update(state, given[0]),
        measure_both if limited else measure,
        state,
        (data, allowed, whole),
        tolerance=tolerance,
        max_iterations=k,
        check_every=1,
    )
    return Code(code_of(state), taken, left[1] if limited else left, reached(left, tolerance))


@functools.partial(jax.vmap, in_axes=(0, 0, None))
def _spread(values: Array, chosen: Array, like: Array) -> Array:
    """Returns the values of the slots at their atoms, `[examples, atoms]`."""
    return jnp.zeros(like.shape, values.dtype).at[chosen].add(values)


def _rounding(b: Array, errors: int) -> Float[Array, "examples"]:
    """Returns the largest correlation of each example that is only so many rounding errors, given those of x."""
    return errors * jnp.finfo(b.dtype).eps * jnp.max(jnp.abs(b), -1, initial=0)


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


def _check(k: int | Array | None, at_most: int | None) -> None:
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
