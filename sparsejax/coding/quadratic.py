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
    :math:`\sqrt{\lambda_2} I`: the elastic net is the lasso of this longer problem. Up to one atom per input the
    function uses the Gram matrix, one product rather than two, unless `gram` is False, as with a mask. The cancellation
    in the energy is then weighted by (1 - s)^2 in the duality gap, which is tiny where the energy is. With more atoms,
    its rounding would leave the range of D^T, and `admm` divides that part by a small rho.
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


def regularized_solver(dictionary: Array) -> tuple[Callable[[Array], Callable[[Array], Array]], Array]:
    """Returns rho -> (v -> (D^T D + rho I)^{-1} v for rows v), and the least rho that rounding allows.

    The matrix that is inverted has the size of the inputs or the atoms, whichever are fewer. Below some rounding errors
    of its largest eigenvalue, which its Frobenius norm bounds, rho does not make it positive definite.
    """
    inputs, atoms = dictionary.shape
    small = atoms <= inputs
    gram = product(dictionary.T, dictionary) if small else product(dictionary, dictionary.T)

    def of(rho: Array) -> Callable[[Array], Array]:
        factor = _inverse_factor(gram + rho * jnp.eye(len(gram), dtype=gram.dtype))
        if small:
            inverse = product(factor.T, factor)
            return lambda v: product(v, inverse)
        # Woodbury's identity.
        narrow = product(factor, dictionary)
        return lambda v: (v - product(product(v, narrow.T), narrow)) / rho

    return of, 64 * jnp.finfo(gram.dtype).eps * jnp.linalg.norm(gram)


def _inverse_factor(matrix: Array) -> Array:
    """Returns the inverse of the Cholesky factor of a matrix by recursive halving, mostly with matrix products.

    On a CPU, LAPACK's threads keep spinning after a call and occupy a core, which slows down what follows by half; on
    accelerators, products are the fastest operation. The error is that of a Cholesky factor, rounding times the
    condition of the matrix; inverting its halves rather than factorising them would square the condition.
    """
    size = len(matrix)
    if size <= 32:
        both = lax.fori_loop(0, size, _eliminate, jnp.concatenate([matrix, jnp.eye(size, dtype=matrix.dtype)], 1))
        return both[:, size:] / jnp.sqrt(jnp.diagonal(both))[:, None]
    half = size // 2
    first = _inverse_factor(matrix[:half, :half])
    below = product(matrix[half:, :half], first.T)
    second = _inverse_factor(matrix[half:, half:] - product(below, below.T))
    corner = -product(second, product(below, first))
    return jnp.block([[first, jnp.zeros_like(corner.T)], [corner, second]])


def _eliminate(i: Array, rows: Array) -> Array:
    """Subtracts row i from those below it, so that they have 0 in column i."""
    factors = jnp.where(jnp.arange(len(rows)) > i, rows[:, i] / rows[i, i], 0)
    return rows - factors[:, None] * rows[i][None, :]
