"""The original files of CIFAR-10 and -100, Python pickles, read without running code and with every size checked."""

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sparsejax.data.dataset import Dataset, Split, pixel_moments, split_problem
from sparsejax.data.download import Download
from sparsejax.data.folders import read_bytes
from sparsejax.data.idx import md5_of
from sparsejax.data.pickle_limits import check_limits
from sparsejax.data.plain_pickle import Array, read_plain
from sparsejax.data.registry import Entry
from sparsejax.errors import DataDamagedError, DataMissingError, shorten

# The original files and their published MD5s, the test images last.
CIFAR10_FILES = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}
CIFAR100_FILES = {"train": "16019d7e3df5f24257cddd939b257f8d", "test": "f0ef6b0ae62326f3e7ffdfab6717acfc"}
CIFAR10_FOLDER, CIFAR100_FOLDER = "cifar-10-batches-py", "cifar-100-python"
CIFAR10_MEAN, CIFAR10_STD = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)

_MIRROR = "https://www.cs.toronto.edu/~kriz/"
_SIDE, _CHANNELS = 32, 3
_PIXELS = _CHANNELS * _SIDE * _SIDE


class _Family(NamedTuple):
    """The differences between CIFAR-10 and CIFAR-100."""

    name: str
    title: str
    files: dict[str, str]
    labels: str
    classes: int
    archive: str
    md5: str
    size: str

    @property
    def how(self) -> str:
        """How to get the data."""
        return (
            f"Download {_MIRROR}{self.archive} ({self.size}, MD5 {self.md5}) and unpack it there: tar -xzf "
            f"{self.archive} -C $SPARSEJAX_DATA"
        )

    def find(self, folder: str | os.PathLike[str]) -> dict[str, Path | None]:
        """Returns where a folder holds each of its files."""
        return {file: path if (path := Path(folder) / file).is_file() else None for file in self.files}


_TEN = _Family("cifar10", "CIFAR-10", CIFAR10_FILES, "labels", 10, "cifar-10-python.tar.gz",
               "c58f30108f718f92721af3b95e74349a", "170 MB")  # fmt: skip
_HUNDRED = _Family("cifar100", "CIFAR-100", CIFAR100_FILES, "fine_labels", 100, "cifar-100-python.tar.gz",
                   "eb9058c3a382ffc7106e4002c42a8d85", "169 MB")  # fmt: skip


def read_cifar10_folder(folder: str | os.PathLike[str], *, source: str = "files", check_md5: bool = True) -> Dataset:
    """Reads a folder with the six pickles of CIFAR-10, images uint8 [n, 32, 32, 3].

    A pickle is a program. This reader only supports arrays of bytes; it neither imports nor calls anything that a file
    names. Other files than the published ones are not read, or with `check_md5=False` only after `check_limits`.

    Args:
      folder: where the files are (batches.meta is not needed).
      source: the Dataset's `source`.
      check_md5: compare the files with the published MD5s; False for your own data.

    Raises:
      DataMissingError: some of the files are missing.
      DataDamagedError: a file is damaged, is not the published one, or holds something else.

    References:
      Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.
    """
    return _read_folder(_TEN, folder, source, check_md5)


def read_cifar100_folder(folder: str | os.PathLike[str], *, source: str = "files", check_md5: bool = True) -> Dataset:
    """Reads a folder with the two pickles of CIFAR-100, labelled by its 100 fine classes; see `read_cifar10_folder`."""
    return _read_folder(_HUNDRED, folder, source, check_md5)


def _read_folder(family: _Family, folder: str | os.PathLike[str], source: str, check_md5: bool) -> Dataset:
    paths = family.find(folder)
    missing = [file for file, path in paths.items() if path is None]
    if missing:
        raise DataMissingError(
            f"{family.title} was looked for in {folder}, but {', '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} missing there. {family.how}"
        )
    there = zip(filter(None, paths.values()), family.files.values(), strict=True)
    parts = [_read_verified(family, path, md5 if check_md5 else None) for path, md5 in there]
    train = Split(*(np.concatenate(arrays) for arrays in zip(*parts[:-1], strict=True)))
    moments = (CIFAR10_MEAN, CIFAR10_STD) if family is _TEN else pixel_moments(train.images)
    return Dataset(family.name, source, train, parts[-1], family.classes, *moments)


