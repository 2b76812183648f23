"""Checkpoints: one folder for each step, written in the background by Orbax and verified when it is read.

`STEP` has the arrays of a tree by name, their checksums and a score. A folder with this name is complete, and on disk.
"""

import math
import re
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from sparsejax.errors import CheckpointError, Interrupted
from sparsejax.files import make_folder, remove
from sparsejax.training.named import by_name, difference, fill
from sparsejax.training.orbax_files import read_folder, score_of, write_folder
from sparsejax.training.processes import gather, is_first, run_in_first_process

_STEP = re.compile(r"[0-9]{1,18}")
"""Name of a checkpoint."""
_REMOVED = ".removed"
_INCOMPLETE = re.compile(
    r"\.removed|\.[0-9]{1,18}\.[0-9]+(\.orbax-checkpoint-tmp.*)?|[0-9]{1,18}\.orbax-checkpoint-tmp.*"
)
"""Names of checkpoints that are being written, also by earlier versions, or deleted."""
_PARTS = ("tree", "checksums", "details", "_CHECKPOINT_METADATA")
"""What a checkpoint contains; a damaged one has at least one of them."""
_ATTEMPTS = 20


class Restored(NamedTuple):
    """A restored checkpoint: its step, and the saved tree."""

    step: int
    tree: Any


class Checkpoints:
    """The checkpoints of one run; use `open_checkpoints`, which waits until the last one is written."""

    def __init__(self, folder: Path, keep: int, writer: ThreadPoolExecutor):
        self._folder, self._keep, self._writer = folder, keep, writer
        self._pending: Future[None] | None = None
        self._scores = {step: score_of(path) for step, path in find_steps(folder).items()} if is_first() else {}

    def steps(self) -> list[int]:
        """Returns the steps that have a checkpoint, in order."""
        return list(find_steps(self._folder))

    def save(self, step: int, tree: Any, *, score: float) -> None:
        """Saves a tree of arrays in the background; the one with the highest `score` is the best.

        Raises:
          CheckpointError: the previous one could not be written.
        """
        self.wait()
        # Copies, because on a CPU the arrays share the memory of the training, which continues.
        arrays = {name: np.array(leaf) for name, leaf in by_name(gather(tree)).items()}
        if is_first():
            self._pending = self._writer.submit(self._write, step, arrays, score)

    def check(self) -> None:
        """Raises the error of a failed write now, without waiting for the next one; only in a single process.

        Raises:
          CheckpointError: a checkpoint could not be written.
        """
        if self._pending is not None and self._pending.done() and jax.process_count() == 1:
            self.wait()

    def wait(self) -> None:
        """Waits until the last checkpoint is on disk; all processes must call it.

        Raises:
          CheckpointError: it could not be written.
        """
        pending, self._pending = self._pending, None
        run_in_first_process(lambda: None if pending is None else pending.result())

    def restore(self, like: Any, step: int | None = None) -> Restored | None:
        """Restores a checkpoint as `restore` does, and removes later ones, because the run resumes from it.

        Raises:
          CheckpointError: it is damaged, belongs to another network, or does not exist.
        """
        self.wait()
        restored = restore(self._folder, like, step)
        if restored is not None and is_first():
            with _translate_errors(self._folder):
                self._remove({later for later in self.steps() if later > restored.step})
        return restored

    def _write(self, step: int, arrays: Mapping[str, np.ndarray], score: float) -> None:
        """Writes a checkpoint; then removes all but the newest and the best."""
        with _translate_errors(self._folder):
            if (path := self._folder / f"{step}").exists():
                _remove(path)
            write_folder(path, arrays, score)
            self._scores[step] = score if math.isfinite(score) else -math.inf
            self._prune()

    def prune(self) -> None:
        """Removes all but the newest and the best; a process that was killed after its last save may have left more."""
        self.wait()
        if is_first():
            with _translate_errors(self._folder):
                self._prune()

    def _prune(self) -> None:
        if steps := self.steps():
            best = max(steps, key=lambda step: (self._scores.get(step, -math.inf), step))
            self._remove({*steps} - {best, *steps[-self._keep :]})

    def _remove(self, steps: Collection[int]) -> None:
        paths = find_steps(self._folder)
        for step in sorted(steps, reverse=True):  # the remaining ones are always those of one run up to some step
            _remove(paths[step])
            self._scores.pop(step, None)


