"""Responses of the blocks of a network: sparsity of channels, and signal-to-noise ratios."""

from collections.abc import Mapping

import jax.numpy as jnp
from jaxtyping import Array, Float


def channel_ratio(y: Float[Array, "batch height width channels"]) -> Float[Array, ""]:
    r"""Returns how evenly the channels of a position are active, in [0, 1]: 0 for only one, 1 for all equally.

    .. math:: \frac{\overline{\|y\|_1 / \|y\|_2} - 1}{\sqrt N - 1}

    with the mean over images and positions with any activity: 1 minus Hoyer's index.

    Raises:
      ValueError: y is not a batch of images, or has one channel.

    References:
      Cekic et al., 2022, Fig. 2; the paper does not state the scaling; this one covers the whole interval.
    """
    if y.ndim != 4 or y.shape[-1] < 2:
        raise ValueError(f"y has shape {y.shape}; expected [batch, height, width, channels] with two channels or more.")
    y = y.astype(jnp.float32)
    long = jnp.sqrt(jnp.sum(y * y, -1))
    there = long > 0
    ratio = jnp.sum(jnp.abs(y), -1) / jnp.where(there, long, 1)
    mean = jnp.sum(jnp.where(there, ratio, 0)) / jnp.maximum(jnp.sum(there.astype(jnp.float32)), 1)
    return jnp.where(jnp.any(there), (mean - 1) / (jnp.sqrt(jnp.float32(y.shape[-1])) - 1), 0)


def signal_to_noise(
    clean: Mapping[str, Float[Array, "batch *shape"]], noisy: Mapping[str, Float[Array, "batch *shape"]]
) -> dict[str, Float[Array, ""]]:
    r"""Returns the signal-to-noise ratio at each place, in dB.

    .. math:: 10 \log_{10} \mathbb{E} \left[ \|f(x)\|^2 / \|f(x + w) - f(x)\|^2 \right]

    Args:
      clean: place -> responses there to clean images.
      noisy: place -> responses there to the same images with noise.

    References:
      Cekic et al., 2022, Eq. 6; the 1e-9 that keeps a zero difference finite is that of the code.
    """

    def of(f: Array, g: Array) -> Array:
        signal, noise = (jnp.sqrt(jnp.sum(jnp.square(a.reshape(a.shape[0], -1)), -1)) for a in (f, g - f))
        return 10 * jnp.log10(jnp.mean(jnp.square(signal / (noise + 1e-9))))

    return {name: of(clean[name].astype(jnp.float32), noisy[name].astype(jnp.float32)) for name in clean}
