"""The parts of a report: figures, numbers and tables, and common phrases of captions."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from sparsejax.figures.words import number
from sparsejax.training.run_folder import RunFolder


class Shown(NamedTuple):
    """A run to draw: its `result.json`, the variables of all networks, its folder, and the networks' labels."""

    result: Mapping[str, Any]
    variables: Any
    folder: RunFolder
    groups: Sequence[str]


class Drawing(NamedTuple):
    """A figure that can be drawn at either width, with its title and captions."""

    file: str
    title: str
    caption: str
    alt: str
    draw: Callable[[Any], Any]
    width: Any = "page"


class Row(NamedTuple):
    """A number of every network, under `key` in `result.json`, for the tables of the report.

    `form(value)` and `form(mean, deviation)` format it; with `at_best` the report also shows it after the best epoch.
    """

    key: str
    label: str
    form: Callable[..., str] = number
    note: str = ""
    at_best: bool = False


class Column(NamedTuple):
    """A column of the table of layers: `cell(layer)` formats a cell, `said` explains the column below the table."""

    label: str
    cell: Callable[[Mapping[str, Any]], str]
    said: str = ""


class Table(NamedTuple):
    """An additional table, with text in the first column and numbers in the others; `said` explains it."""

    title: str
    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    said: str = ""


class Part:
    """The base of a measure for the report: its numbers, columns, tables and figures."""

    def rows(self, result: Mapping[str, Any]) -> list[Row]:
        """Return the numbers of a network that the report shows at its top and in its tables."""
        return []

    def columns(self, result: Mapping[str, Any]) -> list[Column]:
        """Return columns of the report's table of layers."""
        return []

    def tables(self, result: Mapping[str, Any]) -> list[Table]:
        """Return additional tables of the report."""
        return []

    def figures(self, run: Shown) -> Iterable[Drawing | None]:
        """Return figures of a run; None for a figure without data."""
        return []


def average_note(result: Mapping[str, Any]) -> str:
    """Returns the part of a caption that marks a number as a mean, if there are several networks."""
    return f", on average over {len(result['members'])} networks" if len(result["members"]) > 1 else ""


def range_note(result: Mapping[str, Any]) -> str:
    """Returns the explanation of lines and bands, if there are several networks."""
    if len(result["members"]) == 1:
        return ""
    return " Thick lines are the median over networks, bands their range."
