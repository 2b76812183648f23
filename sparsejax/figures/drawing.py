"""What a page shows of a run: figures, numbers and tables, and the words their captions share."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from sparsejax.figures.words import number
from sparsejax.training.run_folder import RunFolder


class Shown(NamedTuple):
    """A run that is drawn: its `result.json`, the variables of all networks, its folder, and what each is called."""

    result: Mapping[str, Any]
    variables: Any
    folder: RunFolder
    groups: Sequence[str]


class Drawing(NamedTuple):
    """A figure that can be drawn at either width, and what the page says of it."""

    file: str
    title: str
    caption: str
    alt: str
    draw: Callable[[Any], Any]
    width: Any = "page"


class Row(NamedTuple):
    """A number of every network, which `result.json` has under `key`, as the tables of the page show it.

    `form(value)` and `form(mean, deviation)` write it; with `at_best` the page also shows it after the best epoch.
    """

    key: str
    label: str
    form: Callable[..., str] = number
    note: str = ""
    at_best: bool = False


class Column(NamedTuple):
    """What the table of layers says of each: `cell(layer)` writes it, `said` explains it below the table."""

    label: str
    cell: Callable[[Mapping[str, Any]], str]
    said: str = ""


class Table(NamedTuple):
    """A table of its own, its first column text and the others numbers; `said` explains it."""

    title: str
    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    said: str = ""


class Part(Protocol):
    """What says which numbers, columns, tables and figures the page of a run has: a measure."""

    def rows(self, result: Mapping[str, Any]) -> Sequence[Row]:
        """Return numbers of every network."""
        ...

    def columns(self, result: Mapping[str, Any]) -> Sequence[Column]:
        """Return columns of the table of layers."""
        ...

    def tables(self, result: Mapping[str, Any]) -> Sequence[Table]:
        """Return tables."""
        ...

    def figures(self, run: Shown) -> Iterable[Drawing | None]:
        """Return figures."""
        ...


def on_average(result: Mapping[str, Any]) -> str:
    """Says of a number in a caption that it is a mean, where there are several networks."""
    return f", on average over {len(result['members'])} networks" if len(result["members"]) > 1 else ""


def what_is_drawn(result: Mapping[str, Any]) -> str:
    """Explains lines and bands where there are several networks."""
    if len(result["members"]) == 1:
        return ""
    return " Thick lines are the median over networks, bands their range."
