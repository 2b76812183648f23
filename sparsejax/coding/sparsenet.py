r"""Sparsenet: dictionary learning that alternates between coding patches and a step of the dictionary.

The objective is :math:`\frac12 \|x - D a\|^2 + \beta \sum_i S(a_i / \sigma)`, with one of Olshausen & Field's three S.
"""

import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from sparsejax.coding.dictionary import revive
from sparsejax.coding.lasso import fista
from sparsejax.coding.problem import AnyArray, Code, arrays, fill_in, leave_out, restore_batch_axes
from sparsejax.coding.quadratic import largest_eigenvalue, product, ratio
from sparsejax.functional.arguments import checked

Sparseness = Literal["cauchy", "l1", "gaussian"]
"""S(a): "cauchy" is log(1 + a^2), "l1" is |a|, "gaussian" is -exp(-a^2)."""

_COST = {
    "cauchy": lambda a: jnp.log1p(a**2),
    "l1": jnp.abs,
    "gaussian": lambda a: 1 - jnp.exp(-(a**2)),  # plus 1, so that an empty code costs 0
}
_SLOPE = {
    "cauchy": lambda a: 2 * a / (1 + a**2),
    "gaussian": lambda a: 2 * a * jnp.exp(-(a**2)),
}


class SparsenetState(NamedTuple):
    """The dictionary `[inputs, atoms]`, and each atom's gain (its norm) and coefficient variance."""

    dictionary: Float[Array, "inputs atoms"]
    gain: Float[Array, "atoms"]
    variance: Float[Array, "atoms"]


class SparsenetMetrics(NamedTuple):
    """Mean objective and remaining fraction of the energy, before the dictionary changes."""

    objective: Float[Array, ""]
    error: Float[Array, ""]


@checked
def init_sparsenet(key: PRNGKeyArray, inputs: int, atoms: int, *, variance_goal: float = 0.1) -> SparsenetState:
    """Returns a dictionary of random directions of length 1, with coefficient variances set to the goal.

    Args:
      key: a PRNG key.
      inputs: of a patch, 1 or more.
      atoms: number of atoms, 1 or more.
      variance_goal: of the coefficients, as in `sparsenet_step`.

    Returns:
      SparsenetState, the dictionary `[inputs, atoms]`, gains of 1 `[atoms]` and variances `[atoms]`.

    Raises:
      ValueError: inputs or atoms is not positive.

    References:
      Olshausen & Field, Emergence of simple-cell receptive field properties by learning a sparse code for natural
      images, 1996.
    """
    if inputs < 1 or atoms < 1:
        raise ValueError(f"inputs is {inputs} and atoms {atoms}; expected at least one of each.")
    dictionary = jax.random.normal(key, (inputs, atoms), jnp.float32)
    dictionary = dictionary / jnp.linalg.norm(dictionary, axis=0)[None, :]
    return SparsenetState(dictionary, jnp.ones(atoms, jnp.float32), jnp.full(atoms, variance_goal, jnp.float32))


@checked
def sparsenet_code(
    x: Float[AnyArray, "*batch inputs"],
    dictionary: Float[AnyArray, "inputs atoms"],
    *,
    sparseness: Sparseness = "cauchy",
    penalty: float | Float[Array, ""] = 0.022,
    scale: float | Float[Array, ""] = 0.316,
    initial: Float[AnyArray, "*batch atoms"] | None = None,
    max_iterations: int = 30,
) -> Code:
    r"""Codes x by conjugate gradients on the smooth costs, by FISTA on :math:`|a|`.

    The step along a direction d is the exact minimum of a parabola that lies above the objective: its curvature is
    :math:`\|D d\|^2 + 2 \beta \|d\|^2 / \sigma^2`, as :math:`S'' \le 2`. The objective never rises.

    Args:
      x: `[..., inputs]`.
      dictionary: `[inputs, atoms]`.
      sparseness: S.
      penalty: beta > 0; may be traced.
      scale: sigma > 0, the scale of S; may be traced. The defaults suit patches of variance 0.1.
      initial: a code to start from, `[..., atoms]`; None for the correlations :math:`D^T x` over the largest eigenvalue
        of the Gram matrix: Olshausen & Field's start, scaled not to overshoot.
      max_iterations: exact number of iterations.

    Returns:
      Code, where the gap is the squared norm of the gradient over that of :math:`D^T x`; for "l1", FISTA's.

    Raises:
      ValueError: shapes do not fit, a Python number is out of range, or sparseness is unknown.

    References:
      Olshausen & Field, Sparse coding with an overcomplete basis set: a strategy employed by V1?, 1997, equations 10
      and 13. (Without the factor 2 of a squared error without 1/2.)
    """
    _check(penalty=penalty, scale=scale)
    x, dictionary, start, batch = arrays(x, dictionary, initial)
    settings = {"sparseness": sparseness, "max_iterations": max_iterations, "warm": initial is not None}
    return restore_batch_axes(_sparsenet_code(x, dictionary, start, penalty, scale, **settings), batch)


