"""User data: arrays in Python, and files and folders of arrays or of images."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sparsejax.data.activations import MANIFEST, read_activations
from sparsejax.data.dataset import Dataset, Split, pixel_moments
from sparsejax.data.folders import expand, load_npz
from sparsejax.data.image_folder import read_image_folder
from sparsejax.errors import ConfigError, DataDamagedError, DataMissingError, shorten
from sparsejax.files import is_supported

_ROLES = ("x_train", "y_train", "x_test", "y_test")
_NAMINGS = (_ROLES, ("train_images", "train_labels", "test_images", "test_labels"),
            ("train", "train_labels", "test", "test_labels"), ("x", "y", "x_test", "y_test"),
            ("images", "labels", "test_images", "test_labels"))  # fmt: skip
_EXAMPLES = (
    "images uint8, or floats in [0, 1], [n, height, width, channels]; vectors of floats [n, features]; tokens int32 "
    "[n, length]; or clips int16 [n, samples]"
)
_EXPECTED = (
    f"expected x_train, y_train, x_test and y_test, or train_images, train_labels, test_images and test_labels: "
    f"{_EXAMPLES}; labels are integers from 0, or names, and may be omitted"
)


def from_arrays(
    x_train: Any,
    y_train: Any = None,
    x_test: Any = None,
    y_test: Any = None,
    *,
    test_fraction: float | None = None,
    name: str = "arrays",
    source: str = "python",
    class_names: Sequence[str] = (),
    words: Sequence[str] = _ROLES,
) -> Dataset:
    """Returns arrays as a data set, without a copy where their type allows it.

    Args:
      x_train: images uint8, or floats in [0, 1], `[n, height, width]` or `[n, height, width, channels]`; vectors of
        floats `[n, features]`; tokens `[n, length]` of any integers but bytes and int16; or clips of sound int16
        `[n, samples]`.
      y_train: labels `[n]`, integers from 0 or names; None for tokens, and for networks that need none.
      x_test: the same for the test set.
      y_test: the same for the test set.
      test_fraction: the fraction of the training examples of every class to hold out as the test set.
      name: of the data set.
      source: origin of the arrays.
      class_names: the name of each label.
      words: names of the four arrays in error messages.

    Returns:
      A Dataset. Floats that are integer multiples of 1/255 become bytes.

    Raises:
      ConfigError: an array has another type or shape, or there is no test set.

    Examples:
      >>> x, y = np.eye(10), np.arange(10) % 2
      >>> len(from_arrays(x, y, test_fraction=0.2).test.labels)
      2
    """
    x = [_examples(array, word) for array, word in ((x_train, words[0]), (x_test, words[2])) if array is not None]
    if not x or (len(x) < 2) == (test_fraction is None):
        found = "no test set" if x else "no training set"
        found = f"a test set and test_fraction {test_fraction}" if len(x) == 2 else found
        raise ConfigError(f"There is {found}; pass {words[2]}, or a fraction of {words[0]} to hold out: "
                          "--data.test-fraction 0.2, test_fraction=0.2 in Python.")  # fmt: skip
    x = _pixels(x, words) if x[0].ndim == 4 else x
    forms = [f"{array.dtype} {list(array.shape[1:])}" for array in x]
    if forms[0] != forms[-1]:
        raise ConfigError(f"The examples of {words[0]} are {forms[0]}, but those of {words[2]} {forms[1]}; expected "
                          "examples of one shape and type.")  # fmt: skip
    y, names = _labels([y_train, y_test][: len(x)], [len(array) for array in x], (words[1], words[3]))
    tokens = x[0].dtype == np.int32
    if tokens and names is not None:
        raise ConfigError(f"{words[0]} holds tokens, which are predicted from earlier tokens; omit {words[1]}.")
    if test_fraction is not None:
        if len(x[0]) != len(y[0]):
            raise ConfigError(f"{words[0]} holds {len(x[0])} examples and {words[1]} {len(y[0])} labels; expected one "
                              "label for each example.")  # fmt: skip
        train, test = hold_out(y[0] if names is not None else np.zeros(len(x[0])), test_fraction)
        x, y = [x[0][train], x[0][test]], [y[0][train], y[0][test]]
    if tokens:
        y = [np.arange(len(array), dtype=np.int32) for array in x]
    moments = pixel_moments(x[0]) if x[0].ndim == 4 and x[0].size else ((0.0,), (1.0,))
    numbers = x if tokens else y
    largest = max((int(array.max()) for array in numbers if array.size), default=0)
    names = tuple(class_names) or names or ()
    classes = max(largest + 1, len(names)) if tokens or y_train is not None else 0
    return Dataset(name, source, Split(x[0], y[0]), Split(x[1], y[1]), classes, *moments, class_names=names)


def hold_out(labels: np.ndarray, fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns the indices of the training and the test examples, shuffled; every class is split equally.

    Raises:
      ConfigError: one part would be empty.
    """
    order = np.random.default_rng(0).permutation(len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]
    in_test = np.zeros(len(labels), bool)
    in_test[by_class[np.diff(np.floor(np.arange(len(labels) + 1) * fraction + 1e-9)) > 0]] = True
    if not 0 < in_test.sum() < len(labels):
        raise ConfigError(f"data.test_fraction is {fraction}, of {len(labels)} examples; expected a number between 0 "
                          "and 1 that leaves training and test examples.")  # fmt: skip
    return order[~in_test[order]], order[in_test[order]]


