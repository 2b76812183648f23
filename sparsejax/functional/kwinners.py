"""k-winners with boosting: the k most active units of a layer are kept, and units that rarely win are boosted."""

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from sparsejax.functional.arguments import checked
from sparsejax.functional.ragged_code import RaggedCode
from sparsejax.functional.selection import Count, Ties, as_count, keep
from sparsejax.functional.shards import on_shards
from sparsejax.functional.sparse_code import SparseCode


class BoostState(NamedTuple):
    """How often each unit has won recently.

    `duty_cycle` [units] is a fraction in [0, 1]; `samples` [] counts the examples seen: up to `period` examples, the
    average is the plain mean.
    """

    duty_cycle: Float[Array, "units"]
    samples: Float[Array, ""]


@checked
def init_boost_state(units: int) -> BoostState:
    """Returns the initial state of a layer, with all duty cycles 0.

    Args:
      units: number of units; for images the number of channels.

    Returns:
      The duty cycles `[units]` and the number of examples `[]`, zeros in float32.

    Raises:
      ValueError: units is not positive.

    References:
      Ahmad & Scheinkman, How Can We Be So Dense?, 2019, section 3.1; the initial value 0 is that of the authors' code;
      the paper does not state it.
    """
    if units < 1:
        raise ValueError(f"units is {units}; expected at least one unit (for images: the number of channels).")
    return BoostState(jnp.zeros(units, jnp.float32), jnp.zeros((), jnp.float32))


@checked
def k_winners(
    x: Float[Array, "*batch units"],
    state: BoostState,
    *,
    k: Count,
    boost_strength: float | Float[Array, ""] = 0.0,
    ties: Ties = "first",
    relu: bool = False,
) -> Float[Array, "*batch units"]:
    r"""Keeps the k most active units of each example, where boosting favours units that rarely win.

    .. math:: \mathrm{winners} = \mathrm{top}_k\, x_i\, e^{\beta (\hat a - d_i)}

    The boost only affects the ranking: winners keep their own value, and the gradient is 1 on winners, 0 elsewhere.

    Args:
      x: activations `[..., units]`.
      state: duty cycles d `[units]`.
      k: winners per example, 0 <= k <= units, one or one for each `[...]`; may be traced.
      boost_strength: beta >= 0; 0 is plain Top-K; may be traced.
      ties: "first" keeps exactly k (the paper's rule), with the lower index first among ties; "all" keeps every unit
        tied at the threshold.
      relu: also zero the winners that are negative (their gradient too). Without it, negative winners pass when fewer
        than k units are positive, and the boost has the opposite effect on them.

    Returns:
      Array like x. NaN in, NaN out.

    Raises:
      ValueError: k is not an integer, outside [0, units] or of another shape, the state has another number of units,
        boost_strength is a negative Python number, or ties is unknown.

    References:
      Ahmad & Scheinkman, How Can We Be So Dense? The Benefits of Using Highly Sparse Representations, 2019, Eq. 6-7
      and Algorithm 1.
    """
    state = _checked_state(x.shape[-1], state, boost_strength)
    k = as_count(k, x.shape[:-1], x.shape[-1], least=0)
    gain = _gain(state, k / x.shape[-1], boost_strength, x.dtype)
    return keep(x, k, gain=gain, ties=ties, relu=relu)


