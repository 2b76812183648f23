"""Studies: functions from a scale and a folder to a figure and its numbers next to the paper's."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from matplotlib.figure import Figure

Scale = Literal["small", "paper"]


class Outcome(NamedTuple):
    """A figure, its numbers, the paper's if printed, and the seeds."""

    figure: Figure
    ours: dict[str, Any]
    paper: dict[str, Any]
    seeds: list[int]


class Study(NamedTuple):
    """A figure or table of a paper: `make(scale, folder)` trains what it needs within the folder.

    With `seeds`, their largest number, it is `make(scale, folder, seeds=...)`, None for the scale's default; further
    seeds are added to those in a folder.
    """

    source: str
    make: Callable[..., Outcome]
    seeds: int | None = None


def chosen_seeds(seeds: Sequence[int], scale: Scale, asked: int | None, *, small: int) -> tuple[int, ...]:
    """Returns the requested number of seeds; by default `small` at small scale and all at the paper's."""
    return tuple(seeds[: asked or (small if scale == "small" else len(seeds))])


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Returns Spearman's rank correlation of two arrays of one shape (ties share a rank); NaN if one is constant."""
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    ranks = [np.unique(values, return_inverse=True, return_counts=True)[1:] for values in (np.ravel(x), np.ravel(y))]
    middles = [(np.cumsum(counts) - counts / 2)[inverse] for inverse, counts in ranks]
    return float(np.corrcoef(middles[0], middles[1])[0, 1])
