"""IDX files, the format of MNIST, read with every size checked."""

import functools
import gzip
import hashlib
import io
import math
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from sparsejax.data.dataset import MNIST_MEAN, MNIST_STD, Dataset, Split, pixel_moments, split_problem
from sparsejax.data.download import Download
from sparsejax.data.folders import expansion_problem, read_bytes
from sparsejax.data.registry import Entry
from sparsejax.errors import DataDamagedError, DataMissingError

# The four original files and their published MD5s.
MNIST_FILES = {
    "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
}
FASHION_MNIST_FILES = {
    "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
    "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
    "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
}
CLASSES = 10

# The third byte of an IDX file names the type of its elements, which are big-endian.
_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_GZIP = b"\x1f\x8b"
_HEADER = 4 + 4 * 255  # bytes at most
_WAY_OUT = "Delete the file and download it again (MNIST: python -m sparsejax.data download)."


def read_idx(path: str | os.PathLike[str]) -> np.ndarray:
    """Reads an IDX file, plain or gzip (told apart by its first bytes), in the machine's byte order.

    Returns:
      A new array of the shape and type in the file's header.

    Raises:
      DataMissingError: there is no such file, or it cannot be opened.
      DataDamagedError: wrong magic number, truncated or damaged gzip stream, too few or too many bytes.
    """
    return _parse(read_bytes(Path(path)), Path(path))


def read_mnist_folder(
    folder: str | os.PathLike[str], *, name: str = "mnist", source: str = "files", check_md5: bool = True
) -> Dataset:
    """Reads a folder with the four files of MNIST, or of any data set in MNIST's layout with ten classes.

    Names may lack the .gz and may have a dot before "idx" (train-images.idx3-ubyte).

    Args:
      folder: where the files are.
      name: of the data set; "mnist" takes the customary mean and std, any other computes its own.
      source: the Dataset's `source`.
      check_md5: compare gzip files with MNIST's published MD5s (plain files have none); False for other data.

    Raises:
      DataMissingError: some of the files are missing.
      DataDamagedError: a file is damaged, is not the published one, or does not fit the others.
    """
    paths = find_files(folder)
    missing = [file for file, path in paths.items() if path is None]
    if missing:
        raise DataMissingError(
            f"{name} was looked for in {folder}, but {_format_list(missing)} {'is' if len(missing) == 1 else 'are'} "
            f"missing there (names without .gz, or with .idx instead of -idx, also work); put "
            f"{'it' if len(missing) == 1 else 'them'} there (MNIST: python -m sparsejax.data download), or "
            f"choose another data.source."
        )
    found = [path for path in paths.values() if path is not None]
    images, labels, test_images, test_labels = (
        _read_verified(path, md5 if check_md5 else None) for path, md5 in zip(found, MNIST_FILES.values(), strict=True)
    )
    train, test = _split(images, labels, folder, "train"), _split(test_images, test_labels, folder, "t10k")
    if train.images.shape[1:] != test.images.shape[1:]:
        raise DataDamagedError(
            f"In {folder} the training images are {_format_shape(images.shape[1:])} pixels and the test images "
            f"{_format_shape(test_images.shape[1:])}; these files are not of one data set. Download all four again."
        )
    mean, std = (MNIST_MEAN, MNIST_STD) if name == "mnist" else pixel_moments(train.images)
    return Dataset(name, source, train, test, CLASSES, mean, std)


def find_files(folder: str | os.PathLike[str]) -> dict[str, Path | None]:
    """Returns where a folder holds each of MNIST's four files, by their original name, gzip before plain."""

    def candidates(file: str) -> Iterator[Path]:
        plain = file.removesuffix(".gz")
        dotted = plain.replace("-idx", ".idx")
        yield from (Path(folder) / name for name in (file, f"{dotted}.gz", plain, dotted))

    return {file: next((path for path in candidates(file) if path.is_file()), None) for file in MNIST_FILES}


