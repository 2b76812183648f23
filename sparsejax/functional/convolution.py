"""Convolution and pooling in the form that each backend runs well inside a scan."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


def conv2d(
    x: Float[Array, "batch height width inputs"], kernel: Float[Array, "kh kw inputs outputs"]
) -> Float[Array, "batch rows columns outputs"]:
    """Convolves images with stride 1 and no padding: `[B, H, W, C]` -> `[B, H-kh+1, W-kw+1, O]`.

    Inside a while loop XLA's CPU backend leaves its fast convolution aside (a step takes 19 times as long), so there
    the patches are gathered by slicing and multiplied as one matrix; elsewhere it is `lax.conv`.

    Raises:
      ValueError: shapes do not fit, or the kernel is larger than the image.
    """
    kh, kw, inputs, _ = kernel.shape
    if x.ndim != 4 or x.shape[-1] != inputs or x.shape[1] < kh or x.shape[2] < kw:
        raise ValueError(
            f"Cannot convolve images {x.shape} with a kernel {kernel.shape}; expected [batch, height, width, "
            f"{inputs}] with height >= {kh} and width >= {kw}."
        )
    return lax.platform_dependent(x, kernel, cpu=_by_patches, default=_by_convolution)


def max_pool2d(x: Float[Array, "batch height width channels"], window: int = 2) -> Float[Array, "batch h w channels"]:
    """Takes the maximum over windows that do not overlap; rows and columns that fill no window are left out.

    A maximum over reshaped axes is twice as fast as `lax.reduce_window` on a CPU.
    """
    batch, height, width, channels = x.shape
    h, w = height // window, width // window
    x = x[:, : h * window, : w * window]
    return jnp.max(x.reshape(batch, h, window, w, window, channels), axis=(2, 4))


def _by_patches(x, kernel):
    kh, kw, _, outputs = kernel.shape
    rows, columns = x.shape[1] - kh + 1, x.shape[2] - kw + 1
    patches = jnp.concatenate([x[:, i : i + rows, j : j + columns] for i in range(kh) for j in range(kw)], axis=-1)
    return patches @ kernel.reshape(-1, outputs)


def _by_convolution(x, kernel):
    return lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
