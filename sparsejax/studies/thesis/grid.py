"""The networks of chapter 3 of the thesis: of one architecture for each penalty and seed, and their measures.

Networks of five seeds and all penalties are one run and train on the same batches. At the paper's scale a figure of one
hidden layer is 5 sizes x 15 penalties x 20 seeds: 1,500 networks, shared by all figures of their kind.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sparsejax import configs
from sparsejax.configuration import replace
from sparsejax.figures.curves import curves_of
from sparsejax.models import DenseNetwork
from sparsejax.studies.networks import Member, train_members
from sparsejax.studies.study import Scale
from sparsejax.training.config import Config
from sparsejax.training.log import read_metrics
from sparsejax.training.run_folder import RunFolder

SIZES = (8, 32, 64, 128, 256)
SEEDS = tuple(range(20))
PENALTIES = {
    "paper": tuple(round(0.008 * i, 3) for i in range(15)),
    "small": (0.0, 0.008, 0.016, 0.024, 0.04, 0.056, 0.08, 0.096, 0.112),
}
DEEP_PENALTIES = {
    "paper": tuple(round(0.001 * i, 3) for i in range(20)),
    "small": (0.0, 0.001, 0.002, 0.004, 0.006, 0.008, 0.012, 0.016, 0.019),
}
_SHORT = {"training.epochs": 5}
_TOGETHER = 5  # seeds per run, with the same order of the examples

Measures = dict[str, np.ndarray]


class Kind(NamedTuple):
    """A family of networks: hidden layers, their activation, and the penalties."""

    depth: int
    activation: str
    penalties: Mapping[str, tuple[float, ...]]


KINDS = {
    "relu1": Kind(1, "relu", PENALTIES),
    "sigmoid1": Kind(1, "sigmoid", PENALTIES),
    "relu2": Kind(2, "relu", PENALTIES),
    "relu3": Kind(3, "relu", DEEP_PENALTIES),
}


class Grid(NamedTuple):
    """The networks of one kind: penalties, seeds, and measures by number of units, `[penalties, seeds, ...]`."""

    penalties: tuple[float, ...]
    seeds: tuple[int, ...]
    sizes: dict[int, Measures]

    def each(self, of: Callable[[Measures], np.ndarray]) -> dict[str, np.ndarray]:
        """Returns a quantity of every size, by its label."""
        return {f"{size} units": of(measures) for size, measures in self.sizes.items()}

    def at(self, penalty: float) -> int:
        """Returns the index of a penalty."""
        return self.penalties.index(penalty)


def base(scale: Scale, kind: Kind, units: int) -> Config:
    """Returns the network as published, or trained for a third of the epochs."""
    model = DenseNetwork(hidden=(units,) * kind.depth, activation=kind.activation)  # pyright: ignore
    config = dataclasses.replace(configs.get("mnist_l1_mlp"), model=model)
    return replace(config, _SHORT if scale == "small" else {})


def train_grid(
    name: str, scale: Scale, folder: Path, seeds: Sequence[int], sizes: tuple[int, ...] | None = None
) -> Grid:
    """Trains the missing networks of a kind."""
    kind, shared = KINDS[name], folder.parents[1] / "dense" / name / scale
    penalties = kind.penalties[scale]
    return Grid(penalties, tuple(seeds), {
        units: measure_penalized(base(scale, kind, units), shared, str(units), penalties, seeds)
        for units in sizes or SIZES
    })  # fmt: skip


def measure_penalized(
    config: Config, folder: Path, name: str, penalties: Sequence[float], seeds: Sequence[int]
) -> Measures:
    """Returns the measures of a network for each weight of the L1 penalty and seed, training missing ones.

    Args:
      config: the network, a classifier with hidden layers of equal size.
      folder: of this kind of network; the runs are `runs/NAME/SEEDS` in it.
      name: of the networks.
      penalties: weights.
      seeds: of the networks; seeds 0 to 4 share the order of the examples, and so on.

    Returns:
      Over the test set, `accuracy [penalties, seeds]` in per cent, and per image `l0`, `l1` and `gini [penalties,
      seeds, layers]` and `fired [penalties, seeds, layers, classes, units]`, the fraction of the images of a class for
      which a unit was active; over training, `epochs [points]` and the penalised activity `l1_along [penalties, seeds,
      points]`.
    """
    config = replace(config, {"evaluation.measures": (*config.evaluation.measures, "detail")})
    fields = {"objective.l1": penalties}
    members = train_members(config, folder, name, seeds=seeds, fields=fields, together=_TOGETHER, same_order=True)
    layers = list(members[0][0].result["layers"])
    runs = {member.run.path: member.run for member in members[0]}  # a run has all penalties of its seeds
    fired = {path: _firing_rates(run, layers) for path, run in runs.items()}
    activity = {path: curves_of(read_metrics(run.metrics))["l1_activity"] for path, run in runs.items()}

    def each(of: Callable[[Member], object]) -> np.ndarray:
        return np.array([[of(member) for member in row] for row in members])

    measures = {
        measure: each(lambda m, measure=measure: [m.result["layers"][layer][measure] for layer in layers])
        for measure in ("l0", "l1", "gini")
    }
    return measures | {
        "accuracy": each(lambda m: 100 * m.result["test_accuracy"]),
        "fired": each(lambda m: fired[m.run.path][m.place]),
        "l1_along": each(lambda m: activity[m.run.path].values[:, m.place]),
        "epochs": next(iter(activity.values())).epochs,
    }


def _firing_rates(run: RunFolder, layers: Sequence[str]) -> np.ndarray:
    """Returns the fraction of each class's images for which units were active, `[networks, layers, classes, units]`."""
    with np.load(run.detail) as detail:
        counts = np.stack([detail[f"{layer}.active"] for layer in layers], 1)
        return counts / detail["examples"][:, None, :, None]


def seed_statistics(values: np.ndarray, digits: int = 2) -> dict[str, list[float]]:
    """Returns median, quartiles and extremes over the seeds, `[penalties, seeds]`, and mean and deviation."""
    figures = dict(zip(("min", "lower quartile", "median", "upper quartile", "max"),
                       np.percentile(values, (0, 25, 50, 75, 100), axis=1), strict=True))  # fmt: skip
    figures |= {"mean": values.mean(1), "deviation": values.std(1)}
    return {name: np.round(numbers, digits).tolist() for name, numbers in figures.items()}


def critical(penalties: tuple[float, ...], accuracy: np.ndarray) -> float | None:
    """Returns the smallest penalty with a median accuracy 10 points below that without penalty; None without one.

    Args:
      penalties: in order, the first 0.
      accuracy: in per cent, `[penalties, seeds]`.
    """
    median = np.median(accuracy, axis=1)
    below = np.flatnonzero(median < median[0] - 10)
    return penalties[below[0]] if len(below) else None