@checked
def k_winners_2d(
    x: Float[Array, "*batch height width channels"],
    state: BoostState,
    *,
    k: Count,
    boost_strength: float | Float[Array, ""] = 0.0,
    local: bool = False,
    ties: Ties = "first",
    relu: bool = False,
) -> Float[Array, "*batch height width channels"]:
    """Keeps the k most active units of each image; all positions of a channel share one duty cycle.

    Args:
      x: activations `[..., H, W, C]`.
      state: duty cycles `[C]`.
      k: winners per image out of H * W * C; with `local`, winners per position out of C. One or one for each image
        `[...]`; may be traced.
      boost_strength: as in `k_winners`.
      local: let only the channels of each position compete.
      ties: as in `k_winners`; "first" counts in row-major order of H, W, C.
      relu: as in `k_winners`.

    Returns:
      Array like x.

    Raises:
      ValueError: as `k_winners`; also when x has fewer than three axes.

    References:
      Ahmad & Scheinkman, 2019, section 3.2.
    """
    state = _checked_state(x.shape[-1], state, boost_strength)
    competitors = x.shape[-1] if local else x.shape[-3] * x.shape[-2] * x.shape[-1]
    k = as_count(k, x.shape[:-3], competitors, least=0)
    if local and not isinstance(k, int) and k.ndim:
        k = jnp.broadcast_to(k[..., None, None], x.shape[:-1])
    gain = _gain(state, k / competitors, boost_strength, x.dtype)
    return keep(x, k, gain=gain, axes=1 if local else 3, ties=ties, relu=relu)


@checked
def boost(
    x: Float[Array, "*batch units"],
    state: BoostState,
    target: float | Float[Array, ""] | Float[Array, "*batch"],
    boost_strength: float | Float[Array, ""],
) -> Float[Array, "*batch units"]:
    r"""Returns the values that compete, :math:`x_i e^{\beta (\hat a - d_i)}`; no gradient passes.

    Args:
      x: activations `[..., units]`.
      state: duty cycles d `[units]`.
      target: target duty cycle, k / units, one or one for each row; it scales all units equally and keeps the
        exponential near 1.
      boost_strength: beta >= 0; may be traced.

    Returns:
      Array like x.

    Raises:
      ValueError: the state is that of a layer of another size, or boost_strength is a negative Python number.

    References:
      Ahmad & Scheinkman, How Can We Be So Dense?, 2019, Eq. 7 and Algorithm 1.
    """
    gain = _gain(_checked_state(x.shape[-1], state, boost_strength), target, boost_strength, x.dtype)
    return lax.stop_gradient(x * gain.reshape((1,) * (x.ndim - gain.ndim) + gain.shape))


@checked
def update_boost_state(
    state: BoostState,
    y: Float[Array, "*batch units"] | SparseCode | RaggedCode,
    *,
    period: int = 1000,
    axis_name: str | None = None,
) -> BoostState:
    r"""Averages the winners of a batch into the duty cycles.

    .. math:: d \leftarrow \frac{(p - B)\, d + \sum_b [y_b > 0]}{p}, \quad p = \min(\text{period}, \text{samples} + B)

    A winner counts when it is positive. For images a channel's count is the mean over its positions. A batch larger
    than the period replaces the average by its own mean.

    Args:
      state: the state before the batch, the one the winners were chosen with.
      y: the layer's output, `[batch, units]` or `[batch, H, W, channels]`, or its winners only.
      period: number of examples averaged over.
      axis_name: mesh axis over which the batch is sharded; counts are summed over it, so all replicas agree.

    Returns:
      The new state, that before if the batch is empty; no gradient passes.

    Raises:
      ValueError: period is not positive, or y does not fit the state.

    References:
      Ahmad & Scheinkman, 2019, Eq. 6, with alpha = B / 1000 per batch of B, as in the authors' code.
    """
    if period < 1:
        raise ValueError(f"period is {period}; expected a positive number of examples.")
    state = _checked_state(state.duty_cycle.shape[0], state)
    if (y.batch if isinstance(y, RaggedCode) else math.prod(jnp.shape(y[0] if isinstance(y, tuple) else y))) == 0:
        return state
    count, batch = _wins(state.duty_cycle.shape[0], y)
    if axis_name is not None:
        count = lax.psum(count, axis_name)
        batch = batch * lax.axis_size(axis_name)
    samples = state.samples + batch
    window = jnp.minimum(jnp.maximum(period, batch), samples)
    duty_cycle = (state.duty_cycle * (window - batch) + count) / window
    return BoostState(duty_cycle, samples)


