"""Loss and accuracy against epochs, for one network or many."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from sparsejax.figures import style

_DASHES = (0, (3, 1.5))


class Curve(NamedTuple):
    """A quantity over training: `epochs [points]` and `values [points, networks]`, NaN where unknown."""

    epochs: np.ndarray
    values: np.ndarray


def curves_of(lines: Sequence[Mapping[str, Any]]) -> dict[str, Curve]:
    """Collects each quantity of the lines of `metrics.jsonl`: name -> `Curve`."""
    points: dict[str, list[tuple[float, list[float]]]] = {}
    for line in lines:
        for name, value in line.items():
            if name in ("step", "epoch", "time"):
                continue
            numbers = value if isinstance(value, list) else [value]
            numbers = [np.nan if number is None else number for number in numbers]
            points.setdefault(name, []).append((line["epoch"], numbers))
    return {
        name: Curve(np.array([epoch for epoch, _ in found], float), np.array([values for _, values in found], float))
        for name, found in points.items()
    }


@style.styled
def training_curves(
    curves: Mapping[str, Curve], *, groups: Sequence[str] | None = None, width: style.Width = "page"
) -> Figure:
    """Draws the loss (logarithmic) and the accuracy in training and test against epochs.

    Several networks appear as median and range; those of one group share a colour, and in training only their median is
    shown.

    Args:
      curves: of `loss`, `test_loss`, `accuracy` and `test_accuracy`, those there are; accuracies from 0 to 1.
      groups: a label per network, at most seven different ones; None for one group.
      width: of the figure, with the panels side by side on a page and stacked in a column.

    Raises:
      ValueError: there is nothing to draw, or a curve does not have one row per epoch.
    """
    drawn = {
        name: _check_curve(name, curve)
        for name, curve in curves.items()
        if name in ("loss", "test_loss", "accuracy", "test_accuracy")
    }
    if not drawn:
        raise ValueError(
            f"curves has {sorted(curves)}; expected loss, test_loss, accuracy or test_accuracy among them."
        )
    kinds = [kind for kind in ("loss", "accuracy") if kind in drawn or f"test_{kind}" in drawn]
    figure, axes = style.panels(len(kinds), width=width, height=2.3, columns=1 if width == "column" else 2)
    networks = next(iter(drawn.values())).values.shape[1]
    members = style.networks_by_group(groups, networks)
    last = max(float(np.max(curve.epochs)) for curve in drawn.values())
    for kind, panel in zip(kinds, axes, strict=True):
        _panel(panel, kind, drawn.get(kind), drawn.get(f"test_{kind}"), members)
        panel.set_xlabel("epoch")
        panel.set_xlim(0, 1.02 * last)
        panel.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        style.grid(panel)
    if len(members) > 1:
        if any(not name.startswith("test_") for name in drawn):
            axes[-1].plot([], [], color=style.GREY, linestyle=_DASHES, label="training")
        style.group_legend(figure, axes[-1], width=width)
    else:
        axes[-1].legend(loc="lower right" if kinds[-1] == "accuracy" else "upper right")
    if networks > 1:
        axes[0].set_title(f"median and range of {networks} networks" if len(members) == 1 else "median and range")
    return figure


def _panel(axes: Axes, kind: str, train: Curve | None, test: Curve | None, members: Mapping[str, np.ndarray]) -> None:
    """Draws one quantity of all groups; accuracies in per cent."""
    factor = 100 if kind == "accuracy" else 1
    for i, (name, rows) in enumerate(members.items()):
        color = style.PALETTE[i]
        if train is not None:
            values = factor * train.values[:, rows]
            if name:
                style.spread(axes, train.epochs, values, color=color, label="", line=_DASHES, median_only=True)
            else:
                style.spread(axes, train.epochs, values, color=style.GREY, label="training")
        if test is not None:
            style.spread(axes, test.epochs, factor * test.values[:, rows], color=color, label=name or "test",
                         marker=style.MARKERS[i] if len(test.epochs) <= 30 else "")  # fmt: skip
    if kind == "accuracy":
        axes.set_ylabel("accuracy (%)")
        axes.set_ylim(*_accuracy_limits(train, test))
    else:
        axes.set_ylabel("loss")
        log_scale(axes)


def _accuracy_limits(train: Curve | None, test: Curve | None) -> tuple[float, float]:
    """Returns limits in per cent that exclude the initial steep rise of training, but include all of the test."""
    lows, highs = [], []
    for curve, least in ((test, 0), (train, 10)):
        known = np.empty(0) if curve is None else curve.values[np.isfinite(curve.values)]
        if known.size:
            lows.append(np.percentile(known, least))
            highs.append(known.max())
    if not lows:
        return 0.0, 100.0
    low, high = 100 * float(np.min(lows)), 100 * float(np.max(highs))
    margin = 0.06 * max(high - low, 1.0)
    return max(low - margin, 0.0 - margin), min(high + margin, 100 + margin)


def log_scale(axes: Axes) -> None:
    """Makes the y axis logarithmic, with about five labels written as plain numbers."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    decades = np.log10(high / low)
    if decades < 0.7:
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    else:
        subs = (1.0, 2.0, 5.0) if decades < 1.7 else (1.0, 3.0) if decades < 3 else (1.0,)
        axes.yaxis.set_major_locator(LogLocator(subs=subs, numticks=12))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _check_curve(name: str, curve: Curve) -> Curve:
    epochs, values = np.asarray(curve.epochs, float), np.asarray(curve.values, float)
    if epochs.ndim != 1 or values.ndim != 2 or len(epochs) != len(values) or not values.size:
        raise ValueError(
            f"{name} has epochs of shape {epochs.shape} and values of shape {values.shape}; expected [points] and "
            "[points, networks], neither empty."
        )
    return Curve(epochs, values)
