"""One experiment, from its configuration to a run folder with checkpoints, figures and a report."""

import contextlib
import dataclasses
import json
import time
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax

from sparsejax.configuration import find_differing_fields, plain, replace, stack
from sparsejax.data.dataset import Dataset, examples_noun
from sparsejax.data.resident import example_of
from sparsejax.errors import ConfigError, RunFolderError, SparsejaxWarning
from sparsejax.evaluation.evaluator import Evaluator
from sparsejax.evaluation.measure import chosen_measures
from sparsejax.evaluation.report import summary
from sparsejax.figures.run import write_figures
from sparsejax.models.base import Variables
from sparsejax.terminal import lasting_output
from sparsejax.training import checkpoints, loop, processes
from sparsejax.training.checks import load_data
from sparsejax.training.config import MOST_MEMBERS, Config
from sparsejax.training.devices import Placement, find_devices, gather_members, put_members
from sparsejax.training.log import MetricsLog, Terminal
from sparsejax.training.prepare import prepare, shapes_of, start
from sparsejax.training.restore import describe_inputs
from sparsejax.training.run_folder import RunFolder, describe
from sparsejax.training.schema import to_json


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Networks to train together: one configuration each, which differ only in traced fields and the seed.

    `points` holds the swept values of each, e.g. `{"model.boost_strength": 1.0}`; empty without a sweep. `measures` are
    additional measure objects.
    """

    name: str
    configs: tuple[Config, ...]
    points: tuple[dict[str, Any], ...]
    measures: tuple[Any, ...] = ()

    def __post_init__(self):
        object.__setattr__(self, "configs", tuple(map(plain, self.configs)))
        object.__setattr__(self, "points", tuple({k: plain(v) for k, v in point.items()} for point in self.points))
        for config in self.configs:
            to_json(config)  # refuses fields that cannot be written
        for config in self.configs[1:]:
            differing = find_differing_fields(self.configs[0], config)
            if differing:
                raise ConfigError(
                    f"{', '.join(differing)} changes the shape of the program, so its values cannot share one; a sweep "
                    "takes numbers such as training.learning_rate, model.boost_strength or model.hidden_k. Run one "
                    "command per value instead."
                )

    @property
    def config(self) -> Config:
        """The configuration of the first network, whose untraced fields are those of all."""
        return self.configs[0]

    @property
    def seeds(self) -> list[int]:
        """Seeds of all networks."""
        return [config.training.seed for config in self.configs]


def check_count(members: int) -> None:
    """Check the number of networks to train together, before they are made.

    Raises:
      ConfigError: there are too many.
    """
    if members > MOST_MEMBERS:
        raise ConfigError(
            f"The sweep and the seeds make {members:,} networks; expected {MOST_MEMBERS:,} at most. Use fewer values "
            "or seeds, a larger step, or several runs."
        )


def members_of(
    config: Config, points: Sequence[Mapping[str, Any]], seeds: int
) -> tuple[tuple[Config, ...], tuple[dict[str, Any], ...]]:
    """Return the configuration and swept values of every network: each point with each seed.

    The seeds of a point are successive, from its own seed or else from that of the configuration.

    Raises:
      ConfigError: seeds is not positive, there are too many networks, or a swept value does not fit its field.
    """
    seeds = plain(seeds)
    if type(seeds) is not int or seeds < 1:
        raise ConfigError(f"seeds is {seeds!r}; expected the number of networks per point, an integer of 1 or more.")
    check_count(len(points) * seeds)
    members = [
        (replace(made, {"training.seed": made.training.seed + i}), dict(point))
        for point in points for made in [replace(config, point)] for i in range(seeds)
    ]  # fmt: skip
    made, swept = zip(*members, strict=True)
    common = config.model.unify([one.model for one in made])
    changes = {f"model.{name}": value for name, value in common.items()}
    return tuple(replace(one, changes) for one in made), swept


class Finished(NamedTuple):
    """The result of a run: the contents of `result.json`, and the networks as arrays with a leading member axis."""

    result: dict[str, Any]
    variables: Variables


def run(
    experiment: Experiment,
    folder: RunFolder,
    *,
    dataset: Dataset | None = None,
    fresh: bool = False,
    resume_step: int | None = None,
) -> Finished:
    """Trains, or resumes training, and writes the run folder.

    Args:
      experiment: the networks.
      folder: the run folder; a run in it is resumed.
      dataset: the data, of which the configuration may limit the number; None to load the configuration's.
      fresh: discard an earlier run in the folder.
      resume_step: resume from this checkpoint instead of the latest.

    Returns:
      The contents of `result.json`, and the networks after the last epoch.

    Raises:
      ConfigError, DataMissingError, DataDamagedError, RunFolderError, CheckpointError: see their messages; all but
        those of a damaged or full disk are raised before compilation.
      DivergedError: a loss is not finite.
      Interrupted: the run received a signal and saved a checkpoint.
    """
    if resume_step is not None:  # first, because everything else takes longer
        _check_resume_step(folder, fresh, resume_step)
    find_devices()
    with lasting_output(), contextlib.ExitStack() as hold:
        return _run(experiment, folder, dataset, fresh, resume_step, hold)


def _check_resume_step(folder: RunFolder, fresh: bool, step: int) -> None:
    if fresh:
        raise ConfigError(
            f"--resume-step {step} resumes the run in {folder.path}, which --fresh deletes; omit one of them."
        )
    if step < 0:
        raise ConfigError(f"--resume-step is {step}; expected the step of a checkpoint, 0 or more.")
    checkpoints.check_step(folder.checkpoints, step)


def _run(
    experiment: Experiment,
    folder: RunFolder,
    dataset: Dataset | None,
    fresh: bool,
    resume_step: int | None,
    hold: contextlib.ExitStack,
) -> Finished:
    started = time.perf_counter()
    config = experiment.config
    dataset = load_data(config, dataset)
    job, test = prepare(experiment.configs, dataset)
    measures = chosen_measures(config, dataset, experiment.measures)
    description = describe(
        config, name=experiment.name, seeds=experiment.seeds, points=experiment.points, data=_origin(dataset)
    )
    same = ("config", "seeds", "points", "data", "versions")
    processes.agree("configuration", json.dumps([description[name] for name in same], sort_keys=True, default=str))

    measuring = Evaluator(experiment.configs, dataset, job.placement, job.config, test, measures)
    example = example_of(job.data)
    measuring.check(shapes_of(job.config, example).state.variables)

    changes: list[str] = []

    def claim() -> None:  # only now: with `fresh` it deletes the earlier run, so nothing may be refused after it
        hold.enter_context(folder.hold())
        if fresh:
            folder.discard()
        changes.extend(folder.claim(description))

    processes.run_in_first_process(claim)
    first, members = processes.is_first(), len(experiment.configs)

    with (
        processes.termination() as asked_to_stop,  # outside: a second signal must not interrupt saving
        checkpoints.open_checkpoints(folder.checkpoints, keep=config.training.keep_checkpoints) as saved,
    ):
        restored = saved.restore(shapes_of(stack(experiment.configs), example), resume_step)
        if restored is None:
            progress = start(job.config, job.placement, example)
        else:
            progress = put_members(restored.tree, job.placement)
        at = gather_members((progress.state.epoch, progress.state.position, progress.state.step), members)
        epoch, position, step = (int(values[0]) for values in at)
        total, done = (
            loop.examples_done(config.training, len(dataset.train.labels), *at)
            for at in ((config.training.epochs, 0), (epoch, position))
        )
        log = MetricsLog(folder.metrics, folder.tensorboard, resumed_step=step, quiet=not first)
        terminal = Terminal(total * members, done * members, quiet=not first)
        for line in _first_lines(experiment, dataset, job.placement, step, changes):
            terminal.say(line)
        training_started = time.perf_counter()
        try:
            progress = loop.train(
                job,
                progress,
                evaluate=measuring.after_epoch,
                saved=saved,
                log=log,
                terminal=terminal,
                asked_to_stop=asked_to_stop,
            )
        finally:
            terminal.close()
            log.close()
        training_seconds = time.perf_counter() - training_started

    final = measuring.at_end(progress, experiment.points)
    variables = gather_members(progress.state.variables, members)
    result = {
        "name": experiment.name,
        **summary(final.members),
        "dataset": dataset.name,
        "source": dataset.source,
        "notice": dataset.notice,
        "training_seconds": round(training_seconds, 2),
        "seconds": round(time.perf_counter() - started, 2),
        "measures": [measure.name for measure in measures],
        "members": final.members,
        **{name: description[name] for name in ("command", "versions", "device", "data", "config")},
    }

    def write() -> None:
        for file, arrays in final.arrays.items():
            folder.write_arrays(folder.path / file, arrays)
        folder.write(folder.result, result)
        try:
            write_figures(folder, result, variables, measures)
        except (OSError, RunFolderError) as error:
            said = f"The run is finished, but its figures or report could not be made: {error}"
            warnings.warn(f"{said} `sparsejax report {folder.path}` makes them.", SparsejaxWarning, stacklevel=2)

    processes.run_in_first_process(write)
    return Finished(result, variables)


def _origin(dataset: Dataset) -> dict[str, Any]:
    return {
        "name": dataset.name,
        "source": dataset.source,
        "notice": dataset.notice,
        "kind": dataset.kind,
        "train": len(dataset.train.labels),
        "test": len(dataset.test.labels),
        "fingerprint": dataset.fingerprint,
        **describe_inputs(dataset),
    }


def _first_lines(
    experiment: Experiment, dataset: Dataset, placement: Placement, step: int, changes: Sequence[str]
) -> list[str]:
    """Returns the first lines of a run's output."""
    members = len(experiment.configs)
    devices = 1 if placement.mesh is None else placement.mesh.size
    lines = [
        f"{experiment.name}: {members} network{'s' if members > 1 else ''} on {dataset.name} ({dataset.source}; "
        f"{len(dataset.train.labels):,} training, {len(dataset.test.labels):,} test {examples_noun(dataset.kind)}), "
        f"{devices} {jax.default_backend()} device{'s' if devices > 1 else ''}, {placement.transform}"
    ]
    if step:
        lines.append(f"resuming from the checkpoint of step {step:,}")
        if changes:
            lines.append(f"NOTE: {'; '.join(changes)}: the results may differ in their last bits")
    return lines
