"""Many measures of a few networks: a table whose cells are shaded from the worst to the best of their column."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Literal, NamedTuple

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from sparsejax.figures import style

_SHADES = LinearSegmentedColormap.from_list("shades", ["#FFFFFF", "#8FC1E3"])
_ROW, _HEAD, _TITLE = 0.2, 0.52, 0.3
"""Heights in inches: a row, two header lines with the group above them, the name of a board."""
_NAMES = 0.85
"""Width in inches of the row names."""


class Column(NamedTuple):
    """A measure: its group, its name (which may contain a line break), its number format, and whether more or less is
    better (None for neither: the column is not shaded).
    """

    group: str
    name: str
    form: str
    better: Literal["more", "less"] | None


@style.styled
def scoreboard(
    boards: Mapping[str, Mapping[str, Sequence[float]]], columns: Sequence[Column], *, width: style.Width = "page"
) -> Figure:
    """Draws boards below each other; in each column the best is bold and has the darkest shade.

    Args:
      boards: title, with a remark after a line break -> row -> a number for each column, NaN for missing ones.
      columns: the measures.
      width: of the figure.

    Raises:
      ValueError: a row has another number of columns.
    """
    heights = [_TITLE + _HEAD + _ROW * len(rows) + 0.12 for rows in boards.values()]
    total, across = sum(heights), style.WIDTHS[width]
    figure = Figure(figsize=(across, total), dpi=style.DPI)
    style.FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    axes.set_xlim(0, across)
    axes.set_ylim(total, 0)
    step = (across - _NAMES - 0.1) / len(columns)
    left = [_NAMES + i * step for i in range(len(columns))]
    top = 0.0
    for (title, rows), height in zip(boards.items(), heights, strict=True):
        values = np.asarray([_check_row(name, row, columns) for name, row in rows.items()], float)
        ranks = np.stack([_rank(values[:, i], column.better) for i, column in enumerate(columns)], axis=1)
        title, _, remark = title.partition("\n")
        axes.text(0.06, top + _TITLE - 0.08, title, fontweight="bold", fontsize=8)
        axes.text(across - 0.06, top + _TITLE - 0.08, remark, ha="right", fontsize=6.5, color=style.GREY)
        start = top + _TITLE
        for group, members in groupby(range(len(columns)), lambda i: columns[i].group):
            places = list(members)
            low, high = left[places[0]] + 0.04, left[places[-1]] + step - 0.04
            axes.text((low + high) / 2, start + 0.1, group, ha="center", fontsize=6.5, color=style.GREY)
            axes.plot([low, high], [start + 0.16] * 2, color=style.PALE, linewidth=0.7)
        first = start + _HEAD
        for i, column in enumerate(columns):
            axes.text(left[i] + step / 2, first - 0.06, column.name, ha="center", va="bottom", fontsize=6,
                      linespacing=1.05)  # fmt: skip
        for j, name in enumerate(rows):
            middle = first + (j + 0.5) * _ROW
            axes.text(0.06, middle, name, va="center", fontsize=7)
            for i, column in enumerate(columns):
                rank, value = ranks[j, i], values[j, i]
                if np.isfinite(rank):
                    box = Rectangle((left[i], first + j * _ROW), step, _ROW, color=_SHADES(rank), linewidth=0)
                    axes.add_patch(box)
                text = f"{value:{column.form}}" if np.isfinite(value) else "–"
                axes.text(left[i] + step / 2, middle, text, ha="center", va="center", fontsize=6,
                          fontweight="bold" if rank == 1 else "normal")  # fmt: skip
        for y, thick in ((first, 0.6), (first + len(rows) * _ROW, 0.9)):
            axes.plot([0.06, across - 0.06], [y, y], color=style.INK, linewidth=thick)
        top += height
    return figure


def _check_row(name: str, row: Sequence[float], columns: Sequence[Column]) -> Sequence[float]:
    if len(row) != len(columns):
        raise ValueError(f"{name} has {len(row)} numbers, but there are {len(columns)} columns.")
    return row


def _rank(values: np.ndarray, better: str | None) -> np.ndarray:
    """Returns the position of each between the worst, 0, and the best, 1; NaN if undefined."""
    if better is None or np.isfinite(values).sum() < 2 or np.nanmin(values) == np.nanmax(values):
        return np.full(values.shape, np.nan)
    low, high = np.nanmin(values), np.nanmax(values)
    share = (values - low) / (high - low)
    return share if better == "more" else 1 - share
