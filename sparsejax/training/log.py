"""Outputs of a run: metrics.jsonl, TensorBoard events, and the terminal."""

import json
import time
import warnings
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from sparsejax.errors import SparsejaxWarning
from sparsejax.files import find_lacking
from sparsejax.terminal import console_width, encodable
from sparsejax.training.records import parse_line, reading, width_of
from sparsejax.training.run_folder import finite


class MetricsLog:
    """Appends one JSON object per line to a file, and writes its numbers to TensorBoard.

    On resuming, lines after the restored step are removed first, because those steps are repeated. A quiet log writes
    nothing, and TensorBoard's writer needs a file system with fsync.
    """

    def __init__(self, path: Path, tensorboard: Path, *, resumed_step: int, quiet: bool = False):
        self._file, self._writer = None, None
        if quiet:
            return
        kept = [line for line in read_metrics(path) if line["step"] <= resumed_step] if resumed_step else []
        self._file = path.open("w", encoding="utf-8", buffering=1)
        for line in kept:
            self._file.write(json.dumps(line) + "\n")
        if "fsync" in find_lacking(path.parent):
            no_events = f"The file system of {path} has no fsync: no events for TensorBoard are written."
            warnings.warn(no_events, SparsejaxWarning, stacklevel=2)
            return
        from tensorboardX import SummaryWriter  # here, because the import is slow

        self._writer = SummaryWriter(str(tensorboard), purge_step=resumed_step + 1 if resumed_step else None)

    def write(self, step: int, epoch: float, values: dict[str, Any]) -> None:
        """Appends a line; a value is a number, or a list with one number per network."""
        if self._file is None:
            return
        line = finite({"step": step, "epoch": epoch, "time": time.time(), **values})
        self._file.write(json.dumps(line, allow_nan=False) + "\n")
        if self._writer is None:
            return
        for name, value in values.items():
            mean = sum(value) / len(value) if isinstance(value, list) else value
            self._writer.add_scalar(name, mean, step)

    def close(self) -> None:
        """Flushes and closes the files."""
        if self._file is not None:
            self._file.close()
        if self._writer is not None:
            self._writer.close()


def read_metrics(path: Path, members: int | None = None) -> list[dict[str, Any]]:
    """Returns the lines of a metrics file up to the first damaged one; a kill may truncate the last one.

    Lines of another number of networks are left out, of an earlier run in the folder.

    Args:
      path: of the file, which may not exist.
      members: the number of networks; by default that of the last line.

    Raises:
      RunFolderError: it cannot be read.
    """
    lines = []
    with reading(path):
        texts = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    for text in texts:
        try:
            lines.append(parse_line(text))
        except ValueError:
            break
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
