"""Training from Python: `sparsejax.train`, `sparsejax.load` and `sparsejax.compare`."""

import dataclasses
import difflib
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sparsejax import configs
from sparsejax import experiment as experiments
from sparsejax.configuration import field_of, plain, replace
from sparsejax.data.arrays import from_arrays
from sparsejax.data.dataset import Dataset
from sparsejax.errors import ConfigError
from sparsejax.experiment import Experiment, check_count, members_of
from sparsejax.models.base import Model
from sparsejax.registry import run_file
from sparsejax.runs import Run, row_of
from sparsejax.training.config import MOST_MEMBERS, Config, DataConfig, ObjectiveConfig
from sparsejax.training.run_folder import RunFolder


def train(
    what: str | Path | Config | Model,
    *,
    data: Any = None,
    out: str | Path | None = None,
    seeds: int = 1,
    sweep: Mapping[str, Sequence[Any]] | None = None,
    measures: Sequence[Any] = (),
    fresh: bool = False,
    **overrides: Any,
) -> Run:
    """Train one or several networks, or resume their training, and return the run.

    Args:
      what: the name of a configuration, a Python file that defines `config`, a `Config`, or a network, which needs
        `data`.
      data: the name of a data set, the `Path` of your file or folder, arrays `(x_train, y_train, x_test, y_test)`, or
        a `Dataset`; None for the data of the configuration.
      out: the run folder; by default `runs/NAME`. The same call on the same folder resumes the run.
      seeds: networks of successive seeds for every point of the sweep.
      sweep: field -> values; one network is trained for each combination, all in one compiled program.
      measures: names, which replace those of the configuration, and additional measure objects.
      fresh: replace an earlier run in the folder.
      **overrides: fields by their dotted names, `**{"training.epochs": 2}`, or by a bare name, `epochs=2`.

    Returns:
      The finished run.

    Raises:
      ConfigError: a field is unknown or out of range, or network, data and objective do not fit each other.
      DataMissingError, DataDamagedError, RunFolderError, CheckpointError: see their messages.

    Examples:
      >>> run = train("digits_mlp", epochs=5, sweep={"model.k": [(10,), (20,)]})  # doctest: +SKIP
    """
    name, config = _configure(what)
    if data is None and isinstance(what, Model):
        raise ConfigError(
            f"A {type(what).__name__} does not define its data; pass data=(x_train, y_train, x_test, y_test), "
            "or the name of a data set such as data='digits'."
        )
    if isinstance(measures, str) or not np.iterable(measures):
        raise ConfigError(f"measures is {measures!r}; expected a list of names and objects, such as ['accuracy'].")
    measures = tuple(measures)
    config = _with_data(config, data, {path_of(config, name): plain(value) for name, value in overrides.items()})
    dataset = _dataset(config, data)
    if names := tuple(measure for measure in measures if isinstance(measure, str)):
        config = replace(config, {"evaluation.measures": names})
    own = tuple(measure for measure in measures if not isinstance(measure, str))
    experiment = Experiment(name, *members_of(config, _points(config, sweep), seeds), own)
    folder = RunFolder(f"runs/{name}" if out is None else out)
    experiments.run(experiment, folder, dataset=dataset, fresh=fresh)
    return Run(folder.path)


def load(path: str | Path) -> Run:
    """Read a run from its folder; its data are not needed.

    Raises:
      RunFolderError: there is no run, or it cannot be read.
    """
    return Run(path)


def compare(*runs: str | Path | Run) -> dict[str, dict[str, str]]:
    """Return a table that compares runs: run -> measure -> formatted value.

    Raises:
      RunFolderError: a folder holds no finished run.
    """
    found = [run if isinstance(run, Run) else Run(run) for run in runs]
    return {str(run.folder.path): row_of(run.folder) for run in found}


def config_from_file(path: str | Path) -> Config:
    """Run a Python file, as `run_file` does, and return the `Config` that it defines as `config`.

    Raises:
      ConfigError: there is no such file, or it defines none.
    """
    found = run_file(path).get("config")
    if not isinstance(found, Config):
        raise ConfigError(f"{path} defines config as {found!r}; expected a sparsejax.Config, such as Config(model).")
    return found


