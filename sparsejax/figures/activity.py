"""Activity of hidden units: against noise, over training, and the distributions of their biases and keys."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator
from numpy.typing import ArrayLike

from sparsejax.figures import style
from sparsejax.figures.curves import log_scale
from sparsejax.figures.filters import mosaic


@style.styled
def activity_against_noise(
    sigmas: Sequence[float],
    values: Mapping[str, ArrayLike],
    paper: Mapping[str, Sequence[float]],
    *,
    label: str = "active units (%)",
    percent: bool = True,
    width: style.Width = "column",
) -> Figure:
    """Draws one line per variant against the noise level, and dashed grey lines for the paper.

    Args:
      sigmas: noise levels, equally spaced in the figure.
      values: variant -> `[levels, networks]`; fractions with `percent`.
      paper: variant -> `[levels]`, drawn where the variant is.
      label: of the y axis.
      percent: write fractions as per cent.
      width: of the figure.
    """
    figure, (axes,) = style.panels(1, width=width, height=2.5, columns=1)
    factor, places = (100 if percent else 1), np.arange(len(sigmas))
    for i, (name, points) in enumerate(values.items()):
        style.spread(axes, places, factor * np.asarray(points, float), color=style.PALETTE[i], label=name,
                     marker=style.MARKERS[i])  # fmt: skip
        if name in paper and len(paper[name]) == len(sigmas):
            axes.plot(places, factor * np.asarray(paper[name]), color=style.PALETTE[i], linestyle=(0, (2, 2)),
                      linewidth=0.8)  # fmt: skip
    if any(name in paper for name in values):
        axes.plot([], [], color=style.GREY, linestyle=(0, (2, 2)), linewidth=0.8, label="paper")
    axes.xaxis.set_major_locator(FixedLocator(places.tolist()))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(places, [f"{sigma:g}" for sigma in sigmas])
    axes.set_xlabel("noise σ")
    axes.set_ylabel(label)
    log_scale(axes)
    style.grid(axes)
    axes.legend()
    return figure


@style.styled
def along_training(
    epochs: ArrayLike,
    values: ArrayLike,
    sigmas: Sequence[float],
    label: str,
    *,
    percent: bool = False,
    marks: Sequence[float] = (),
    width: style.Width = "column",
) -> Figure:
    """Draws a quantity over training, one line per noise level, darker for more noise.

    Args:
      epochs: `[points]`.
      values: `[points, levels, networks]`.
      sigmas: noise levels.
      label: of the y axis.
      percent: values are fractions, to be written as per cent.
      marks: epochs to mark by a vertical line.
      width: of the figure.
    """
    figure, (axes,) = style.panels(1, width=width, height=2.5, columns=1)
    values = np.asarray(values, float) * (100 if percent else 1)
    for i, sigma in enumerate(sigmas):
        style.spread(axes, np.asarray(epochs, float), values[:, i], color=_shade(i, len(sigmas)), label=f"{sigma:g}")
    for mark in marks:
        axes.axvline(mark, color=style.GREY, linewidth=0.8)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.set_ylabel(label)
    axes.set_ylim(bottom=0)
    style.grid(axes)
    style.group_legend(figure, axes, width=width, title="noise σ")
    return figure


@style.styled
def unit_distributions(
    series: Mapping[str, tuple[np.ndarray, np.ndarray]],
    winners: np.ndarray,
    biases: np.ndarray,
    norms: np.ndarray,
    sigmas: Sequence[float],
) -> Figure:
    """Draws the final distributions of winners, biases and key norms, a row of histograms for each noise level.

    Args:
      series: name -> (epochs, `[epochs, levels, networks]`) of the means, written into the panels.
      winners: number of inputs for each number of active units, `[levels, networks, units + 1]`.
      biases: `[levels, networks, units]`.
      norms: of the keys, `[levels, networks, units]`.
      sigmas: noise levels.
    """
    figure, panels = style.panels(3 * len(sigmas), width="page", height=1.5, columns=3)
    units = winners.shape[-1] - 1
    limits = [(biases.min(), biases.max()), (0.0, norms.max())]
    for row, sigma in enumerate(sigmas):
        color = _shade(row, len(sigmas))
        first, *others = panels[3 * row : 3 * row + 3]
        counts = winners[row].sum(0)
        edges = np.linspace(0, 100, 51).tolist()
        first.hist(100 * np.arange(units + 1) / units, bins=edges, weights=counts / counts.sum(), color=color)
        first.set_title(f"σ = {sigma:g}:  {100 * series['active_fraction'][1][-1, row].mean():.1f} % of units")
        for axes, values, (low, high), name in zip(others, (biases, norms), limits, ("bias", "key norm"), strict=True):
            axes.hist(values[row].ravel(), bins=np.linspace(low, high, 51).tolist(), color=color)
            axes.set_yticks([])
            spread = values[row].std() / abs(values[row].mean())
            axes.set_title(f"spread / mean {spread:.2f}")
            if row == len(sigmas) - 1:
                axes.set_xlabel(name)
        first.set_yticks([])
        first.set_ylabel("inputs" if row == len(sigmas) // 2 else "")
    panels[3 * len(sigmas) - 3].set_xlabel("units active for an input (%)")
    return figure


def _shade(index: int, count: int) -> str:
    return to_hex(colormaps["viridis_r"](0.15 + 0.85 * index / max(1, count - 1)))


@style.styled
def image_grid(
    images: np.ndarray, labels: Sequence[str] | None, *, headings: Sequence[str] = (), width: style.Width = "page"
) -> Figure:
    """Draws rows of images close together.

    Args:
      images: `[rows, columns, height, width, channels]`, cut to [0, 1]; one channel is drawn in greys.
      labels: one per row, or None.
      headings: above as many equal parts of the columns.
      width: of the figure.
    """
    rows, columns, high, _, _ = images.shape
    canvas = mosaic(images.reshape(-1, *images.shape[2:]), columns)
    inches = style.WIDTHS[width] * canvas.shape[0] / canvas.shape[1]
    figure, (axes,) = style.panels(1, width=width, height=min(inches, 8.0), columns=1)
    axes.imshow(canvas, interpolation="nearest")
    axes.set_xticks([(part + 0.5) * canvas.shape[1] / len(headings) for part in range(len(headings))], headings)
    axes.xaxis.tick_top()
    axes.set_yticks([] if labels is None else [row * (high + 1) + high / 2 for row in range(rows)])
    if labels is not None:
        axes.set_yticklabels(labels)
    axes.tick_params(length=0)
    axes.spines[["left", "bottom"]].set_visible(False)
    return figure


@style.styled
def implicit_bars(
    sigmas: Sequence[float],
    terms: Mapping[str, Sequence[Sequence[float]]],
    drawn: Mapping[str, Sequence[float]],
    *,
    width: style.Width = "page",
) -> Figure:
    """Draws the three implicit terms as bars for each noise level, and their sum estimated by sampling noise as dots.

    Args:
      sigmas: noise levels.
      terms: panel -> `[levels][3]`.
      drawn: panel -> `[levels]`.
      width: of the figure.
    """
    figure, panels = style.panels(len(terms), width=width, height=2.4, columns=len(terms))
    places, names = np.arange(len(sigmas)), ("mean shift", "second moment", "co-fluctuation")
    for axes, (title, values) in zip(panels, terms.items(), strict=True):
        table = np.asarray(values, float)
        total = np.abs(table).sum(1, keepdims=True)
        for i, name in enumerate(names):
            axes.bar(places + 0.22 * (i - 1), (table / total)[:, i], 0.2, color=style.PALETTE[i], label=name)
        axes.plot(places, table.sum(1) / total[:, 0], "_", color=style.INK, markersize=16, label="sum")
        axes.plot(places, np.asarray(drawn[title]) / total[:, 0], "o", color=style.INK, label="sum, sampled noise")
        axes.axhline(0, color=style.INK, linewidth=0.6)
        axes.set_xticks(places, [f"{sigma:g}" for sigma in sigmas])
        axes.set_xlabel("noise σ")
        axes.set_title(title)
        style.grid(axes)
    panels[0].set_ylabel("part of the terms' size")
    style.group_legend(figure, panels[0], width=width)
    return figure


@style.styled
def terms_along_training(
    epochs: ArrayLike, terms: Mapping[str, ArrayLike], sigmas: Sequence[float], *, width: style.Width = "page"
) -> Figure:
    """Draws the implicit terms over training, one panel each, one line per noise level, darker for more noise.

    Both axes of values are linear up to a ten thousandth and logarithmic beyond it, on either side of 0.

    Args:
      epochs: `[points]`.
      terms: name -> `[points, levels, networks]`.
      sigmas: noise levels.
      width: of the figure.
    """
    figure, panels = style.panels(len(terms), width=width, height=2.4, columns=len(terms))
    for axes, (name, values) in zip(panels, terms.items(), strict=True):
        for i, sigma in enumerate(sigmas):
            style.spread(axes, np.asarray(epochs, float), np.asarray(values, float)[:, i],
                         color=_shade(i, len(sigmas)), label=f"{sigma:g}")  # fmt: skip
        axes.axhline(0, color=style.INK, linewidth=0.6)
        axes.set_yscale("symlog", linthresh=1e-4)
        axes.set_title(name)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
        style.grid(axes)
    panels[0].set_ylabel("part of the squared error")
    style.group_legend(figure, panels[0], width=width, title="noise σ")
    return figure
