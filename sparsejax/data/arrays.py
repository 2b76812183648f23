"""A data set of one's own: NumPy files that are read where they lie, and so may be larger than memory."""

from pathlib import Path

import numpy as np

from sparsejax.data.dataset import Dataset, Split, pixel_moments
from sparsejax.errors import DataDamagedError, DataMissingError

_EXPECTED = (
    "expected train_images.npy and test_images.npy (uint8 [n, height, width, channels], or float32 [n, features]) and "
    "train_labels.npy and test_labels.npy (whole numbers from 0)"
)


def read_arrays(folder: Path) -> Dataset:
    """Opens the four files of a folder, without reading the images into memory.

    Raises:
      DataMissingError: a file is not there.
      DataDamagedError: a file is no NumPy array, or not of the types above, or images and labels differ in number.
    """
    train, test = (Split(_opened(folder / f"{part}_images.npy"), _labels(folder / f"{part}_labels.npy"))
                   for part in ("train", "test"))  # fmt: skip
    classes = 1 + max((int(split.labels.max()) for split in (train, test) if split.labels.size), default=0)
    moments = pixel_moments(train.images) if train.images.ndim == 4 and train.images.dtype == np.uint8 else ((), ())
    try:
        return Dataset("arrays", "files", train, test, classes, *moments)
    except ValueError as error:
        raise DataDamagedError(f"{error} The folder is {folder}; {_EXPECTED}.") from None


def _labels(path: Path) -> np.ndarray:
    labels = _opened(path)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise DataDamagedError(f"{path} holds {labels.dtype} {list(labels.shape)}; {_EXPECTED}.")
    return np.asarray(labels, np.int32)


def _opened(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise DataMissingError(f"{path} is not there; {_EXPECTED}.") from None
    except Exception as error:  # of a damaged header NumPy raises whatever its parsers do
        raise DataDamagedError(f"{path} is no array that can be read ({error!r}); {_EXPECTED}.") from None
