"""Convolution and pooling in the form that is fast on each backend inside a scan."""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float

from sparsejax.functional.arguments import checked
from sparsejax.functional.shards import on_shards


@checked
def conv2d(
    x: Float[Array, "batch height width inputs"], kernel: Float[Array, "kh kw inputs outputs"]
) -> Float[Array, "batch rows columns outputs"]:
    """Convolves images with stride 1 and no padding: `[B, H, W, C]` -> `[B, H-kh+1, W-kw+1, O]`.

    Inside a while loop XLA's CPU backend does not use its fast convolution (a step takes 19 times as long). On a CPU
    patches, or rows of patches if there are many, are therefore gathered by slicing and multiplied as one matrix;
    elsewhere this is `lax.conv`.

    Args:
      x: images `[batch, height, width, inputs]`.
      kernel: weights `[kh, kw, inputs, outputs]`; not flipped, as usual in networks.

    Returns:
      `[batch, height - kh + 1, width - kw + 1, outputs]`.

    Raises:
      ValueError: shapes do not fit, or the kernel is larger than the image.
    """
    kh, kw, inputs, _ = kernel.shape
    if not kernel.size or x.shape[-1] != inputs or x.shape[1] < kh or x.shape[2] < kw:
        raise ValueError(
            f"Cannot convolve images {x.shape} with a kernel {kernel.shape}; expected [batch, height, width, "
            f"{inputs}] with height >= {kh} and width >= {kw}, and a kernel that is not empty."
        )
    return lax.platform_dependent(x, kernel, cpu=_by_products, default=_by_convolution)


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

    A maximum over reshaped axes is twice as fast as `lax.reduce_window` on a CPU. Tied maxima share the gradient.

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
    return jnp.max(_windows(x, window), axis=(2, 4))


@_max_of_windows.defjvp
def _max_of_windows_jvp(window, primals, tangents):
    # JAX's own rule, except for the 1: the compiler may recompute x with different rounding for the comparison; if none
    # then equals the maximum, the gradient would be 0 / 0.
    (x,), (dx,) = primals, tangents
    y = _max_of_windows(x, window)
    greatest = (_windows(x, window) == y[:, :, None, :, None]).astype(x.dtype)
    count = jnp.maximum(jnp.sum(greatest, axis=(2, 4)), jnp.ones((), x.dtype))
    return y, jnp.sum(greatest * _windows(dx, window), axis=(2, 4)) / count


def _windows(x: Array, window: int) -> Array:
    batch, height, width, channels = x.shape
    h, w = height // window, width // window
    return x[:, : h * window, : w * window].reshape(batch, h, window, w, window, channels)


def _by_products(x, kernel):
    return (_by_rows if _rows_are_faster(x.shape, kernel.shape) else _by_patches)(x, kernel)


def _by_patches(x, kernel):
    """Gathers the inputs of each output: one matrix, one product."""
    kh, _, _, outputs = kernel.shape
    rows = x.shape[1] - kh + 1
    # Along one axis, then the other: kh + kw slices instead of kh * kw, which compile slowly for large kernels.
    across = _gather_along_rows(x, kernel)
    patches = jnp.concatenate([across[:, i : i + rows] for i in range(kh)], axis=-1)
    # As [N, K] times [O, K]: then the kernel's gradient is the product of [N, O] and [N, K] without transposition. The
    # barriers keep the compiler from transposing it, which copies the gradient and takes almost twice as long.
    weights = lax.optimization_barrier(kernel.reshape(-1, outputs).T)
    product = lax.dot_general(patches.reshape(-1, weights.shape[1]), weights, (((1,), (1,)), ((), ())))
    return lax.optimization_barrier(product).reshape(*patches.shape[:3], outputs)


def _gather_along_rows(x, kernel):
    """Gathers the inputs of each output in one row: `[B, H, W, C]` -> `[B, H, W-kw+1, kw*C]`."""
    kw = kernel.shape[1]
    columns = x.shape[2] - kw + 1
    return jnp.concatenate([x[:, :, j : j + columns] for j in range(kw)], axis=-1)


def _rows_are_faster(images: tuple[int, ...], kernel: tuple[int, ...]) -> bool:
    """Returns whether summing over rows is faster than patches, as measured on 2 cores.

    It is if patches exceed the cache and an output has more inputs per row than there are outputs.
    """
    kh, kw, inputs, outputs = kernel
    patches = images[0] * (images[1] - kh + 1) * (images[2] - kw + 1) * kh * kw * inputs
    return kh > 1 and patches >= 2**20 and 2 * kw * inputs >= 3 * outputs


def _by_rows(x, kernel):
    """Gathers along rows only and sums over the rows of the kernel: 1/kh of the memory of all patches."""
    across = lax.optimization_barrier(_gather_along_rows(x, kernel))
    kh, _, _, outputs = kernel.shape
    # Gradients of all rows at once are two products instead of 2 kh: faster, unless many rows have no output.
    added = _add_rows_at_once if outputs * (kh - 1) < 16 * (x.shape[1] - kh + 1) else _add_rows
    return lax.optimization_barrier(added(across, kernel))


def _add_rows(across, kernel):
    kh, kw, inputs, outputs = kernel.shape
    batch, height, columns, _ = across.shape
    rows = height - kh + 1

    # Transposed like the weights of all patches.
    weights = lax.optimization_barrier(kernel.reshape(kh, kw * inputs, outputs).swapaxes(1, 2))

    def product(i):
        seen = across[:, i : i + rows].reshape(-1, kw * inputs)
        return lax.dot_general(seen, weights[i], (((1,), (1,)), ((), ())))

    return functools.reduce(jnp.add, map(product, range(kh))).reshape(batch, rows, columns, outputs)


_add_rows_at_once = jax.custom_jvp(_add_rows)


def _add_rows_jvp(primals, tangents):
    # Transposed, the single product over all rows becomes one product per gradient.
    across, kernel = primals
    kh, kw, inputs, outputs = kernel.shape

    def product(across, kernel):
        return across.reshape(-1, kw * inputs) @ kernel.transpose(1, 2, 0, 3).reshape(kw * inputs, kh * outputs)

    def moved(i):
        part = products[..., i * outputs : (i + 1) * outputs]
        return jnp.pad(part, ((0, 0), (kh - 1 - i, i), (0, 0), (0, 0)))

    pairs = ((tangents[0], kernel), (across, tangents[1]))
    terms = [product(*pair) for pair in pairs if not any(isinstance(one, SymbolicZero) for one in pair)]
    products = lax.optimization_barrier(functools.reduce(jnp.add, terms)).reshape(*across.shape[:3], kh * outputs)
    tangent = functools.reduce(jnp.add, map(moved, range(kh)))[:, kh - 1 : across.shape[1]]
    return _add_rows_at_once(across, kernel), tangent


# Symbolic zeros, because the images of the first layer have no tangent: otherwise their product is computed.
_add_rows_at_once.defjvp(_add_rows_jvp, symbolic_zeros=True)


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
