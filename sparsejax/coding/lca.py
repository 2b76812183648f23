"""The locally competitive algorithm: a network of leaky integrators that inhibit one another."""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sparsejax.coding.iterate import check_loop, goal, iterate
from sparsejax.coding.objective import (
    AnyArray,
    Code,
    correlations,
    hard_threshold,
    largest_eigenvalue,
    problem,
    product,
    restore_batch_axes,
    shortfall,
    soft_threshold,
)
from sparsejax.functional.arguments import checked


@checked
def lca(
    x: Float[AnyArray, "*batch inputs"],
    dictionary: Float[AnyArray, "inputs atoms"],
    *,
    l1: float | Float[Array, ""],
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
      l1: the threshold lambda > 0; may be traced.
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
    x, dictionary, start, batch = problem(x, dictionary, initial, l1=l1)
    settings = {"threshold": threshold, "max_iterations": max_iterations, "check_every": check_every}
    return restore_batch_axes(
        _lca(x, dictionary, start, l1, goal(tolerance, violation), step, warm=initial is not None, **settings), batch
    )


@functools.partial(jax.jit, static_argnames=("threshold", "max_iterations", "check_every", "warm"))
def _lca(x, dictionary, start, l1, tolerance, step, *, warm, threshold, max_iterations, check_every):
    activation = soft_threshold if threshold == "soft" else hard_threshold
    evaluate = correlations(dictionary)
    rate = 1 / jnp.maximum(largest_eigenvalue(dictionary), 1) if step is None else step

    def drive(u, data):
        code = activation(u, l1)
        return evaluate(code, *data)[0] + code - u

    def measure(u, data):
        if threshold == "hard":
            left = jnp.max(jnp.abs(drive(u, data)), -1) / l1
            return left, jnp.zeros_like(left)
        code = activation(u, l1)
        return shortfall(code, *evaluate(code, *data), data[0], l1)

    data = (product(x, dictionary), x)
    u = start
    if warm:
        c = jnp.clip(evaluate(start, *data)[0], -l1, l1)
        if threshold == "soft":
            u = start + jnp.where(start != 0, l1 * jnp.sign(start), c)
        else:
            u = jnp.where(start != 0, start, c)
    u, taken, (gap, _) = iterate(
        lambda u, data: u + rate * drive(u, data),
        measure,
        u,
        data,
        tolerance=tolerance,
        max_iterations=max_iterations,
        check_every=check_every,
    )
    return Code(activation(u, l1), taken, gap)
