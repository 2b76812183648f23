"""Match probabilities of random vectors: observed frequencies on predicted curves."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from sparsejax.figures import style


class Curve(NamedTuple):
    """Match probabilities along x: `predicted` `[points]`, `observed`, and the `paper`'s or None.

    NaN and 0 are omitted; a `dashed` curve is that of dense vectors.
    """

    predicted: np.ndarray
    observed: np.ndarray
    paper: np.ndarray | None = None
    dashed: bool = False


class Panel(NamedTuple):
    """Curves over one quantity."""

    label: str
    x: Sequence[float]
    curves: Mapping[str, Curve]


@style.styled
def match_curves(panels: Sequence[Panel], *, width: style.Width = "page") -> Figure:
    """Draws match probabilities on a logarithmic scale: lines predicted, dots observed, crosses the paper's.

    Args:
      panels: side by side; curves of one name share a colour.
      width: of the figure.
    """
    figure, all_axes = style.panels(len(panels), width=width, height=2.6, columns=len(panels))
    names = list(dict.fromkeys(name for panel in panels for name in panel.curves))
    for axes, panel in zip(all_axes, panels, strict=True):
        x = np.asarray(panel.x, float)
        for name, curve in panel.curves.items():
            color = style.PALETTE[names.index(name)]
            line = (0, (4, 2)) if curve.dashed else "-"
            axes.plot(x, _positive(curve.predicted), linestyle=line, color=color, linewidth=1.0, label=name)
            axes.plot(x, _positive(curve.observed), "o", color=color, markersize=3.2)
            if curve.paper is not None:
                axes.plot(x, _positive(curve.paper), "x", color=style.INK, markersize=4.5, markeredgewidth=0.8)
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(numticks=12))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_xlabel(panel.label)
        style.grid(axes)
    axes = all_axes[0]
    axes.set_ylabel("probability of a match")
    axes.plot([], [], "-", color=style.GREY, linewidth=1.0, label="predicted")
    axes.plot([], [], "o", color=style.GREY, markersize=3.2, label="observed")
    if any(curve.paper is not None for panel in panels for curve in panel.curves.values()):
        axes.plot([], [], "x", color=style.INK, markersize=4.5, markeredgewidth=0.8, label="paper")
    style.group_legend(figure, axes, width=width)
    return figure


def _positive(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, float)
    return np.where(values > 0, values, np.nan)
