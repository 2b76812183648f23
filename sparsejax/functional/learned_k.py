"""Learned or scheduled k: a soft Top-K, a sampled k, and a k that decreases over training."""

import math
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, Key

from sparsejax.functional.arguments import checked
from sparsejax.functional.selection import Count, kth_largest
from sparsejax.functional.sums import at_least_float32, mean
from sparsejax.functional.threshold import ordered_key

Decay = Literal["linear", "exponential"]
_MOST_EPOCHS = 46_340  # the square of this number fits int32
_SPAN = 20.0  # range of the sigmoid's argument over the window


@checked
def soft_top_k(
    x: Float[Array, "*rows n"], k: float | Float[Array, "*rows"] | Float[Array, ""], *, window: int
) -> Float[Array, "*rows n"]:
    r"""Keeps about the k largest values, weighting those near the k-th by a sigmoid, so that k can be learned.

    With r the rank of a unit (0 for the largest), :math:`\bar k` the rounded k and A the width of the window
    :math:`[\bar k - w/2, \bar k + w/2)`, clipped to the row,

    .. math:: y = x\, \sigma\big((k - \bar k) - s(r)\big), \quad s \text{ rising evenly by 20 over the window,}

    y = x before it and 0 after it. The gradient to x is the weight and does not include the ranks; the gradient to k
    comes from :math:`k - \bar k`. Where k rounds to another integer, the output is only approximately continuous.

    Args:
      x: activations `[..., n]`. The paper's code rectifies them first; here, the caller does.
      k: a real number in [0, n], one or one per row; may be traced. Outside that range the window stays at the end of
        the row, and the gradient to k vanishes within about ten units.
      window: width of the window in units; static. The code's default is n // 10.

    Returns:
      Array like x. Tied units rank by index. A whole row is never kept: the smallest unit is 0.

    Raises:
      ValueError: window is not an integer in [2, n], or k has another shape.

    References:
      Bricken et al., Noise Transforms Feed-Forward Networks into Sparse Coding Networks, 2022, appendix A, where the
      window is k +- w; in the code and here, w is its full width.
    """
    n = x.shape[-1]
    if not 2 <= window <= n:
        raise ValueError(f"window is {window}, but a row has {n} units; expected an integer, 2 <= window <= {n}.")
    k = jnp.asarray(k, jnp.float32)
    if k.ndim and k.shape != x.shape[:-1]:
        raise ValueError(f"k has shape {k.shape}; expected () or one k per row, {x.shape[:-1]}.")
    k = jnp.broadcast_to(k, x.shape[:-1])[..., None]
    nearest = jnp.clip(jnp.round(lax.stop_gradient(k)), 0, n)
    first = jnp.maximum(nearest - window // 2, 0)
    end = jnp.minimum(nearest + window // 2, n - 1)
    width = jnp.maximum(end - first, 1)
    # Inverting the bits reverses the order; the rank is the position in the sorted row.
    rank = jnp.argsort(jnp.argsort(~ordered_key(lax.stop_gradient(x)), axis=-1), axis=-1).astype(jnp.float32)
    place = (rank - first) / jnp.maximum(width - 1, 1)
    soft = jax.nn.sigmoid((k - nearest) - _SPAN * (place - (nearest - first) / width))
    weight = jnp.where(rank < first, 1.0, jnp.where(rank < end, soft, 0.0))
    return jnp.where(rank < end, x, jnp.zeros_like(x)) * weight.astype(x.dtype)


@checked
def sampled_k(
    keys: Key[Array, "batch"],
    mu: float | Float[Array, ""],
    sigma: float | Float[Array, ""],
    n: int,
) -> tuple[Int[Array, "batch"], Float[Array, "batch"]]:
    r"""Draws a k for each example, log-normally: :math:`k = \mathrm{round}(e^u)`, :math:`u \sim N(\mu, \sigma)`.

    Args:
      keys: one PRNG key per example `[batch]`.
      mu: mean of log k; may be traced.
      sigma: standard deviation of log k, above 0; may be traced. To learn it, learn its logarithm.
      n: number of units; k is clipped to [1, n].

    Returns:
      k `[batch]`, int32, and the log-density of each u `[batch]`, whose gradient to mu and sigma is the score.

    Raises:
      ValueError: n is not positive, or sigma is a Python number that is not.

    References:
      Bricken et al., 2022, appendix A; Williams, Simple statistical gradient-following algorithms for connectionist
      reinforcement learning, 1992. The paper's code also differentiates through the sample, which exactly cancels the
      score for mu, so that mu is not learned; and it uses the density of the clipped u, which biases the score. Here, u
      is constant and not clipped.
    """
    if n < 1:
        raise ValueError(f"n is {n}; expected at least one unit.")
    if isinstance(sigma, (int, float)) and not sigma > 0:
        raise ValueError(f"sigma is {sigma}; expected the standard deviation of log k, above 0.")
    noise = jax.vmap(lambda key: jax.random.normal(key, (), jnp.float32))(keys)
    return _k_of_noise(noise, mu, sigma, n)


def _k_of_noise(noise: Float[Array, "batch"], mu, sigma, n: int) -> tuple[Int[Array, "batch"], Float[Array, "batch"]]:
    u = lax.stop_gradient(mu + sigma * noise)
    k = jnp.round(jnp.exp(jnp.clip(u, 0.0, jnp.log(jnp.float32(n))))).astype(jnp.int32)
    return jnp.clip(k, 1, n), jax.scipy.stats.norm.logpdf(u, mu, sigma)


@checked
def reinforce_loss(
    log_p: Float[Array, "batch"], loss: Float[Array, "batch"], baseline: float | Float[Array, ""]
) -> Float[Array, ""]:
    r"""Returns :math:`\mathrm{mean}_b\, \log p_b\, (L_b - \text{baseline})`, with gradients only through log p.

    Its gradient is an unbiased estimate of that of the expected loss. The value itself has no meaning; add it to the
    loss to minimise.

    Args:
      log_p: log-probability of each example's sample `[batch]`, from `sampled_k`.
      loss: loss of each example with its sampled k `[batch]`.
      baseline: any number that does not depend on this batch's samples, ideally close to the mean loss, to reduce the
        variance. `update_reinforce_baseline` keeps a running mean.

    Returns:
      A scalar `[]`, 0 for an empty batch.

    Raises:
      ValueError: log_p and loss have different shapes.

    References:
      Williams, Simple statistical gradient-following algorithms for connectionist reinforcement learning, 1992. The
      code of Bricken et al., 2022, has the opposite sign, which would maximise the loss, and no baseline.
    """
    log_p, loss = at_least_float32(log_p), at_least_float32(loss)
    return mean(log_p * lax.stop_gradient(loss - baseline))


@checked
def update_reinforce_baseline(
    baseline: float | Float[Array, ""],
    loss: Float[Array, "batch"],
    *,
    decay: float | Float[Array, ""] = 0.9,
    axis_name: str | None = None,
) -> Float[Array, ""]:
    """Moves the running mean of the loss towards that of a batch; call it after `reinforce_loss`, for the next batch.

    Args:
      baseline: the running mean so far; start close to the first batch's loss.
      loss: losses of the batch `[batch]`.
      decay: weight of the old mean, in [0, 1]; may be traced.
      axis_name: mesh axis over which the batch is sharded.

    Returns:
      The new baseline `[]`, the same after an empty batch; no gradient passes.

    Raises:
      ValueError: decay is a Python number outside [0, 1].

    References:
      Williams, 1992, on reinforcement comparison. The code of Bricken et al., 2022, has no baseline.
    """
    if isinstance(decay, (int, float)) and not 0 <= decay <= 1:
        raise ValueError(f"decay is {decay}; expected the weight of the old mean, in [0, 1].")
    loss = at_least_float32(loss)
    if loss.size == 0:
        return lax.stop_gradient(jnp.asarray(baseline, loss.dtype))
    average = jnp.mean(loss)
    if axis_name is not None:
        average = lax.pmean(average, axis_name)
    return lax.stop_gradient(average + decay * (baseline - average))


@checked
def k_schedule(
    epoch: float | Float[Array, "*shape"] | Int[Array, "*shape"],
    *,
    n: int,
    k_min: float | Float[Array, ""] | Int[Array, ""],
    epochs: float | Float[Array, ""] | Int[Array, ""],
    kind: Decay = "linear",
) -> Int[Array, "*shape"]:
    r"""Returns a k that decreases from n to k_min, truncated to an integer.

    With :math:`t = \mathrm{epoch} / \mathrm{epochs}` in [0, 1]: linear :math:`n - (n - k_{min})\, t`, exponential
    :math:`n\, (k_{min} / n)^t`.

    Args:
      epoch: epochs done, a number or an array `[...]`, rounded down; may be traced. After `epochs`, k stays at k_min.
      n: number of units.
      k_min: k at the end, 1 <= k_min <= n, rounded; may be traced.
      epochs: number of epochs, at most 46,340, rounded; may be traced.
      kind: "linear" or "exponential".

    Returns:
      k `[...]`, int32. Linear is exact; exponential is a float32 power, which may be off by one where it is an integer.

    Raises:
      ValueError: k_min is a Python number outside [1, n], epochs one outside [1, 46340], epoch is NaN, or kind is
        unknown.

    References:
      Bricken et al., 2022, the code's LINEAR_DECAY and EXP_DECAY, stepped once per epoch over 100 epochs.
    """
    if isinstance(k_min, (int, float)) and not 1 <= k_min <= n:
        raise ValueError(f"k_min is {k_min}, but the layer has {n} units; expected 1 <= k_min <= {n}.")
    if isinstance(epochs, (int, float)) and not 1 <= epochs <= _MOST_EPOCHS:
        raise ValueError(f"epochs is {epochs}; expected 1 to 46340. For a longer decay, use larger units of time.")
    if isinstance(epoch, float) and math.isnan(epoch):
        raise ValueError("epoch is nan; expected the number of epochs done.")
    k_min, epochs = jnp.round(k_min).astype(jnp.int32), jnp.round(epochs).astype(jnp.int32)
    done = jnp.minimum(jnp.floor(jnp.clip(epoch, 0, _MOST_EPOCHS)).astype(jnp.int32), epochs)
    if kind == "linear":
        # The decrease, rounded up, in integers that cannot overflow.
        whole, rest = jnp.divmod(n - k_min, epochs)
        return n - whole * done - (rest * done + epochs - 1) // epochs
    ratio, time = k_min.astype(jnp.float32) / n, done.astype(jnp.float32) / epochs.astype(jnp.float32)
    # The offset compensates float32's error where the power is an integer, which truncation would reduce by one.
    return jnp.clip((n * ratio**time * (1 + 1e-6)).astype(jnp.int32), k_min, n)


@checked
def top_k_subtract(x: Float[Array, "*rows n"], k: Count) -> Float[Array, "*rows n"]:
    r"""Subtracts the k-th largest value of each row from it and rectifies: :math:`\mathrm{ReLU}(x - x_{(k)})`.

    The k-th unit itself becomes 0, so k - 1 units remain (fewer if others tie with it). The gradient is 1 on those, 0
    elsewhere; none passes the threshold.

    Args:
      x: activations `[..., n]`. A negative threshold raises the row; the paper's code rectifies first to avoid this.
      k: rank of the threshold, 1 <= k <= n, one or one per row; may be traced.

    Returns:
      Array like x.

    Raises:
      ValueError: k is not an integer, outside [1, n], or of another shape.

    References:
      Bricken et al., 2022, the code's FLAT_SUBTRACT: inhibition that grows until it silences the k-th unit.
    """
    return jax.nn.relu(x - lax.stop_gradient(kth_largest(x, k))[..., None])
