"""A quantity of every block of several networks."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from sparsejax.figures import style


@style.styled
def by_block(
    blocks: Sequence[str],
    networks: Mapping[str, ArrayLike],
    *,
    label: str,
    axis: str = "block",
    width: style.Width = "column",
) -> Figure:
    """Draws a bar per block and network, and the range over seeds where there are several.

    Args:
      blocks: names, starting at the input.
      networks: name -> `[seeds, blocks]`, at most seven.
      label: of the quantity.
      axis: label of the names.
      width: of the figure.

    Raises:
      ValueError: a network has another number of blocks.
    """
    figure, (axes,) = style.panels(1, width=width, height=2.4, columns=1)
    places, thick = np.arange(len(blocks)), 0.8 / len(networks)
    for i, (name, values) in enumerate(networks.items()):
        rows = np.atleast_2d(np.asarray(values, float))
        if rows.shape[1] != len(blocks):
            raise ValueError(f"{name} has values of shape {rows.shape}; expected [seeds, {len(blocks)}].")
        mean = rows.mean(0)
        reach = np.stack([mean - rows.min(0), rows.max(0) - mean]) if len(rows) > 1 else None
        axes.bar(places + (i - (len(networks) - 1) / 2) * thick, mean, thick * 0.92, yerr=reach,
                 color=style.PALETTE[i], label=name, error_kw={"linewidth": 0.7})  # fmt: skip
    axes.set_xticks(places, blocks)
    axes.tick_params(axis="x", length=0)
    axes.set_xlabel(axis)
    axes.set_ylabel(label)
    style.grid(axes)
    axes.set_axisbelow(True)
    style.group_legend(figure, axes, width=width)
    return figure
