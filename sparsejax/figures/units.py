"""Activity of a layer's units: duty cycles and active fractions."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import ArrayLike

from sparsejax.figures import style


class DutyCycles(NamedTuple):
    """How often the units of a k-winners layer won.

    `duty_cycle [networks, units]` are fractions of the examples, `target [networks]` is k / n of each, and
    `entropy` and `max_entropy` are in bits.
    """

    duty_cycle: ArrayLike
    target: ArrayLike
    entropy: float | None = None
    max_entropy: float | None = None


@style.styled
def duty_cycle_histograms(layers: Mapping[str, DutyCycles], *, width: style.Width = "page") -> Figure:
    """Draws the histogram of each layer's duty cycles, all networks pooled, with the target k / n marked.

    Args:
      layers: by name, in order.
      width: of the figure.

    Raises:
      ValueError: there is no layer, or one without units.
    """
    if not layers:
        raise ValueError("layers is empty; expected at least one k-winners layer.")
    figure, axes = style.panels(len(layers), width=width, height=2.05, columns=1 if width == "column" else 3)
    for (name, layer), panel in zip(layers.items(), axes, strict=True):
        _histogram(panel, name, layer)
    for row in axes[:: 1 if width == "column" else 3]:
        row.set_ylabel("units (%)")
    return figure


def _histogram(axes: Axes, name: str, layer: DutyCycles) -> None:
    duty = np.asarray(layer.duty_cycle, float).ravel()
    if not duty.size:
        raise ValueError(f"Layer {name} has no units; expected duty cycles [networks, units].")
    targets = np.unique(np.asarray(layer.target, float))
    end = min(1.0, 1.05 * max(float(duty.max()), float(targets.max()), 0.01))
    bins = np.linspace(0, end, int(np.clip(np.sqrt(duty.size) * 1.5, 8, 40)) + 1)
    axes.hist(
        duty,
        bins.tolist(),
        weights=np.full(duty.size, 100 / duty.size),
        color=style.SKY,
        edgecolor="white",
        linewidth=0.3,
    )
    axes.set_xlim(0, end)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10]))
    top = axes.get_ylim()[1]
    axes.set_ylim(0, 1.18 * top)
    if len(targets) > 5:
        axes.axvspan(targets[0], targets[-1], color=style.VERMILION, alpha=0.15, linewidth=0)
        targets = targets[[0, -1]]
    for target in targets:
        axes.axvline(target, color=style.VERMILION, linewidth=1.0)
    right = targets[-1] > 0.6 * end
    label = f"k / n = {targets[0]:.3g}" + (f" to {targets[-1]:.3g}" if len(targets) > 1 else "")
    axes.annotate(label, (targets[0] if right else targets[-1], 1.0), xycoords=("data", "axes fraction"),
                  xytext=(-3 if right else 3, -2), textcoords="offset points", va="top",
                  ha="right" if right else "left", fontsize=7, color=style.VERMILION)  # fmt: skip
    axes.set_xlabel("duty cycle")
    title = name
    if layer.entropy is not None and layer.max_entropy:
        share = 100 * layer.entropy / layer.max_entropy
        title += f"\nentropy {layer.entropy:,.0f} of {layer.max_entropy:,.0f} bits ({share:.0f} %)"
    axes.set_title(title)
    style.grid(axes)


@style.styled
def active_fractions(
    fractions: Mapping[str, ArrayLike],
    *,
    targets: Mapping[str, float | None] | None = None,
    width: style.Width = "column",
) -> Figure:
    """Draws the fraction of each layer's units that is active at inference.

    Args:
      fractions: layer -> fraction of each network, `[networks]`, in order.
      targets: layer -> winners / units at inference; None for ReLU.
      width: of the figure.

    Raises:
      ValueError: there is no layer.
    """
    if not fractions:
        raise ValueError("fractions is empty; expected at least one layer.")
    figure, (axes,) = style.panels(1, width=width, height=0.75 + 0.3 * len(fractions), columns=1)
    marked = False
    for row, (name, values) in enumerate(fractions.items()):
        values = np.atleast_1d(np.asarray(values, float))
        mean = float(values.mean())
        axes.barh(row, mean, height=0.55, color=style.SKY)
        if len(values) > 1:
            axes.plot([values.min(), values.max()], [row, row], color=style.INK, linewidth=0.8)
        target = (targets or {}).get(name)
        if target is not None:
            axes.plot([target, target], [row - 0.36, row + 0.36], color=style.VERMILION, linewidth=1.4,
                      label=None if marked else "winners / units")  # fmt: skip
            marked = True
        edge = max(float(values.max()), target or 0.0)
        axes.annotate(
            f"{100 * mean:.1f} %",
            (edge, row),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=7,
        )
    axes.set_yticks(range(len(fractions)), labels=list(fractions))
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_ylim(len(fractions) - 0.4, -0.6)
    axes.set_xlim(0, 1.0)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=""))
    axes.set_xlabel("active units (%)")
    if marked:
        axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.0)
    style.grid(axes, "x")
    return figure
