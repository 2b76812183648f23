"""Photographs of natural scenes, whitened and cut into patches as in Olshausen & Field's experiments."""

import importlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sparsejax.data.mat import read_arrays_of
from sparsejax.errors import DataDamagedError, DataMissingError, shorten

_LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
# Of the photographs in scikit-image, those of natural scenes.
_SKIMAGE = ("chelsea", "rocket", "coffee")


def photographs() -> dict[str, np.ndarray]:
    """Returns grey photographs `[height, width]` in [0, 1]: scikit-learn's two, and scikit-image's if it is installed.

    Their number affects what is learnt: two photographs are few, ten (see `read_images_mat`) are standard.
    """
    from sklearn.datasets import load_sample_images

    sample = load_sample_images()
    found = {Path(name).stem: gray(image) for name, image in zip(sample.filenames, sample.images, strict=True)}
    try:
        data = importlib.import_module("skimage.data")
    except ImportError:
        return found
    for name in _SKIMAGE:
        try:
            found[name] = gray(getattr(data, name)())
        except (OSError, ImportError, ValueError):  # not in the wheel, and no network to fetch it from
            continue
    return found


def gray(image: np.ndarray) -> np.ndarray:
    """Returns the luminance of an image `[height, width, 3]` of bytes, or of a grey one, in [0, 1].

    Raises:
      ValueError: it is neither.
    """
    image = np.asarray(image)
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (3, 4)):
        raise ValueError(f"The image has shape {image.shape}; expected [height, width] or [height, width, 3].")
    scale = 255 if image.dtype == np.uint8 else 1
    values = image.astype(np.float32) / scale
    return values if image.ndim == 2 else values[..., :3] @ _LUMINANCE


def halve(image: np.ndarray) -> np.ndarray:
    """Returns an image `[height, width]` at half its size; the mean of four pixels removes the camera's noise."""
    height, width = image.shape[0] // 2, image.shape[1] // 2
    return image[: 2 * height, : 2 * width].reshape(height, 2, width, 2).mean((1, 3))


def whiten(image: np.ndarray, *, cutoff: float = 0.4) -> np.ndarray:
    r"""Returns an image filtered by :math:`f e^{-(f/f_0)^4}`, of mean 0 and variance 1.

    The rise compensates the 1/f amplitudes of natural scenes; the fall removes noise and the corners of the frequency
    square.

    Args:
      image: `[height, width]`.
      cutoff: f_0 in cycles per pixel; Olshausen & Field's is 200 cycles per picture of 512 pixels, 0.39.

    Raises:
      ValueError: the image is not `[height, width]`, is constant, or cutoff is not positive.

    References:
      Olshausen & Field, Sparse coding with an overcomplete basis set: a strategy employed by V1?, 1997, section 4.
    """
    image = np.asarray(image, np.float64)
    if image.ndim != 2 or not cutoff > 0:
        raise ValueError(f"The image has shape {image.shape} and cutoff is {cutoff}; expected [height, width] and > 0.")
    frequency = np.hypot(np.fft.fftfreq(image.shape[0])[:, None], np.fft.rfftfreq(image.shape[1])[None, :])
    spectrum = np.fft.rfft2(image) * frequency * np.exp(-((frequency / cutoff) ** 4))
    white = np.fft.irfft2(spectrum, image.shape)
    if not white.std() > 1e-12 * max(1, np.abs(image).max()):  # rounding of a constant leaves about 1e-16 of it
        raise ValueError("The image is constant; there is nothing to whiten.")
    return ((white - white.mean()) / white.std()).astype(np.float32)


def patches(
    images: Sequence[np.ndarray],
    count: int,
    *,
    size: int = 16,
    seed: int = 0,
    border: int = 4,
    remove_mean: bool = False,
) -> np.ndarray:
    """Draws patches at random positions, `[count, size * size]`, row by row; from each image in proportion to its size.

    Args:
      images: each `[height, width]`.
      count: how many.
      size: of a patch, in pixels.
      seed: of the positions.
      border: pixels at the images' edges to exclude, where the filter wraps around.
      remove_mean: subtract each patch's mean.

    Raises:
      ValueError: there are no images, or one is smaller than a patch and the borders.
    """
    if not len(images) or count < 1 or size < 1 or border < 0:
        raise ValueError(f"There are {len(images)} images, count is {count}, size {size}, border {border}; "
                         "expected one of each or more, border 0 or more.")  # fmt: skip
    room = [(image.shape[0] - 2 * border - size + 1, image.shape[1] - 2 * border - size + 1) for image in images]
    for image, free in zip(images, room, strict=True):
        if min(free) < 1:
            raise ValueError(
                f"An image of {image.shape} is too small for patches of {size} pixels with borders of {border}."
            )
    rng = np.random.default_rng(seed)
    places = np.array([rows * columns for rows, columns in room])
    which = rng.choice(len(images), count, p=places / places.sum())
    cut = np.empty((count, size, size), np.float32)
    for index, image in enumerate(images):
        mine = np.flatnonzero(which == index)
        top = border + rng.integers(0, room[index][0], len(mine))
        left = border + rng.integers(0, room[index][1], len(mine))
        cut[mine] = np.lib.stride_tricks.sliding_window_view(image, (size, size))[top, left]
    cut = cut.reshape(count, -1)
    return cut - cut.mean(1, keepdims=True) if remove_mean else cut


def read_images_mat(path: str | Path) -> np.ndarray:
    """Reads Olshausen & Field's IMAGES.mat (whitened) or IMAGES_RAW.mat, `[images, height, width]` in float32.

    It is at https://www.rctn.org/bruno/sparsenet; the originals are 10 pictures of 512 x 512.

    Raises:
      DataMissingError: there is no such file.
      DataDamagedError: it is not a MATLAB file, or has no `IMAGES` [height, width, images].
    """
    path = Path(path)
    if not path.is_file():
        raise DataMissingError(
            f"There is no file {path}; get IMAGES.mat from https://www.rctn.org/bruno/sparsenet, or omit it to "
            "use the photographs that scikit-learn ships."
        )
    try:
        found = read_arrays_of(path.read_bytes())
    except (ValueError, OSError) as error:
        raise DataDamagedError(f"{path} cannot be read as a MATLAB file: {error}. Download it again.") from None
    name = next((name for name in ("IMAGES", "IMAGESr", "IMAGES_RAW") if name in found), None)
    images = np.empty(0) if name is None else found[name]
    if images.ndim == 3 and images.dtype.kind in "iuf":
        with np.errstate(over="ignore", invalid="ignore"):  # values too large for float32 become infinite
            images = images.astype(np.float32)
    if images.ndim != 3 or images.dtype != np.float32 or not np.isfinite(images).all():
        raise DataDamagedError(
            f"{path} holds {shorten(', '.join(found)) or 'nothing'}; expected an array IMAGES [height, width, images] "
            "of finite numbers."
        )
    return np.ascontiguousarray(np.moveaxis(images, 2, 0))
