"""What a study is, and how it trains its networks: a grid in one program, in a folder that it can go on from."""

import dataclasses
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from sparsejax.experiment import Experiment, Finished, run
from sparsejax.figures.curves import Curve, curves_of
from sparsejax.models.base import Variables
from sparsejax.training.config import Config
from sparsejax.training.log import read_metrics
from sparsejax.training.run_folder import RunFolder, finite

Scale = Literal["small", "paper"]


class Outcome(NamedTuple):
    """A picture, the numbers in it, the paper's where it prints them, and the seeds they come from."""

    figure: Figure
    ours: dict[str, Any]
    paper: dict[str, Any]
    seeds: list[int]


class Study(NamedTuple):
    """A figure or table of a paper: `make(scale, folder)` trains what it needs within the folder.

    With `seeds`, the greatest number of them, it is `make(scale, folder, seeds=...)`, None for as many as the scale
    has; further seeds are added to those that a folder holds.
    """

    source: str
    make: Callable[..., Outcome]
    seeds: int | None = None


class Trained(NamedTuple):
    """Networks of one grid; arrays have the axes [points, seeds, ...]."""

    finished: Finished
    curves: dict[str, Curve]
    units: dict[str, np.ndarray]
    points: int
    seeds: int

    def along(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns a tracked quantity: epochs `[epochs]` and values `[epochs, points, seeds]`."""
        curve = self.curves[name]
        return curve.epochs, curve.values.reshape(-1, self.points, self.seeds)

    def last(self, name: str) -> np.ndarray:
        """Returns the last value of a tracked quantity, `[points, seeds]`."""
        return self.along(name)[1][-1]

    def unit(self, name: str) -> np.ndarray:
        """Returns an array of the units, `[points, seeds, ...]`."""
        return self.units[name].reshape(self.points, self.seeds, *self.units[name].shape[1:])

    def network(self, point: int, seed: int = 0) -> Variables:
        """Returns one network."""
        index = point * self.seeds + seed
        return Variables(*jax.tree.map(lambda leaf: jnp.asarray(leaf[index]), tuple(self.finished.variables)))

    def parameter(self, layer: str, name: str) -> np.ndarray:
        """Returns a parameter of all networks, `[points, seeds, ...]`."""
        leaf = np.asarray(self.finished.variables.params[layer][name])
        return leaf.reshape(self.points, self.seeds, *leaf.shape[1:])


def train(
    config: Config, folder: Path, name: str, *, field: str, values: Sequence[float], seeds: Sequence[int]
) -> Trained:
    """Trains one network per value of a field of the configuration and seed, all in one program.

    Args:
      config: the network.
      folder: of the study; the run's is `runs/NAME` in it, and a run that is there is gone on with.
      name: of the run.
      field: a traced field, such as "model.sigma".
      values: what it takes.
      seeds: of the networks.
    """
    return train_grid(config, folder, name, fields={field: values}, seeds=seeds)


def train_grid(
    config: Config, folder: Path, name: str, *, fields: Mapping[str, Sequence[float]], seeds: Sequence[int]
) -> Trained:
    """Trains one network per point of a grid and seed, all in one program; the last field varies fastest.

    Args:
      config: the network.
      folder, name, seeds: as in `train`.
      fields: traced field -> what it takes.
    """
    configs, points = [], []
    for values in itertools.product(*fields.values()):
        point = dict(zip(fields, values, strict=True))
        network = config
        for field, value in point.items():
            network = replaced(network, field, value)
        configs += [replaced(network, "training.seed", seed) for seed in seeds]
        points += [point] * len(seeds)
    where = RunFolder(folder / "runs" / name)
    finished = run(Experiment(name, tuple(configs), tuple(points)), where)
    with np.load(where.units) as file:
        units = {key: file[key] for key in file.files}
    return Trained(finished, curves_of(read_metrics(where.metrics)), units, len(points) // len(seeds), len(seeds))


def train_seeds(config: Config, folder: Path, name: str, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Trains a network for each seed that the folder does not hold yet; returns what `result.json` says of all.

    On a CPU, where networks would be trained one after another anyway, each is a run of its own, so that one that is
    done stays done; elsewhere all that are missing are one run.

    Args:
      config: the network.
      folder: of the study; the runs are `runs/NAME/SEEDS` in it.
      name: of the network.
      seeds: which networks.
    """
    where = folder / "runs" / name

    def finished() -> dict[int, dict[str, Any]]:
        members = {}
        for path in sorted(where.glob("*/result.json")):
            result = json.loads(path.read_text(encoding="utf-8"))
            if result["config"] == recorded(replaced(config, "training.seed", result["seed"])):
                members |= {member["seed"]: member for member in result["members"]}
        return members

    missing = [seed for seed in seeds if seed not in finished()]
    together = 1 if jax.default_backend() == "cpu" else len(missing)
    for group in (missing[i : i + together] for i in range(0, len(missing), max(1, together))):
        networks = tuple(replaced(config, "training.seed", seed) for seed in group)
        run(Experiment(name, networks, ({},) * len(group)), RunFolder(where / "_".join(map(str, group))))
    members = finished()
    return [members[seed] for seed in seeds]


def members_of(
    config: Config, folder: Path, name: str, *, field: str, values: Sequence[float], seeds: Sequence[int]
) -> list[list[dict[str, Any]]]:
    """Returns what `result.json` says of a network for each value of a field and seed, `[values][seeds]`.

    Networks that the folder does not hold yet are trained first, those of one seed in one program, so that a seed that
    is done stays done.

    Args:
      config, field, values, seeds: as in `train`.
      folder: of the study; the run of a seed is `runs/NAME/SEED` in it.
      name: of the networks.
    """
    columns = []
    for seed in seeds:
        path = RunFolder(folder / "runs" / name / str(seed)).result
        result = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        first = replaced(replaced(config, field, values[0]), "training.seed", seed)
        same = result.get("config") == recorded(first)
        if not same or [member[field] for member in result["members"]] != list(values):
            result = train(config, folder, f"{name}/{seed}", field=field, values=values, seeds=[seed]).finished.result
        columns.append(result["members"])
    return [list(row) for row in zip(*columns, strict=True)]


def recorded(config: Config) -> Any:
    """Returns a configuration as JSON gives it back."""
    return json.loads(json.dumps(finite(dataclasses.asdict(config))))


def replaced(config: Any, path: str, value: Any) -> Any:
    """Returns a configuration with one field, named like `model.sigma`, set to a value."""
    name, _, rest = path.partition(".")
    return dataclasses.replace(config, **{name: replaced(getattr(config, name), rest, value) if rest else value})


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Returns Spearman's rank correlation of two arrays of one shape (ties share a rank); NaN if one is constant."""
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    ranks = [np.unique(values, return_inverse=True, return_counts=True)[1:] for values in (np.ravel(x), np.ravel(y))]
    middles = [(np.cumsum(counts) - counts / 2)[inverse] for inverse, counts in ranks]
    return float(np.corrcoef(middles[0], middles[1])[0, 1])
