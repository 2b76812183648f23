"""Atomic writing of files, and locks; also on file systems that lack some of it, such as some of FUSE and Lustre."""

import contextlib
import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from sparsejax.errors import RunFolderError

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None

_ENOTSUPP = 524  # Linux's own, which has no name outside the kernel
_LACKING = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL, errno.ENODEV, _ENOTSUPP)
"""Errors of a file system that does not have an operation at all."""


def is_supported(operation: Callable[..., Any], *args: Any) -> bool:
    """Runs an operation on files; returns whether the file system has it. Its other errors are raised."""
    try:
        operation(*args)
    except OSError as error:
        if error.errno not in _LACKING:
            raise
        return False
    return True


def lock(file: IO[Any]) -> bool:
    """Locks a file until it is closed; returns whether the file system has locks.

    Raises:
      BlockingIOError: another process has locked it.
      OSError: it cannot be locked for another reason.
    """
    if fcntl is None:
        return False
    try:
        return is_supported(fcntl.flock, file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except PermissionError as error:  # SMB's word for it
        raise BlockingIOError(*error.args) from None


def find_lacking(folder: Path) -> tuple[str, ...]:
    """Returns which of "locks" and "fsync" the file system of a folder lacks; none if the folder cannot be written."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            has = {"fsync": is_supported(os.fsync, file.fileno())}
            if fcntl is not None:
                has["locks"] = is_supported(fcntl.lockf, file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return ()
    return tuple(name for name, there in has.items() if not there)


def write_whole(path: Path, content: bytes) -> Path:
    """Writes a file and its parent folders; an existing file is replaced once the new one is complete on disk.

    Where the file system has no fsync, it is complete once the system writes it.

    Raises:
      RunFolderError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            is_supported(os.fsync, file.fileno())
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise RunFolderError(
            f"{path} cannot be written: {error.strerror or error}. Choose another folder with --out."
        ) from None
    return path