@contextmanager
def open_checkpoints(folder: Path, *, keep: int) -> Iterator[Checkpoints]:
    """Opens the checkpoints of a run to add others and, on leaving, waits until all are written.

    Args:
      folder: created if missing; no other run may write to it.
      keep: number of latest checkpoints to keep, in addition to the best one.

    Raises:
      CheckpointError: the folder cannot be written, or, on leaving, the last checkpoint.
    """
    if is_first():
        with _translate_errors(folder):
            make_folder(folder)
            for path in folder.iterdir():
                if _INCOMPLETE.fullmatch(path.name):  # of a process that was killed
                    remove(path)
    with ThreadPoolExecutor(1, "checkpoints") as writer:  # on leaving, it waits for the write
        saved = Checkpoints(folder, keep, writer)
        try:
            yield saved
        except Interrupted:  # a checkpoint reported as saved must be on disk
            saved.wait()
            raise
        saved.prune()


def restore(folder: Path, like: Any, step: int | None = None) -> Restored | None:
    """Restores a checkpoint, by default the latest; None if there is none. It changes nothing.

    A run in the folder may meanwhile replace checkpoints by newer ones.

    Args:
      folder: of the checkpoints; it may not exist.
      like: a tree with arrays of the same names, shapes and dtypes; they may be `jax.ShapeDtypeStruct`.
      step: of the checkpoint.

    Raises:
      CheckpointError: it is damaged, cannot be read, belongs to another network, or does not exist.
    """
    for _ in range(_ATTEMPTS):
        paths = find_steps(folder)
        if step is not None:
            check_step(folder, step)
        elif not paths:
            return None
        chosen = max(paths) if step is None else step
        path = paths.get(chosen, folder / f"{chosen}")
        try:
            arrays = read_folder(path)
        except (OSError, ValueError) as error:
            if not path.exists():
                continue
            if isinstance(error, OSError) and error.errno is not None:
                raise CheckpointError(
                    f"The checkpoint of step {chosen} in {folder} cannot be read: {error.strerror}. Repeat the command "
                    "when the disk can be read again."
                ) from error
            raise _damaged(folder, chosen, error) from error
        if other := difference(arrays, like):
            raise CheckpointError(
                f"The checkpoint of step {chosen} in {folder} belongs to another network: it {other}. Use the "
                "configuration it was trained with, or another --out."
            )
        return Restored(chosen, fill(like, arrays))
    raise CheckpointError(
        f"The run in {folder.parent} replaced its checkpoints faster than they could be read; repeat the command, or "
        "wait for the end of the run."
    )


def find_steps(folder: Path) -> dict[int, Path]:
    """Returns the complete checkpoints in a folder by step, in order; what else it has is not ours."""
    if not folder.is_dir():
        return {}
    paths = [path for path in folder.iterdir() if _STEP.fullmatch(path.name)]
    return dict(sorted((int(path.name), path) for path in paths if any((path / part).exists() for part in _PARTS)))


def check_step(folder: Path, step: int) -> None:
    """Checks that there is a checkpoint of a step in a folder, which may not exist.

    Raises:
      CheckpointError: there is none.
    """
    steps = [*find_steps(folder)]
    if step not in steps:
        raise CheckpointError(f"There is no checkpoint of step {step} in {folder}; available: {steps or 'none'}.")


def _remove(path: Path) -> None:
    """Removes a checkpoint, which vanishes at once."""
    aside = path.with_name(_REMOVED)
    remove(aside)
    path.rename(aside)
    remove(aside)


def _damaged(folder: Path, step: int, error: Exception) -> CheckpointError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    earlier = [other for other in find_steps(folder) if other < step]
    way_out = f"--resume-step {earlier[-1]} resumes from the previous one" if earlier else "there is no earlier one"
    return CheckpointError(
        f"The checkpoint of step {step} in {folder} is damaged: {reason}. It is not used; {way_out}, and --fresh "
        "starts a new run."
    )


@contextmanager
def _translate_errors(folder: Path) -> Iterator[None]:
    """Turns an error of the system into one that says what to do."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"A checkpoint cannot be written to {folder}: {error.strerror or error}. Complete checkpoints are intact; "
            "free disk space or make the folder writable, then run the same command to resume from the last one."
        ) from error
