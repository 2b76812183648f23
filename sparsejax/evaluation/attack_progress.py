"""Progress of a robustness report on a terminal."""

from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from sparsejax.terminal import console_width, encodable

Watch = Callable[[int, int, int], None]
"""`watch(done, total, standing)` is told after each batch how many images are attacked, of all, and still stand."""


class AttackProgress:
    """Shows one bar for the current attack on a terminal, otherwise nothing; it leaves no trace at the end."""

    def __init__(self):
        console = Console(soft_wrap=True, highlight=False, width=console_width())
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.fields[state]}"),
                   TimeElapsedColumn())  # fmt: skip
        self._encoding = console.encoding
        self._progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._progress.add_task("attacks", total=None, state="")

    def __enter__(self) -> "AttackProgress":
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self._progress.stop()

    def of(self, attack: str, norm: str, epsilon: float) -> Watch:
        """Returns what shows the progress of an attack within a radius."""
        name = encodable(f"{attack} {norm} {epsilon:.4g}", self._encoding)

        def watch(done: int, total: int, standing: int) -> None:
            state = f"{done} of {total} images, {standing} stand"
            self._progress.update(self._task, completed=done, total=total, description=name, state=state)

        return watch
