r"""Solvers of the lasso :math:`\min_a \frac12 \|x - D a\|^2 + \lambda \|a\|_1` for a batch of examples.

All three have the same interface. `admm` needs the fewest iterations, at the same cost each; use it unless the
dictionary changes at every call. `ista` and `fista` need no factorisation.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from sparsejax.coding.iterate import check_loop, goal, iterate
from sparsejax.coding.objective import (
    AnyArray,
    Code,
    correlations,
    problem,
    product,
    restore_batch_axes,
    safe_step,
    shortfall,
    soft_threshold,
)
from sparsejax.functional.arguments import checked


@checked
def ista(
    x: Float[AnyArray, "*batch inputs"],
    dictionary: Float[AnyArray, "inputs atoms"],
    *,
    l1: float | Float[Array, ""],
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
      l1: lambda > 0; may be traced.
      initial: a code to start from, `[..., atoms]`; None for zeros.
      tolerance: largest relative duality gap (see `duality_gap`); an example that has reached it is frozen. None for
        exactly `max_iterations`, without measuring, which can also be differentiated in reverse. Rounding to
        float32 leaves about 1e-6, and more where the objective is far below half the energy of x.
      violation: largest KKT violation over l1 (see `kkt_violation`) to reach as well, as far as float32 resolves it;
        None for any. It controls small coefficients, to which the gap is insensitive.
      max_iterations: upper bound.
      check_every: iterations between two measures of the gap, which costs about as much as one of them.

    Returns:
      Code, with the relative duality gap.

    Raises:
      ValueError: shapes do not fit, or a Python number is out of range.

    References:
      Daubechies, Defrise & De Mol, An iterative thresholding algorithm for linear inverse problems, 2004.
    """
    check_loop(tolerance, max_iterations, check_every, violation)
    x, dictionary, start, batch = problem(x, dictionary, initial, l1=l1)
    settings = {"max_iterations": max_iterations, "check_every": check_every}
    return restore_batch_axes(_ista(x, dictionary, start, l1, goal(tolerance, violation), **settings), batch)


@functools.partial(jax.jit, static_argnames=("max_iterations", "check_every"))
def _ista(x, dictionary, start, l1, tolerance, *, max_iterations, check_every):
    data, correlate, measure = _lasso(x, dictionary, l1)
    step = safe_step(dictionary)

    def update(code, data):
        return soft_threshold(code + step * correlate(code, data), step * l1)

    code, taken, (gap, _) = iterate(
        update, measure, start, data, tolerance=tolerance, max_iterations=max_iterations, check_every=check_every
    )
    return Code(code, taken, gap)