def read_path(path: str | Path, test_fraction: float | None = None) -> Dataset:
    """Reads user data.

    Args:
      path: a folder of activations (`sparsejax.data.activations`); a file .npz with x_train, y_train, x_test and
        y_test, or train_images, train_labels and so on; a file .npy of examples without labels; a folder of such arrays
        as .npy files, which are memory-mapped and may be larger than memory; or a folder of images, in folders by
        class, either directly or in train/ and test/. Labels may be omitted.
      test_fraction: the fraction to hold out if there is no test set.

    Raises:
      ConfigError: there is no test set, or test_fraction does not fit.
      DataMissingError: the path, or one of the arrays, does not exist.
      DataDamagedError: an array or an image cannot be read, or differs in type or shape from the rest.
    """
    path = expand(path, "data.path").absolute()
    if not path.exists():
        raise DataMissingError(f"data.path is {shorten(str(path))}, which does not exist; expected a file .npz or "
                               ".npy, a folder of .npy files, or a folder of images by class.")  # fmt: skip
    if (path / MANIFEST).is_file():
        if test_fraction is not None:
            raise ConfigError(f"{path} has its own test set, but data.test_fraction is {test_fraction}; omit it.")
        return read_activations(path)
    if path.is_dir() and not any(path.glob("*.npy")):
        images = read_image_folder(path)
        return _dataset(path, images, test_fraction, "", class_names=images.pop("class_names"))
    if path.is_dir():
        return _dataset(path, {file.stem: _open(file) for file in sorted(path.glob("*.npy"))}, test_fraction, ".npy")
    if path.suffix not in (".npz", ".npy"):
        raise ConfigError(f"data.path is {path}; expected a file .npz or .npy, a folder of .npy files, or a folder "
                          "of images by class.")  # fmt: skip
    opened = _open(path)
    return _dataset(path, {"x": opened} if path.suffix == ".npy" else opened, test_fraction, "")


def read_arrays(path: Path, *, source: str = "files") -> Dataset:
    """Reads the four arrays of a folder as the data set "arrays"; errors as `read_path`."""
    if not path.is_dir():
        raise DataMissingError(f"{path} does not exist; {_EXPECTED}.")
    return _dataset(path, {file.stem: _open(file) for file in sorted(path.glob("*.npy"))}, None, ".npy",
                    name="arrays", source=source)  # fmt: skip


def _dataset(path: Path, arrays: Mapping[str, Any], test_fraction: float | None, suffix: str, **more: Any) -> Dataset:
    naming = next((naming for naming in _NAMINGS if naming[0] in arrays), None)
    if naming is None:
        raise DataMissingError(f"{path} holds {shorten(', '.join(arrays)) or 'nothing'}; {_EXPECTED}.")
    there = naming[2] in arrays
    if there == (test_fraction is not None):
        problem = f"exists, but data.test_fraction is {test_fraction}" if there else "is missing"
        raise (ConfigError if there else DataMissingError)(
            f"In {path} {naming[2]}{suffix} {problem}; {_EXPECTED}. Use a test set, or hold out a part of "
            f"{naming[0]}{suffix}: --data.test-fraction 0.2."
        )
    words = [f"{name}{suffix}" for name in naming]
    if there and (naming[1] in arrays) != (naming[3] in arrays):
        missing = words[3] if naming[1] in arrays else words[1]
        raise DataMissingError(f"In {path} {missing} is missing; {_EXPECTED}, for both parts.")
    try:
        return from_arrays(*(arrays.get(name) for name in naming), test_fraction=test_fraction, words=words,
                           **{"name": path.stem, "source": str(path)} | more)  # fmt: skip
    except ConfigError as error:
        raise DataDamagedError(f"{error} It is in {path}; {_EXPECTED}.") from None


