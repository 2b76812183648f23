"""The parts of a report: figures, numbers and tables, and common phrases of captions."""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Real
from typing import Any, Literal, NamedTuple

from sparsejax.errors import ConfigError, blame
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


_KINDS = {"rows": Row, "columns": Column, "tables": Table, "figures": Drawing}


def parts_of(measures: Iterable[Part], method: Literal["rows", "columns", "tables", "figures"], run: Any) -> list[Any]:
    """Return what a method of the measures gives for the report; a measure may return a list, one part or None.

    Args:
      measures: in the order of the report.
      method: of `Part`.
      run: its argument.

    Raises:
      ConfigError: a measure raises an exception, now or when a part is drawn or formatted, or returns something else,
        or a row names no number of the networks.
    """
    return [part for measure in measures for part in _parts_of(measure, method, run)]


def _parts_of(measure: Part, method: str, run: Any) -> list[Any]:
    kind, found = _KINDS[method], []
    code = f"`{method}` of the measure {getattr(measure, 'name', type(measure).__name__)!r}"
    with blame(code):
        made = getattr(measure, method)(run)
        made = [made] if isinstance(made, kind) else list(made or ())
    for part in (part for part in made if part is not None):
        if not isinstance(part, kind):
            raise ConfigError(f"{code} returned {part!r}; expected a list of {kind.__name__}.")
        if isinstance(part, Row):
            _check_row(part, run["members"], code)
        own = {name: _blamed(value, code) for name, value in part._asdict().items() if callable(value)}
        found.append(part._replace(**own))
    return found


def _check_row(row: Row, members: Sequence[Mapping[str, Any]], code: str) -> None:
    """Raise a ConfigError unless all networks have a number for a row, or null for one that is not finite."""
    for where, entry in ("", members[0]), (" after the best epoch", members[0].get("best") if row.at_best else None):
        value = entry.get(row.key, "nothing") if entry is not None else None
        if not (value is None or isinstance(value, Real)):
            hint = " Set `at_best = True` in the measure, or leave it out of the row." if where else ""
            raise ConfigError(
                f"{code} returned a row with the key {row.key!r}, for which the networks have {value!r}{where}; "
                f"expected the key of a number in `report`.{hint}"
            )


def _blamed(function: Callable[..., Any], code: str) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, **settings: Any) -> Any:
        with blame(code):
            return function(*args, **settings)

    return call


def average_note(result: Mapping[str, Any]) -> str:
    """Returns the part of a caption that marks a number as a mean, if there are several networks."""
    return f", on average over {len(result['members'])} networks" if len(result["members"]) > 1 else ""


def range_note(result: Mapping[str, Any]) -> str:
    """Returns the explanation of lines and bands, if there are several networks."""
    if len(result["members"]) == 1:
        return ""
    return " Thick lines are the median over networks, bands their range."
