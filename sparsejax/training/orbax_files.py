"""Checkpoints as folders that Orbax writes and reads: the arrays of a tree by name, their checksums, and a score."""

import contextlib
import errno
import functools
import gc
import itertools
import logging
import math
import os
import re
import shutil
import sys
import threading
import time
import warnings
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from sparsejax.files import is_supported, sync_folder
from sparsejax.training.records import NUMBER, read_json

_ONE_AT_A_TIME = threading.Lock()
"""Orbax gives two operations at once in one process the same number, and with it their temporary folders."""
_PATIENCE_S = 5.0
_ORDER = re.compile(r"^\d+")
"""The place of an array in its tree, with which its name begins."""


def write_folder(path: Path, arrays: Mapping[str, np.ndarray], score: float) -> None:
    """Writes a checkpoint in this process alone. A folder of this name is complete, and on disk.

    Orbax renames a folder once it is written, and its files are not on disk before later ones are: so it writes to
    another name, and after fsync of all its files that folder is renamed.

    Raises:
      OSError: it cannot be written.
    """
    import orbax.checkpoint as ocp  # here, because the import is slow

    leaves = {f"{i:04d}{name}": array for i, (name, array) in enumerate(arrays.items())}
    # Orbax does not write arrays without elements.
    empty = {name: [leaf.shape, leaf.dtype.name] for name, leaf in leaves.items() if not leaf.size}
    items = ocp.args.Composite(
        tree=ocp.args.StandardSave({name: leaf for name, leaf in leaves.items() if leaf.size}),
        checksums=ocp.args.JsonSave(_checksums(leaves)),
        details=ocp.args.JsonSave({"score": score if math.isfinite(score) else None, "empty": empty}),
    )
    alone = ocp.options.MultiprocessingOptions(
        primary_host=jax.process_index(), active_processes={jax.process_index()}, barrier_sync_key_prefix="sparsejax"
    )
    # Threads would wait for five minutes for folders that another one could not make.
    at_once = ocp.options.AsyncOptions(create_directories_asynchronously=False)
    options = ocp.CompositeOptions(multiprocessing_options=alone, async_options=at_once)
    handler = ocp.CompositeCheckpointHandler(composite_options=options)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    with _ONE_AT_A_TIME, _without_locks_and_fsync(), _silence_orbax():
        failed = None
        try:
            with ocp.Checkpointer(handler, multiprocessing_options=alone) as saver:
                saver.save(temporary, args=items, force=True)
            _sync(temporary)
            temporary.rename(path)
            sync_folder(path.parent)
        except Exception as error:
            failed = _os_error(error)
        if failed is not None:
            _drain_orbax()
            for incomplete in path.parent.glob(f"{temporary.name}*"):
                shutil.rmtree(incomplete, ignore_errors=True)
            raise failed


def read_folder(path: Path) -> dict[str, np.ndarray]:
    """Returns the arrays of a checkpoint by name.

    Raises:
      ValueError: it is damaged.
      OSError: it cannot be read.
    """
    import orbax.checkpoint as ocp

    with _ONE_AT_A_TIME, _silence_orbax():
        try:
            odd = [entry for entry in path.rglob("*") if not (entry.is_file() or entry.is_dir())]
            if odd:  # Orbax would wait forever for what is written to a pipe
                raise ValueError(f"{odd[0].name} is not a regular file")
            expected = read_json(path / "checksums" / "metadata", {str: int})
            leaves = ocp.Checkpointer(ocp.StandardCheckpointHandler()).restore(path / "tree")
            leaves = {name: np.asarray(leaf) for name, leaf in leaves.items()}
            empty = _read_details(path)["empty"] if (path / "details").exists() else {}
            leaves |= {name: np.zeros(shape, dtype) for name, (shape, dtype) in empty.items() if 0 in shape}
            found = _checksums(leaves)
            wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
            failed = ValueError(f"the checksum of {', '.join(wrong)} is wrong") if wrong else None
        except FileNotFoundError as error:
            leaves, failed = {}, ValueError(f"{Path(error.filename or '').name or 'a file'} is missing")
        except OSError:
            raise
        except Exception as error:  # plain exceptions with very long messages
            reason = _os_error(error)
            leaves, failed = {}, ValueError(_first_line(error)) if reason.errno is None else reason
        if failed is not None:
            _drain_orbax()
            raise failed
    return {_ORDER.sub("", name): leaf for name, leaf in leaves.items()}


