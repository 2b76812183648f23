r"""Solvers of the lasso by gradient steps: ISTA and FISTA.

All lasso solvers, also `admm` and `lca`, have the same interface and minimise, for each example,
:math:`\frac12 \|x - D a\|^2 + \sum_i \lambda_i |a_i| + \frac{\lambda_2}{2} \|a\|^2`. Their results have derivatives:
those of the solution with a tolerance, those of the iterations without one. `admm` is the fastest, also for small l1
and coherent atoms; `fista` takes masks, and needs no factorisation.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from sparsejax.coding.implicit import solver
from sparsejax.coding.iterate import check_loop, goal, iterate, reached
from sparsejax.coding.penalties import Penalty
from sparsejax.coding.problem import AnyArray, Code, Problem, lasso_problem, restore_batch_axes
from sparsejax.coding.quadratic import Data, correlations, safe_step, shortfall
from sparsejax.functional.arguments import checked


@checked
def ista(
    x: Float[AnyArray, "*batch inputs"],
    dictionary: Float[AnyArray, "inputs atoms"],
    *,
    l1: float | Float[AnyArray, "..."],
    l2: float | Float[Array, ""] = 0.0,
    nonnegative: bool = False,
    mask: Bool[AnyArray, "*observed"] | None = None,
    initial: Float[AnyArray, "*batch atoms"] | None = None,
    tolerance: float | Float[Array, ""] | None = 1e-4,
    violation: float | Float[Array, ""] | None = 5e-4,
    max_iterations: int = 2000,
    check_every: int = 10,
) -> Code:
    r"""Codes x by iterative soft thresholding: :math:`a \leftarrow T_{\lambda/L}(a + D^T (x - D a) / L)`.

    Args:
      x: `[..., inputs]`.
      dictionary: `[inputs, atoms]`, atoms of any norm.
      l1: lambda > 0: a number, one per atom `[atoms]`, or an array that broadcasts to the code, such as `[..., 1]` for
        one per example; may be traced.
      l2: lambda_2 >= 0, weight of half the squared length of the code (elastic net); may be traced.
      nonnegative: codes of 0 or more.
      mask: True for the inputs that were observed, broadcast to x: the others have no error, and may be nan. None for
        all.
      initial: a code to start from, `[..., atoms]`; None for zeros.
      tolerance: largest relative duality gap (see `duality_gap`); an example that has reached it is frozen. None for
        exactly `max_iterations`, without measuring. Rounding to float32 leaves about 1e-6, and more where the objective
        is far below half the energy of x.
      violation: largest KKT violation over l1 (see `kkt_violation`) to reach as well, as far as float32 resolves it;
        None for any. It controls small coefficients, to which the gap is insensitive.
      max_iterations: upper bound.
      check_every: iterations between two measures of the gap, which costs about as much as one of them.

    Returns:
      Code, with the relative duality gap.

    Raises:
      ValueError: shapes do not fit, or a known number is out of range.

    References:
      Daubechies, Defrise & De Mol, An iterative thresholding algorithm for linear inverse problems, 2004.
    """
    check_loop(tolerance, max_iterations, check_every, violation)
    problem, batch = lasso_problem(x, dictionary, initial, l1=l1, l2=l2, nonnegative=nonnegative, mask=mask)
    settings = {"max_iterations": max_iterations, "check_every": check_every}
    return restore_batch_axes(_ista(problem, goal(tolerance, violation), **settings), batch)


@solver("max_iterations", "check_every")
def _ista(problem, goal, _, *, max_iterations, check_every):
    evaluate, measure, penalty_of = parts(problem)
    step = safe_step(problem.dictionary, l2=problem.l2)

    def update(code, data):
        return penalty_of(data).shrink(code + step * evaluate(code, data)[0], step)

    code, taken, left = iterate(
        update, measure, problem.start, problem.data(), tolerance=goal,
        max_iterations=max_iterations, check_every=check_every,
    )  # fmt: skip
    return Code(code, taken, left[0], reached(left, goal))


@checked
def fista(
    x: Float[AnyArray, "*batch inputs"],
    dictionary: Float[AnyArray, "inputs atoms"],
    *,
    l1: float | Float[AnyArray, "..."],
    l2: float | Float[Array, ""] = 0.0,
    nonnegative: bool = False,
    mask: Bool[AnyArray, "*observed"] | None = None,
    initial: Float[AnyArray, "*batch atoms"] | None = None,
    tolerance: float | Float[Array, ""] | None = 1e-4,
    violation: float | Float[Array, ""] | None = 5e-4,
    max_iterations: int = 2000,
    check_every: int = 10,
) -> Code:
    """Codes x by accelerated soft thresholding, with the momentum of an example restarted when it points uphill.

    Args:
      x: `[..., inputs]`.
      dictionary: `[inputs, atoms]`, atoms of any norm.
      l1: lambda > 0: a number, one per atom `[atoms]`, or an array that broadcasts to the code; may be traced.
      l2: lambda_2 >= 0 of the elastic net; may be traced.
      nonnegative: codes of 0 or more.
      mask: True for the inputs that were observed, broadcast to x; None for all.
      initial: a code to start from, `[..., atoms]`; None for zeros.
      tolerance: largest relative duality gap (see `duality_gap`); an example that has reached it is frozen. None for
        exactly `max_iterations`, without measuring.
      violation: largest KKT violation over l1 (see `kkt_violation`) to reach as well, as far as float32 resolves it;
        None for any.
      max_iterations: upper bound.
      check_every: iterations between two measures of the gap, which costs about as much as one of them.

    Returns:
      Code `[..., atoms]`, with the relative duality gap.

    Raises:
      ValueError: shapes do not fit, or a known number is out of range.

    References:
      Beck & Teboulle, A fast iterative shrinkage-thresholding algorithm, 2009; O'Donoghue & Candès, Adaptive restart
      for accelerated gradient schemes, 2015 (the gradient scheme, separately for each example).
    """
    check_loop(tolerance, max_iterations, check_every, violation)
    problem, batch = lasso_problem(x, dictionary, initial, l1=l1, l2=l2, nonnegative=nonnegative, mask=mask)
    settings = {"max_iterations": max_iterations, "check_every": check_every}
    return restore_batch_axes(accelerate(problem, goal(tolerance, violation), **settings), batch)


@solver("max_iterations", "check_every")
def accelerate(problem, goal, _, *, max_iterations, check_every):
    """Runs FISTA for any penalty."""
    evaluate, measure, penalty_of = parts(problem)
    step = safe_step(problem.dictionary, l2=problem.l2)

    def update(state, data):
        code, ahead, t = state
        new = penalty_of(data).shrink(ahead + step * evaluate(ahead, data)[0], step)
        t = jnp.where(jnp.sum((ahead - new) * (new - code), -1) > 0, 1, t)
        next_t = (1 + jnp.sqrt(1 + 4 * t**2)) / 2
        return new, new + ((t - 1) / next_t)[:, None] * (new - code), next_t

    start = problem.start
    state, taken, left = iterate(
        update,
        lambda state, data: measure(state[0], data),
        (start, start, jnp.ones(len(start), start.dtype)),
        problem.data(),
        tolerance=goal,
        max_iterations=max_iterations,
        check_every=check_every,
    )
    return Code(state[0], taken, left[0], reached(left, goal))


def parts(problem: Problem):
    """Returns functions of a code and Data: correlations and energy, the shortfall; and the penalty of Data."""
    evaluate = correlations(problem.dictionary, l2=problem.l2, gram=problem.mask is None)

    def penalty_of(data: Data) -> Penalty:
        return problem.penalty if data.penalty is None else data.penalty

    def measure(code: Array, data: Data) -> tuple[Array, Array]:
        return shortfall(code, *evaluate(code, data), data.b, penalty_of(data))

    return evaluate, measure, penalty_of
