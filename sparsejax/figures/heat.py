"""Quantities over a grid of two hyperparameters, as heat maps with the numbers written in."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from sparsejax.figures import style


@style.styled
def heat_maps(
    quantities: Mapping[str, np.ndarray],
    *,
    rows: Sequence[float],
    columns: Sequence[float],
    panels: Sequence[float],
    labels: tuple[str, str, str],
    forms: Sequence[str],
    width: style.Width = "page",
) -> Figure:
    """Draws a row of heat maps for each quantity, one map for each value of a third hyperparameter.

    The maps of a row share one colour scale, from dark for the smallest to light for the largest value.

    Args:
      quantities: name -> `[panels, rows, columns]`.
      rows: values of the hyperparameter down the maps.
      columns: values of the hyperparameter across the maps.
      panels: values of the third.
      labels: names of the three, as of rows, columns and panels.
      forms: number format of each quantity, e.g. ".1f".
      width: of the figure.

    Raises:
      ValueError: a quantity has another shape.
    """
    shape = (len(panels), len(rows), len(columns))
    figure, axes = style.panels(
        len(quantities) * len(panels), width=width, height=0.45 + 0.33 * len(rows), columns=len(panels)
    )
    colours = colormaps["viridis"]
    for i, ((name, values), form) in enumerate(zip(quantities.items(), forms, strict=True)):
        values = np.asarray(values, float)
        if values.shape != shape:
            raise ValueError(f"{name} has shape {values.shape}; expected {shape}, panels by rows by columns.")
        low, high = np.nanmin(values), np.nanmax(values)
        for j, at in enumerate(panels):
            panel = axes[i * len(panels) + j]
            shade = (values[j] - low) / (high - low) if high > low else np.full(shape[1:], 0.5)
            panel.imshow(shade, cmap=colours, vmin=0, vmax=1, aspect="auto")
            for row, column in np.ndindex(shape[1:]):
                ink = "white" if shade[row, column] < 0.6 else style.INK
                panel.text(column, row, f"{values[j, row, column]:{form}}", ha="center", va="center", color=ink,
                           fontsize=7)  # fmt: skip
            panel.set_xticks(range(len(columns)), [f"{value:g}" for value in columns])
            panel.set_yticks(range(len(rows)), [f"{value:g}" for value in rows])
            panel.tick_params(length=0)
            panel.spines[["left", "bottom"]].set_visible(False)
            panel.set_title(f"{name}, {labels[2]} {at:g}")
            if i == len(quantities) - 1:
                panel.set_xlabel(labels[1])
            if j == 0:
                panel.set_ylabel(labels[0])
    return figure
