"""The result of every reader: two splits of images, vectors or tokens with labels, and a notice for reports."""

import dataclasses
import functools
import hashlib
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from sparsejax.errors import ConfigError

# The customary mean and standard deviation of MNIST, to the customary digits.
MNIST_MEAN, MNIST_STD = (0.1307,), (0.3081,)

_BYTES = {"uint8": "u1", "int16": "<i2", "int32": "<i4", "float32": "<f4"}  # how the fingerprint reads an array
_FORMS = {("uint8", 4), ("float32", 4), ("float32", 2), ("int16", 2)}  # types and dimensions, other than tokens
_CHUNK = 4096  # images per histogram: numpy converts each pixel to 8 bytes to count it


class Split(NamedTuple):
    """Images uint8, or float32 in [0, 1], [n, height, width, channels] and labels int32 [n]. In the place of images,
    vectors of features are float32 [n, features]; of speech, waveforms are int16 [n, samples]; of a text, windows of
    tokens are int32 [n, length], each with its number as label.
    """

    images: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set in memory, with where it came from.

    Args:
      name: the data set actually loaded ("mnist", "fashion_mnist", "digits"), which may be a substitute.
      source: where they came from: "files", "download", "tfds", "digits", "function", "python", or a path.
      train: the training split.
      test: the test split.
      classes: labels run from 0 to classes - 1; of a text, its tokens; 0 where there are no labels.
      mean: of the training pixels in [0, 1], one per channel.
      std: standard deviation of the same pixels, 0 in a channel whose pixels are all equal.
      notice: a sentence for the user if the data replaces other data, else "".
      class_names: name of each label; () if unknown.
      digest: names the data in the place of the SHA-256 of all arrays, for those that are too large to be read whole;
        their reader has checked them.

    Raises:
      ConfigError: a split has none of the types above, a label is outside the classes, or the moments do not fit.
    """

    name: str
    source: str
    train: Split = dataclasses.field(repr=False)
    test: Split = dataclasses.field(repr=False)
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    notice: str = ""
    class_names: tuple[str, ...] = ()
    digest: str = ""

    def __post_init__(self) -> None:
        for word, split in (("train", self.train), ("test", self.test)):
            problem = "" if self.digest else split_problem(split, self.classes)
            if problem:
                raise ConfigError(f"The {word} split of {self.name!r} cannot be used: {problem}.")
        channels = self.train.images.shape[-1]
        for word, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, channels) or not np.isfinite(values).all() or (word == "std" and min(values) < 0):
                raise ConfigError(
                    f"{word} of {self.name!r} is {tuple(values)}; expected one finite number per channel, of "
                    f"{channels}, and no standard deviation below 0."
                )

    @property
    def kind(self) -> str:
        """Names what the examples are: "images", "vectors" of features, "clips" of speech, or "tokens" of a text."""
        kinds = {"float32": "vectors", "int16": "clips", "int32": "tokens"}
        return "images" if self.train.images.ndim == 4 else kinds[self.train.images.dtype.name]

    @functools.cached_property
    def fingerprint(self) -> str:
        """Names the data by the SHA-256 of all arrays' types, shapes and bytes (64 hex digits), or by `digest`."""
        if self.digest:
            return hashlib.sha256(
                f"{self.digest}{self.train.images.shape}{self.test.images.shape}".encode()
            ).hexdigest()
        digest = hashlib.sha256()
        for array in (*self.train, *self.test):
            dtype = _BYTES[array.dtype.name]
            digest.update(f"{dtype}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array, dtype).data)
        return digest.hexdigest()

    def limit(self, train: int | None = None, test: int | None = None) -> "Dataset":
        """Keeps the first examples of each split (None keeps all); mean and std stay those of the whole.

        Raises:
          ConfigError: a limit below 1 or above the number of examples.
        """
        if train is None and test is None:
            return self
        return dataclasses.replace(self, train=_first(self.train, train, "train"), test=_first(self.test, test, "test"))


def split_problem(split: Split, classes: int) -> str:
    """Returns what is wrong with a split, "" if nothing is."""
    images, labels = split
    if images.dtype == np.int32 and images.ndim == 2:
        if 0 in images.shape or len(images) != len(labels):
            return f"there are {len(labels)} labels for windows {list(images.shape)}"
        if images.min() < 0 or images.max() >= classes:
            return f"tokens run from {images.min()} to {images.max()} where 0 to {classes - 1} is expected"
        return ""
    vectors = images.dtype == np.float32 and images.ndim == 2
    if (images.dtype.name, images.ndim) not in _FORMS:
        return f"images are {images.dtype} {list(images.shape)} where uint8 [n, h, w, c] is expected"
    if labels.dtype != np.int32 or labels.ndim != 1:
        return f"labels are {labels.dtype} {list(labels.shape)} where int32 [n] is expected"
    if len(images) != len(labels):
        return f"there are {len(images)} {'vectors' if vectors else 'images'} and {len(labels)} labels"
    if 0 in images.shape:
        return f"it is empty, its examples are {list(images.shape)}"
    if labels.min() < 0 or labels.max() >= max(classes, 1):
        return f"labels run from {labels.min()} to {labels.max()} where 0 to {classes - 1} is expected"
    if images.dtype == np.float32 and not np.isfinite(images).all():
        damaged = (~np.isfinite(images)).any(axis=tuple(range(1, images.ndim)))
        return f"{int(damaged.sum())} of its {'vectors' if vectors else 'images'} hold numbers that are not finite"
    return ""


def pixel_moments(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns mean and standard deviation per channel of images [n, h, w, c], as pixels in [0, 1].

    For bytes they are computed from integer counts, so the result does not depend on the summation order.
    """
    if images.dtype != np.uint8:
        axes = (0, 1, 2)
        constant = images.min(axes) == images.max(axes)  # rounding of the mean gives these a deviation
        moments = images.mean(axes, np.float64), np.where(constant, 0, images.std(axes, np.float64))
        return tuple(map(float, moments[0])), tuple(map(float, moments[1]))
    values = np.arange(256) / 255
    means, stds = [], []
    for channel in range(images.shape[-1]):
        histogram = np.zeros(256, np.int64)
        for start in range(0, len(images), _CHUNK):
            part = images[start : start + _CHUNK, ..., channel]
            histogram += np.bincount(part.ravel(), minlength=256)
        share = histogram / histogram.sum()
        mean = float((share * values).sum())
        means.append(mean)
        stds.append(float((share * (values - mean) ** 2).sum() ** 0.5))
    return tuple(means), tuple(stds)


def examples_noun(kind: str) -> str:
    """Returns the noun for examples of a kind in messages, such as "windows" for tokens."""
    return "windows" if kind == "tokens" else kind


def _first(split: Split, count: int | None, word: str) -> Split:
    if count is None:
        return split
    if not 1 <= count <= len(split.labels):
        raise ConfigError(
            f"{count} {word} examples were requested, but there are {len(split.labels)}; choose a number from "
            f"1 to {len(split.labels)}, or omit the limit to use all."
        )
    return Split(split.images[:count], split.labels[:count])
