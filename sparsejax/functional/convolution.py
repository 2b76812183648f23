"""Convolution and pooling in the form that is fast on each backend inside a scan."""

import functools
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from sparsejax.functional.arguments import checked
from sparsejax.functional.convolution_cpu import Padding, conv2d_on_cpu
from sparsejax.functional.shards import on_shards


@checked
def conv2d(
    x: Float[Array, "batch height width inputs"],
    kernel: Float[Array, "kh kw inputs outputs"],
    padding: Literal["VALID", "SAME"] = "VALID",
) -> Float[Array, "batch rows columns outputs"]:
    """Convolves images with stride 1: `[B, H, W, C]` -> `[B, H-kh+1, W-kw+1, O]`, or `[B, H, W, O]`.

    Inside a while loop XLA's CPU backend does not use its fast convolution (a step takes 19 times as long). On a CPU it
    is therefore, whichever is fastest for the shapes, a product of patches, one of rows of patches, or Winograd's
    filtering, which takes up to six times fewer multiplications and differs from a float32 sum by up to 1e-5 of the
    largest output. Winograd computes half precision in float32. Its outputs come in tiles, so that a value that is not
    finite makes a whole tile nan. Elsewhere this is `lax.conv`.

    Args:
      x: images `[batch, height, width, inputs]`.
      kernel: weights `[kh, kw, inputs, outputs]`; not flipped, as usual in networks.
      padding: "VALID", none; or "SAME", zeros around the images so that they keep their size, for an even kernel one
        more at the end.

    Returns:
      `[batch, height - kh + 1, width - kw + 1, outputs]`, or with "SAME" `[batch, height, width, outputs]`.

    Raises:
      ValueError: shapes do not fit, the kernel is larger than the padded image, or the padding is unknown.

    References:
      Lavin & Gray, Fast algorithms for convolutional neural networks, 2015.
    """
    kh, kw, inputs, _ = kernel.shape
    if padding not in ("VALID", "SAME"):
        raise ValueError(f"padding is {padding!r}; expected 'VALID' or 'SAME'.")
    zeros = (_same(kh), _same(kw)) if padding == "SAME" else ((0, 0), (0, 0))
    if not kernel.size or x.shape[-1] != inputs or x.shape[1] + sum(zeros[0]) < kh or x.shape[2] + sum(zeros[1]) < kw:
        raise ValueError(
            f"Cannot convolve images {x.shape} with a kernel {kernel.shape} and {padding} padding; expected [batch, "
            f"height, width, {inputs}] with height >= {kh} and width >= {kw}, or 'SAME' padding, and a kernel that is "
            "not empty."
        )
    on_cpu, elsewhere = (functools.partial(form, padding=zeros) for form in (conv2d_on_cpu, _by_convolution))

    def convolve(x: Array, kernel: Array) -> Array:
        return lax.platform_dependent(x, kernel, cpu=on_cpu, default=elsewhere)

    return on_shards(convolve, lead=1, rows={"x": x}, shared={"kernel": kernel})


def _same(taps: int) -> tuple[int, int]:
    return (taps - 1) // 2, taps // 2


@checked
def depthwise_conv2d(
    x: Float[Array, "batch height width channels"], kernel: Float[Array, "kh kw channels"]
) -> Float[Array, "batch height width channels"]:
    """Convolves every channel with its own kernel, with stride 1, padded with zeros to the same size.

    `[B, H, W, C]` -> `[B, H, W, C]`; for an even kernel the larger part of the padding is at the end, as in XLA's
    "SAME". On a CPU, where a grouped convolution inside a while loop takes seconds per step, it is a sum of shifted
    images times the weights of their channels; elsewhere it is `lax.conv`.

    Args:
      x: images `[batch, height, width, channels]`.
      kernel: weights `[kh, kw, channels]`; not flipped, as usual in networks.

    Returns:
      Array like x.

    Raises:
      ValueError: shapes do not fit.
    """
    if not kernel.size or x.shape[-1] != kernel.shape[-1]:
        raise ValueError(
            f"Cannot convolve images {x.shape} channel by channel with a kernel {kernel.shape}; expected [batch, "
            "height, width, channels] and [kernel height, kernel width, channels], which is not empty."
        )
    return lax.platform_dependent(x, kernel, cpu=_by_shifts, default=_by_grouped_convolution)


@checked
def max_pool2d(x: Float[Array, "batch height width channels"], window: int = 2) -> Float[Array, "batch h w channels"]:
    """Takes the maximum over non-overlapping windows; incomplete windows are dropped.

    The maximum of the windows' entries is faster than `lax.reduce_window` on a CPU. Tied maxima share the gradient.

    Args:
      x: images `[batch, height, width, channels]`.
      window: height and width of the windows.

    Returns:
      `[batch, height // window, width // window, channels]`.

    Raises:
      ValueError: window is not positive.
    """
    if window < 1:
        raise ValueError(f"window is {window}; expected 1 or more.")
    return on_shards(_max_of_windows, lead=1, rows={"x": x}, shared={"window": window})


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _max_of_windows(x, window):
    return _over_windows(jnp.max, _windows(x, window))


@_max_of_windows.defjvp
def _max_of_windows_jvp(window, primals, tangents):
    # JAX's own rule, except for the 1: the compiler may recompute x with different rounding for the comparison; if none
    # then equals the maximum, the gradient would be 0 / 0.
    (x,), (dx,) = primals, tangents
    y = _max_of_windows(x, window)
    greatest = (_windows(x, window) == y[:, :, None, :, None]).astype(x.dtype)
    count = jnp.maximum(_over_windows(jnp.sum, greatest), jnp.ones((), x.dtype))
    return y, _over_windows(jnp.sum, greatest * _windows(dx, window)) / count


def _windows(x: Array, window: int) -> Array:
    batch, height, width, channels = x.shape
    h, w = height // window, width // window
    return x[:, : h * window, : w * window].reshape(batch, h, window, w, window, channels)


def _over_windows(reduce: Callable[..., Array], x: Array) -> Array:
    """Reduces windows `[batch, h, window, w, window, channels]`, small ones entry by entry.

    That compiles to one pass over x; a sum over two axes takes three times as long on a CPU, but compiles sooner if
    windows are large.
    """
    window = x.shape[2]
    if window > 4:
        return reduce(x, axis=(2, 4))
    rows = lax.split(x, (1,) * window, 2)
    entries = [jnp.squeeze(entry, (2, 4)) for row in rows for entry in lax.split(row, (1,) * window, 4)]
    return functools.reduce({jnp.max: jnp.maximum, jnp.sum: jnp.add}[reduce], entries)


def _by_convolution(x: Array, kernel: Array, padding: Padding) -> Array:
    return lax.conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _by_shifts(x, kernel):
    rows, columns = x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), _same(kernel.shape[0]), _same(kernel.shape[1]), (0, 0)))
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
