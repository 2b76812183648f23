"""Checkpoints and their verification; the only module that uses Orbax."""

import dataclasses
import errno
import itertools
import logging
import os
import re
import shutil
import sys
import threading
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint._src.serialization import tensorstore_utils
from orbax.checkpoint.checkpoint_managers import preservation_policy

from sparsejax.errors import CheckpointError, Interrupted
from sparsejax.files import find_lacking
from sparsejax.training.named import by_name, difference, fill
from sparsejax.training.processes import gather

_ORDER = re.compile(r"^\d+")
"""The place of an array in its tree, with which its name in a checkpoint begins."""


@dataclasses.dataclass(frozen=True)
class Restored:
    """A restored checkpoint: its step, and the saved tree."""

    step: int
    tree: Any


class Checkpoints:
    """The checkpoints of one run; use `open_checkpoints`, which closes them: an unclosed manager loses the last one."""

    def __init__(self, manager: ocp.CheckpointManager, folder: Path):
        self._manager = manager
        self._folder = folder
        self.failed = False
        """Whether a read failed, which Orbax's threads may report again."""

    def steps(self) -> list[int]:
        """Returns the steps that have a checkpoint, in order."""
        return sorted(self._manager.all_steps())

    def save(self, step: int, tree: Any, *, score: float) -> None:
        """Saves a tree of arrays in the background; the one with the highest `score` is the best.

        Raises:
          CheckpointError: it, or the previous one, could not be written.
        """
        leaves = _plain(tree)
        items = ocp.args.Composite(
            tree=ocp.args.StandardSave(leaves),
            checksums=ocp.args.JsonSave(_checksums(leaves)),
        )
        with _translate_write_errors(self._folder):
            self._manager.save(step, args=items, metrics={"score": score}, force=True)

    def restore(self, like: Any, step: int | None = None) -> Restored | None:
        """Restores a checkpoint, by default the latest; None if there is none.

        Args:
          like: a tree with arrays of the same names, shapes and dtypes; they may be `jax.ShapeDtypeStruct`.
          step: of the checkpoint; later ones are then removed, because the run resumes from it.

        Raises:
          CheckpointError: it is damaged, belongs to another network, or does not exist.
        """
        steps = self.steps()
        if step is None and not steps:
            return None
        if step is not None:
            check_step(self._folder, step, steps)
        chosen = steps[-1] if step is None else step
        try:
            items = ocp.args.Composite(tree=ocp.args.StandardRestore(), checksums=ocp.args.JsonRestore())
            restored = self._manager.restore(chosen, args=items)
            leaves = {name: np.asarray(leaf) for name, leaf in restored["tree"].items()}
            expected, found = restored["checksums"], _checksums(leaves)
        except Exception as error:  # Orbax and TensorStore raise plain exceptions with very long messages
            self.failed = True
            raise self._damaged(chosen, _first_line(error)) from error
        wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        if wrong:
            raise self._damaged(chosen, f"the checksum of {', '.join(wrong)} is wrong")
        named = {_ORDER.sub("", name): leaf for name, leaf in leaves.items()}
        if other := difference(named, like):
            raise CheckpointError(
                f"The checkpoint of step {chosen} in {self._folder} belongs to another network: it {other}. Use the "
                "configuration it was trained with, or another --out."
            )
        for later in (s for s in steps if s > chosen):
            self._manager.delete(later)
        return Restored(chosen, fill(like, named))

    def _damaged(self, step: int, reason: str) -> CheckpointError:
        earlier = [s for s in self.steps() if s < step]
        way_out = "there is no earlier one"
        if earlier:
            way_out = f"--resume-step {earlier[-1]} resumes from the previous one"
        return CheckpointError(
            f"The checkpoint of step {step} in {self._folder} is damaged: {reason}. It is not used; {way_out}, "
            "and --fresh starts a new run."
        )


@contextmanager
def open_checkpoints(folder: Path, *, keep: int) -> Iterator[Checkpoints]:
    """Opens the checkpoints of a run and, on leaving, waits until all are written.

    Args:
      folder: created if missing; absolute, because Orbax otherwise fails in the background.
      keep: number of latest checkpoints to keep, in addition to the best one.

    Raises:
      CheckpointError: on leaving, the last one could not be written.
    """
    folder = folder.absolute()
    policies = [
        preservation_policy.LatestN(keep),
        preservation_policy.BestN(get_metric_fn=lambda metrics: metrics["score"], n=1),
    ]
    options = ocp.CheckpointManagerOptions(
        create=True,
        enable_async_checkpointing=True,
        preservation_policy=preservation_policy.AnyPreservationPolicy(policies),
    )
    with _suit_file_system(folder), _silence_orbax() as opened_now:
        with _translate_write_errors(folder):
            manager = ocp.CheckpointManager(folder, options=options)
        opened_now.append(saved := Checkpoints(manager, folder))
        try:
            yield saved
        except Interrupted:  # a checkpoint reported as saved must be on disk
            with _translate_write_errors(folder):
                manager.close()
            raise
        except BaseException:
            with suppress(Exception):  # the first error is the relevant one
                manager.close()
            raise
        with _translate_write_errors(folder):
            manager.close()


