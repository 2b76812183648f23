r"""Objectives of linear codes, and the distance of a code from the minimum.

Everywhere in `coding`, x is `[..., inputs]`, a dictionary is `[inputs, atoms]` with the atoms as columns, and a code is
`[..., atoms]`, so that x is close to `code @ dictionary.T`. (scikit-learn's `components_` is the transpose.) All of
them may be NumPy arrays. The lasso's objective is :math:`\frac12 \|x - D a\|^2 + \lambda \|a\|_1`; lambda is called
`l1`.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from sparsejax.coding.problem import AnyArray, Problem, lasso_problem
from sparsejax.coding.quadratic import correlations, gap_of, ratio
from sparsejax.functional.arguments import checked


@checked
def soft_threshold(z: Float[Array, "*shape"], threshold: float | Float[Array, ""]) -> Float[Array, "*shape"]:
    r"""Returns z moved towards 0 by the threshold, 0 where it is within it.

    .. math:: T_\theta(z) = \mathrm{sign}(z) \max(|z| - \theta, 0)

    Args:
      z: any array `[...]`.
      threshold: theta >= 0, in the unit of z; may be traced.

    Returns:
      Array like z.

    References:
      Donoho & Johnstone, Ideal spatial adaptation by wavelet shrinkage, 1994; Daubechies, Defrise & De Mol, An
      iterative thresholding algorithm for linear inverse problems, 2004.
    """
    threshold = jnp.asarray(threshold, z.dtype)
    return z - jnp.clip(z, -threshold, threshold)


@checked
def hard_threshold(z: Float[Array, "*shape"], threshold: float | Float[Array, ""]) -> Float[Array, "*shape"]:
    """Returns z where its magnitude exceeds the threshold, else 0.

    Args:
      z: any array `[...]`.
      threshold: 0 or more, in the unit of z; values of exactly this magnitude become 0. May be traced.

    Returns:
      Array like z.

    References:
      Donoho & Johnstone, Ideal spatial adaptation by wavelet shrinkage, 1994.
    """
    return jnp.where(jnp.abs(z) > jnp.asarray(threshold, z.dtype), z, jnp.zeros_like(z))


@checked
def lasso_objective(
    x: Float[AnyArray, "*batch inputs"],
    dictionary: Float[AnyArray, "inputs atoms"],
    code: Float[AnyArray, "*batch atoms"],
    *,
    l1: float | Float[AnyArray, "..."],
    l2: float | Float[Array, ""] = 0.0,
    mask: Bool[AnyArray, "*observed"] | None = None,
) -> Float[Array, "*batch"]:
    r"""Returns half the squared error plus l1 times the sum of absolute values, for each example.

    .. math:: \tfrac12 \|x - D a\|^2 + \sum_i \lambda_i |a_i| + \tfrac{\lambda_2}{2} \|a\|^2

    Args:
      x: `[..., inputs]`.
      dictionary: `[inputs, atoms]`.
      code: `[..., atoms]`.
      l1: lambda > 0, as in `fista`: a number, or an array that broadcasts to the code; may be traced.
      l2: the elastic net's lambda_2 >= 0; may be traced.
      mask: the inputs that were observed, broadcast to x; None for all.

    Returns:
      The objective of each example `[...]`, in the squared unit of x.

    Raises:
      ValueError: shapes do not fit, or a known weight is out of range.

    References:
      Tibshirani, Regression Shrinkage and Selection via the Lasso, 1996; Chen, Donoho & Saunders, Atomic Decomposition
      by Basis Pursuit, 1998; Zou & Hastie, Regularization and variable selection via the elastic net, 2005.
    """
    problem, batch = lasso_problem(x, dictionary, code, l1=l1, l2=l2, mask=mask)
    _, energy = _residual(problem)
    return (energy / 2 + problem.penalty.cost(problem.start)).reshape(batch)


@checked
def duality_gap(
    x: Float[AnyArray, "*batch inputs"],
    dictionary: Float[AnyArray, "inputs atoms"],
    code: Float[AnyArray, "*batch atoms"],
    *,
    l1: float | Float[AnyArray, "..."],
    l2: float | Float[Array, ""] = 0.0,
    nonnegative: bool = False,
    mask: Bool[AnyArray, "*observed"] | None = None,
    relative: bool = False,
) -> Float[Array, "*batch"]:
    r"""Returns an upper bound of the distance of the lasso's objective from its minimum, for each example.

    With the residual r, its correlations :math:`c = D^T r - \lambda_2 a` and
    :math:`s = \min(1, 1 / \max_i |c_i| / \lambda_i)`, the dual point s r is feasible and the gap is

    .. math:: \tfrac12 (1 - s)^2 (\|r\|^2 + \lambda_2 \|a\|^2) + \sum_i \left( \lambda_i |a_i| - s\, a_i c_i \right)

    a sum of non-negative terms without cancellation between them, so that float32 resolves gaps down to
    about 1e-7 of the objective. (The difference of the two objectives does not.)

    Args:
      x: `[..., inputs]`.
      dictionary: `[inputs, atoms]`.
      code: `[..., atoms]`.
      l1: lambda > 0, as in `fista`: a number, or an array that broadcasts to the code; may be traced.
      l2: the elastic net's lambda_2 >= 0; may be traced.
      nonnegative: whether codes are restricted to 0 or more, which this one has to be; then c_i counts without sign.
      mask: the inputs that were observed, broadcast to x; None for all.
      relative: divide by the objective at the code (0 where that is 0).

    Returns:
      The gap of each example `[...]`, 0 or more, in the squared unit of x; with `relative` a fraction of the objective.

    Raises:
      ValueError: shapes do not fit, or a known weight is out of range.

    References:
      Kim, Koh, Lustig, Boyd & Gorinevsky, An Interior-Point Method for Large-Scale l1-Regularized Least Squares, 2007
      (the dual point; here for half the squared error).
    """
    problem, batch = _restricted(x, dictionary, code, l1=l1, l2=l2, nonnegative=nonnegative, mask=mask)
    gap, objective = gap_of(problem.start, *_residual(problem), problem.penalty)
    return (ratio(gap, objective) if relative else gap).reshape(batch)


@checked
def kkt_violation(
    x: Float[AnyArray, "*batch inputs"],
    dictionary: Float[AnyArray, "inputs atoms"],
    code: Float[AnyArray, "*batch atoms"],
    *,
    l1: float | Float[AnyArray, "..."],
    l2: float | Float[Array, ""] = 0.0,
    nonnegative: bool = False,
    mask: Bool[AnyArray, "*observed"] | None = None,
) -> Float[Array, "*batch"]:
    r"""Returns the worst violation of the lasso's optimality conditions, in the unit of x, for each example.

    :math:`c_i = \lambda_i\, \mathrm{sign}(a_i)` where a is not 0, :math:`|c_i| \le \lambda_i` where it is, c being the
    atoms' correlations with the residual, minus :math:`\lambda_2 a`. For non-negative codes :math:`c_i \le \lambda_i`.

    Args:
      x: `[..., inputs]`.
      dictionary: `[inputs, atoms]`.
      code: `[..., atoms]`.
      l1: lambda > 0, as in `fista`: a number, or an array that broadcasts to the code; may be traced.
      l2: the elastic net's lambda_2 >= 0; may be traced.
      nonnegative: whether codes are restricted to 0 or more, which this one has to be.
      mask: the inputs that were observed, broadcast to x; None for all.

    Returns:
      The violation of each example `[...]`, 0 or more; 0 at the minimum.

    Raises:
      ValueError: shapes do not fit, or a known weight is out of range.

    References:
      Osborne, Presnell & Turlach, On the LASSO and Its Dual, 2000.
    """
    problem, batch = _restricted(x, dictionary, code, l1=l1, l2=l2, nonnegative=nonnegative, mask=mask)
    return problem.penalty.violation(problem.start, _residual(problem)[0])[0].reshape(batch)


def _restricted(x, dictionary, code, *, nonnegative, **settings) -> tuple[Problem, tuple[int, ...]]:
    """Returns the problem with this code, which is nan where it breaks the restriction."""
    problem, batch = lasso_problem(x, dictionary, code, nonnegative=nonnegative, **settings)
    if not nonnegative:
        return problem, batch
    code = jnp.asarray(code, problem.x.dtype).reshape(problem.start.shape)
    return problem._replace(start=jnp.where(code < 0, jnp.nan, code)), batch


def _residual(problem: Problem) -> tuple[Array, Array]:
    """Returns the correlations and the energy of the residual of the problem's code, from the residual itself."""
    evaluate = correlations(problem.dictionary, l2=problem.l2, gram=False)
    return evaluate(problem.start, problem.data())
