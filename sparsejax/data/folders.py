"""Locations of data and downloads: environment variables and the cache folder."""

import os
import tempfile
from pathlib import Path

import numpy as np

from sparsejax.errors import DataMissingError, shorten

_MOST_EXPANSION, _SMALL = 100, 2**28


def data_root() -> Path | None:
    """Returns the folder that $SPARSEJAX_DATA names, None when the variable is not set.

    Raises:
      DataMissingError: it is not a folder.
    """
    value = os.environ.get("SPARSEJAX_DATA", "")
    if not value:
        return None
    root = expand(value, "The environment variable SPARSEJAX_DATA")
    if not root.is_dir():
        raise DataMissingError(
            f"The environment variable SPARSEJAX_DATA is {shorten(repr(value))}, which is not a folder; set it to the "
            f"folder that holds mnist/ and the other data sets, create that folder, or unset the variable."
        )
    return root


def read_bytes(path: Path, what: str = "data file", way_out: str = "Put it there or name another folder.") -> bytes:
    """Reads a file.

    Raises:
      DataMissingError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataMissingError(f"The {what} {path} cannot be read: {error.strerror or error}. {way_out}") from error


def expansion_problem(unpacked: int, packed: int) -> str:
    """Returns why compressed data are not unpacked, "" if they may be.

    Few bytes can announce more than the memory holds, and unpack to it. Images and numbers of real data sets have at
    most a twentieth of their size when they are compressed.

    Args:
      unpacked: their size in bytes, as announced.
      packed: their size in the file.
    """
    if unpacked <= max(_SMALL, _MOST_EXPANSION * packed):
        return ""
    times = f"more than {_MOST_EXPANSION} times its size of {packed:,}"
    return f"it announces {unpacked:,} bytes, {times}; unpack it first if that is right"


def load_npz(path: Path) -> dict[str, np.ndarray]:
    """Reads all arrays of an .npz file.

    Raises:
      Exception: of any type, if it is damaged; NumPy's and zipfile's parsers raise various ones.
    """
    with np.load(path, allow_pickle=False) as file:
        unpacked = sum(member.file_size for member in file.zip.infolist())
        if problem := expansion_problem(unpacked, path.stat().st_size):
            raise ValueError(problem)
        return {name: file[name] for name in file.files}


def user_cache() -> Path:
    """Returns the user's cache folder, which may not exist (on Linux ~/.cache/sparsejax)."""
    import pooch

    try:
        return Path(pooch.os_cache("sparsejax"))
    except RuntimeError:  # no home folder is known
        return _home() / ".cache" / "sparsejax"


def expand(path: str | os.PathLike[str], what: str) -> Path:
    """Returns a path with ~ and ~user replaced by home folders.

    Raises:
      DataMissingError: there is no such home folder, or the path cannot be read; the message begins with `what`.
    """
    try:
        expanded = Path(path).expanduser()
        expanded.exists()  # raises an error for a name that no file system takes
        return expanded
    except RuntimeError:
        raise DataMissingError(
            f"{what} is {str(path)!r}, but the home folder of that user is unknown; write the whole path."
        ) from None
    except OSError as error:
        raise DataMissingError(
            f"{what} is {shorten(repr(str(path)))}, which cannot be read: {error.strerror or error}. Choose another."
        ) from None


def _home() -> Path:
    """Returns the user's home folder; a temporary one if none is known, as in some containers and batch jobs."""
    try:
        return Path.home()
    except RuntimeError:
        return Path(tempfile.gettempdir()) / f"sparsejax-{os.getuid()}"


def download_folder(place: str | Path) -> Path:
    """Returns the output path of a data set: in $SPARSEJAX_DATA if writable, else in the user's cache."""
    root = data_root()
    if root is not None:
        path = root / place
        if os.access(next(folder for folder in (path, *path.parents) if folder.exists()), os.W_OK):
            return path
    return user_cache() / place


def tfds_folder(data_dir: str | os.PathLike[str] | None = None) -> Path:
    """Returns the argument, else $TFDS_DATA_DIR, else $SPARSEJAX_DATA/tfds, else ~/tensorflow_datasets."""
    chosen = data_dir or os.environ.get("TFDS_DATA_DIR")
    if chosen:
        return expand(chosen, "TFDS's folder")
    root = data_root()
    return root / "tfds" if root is not None else _home() / "tensorflow_datasets"


def offline() -> bool:
    """Returns whether $SPARSEJAX_OFFLINE disables the network (any value but empty and 0)."""
    return os.environ.get("SPARSEJAX_OFFLINE", "") not in ("", "0")
