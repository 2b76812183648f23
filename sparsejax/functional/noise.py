"""Noise on inputs and activations, with one key per example, so that results do not depend on a batch's sharding."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray

from sparsejax.functional.arguments import checked
from sparsejax.functional.selection import winners

Distribution = Literal["gaussian", "laplace", "uniform"]
_DRAWS = {
    "gaussian": jax.random.normal,
    "laplace": jax.random.laplace,
    "uniform": lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -(3**0.5), 3**0.5),
}


@checked
def example_keys(key: PRNGKeyArray, rows: Int[Array, "batch"]) -> Key[Array, "batch"]:
    """Returns one key per example, made from its index in the whole batch (not in this device's part of it).

    Args:
      key: one PRNG key, the same on all devices.
      rows: global indices `[batch]`.

    Returns:
      Keys `[batch]`.
    """
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, rows)


@checked
def pixel_noise(
    keys: Key[Array, "batch"],
    images: Float[Array, "batch height width channels"],
    *,
    level: float | Float[Array, ""],
    value: float | Float[Array, ""] | Float[Array, "1 1 1 #channels"],
) -> Float[Array, "batch height width channels"]:
    """Sets exactly int(level * n) distinct pixels of each image to a value.

    All channels of a pixel are replaced; brighter pixels become darker.

    Args:
      keys: one PRNG key per image `[batch]`.
      images: `[batch, H, W, C]`; n = H * W.
      level: eta, the fraction of pixels replaced, 0 <= eta <= 1; may be traced.
      value: new value, a number or one per channel `[1, 1, 1, C]`; in the paper the data's mean plus two standard
        deviations.

    Returns:
      Array like images.

    Raises:
      ValueError: level is a Python number outside [0, 1].

    References:
      Ahmad & Scheinkman, How Can We Be So Dense?, 2019, section 4.1; the exact count is that of the authors' code.
    """
    if isinstance(level, (int, float)) and not 0 <= level <= 1:
        raise ValueError(f"level is {level}; expected a fraction of pixels in [0, 1].")
    batch, height, width, _ = images.shape
    pixels = height * width
    # The offset compensates float32's error in products such as 0.15 * 100, which truncation would reduce by one.
    count = jnp.floor(jnp.asarray(level, jnp.float32) * pixels + 1e-3).astype(jnp.int32)
    scores = jax.vmap(lambda key: jax.random.bits(key, (pixels,), jnp.uint32))(keys).astype(jnp.int32)
    hit = winners(scores, count, ties="first").reshape(batch, height, width, 1)
    return jnp.where(hit, jnp.asarray(value, images.dtype), images)


@checked
def add_noise(
    keys: Key[Array, "batch"],
    x: Float[Array, "batch *shape"],
    *,
    sigma: float | Float[Array, ""],
    distribution: Distribution = "gaussian",
) -> Float[Array, "batch *shape"]:
    """Adds independent noise of mean 0 to every element.

    Args:
      keys: one PRNG key per example `[batch]`.
      x: inputs or activations `[batch, ...]`.
      sigma: for "gaussian" and "uniform" the standard deviation; for "laplace" the scale b, so that the variance is
        2 b^2. 0 leaves x unchanged; may be traced.
      distribution: "gaussian", "laplace" or "uniform".

    Returns:
      Array like x; it is not clipped.

    Raises:
      ValueError: sigma is a negative Python number, or the distribution is unknown.

    References:
      Bricken et al., Noise Transforms Feed-Forward Networks into Sparse Coding Networks, 2022, Eq. 1, whose sigma is
      the standard deviation in the code, and Fig. 7 (Laplace).
    """
    if isinstance(sigma, (int, float)) and not sigma >= 0:
        raise ValueError(f"sigma is {sigma}; expected 0 (no noise) or more.")
    noise = jax.vmap(lambda key: _DRAWS[distribution](key, x.shape[1:], jnp.float32))(keys)
    return x + (jnp.asarray(sigma, jnp.float32) * noise).astype(x.dtype)


@checked
def salt_and_pepper(
    keys: Key[Array, "batch"],
    images: Float[Array, "batch height width channels"],
    *,
    level: float | Float[Array, ""],
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Float[Array, "batch height width channels"]:
    """Sets exactly int(level * n) distinct pixels of each image, all channels, to the smallest or the largest value.

    Args:
      keys: one PRNG key per image `[batch]`.
      images: `[batch, H, W, C]`; n = H * W.
      level: the fraction of pixels replaced, in [0, 1]; may be traced.
      bounds: the two values, equally likely.

    Returns:
      Array like images.

    Raises:
      ValueError: level is a Python number outside [0, 1].

    References:
      Gonzalez & Woods, Digital Image Processing, 2018 (impulse noise); the exact count is that of `pixel_noise`.
    """
    hit = pixel_noise(keys, jnp.zeros((*images.shape[:3], 1), jnp.float32), level=level, value=1.0) > 0
    coins = jax.vmap(lambda key: jax.random.bernoulli(jax.random.fold_in(key, 1), shape=(*images.shape[1:3], 1)))(keys)
    return jnp.where(hit, jnp.where(coins, *reversed(bounds)).astype(images.dtype), images)


@checked
def anneal(
    sigma: float | Float[Array, ""],
    time: float | Float[Array, ""],
    *,
    hold: float | Float[Array, ""],
    duration: float | Float[Array, ""],
) -> Float[Array, ""]:
    """Returns constant, then linearly decreasing noise: sigma * (1 - (time - hold) / duration), within [0, sigma].

    Args:
      sigma: initial noise, in its own unit.
      time: epochs (or steps) done.
      hold: how long it stays constant, in the unit of time.
      duration: how long it decreases, in the unit of time; 0 removes it immediately after `hold`.

    Returns:
      The noise at that time, float32 `[]`.

    References:
      Bricken et al., Noise Transforms Feed-Forward Networks into Sparse Coding Networks, 2022, section 3 and Fig. 6:
      800 epochs of each.
    """
    late = jnp.asarray(time, jnp.float32) - hold
    left = 1 - late / jnp.maximum(jnp.asarray(duration, jnp.float32), 1e-6)
    return sigma * jnp.where(late <= 0, 1.0, jnp.maximum(left, 0.0))


@checked
def dropout(
    keys: Key[Array, "batch"], x: Float[Array, "batch *shape"], *, rate: float | Float[Array, ""]
) -> Float[Array, "batch *shape"]:
    """Zeroes each unit with probability `rate` and scales the rest by 1 / (1 - rate).

    Args:
      keys: one PRNG key per example `[batch]`.
      x: activations `[batch, ...]`.
      rate: in [0, 1); may be traced.

    Returns:
      Array like x.

    Raises:
      ValueError: rate is a Python number outside [0, 1).

    References:
      Srivastava et al., Dropout: A Simple Way to Prevent Neural Networks from Overfitting, 2014.
    """
    if isinstance(rate, (int, float)) and not 0 <= rate < 1:
        raise ValueError(f"rate is {rate}; expected a probability in [0, 1).")
    keep = jnp.asarray(1 - rate, jnp.float32)
    kept = jax.vmap(lambda key: jax.random.bernoulli(key, keep, x.shape[1:]))(keys)
    return jnp.where(kept, x / jnp.asarray(1 - rate, x.dtype), jnp.zeros_like(x))


@checked
def white_noise_blend(
    keys: Key[Array, "batch"], waveform: Float[Array, "batch samples"], *, level: float | Float[Array, ""]
) -> Float[Array, "batch samples"]:
    """Blends each waveform with white noise: (1 - level) * waveform + level * U(-1, 1), sample by sample.

    The noise has the full range [-1, 1] even for a quiet clip, so a level of 0.05 is strong.

    Args:
      keys: one PRNG key per waveform `[batch]`.
      waveform: `[batch, samples]`, in [-1, 1].
      level: eta, the weight of the noise, 0 <= eta <= 1; may be traced.

    Returns:
      Array like waveform.

    Raises:
      ValueError: level is a Python number outside [0, 1].

    References:
      Ahmad & Scheinkman, How Can We Be So Dense?, 2019, section 4.2; the noise is uniform in the authors' code.
    """
    if isinstance(level, (int, float)) and not 0 <= level <= 1:
        raise ValueError(f"level is {level}; expected a weight of the noise in [0, 1].")
    share = jnp.asarray(level, waveform.dtype)
    noise = jax.vmap(lambda key: jax.random.uniform(key, waveform.shape[1:], waveform.dtype, -1.0, 1.0))(keys)
    return (1 - share) * waveform + share * noise
