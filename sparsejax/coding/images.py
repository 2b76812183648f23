"""Patches of images, the image of overlapping patches, and the ratio of signal to noise."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sparsejax.coding.problem import AnyArray
from sparsejax.functional.arguments import checked
from sparsejax.functional.sums import at_least_float32


@checked
def extract_patches(
    images: Float[AnyArray, "*images"],
    size: int | tuple[int, int],
    *,
    stride: int | tuple[int, int] = 1,
    channels: bool = False,
) -> Float[Array, "*batch patches pixels"]:
    """Returns all patches of an image as rows of pixels, in the order of reading.

    Patches start at every `stride`-th row and column. Pixels after the last whole patch are in none.

    Args:
      images: `[..., height, width]`, or `[..., height, width, channels]` with `channels`.
      size: rows and columns of a patch; one number for a square.
      stride: rows and columns from one patch to the next; one number for both.
      channels: whether the last axis is that of the channels.

    Returns:
      Array `[..., patches, pixels]`; the pixels of a patch are `[rows, columns]` or `[rows, columns, channels]`, in
        this order.

    Raises:
      ValueError: the images have too few axes or are smaller than a patch, or size or stride is not positive.

    References:
      Elad & Aharon, Image denoising via sparse and redundant representations over learned dictionaries, 2006
      (its operator R_ij for all i and j).
    """
    images = jnp.asarray(images)
    axes = 3 if channels else 2
    if images.ndim < axes:
        expected = "[..., height, width, channels]" if channels else "[..., height, width]"
        raise ValueError(f"images has shape {images.shape}; expected {expected}.")
    _grid(images.shape[images.ndim - axes :], size, stride)
    return _cut(images if channels else images[..., None], size=size, stride=stride)


@checked
def reconstruct_from_patches(
    patches: Float[AnyArray, "*batch patches pixels"],
    shape: tuple[int, ...],
    size: int | tuple[int, int],
    *,
    stride: int | tuple[int, int] = 1,
    weights: Float[AnyArray, "*batch patches"] | None = None,
) -> Float[Array, "*images"]:
    r"""Returns the images in which each pixel is the mean of what the patches have there.

    .. math:: \Big(\sum_i w_i R_i^T R_i\Big)^{-1} \sum_i w_i R_i^T p_i

    where :math:`R_i` takes the i-th patch out of an image. It inverts `extract_patches`.

    Args:
      patches: `[..., patches, pixels]`, as `extract_patches` returns them.
      shape: of an image: `(height, width)` or `(height, width, channels)`.
      size: rows and columns of a patch; one number for a square.
      stride: rows and columns from one patch to the next; one number for both.
      weights: of the patches `[..., patches]`, 0 or more; None for equal ones.

    Returns:
      Array `[..., height, width]` or `[..., height, width, channels]`; 0 where all weights are 0.

    Raises:
      ValueError: the patches are not those of such an image, a pixel is in no patch, or size or stride is not positive.

    References:
      Elad & Aharon, Image denoising via sparse and redundant representations over learned dictionaries, 2006
      (the average of its last step, without the noisy image).
    """
    patches = at_least_float32(patches)
    if len(shape) not in (2, 3):
        raise ValueError(f"shape is {shape}; expected (height, width) or (height, width, channels).")
    (rows, columns), (down, right) = _grid(shape, size, stride)
    depth = shape[2] if len(shape) == 3 else 1
    expected = (down * right, rows.shape[1] * columns.shape[1] * depth)
    if patches.shape[-2:] != expected:
        raise ValueError(
            f"patches has shape {patches.shape}; expected [..., {expected[0]}, {expected[1]}] for {down} x {right} "
            f"patches of an image {shape}."
        )
    if weights is not None and weights.shape != patches.shape[:-1]:
        raise ValueError(f"weights has shape {weights.shape}; expected one for each patch, {patches.shape[:-1]}.")
    for name, places, length in (("height", rows, shape[0]), ("width", columns, shape[1])):
        if len(np.unique(places)) < length:
            raise ValueError(
                f"Some pixels are in no patch: size is {size} and stride {stride} for a {name} of {length}; choose a "
                f"stride up to the size with which the last patch ends at the edge, or crop the image to "
                f"{places.max() + 1}."
            )
    return _average(patches, weights, shape=shape, size=size, stride=stride)


@checked
def psnr(
    image: Float[AnyArray, "*image"], reference: Float[AnyArray, "*image"], *, peak: float | Float[Array, ""] = 1.0
) -> Float[Array, ""]:
    r"""Returns the peak signal-to-noise ratio in decibels, :math:`10 \log_{10}(\mathrm{peak}^2 / \mathrm{mse})`.

    Args:
      image: `[...]`, an image or several, over all of whose pixels the squared error is averaged.
      reference: the original, of the same shape.
      peak: the largest possible value, above 0: 1, or 255 for bytes; may be traced.

    Returns:
      A number `[]`; infinite if both are equal.

    Raises:
      ValueError: the shapes differ, or peak is a Python number that is not positive.

    References:
      Huynh-Thu & Ghanbari, Scope of validity of PSNR in image/video quality assessment, 2008.
    """
    image, reference = at_least_float32(image), at_least_float32(reference)
    if image.shape != reference.shape:
        raise ValueError(f"image has shape {image.shape} and reference {reference.shape}; expected the same shape.")
    if isinstance(peak, (int, float)) and not peak > 0:
        raise ValueError(f"peak is {peak}; expected the largest possible value, above 0.")
    kind = jnp.promote_types(image.dtype, reference.dtype)
    error = jnp.mean((image.astype(kind) - reference.astype(kind)) ** 2)
    return 20 * jnp.log10(jnp.asarray(peak, kind)) - 10 * jnp.log10(error)


@functools.partial(jax.jit, static_argnames=("size", "stride"))
def _cut(images: Array, *, size: int | tuple[int, int], stride: int | tuple[int, int]) -> Array:
    """Returns the patches `[..., patches, pixels]` of images `[..., height, width, channels]`."""
    (rows, columns), (down, right) = _grid(images.shape[-3:], size, stride)
    # Both axes of positions, then both axes within a patch: XLA gathers whole rows of a patch.
    cut = images[..., rows[:, None, :, None], columns[None, :, None, :], :]
    return cut.reshape(*images.shape[:-3], down * right, rows.shape[1] * columns.shape[1] * images.shape[-1])


@functools.partial(jax.jit, static_argnames=("shape", "size", "stride"))
def _average(
    patches: Array,
    weights: AnyArray | None,
    *,
    shape: tuple[int, ...],
    size: int | tuple[int, int],
    stride: int | tuple[int, int],
) -> Array:
    (rows, columns), (down, right) = _grid(shape, size, stride)
    batch, depth = patches.shape[:-2], shape[2] if len(shape) == 3 else 1
    split = patches.reshape(*batch, down, right, rows.shape[1], columns.shape[1], depth)
    if weights is None:
        counts = np.outer(np.bincount(rows.ravel()), np.bincount(columns.ravel()))[..., None]
        counts = jnp.asarray(counts, split.dtype).reshape((1,) * len(batch) + counts.shape)
        return (_overlap_add(split, rows, columns, shape) / counts).reshape(*batch, *shape)
    cover = at_least_float32(weights).astype(split.dtype).reshape(*batch, down, right, 1, 1, 1)
    total = _overlap_add(split * cover, rows, columns, shape)
    counts = _overlap_add(jnp.broadcast_to(cover, (*split.shape[:-1], 1)), rows, columns, shape)
    return jnp.where(counts > 0, total / jnp.where(counts > 0, counts, 1), 0).reshape(*batch, *shape)


def _overlap_add(patches: Array, rows: np.ndarray, columns: np.ndarray, shape: tuple[int, ...]) -> Array:
    """Returns the sums of patches `[..., down, right, rows, columns, channels]`, `[..., height, width, channels]`.

    First within each row of patches, then of these strips: rows + columns passes, not rows * columns.
    """
    *batch, down, _, _, _, depth = patches.shape
    strips = jnp.zeros((*batch, down, shape[1], rows.shape[1], depth), patches.dtype)
    for column in range(columns.shape[1]):
        places = _slice(columns[:, column])
        strips = strips.at[..., places, :, :].add(patches[..., column, :])
    images = jnp.zeros((*batch, shape[0], shape[1], depth), patches.dtype)
    for row in range(rows.shape[1]):
        images = images.at[..., _slice(rows[:, row]), :, :].add(strips[..., row, :])
    return images


def _slice(places: np.ndarray) -> slice:
    """Returns the slice of evenly spaced indices."""
    step = int(places[1] - places[0]) if len(places) > 1 else 1
    return slice(int(places[0]), int(places[-1]) + 1, step)


def _grid(
    shape: tuple[int, ...], size: int | tuple[int, int], stride: int | tuple[int, int]
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[int, int]]:
    """Returns the rows `[down, rows]` and columns `[right, columns]` of all patches, and the numbers of both.

    Raises:
      ValueError: size or stride is not positive, or a patch does not fit the image.
    """
    sizes, strides = (one if isinstance(one, tuple) else (one, one) for one in (size, stride))
    if min(*sizes, *strides) < 1:
        raise ValueError(f"size is {size} and stride {stride}; expected 1 or more.")
    if sizes[0] > shape[0] or sizes[1] > shape[1]:
        raise ValueError(
            f"An image of {shape[0]} x {shape[1]} pixels has no patch of {sizes[0]} x {sizes[1]}; height and width are "
            "its last two axes (with `channels`, or a shape of three numbers, those before the last)."
        )
    counts = [(shape[axis] - sizes[axis]) // strides[axis] + 1 for axis in (0, 1)]
    rows, columns = (
        strides[axis] * np.arange(counts[axis])[:, None] + np.arange(sizes[axis])[None, :] for axis in (0, 1)
    )
    return (rows, columns), (counts[0], counts[1])
