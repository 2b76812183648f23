"""Quantities of networks against the weight of the activity penalty, and activity of their units."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter, NullLocator
from numpy.typing import ArrayLike

from sparsejax.figures import style

_TICKS = (0, 2, 4, 6, 8, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)


@style.styled
def against_penalty(
    penalties: Sequence[float] | Mapping[str, Sequence[float]],
    panels: Mapping[str, Mapping[str, ArrayLike]],
    *,
    label: str,
    spread: Literal["quartiles", "deviation"] = "quartiles",
    compressed: bool = False,
    title: str | None = None,
    xlabel: str = "penalty λ",
    columns: int = 3,
    width: style.Width = "page",
) -> Figure:
    """Draws a line for each kind of network against the penalty, with the spread over the networks.

    Args:
      penalties: weights, the same in all panels or by the panels' titles.
      panels: title -> kind -> `[penalties, networks]`.
      label: of the y axis.
      spread: median and quartiles as bars, with triangles at the extremes; or mean and standard deviation.
      compressed: whether the y axis is linear up to 10 and logarithmic above.
      title: of the legend.
      xlabel: of the x axis.
      columns: panels side by side.
      width: of the figure.
    """
    figure, axes = style.panels(len(panels), width=width, height=2.5 if len(panels) == 1 else 2.1, columns=columns)
    for panel, (name, kinds) in zip(axes, panels.items(), strict=True):
        x = np.asarray(penalties[name] if isinstance(penalties, Mapping) else penalties, float)
        step = np.diff(x).min() if len(x) > 1 else 1.0
        for i, (kind, values) in enumerate(kinds.items()):
            at = x + step * 0.09 * (i - (len(kinds) - 1) / 2)
            _line(panel, at, np.asarray(values, float), i, kind, spread)
        if compressed:
            crowded = max(np.max(np.asarray(values, float)) for values in kinds.values()) > 500
            panel.set_yscale("symlog", linthresh=10, linscale=0.4 if crowded else 1.6)
            panel.yaxis.set_major_locator(FixedLocator([tick for tick in _TICKS if not (crowded and 0 < tick < 10)]))
            panel.yaxis.set_minor_locator(NullLocator())
            panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            panel.set_ylim(bottom=-0.3)
        panel.set_title(name)
        panel.set_xlabel(xlabel)
        panel.xaxis.set_major_locator(MaxNLocator(nbins=4 if len(panels) > 1 else 7, steps=[1, 2, 4, 5, 10]))
        style.grid(panel)
    for panel in axes[::columns]:
        panel.set_ylabel(label)
    fullest = max(axes, key=lambda panel: len(panel.get_legend_handles_labels()[1]))
    style.group_legend(figure, fullest, width=width, title=title)
    return figure


@style.styled
def against_sparsity(
    kinds: Mapping[str, tuple[ArrayLike, ArrayLike]], *, label: str, width: style.Width = "column"
) -> Figure:
    """Draws a quantity against the inactive units, with a point for each penalty: median, quartiles and extremes.

    Args:
      kinds: name -> fractions of the units inactive for an example and values, both `[penalties, networks]`.
      label: of the y axis.
      width: of the figure.
    """
    figure, (axes,) = style.panels(1, width=width, height=2.5, columns=1)
    for i, (kind, (inactive, values)) in enumerate(kinds.items()):
        _line(axes, 100 * np.mean(np.asarray(inactive, float), axis=1), np.asarray(values, float), i, kind, "quartiles")
    axes.set_xlabel("inactive units (%)")
    axes.set_ylabel(label)
    axes.set_ylim(bottom=0)
    style.grid(axes)
    style.group_legend(figure, axes, width=width)
    return figure


def _line(axes: Axes, x: np.ndarray, y: np.ndarray, i: int, label: str, spread: str) -> None:
    color = style.PALETTE[i]
    if spread == "quartiles":
        low, middle, high = np.percentile(y, (25, 50, 75), axis=1)
        bars = np.stack([middle - low, high - middle])
        for extreme, marker in ((y.max(1), "^"), (y.min(1), "v")):
            axes.plot(x, extreme, linestyle="", marker=marker, markersize=2.2, color=color, alpha=0.6,
                      markeredgewidth=0)  # fmt: skip
    else:
        middle, deviation = y.mean(1), y.std(1)
        bars = np.stack([np.minimum(deviation, middle), deviation])
    axes.errorbar(x, middle, bars, color=color, label=label, marker=style.MARKERS[i], markersize=2.8, linewidth=1.0,
                  elinewidth=0.7, capsize=1.2, capthick=0.7)  # fmt: skip


@style.styled
def along_epochs(
    epochs: ArrayLike, panels: Mapping[str, Mapping[str, ArrayLike]], *, label: str, width: style.Width = "page"
) -> Figure:
    """Draws a quantity over training, one panel for each title, one line for each kind.

    The axis is logarithmic, with the same limits in all panels.

    Args:
      epochs: `[points]`.
      panels: title -> kind -> `[points, networks]`; networks appear as median and range.
      label: of the y axis.
      width: of the figure.
    """
    figure, axes = style.panels(len(panels), width=width, height=2.1, columns=2)
    every = np.concatenate([np.ravel(values) for kinds in panels.values() for values in kinds.values()])
    least, most = every.min(), every.max()
    for panel, (name, kinds) in zip(axes, panels.items(), strict=True):
        for i, (kind, values) in enumerate(kinds.items()):
            style.spread(panel, np.asarray(epochs, float), np.asarray(values, float), color=style.PALETTE[i],
                         label=kind)  # fmt: skip
        panel.set_yscale("log")
        panel.set_ylim(least / 1.3, most * 1.3)
        panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        panel.yaxis.set_minor_formatter(NullFormatter())
        panel.set_title(name)
        panel.set_xlabel("epoch")
        style.grid(panel)
    for panel in axes[::2]:
        panel.set_ylabel(label)
    style.group_legend(figure, axes[0], width=width)
    return figure


@style.styled
def firing(panels: Mapping[str, ArrayLike], *, images: int, width: style.Width = "page") -> Figure:
    """Draws the number of images for which each unit was active, as bars, and marks units that never were.

    Args:
      panels: title -> `[units]`.
      images: total number of images.
      width: of the figure.
    """
    figure, axes = style.panels(len(panels), width=width, height=1.7, columns=2)
    for panel, (name, values) in zip(axes, panels.items(), strict=True):
        counts = np.asarray(values, float)
        dead = np.flatnonzero(counts == 0)
        panel.bar(np.arange(len(counts)), counts, width=0.85, color=style.BLUE)
        panel.plot(dead, np.full(len(dead), 0.02 * images), "x", color=style.VERMILION, markersize=2.5,
                   markeredgewidth=0.7, clip_on=False)  # fmt: skip
        panel.set_ylim(0, images)
        panel.set_xlim(-1, len(counts))
        panel.set_title(f"{name}: {len(dead)} of {len(counts)} units never active (×)")
        style.grid(panel)
    for panel in axes[-2:]:
        panel.set_xlabel("unit")
    for panel in axes[::2]:
        panel.set_ylabel(f"active images of {images:,}")
    return figure


@style.styled
def firing_by_class(panels: Mapping[str, ArrayLike], *, width: style.Width = "page") -> Figure:
    """Draws heat maps of the fraction of each class's images for which each unit was active.

    Args:
      panels: title -> `[classes, units]`, fractions.
      width: of the figure.
    """
    figure, axes = style.panels(len(panels), width=width, height=1.35, columns=1)
    for panel, (name, values) in zip(axes, panels.items(), strict=True):
        panel.imshow(100 * np.asarray(values, float), cmap="viridis", vmin=0, vmax=100, aspect="auto",
                     interpolation="nearest")  # fmt: skip
        panel.set_yticks(range(0, len(np.asarray(values)), 3))
        panel.set_title(name)
        panel.set_ylabel("digit")
        panel.spines[["left", "bottom"]].set_visible(False)
    axes[-1].set_xlabel("unit")
    figure.colorbar(axes[0].images[0], ax=axes, label="active (% of the digit's images)", aspect=40, fraction=0.04)
    return figure
