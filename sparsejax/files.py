"""Atomic writing of files."""

import contextlib
import os
from pathlib import Path

from sparsejax.errors import RunFolderError


def write_whole(path: Path, content: bytes) -> Path:
    """Writes a file and its parent folders; an existing file is replaced once the new one is complete on disk.

    Raises:
      RunFolderError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise RunFolderError(
            f"{path} cannot be written: {error.strerror or error}. Choose another folder with --out."
        ) from None
    return path