def path_of(config: Config, name: str) -> str:
    """Return the dotted name of a field, given that or its last part.

    If several fields end in the name, the one of `training` is meant: `batch_size` is `training.batch_size`.

    Raises:
      ConfigError: there is no such field, or several.
    """
    fields = list(_fields(config))
    if not isinstance(name, str):
        raise ConfigError(f"{name!r} is not the name of a field; expected a string such as 'training.learning_rate'.")
    found = [field for field in fields if name in (field, field.rpartition(".")[2])]
    found = [field for field in found if field.startswith("training.")] or found
    if name in fields or len(found) == 1:
        return name if name in fields else found[0]
    if found:
        raise ConfigError(f"{name} may be {' or '.join(found)}; pass the full name, **{{{found[0]!r}: ...}}.")
    close = difflib.get_close_matches(name, [*fields, *(field.rpartition(".")[2] for field in fields)], n=3)
    hint = (
        f"did you mean {' or '.join(close)}?" if close else "`sparsejax train --config NAME --help` lists all fields."
    )
    raise ConfigError(f"There is no field {name!r}; {hint}")


def _configure(what: str | Path | Config | Model) -> tuple[str, Config]:
    """Return a name and a configuration."""
    if isinstance(what, Config):
        config: Config = what
        return type(config.model).__name__.lower(), config
    if isinstance(what, Model):
        kind = what.task or "classification"
        return type(what).__name__.lower(), Config(what, DataConfig(), objective=ObjectiveConfig(kind))
    if str(what).endswith(".py"):
        return Path(what).stem, config_from_file(what)
    return str(what), configs.get(str(what))


def _with_data(config: Config, data: Any, overrides: Mapping[str, Any]) -> Config:
    """Return a configuration with the data of the call and its other fields."""
    if isinstance(data, Path):
        config = replace(config, {"data.path": str(data)})
    elif data is not None:
        name = data if isinstance(data, str) else data.name if isinstance(data, Dataset) else "arrays"
        config = replace(config, {"data.name": name, "data.path": None})
    path = overrides.get("data.path")
    if data is not None and path is not None:
        raise ConfigError(f"data.path is {path!r}, but data= is passed as well; omit one of the two.")
    return replace(config, overrides)


def _dataset(config: Config, data: Any) -> Dataset | None:
    """Return the data that the call passes, or None if they are loaded by their name or path."""
    fraction = config.data.test_fraction
    if isinstance(data, Dataset) and fraction is not None:
        raise ConfigError(f"data.test_fraction is {fraction}, but a Dataset has its own test set; omit the option.")
    if data is None or isinstance(data, (str, Path, Dataset)):
        return data if isinstance(data, Dataset) else None
    if not isinstance(data, (tuple, list)) or not 1 <= len(data) <= 4:
        several = isinstance(data, (tuple, list))
        found = f"has {len(data)} arrays" if several else f"is an object of the type {type(data).__name__}"
        raise ConfigError(
            f"data {found}; expected the name of a data set, the path of a file or a folder, a Dataset, or arrays "
            "(x_train, y_train, x_test, y_test), of which the labels may be None."
        )
    return from_arrays(*data, test_fraction=fraction)


def _points(config: Config, sweep: Any) -> list[dict[str, Any]]:
    """Return the combinations of swept values, by the dotted names of their fields."""
    expected = 'expected fields and the values of each, such as sweep={"training.learning_rate": [0.1, 0.01]}'
    if not isinstance(sweep, (Mapping, type(None))):
        raise ConfigError(f"sweep is {sweep!r}; {expected}.")
    grid: dict[str, list[Any]] = {}
    for name, values in (sweep or {}).items():
        path = path_of(config, name)
        listed = (
            []
            if isinstance(values, str) or not np.iterable(values)
            else [plain(value) for value in itertools.islice(values, MOST_MEMBERS + 1)]
        )
        if not listed:
            raise ConfigError(f"sweep has {values!r} for {name}; {expected}.")
        if path in grid:
            raise ConfigError(f"sweep names {path} twice; pass all of its values under one name.")
        grid[path] = listed
    check_count(math.prod(map(len, grid.values())))
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def _fields(config: Any, prefix: str = "") -> Iterator[str]:
    for field in dataclasses.fields(config):
        path, value = prefix + field.name, field_of(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from _fields(value, path + ".")
        else:
            yield path
