"""The house style of all figures: restrained, legible in print, safe for colour-blind readers."""

import functools
import io
from collections.abc import Callable, Sequence
from typing import Any, Literal, ParamSpec

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

Width = Literal["column", "page"]
Line = str | tuple[float, tuple[float, ...]]
WIDTHS: dict[Width, float] = {"column": 3.3, "page": 6.8}
"""Inches: one column of a two-column paper, and both."""

DPI = 200

BLUE, ORANGE, GREEN, VERMILION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PINK, SKY, BLACK = "#CC79A7", "#56B4E9", "#000000"
PALETTE = (BLUE, VERMILION, GREEN, ORANGE, PINK, SKY, BLACK)
"""Okabe & Ito's colours without yellow, which is too light for lines on white."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GREY = "#767676"
PALE = "#D9D9D9"
INK = "#222222"

_SIZES = {"labelsize": 7.0, "major.width": 0.6, "minor.width": 0.4, "major.size": 3.0, "minor.size": 1.8}
# Settings other than matplotlib's defaults.
RC: dict[Any, Any] = {
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib: the same font on every machine
    "font.size": 8.0,
    "axes.titlesize": 8.0,
    "axes.titlelocation": "left",
    "axes.titlepad": 5.0,
    "axes.labelpad": 3.0,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    **{f"{axis}.{name}": size for axis in ("xtick", "ytick") for name, size in _SIZES.items()},
    "lines.linewidth": 1.3,
    "lines.markersize": 3.5,
    "legend.fontsize": 7.0,
    "legend.frameon": False,
    "legend.handlelength": 1.6,
    "legend.borderaxespad": 0.4,
    **dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color"), INK
    ),
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.5,
    "figure.constrained_layout.h_pad": 0.04,
    "figure.constrained_layout.w_pad": 0.04,
}

_Arguments = ParamSpec("_Arguments")


def styled(draw: Callable[_Arguments, Figure]) -> Callable[_Arguments, Figure]:
    """Decorates a function to draw its figure in the house style, independent of the caller's style."""

    @functools.wraps(draw)
    def drawn(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> Figure:
        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            matplotlib.rcParams.update(RC)
            figure = draw(*args, **kwargs)
            figure.draw_without_rendering()  # ticks take their style when first drawn
            figure.set_layout_engine("none")  # further draws would shift the layout slightly
        return figure

    return drawn


def panels(count: int, *, width: Width, height: float | Sequence[float], columns: int) -> tuple[Figure, list[Axes]]:
    """Returns a figure of `count` panels, at most `columns` per row, `height` inches high, or one height per row."""
    columns = min(columns, count)
    rows = -(-count // columns)
    heights = [height] * rows if isinstance(height, (int, float)) else list(height)
    figure = Figure(figsize=(WIDTHS[width], sum(heights)), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, height_ratios=heights).ravel().tolist()
    for unused in axes[count:]:
        unused.remove()
    return figure, axes[:count]


def png(figure: Figure) -> bytes:
    """Renders a figure to PNG without date and version, so that the same figure gives the same bytes."""
    buffer = io.BytesIO()
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(RC)
        figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


def grid(axes: Axes, axis: Literal["x", "y", "both"] = "y") -> None:
    """Draws faint grid lines."""
    axes.grid(axis=axis)


def spread(
    axes: Axes,
    x: np.ndarray,
    y: np.ndarray,
    *,
    color: str,
    label: str,
    line: Line = "-",
    marker: str = "",
    median_only: bool = False,
) -> None:
    """Draws networks as the line of their median and the band between their extremes.

    Up to ten networks are also drawn as thin lines. NaN values are ignored.

    Args:
      axes: to draw into.
      x: `[points]`.
      y: `[points, networks]`.
      color: of lines and band.
      label: in the legend.
      line: style of the median.
      marker: of the median's points.
      median_only: omit band and thin lines.
    """
    some = np.isfinite(y).any(axis=1)
    x, y = x[some], y[some]
    if not len(x):
        return
    networks = y.shape[1]
    if networks > 1 and not median_only:
        axes.fill_between(x, np.nanmin(y, axis=1), np.nanmax(y, axis=1), color=color, alpha=0.15, linewidth=0)
    if 1 < networks <= 10 and not median_only:
        axes.plot(x, y, color=color, alpha=0.45, linewidth=0.5, linestyle=line)
    if not marker and len(x) == 1:
        marker = "o"
    axes.plot(x, np.nanmedian(y, axis=1), color=color, linestyle=line, marker=marker, label=label or "_")


def group_legend(figure: Figure, axes: Axes, *, width: Width, title: str | None = None) -> None:
    """Puts the legend of several groups below the figure, in as many columns as fit."""
    handles, labels = axes.get_legend_handles_labels()
    letters = {"column": 48, "page": 105}[width]
    columns = max(1, min(len(labels), letters // (max(map(len, labels)) + 6)))
    rows = -(-len(labels) // columns)
    columns = -(-len(labels) // rows)
    figure.set_figheight(figure.get_figheight() + 0.15 * (rows + (title is not None)))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, title=title, title_fontsize=7)


def networks_by_group(groups: Sequence[str] | None, networks: int) -> dict[str, np.ndarray]:
    """Returns the indices of the networks of each label, in order; one group of all if there are too many labels.

    Raises:
      ValueError: there is not one label per network.
    """
    if groups is None:
        return {"": np.arange(networks)}
    if len(groups) != networks:
        raise ValueError(f"groups has {len(groups)} labels, but there are {networks} networks; pass one per network.")
    names = list(dict.fromkeys(groups))
    if not 1 < len(names) <= len(PALETTE):
        return {"": np.arange(networks)}
    labels = np.asarray(groups)
    return {name: np.flatnonzero(labels == name) for name in names}