@functools.partial(jax.jit, static_argnames=("sparseness", "max_iterations", "warm"))
def _sparsenet_code(x, dictionary, start, penalty, scale, *, sparseness, max_iterations, warm):
    x, start, finite = leave_out(x, start, dictionary)
    b, gram = product(x, dictionary), product(dictionary.T, dictionary)
    if not warm:
        start = b / jnp.maximum(largest_eigenvalue(dictionary), 1e-12)
    if sparseness == "l1":
        code = fista(x, dictionary, l1=penalty / scale, initial=start, tolerance=None, max_iterations=max_iterations)
        return fill_in(code, finite)
    slope = _SLOPE[sparseness]

    def downhill(code: Array, c: Array) -> Array:
        return c - penalty / scale * slope(code / scale)

    def update(_: Array, state: tuple[Array, ...]) -> tuple[Array, ...]:
        code, c, direction, before = state
        now = downhill(code, c)
        # Polak & Ribière's, clipped at 0, which falls back to the gradient.
        weight = ratio(jnp.sum(now * (now - before), -1), jnp.sum(before**2, -1))
        direction = now + jnp.maximum(weight, 0)[:, None] * direction
        along = jnp.sum(now * direction, -1)
        direction = jnp.where((along > 0)[:, None], direction, now)
        along = jnp.sum(now * direction, -1)
        change = product(direction, gram)
        curvature = jnp.sum(direction * change, -1) + 2 * penalty / scale**2 * jnp.sum(direction**2, -1)
        step = ratio(along, curvature)[:, None]
        return code + step * direction, c - step * change, direction, now

    nothing = jnp.zeros_like(start)
    c = b - product(start, gram)
    code, c, _, _ = lax.fori_loop(0, max_iterations, update, (start, c, nothing, nothing))
    gap = ratio(jnp.sum(downhill(code, c) ** 2, -1), jnp.sum(b**2, -1))
    done = jnp.full(gap.shape, max_iterations, jnp.int32)
    return fill_in(Code(code, done, gap, jnp.isfinite(gap)), finite)


@checked
def sparsenet_objective(
    x: Float[AnyArray, "*batch inputs"],
    dictionary: Float[AnyArray, "inputs atoms"],
    code: Float[AnyArray, "*batch atoms"],
    *,
    sparseness: Sparseness = "cauchy",
    penalty: float | Float[Array, ""] = 0.022,
    scale: float | Float[Array, ""] = 0.316,
) -> Float[Array, "*batch"]:
    r"""Returns half the squared error plus the penalty, for each example; -exp(-a^2) counts as 1 - exp(-a^2).

    .. math:: \tfrac12 \|x - D a\|^2 + \beta \sum_i S(a_i / \sigma)

    Args:
      x: `[..., inputs]`.
      dictionary: `[inputs, atoms]`.
      code: `[..., atoms]`.
      sparseness: S, "cauchy" for log(1 + a^2), "l1" for |a| or "gaussian".
      penalty: beta > 0; may be traced.
      scale: sigma > 0; may be traced.

    Returns:
      The objective of each example `[...]`, in the squared unit of x.

    Raises:
      ValueError: shapes do not fit, penalty or scale is a Python number that is not positive, or sparseness is unknown.

    References:
      Olshausen & Field, Sparse coding with an overcomplete basis set: a strategy employed by V1?, 1997; the thesis
      Sparse Coding in Deep Neural Networks and the Visual System, Eq. 1.21, which has the squared error without 1/2.
    """
    _check(penalty=penalty, scale=scale)
    x, dictionary, code, batch = arrays(x, dictionary, code)
    error = jnp.sum((x - product(code, dictionary.T)) ** 2, -1) / 2
    return (error + penalty * jnp.sum(_COST[sparseness](code / scale), -1)).reshape(batch)


