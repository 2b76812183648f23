"""Convolution on a CPU inside a scan, where XLA's own is up to 38 times slower: the fastest of three forms by shape."""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array

from sparsejax.functional.sums import at_least_float32
from sparsejax.functional.winograd import LARGEST_KERNEL, tile_size, winograd

Padding = tuple[tuple[int, int], tuple[int, int]]
"""Zeros before and after rows, and before and after columns."""

_WRITTEN, _NARROW, _CACHED = 36, 24, 2**21


def conv2d_on_cpu(x: Array, kernel: Array, padding: Padding) -> Array:
    """Convolves images in the form of the least cost: `[B, H, W, C]`, `[kh, kw, C, O]` -> `[B, rows, columns, O]`."""
    rows, columns = (
        size + sum(zeros) - taps + 1 for size, zeros, taps in zip(x.shape[1:3], padding, kernel.shape, strict=False)
    )
    costs = estimate_costs(x.shape[0], rows, columns, kernel.shape)
    if min(costs, key=costs.__getitem__) == "winograd":
        return winograd(at_least_float32(x), at_least_float32(kernel), padding).astype(x.dtype)
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    return (by_patches if costs["patches"] <= costs["rows"] else by_rows)(x, kernel)


def estimate_costs(batch: int, rows: int, columns: int, kernel: tuple[int, ...]) -> dict[str, float]:
    """Returns the time of each form, forward and both gradients, in multiplications: "patches", "rows", "winograd".

    A number that a form writes and reads again takes the time of 36 multiplications, in patches that fit the cache that
    of 18; fewer than 24 channels take the time of 24 in Winograd's steps. So fitted to 84 shapes on 2 cores, the rule
    loses 4 % on average and 26 % at most, except for a single image of 4 x 4 x 256.

    Args:
      batch: number of images.
      rows: of the output.
      columns: of the output.
      kernel: shape `[kh, kw, inputs, outputs]`.
    """
    kh, kw, inputs, outputs = kernel
    positions, height = batch * rows * columns, rows + kh - 1
    patches = positions * kh * kw * inputs
    gathered = batch * height * columns * kw * inputs + positions * kh * outputs
    cached = patches < _CACHED
    costs = {
        "patches": patches * (outputs + _WRITTEN / (2 if cached else 1)),
        "rows": math.inf if cached else patches * outputs + _WRITTEN * gathered,
        "winograd": math.inf,
    }
    if max(kh, kw) <= LARGEST_KERNEL:
        tiles, places = batch, 1
        for size, taps in ((rows, kh), (columns, kw)):
            tile = tile_size(size, taps)
            tiles, places = tiles * math.ceil(size / tile), places * (tile + taps - 1)
        written = tiles * (max(inputs, _NARROW) + max(outputs, _NARROW)) + inputs * outputs
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


def by_rows(x, kernel):
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
