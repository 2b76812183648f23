"""CIFAR-10's original files, Python pickles: read by a machine that runs nothing, with every size checked."""

import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from sparsejax.data.dataset import Dataset, Split, split_problem
from sparsejax.data.idx import md5_of
from sparsejax.errors import DataDamagedError, DataMissingError

# The original files and their published MD5s, the test images last.
CIFAR10_FILES = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}
CIFAR10_FOLDER = "cifar-10-batches-py"
CIFAR10_MEAN, CIFAR10_STD = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)
CLASSES = 10
HOW_TO_GET = (
    "Download https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz (170 MB, MD5 c58f30108f718f92721af3b95e74349a) "
    "and unpack it there: tar -xzf cifar-10-python.tar.gz -C $SPARSEJAX_DATA"
)

_SIDE, _CHANNELS = 32, 3
_PIXELS = _CHANNELS * _SIDE * _SIDE
_WAY_OUT = f"Delete the file and fetch it again. {HOW_TO_GET}"


def read_cifar10_folder(folder: str | os.PathLike[str], *, source: str = "files", check_md5: bool = True) -> Dataset:
    """Reads a folder with the six pickles of CIFAR-10, images uint8 [n, 32, 32, 3].

    A pickle is a program, and these are run by a machine that knows one word only, an array of bytes; nothing that a
    file names is imported or called.

    Args:
      folder: where the files are (batches.meta is not needed).
      source: the word the Dataset carries.
      check_md5: compare the files with the published MD5s; False for data of your own.

    Raises:
      DataMissingError: some of the files are missing.
      DataDamagedError: a file is damaged, is not the published one, or holds something else.

    References:
      Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.
    """
    paths = found_batches(folder)
    missing = [file for file in CIFAR10_FILES if file not in paths]
    if missing:
        raise DataMissingError(
            f"CIFAR-10 was looked for in {folder}, but {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} "
            f"missing there. {HOW_TO_GET}"
        )
    parts = [_checked(paths[file], md5 if check_md5 else None) for file, md5 in CIFAR10_FILES.items()]
    train = Split(*(np.concatenate(arrays) for arrays in zip(*parts[:-1], strict=True)))
    return Dataset("cifar10", source, train, parts[-1], CLASSES, CIFAR10_MEAN, CIFAR10_STD)


def read_cifar_batch(path: str | os.PathLike[str]) -> Split:
    """Reads one pickle in CIFAR-10's layout: `data` uint8 [n, 3072], red before green before blue, and `labels`.

    Raises:
      DataMissingError: there is no such file, or it cannot be opened.
      DataDamagedError: a truncated or damaged pickle, one that holds anything else, or a wrong shape or label.
    """
    return _parse(_bytes_of(Path(path)), Path(path))


def found_batches(folder: str | os.PathLike[str]) -> dict[str, Path]:
    """Returns those of CIFAR-10's six files that a folder holds, by their name."""
    return {file: Path(folder) / file for file in CIFAR10_FILES if (Path(folder) / file).is_file()}


class _Bytes:
    """An array on its way out of a pickle: numpy's code for this is not run, since it trusts the file."""

    __slots__ = ("array",)

    def __setstate__(self, state: Any) -> None:
        """Takes what numpy wrote: version, shape, type, whether columns come first, and the bytes."""
        _, shape, dtype, columns_first, raw = state
        if not isinstance(dtype, _Byte):
            raise pickle.UnpicklingError("its array is not of bytes")
        content = raw.encode("latin1") if isinstance(raw, str) else raw
        self.array = np.frombuffer(content, np.uint8).reshape(shape, order="F" if columns_first else "C")


class _Byte:
    """The type "u1" in a pickle; its byte order and the like mean nothing for bytes."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        """Takes the byte order and the like."""


class _Unpickler(pickle.Unpickler):
    """Admits lists, dictionaries, text, numbers and arrays of bytes."""

    def find_class(self, module: str, name: str, /) -> Any:
        """Returns a stand-in for each of the three words of numpy that an array is made with."""
        known: dict[tuple[str, str], Callable[..., Any] | None] = {
            ("numpy.core.multiarray", "_reconstruct"): self.new_array,
            ("numpy._core.multiarray", "_reconstruct"): self.new_array,
            ("numpy", "dtype"): self.new_type,
            ("numpy", "ndarray"): None,
        }
        if (module, name) not in known:
            raise pickle.UnpicklingError(f"it wants to call {module}.{name}, which no file of CIFAR-10 does")
        return known[module, name]

    def new_array(self, *_: Any) -> _Bytes:
        """Stands in for numpy's function of that purpose."""
        return _Bytes()

    def new_type(self, code: str, *_: Any) -> _Byte:
        """Stands in for numpy.dtype."""
        if code != "u1":
            raise pickle.UnpicklingError(f"its array is of type {code!r}, not of bytes (u1)")
        return _Byte()


def _checked(path: Path, md5: str | None) -> Split:
    """Reads a pickle and, when an MD5 is given, compares that."""
    raw = _bytes_of(path)
    split = _parse(raw, path)  # first, because it says better what is wrong with the file
    if md5 is not None and md5_of(raw) != md5:
        raise DataDamagedError(
            f"{path} is not the published file of CIFAR-10: its MD5 is {md5_of(raw)}, the published one {md5}. "
            f"{_WAY_OUT}"
        )
    return split


def _bytes_of(path: Path) -> bytes:
    """Returns a file's bytes."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataMissingError(f"The data file {path} cannot be read: {error.strerror}. {HOW_TO_GET}") from error


def _parse(raw: bytes, path: Path) -> Split:
    """Turns the bytes of a pickle into a Split."""
    stream = io.BytesIO(raw)
    try:
        content = _Unpickler(stream, encoding="latin1").load()  # Python 2's text, byte for byte
    except Exception as error:  # a damaged pickle can fail in any way
        raise DataDamagedError(
            f"The data file {path} ({len(raw)} bytes) is no batch of CIFAR-10, or is cut short or damaged: "
            f"{' '.join(str(error).split()) or type(error).__name__}. {_WAY_OUT}"
        ) from error
    problem = "bytes follow its end" if stream.read(1) else _content_problem(content)
    if not problem:
        images = content["data"].array.reshape(-1, _CHANNELS, _SIDE, _SIDE).transpose(0, 2, 3, 1)
        split = Split(np.ascontiguousarray(images), np.asarray(content["labels"], np.int32))
        problem = split_problem(split, CLASSES)
        if not problem:
            return split
    raise DataDamagedError(f"The data file {path} is no batch of CIFAR-10: {problem}. {_WAY_OUT}")


def _content_problem(content: Any) -> str:
    """Says in half a sentence why a pickle's content cannot be made a split, "" when it can."""
    if not isinstance(content, dict) or not {"data", "labels"} <= content.keys():
        held = sorted(map(str, content)) if isinstance(content, dict) else type(content).__name__
        return f"it holds {held} where data and labels are expected"
    array = getattr(content["data"], "array", None)
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.shape[1] != _PIXELS:
        held = type(content["data"]).__name__ if array is None else list(array.shape)
        return f"its data is {held} where bytes [n, {_PIXELS}] are expected"
    labels = content["labels"]
    if not isinstance(labels, list) or not all(type(label) is int and abs(label) < 1 << 31 for label in labels):
        return "its labels are no list of whole numbers"
    return ""
