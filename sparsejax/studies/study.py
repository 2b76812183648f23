"""Studies: functions from a scale and a folder to a figure and its numbers next to the paper's."""

from collections.abc import Callable, Sequence
from pathlib import Path
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
    """A figure or table of a paper: `make(scale, folder, seeds)` trains what it needs within the folder.

    `seeds` is their largest number, 0 if they are fixed; `make` takes how many, None for the scale's default. Further
    seeds are added to those in a folder.
    """

    source: str
    make: Callable[..., Outcome]
    seeds: int


MADE: dict[str, Study] = {}
"""Studies of the imported modules, by name."""

_SOURCES = {
    "dense": "Ahmad & Scheinkman, How Can We Be So Dense? The Benefits of Using Highly Sparse Representations, 2019",
    "noise": "Bricken et al., Noise Transforms Feed-Forward Networks into Sparse Coding Networks, 2022",
    "emergence": "Bricken et al., Emergence of Sparse Representations from Noise, ICML 2023",
    "hah": "Cekic et al., Neuro-Inspired Deep Neural Networks with Sparse, Strong Activations, 2022",
    "thesis": "Sparse Coding in Deep Neural Networks and the Visual System (thesis)",
    "features": "Chanin & Garriga-Alonso, SynthSAEBench, 2026",
    "scoreboard": "None of the papers: their networks, of one shape, in one table",
}


def study(
    name: str, shows: str, where: str = "", /, *, seeds: Sequence[int] = (), small: int = 1, **settings: Any
) -> Callable[[Callable[..., Outcome]], Callable[..., Outcome]]:
    """Registers a function `make(scale, folder, **settings)` as a study.

    Args:
      name: PAPER/FIGURE, of the papers in `_SOURCES`.
      shows: summary, a literal string: lists read it without importing the module.
      where: its place in the paper, if the name does not give it.
      seeds: all seeds of its networks; the function receives the requested number of them as `seeds`.
      small: default number of seeds at small scale; at the paper's scale it is all.
      **settings: further arguments, so that one function makes several studies.
    """
    paper, _, figure = name.partition("/")
    where = where or figure.replace("fig", "Fig. ").replace("table", "Table ").replace("_", ".")
    source = f"{_SOURCES[paper]}, {where}" if figure else _SOURCES[paper]

    def register(function: Callable[..., Outcome]) -> Callable[..., Outcome]:
        def make(scale: Scale, folder: Path, asked: int | None = None) -> Outcome:
            count = asked or (small if scale == "small" else len(seeds))
            return function(scale, folder, **settings, **({"seeds": tuple(seeds[:count])} if seeds else {}))

        MADE[name] = Study(source, make, len(seeds))
        return function

    return register


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Returns Spearman's rank correlation of two arrays of one shape (ties share a rank); NaN if one is constant."""
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    ranks = [np.unique(values, return_inverse=True, return_counts=True)[1:] for values in (np.ravel(x), np.ravel(y))]
    middles = [(np.cumsum(counts) - counts / 2)[inverse] for inverse, counts in ranks]
    return float(np.corrcoef(middles[0], middles[1])[0, 1])