def md5_of(content: bytes) -> str:
    """Returns the MD5 of some bytes, as hex digits."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _read_verified(path: Path, md5: str | None) -> np.ndarray:
    """Reads an IDX file and, when it is gzip and an MD5 is given, compares that."""
    raw = read_bytes(path)
    array = _parse(raw, path)  # first, because it gives the better error message
    if md5 is not None and raw.startswith(_GZIP) and md5_of(raw) != md5:
        raise DataDamagedError(
            f"{path} is not the published file of MNIST: its MD5 is {md5_of(raw)}, the published one {md5}. "
            f"{_WAY_OUT} If it is intentionally your own data, unpack it with gunzip: plain files are read "
            f"without a checksum."
        )
    return array


def _split(images: np.ndarray, labels: np.ndarray, folder: str | os.PathLike[str], word: str) -> Split:
    """Makes a Split of images [n, h, w] and labels [n], or raises an error that names the files that do not fit."""
    if images.dtype == np.uint8 == labels.dtype and images.ndim == 3:
        split = Split(images[..., None], labels.astype(np.int32))
        problem = split_problem(split, CLASSES)
    else:
        split = Split(images, labels)
        problem = f"images are {images.dtype} {list(images.shape)} where uint8 [n, height, width] is expected"
    if problem:
        raise DataDamagedError(
            f"The files {word}-images and {word}-labels in {folder} do not form a split: {problem}. Download "
            f"both again (MNIST: python -m sparsejax.data download)."
        )
    return split


def _parse(raw: bytes, path: Path) -> np.ndarray:
    if not raw:
        raise DataDamagedError(f"The data file {path} is empty (0 bytes). {_WAY_OUT}")
    content, trouble = _unpack(raw, _HEADER)
    if trouble and len(content) < 4:
        raise DataDamagedError(f"The data file {path} ({len(raw)} bytes) is damaged: {trouble}. {_WAY_OUT}")
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in _TYPES:
        raise DataDamagedError(
            f"{path} is not an IDX file: it starts with the bytes {content[:4].hex(' ')} where 00 00, a type "
            f"({', '.join(f'{code:02x}' for code in _TYPES)}) and the number of dimensions are expected. "
            f"{_WAY_OUT}"
        )
    dtype, start = np.dtype(_TYPES[content[2]]), 4 + 4 * content[3]
    if len(content) < start:
        raise DataDamagedError(
            f"The data file {path} is truncated: its header of {content[3]} dimensions takes {start} bytes, "
            f"and {len(content)} were found{trouble and f' ({trouble})'}. {_WAY_OUT}"
        )
    shape = tuple(int(size) for size in np.frombuffer(content, ">u4", count=content[3], offset=4))
    expected = math.prod(shape) * dtype.itemsize
    if problem := expansion_problem(expected, len(raw)):
        raise DataDamagedError(f"The data file {path} is damaged: {problem}. {_WAY_OUT}")
    content, trouble = _unpack(raw, start + expected + 1)
    found = len(content) - start
    if trouble or found != expected:
        verdict = "is truncated" if found < expected else "has extra bytes" if found > expected else "is damaged"
        raise DataDamagedError(
            f"The data file {path} {verdict}: its header announces {_format_shape(shape)} values of "
            f"{dtype.itemsize} byte(s), {expected} bytes in all, and {found}{' or more' * (found > expected)} were "
            f"found{trouble and f' ({trouble})'}. {_WAY_OUT}"
        )
    try:
        values = np.frombuffer(content, dtype, offset=start).reshape(shape)
        return values.astype(dtype.newbyteorder("="), copy=not values.flags.writeable)
    except ValueError as error:  # a shape that numpy does not support
        raise DataDamagedError(
            f"The data file {path} announces the shape {_format_shape(shape)}, which no array can have. {_WAY_OUT}"
        ) from error


def _unpack(raw: bytes, most: int) -> tuple[bytes | bytearray, str]:
    """Returns the first bytes inside a gzip file, and the error that stopped the unpacking ("" if none did)."""
    if not raw.startswith(_GZIP):
        return raw[:most], ""
    content = bytearray()
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(raw)) as stream:
            while part := stream.read1(min(most - len(content), 1 << 18)):
                content += part
    except EOFError:
        return content, "its gzip stream ends early"
    except (gzip.BadGzipFile, zlib.error) as error:
        return content, f"its gzip stream is damaged: {error}"
    return content, ""


def _format_shape(shape: tuple[int, ...]) -> str:
    """Formats a shape: 10000 × 28 × 28."""
    return " × ".join(str(size) for size in shape) or "1"


def _format_list(words: list[str]) -> str:
    """Formats a list: a, b and c."""
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


Entry(
    name="mnist",
    title="MNIST",
    kind="images",
    place="mnist",
    read=read_mnist_folder,
    files=find_files,
    tfds="mnist",
    download=Download(
        ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/"),
        MNIST_FILES,
        "11.6 MB",
    ),
    substitute=True,
    how="Put the four files of MNIST in $SPARSEJAX_DATA/mnist.",
).add(1)
Entry(
    name="fashion_mnist",
    title="Fashion-MNIST",
    kind="images",
    place="fashion_mnist",
    read=functools.partial(read_mnist_folder, name="fashion_mnist", check_md5=False),
    files=find_files,
    elsewhere=(Path("/usr/share/datasets/fashion-mnist"),),
    tfds="fashion_mnist",
    download=Download(
        (
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        ),
        FASHION_MNIST_FILES,
        "30.9 MB",
    ),
    how="Install Debian's package (apt install dataset-fashion-mnist), or put its four idx files in "
    "$SPARSEJAX_DATA/fashion_mnist (https://github.com/zalandoresearch/fashion-mnist).",
).add(2)
