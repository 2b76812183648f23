"""Where data is looked for and where downloads go: environment variables and the cache folder."""

import os
from pathlib import Path

from sparsejax.errors import DataMissingError


def data_root() -> Path | None:
    """Returns the folder that $SPARSEJAX_DATA names, None when the variable is not set.

    Raises:
      DataMissingError: it names no folder.
    """
    value = os.environ.get("SPARSEJAX_DATA", "")
    if not value:
        return None
    root = Path(value).expanduser()
    if not root.is_dir():
        raise DataMissingError(
            f"The environment variable SPARSEJAX_DATA names {value!r}, which is no folder; let it name the "
            f"folder that holds mnist/ and the other data sets, make that folder, or unset the variable."
        )
    return root


def subfolder(name: str) -> Path:
    """Returns $SPARSEJAX_DATA/name, whether or not it exists.

    Raises:
      DataMissingError: $SPARSEJAX_DATA is not set or names no folder.
    """
    root = data_root()
    if root is None:
        raise DataMissingError(
            f"The source 'files' reads {name} in the folder $SPARSEJAX_DATA/{name}, but the environment "
            f"variable SPARSEJAX_DATA is not set; set it, or take the source 'auto'."
        )
    return root / name


def user_cache() -> Path:
    """Returns the user's cache folder for MNIST, there or not (on Linux ~/.cache/sparsejax/mnist)."""
    import pooch

    return Path(pooch.os_cache("sparsejax")) / "mnist"


def download_folder() -> Path:
    """Returns where MNIST is downloaded to: $SPARSEJAX_DATA/mnist if writable, else the user's cache."""
    root = data_root()
    if root is not None:
        folder = root / "mnist"
        if os.access(folder if folder.exists() else root, os.W_OK):
            return folder
    return user_cache()


def tfds_folder(data_dir: str | os.PathLike[str] | None = None) -> Path:
    """Returns the argument, else $TFDS_DATA_DIR, else $SPARSEJAX_DATA/tfds, else ~/tensorflow_datasets."""
    chosen = data_dir or os.environ.get("TFDS_DATA_DIR")
    if chosen:
        return Path(chosen).expanduser()
    root = data_root()
    return root / "tfds" if root is not None else Path.home() / "tensorflow_datasets"


def offline() -> bool:
    """Says whether $SPARSEJAX_OFFLINE forbids the network (any value but empty and 0)."""
    return os.environ.get("SPARSEJAX_OFFLINE", "") not in ("", "0")
