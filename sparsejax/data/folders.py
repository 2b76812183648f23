"""Locations of data and downloads: environment variables and the cache folder."""

import os
from pathlib import Path

from sparsejax.errors import DataMissingError


def data_root() -> Path | None:
    """Returns the folder that $SPARSEJAX_DATA names, None when the variable is not set.

    Raises:
      DataMissingError: it is not a folder.
    """
    value = os.environ.get("SPARSEJAX_DATA", "")
    if not value:
        return None
    root = Path(value).expanduser()
    if not root.is_dir():
        raise DataMissingError(
            f"The environment variable SPARSEJAX_DATA is {value!r}, which is not a folder; set it to the "
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


def user_cache() -> Path:
    """Returns the user's cache folder, which may not exist (on Linux ~/.cache/sparsejax)."""
    import pooch

    return Path(pooch.os_cache("sparsejax"))


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
        return Path(chosen).expanduser()
    root = data_root()
    return root / "tfds" if root is not None else Path.home() / "tensorflow_datasets"


def offline() -> bool:
    """Returns whether $SPARSEJAX_OFFLINE disables the network (any value but empty and 0)."""
    return os.environ.get("SPARSEJAX_OFFLINE", "") not in ("", "0")
