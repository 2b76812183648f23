"""Convolution and pooling in the form that each backend runs well inside a scan."""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


def conv2d(
    x: Float[Array, "batch height width inputs"], kernel: Float[Array, "kh kw inputs outputs"]
) -> Float[Array, "batch rows columns outputs"]:
    """Convolves images with stride 1 and no padding: `[B, H, W, C]` -> `[B, H-kh+1, W-kw+1, O]`.

    Inside a while loop XLA's CPU backend leaves its fast convolution aside (a step takes 19 times as long), so there
    the patches are gathered by slicing and multiplied as one matrix; elsewhere it is `lax.conv`.

    Args:
      x: images `[batch, height, width, inputs]`.
      kernel: weights `[kh, kw, inputs, outputs]`; not flipped, as usual in networks.

    Returns:
      `[batch, height - kh + 1, width - kw + 1, outputs]`.

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


def depthwise_conv2d(
    x: Float[Array, "batch height width channels"], kernel: Float[Array, "kh kw channels"]
) -> Float[Array, "batch height width channels"]:
    """Convolves every channel with a kernel of its own, with stride 1, padded with zeros to the same size.

    `[B, H, W, C]` -> `[B, H, W, C]`; of an even kernel the greater half of the padding comes after, as in XLA's "SAME".
    On a CPU, where a grouped convolution inside a while loop takes seconds a step, it is a sum of shifted images times
    the weights of their channels; elsewhere it is `lax.conv`.

    Args:
      x: images `[batch, height, width, channels]`.
      kernel: weights `[kh, kw, channels]`; not flipped, as usual in networks.

    Returns:
      Array like x.

    Raises:
      ValueError: shapes do not fit.
    """
    if x.ndim != 4 or kernel.ndim != 3 or x.shape[-1] != kernel.shape[-1]:
        raise ValueError(
            f"Cannot convolve images {x.shape} channel by channel with a kernel {kernel.shape}; expected [batch, "
            "height, width, channels] and [kernel height, kernel width, channels]."
        )
    return lax.platform_dependent(x, kernel, cpu=_by_shifts, default=_by_grouped_convolution)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def max_pool2d(x: Float[Array, "batch height width channels"], window: int = 2) -> Float[Array, "batch h w channels"]:
    """Takes the maximum over windows that do not overlap; rows and columns that fill no window are left out.

    A maximum over reshaped axes is twice as fast as `lax.reduce_window` on a CPU. Where several are the greatest they
    share the gradient.

    Args:
      x: images `[batch, height, width, channels]`.
      window: height and width of the windows.

    Returns:
      `[batch, height // window, width // window, channels]`.
    """
    return jnp.max(_windows(x, window), axis=(2, 4))


@max_pool2d.defjvp
def _max_pool2d_jvp(window, primals, tangents):
    # As JAX's own rule, but for the 1: a compiler may compute x again, rounded otherwise, for the comparison; if none
    # then equals the maximum the gradient would be 0 / 0.
    (x,), (dx,) = primals, tangents
    y = max_pool2d(x, window)
    greatest = (_windows(x, window) == y[:, :, None, :, None]).astype(x.dtype)
    count = jnp.maximum(jnp.sum(greatest, axis=(2, 4)), jnp.ones((), x.dtype))
    return y, jnp.sum(greatest * _windows(dx, window), axis=(2, 4)) / count


def _windows(x: Array, window: int) -> Array:
    batch, height, width, channels = x.shape
    h, w = height // window, width // window
    return x[:, : h * window, : w * window].reshape(batch, h, window, w, window, channels)


def _by_patches(x, kernel):
    kh, kw, _, outputs = kernel.shape
    rows, columns = x.shape[1] - kh + 1, x.shape[2] - kw + 1
    # Along one axis, then the other: kh + kw slices, not kh * kw, which take long to compile for large kernels.
    across = jnp.concatenate([x[:, :, j : j + columns] for j in range(kw)], axis=-1)
    patches = jnp.concatenate([across[:, i : i + rows] for i in range(kh)], axis=-1)
    # As [N, K] times [O, K]: then the kernel's gradient is the product [N, O] with [N, K] as they lie. Without the
    # barriers the compiler turns it round, for which it copies what comes back, and takes almost twice as long.
    weights = lax.optimization_barrier(kernel.reshape(-1, outputs).T)
    product = lax.dot_general(patches.reshape(-1, weights.shape[1]), weights, (((1,), (1,)), ((), ())))
    return lax.optimization_barrier(product).reshape(*patches.shape[:3], outputs)


def _by_convolution(x, kernel):
    return lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _by_shifts(x, kernel):
    rows, columns = x.shape[1:3]
    before = [(size - 1) // 2 for size in kernel.shape[:2]]
    after = [size - 1 - low for size, low in zip(kernel.shape[:2], before, strict=True)]
    padded = jnp.pad(x, ((0, 0), (before[0], after[0]), (before[1], after[1]), (0, 0)))
    shifted = (
        padded[:, i : i + rows, j : j + columns] * kernel[i, j].reshape(1, 1, 1, -1)
        for i in range(kernel.shape[0])
        for j in range(kernel.shape[1])
    )
    return functools.reduce(jnp.add, shifted)


def _by_grouped_convolution(x, kernel):
    return lax.conv_general_dilated(
        x, kernel[:, :, None], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )  # fmt: skip
