"""Training of a study's networks: a grid of fields and seeds, in folders that can be resumed and extended."""

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.configuration import replace
from sparsejax.experiment import Experiment, Finished, run
from sparsejax.figures.curves import Curve, curves_of
from sparsejax.models.base import Variables
from sparsejax.training.config import Config, DevicesConfig
from sparsejax.training.devices import share_of_cores
from sparsejax.training.log import read_metrics
from sparsejax.training.run_folder import RunFolder, finite
from sparsejax.training.schema import to_json

Fields = Mapping[str, Sequence[Any]]
"""Traced fields of the configuration, such as "model.sigma", and their values; the last varies fastest."""


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


def train(config: Config, folder: Path, name: str, *, fields: Fields, seeds: Sequence[int]) -> Trained:
    """Trains one network per point of a grid and seed, all in one program.

    Args:
      config: the network.
      folder: of the study; the run is `runs/NAME` in it, and is resumed if it exists.
      name: of the run.
      fields: swept values.
      seeds: of the networks.
    """
    points = _points(fields)
    cores = _cores(config)
    if cores and config.devices == DevicesConfig():  # batches are not sharded: cores share a step better than devices
        member = share_of_cores(len(points) * len(seeds), cores)
        config = replace(config, {"devices.member": member, "devices.data": 1})
    configs = tuple(
        replace(config, {**point, "training.seed": seed}) for point, seed in itertools.product(points, seeds)
    )
    where = RunFolder(folder / "runs" / name)
    finished = run(Experiment(name, configs, tuple(point for point in points for _ in seeds)), where)
    with np.load(where.units) as file:
        units = {key: file[key] for key in file.files}
    return Trained(finished, curves_of(read_metrics(where.metrics)), units, len(points), len(seeds))


class Member(NamedTuple):
    """One network: its entry in the run's `result.json`, the run, and its index there."""

    result: dict[str, Any]
    run: RunFolder
    place: int


def train_members(
    config: Config,
    folder: Path,
    name: str,
    *,
    seeds: Sequence[int],
    fields: Fields | None = None,
    together: int | None = None,
    same_order: bool = False,
) -> list[list[Member]]:
    """Returns a network for each point of a grid and seed, `[points][seeds]`; trains missing ones.

    Seeds are trained in groups, each a separate run, so that further seeds can be added to existing ones.

    Args:
      config: the network.
      folder: of the study; the runs are `runs/NAME/SEEDS` in it.
      name: of the networks.
      seeds: of the networks, 0 or more.
      fields: swept values.
      together: seeds per run: 0 to n - 1, n to 2n - 1 and so on. By default as few as keep the cores of a CPU busy, and
        elsewhere all.
      same_order: whether the networks of a run train on the same batches, also those added later.
    """
    where, points = folder / "runs" / name, _points(fields or {})
    if together is None:
        cores = _cores(config)
        together = cores // math.gcd(cores, len(points)) if cores else max(seeds) + 1

    def of_seed(seed: int) -> Config:
        return replace(config, {"training.order_seed": seed // together}) if same_order else config

    def find_members() -> dict[int, list[Member]]:
        members = {}
        for path in sorted(where.glob("*/result.json")):
            result = RunFolder(path.parent).read_result()
            entries = [Member(entry, RunFolder(path.parent), i) for i, entry in enumerate(result["members"])]
            there = list(dict.fromkeys(entry.result["seed"] for entry in entries))
            first = replace(of_seed(there[0]), {**points[0], "training.seed": there[0]})
            wanted = [point | {"seed": seed} for point, seed in itertools.product(points, there)]
            same = _to_recorded(result.get("config", {})) == _to_recorded(to_json(first)) and len(wanted) == len(
                entries
            )
            if same and all(want.items() <= entry.result.items() for want, entry in zip(wanted, entries, strict=True)):
                members |= {seed: entries[i :: len(there)] for i, seed in enumerate(there)}
        return members

    missing = sorted(set(seeds) - find_members().keys())
    for _, group in itertools.groupby(missing, lambda seed: seed // together):
        chosen = list(group)
        train(of_seed(chosen[0]), folder, f"{name}/{'_'.join(map(str, chosen))}", fields=fields or {}, seeds=chosen)
    members = find_members()
    return [[members[seed][point] for seed in seeds] for point in range(len(points))]


def _cores(config: Config) -> int | None:
    """Returns the number of CPU cores for networks, all or as configured; None on other devices."""
    if jax.default_backend() != "cpu":
        return None
    return jax.device_count() if config.devices == DevicesConfig() else 1


def _points(fields: Fields) -> list[dict[str, Any]]:
    return [dict(zip(fields, values, strict=True)) for values in itertools.product(*fields.values())]


def _to_recorded(config: dict[str, Any]) -> Any:
    """Returns a configuration as read from JSON, without the devices that it ran on."""
    return json.loads(json.dumps(finite(config | {"devices": None})))
