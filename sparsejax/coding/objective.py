r"""Objectives of linear codes, and the distance of a code from the minimum.

Everywhere in `coding`, x is `[..., inputs]`, a dictionary is `[inputs, atoms]` with the atoms as columns, and a code is
`[..., atoms]`, so that x is close to `code @ dictionary.T`. (scikit-learn's `components_` is the transpose.) All of
them may be NumPy arrays. The lasso's objective is :math:`\frac12 \|x - D a\|^2 + \lambda \|a\|_1`; lambda is called
`l1`.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from sparsejax.functional.arguments import checked
from sparsejax.functional.sums import at_least_float32

AnyArray = Array | np.ndarray
"""What the functions take: arrays of either kind."""


class Code(NamedTuple):
    """What a solver returns.

    Attributes:
      code: `[..., atoms]`.
      iterations: number of iterations for each example, `[...]`.
      gap: distance from the optimum, `[...]`: the relative duality gap of lasso solvers; see the other solvers'
        docstrings.
    """

    code: Float[Array, "*batch atoms"]
    iterations: Int[Array, "*batch"]
    gap: Float[Array, "*batch"]


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
    l1: float | Float[Array, ""],
) -> Float[Array, "*batch"]:
    r"""Returns half the squared error plus l1 times the sum of absolute values, for each example.

    .. math:: \tfrac12 \|x - D a\|^2 + \lambda \|a\|_1

    Args:
      x: `[..., inputs]`.
      dictionary: `[inputs, atoms]`.
      code: `[..., atoms]`.
      l1: lambda > 0; may be traced.

    Returns:
      The objective of each example `[...]`, in the squared unit of x.

    Raises:
      ValueError: shapes do not fit, or l1 is a Python number that is not positive.

    References:
      Tibshirani, Regression Shrinkage and Selection via the Lasso, 1996; Chen, Donoho & Saunders, Atomic Decomposition
      by Basis Pursuit, 1998.
    """
    x, dictionary, code, batch = problem(x, dictionary, code, l1=l1)
    residual = x - product(code, dictionary.T)
    return (jnp.sum(residual**2, -1) / 2 + l1 * jnp.sum(jnp.abs(code), -1)).reshape(batch)


@checked
def duality_gap(
    x: Float[AnyArray, "*batch inputs"],
    dictionary: Float[AnyArray, "inputs atoms"],
    code: Float[AnyArray, "*batch atoms"],
    *,
    l1: float | Float[Array, ""],
    relative: bool = False,
) -> Float[Array, "*batch"]:
    r"""Returns an upper bound of the distance of the lasso's objective from its minimum, for each example.

    With the residual r, its correlations :math:`c = D^T r` and :math:`s = \min(1, \lambda / \max_i |c_i|)`, the dual
    point s r is feasible and the gap is

    .. math:: \tfrac12 (1 - s)^2 \|r\|^2 + \sum_i \left( \lambda |a_i| - s\, a_i c_i \right)

    a sum of non-negative terms without cancellation between them, so that float32 resolves gaps down to
    about 1e-7 of the objective. (The difference of the two objectives does not.)

    Args:
      x: `[..., inputs]`.
      dictionary: `[inputs, atoms]`.
      code: `[..., atoms]`.
      l1: lambda > 0; may be traced.
      relative: divide by the objective at the code (0 where that is 0).

    Returns:
      The gap of each example `[...]`, 0 or more, in the squared unit of x; with `relative` a fraction of the objective.

    Raises:
      ValueError: shapes do not fit, or l1 is a Python number that is not positive.

    References:
      Kim, Koh, Lustig, Boyd & Gorinevsky, An Interior-Point Method for Large-Scale l1-Regularized Least Squares, 2007
      (the dual point; here for half the squared error).
    """
    x, dictionary, code, batch = problem(x, dictionary, code, l1=l1)
    residual = x - product(code, dictionary.T)
    gap, objective = gap_of(code, product(residual, dictionary), jnp.sum(residual**2, -1), l1)
    return (ratio(gap, objective) if relative else gap).reshape(batch)


@checked
def kkt_violation(
    x: Float[AnyArray, "*batch inputs"],
    dictionary: Float[AnyArray, "inputs atoms"],
    code: Float[AnyArray, "*batch atoms"],
    *,
    l1: float | Float[Array, ""],
) -> Float[Array, "*batch"]:
    r"""Returns the worst violation of the lasso's optimality conditions, in the unit of x, for each example.

    :math:`c_i = \lambda\, \mathrm{sign}(a_i)` where a is not 0, :math:`|c_i| \le \lambda` where it is, c being the
    atoms' correlations with the residual.

    Args:
      x: `[..., inputs]`.
      dictionary: `[inputs, atoms]`.
      code: `[..., atoms]`.
      l1: lambda > 0; may be traced.

    Returns:
      The violation of each example `[...]`, 0 or more; 0 at the minimum.

    Raises:
      ValueError: shapes do not fit, or l1 is a Python number that is not positive.

    References:
      Osborne, Presnell & Turlach, On the LASSO and Its Dual, 2000.
    """
    x, dictionary, code, batch = problem(x, dictionary, code, l1=l1)
    return _violation(code, product(x - product(code, dictionary.T), dictionary), l1).reshape(batch)


def shortfall(code: Array, correlations: Array, energy: Array, b: Array, l1: float | Array) -> tuple[Array, Array]:
    """Returns the distance of a lasso code from the optimum: its relative duality gap, and its KKT violation over l1.

    The gap weighs a violation by the size of the coefficient, so a small coefficient may be far off although the gap is
    tiny: neither implies the other. A violation counts as 0 below the rounding error of correlations as large as b =
      D^T x, which no iteration can reduce.
    """
    gap, violation = ratio(*gap_of(code, correlations, energy, l1)), _violation(code, correlations, l1)
    rounded = violation <= 16 * jnp.finfo(b.dtype).eps * jnp.max(jnp.abs(b), -1)
    return gap, jnp.where(rounded, 0, violation / l1)


def _violation(code: Array, correlations: Array, l1: float | Array) -> Array:
    on, off = jnp.abs(correlations - l1 * jnp.sign(code)), jnp.maximum(jnp.abs(correlations) - l1, 0)
    return jnp.max(jnp.where(code != 0, on, off), -1)


def gap_of(code: Array, correlations: Array, energy: Array, l1: float | Array) -> tuple[Array, Array]:
    """Returns the duality gap and the objective `[examples]`, given D^T r and the squared length of r."""
    largest = jnp.max(jnp.abs(correlations), -1)
    s = jnp.where(largest > l1, l1 / jnp.where(largest > l1, largest, 1), 1)
    terms = l1 * jnp.abs(code) - s[:, None] * code * correlations
    penalty = l1 * jnp.sum(jnp.abs(code), -1)
    return (1 - s) ** 2 * energy / 2 + jnp.sum(jnp.maximum(terms, 0), -1), energy / 2 + penalty


def ratio(part: Array, whole: Array) -> Array:
    """Returns part / whole, 0 where both are 0."""
    return part / jnp.where(whole > 0, whole, 1)


def product(a: ArrayLike, b: ArrayLike) -> Array:
    """Returns a @ b in the precision of its operands; accelerators use less by default."""
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)


def problem(
    x: ArrayLike, dictionary: ArrayLike, code: ArrayLike | None, *, l1: float | Array | None = None
) -> tuple[Array, Array, Array, tuple[int, ...]]:
    """Checks the arguments; returns x `[examples, inputs]`, the dictionary, the code (or zeros) and the batch's shape.

    Raises:
      ValueError: shapes do not fit, or l1 is a Python number that is not positive.
    """
    x, dictionary = at_least_float32(x), at_least_float32(dictionary)
    if dictionary.ndim != 2 or not x.ndim or x.shape[-1] != dictionary.shape[0]:
        hint = "; pass its transpose" if dictionary.ndim == 2 and x.shape[-1:] == dictionary.shape[1:] else ""
        raise ValueError(
            f"x has shape {x.shape} and dictionary {dictionary.shape}; expected x [..., inputs] and a dictionary "
            f"[inputs, atoms], whose columns are the atoms{hint}."
        )
    batch, atoms = x.shape[:-1], dictionary.shape[1]
    if code is not None and jnp.shape(code) != (*batch, atoms):
        raise ValueError(
            f"The code has shape {jnp.shape(code)}; expected [..., atoms], here {(*batch, atoms)}, for x {x.shape} and "
            f"a dictionary of {atoms} atoms."
        )
    if isinstance(l1, (int, float)) and not l1 > 0:
        raise ValueError(f"l1 is {l1}; expected a weight above 0 (for 0, solve the least-squares problem instead).")
    examples = math.prod(batch)
    start = jnp.zeros((examples, atoms), x.dtype) if code is None else at_least_float32(code).reshape(examples, atoms)
    return x.reshape(examples, x.shape[-1]), dictionary.astype(x.dtype), start.astype(x.dtype), batch


def largest_eigenvalue(dictionary: Float[Array, "inputs atoms"]) -> Float[Array, ""]:
    r"""Returns an upper bound, at most about 3 % too large, of the largest eigenvalue of :math:`D^T D`.

    Power iteration on the matrix itself: seven squarings give :math:`G^{128}`, whose Frobenius norm's 128-th root is
    never too small, as a step size requires.
    """
    inputs, atoms = dictionary.shape
    gram = product(dictionary, dictionary.T) if inputs < atoms else product(dictionary.T, dictionary)

    def square(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        matrix, log_scale = carry
        length = jnp.linalg.norm(matrix)
        matrix = matrix / jnp.where(length > 0, length, 1)
        return product(matrix, matrix), 2 * (log_scale + jnp.log(length))

    power, log_scale = lax.fori_loop(0, 7, square, (gram, jnp.zeros((), gram.dtype)))
    return jnp.exp((log_scale + jnp.log(jnp.linalg.norm(power))) / 128)


def safe_step(dictionary: Float[Array, "inputs atoms"]) -> Float[Array, ""]:
    """Returns a step size of gradient descent that does not overshoot; 1 if all atoms are 0."""
    largest = largest_eigenvalue(dictionary)
    return 1 / jnp.where(largest > 0, largest, 1)


def correlations(dictionary: Float[Array, "inputs atoms"]) -> Callable[..., tuple[Array, Array]]:
    """Returns a function `(code, b, x) -> (D^T r, |r|^2)` of codes and b = D^T x, with r = x - D code.

    Up to two atoms per input it uses the Gram matrix, one product rather than two. The cancellation in |r|^2 is then
    weighted by (1 - s)^2 in the duality gap, which is tiny where r is.
    """
    inputs, atoms = dictionary.shape
    if atoms <= 2 * inputs:
        gram = product(dictionary.T, dictionary)

        def by_gram(code: Array, b: Array, x: Array) -> tuple[Array, Array]:
            c = b - product(code, gram)
            return c, jnp.maximum(jnp.sum(x**2, -1) - jnp.sum(code * (b + c), -1), 0)

        return by_gram

    def by_residual(code: Array, b: Array, x: Array) -> tuple[Array, Array]:
        residual = x - product(code, dictionary.T)
        return product(residual, dictionary), jnp.sum(residual**2, -1)

    return by_residual


def restore_batch_axes(code: Code, batch: tuple[int, ...]) -> Code:
    """Returns the result with the batch axes that x had."""
    return jax.tree.map(lambda leaf: leaf.reshape(*batch, *leaf.shape[1:]), code)
