r"""Codes of least error under a bound of their size, of least size under a bound of their error, and paths of codes.

All are lassos: their l1 is given, or searched for each example until the bound holds.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from sparsejax.coding.admm import admm
from sparsejax.coding.iterate import check_loop
from sparsejax.coding.problem import AnyArray, Code, arrays, check_weight, leave_out
from sparsejax.coding.quadratic import product
from sparsejax.functional.arguments import checked

# The search ends at this fraction of the smallest l1 whose code is 0: with less, float32 resolves no duality gap.
_LEAST = 1e-4


class ConstrainedCode(NamedTuple):
    """A code under a bound.

    Attributes:
      code: `[..., atoms]`, within the bound if `converged`.
      l1: the lasso's penalty whose solution this is, `[...]`.
      searches: number of lassos solved for each example, `[...]`.
      gap: the relative duality gap of the lasso with this l1, `[...]`.
      converged: whether the bound is met to the tolerance, `[...]`, or does not matter: the code is 0, or as good as
        the least-squares solution.
    """

    code: Float[Array, "*batch atoms"]
    l1: Float[Array, "*batch"]
    searches: Int[Array, "*batch"]
    gap: Float[Array, "*batch"]
    converged: Bool[Array, "*batch"]


@checked
def lasso_path(
    x: Float[AnyArray, "*batch inputs"],
    dictionary: Float[AnyArray, "inputs atoms"],
    *,
    l1: Float[AnyArray, "penalties"],
    l2: float | Float[Array, ""] = 0.0,
    nonnegative: bool = False,
    tolerance: float | Float[Array, ""] = 1e-4,
    violation: float | Float[Array, ""] | None = 5e-4,
    max_iterations: int = 2000,
) -> Code:
    """Codes x under each of several penalties, in one program; each code starts from that before it.

    Args:
      x: `[..., inputs]`.
      dictionary: `[inputs, atoms]`, atoms of any norm.
      l1: penalties above 0, `[penalties]`, best from large to small; may be traced.
      l2: lambda_2 >= 0 of the elastic net; may be traced.
      nonnegative: codes of 0 or more.
      tolerance: largest relative duality gap, as in `admm`, like the following.
      violation: largest KKT violation over l1; None for any.
      max_iterations: upper bound for each penalty.

    Returns:
      Code with a leading axis of penalties: `[penalties, ..., atoms]` and `[penalties, ...]`.

    Raises:
      ValueError: shapes do not fit, or a known number is out of range.

    References:
      Friedman, Hastie & Tibshirani, Regularization paths for generalized linear models via coordinate descent, 2010,
      section 2.5 (paths by warm starts).
    """
    check_weight("l1", l1, above=0, hint=" (for 0, solve the least-squares problem instead)")
    x, dictionary, start, batch = arrays(x, dictionary, None)
    settings = {"l2": l2, "nonnegative": nonnegative, "tolerance": tolerance, "violation": violation}

    def step(before: Array, weight: Array) -> tuple[Array, Code]:
        code = admm(x, dictionary, l1=weight, initial=before, max_iterations=max_iterations, **settings)
        return jnp.where(jnp.isfinite(code.code), code.code, 0), code

    _, codes = lax.scan(step, start, jnp.asarray(l1, x.dtype))
    return jax.tree.map(lambda leaf: leaf.reshape(leaf.shape[0], *batch, *leaf.shape[2:]), codes)


@checked
def code_within_l1(
    x: Float[AnyArray, "*batch inputs"],
    dictionary: Float[AnyArray, "inputs atoms"],
    *,
    radius: float | Float[AnyArray, "*radii"],
    nonnegative: bool = False,
    tolerance: float = 1e-3,
    max_searches: int = 30,
) -> ConstrainedCode:
    r"""Minimises the error of codes within a ball: :math:`\min_a \|x - D a\|^2` where :math:`\|a\|_1 \le r`.

    Args:
      x: `[..., inputs]`.
      dictionary: `[inputs, atoms]`, atoms of any norm.
      radius: r > 0: a number, or one per example `[...]`; may be traced.
      nonnegative: codes of 0 or more.
      tolerance: how far below r, as a fraction, the code's size may end.
      max_searches: largest number of lassos to solve.

    Returns:
      ConstrainedCode. Codes never exceed the radius.

    Raises:
      ValueError: shapes do not fit, or a known number is out of range.

    References:
      Tibshirani, Regression Shrinkage and Selection via the Lasso, 1996 (this is its first form); van den Berg &
      Friedlander, Probing the Pareto frontier for basis pursuit solutions, 2008 (Newton's steps for the bound).
    """

    def size(x: Array, dictionary: Array, code: Array) -> Array:
        return jnp.sum(jnp.abs(code), -1)

    return _search(
        x, dictionary, "radius", radius, size, -1, nonnegative=nonnegative, tolerance=tolerance,
        max_searches=max_searches,
    )  # fmt: skip


@checked
def code_within_error(
    x: Float[AnyArray, "*batch inputs"],
    dictionary: Float[AnyArray, "inputs atoms"],
    *,
    error: float | Float[AnyArray, "*errors"],
    nonnegative: bool = False,
    tolerance: float = 1e-3,
    max_searches: int = 30,
) -> ConstrainedCode:
    r"""Minimises the size of codes with a bounded error: :math:`\min_a \|a\|_1` where :math:`\|x - D a\|^2 \le e`.

    This is basis pursuit denoising.

    Args:
      x: `[..., inputs]`.
      dictionary: `[inputs, atoms]`, atoms of any norm.
      error: e > 0, the squared error, in the squared unit of x: a number, or one per example `[...]`; may be traced.
        An error that no code of the dictionary reaches leaves the example not converged.
      nonnegative: codes of 0 or more.
      tolerance: how far below e, as a fraction, the squared error may end.
      max_searches: largest number of lassos to solve.

    Returns:
      ConstrainedCode.

    Raises:
      ValueError: shapes do not fit, or a known number is out of range.

    References:
      Chen, Donoho & Saunders, Atomic Decomposition by Basis Pursuit, 1998; van den Berg & Friedlander, 2008.
    """

    def misfit(x: Array, dictionary: Array, code: Array) -> Array:
        return jnp.sqrt(jnp.sum((x - product(code, dictionary.T)) ** 2, -1))  # nearly linear in l1

    return _search(
        x, dictionary, "error", error, misfit, 1, nonnegative=nonnegative, tolerance=tolerance,
        max_searches=max_searches,
    )  # fmt: skip


class _Search(NamedTuple):
    """Bounds of the l1 of each example, the best code within the bound, and its quality; all `[examples, ...]`."""

    low: Array
    high: Array
    l1: Array
    last: Array
    code: Array
    best: Array
    gap: Array
    value: Array
    searches: Array


def _search(x, dictionary, name, bound, measure, sign, *, nonnegative, tolerance, max_searches) -> ConstrainedCode:
    """Finds the l1 of each example at which a measure of its code, monotonic in l1, meets a bound from below.

    Newton's steps, from the derivative of the lasso's solution, where they stay within the bracket; else halving.

    Args:
      x: as in the callers, like the following.
      dictionary: `[inputs, atoms]`.
      name: of the bound.
      bound: of the measure, or of its square where the sign is 1.
      measure: a function of x, the dictionary and a code.
      sign: 1 if the measure rises with l1, -1 if it falls.
      nonnegative: codes of 0 or more.
      tolerance: how far the measure may end below the bound, as a fraction.
      max_searches: largest number of lassos.
    """
    check_weight(name, bound, above=0)
    check_weight("tolerance", tolerance, above=0)
    check_loop(None, max_searches)
    x, dictionary, zeros, batch = arrays(x, dictionary, None)
    if jnp.ndim(bound) and jnp.shape(bound) != batch:
        raise ValueError(f"{name} has shape {jnp.shape(bound)}; expected a number, or one per example, {batch}.")
    x, zeros, finite = leave_out(x, zeros, dictionary)
    bound = jnp.broadcast_to(jnp.asarray(bound, x.dtype), batch).reshape(-1)
    bound = jnp.sqrt(bound) if sign > 0 else bound
    tolerance = tolerance / 2 if sign > 0 else tolerance
    correlations = product(x, dictionary)
    most = jnp.max(correlations if nonnegative else jnp.abs(correlations), -1, initial=0)
    most = jnp.where(most > 0, most, 1)
    least = _LEAST * most

    def solve(l1: Array, start: Array) -> tuple[Array, Array, Array, Array]:
        """Returns the lasso's code, its gap, the measure and its derivative."""

        def of(l1: Array) -> tuple[Array, tuple[Array, Array]]:
            solved = admm(
                x, dictionary, l1=l1[:, None], initial=start, nonnegative=nonnegative, tolerance=tolerance / 10
            )
            return measure(x, dictionary, solved.code), (solved.code, solved.gap)

        value, slope, (code, gap) = jax.jvp(of, (l1,), (jnp.ones_like(l1),), has_aux=True)
        return code, gap, value, slope

    def is_open(search: _Search) -> Array:
        met = (search.value <= bound) & (search.value >= (1 - tolerance) * bound)
        return ~met & (search.searches < max_searches) & (search.high > (1 + 1e-5) * search.low)

    def step(search: _Search) -> _Search:
        code, gap, value, slope = solve(search.l1, search.last)
        within = value <= bound
        high = jnp.where(within == (sign < 0), search.l1, search.high)
        low = jnp.where(within == (sign < 0), search.low, search.l1)
        # Aims at the middle of what is allowed, so that the step ends within the bound.
        newton = search.l1 + ((1 - tolerance / 2) * bound - value) / jnp.where(slope == 0, jnp.nan, slope)
        fits = (newton > low) & (newton < high)
        l1 = jnp.where(fits, newton, jnp.sqrt(low * high))
        better = within & (value >= jnp.where(search.value <= bound, search.value, -1))
        now = _Search(
            low, high, l1, code, jnp.where(better[:, None], code, search.code),
            jnp.where(better, search.l1, search.best), jnp.where(better, gap, search.gap),
            jnp.where(better, value, search.value), search.searches + 1,
        )  # fmt: skip
        on = is_open(search)
        return jax.tree.map(lambda new, old: jnp.where(on.reshape(-1, *[1] * (new.ndim - 1)), new, old), now, search)

    start_value = measure(x, dictionary, zeros)
    start = _Search(
        least, most, jnp.sqrt(least * most), zeros, zeros, most, jnp.zeros_like(most), start_value,
        jnp.zeros(len(x), jnp.int32),
    )  # fmt: skip
    # A code of 0 that already has the allowed error is the smallest one.
    start = start._replace(high=jnp.where((sign > 0) & (start_value <= bound), start.low, start.high))
    found = lax.while_loop(lambda search: jnp.any(is_open(search)), step, start)
    within = found.value <= bound
    # In a ball that holds the least-squares solution, nothing smaller than l1's lower bound was needed.
    done = within & ((found.value >= (1 - tolerance) * bound) | (found.high <= (1 + 1e-5) * found.low))
    done |= within & (sign < 0) & (found.best <= 2 * least)
    code = jnp.where(finite[:, None], found.code, jnp.nan)
    gap = jnp.where(finite, found.gap, jnp.nan)
    result = ConstrainedCode(code, found.best, found.searches, gap, done & finite)
    return jax.tree.map(lambda leaf: leaf.reshape(*batch, *leaf.shape[1:]), result)
