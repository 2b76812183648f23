"""Accuracy against the level of noise."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from sparsejax.figures import style


@style.styled
def noise_curve(
    levels: ArrayLike,
    accuracy: ArrayLike,
    *,
    scores: ArrayLike | None = None,
    groups: Sequence[str] | None = None,
    references: Mapping[str, tuple[ArrayLike, ArrayLike]] | None = None,
    label: str = "pixels replaced by noise (%)",
    width: style.Width = "column",
) -> Figure:
    """Draws test accuracy against the noise in the inputs.

    Several networks appear as median and range; those of one group share a colour.

    Args:
      levels: from 0 to 1, such as fractions of pixels replaced, `[levels]`.
      accuracy: from 0 to 1, `[networks, levels]`, or `[levels]` for one network.
      scores: noise score of each network, `[networks]`, for the legend.
      groups: a label per network, at most seven different ones; None for one group.
      references: name -> (levels, accuracies) of points to compare with, such as a paper's.
      label: of the x axis.
      width: of the figure.

    Raises:
      ValueError: the shapes do not fit each other.
    """
    levels, accuracy = np.asarray(levels, float), np.atleast_2d(np.asarray(accuracy, float))
    if levels.ndim != 1 or accuracy.ndim != 2 or accuracy.shape[1] != len(levels):
        raise ValueError(
            f"levels has shape {levels.shape} and accuracy {accuracy.shape}; expected [levels] and [networks, levels]."
        )
    if scores is not None:
        scores = np.atleast_1d(np.asarray(scores, float))
        if scores.shape != accuracy.shape[:1]:
            raise ValueError(f"scores has shape {scores.shape}; expected one for each of {len(accuracy)} networks.")
    figure, (axes,) = style.panels(1, width=width, height=2.4, columns=1)
    members = style.networks_by_group(groups, len(accuracy))
    for i, (name, rows) in enumerate(members.items()):
        style.spread(axes, 100 * levels, 100 * accuracy[rows].T, color=style.PALETTE[i],
                     label=_label(name, rows, scores), marker=style.MARKERS[i])  # fmt: skip
    for i, (name, (at, reached)) in enumerate((references or {}).items()):
        axes.plot(100 * np.asarray(at, float), 100 * np.asarray(reached, float), linestyle="", color=style.INK,
                  marker=("x", "+", "1", "2")[i % 4], markersize=5, label=name)  # fmt: skip
    axes.set_xlabel(label)
    axes.set_ylabel("test accuracy (%)")
    axes.set_xlim(100 * levels.min() - 1, 100 * levels.max() + 1)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=7, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, steps=[1, 2, 5, 10]))
    axes.set_ylim(top=min(axes.get_ylim()[1], 100.8))
    if len(members) > 1:
        style.group_legend(figure, axes, width=width, title=None if scores is None else "noise score")
    else:
        axes.legend(loc="lower left")
    style.grid(axes)
    return figure


def _label(name: str, rows: np.ndarray, scores: np.ndarray | None) -> str:
    many = len(rows) > 1
    if scores is None:
        return name or (f"median and range of {len(rows)} networks" if many else "test accuracy")
    score = f"{scores[rows].mean():,.0f}" + (f" ± {scores[rows].std():,.0f}" if many else "")
    if name:
        return f"{name}: {score}"
    return (f"median and range of {len(rows)} networks\n" if many else "") + f"noise score {score}"