@checked
def fista(
    x: Float[AnyArray, "*batch inputs"],
    dictionary: Float[AnyArray, "inputs atoms"],
    *,
    l1: float | Float[Array, ""],
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
      l1: lambda > 0; may be traced.
      initial: a code to start from, `[..., atoms]`; None for zeros.
      tolerance: largest relative duality gap (see `duality_gap`); an example that has reached it is frozen. None for
        exactly `max_iterations`, without measuring, which can also be differentiated in reverse.
      violation: largest KKT violation over l1 (see `kkt_violation`) to reach as well, as far as float32 resolves it;
        None for any.
      max_iterations: upper bound.
      check_every: iterations between two measures of the gap, which costs about as much as one of them.

    Returns:
      Code `[..., atoms]`, with the relative duality gap.

    Raises:
      ValueError: shapes do not fit, or a Python number is out of range.

    References:
      Beck & Teboulle, A fast iterative shrinkage-thresholding algorithm, 2009; O'Donoghue & Candès, Adaptive restart
      for accelerated gradient schemes, 2015 (the gradient scheme, separately for each example).
    """
    check_loop(tolerance, max_iterations, check_every, violation)
    x, dictionary, start, batch = problem(x, dictionary, initial, l1=l1)
    settings = {"max_iterations": max_iterations, "check_every": check_every}
    return restore_batch_axes(_fista(x, dictionary, start, l1, goal(tolerance, violation), **settings), batch)


@functools.partial(jax.jit, static_argnames=("max_iterations", "check_every"))
def _fista(x, dictionary, start, l1, tolerance, *, max_iterations, check_every):
    data, correlate, measure = _lasso(x, dictionary, l1)
    step = safe_step(dictionary)

    def update(state, data):
        code, ahead, t = state
        new = soft_threshold(ahead + step * correlate(ahead, data), step * l1)
        t = jnp.where(jnp.sum((ahead - new) * (new - code), -1) > 0, 1, t)
        next_t = (1 + jnp.sqrt(1 + 4 * t**2)) / 2
        return new, new + ((t - 1) / next_t)[:, None] * (new - code), next_t

    state, taken, (gap, _) = iterate(
        update,
        lambda state, data: measure(state[0], data),
        (start, start, jnp.ones(len(x), x.dtype)),
        data,
        tolerance=tolerance,
        max_iterations=max_iterations,
        check_every=check_every,
    )
    return Code(state[0], taken, gap)


@checked
def admm(
    x: Float[AnyArray, "*batch inputs"],
    dictionary: Float[AnyArray, "inputs atoms"],
    *,
    l1: float | Float[Array, ""],
    initial: Float[AnyArray, "*batch atoms"] | None = None,
    tolerance: float | Float[Array, ""] | None = 1e-4,
    violation: float | Float[Array, ""] | None = 5e-4,
    max_iterations: int = 1000,
    check_every: int = 5,
    relaxation: float = 1.8,
) -> Code:
    r"""Codes x by alternating directions: a least-squares step with a matrix inverted once, then soft thresholding.

    .. math:: y = (D^T D + \rho I)^{-1} (D^T x + \rho (a - u)), \quad h = 1.8\, y - 0.8\, a, \quad
        a \leftarrow T_{\lambda/\rho}(h + u), \quad u \leftarrow u + h - a

    An iteration costs as much as one of FISTA, and natural images need a third as many. rho is the mean squared norm of
    the atoms, 1 for atoms of norm 1.

    Args:
      x: as in `ista`, like all other arguments.
      dictionary: `[inputs, atoms]`.
      l1: lambda > 0; may be traced.
      initial: a code to start from, `[..., atoms]`.
      tolerance: largest relative duality gap; None for exactly `max_iterations`.
      violation: largest KKT violation over l1 to reach as well; None for any.
      max_iterations: upper bound, rounded up to whole rounds.
      check_every: iterations of a round, after which the gap is measured.
      relaxation: in (0, 2); 1 for none.

    Returns:
      Code, with the relative duality gap.

    Raises:
      ValueError: as `ista`, or relaxation is out of range.

    References:
      Boyd, Parikh, Chu, Peleato & Eckstein, Distributed optimization and statistical learning via the alternating
      direction method of multipliers, 2011, section 6.4 and equation 3.19.
    """
    if not 0 < relaxation < 2:
        raise ValueError(f"relaxation is {relaxation}; expected a number between 0 and 2, 1 for none.")
    check_loop(tolerance, max_iterations, check_every, violation)
    x, dictionary, start, batch = problem(x, dictionary, initial, l1=l1)
    settings = {"warm": initial is not None, "max_iterations": max_iterations, "check_every": check_every}
    return restore_batch_axes(
        _admm(x, dictionary, start, l1, goal(tolerance, violation), relaxation, **settings), batch
    )


@functools.partial(jax.jit, static_argnames=("warm", "max_iterations", "check_every"))
def _admm(x, dictionary, start, l1, tolerance, relaxation, *, warm, max_iterations, check_every):
    evaluate, data = correlations(dictionary), (product(x, dictionary), x)
    squares = jnp.mean(jnp.sum(dictionary**2, 0))
    rho = jnp.where(squares > 0, squares, 1)
    least_squares = _regularized_solver(dictionary, rho)

    def dual_of(z):
        return jnp.clip(z, -l1 / rho, l1 / rho)  # soft thresholding splits z into the dual and the code

    def update(state, data):
        start, c, _ = state
        anchor = start - dual_of(start)
        gradient = c - rho * anchor

        def turn(_, z):
            dual = dual_of(z)
            # The step is relative to an earlier code: the inverse's rounding then multiplies a term that tends to 0,
            # while the product with D^T x + rho (a - u) itself would leave a gap of 1e-5 in float32.
            solved = anchor + least_squares(gradient + rho * (z - 2 * dual))
            return relaxation * solved + (1 - relaxation) * (z - dual) + dual

        z = lax.fori_loop(0, check_every, turn, start)
        return z, *evaluate(z - dual_of(z), *data)

    c, energy = evaluate(start, *data) if warm else (data[0], jnp.sum(x**2, -1))
    rounds = -(-max_iterations // check_every)
    (z, *_), taken, (gap, _) = iterate(
        update,
        lambda state, data: shortfall(state[0] - dual_of(state[0]), state[1], state[2], data[0], l1),
        (start + jnp.where(start == 0, jnp.clip(c, -l1, l1), l1 * jnp.sign(start)) / rho, c, energy),
        data,
        tolerance=tolerance,
        max_iterations=rounds,
        check_every=1,
    )
    return Code(z - dual_of(z), check_every * taken, gap)


def _lasso(x: Array, dictionary: Array, l1: float | Array):
    """Returns (b, x) with b = D^T x, the correlations as a function of a code and (b, x), and its shortfall."""
    evaluate = correlations(dictionary)

    def measure(code: Array, data: tuple[Array, Array]) -> tuple[Array, Array]:
        return shortfall(code, *evaluate(code, *data), data[0], l1)

    return (product(x, dictionary), x), lambda code, data: evaluate(code, *data)[0], measure


def _regularized_solver(dictionary: Array, rho: Array):
    """Returns v -> (D^T D + rho I)^{-1} v for rows v, with a matrix of atoms^2 or two of inputs x atoms."""
    inputs, atoms = dictionary.shape
    small = atoms <= 2 * inputs
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