def score_of(path: Path) -> float:
    """Returns the score of a checkpoint, or -inf if it has none, as in earlier versions, or is damaged."""
    try:
        score = _read_details(path)["score"]
        return -math.inf if score is None else float(score)
    except (OSError, ValueError):
        return -math.inf


def _read_details(path: Path) -> dict[str, Any]:
    return read_json(path / "details" / "metadata", {"score": (*NUMBER, None), "empty": {str: list}})


def _checksums(leaves: Mapping[str, np.ndarray]) -> dict[str, int]:
    return {name: zlib.crc32(np.ascontiguousarray(leaf).tobytes()) for name, leaf in leaves.items()}


def _sync(folder: Path) -> None:
    """Records a folder and all in it on disk."""
    for path in folder.rglob("*"):
        if path.is_dir():
            sync_folder(path)
        else:
            with path.open("rb") as file:
                is_supported(os.fsync, file.fileno())
    sync_folder(folder)


def _os_error(error: Exception) -> OSError:
    """Returns the system's reason for a failed write, which Orbax's message has somewhere."""
    if isinstance(error, OSError):
        return error
    codes = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EACCES, errno.EROFS, errno.EMFILE)
    code = next((code for code in codes if os.strerror(code) in str(error)), None)
    return OSError(_first_line(error)) if code is None else OSError(code, os.strerror(code))


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


@contextlib.contextmanager
def _without_locks_and_fsync() -> Iterator[None]:
    """Lets TensorStore write without locks and fsync, which some file systems lack.

    Only this process knows the folder that is written, and `_sync` does each fsync once. Orbax has no option for it,
    but makes each of TensorStore's contexts from one of two dictionaries.
    """
    from orbax.checkpoint._src.serialization import tensorstore_utils

    chosen = {"file_io_locking": {"mode": "none"}, "file_io_sync": False}
    contexts = [getattr(tensorstore_utils, name, {}) for name in ("_BASE_TS_CONTEXT", "_DEFAULT_OCDBT_TS_CONTEXT")]
    for context in contexts:
        context.update(chosen)
    try:
        yield
    finally:
        for context, name in itertools.product(contexts, chosen):
            context.pop(name, None)


@contextlib.contextmanager
def _silence_orbax() -> Iterator[None]:
    """Keeps Orbax from printing tracebacks of errors that are also raised."""
    _ignore_late_errors()
    loggers = [logging.getLogger("absl"), logging.getLogger("asyncio")]
    for logger in loggers:
        logger.addFilter(_is_not_from_orbax)
    yield  # after an error the filters stay: what Orbax has begun logs others until the process ends
    for logger in loggers:
        logger.removeFilter(_is_not_from_orbax)


def _drain_orbax() -> None:
    """Waits for what Orbax still does after it has raised an error: it logs other errors, and may make files."""
    until = time.monotonic() + _PATIENCE_S
    for thread in threading.enumerate():
        if type(thread).__module__.startswith("orbax."):
            with contextlib.suppress(Exception):  # its own, which it raises once more
                thread.join(timeout=max(0.0, until - time.monotonic()))
    gc.collect()  # event loops log errors that nobody has asked for as they are collected


def _is_not_from_orbax(record: logging.LogRecord) -> bool:
    # Orbax raises one of several simultaneous write errors; the event loop logs the others with their locations.
    unretrieved = record.name == "asyncio" and ("/orbax/" in (said := record.getMessage()) or "tensorstore" in said)
    return "orbax" not in record.pathname and not unretrieved


@functools.cache
def _ignore_late_errors() -> None:
    """Drops, from now on, errors of TensorStore's reads and writes that end after Orbax has closed their event loop.

    Of several that fail, Orbax raises the first error; a thread of TensorStore prints those of the others.
    """
    warnings.filterwarnings("ignore", r"coroutine '\w*Handler\.\w+' was never awaited", RuntimeWarning)
    usual = sys.unraisablehook

    def hook(arguments: Any) -> None:
        if arguments.object is not None or "Event loop is closed" not in str(arguments.exc_value):
            usual(arguments)

    sys.unraisablehook = hook
