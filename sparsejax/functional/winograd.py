"""Convolution by Winograd's minimal filtering: fewer multiplications than a product of patches."""

import functools
import math

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

_POINTS = 0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5
_LONGEST_TILE = 4
LARGEST_KERNEL = len(_POINTS)
"""Taps along an axis: with two outputs a tile then has an input for every point and one for infinity."""


def tile_size(outputs: int, taps: int) -> int:
    """Returns how many outputs a tile has along an axis, so that an image needs the fewest products.

    Args:
      outputs: of the image along the axis.
      taps: of the kernel along the axis, at most `LARGEST_KERNEL`.
    """
    sizes = range(1, 1 + min(outputs, _LONGEST_TILE, len(_POINTS) + 2 - taps))
    return min(sizes, key=lambda size: (math.ceil(outputs / size) * (size + taps - 1), size))


@functools.cache
def matrices(size: int, taps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns A `[t, size]`, G `[t, taps]` and B `[t, t]`, with t = size + taps - 1: `size` outputs of a filter g with
    `taps` taps, from t inputs d, are `A.T @ ((G @ g) * (B @ d))`, with t multiplications instead of size * taps.

    The product s(z) = g(z) h(z) of polynomials with `taps` and `size` coefficients has t coefficients. Its values at
    t - 1 points p and its leading coefficient, "the value at infinity", determine it; each is the product of those of g
    and of h. The rows of A and V evaluate h and g: powers of p, and for infinity the last coefficient. With m(z) the
    product of all (z - p), and n_p the product of p - q over the other points q, Lagrange's interpolation is

        s(z) = sum over p of  g(p) h(p) / n_p * m(z) / (z - p)  +  g(inf) h(inf) m(z).

    The coefficients of m(z) / (z - p), and last those of m(z), are the rows of B, and G is V with its rows divided by
    n_p: s = B.T @ ((G @ g) * (A @ h)). A filter is the transpose of this map of h for fixed g: if s_k is the sum of
    g_i h_j over i + j = k, then y_j is the sum of g_i d_(i + j). Transposed, A and B change sides.

    References:
      Winograd, Arithmetic complexity of computations, 1980; Lavin & Gray, Fast algorithms for convolutional neural
      networks, 2015.
    """
    points = np.array(_POINTS[: size + taps - 2])
    others = [np.delete(points, i) for i in range(len(points))]
    scales = [np.prod(point - other) for point, other in zip(points, others, strict=True)]
    back, evaluate = (
        np.vstack([np.vander(points, count, increasing=True), np.eye(count)[-1:]]) for count in (size, taps)
    )
    rows = [np.atleast_1d(np.poly(roots))[::-1] for roots in (*others, points)]
    forth = np.array([np.append(row, np.zeros(len(points) + 1 - len(row))) for row in rows])
    return back, evaluate / np.append(scales, 1)[:, None], forth


def winograd(x: Array, kernel: Array, padding: tuple[tuple[int, int], tuple[int, int]]) -> Array:
    """Convolves images in overlapping tiles: `[B, H, W, C]`, `[kh, kw, C, O]` -> `[B, rows, columns, O]`.

    All tiles and the kernel are transformed along rows and columns (B, G), multiplied over the channels at every place
    of a tile, and transformed back (A). Derivatives are the transposes of these steps: they take as few products, and
    the kernel's uses the transformed images again. Each step is written such that its transpose is fast as well: tiles
    overlap by slices of whole blocks, whose transpose adds blocks shifted by one tile, and not by strided slices, whose
    transpose scatters. Barriers keep the compiler from computing a step again for each use.

    Args:
      x: images.
      kernel: at most `LARGEST_KERNEL` taps along each axis.
      padding: zeros before and after rows, and columns.
    """
    (top, bottom), (left, right) = padding
    kh, kw = kernel.shape[:2]
    rows, columns = x.shape[1] + top + bottom - kh + 1, x.shape[2] + left + right - kw + 1
    height, width = tile_size(rows, kh), tile_size(columns, kw)
    (back_h, filter_h, forth_h), (back_w, filter_w, forth_w) = matrices(height, kh), matrices(width, kw)
    down, across = math.ceil(rows / height), math.ceil(columns / width)
    # The two axes of a tile come first: then all products are one `dot_general`.
    seen = lax.optimization_barrier(_combine(forth_h, _tiles(x, 1, down, height, kh, top)))
    seen = lax.optimization_barrier(_combine(forth_w, _tiles(seen, 3, across, width, kw, left)))
    weights = lax.optimization_barrier(_transform(filter_w, _transform(filter_h, kernel, 0), 1))
    flat = seen.reshape(*seen.shape[:2], -1, seen.shape[-1])
    y = lax.dot_general(flat, weights, (((3,), (2,)), ((0, 1), (0, 1))))
    y = lax.optimization_barrier(y.reshape(*seen.shape[:-1], -1))
    y = lax.optimization_barrier(_transform(back_w.T, y, 0))
    y = lax.optimization_barrier(_transform(back_h.T, y, 1))  # [height, width, B, down, across, O]
    y = y.transpose(2, 3, 0, 4, 1, 5).reshape(x.shape[0], down * height, across * width, kernel.shape[-1])
    return y[:, :rows, :columns]


def _tiles(x: Array, axis: int, tiles: int, size: int, taps: int, before: int) -> list[Array]:
    """Returns the first input of all tiles along an axis, the second, and so on, each with `tiles` along the axis."""
    inputs = size + taps - 1
    blocks = math.ceil(inputs / size)  # of `size` inputs, over which a tile extends
    after = (tiles + blocks - 1) * size - x.shape[axis] - before
    zeros = [(0, 0, 0)] * x.ndim
    zeros[axis] = (before, after, 0)
    x = lax.pad(x, jnp.zeros((), x.dtype), zeros)
    x = x.reshape(*x.shape[:axis], tiles + blocks - 1, size, *x.shape[axis + 1 :])
    parts = []
    for block in range(blocks):
        part = lax.slice_in_dim(x, block, block + tiles, axis=axis)
        parts += _split(lax.slice_in_dim(part, 0, min(size, inputs - block * size), axis=axis + 1), axis + 1)
    return parts


def _transform(matrix: np.ndarray, x: Array, axis: int) -> Array:
    """Multiplies an axis of x by a matrix and moves it to the front."""
    return _combine(matrix, _split(x, axis))


def _split(x: Array, axis: int) -> list[Array]:
    return [jnp.squeeze(part, axis) for part in lax.split(x, (1,) * x.shape[axis], axis)]


def _combine(matrix: np.ndarray, parts: list[Array]) -> Array:
    """Returns for each row of a matrix the sum of the parts, times their entries; ones and zeros cost nothing."""

    def term(factor: float, part: Array) -> Array:
        return part if factor == 1 else -part if factor == -1 else part * factor

    def total(row: np.ndarray) -> Array:
        terms = (term(float(factor), part) for factor, part in zip(row, parts, strict=True) if factor)
        return functools.reduce(jnp.add, terms)

    return jnp.stack([total(row) for row in matrix])
