r"""The frame of all lasso solvers: examples that are not finite, and derivatives of the solution.

At the minimum, :math:`F(a) = D^T (x - D a) - \lambda_2 a - \nabla \Omega(a) = 0` for the coefficients that are not 0,
while the others stay 0 for small changes of the problem. So the derivative of the code is the solution of a linear
system in the former, whatever the solver did to get there (Bertrand et al., Implicit differentiation of Lasso-type
models for hyperparameter optimization, 2020).
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float

from sparsejax.coding.problem import Code, Problem, fill_in, leave_out
from sparsejax.coding.quadratic import observed, product, ratio

Solver = Callable[..., Code]


def solver(*static: str) -> Callable[[Solver], Solver]:
    """Makes a jitted solver of `solve(problem, goal, options, **settings)`, which codes finite examples.

    With a goal, the tolerances to reach, it is differentiated at the solution, in forward and reverse mode; without
    one, through its iterations. Goal and options are pytrees without derivatives.

    Args:
      static: names of the settings.
    """

    def wrap(solve: Solver) -> Solver:
        @functools.partial(jax.jit, static_argnames=static)
        @functools.wraps(solve)
        def of_all(problem: Problem, goal: Any, options: Any = (), **settings: Any) -> Code:
            x, start, finite = leave_out(problem.x, problem.start, problem.dictionary)
            cleaned = problem._replace(x=x, start=start)
            run = functools.partial(solve, **settings)
            code = run(cleaned, None, options) if goal is None else _differentiated(run)(cleaned, goal, options)
            return fill_in(code, finite)

        return of_all

    return wrap


def _differentiated(run: Solver) -> Solver:
    """Returns the solver with the derivatives of the solution with respect to the problem."""
    run_here = jax.custom_jvp(run)

    @run_here.defjvp
    def _(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Code, Code]:
        problem, goal, options = primals
        solved = run_here(problem, goal, options)
        change = jax.tree.map(_no_change, solved)
        return solved, change._replace(code=_change(lax.stop_gradient(solved.code), problem, tangents[0]))

    return run_here


def _no_change(a: Array) -> Any:
    return jnp.zeros_like(a) if jnp.issubdtype(a.dtype, jnp.floating) else np.zeros(a.shape, jax.dtypes.float0)


def _change(code: Array, problem: Problem, tangents: Problem) -> Float[Array, "examples atoms"]:
    """Returns the change of the solution for a change of the problem."""
    on = code != 0

    def misfit(code: Array, problem: Problem) -> Array:
        residual = observed(problem.x - product(code, problem.dictionary.T), problem.mask)
        return product(residual, problem.dictionary) - problem.l2 * code - problem.penalty.slope(code)

    def by_problem(x: Array, dictionary: Array, penalty: Any, l2: Any) -> Array:
        return misfit(code, problem._replace(x=x, dictionary=dictionary, penalty=penalty, l2=l2))

    def curvature(direction: Array) -> Array:
        _, change = jax.jvp(lambda code: misfit(code, problem), (code,), (jnp.where(on, direction, 0),))
        return jnp.where(on, -change, direction)

    def of(problem: Problem) -> tuple[Any, ...]:
        return problem.x, problem.dictionary, problem.penalty, problem.l2

    _, force = jax.jvp(by_problem, of(problem), of(tangents))
    return lax.custom_linear_solve(curvature, jnp.where(on, force, 0), conjugate_gradients, symmetric=True)


def conjugate_gradients(curvature: Callable[[Array], Array], force: Array) -> Array:
    """Solves a symmetric positive definite system for each row, until rounding or as many steps as it has variables.

    Args:
      curvature: the product of the rows `[examples, n]` with their matrices.
      force: right sides `[examples, n]`.
    """
    least = jnp.finfo(force.dtype).eps ** 2 * jnp.sum(force**2, -1)

    def is_on(state: tuple[Array, ...]) -> Bool[Array, ""]:
        return jnp.any(state[3] > least) & (state[4] < 2 * force.shape[-1])

    def step(state: tuple[Array, ...]) -> tuple[Array, ...]:
        solution, left, direction, energy, count = state
        change = curvature(direction)
        length = jnp.where(energy > least, ratio(energy, jnp.sum(direction * change, -1)), 0)[:, None]
        solution, left = solution + length * direction, left - length * change
        new = jnp.sum(left**2, -1)
        return solution, left, left + ratio(new, energy)[:, None] * direction, new, count + 1

    start = jnp.zeros_like(force), force, force, jnp.sum(force**2, -1), jnp.int32(0)
    return lax.while_loop(is_on, step, start)[0]
