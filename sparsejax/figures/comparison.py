"""Our numbers next to a paper's, row by row."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from sparsejax.figures import style


@style.styled
def paper_comparison(
    rows: Sequence[str],
    ours: Mapping[str, Sequence[Sequence[float]]],
    paper: Mapping[str, Sequence[tuple[float, float]]],
    *,
    width: style.Width = "page",
) -> Figure:
    """Draws a panel per measure: a dot for each of our networks, and the paper's mean with two standard deviations.

    Args:
      rows: names, from the top.
      ours: measure -> `[rows][networks]`.
      paper: measure -> `[rows]` of mean and standard deviation.
      width: of the figure.
    """
    figure, panels = style.panels(len(ours), width=width, height=0.6 + 0.24 * len(rows), columns=len(ours))
    places = np.arange(len(rows))[::-1]
    for axes, (measure, values) in zip(panels, ours.items(), strict=True):
        mean, spread = np.asarray(paper[measure], float).T
        axes.barh(places, 4 * spread, left=mean - 2 * spread, height=0.62, color=style.PALE, label="paper ± 2 s.d.")
        axes.plot(mean, places, "|", color=style.INK, markersize=9, label="paper")
        for i, (place, networks) in enumerate(zip(places, values, strict=True)):
            axes.plot(networks, [place] * len(networks), "o", color=style.BLUE, markersize=3, alpha=0.5,
                      markeredgewidth=0, label="our networks" if i == 0 else "_")  # fmt: skip
            axes.plot([np.mean(networks)], [place], "D", color=style.BLUE, markersize=4,
                      label="our mean" if i == 0 else "_")  # fmt: skip
        axes.set_yticks(places, list(rows) if axes is panels[0] else [""] * len(rows))
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(-0.7, len(rows) - 0.3)
        axes.set_xlabel(measure)
        style.grid(axes, "x")
    style.group_legend(figure, panels[0], width=width)
    return figure
