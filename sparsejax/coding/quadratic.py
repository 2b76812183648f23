r"""The squared error :math:`\frac12 \|x - D a\|^2 + \frac{\lambda_2}{2} \|a\|^2` of linear codes, and its curvature."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from sparsejax.coding.penalties import Penalty


class Data(NamedTuple):
    """What an example brings to the iterations.

    Attributes:
      b: the correlations D^T x `[examples, atoms]`.
      x: `[examples, inputs]`, 0 where it was not observed.
      mask: which inputs were observed `[examples, inputs]`; None for all.
      penalty: with an l1 of each example; None if the examples share it.
    """

    b: Float[Array, "examples atoms"]
    x: Float[Array, "examples inputs"]
    mask: Bool[Array, "examples inputs"] | None
    penalty: Penalty | None


def product(a: ArrayLike, b: ArrayLike) -> Array:
    """Returns a @ b in the precision of its operands; accelerators use less by default."""
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)


def ratio(part: Array, whole: Array) -> Array:
    """Returns part / whole, 0 where both are 0."""
    return part / jnp.where(whole > 0, whole, 1)


def observed(residual: Array, mask: Array | None) -> Array:
    """Returns the residual, 0 where the mask is False."""
    return residual if mask is None else jnp.where(mask, residual, 0)


def correlations(
    dictionary: Float[Array, "inputs atoms"], *, l2: float | Array = 0.0, gram: bool = True
) -> Callable[[Array, Data], tuple[Array, Array]]:
    r"""Returns a function `(code, data) -> (D^T r - l2 a, |r|^2 + l2 |a|^2)` with r = x - D a.

    These are the correlations and the energy of the residual of x beside zeros, in the dictionary beside
    :math:`\sqrt{\lambda_2} I`: the elastic net is the lasso of this longer problem. Up to two atoms per input the
    function uses the Gram matrix, one product rather than two, unless `gram` is False, as with a mask. The cancellation
    in the energy is then weighted by (1 - s)^2 in the duality gap, which is tiny where the energy is.
    """
    inputs, atoms = dictionary.shape
    if atoms <= inputs and gram:
        matrix = product(dictionary.T, dictionary)

        def by_gram(code: Array, data: Data) -> tuple[Array, Array]:
            c = data.b - product(code, matrix) - l2 * code
            return c, jnp.maximum(jnp.sum(data.x**2, -1) - jnp.sum(code * (data.b + c), -1), 0)

        return by_gram

    def by_residual(code: Array, data: Data) -> tuple[Array, Array]:
        residual = observed(data.x - product(code, dictionary.T), data.mask)
        energy = jnp.sum(residual**2, -1) + l2 * jnp.sum(code**2, -1)
        return product(residual, dictionary) - l2 * code, energy

    return by_residual


def gap_of(code: Array, c: Array, energy: Array, penalty: Penalty) -> tuple[Array, Array]:
    r"""Returns the duality gap and the objective `[examples]`, given the correlations and energy of the residual.

    With s = min(1, 1 / excess of c) the dual point s r is feasible and the gap is
    :math:`\frac12 (1 - s)^2 \|r\|^2 + \Omega(a) - s\, a \cdot c`, a sum of terms of 0 or more.
    """
    s = 1 / jnp.maximum(penalty.excess(c), 1)
    gap = (1 - s) ** 2 * energy / 2 + penalty.slack(code, s[:, None] * c)
    return gap, energy / 2 + penalty.cost(code)


def shortfall(code: Array, c: Array, energy: Array, b: Array, penalty: Penalty) -> tuple[Array, Array]:
    """Returns the distance of a code from the optimum: its relative duality gap, and its KKT violation over l1.

    The gap weighs a violation by the size of the coefficient, so a small coefficient may be far off although the gap is
    tiny: neither implies the other. A violation counts as 0 below the rounding error of correlations as large as b =
      D^T x, which no iteration can reduce.
    """
    violation, relative = penalty.violation(code, c)
    rounded = violation <= 16 * jnp.finfo(b.dtype).eps * jnp.max(jnp.abs(b), -1, initial=0)
    return ratio(*gap_of(code, c, energy, penalty)), jnp.where(rounded, 0, relative)


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


def safe_step(dictionary: Float[Array, "inputs atoms"], *, l2: float | Array = 0.0) -> Float[Array, ""]:
    """Returns a step size of gradient descent that does not overshoot; 1 if all atoms and l2 are 0."""
    largest = largest_eigenvalue(dictionary) + l2
    return 1 / jnp.where(largest > 0, largest, 1)


def regularized_solver(dictionary: Array, rho: Array) -> Callable[[Array], Array]:
    """Returns v -> (D^T D + rho I)^{-1} v for rows v, with a matrix of atoms^2 or two of inputs x atoms."""
    inputs, atoms = dictionary.shape
    small = atoms <= inputs
    gram = product(dictionary.T, dictionary) if small else product(dictionary, dictionary.T)
    inverse = _inverse(gram + rho * jnp.eye(len(gram), dtype=gram.dtype))
    if small:
        return lambda v: product(v, inverse)
    # Woodbury's identity.
    narrow = product(dictionary.T, inverse)
    return lambda v: (v - product(product(v, narrow), dictionary)) / rho


def _inverse(matrix: Array) -> Array:
    """Returns the inverse of a symmetric positive definite matrix by recursive halving, mostly with matrix products.

    On a CPU, LAPACK's threads keep spinning after a call and occupy a core, which slows down what follows by half; on
    accelerators, products are the fastest operation.
    """
    size = len(matrix)
    if size <= 32:
        return lax.fori_loop(0, size, _sweep, matrix)
    half = size // 2
    first, across = _inverse(matrix[:half, :half]), matrix[:half, half:]
    along = product(first, across)
    second = _inverse(matrix[half:, half:] - product(across.T, along))
    corner = -product(along, second)
    return jnp.block([[first - product(corner, along.T), corner], [corner.T, second]])


def _sweep(i: Array, matrix: Array) -> Array:
    """Exchanges one variable of a linear map; exchanging all gives the inverse (Gauss and Jordan, without pivots)."""
    pivot = jnp.arange(len(matrix)) == i
    row = jnp.where(pivot, 1, matrix[i]) / matrix[i, i]
    column = jnp.where(pivot, 0, matrix[:, i])
    rest = jnp.where(pivot[None, :], 0, matrix) - column[:, None] * row[None, :]
    return jnp.where(pivot[:, None], row[None, :], rest)