@contextmanager
def _suit_file_system(folder: Path) -> Iterator[None]:
    """Lets TensorStore write without locks or fsync where the file system lacks them.

    Each process writes its own files, and the run folder is locked once, so that TensorStore's locks are not needed.
    Orbax has no option for it, but makes each of TensorStore's contexts from one of two dictionaries.
    """
    settings = {"locks": ("file_io_locking", {"mode": "none"}), "fsync": ("file_io_sync", False)}
    chosen = dict(settings[name] for name in find_lacking(folder.parent))
    contexts = [getattr(tensorstore_utils, name, {}) for name in ("_BASE_TS_CONTEXT", "_DEFAULT_OCDBT_TS_CONTEXT")]
    for context in contexts:
        context.update(chosen)
    try:
        yield
    finally:
        for context, name in itertools.product(contexts, chosen):
            context.pop(name, None)


@contextmanager
def _translate_write_errors(folder: Path) -> Iterator[None]:
    """Turns Orbax's errors on writing, often raised at a later call, into an error that says what to do."""
    try:
        yield
    except Exception as error:
        raise CheckpointError(
            f"A checkpoint cannot be written to {folder}: {_cause(error)}. Complete checkpoints are intact; "
            "free disk space or make the folder writable, then run the same command to resume from the last one."
        ) from error


@contextmanager
def _silence_orbax() -> Iterator[list[Checkpoints]]:
    """Keeps Orbax's threads from printing tracebacks of errors that are also raised on joining them.

    After a failure some of them end late and use an event loop that is already closed; these errors are suppressed,
    too. Yields a list for the opened checkpoints.
    """
    threads, unraisable = threading.excepthook, sys.unraisablehook
    loggers = [logging.getLogger("absl"), logging.getLogger("asyncio")]

    def of_thread(arguments: Any) -> None:
        if not type(arguments.thread).__module__.startswith("orbax."):
            threads(arguments)

    def of_loop(arguments: Any) -> None:
        if "Event loop is closed" not in str(arguments.exc_value):
            unraisable(arguments)

    threading.excepthook, sys.unraisablehook = of_thread, of_loop
    for logger in loggers:
        logger.addFilter(_is_not_from_orbax)
    yield (opened_now := [])
    if any(saved.failed for saved in opened_now):
        return
    threading.excepthook, sys.unraisablehook = threads, unraisable
    for logger in loggers:
        logger.removeFilter(_is_not_from_orbax)


def _is_not_from_orbax(record: logging.LogRecord) -> bool:
    # Orbax raises one of several simultaneous write errors; the event loop logs the others with their locations
    return "orbax" not in record.pathname and not (record.name == "asyncio" and "/orbax/" in record.getMessage())


def check_step(folder: Path, step: int, steps: Sequence[int] | None = None) -> None:
    """Checks that there is a checkpoint of a step.

    Args:
      folder: of the checkpoints; it may not exist.
      step: of the checkpoint.
      steps: those of all; None to look for them in the folder, where an incomplete one has another name.

    Raises:
      CheckpointError: there is none.
    """
    if steps is None:
        names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
        steps = sorted(int(name) for name in names if name.isascii() and name.isdigit())
    if step not in steps:
        raise CheckpointError(
            f"There is no checkpoint of step {step} in {folder}; available: {list(steps) if steps else 'none'}."
        )


def remove(folder: Path) -> None:
    """Deletes all checkpoints of a run."""
    shutil.rmtree(folder, ignore_errors=True)


def _plain(tree: Any) -> dict[str, np.ndarray]:
    """Flattens a tree to arrays whose names begin with their place in it."""
    return {f"{i:04d}{name}": leaf for i, (name, leaf) in enumerate(by_name(gather(tree)).items())}


def _checksums(leaves: dict[str, np.ndarray]) -> dict[str, int]:
    return {name: zlib.crc32(np.ascontiguousarray(leaf).tobytes()) for name, leaf in leaves.items()}


def _cause(error: Exception) -> str:
    """Returns the system's reason for the failed write, if the message has one."""
    text = str(error)
    reasons = map(os.strerror, (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EACCES, errno.EROFS))
    return next((reason for reason in reasons if reason in text), None) or _first_line(error)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return f"{type(error).__name__}: {lines[0][:200]}"
