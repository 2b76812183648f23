"""The locally competitive algorithm: a network of leaky integrators that inhibit one another."""

from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from sparsejax.coding.implicit import solver
from sparsejax.coding.iterate import check_loop, goal, iterate, reached
from sparsejax.coding.lasso import parts
from sparsejax.coding.problem import AnyArray, Code, lasso_problem, restore_batch_axes
from sparsejax.coding.quadratic import largest_eigenvalue
from sparsejax.functional.arguments import checked


@checked
def lca(
    x: Float[AnyArray, "*batch inputs"],
    dictionary: Float[AnyArray, "inputs atoms"],
    *,
    l1: float | Float[AnyArray, "..."],
    l2: float | Float[Array, ""] = 0.0,
    nonnegative: bool = False,
    mask: Bool[AnyArray, "*observed"] | None = None,
    threshold: Literal["soft", "hard"] = "soft",
    initial: Float[AnyArray, "*batch atoms"] | None = None,
    step: float | Float[Array, ""] | None = None,
    tolerance: float | Float[Array, ""] | None = 1e-4,
    violation: float | Float[Array, ""] | None = 5e-4,
    max_iterations: int = 2000,
    check_every: int = 10,
) -> Code:
    r"""Codes x by Euler steps of :math:`\tau \dot u = b - u - (D^T D - I) a, \; a = T_\lambda(u), \; b = D^T x`.

    Its fixed points with the soft threshold are the solutions of the lasso, for atoms of any norm; with the hard one,
    they are minima of the squared error plus lambda^2 / 2 for each atom used (of length 1).

    Args:
      x: `[..., inputs]`.
      dictionary: `[inputs, atoms]`; the dynamics are those of the paper if its atoms have norm 1.
      l1: the threshold lambda > 0: a number, one per atom `[atoms]`, or an array that broadcasts to the code; may be
        traced.
      l2: lambda_2 >= 0 of the elastic net, a further leak of active units; may be traced.
      nonnegative: codes of 0 or more.
      mask: True for the inputs that were observed, broadcast to x; None for all.
      threshold: "soft", or "hard", which keeps the value of what is above it.
      initial: a code to start from, `[..., atoms]`: u starts where this is its fixed point. None for u = 0.
      step: Euler's step over the time constant, dt / tau; None for the inverse of the Gram matrix' largest
        eigenvalue, half of the stability limit with all atoms active. The paper's time constant is 10 ms.
      tolerance: with the soft threshold, largest relative duality gap; with the hard one, largest
        :math:`|\tau \dot u|` over lambda. None for exactly `max_iterations`.
      violation: with the soft threshold, largest KKT violation over l1 to reach as well; None for any.
      max_iterations: upper bound.
      check_every: iterations between two measures.

    Returns:
      Code, with the gap defined under `tolerance`.

    Raises:
      ValueError: shapes do not fit, a Python number is out of range, or threshold is unknown.

    References:
      Rozell, Johnson, Baraniuk & Olshausen, Sparse coding via thresholding and local competition in neural circuits,
      2008, equations 2.3 to 2.5.
    """
    if isinstance(step, (int, float)) and not step > 0:
        raise ValueError(f"step is {step}; expected a positive dt / tau, or None for the largest that is safe.")
    check_loop(tolerance, max_iterations, check_every, violation)
    if threshold == "hard" and isinstance(l1, jax.Array):
        l1 = lax.stop_gradient(l1)  # it decides which units are active, and their values do not depend on it
    problem, batch = lasso_problem(x, dictionary, initial, l1=l1, l2=l2, nonnegative=nonnegative, mask=mask)
    settings = {"threshold": threshold, "max_iterations": max_iterations, "check_every": check_every}
    solved = _lca(problem, goal(tolerance, violation), step, warm=initial is not None, **settings)
    return restore_batch_axes(solved, batch)


@solver("threshold", "max_iterations", "check_every", "warm")
def _lca(problem, goal, step, *, warm, threshold, max_iterations, check_every):
    evaluate, left_of, penalty_of = parts(problem)
    rate = 1 / jnp.maximum(largest_eigenvalue(problem.dictionary) + problem.l2, 1) if step is None else step

    def activate(u, data):
        penalty = penalty_of(data)
        if threshold == "soft":
            return penalty.shrink(u)
        return jnp.where(penalty.shrink(u) != 0, u, 0)

    def drive(u, data):
        code = activate(u, data)
        return evaluate(code, data)[0] + code - u

    def measure(u, data):
        if threshold == "soft":
            return left_of(activate(u, data), data)
        left = jnp.max(jnp.abs(drive(u, data)) / penalty_of(data).l1, -1, initial=0)
        return left, jnp.zeros_like(left)

    data, u = problem.data(), problem.start
    if warm:
        c, penalty = evaluate(u, data)[0], penalty_of(data)
        u = u + penalty.dual(u, c) if threshold == "soft" else jnp.where(u != 0, u, penalty.dual(u, c))
    u, taken, left = iterate(
        lambda u, data: u + rate * drive(u, data),
        measure,
        u,
        data,
        tolerance=goal,
        max_iterations=max_iterations,
        check_every=check_every,
    )
    return Code(activate(u, data), taken, left[0], reached(left, goal))