def read_cifar_batch(path: str | os.PathLike[str]) -> Split:
    """Reads one pickle in CIFAR-10's layout: `data` uint8 [n, 3072], red before green before blue, and `labels`.

    Raises:
      DataMissingError: there is no such file, or it cannot be opened.
      DataDamagedError: a truncated or damaged pickle, one that holds anything else, or a wrong shape or label.
    """
    return _read_verified(_TEN, Path(path), None)


def _read_verified(family: _Family, path: Path, md5: str | None) -> Split:
    """Reads the pickle that has an MD5, or any one within limits."""
    raw = read_bytes(path, way_out=family.how)
    if md5 is not None and md5_of(raw) != md5:  # first: nothing else is needed of a file that may be hostile
        raise DataDamagedError(
            f"{path} ({len(raw):,} bytes) is not the published file of {family.title}, or is truncated or damaged: its "
            f"MD5 is {md5_of(raw)}, the published one {md5}. {_way_out(family)}"
        )
    return _parse(family, raw, path, limited=md5 is None)


def _way_out(family: _Family) -> str:
    return f"Delete the file and download it again. {family.how}"


def _parse(family: _Family, raw: bytes, path: Path, *, limited: bool) -> Split:
    try:
        if limited:
            check_limits(raw)
        content = read_plain(raw)
    except Exception as error:  # a damaged pickle can fail in any way
        raise DataDamagedError(
            f"The data file {path} ({len(raw)} bytes) is not a batch of {family.title}, or is truncated or damaged: "
            f"{shorten(str(error)) or type(error).__name__}. {_way_out(family)}"
        ) from error
    if isinstance(content, dict):  # keys are bytes in files that Python 3 read as encoding="bytes" and wrote again
        content = {key.decode("latin1") if isinstance(key, bytes) else key: content[key] for key in content}
    problem = _content_problem(content, family)
    if not problem:
        images = content["data"].array.reshape(-1, _CHANNELS, _SIDE, _SIDE).transpose(0, 2, 3, 1)
        split = Split(np.ascontiguousarray(images), np.asarray(_plain(content[family.labels]), np.int32))
        problem = split_problem(split, family.classes)
        if not problem:
            return split
    raise DataDamagedError(f"The data file {path} is not a batch of {family.title}: {problem}. {_way_out(family)}")


def _content_problem(content: Any, family: _Family) -> str:
    """Returns why a pickle's content is not a valid split, "" if it is valid."""
    if not isinstance(content, dict) or not {"data", family.labels} <= content.keys():
        held = shorten(str(sorted(map(str, content)))) if isinstance(content, dict) else type(content).__name__
        return f"it holds {held} where data and {family.labels} are expected"
    array = getattr(content["data"], "array", None)
    if not isinstance(array, np.ndarray) or array.dtype != np.uint8 or array.ndim != 2 or array.shape[1] != _PIXELS:
        held = type(content["data"]).__name__ if array is None else f"{array.dtype} {list(array.shape)}"
        return f"its data is {held} where bytes [n, {_PIXELS}] are expected"
    labels = _plain(content[family.labels])
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        return "its labels are not a list of integers"
    if labels and not 0 <= min(labels) <= max(labels) < family.classes:
        return f"labels run from {min(labels)} to {max(labels)} where 0 to {family.classes - 1} is expected"
    return ""


def _plain(value: Any) -> Any:
    """Returns a list of numbers, also of an array and of NumPy's numbers; other values as they are."""
    if isinstance(value, list):
        return [_plain(item) if isinstance(item, Array) and item.array.ndim == 0 else item for item in value]
    return value.array.tolist() if isinstance(value, Array) else value


for _place, (_family, _folder, _read) in enumerate(
    ((_TEN, CIFAR10_FOLDER, read_cifar10_folder), (_HUNDRED, CIFAR100_FOLDER, read_cifar100_folder))
):
    Entry(
        name=_family.name,
        title=_family.title,
        kind="images",
        place=_folder,
        read=_read,
        files=_family.find,
        tfds=_family.name,
        download=Download((_MIRROR,), {_family.archive: _family.md5}, _family.size),
        how=_family.how,
    ).add(4 + _place)