@checked
def sparsenet_step(
    state: SparsenetState,
    x: Float[AnyArray, "examples inputs"],
    *,
    learning_rate: float | Float[Array, ""] = 1.0,
    sparseness: Sparseness = "cauchy",
    penalty: float | Float[Array, ""] = 0.022,
    scale: float | Float[Array, ""] = 0.316,
    variance_goal: float | Float[Array, ""] = 0.1,
    variance_rate: float | Float[Array, ""] = 0.01,
    gain_exponent: float | Float[Array, ""] = 0.02,
    least_variance: float | Float[Array, ""] = 0.1,
    max_iterations: int = 30,
) -> tuple[SparsenetState, SparsenetMetrics]:
    r"""Returns the state after coding x and a step :math:`D \leftarrow D + \eta \langle (x - D a) a^T \rangle`.

    Then each atom is scaled to its gain, which grows while the variance of its coefficients is above the goal and
    shrinks while it is below: :math:`g \leftarrow g\, (\mathrm{var}(a) / \mathrm{goal})^{\alpha}`. This way all atoms
    are used equally, and long atoms cannot avoid the penalty.

    Args:
      state: from `init_sparsenet`.
      x: patches `[examples, inputs]`, whitened, of variance near 0.1.
      learning_rate: eta; may be traced, like the following.
      sparseness: S.
      penalty: beta.
      scale: sigma.
      variance_goal: of the coefficients.
      variance_rate: rate of the running average of the variances.
      gain_exponent: alpha.
      least_variance: an atom whose coefficient variance is below this fraction of the goal is inactive and would shrink
        forever; it is replaced by the patch with the largest residual. 0 for never, as in the paper.
      max_iterations: of the inference.

    Returns:
      The new state, and the mean objective `[]` and the remaining fraction of the energy `[]`, both before the
        dictionary changed. An empty batch leaves the state and has zeros.

    Raises:
      ValueError: as `sparsenet_code`, or x is not `[examples, inputs]`.

    References:
      Olshausen & Field, 1997, equation 14 and the norm control below it; Emergence of simple-cell receptive field
      properties by learning a sparse code for natural images, 1996.
    """
    costs = {"sparseness": sparseness, "penalty": penalty, "scale": scale}
    code = sparsenet_code(x, state.dictionary, max_iterations=max_iterations, **costs).code
    if not len(x):
        nothing = jnp.zeros((), code.dtype)
        return state, SparsenetMetrics(nothing, nothing)
    residual = x - product(code, state.dictionary.T)
    metrics = SparsenetMetrics(
        jnp.mean(sparsenet_objective(x, state.dictionary, code, **costs)), ratio(jnp.sum(residual**2), jnp.sum(x**2))
    )
    dictionary = state.dictionary + learning_rate * product(residual.T, code) / len(x)
    variance = (1 - variance_rate) * state.variance + variance_rate * jnp.mean(code**2, 0)
    gain = state.gain * (variance / variance_goal) ** gain_exponent
    lengths = jnp.linalg.norm(dictionary, axis=0)
    dictionary = dictionary * ratio(gain, lengths)[None, :]
    silent = variance < least_variance * variance_goal
    dictionary, new = revive(dictionary, silent, x, residual)
    # The same norm as the others: a smaller one would soon be inactive again.
    active = jnp.sum(~silent, dtype=gain.dtype)
    gain = jnp.where(new, ratio(jnp.sum(jnp.where(silent, 0.0, gain)), active), gain)
    dictionary = jnp.where(new[None, :], dictionary * gain[None, :], dictionary)
    return SparsenetState(dictionary, gain, jnp.where(new, variance_goal, variance)), metrics


def _check(**numbers: float | Array) -> None:
    for name, value in numbers.items():
        if isinstance(value, (int, float)) and not value > 0:
            raise ValueError(f"{name} is {value}; expected a number above 0.")