def _open(path: Path) -> Any:
    try:
        if path.suffix != ".npy":
            return load_npz(path)
        mapped = is_supported(np.memmap, path, np.uint8, "r")
        found = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
        if found.size > path.stat().st_size:  # of elements without bytes a header can announce any number
            raise ValueError(f"it announces {found.size:,} elements of {found.itemsize} bytes")
        return found
    except Exception as error:  # for a damaged header NumPy's parsers raise various errors
        raise DataDamagedError(f"{path} is not a readable array ({shorten(repr(error))}); {_EXPECTED}.") from None


def _examples(array: Any, word: str) -> np.ndarray:
    """Returns examples in one of the types of `Split`, floats of images as they are."""
    array = _as_array(array, word)
    form: dict[tuple[str, int], Callable[[np.ndarray], np.ndarray]] = {
        ("f", 2): lambda x: x.astype(np.float32, copy=False),
        ("f", 3): lambda x: x[..., None],
        ("f", 4): lambda x: x,
    }
    if array.dtype == np.uint8 and array.ndim in (3, 4):
        return array[..., None] if array.ndim == 3 else array
    if array.dtype == np.int16 and array.ndim == 2:
        return array
    if array.dtype.kind in "iu" and array.ndim == 2 and array.dtype.name not in ("int8", "uint8"):
        return _as_int32(array, word, "tokens")
    if (array.dtype.kind, array.ndim) not in form:
        raise ConfigError(f"{word} holds {array.dtype} {list(array.shape)}; expected {_EXAMPLES}.")
    return form[array.dtype.kind, array.ndim](array)


def _pixels(x: list[np.ndarray], words: Sequence[str]) -> list[np.ndarray]:
    """Returns images as bytes if that is lossless, else as float32."""
    if all(array.dtype == np.uint8 for array in x):
        return x
    pixels = [array.astype(np.float32) / (255 if array.dtype == np.uint8 else 1) for array in x]
    for array, word in zip(pixels, words[::2], strict=False):
        if array.size and not 0 <= array.min() <= array.max() <= 1:
            raise ConfigError(f"{word} holds floats from {array.min():g} to {array.max():g}; expected pixels in "
                              "[0, 1], or bytes.")  # fmt: skip
    quantised = [np.rint(array * 255).astype(np.uint8) for array in pixels]
    exact = all(np.array_equal(q.astype(np.float32) / 255, array) for q, array in zip(quantised, pixels, strict=True))
    return quantised if exact else pixels


def _labels(
    given: list[Any], counts: list[int], words: Sequence[str]
) -> tuple[list[np.ndarray], tuple[str, ...] | None]:
    """Returns labels int32, and the names of the classes: () if they are numbers, None if there are no labels."""
    if all(labels is None for labels in given):
        return [np.zeros(count, np.int32) for count in counts], None
    arrays = []
    for found, word in zip(given, words, strict=False):
        labels = _as_array(found, word)
        column = labels.ndim == 2 and labels.shape[1] == 1
        if labels.dtype.kind not in "iuU" or not (column or labels.ndim == 1):
            one_hot = "; of one-hot labels take argmax(1)" if labels.ndim == 2 else ""
            raise ConfigError(f"{word} holds {labels.dtype} {list(labels.shape)}; expected integers, or names, "
                              f"[n], for both parts or for none{one_hot}.")  # fmt: skip
        labels = labels.ravel()
        arrays.append(labels if labels.dtype.kind == "U" else _as_int32(labels, word, "labels"))
    if all(labels.dtype.kind == "U" for labels in arrays):
        names, numbers = np.unique(np.concatenate(arrays), return_inverse=True)
        return np.split(numbers.astype(np.int32), [len(arrays[0])])[: len(arrays)], tuple(map(str, names))
    if any(labels.dtype.kind == "U" for labels in arrays):
        raise ConfigError(f"{words[0]} and {words[1]} hold both names and numbers; expected only one kind.")
    return arrays, ()


def _as_array(given: Any, word: str) -> np.ndarray:
    try:
        return np.asanyarray(given)
    except Exception as error:  # rows of different lengths, or an object of another library
        raise ConfigError(f"{word} is no array ({error}); expected examples or labels of one shape.") from None


def _as_int32(array: np.ndarray, word: str, what: str) -> np.ndarray:
    """Returns integers as int32, which is what networks and losses compute with; larger ones would wrap around."""
    if array.dtype != np.int32 and array.dtype.itemsize >= 4 and array.size:
        least, most = array.min(), array.max()
        if least < -(2**31) or most >= 2**31:
            found = f"up to {most}" if most >= 2**31 else f"down to {least}"
            raise ConfigError(f"{word} holds {what} {found}; expected numbers from 0, below 2³¹.")
    return array.astype(np.int32, copy=False)
