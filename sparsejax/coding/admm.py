"""The lasso by alternating directions, with a rho that suits each example."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from sparsejax.coding.implicit import solver
from sparsejax.coding.iterate import check_loop, goal, is_unfinished, iterate, reached
from sparsejax.coding.lasso import parts
from sparsejax.coding.problem import AnyArray, Code, lasso_problem, restore_batch_axes
from sparsejax.coding.quadratic import ratio, regularized_solver, shortfall
from sparsejax.functional.arguments import checked

# Powers of ten of rho that are tried, relative to the mean squared norm of the atoms.
_LEAST, _MOST = -5, 1
# Rounds before an example may change its rho for the first time; then after as many again, so that no rho oscillates.
# Fewer find a better rho sooner; more need fewer passes over the whole batch. 10 and 20 take about as long.
_ROUNDS = 20


@checked
def admm(
    x: Float[AnyArray, "*batch inputs"],
    dictionary: Float[AnyArray, "inputs atoms"],
    *,
    l1: float | Float[AnyArray, "..."],
    l2: float | Float[Array, ""] = 0.0,
    nonnegative: bool = False,
    initial: Float[AnyArray, "*batch atoms"] | None = None,
    tolerance: float | Float[Array, ""] | None = 1e-4,
    violation: float | Float[Array, ""] | None = 5e-4,
    max_iterations: int = 2000,
    check_every: int = 5,
    relaxation: float = 1.8,
    rho: float | Float[Array, ""] | None = None,
) -> Code:
    r"""Codes x by alternating directions: a least-squares step with a matrix inverted once, then soft thresholding.

    .. math:: y = (D^T D + \rho I)^{-1} (D^T x + \rho (a - u)), \quad h = 1.8\, y - 0.8\, a, \quad
        a \leftarrow T_{\lambda/\rho}(h + u), \quad u \leftarrow u + h - a

    An iteration costs as much as one of FISTA, and natural images need a third as many. How many depends on rho: one
    that is ten times too large or small needs several times as many. So each example has its own, a power of ten times
    the mean squared norm of the atoms: at the start the next above :math:`8 \lambda / \max |D^T x|`, at most 1; after
    20, 40, 80, ... rounds the one that would make its primal and dual residuals equally large. Examples with the same
    rho run together.

    Args:
      x: as in `ista`, like all other arguments. One mask per example would need one matrix per example: use `fista`.
      dictionary: `[inputs, atoms]`.
      l1: lambda > 0: a number, one per atom `[atoms]`, or an array that broadcasts to the code; may be traced.
      l2: lambda_2 >= 0 of the elastic net; may be traced.
      nonnegative: codes of 0 or more.
      initial: a code to start from, `[..., atoms]`.
      tolerance: largest relative duality gap; None for exactly `max_iterations`.
      violation: largest KKT violation over l1 to reach as well; None for any.
      max_iterations: upper bound, rounded up to whole rounds.
      check_every: iterations of a round, after which the gap is measured.
      relaxation: in (0, 2); 1 for none.
      rho: over the mean squared norm of the atoms, for all examples and iterations; None for one that adapts, or for 1
        without a tolerance. May be traced.

    Returns:
      Code, with the relative duality gap.

    Raises:
      ValueError: as `ista`, or relaxation or rho is out of range.

    References:
      Boyd, Parikh, Chu, Peleato & Eckstein, Distributed optimization and statistical learning via the alternating
      direction method of multipliers, 2011, section 6.4 and equations 3.13 and 3.19; Stellato, Banjac, Goulart,
      Bemporad & Boyd, OSQP: an operator splitting solver for quadratic programs, 2020, section 5.2 (the new rho).
    """
    if not 0 < relaxation < 2:
        raise ValueError(f"relaxation is {relaxation}; expected a number between 0 and 2, 1 for none.")
    if isinstance(rho, (int, float)) and not rho > 0:
        raise ValueError(f"rho is {rho}; expected a number above 0, or None for one that adapts.")
    check_loop(tolerance, max_iterations, check_every, violation)
    problem, batch = lasso_problem(x, dictionary, initial, l1=l1, l2=l2, nonnegative=nonnegative)
    settings = {"warm": initial is not None, "max_iterations": max_iterations, "check_every": check_every}
    options = (relaxation, 1.0 if rho is None and tolerance is None else rho)
    return restore_batch_axes(_admm(problem, goal(tolerance, violation), options, **settings), batch)


@solver("warm", "max_iterations", "check_every")
def _admm(problem, goal, options, *, warm, max_iterations, check_every):
    relaxation, fixed = options
    evaluate, _, penalty_of = parts(problem)
    data = problem.data()
    if not problem.dictionary.size:  # no atoms, or atoms without numbers
        count = len(problem.start)
        zero = jnp.zeros(count, problem.x.dtype)
        return Code(0 * problem.start, jnp.zeros(count, jnp.int32), zero, jnp.ones(count, bool))
    squares = jnp.mean(jnp.sum(problem.dictionary**2, 0))
    unit = jnp.where(squares > 0, squares, 1)
    most = -(-max_iterations // check_every)
    invert, least = regularized_solver(problem.dictionary)

    def solver_of(rho):
        least_squares = invert(rho + problem.l2)

        def shrink(z, data):
            return penalty_of(data).shrink(z, 1 / rho)

        def turn(z, anchor, gradient, data):
            """Returns z = a + u after an iteration, and y."""
            code = shrink(z, data)
            # The step is relative to an earlier code: the inverse's rounding then multiplies a term that tends to 0,
            # while the product with D^T x + rho (a - u) itself would leave a gap of 1e-5 in float32.
            solved = anchor + least_squares(gradient + rho * (2 * code - z))
            return relaxation * solved + (1 - relaxation) * code + z - code, solved

        def update(state, data):
            start, c, _ = state
            anchor = shrink(start, data)
            gradient = c - rho * anchor
            z = lax.fori_loop(0, check_every, lambda _, z: turn(z, anchor, gradient, data)[0], start)
            return z, *evaluate(shrink(z, data), data)

        def left_of(state, data):
            z, c, energy = state
            return shortfall(shrink(z, data), c, energy, data.b, penalty_of(data))

        return shrink, turn, update, left_of

    def run(rho, state, data, rounds):
        _, _, update, left_of = solver_of(rho)
        return iterate(update, left_of, state, data, tolerance=goal, max_iterations=rounds, check_every=1)

    start = problem.start
    c, energy = evaluate(start, data) if warm else (data.b, jnp.sum(problem.x**2, -1))
    dual = penalty_of(data).dual(start, c)
    if fixed is not None:
        rho = unit * fixed
        state, taken, left = run(rho, (start + dual / rho, c, energy), data, most)
        return Code(solver_of(rho)[0](state[0], data), check_every * taken, left[0], reached(left, goal))
    return _adapt(problem, goal, solver_of, (start, dual, c, energy), unit, least / unit, most, check_every)


def _adapt(problem, goal, solver_of, start, unit, least, most, check_every):
    """Runs the examples that share a rho until the next change, and gives each of them its next rho."""
    _, _, penalty_of = parts(problem)
    data = problem.data()

    def rho_of(level):
        return unit * jnp.asarray(10, unit.dtype) ** level.astype(unit.dtype)

    def level_of(rho, rounded):
        """Returns the level of a relative rho."""
        level = rounded(jnp.log10(jnp.clip(rho, 10.0**_LEAST, 10.0**_MOST)))
        return jnp.maximum(level, jnp.ceil(jnp.log10(jnp.maximum(least, 10.0**_LEAST)))).astype(jnp.int32)

    def unfinished(work):
        return is_unfinished(work[2], goal) & (work[3] < most)

    def segment(work):
        """Runs the examples with the fewest rounds, of these those with the smallest rho."""
        code, dual, left, taken, level, c, energy = work
        ready = unfinished(work)
        before = jnp.min(jnp.where(ready, taken, most), initial=most)
        ready &= taken == before
        chosen = jnp.min(jnp.where(ready, level, _MOST), initial=_MOST)
        ready &= level == chosen
        rho = rho_of(chosen)
        shrink, turn, update, left_of = solver_of(rho)
        rounds = jnp.minimum(jnp.maximum(before, _ROUNDS), most - before)
        state, more, now = iterate(
            lambda state, given: update(state, given[0]),
            lambda state, given: tuple(jnp.where(given[1], one, 0) for one in left_of(state, given[0])),
            (code + dual / rho, c, energy),
            (data, ready),
            tolerance=goal,
            max_iterations=rounds,
            check_every=1,
        )

        def put(new, old):
            return jnp.where(ready.reshape(-1, *[1] * (old.ndim - 1)), new, old)

        z = state[0]
        new_code = shrink(z, data)
        new_dual = rho * (z - new_code)
        work = (
            put(new_code, code), put(new_dual, dual), tuple(map(put, now, left)), taken + put(more, 0 * taken), level,
            put(state[1], c), put(state[2], energy),
        )  # fmt: skip

        def balance(work):
            after, solved = turn(z, new_code, state[1] - rho * new_code, data)
            after = shrink(after, data)
            primal = ratio(_length(solved - after), jnp.maximum(_length(solved), _length(after)))
            dual = ratio(rho * _length(after - new_code), _length(new_dual))
            tiny = jnp.finfo(z.dtype).tiny
            better = level_of(rho / unit * jnp.sqrt(jnp.maximum(primal, tiny) / jnp.maximum(dual, tiny)), jnp.round)
            return put(better, level)

        return (*work[:4], lax.cond(jnp.any(unfinished(work)), balance, lambda _: level, work), *work[5:])

    code, dual, c, energy = start
    left = shortfall(code, c, energy, data.b, penalty_of(data))
    level = level_of(jnp.minimum(1, 8 / penalty_of(data).excess(data.b)), jnp.ceil)
    work = (code, dual, left, jnp.zeros(len(code), jnp.int32), level, c, energy)
    work = lax.while_loop(lambda work: jnp.any(unfinished(work)), segment, work)
    return Code(work[0], check_every * work[3], work[2][0], reached(work[2], goal))


def _length(a: Array) -> Float[Array, "examples"]:
    return jnp.sqrt(jnp.sum(a**2, -1))
