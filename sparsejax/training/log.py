"""Outputs of a run: metrics.jsonl, TensorBoard events, and the terminal."""

import contextlib
import json
import os
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from sparsejax.errors import RunFolderError, SparsejaxWarning
from sparsejax.files import is_supported, write_whole
from sparsejax.terminal import console_width, encodable
from sparsejax.training.events import Events
from sparsejax.training.records import parse_line, read_lines, reading, width_of
from sparsejax.training.run_folder import finite


class MetricsLog:
    """Appends one JSON object per line to a file, and writes its numbers to TensorBoard.

    On resuming, lines after the restored step are removed first, because those steps are repeated. A quiet log writes
    nothing.

    Raises:
      RunFolderError: of all methods, the file cannot be written. Events for TensorBoard then end with a warning.
    """

    def __init__(self, path: Path, tensorboard: Path, *, resumed_step: int, quiet: bool = False):
        self._file, self._events = None, None
        if quiet:
            return
        kept = [line for line in read_metrics(path) if line["step"] <= resumed_step] if resumed_step else []
        write_whole(path, "".join(json.dumps(line) + "\n" for line in kept).encode())
        with _refuse(path):
            self._file = path.open("a", encoding="utf-8", buffering=1)
        self._events = Events(tensorboard, resumed_step=resumed_step)

    def write(self, step: int, epoch: float, values: dict[str, Any]) -> None:
        """Appends a line; a value is a number, or a list with one number per network."""
        if self._file is None or self._events is None:
            return
        line = finite({"step": step, "epoch": epoch, "time": time.time(), **values})
        with _refuse(Path(self._file.name)):
            self._file.write(json.dumps(line, allow_nan=False) + "\n")
        self._events.write(step, values)

    def sync(self) -> None:
        """Returns when all lines are on disk."""
        if self._file is None or self._events is None:
            return
        with _refuse(path := Path(self._file.name)):
            is_supported(os.fsync, self._file.fileno())
        if not path.exists():  # else checkpoints and results would be written to a new folder of the old name
            raise RunFolderError(
                f"{path} no longer exists: the run folder was moved or deleted. Resume it where it is now, with --out."
            )
        self._events.sync()

    def close(self) -> None:
        """Closes the files."""
        if self._file is None or self._events is None:
            return
        self._events.close()
        with contextlib.suppress(OSError):  # every line was written before
            self._file.close()


@contextlib.contextmanager
def _refuse(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunFolderError(
            f"{path} cannot be written: {error.strerror or error}. Complete checkpoints are intact; free disk space or "
            "make the folder writable, then run the same command to resume from the last one."
        ) from None


def read_metrics(path: Path, members: int | None = None) -> list[dict[str, Any]]:
    """Returns the lines of a metrics file; warns of damaged ones, except for the last one: a kill may truncate it.

    Lines of another number of networks are left out, of an earlier run in the folder.

    Args:
      path: of the file, which may not exist.
      members: the number of networks; by default that of the last line.

    Raises:
      RunFolderError: it cannot be read.
    """
    lines, damaged, number = [], [], 0
    with reading(path):
        for number, text in enumerate(read_lines(path) if path.exists() else (), 1):
            try:
                lines.append(parse_line(text))
            except ValueError:
                damaged.append(number)
    if damaged and damaged[-1] == number:
        damaged.pop()
    if damaged:
        where = f"line{'s' if len(damaged) > 1 else ''} {', '.join(map(str, damaged[:5]))}"
        more = f" and {len(damaged) - 5} more" if len(damaged) > 5 else ""
        warnings.warn(f"{path} is damaged in {where}{more}; the others are used.", SparsejaxWarning, stacklevel=2)
    widths = [width_of(line) for line in lines]
    wanted = members or next((width for width in reversed(widths) if width is not None), None)
    return [line for line, width in zip(lines, widths, strict=True) if width in (None, wanted)]


class Terminal:
    """Shows the progress of a run: a bar on a terminal, otherwise one line per epoch; nothing if quiet."""

    def __init__(self, total_examples: int, done_examples: int, *, quiet: bool = False):
        self._console = Console(soft_wrap=True, highlight=False, quiet=quiet, width=console_width())
        self._progress: Progress | None = None
        self._done, self._total = done_examples, total_examples
        self._rate = 0.0
        self.restart_clock()
        if self._console.is_terminal and not quiet:
            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[rate]}"),
                       TimeRemainingColumn(elapsed_when_finished=True))  # fmt: skip
            self._progress = Progress(*columns, console=self._console)
            self._task = self._progress.add_task("training", total=total_examples, completed=done_examples, rate="")
            self._progress.start()

    def say(self, text: str) -> None:
        """Prints a line."""
        self._console.print(encodable(text, self._console.encoding), markup=False)

    def advance(self, examples: int, description: str) -> None:
        """Adds a number of processed examples."""
        self._done += examples
        self._since += examples
        self._rate = self._since / max(time.perf_counter() - self._clock, 1e-9)
        if self._progress is not None:
            self._progress.update(
                self._task, completed=self._done, description=description, rate=f"{self._rate:,.0f} examples/s"
            )

    def restart_clock(self) -> None:
        """Restarts the measurement of examples per second, excluding the time since the last training step."""
        self._clock, self._since = time.perf_counter(), 0

    @property
    def pace(self) -> str:
        """Returns the speed and the remaining time as text."""
        left = (self._total - self._done) / self._rate if self._rate else 0
        return f"{self._rate:,.0f} examples/s, {left:.0f} s left"

    def close(self) -> None:
        """Stops the progress bar."""
        if self._progress is not None:
            self._progress.stop()
