"""Noise on inputs and activations, keyed by example so that results do not depend on how a batch is spread."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray

from sparsejax.functional.selection import winners


def example_keys(key: PRNGKeyArray, rows: Int[Array, "batch"]) -> Key[Array, "batch"]:
    """Returns one key per example, made from its index in the whole batch (not in this device's share of it).

    Args:
      key: one PRNG key, the same on all devices.
      rows: global indices `[batch]`.
    """
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, rows)


def pixel_noise(
    keys: Key[Array, "batch"],
    images: Float[Array, "batch height width channels"],
    *,
    level: float | Float[Array, ""],
    value: float | Float[Array, ""],
) -> Float[Array, "batch height width channels"]:
    """Sets exactly int(level * n) distinct pixels of each image to a value.

    A pixel has all its channels replaced; pixels that were brighter become darker.

    Args:
      keys: one PRNG key per image `[batch]`.
      images: `[batch, H, W, C]`; n = H * W.
      level: eta, the fraction of pixels replaced, 0 <= eta <= 1; may be traced.
      value: what they are set to; the paper takes the data's mean plus two standard deviations.

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
    # The nudge undoes float32's error in products such as 0.15 * 100, which would lose a pixel when truncated.
    count = jnp.floor(jnp.asarray(level, jnp.float32) * pixels + 1e-3).astype(jnp.int32)
    scores = jax.vmap(lambda key: jax.random.bits(key, (pixels,), jnp.uint32))(keys).astype(jnp.int32)
    hit = winners(scores, count, ties="first").reshape(batch, height, width, 1)
    return jnp.where(hit, jnp.asarray(value, images.dtype), images)


def dropout(
    keys: Key[Array, "batch"], x: Float[Array, "batch *shape"], *, rate: float | Float[Array, ""]
) -> Float[Array, "batch *shape"]:
    """Zeroes each unit with probability `rate` and scales the rest by 1 / (1 - rate).

    Args:
      keys: one PRNG key per example `[batch]`.
      x: activations.
      rate: in [0, 1); may be traced.

    Raises:
      ValueError: rate is a Python number outside [0, 1).

    References:
      Srivastava et al., Dropout, 2014.
    """
    if isinstance(rate, (int, float)) and not 0 <= rate < 1:
        raise ValueError(f"rate is {rate}; expected a probability in [0, 1).")
    kept = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, x.shape[1:]))(keys)
    return jnp.where(kept, x / jnp.asarray(1 - rate, x.dtype), jnp.zeros_like(x))
