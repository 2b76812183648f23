"""Confusion matrices."""

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from sparsejax.figures import style

_SHADES = LinearSegmentedColormap.from_list("paper_to_blue", ["#FFFFFF", "#CFE3F1", style.SKY, style.BLUE, "#053B6B"])
_NAMED = 12  # largest number of classes with a number in every cell


@style.styled
def confusion_map(confusion: ArrayLike, *, width: style.Width = "column") -> Figure:
    """Draws a confusion matrix: each row a class, shaded and labelled by the percentage predicted as each class.

    The shade follows the square root, so that rare errors are visible.

    Args:
      confusion: counts `[classes, classes]`, rows are labels, columns predictions.
      width: of the figure.

    Raises:
      ValueError: it is not square.
    """
    counts = np.asarray(confusion, float)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or not counts.size:
        raise ValueError(f"confusion has shape {counts.shape}; expected [classes, classes].")
    classes, inches = len(counts), {"column": 2.9, "page": 4.6}[width]
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    figure, (axes,) = style.panels(1, width=width, height=inches, columns=1)
    axes.imshow(np.sqrt(shares), cmap=_SHADES, vmin=0, vmax=1)
    if classes <= _NAMED:
        for row, column in np.argwhere(shares >= 0.005):
            share = shares[row, column]
            axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=6.5,
                      color="white" if share > 0.3 else style.INK)  # fmt: skip
    places = range(0, classes, 1 if classes <= _NAMED else 5)
    axes.set_xticks(places)
    axes.set_yticks(places)
    axes.tick_params(length=0)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.set_xlabel("taken for")
    axes.set_ylabel("class")
    axes.set_title("per cent of each class")
    return figure
