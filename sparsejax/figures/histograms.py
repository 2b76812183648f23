"""Histograms of activations and weights."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter
from numpy.typing import ArrayLike

from sparsejax.figures import style


class Histogram(NamedTuple):
    """Counts `[bins]` between edges `[bins + 1]`, the label of the axis, and a title."""

    counts: ArrayLike
    edges: ArrayLike
    label: str = ""
    title: str = ""


@style.styled
def histograms(
    panels: Mapping[str, Histogram],
    *,
    columns: int,
    height: float = 1.35,
    log_x: bool = False,
    log_y: bool = False,
    shared: bool = False,
    width: style.Width = "page",
) -> Figure:
    """Draws a panel for each histogram, with the percentage of counts in each bin.

    Args:
      panels: name, written before the histogram's title -> histogram; one without counts stays empty.
      columns: panels side by side, at most.
      height: of a panel, in inches.
      log_x, log_y: logarithmic axes.
      shared: share the ranges of both axes, with numbers only at the margins.
      width: of the figure.

    Raises:
      ValueError: there is no panel, or one whose edges do not fit its counts.
    """
    if not panels:
        raise ValueError("panels is empty; expected at least one histogram.")
    columns = min(columns, len(panels)) if width == "page" else min(columns, 2, len(panels))
    figure, axes = style.panels(len(panels), width=width, height=height, columns=columns)
    tops, lows, highs = [], [], []
    for i, ((name, histogram), panel) in enumerate(zip(panels.items(), axes, strict=True)):
        counts, edges = np.asarray(histogram.counts, float), np.asarray(histogram.edges, float)
        if len(edges) != len(counts) + 1:
            raise ValueError(f"{name} has {len(counts)} counts and {len(edges)} edges; expected one edge more.")
        shares = 100 * counts / max(counts.sum(), 1)
        panel.stairs(shares, edges, fill=True, color=style.SKY, linewidth=0)
        panel.stairs(shares, edges, color=style.BLUE, linewidth=0.6)
        tops.append(shares.max())
        lows.append(edges[0])
        highs.append(edges[-1])
        if log_x:
            panel.set_xscale("log")
            panel.xaxis.set_minor_formatter(NullFormatter())
        panel.set_title(f"{name}{': ' if histogram.title else ''}{histogram.title}", fontsize=7)
        bottom_row = i + columns >= len(panels)
        if bottom_row:
            panel.set_xlabel(histogram.label)
        if shared:
            panel.tick_params(labelbottom=bottom_row, labelleft=i % columns == 0)
        if not log_x:
            panel.xaxis.set_major_locator(MaxNLocator(nbins=4))
    for panel, top in zip(axes, tops, strict=True):
        high = max(tops) if shared else top
        panel.set_ylim(0.01 if log_y else 0, (2 if log_y else 1.08) * (high if high > 0 else 1.0))
        if log_y:
            panel.set_yscale("log")
        panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %"))
        if shared:
            panel.set_xlim(min(lows), max(highs))
    return figure
