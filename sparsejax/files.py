"""Atomic writing of files, and locks; also on file systems that lack some of it, such as some of FUSE and Lustre."""

import contextlib
import errno
import os
import re
import shutil
import stat
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
_BUFFER = 1 << 20
_TEMPORARY = re.compile(r"\.(.+)\.\d+")
"""Name of an incomplete file: that of the file, and the number of the process."""


def is_supported(operation: Callable[..., Any], *args: Any) -> bool:
    """Runs an operation on files; returns whether the file system has it. Its other errors are raised."""
    try:
        operation(*args)
    except OSError as error:
        if error.errno not in _LACKING:
            raise
        return False
    return True


def open_lock(path: Path) -> IO[str]:
    """Opens a file to be locked, which is made if it is missing.

    Raises:
      OSError: it cannot be opened, or is not a file of its own: its owner is written to it, so it must not be a link.
    """
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        file = os.fdopen(os.open(path, flags, 0o666), "r+", encoding="utf-8")
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise OSError(errno.ELOOP, f"{path.name} is a symbolic link") from None
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        file.close()
        raise OSError(errno.EEXIST, f"{path.name} is a hard link or not a regular file")
    return file


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


def make_folder(folder: Path) -> None:
    """Makes a folder and its parents, and records them on disk."""
    if folder.is_dir():
        return
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Records the names in a folder on disk: fsync of a file covers its contents, not its name."""
    if os.name == "nt":  # Windows opens no folders
        return
    with contextlib.suppress(PermissionError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            is_supported(os.fsync, descriptor)
        finally:
            os.close(descriptor)


def replace_file(path: Path, content: bytes | Callable[[IO[bytes]], Any]) -> None:
    """Writes a file and its parent folders; an existing file is replaced once the new one is complete on disk.

    Where the file system has no fsync, it is complete once the system writes it. A process that is killed here leaves
    its incomplete file, which `remove_incomplete` removes.

    Args:
      path: of the file.
      content: the contents, or a function that writes them to an open file.

    Raises:
      OSError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    make_folder(path.parent)
    temporary.unlink(missing_ok=True)  # of a process that was killed and had this number
    try:
        with open(temporary, "xb", _BUFFER) as file:  # "x" never follows a link
            if callable(content):
                content(file)
            else:
                file.write(content)
            file.flush()
            is_supported(os.fsync, file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    sync_folder(path.parent)


def write_whole(path: Path, content: bytes | Callable[[IO[bytes]], Any]) -> Path:
    """Does the same as `replace_file`, and returns the path.

    Raises:
      RunFolderError: it cannot be written.
    """
    try:
        replace_file(path, content)
    except OSError as error:
        raise RunFolderError(
            f"{path} cannot be written: {error.strerror or error}. Choose another folder with --out."
        ) from None
    return path


def open_regular(path: Path) -> IO[bytes]:
    """Opens a file to be read that is none of a device or a pipe, which may never end.

    Raises:
      OSError: it cannot be read, or is not a regular file.
    """
    file = os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    return file


def remove(path: Path) -> None:
    """Removes a file, a link, or a folder with all in it; what it names need not exist."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_incomplete(folder: Path) -> None:
    """Removes the incomplete files in a folder, of processes that were killed; no other process may write there."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if incomplete(path.name) is not None and not path.is_dir():
            path.unlink()


def incomplete(name: str) -> str | None:
    """Returns the name of the file of which this is an incomplete one, or None."""
    found = _TEMPORARY.fullmatch(name)
    return found and found[1]
