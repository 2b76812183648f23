"""Convolution on a CPU inside a scan, where XLA's own is up to 38 times slower: the fastest of three forms by shape."""

import functools
import math

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from sparsejax.functional.sums import at_least_float32
from sparsejax.functional.winograd import LARGEST_KERNEL, tile_size, winograd

Padding = tuple[tuple[int, int], tuple[int, int]]
"""Zeros before and after rows, and before and after columns."""

_WRITTEN, _NARROW, _CACHED, _MOST_PARTS = 36, 32, 2**20, 8


def conv2d_on_cpu(x: Array, kernel: Array, padding: Padding) -> Array:
    """Convolves images in the form of the least cost: `[B, H, W, C]`, `[kh, kw, C, O]` -> `[B, rows, columns, O]`."""
    rows, columns = (
        size + sum(zeros) - taps + 1 for size, zeros, taps in zip(x.shape[1:3], padding, kernel.shape, strict=False)
    )
    costs = estimate_costs(x.shape[0], rows, columns, kernel.shape)
    if min(costs, key=costs.__getitem__) == "winograd":
        wider = max(x.dtype, kernel.dtype, key=lambda dtype: dtype.itemsize)
        return winograd(at_least_float32(x), at_least_float32(kernel), padding).astype(wider)
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    return (by_patches if costs["patches"] <= costs["rows"] else by_rows)(x, kernel)


def estimate_costs(batch: int, rows: int, columns: int, kernel: tuple[int, ...]) -> dict[str, float]:
    """Returns the time of each form, forward and both gradients, in multiplications: "patches", "rows", "winograd".

    A number that a form writes and reads again takes the time of 36 multiplications, in the cache that of 18; fewer
    than 32 channels take the time of 32 in Winograd's steps. So fitted to 85 shapes of 1 to 64 images on 2 cores, the
    rule loses 5 % on average against the fastest form of each, and at most half except for one image of 6 x 6 x 256.
    `python -m benchmarks --group convolution` compares the forms.

    Args:
      batch: number of images.
      rows: of the output.
      columns: of the output.
      kernel: shape `[kh, kw, inputs, outputs]`.
    """
    kh, kw, inputs, outputs = kernel
    patches = batch * rows * columns * kh * kw * inputs
    across = batch * (rows + kh - 1) * columns
    costs = {
        "patches": patches * (outputs + _WRITTEN / (2 if patches < 2 * _CACHED else 1)),
        "rows": across * (kw * inputs * kh * outputs + _WRITTEN / 2 * (kw * inputs + kh * outputs)),
        "winograd": math.inf,
    }
    if max(kh, kw) <= LARGEST_KERNEL:
        tiles, places = batch, 1
        for size, taps in ((rows, kh), (columns, kw)):
            tile = tile_size(size, taps)
            tiles, places = tiles * math.ceil(size / tile), places * (tile + taps - 1)
        written = tiles * (max(inputs, _NARROW) + max(outputs, _NARROW)) + inputs * outputs / 2
        costs["winograd"] = places * (tiles * inputs * outputs + _WRITTEN * written)
    return costs


def by_patches(x, kernel):
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


def by_rows(x: Array, kernel: Array) -> Array:
    """Multiplies the inputs that an output has in a row with the weights of all rows, and adds the rows.

    That writes `kw * inputs + kh * outputs` numbers at a position, not `kh * kw * inputs`. Images are computed in parts
    whose numbers stay in the cache. A part has images at equal distances, so that each device has its own of a batch
    that is sharded.
    """
    batch, height, width, inputs = x.shape
    kh, kw, _, outputs = kernel.shape
    columns = width - kw + 1
    # Weights as in patches. The barriers keep the compiler from gathering and adding within the products.
    weights = lax.optimization_barrier(kernel.transpose(0, 3, 1, 2).reshape(kh * outputs, kw * inputs))

    def of_part(x: Array) -> Array:
        across = lax.optimization_barrier(_gather_along_rows(x, kernel)).reshape(-1, kw * inputs)
        product = lax.optimization_barrier(lax.dot_general(across, weights, (((1,), (1,)), ((), ()))))
        rows = lax.split(product.reshape(-1, height, columns, kh, outputs), (1,) * kh, 3)
        moved = (jnp.squeeze(row, 3)[:, i : i + height - kh + 1] for i, row in enumerate(rows))
        return lax.optimization_barrier(functools.reduce(jnp.add, moved))

    wanted = math.ceil(batch * height * columns * (kw * inputs + kh * outputs) / _CACHED)
    least = max(1, min(wanted, _MOST_PARTS))
    parts = next((parts for parts in range(least, _MOST_PARTS + 1) if batch % parts == 0), 1)
    images = x.reshape(batch // parts, parts, height, width, inputs)
    y = jnp.stack([of_part(images[:, part]) for part in range(parts)], 1)
    return y.reshape(batch, *y.shape[2:])