def _wins(units: int, y: Array | SparseCode | RaggedCode) -> tuple[Float[Array, "units"], Float[Array, ""]]:
    """Returns how often each unit won, and the number of examples."""
    if isinstance(y, RaggedCode):
        if y.n != units:
            raise ValueError(f"y is a code of {y.n} units, but the state has {units}; expected the same number.")
        return y.count_by_unit().astype(jnp.float32), jnp.asarray(y.batch, jnp.float32)
    if isinstance(y, SparseCode):
        if y.units not in (None, units):
            raise ValueError(f"y is a code of {y.units} units, but the state has {units}; expected the same number.")
        lead = y.values.ndim - 1

        def of_code(code):
            fired = (code.values > 0).astype(jnp.float32)
            return jnp.zeros(units, jnp.float32).at[code.indices.reshape(-1)].add(fired.reshape(-1))

        total = on_shards(of_code, lead=lead, rows={"code": lax.stop_gradient(y)}, shared={}, summed=True)
        return total, jnp.asarray(math.prod(y.values.shape[:-1]), jnp.float32)
    if y.ndim < 2 or y.shape[-1] != units:
        raise ValueError(
            f"y has shape {y.shape}, but the state has {units} units; expected "
            "[batch, units] or [batch, height, width, channels]."
        )
    # A CPU sums long rows of 16-bit integers three times as fast as floats; those of images are short.
    dtype = jnp.int16 if y.ndim == 2 and len(y) < 2**15 else jnp.float32
    fired = lax.stop_gradient(y > 0).astype(dtype)
    count = jnp.sum(fired, axis=tuple(range(y.ndim - 1)), dtype=dtype).astype(jnp.float32)
    return count / math.prod(y.shape[1:-1]), jnp.asarray(y.shape[0], jnp.float32)


@checked
def inference_k(k: Count, factor: float | Float[Array, ""], units: int) -> Int[Array, "*rows"]:
    """Returns the number of winners at inference: factor * k, rounded half to even, at most all units.

    Args:
      k: winners in training, one or one for each example; may be traced.
      factor: multiplies k, 1.5 in the paper; may be traced.
      units: number of units that compete.

    Returns:
      k at inference, int32 `[]`, or `[...]` as k.

    Raises:
      ValueError: k is not an integer, or factor is a Python number that is negative or not finite.

    References:
      Ahmad & Scheinkman, How Can We Be So Dense?, 2019, section 3: "During inference we increase k by 50%"; the
      rounding is that of the authors' code.
    """
    if isinstance(factor, (int, float)) and not 0 <= factor < math.inf:
        raise ValueError(f"factor is {factor}; expected a finite number, 0 or more.")
    return jnp.minimum(jnp.round(jnp.asarray(k, jnp.float32) * factor), units).astype(jnp.int32)


def _gain(
    state: BoostState, target: float | Float[Array, "*rows"], boost_strength: float | Float[Array, ""], dtype: Any
) -> Float[Array, "*rows units"]:
    """Returns each unit's boost factor in the ranking, per row if there is one target per row."""
    target = jnp.asarray(target, jnp.float32)
    duty_cycle = state.duty_cycle.reshape((1,) * target.ndim + (-1,))
    exponent = jnp.asarray(boost_strength, jnp.float32) * (target[..., None] - duty_cycle)
    return lax.stop_gradient(jnp.exp(exponent).astype(dtype))


def _checked_state(units: int, state: BoostState, boost_strength: float | Float[Array, ""] = 0.0) -> BoostState:
    """Returns the state in float32; refuses one of another layer."""
    if state.duty_cycle.shape[-1] != units:
        raise ValueError(
            f"The boost state has {state.duty_cycle.shape[-1]} units, but x has {units}; create it with "
            f"init_boost_state({units})."
        )
    if isinstance(boost_strength, (int, float)) and not boost_strength >= 0:
        raise ValueError(f"boost_strength is {boost_strength}; expected 0 (no boosting) or more.")
    return BoostState(*(part.astype(jnp.float32) for part in state))
