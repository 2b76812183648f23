"""A trained network back from its run folder."""

import copy
import dataclasses
import json
import typing
from typing import Any, NamedTuple

import jax

from sparsejax.data.dataset import Dataset
from sparsejax.data.resident import resident
from sparsejax.errors import CheckpointError, RunFolderError
from sparsejax.hyper import stack_hyper
from sparsejax.training import checkpoints, loop
from sparsejax.training.config import Config, DevicesConfig
from sparsejax.training.devices import place
from sparsejax.training.objectives import OBJECTIVES
from sparsejax.training.run_folder import RunFolder
from sparsejax.training.state import TrainState


class Recorded(NamedTuple):
    """What a run folder says of its run: all that `config.json` holds, and the configuration of every network."""

    description: dict[str, Any]
    configs: tuple[Config, ...]


def recorded(folder: RunFolder) -> Recorded:
    """Reads the configurations of a run.

    Raises:
      RunFolderError: there is no run, or not one of this version's configuration.
    """
    try:
        description = json.loads(folder.config.read_text(encoding="utf-8"))
        configs = []
        for seed, point in zip(description["seeds"], description["points"], strict=True):
            fields = copy.deepcopy(description["config"])
            for path, value in {**point, "training.seed": seed}.items():
                _put(fields, path, value)
            configs.append(_rebuilt(Config, fields))
    except FileNotFoundError:
        raise RunFolderError(f"{folder.path} is not a run folder: it holds no config.json. Name another.") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunFolderError(
            f"{folder.config} cannot be read ({error!r}): it is damaged, or of another version of sparsejax. Train the "
            "network again."
        ) from None
    return Recorded(description, tuple(configs))


def trained(folder: RunFolder, configs: tuple[Config, ...], dataset: Dataset) -> TrainState:
    """Returns all networks of a run, on one device, as they are in its newest checkpoint.

    Args:
      folder: the run's.
      configs: as `recorded` says.
      dataset: what they were trained on; only the shape of an example matters.

    Raises:
      CheckpointError: there is none yet, or it is damaged.
    """
    config, one = configs[0], dataset.limited(train=1, test=1)
    job = loop.Job(
        config.model, OBJECTIVES[config.objective.kind], config.training,
        place(DevicesConfig("jit"), len(configs), set()), stack_hyper(configs), resident(one, one.train),
    )  # fmt: skip
    untrained = loop.start(job, [config.training.seed for config in configs])
    restored = None
    if folder.checkpoints.is_dir():  # opening it would make it
        with checkpoints.opened(folder.checkpoints, keep=config.training.keep_checkpoints) as saved:
            restored = saved.restore(untrained)
    if restored is None:
        raise CheckpointError(f"There is no checkpoint in {folder.checkpoints}; train the network for an epoch first.")
    return jax.tree.map(jax.numpy.asarray, restored.tree.state)


def _put(fields: dict[str, Any], path: str, value: Any) -> None:
    """Sets a field named like `model.sigma`."""
    *groups, name = path.split(".")
    for group in groups:
        fields = fields[group]
    fields[name] = value


def _rebuilt(kind: Any, value: Any) -> Any:
    """Returns a value from its JSON; of several dataclasses it is the one that has those fields."""
    if isinstance(value, list):
        return tuple(value)
    if not isinstance(value, dict):
        return value
    for candidate in typing.get_args(kind) or (kind,):
        if {field.name for field in dataclasses.fields(candidate)} == set(value):
            hints = typing.get_type_hints(candidate)
            return candidate(**{name: _rebuilt(hints[name], part) for name, part in value.items()})
    raise ValueError(f"nothing has the fields {sorted(value)}")
