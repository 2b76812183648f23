"""One experiment, from its configuration to a run folder with checkpoints, figures and a report."""

import contextlib
import dataclasses
import json
import math
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.data.dataset import Dataset
from sparsejax.data.resident import Resident, normalised, resident
from sparsejax.errors import ConfigError
from sparsejax.evaluation.accuracy import make_evaluation, make_noise_evaluation
from sparsejax.evaluation.detail import detail_arrays, detail_report, make_detail
from sparsejax.evaluation.implicit import implicit_measures
from sparsejax.evaluation.products import count_products, products_report
from sparsejax.evaluation.report import layer_report, noise_report, summary
from sparsejax.evaluation.tracking import layer_measures
from sparsejax.figures.run import write_figures
from sparsejax.functional import crop_and_flip
from sparsejax.hyper import stack_hyper, static_fields
from sparsejax.models.base import Variables
from sparsejax.task import batch_sizes, count_parameters, load_data
from sparsejax.training import checkpoints, loop, processes
from sparsejax.training.config import Config
from sparsejax.training.devices import carry, gathered_members, place, put_members, put_shared
from sparsejax.training.log import MetricsLog, Terminal
from sparsejax.training.members import over_members
from sparsejax.training.objectives import OBJECTIVES, objective_of
from sparsejax.training.run_folder import RunFolder, describe

_AUGMENTATIONS = {"none": None, "crop_flip": crop_and_flip}


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Networks to be trained together: one configuration each, alike but for traced fields and the seed.

    `points` names what each was swept to, e.g. `{"model.boost_strength": 1.0}`; empty without a sweep.
    """

    name: str
    configs: tuple[Config, ...]
    points: tuple[dict[str, Any], ...]

    def __post_init__(self):
        first = static_fields(self.configs[0])
        for config in self.configs[1:]:
            other = static_fields(config)
            differing = [name for name in first if first[name] != other.get(name) and name != "training.seed"]
            if differing:
                raise ConfigError(
                    f"{', '.join(differing)} changes the shape of the program, so its values cannot share one; a sweep "
                    "takes numbers such as training.learning_rate, model.boost_strength or model.hidden_k. Run one "
                    "command per value instead."
                )

    @property
    def config(self) -> Config:
        """The configuration of the first network, whose untraced fields hold for all."""
        return self.configs[0]

    @property
    def seeds(self) -> list[int]:
        """Seeds of all networks."""
        return [config.training.seed for config in self.configs]


class Finished(NamedTuple):
    """What a run ends with: what `result.json` says, and the networks as arrays with a leading member axis."""

    result: dict[str, Any]
    variables: Variables


def run(experiment: Experiment, folder: RunFolder, *, fresh: bool = False, resume_step: int | None = None) -> Finished:
    """Trains, or goes on training, and writes the run folder.

    Args:
      experiment: the networks.
      folder: where; a folder that holds the same run is gone on with.
      fresh: throw away what the folder holds of an earlier run.
      resume_step: go on from this checkpoint rather than from the latest.

    Returns:
      What is written to `result.json`, and the networks after the last epoch.

    Raises:
      ConfigError, DataMissingError, DataDamagedError, RunFolderError, CheckpointError: as their messages say; all
        but the last before anything is compiled.
      DivergedError: a loss is no finite number.
      Interrupted: the run was asked to stop (SIGTERM), and has saved where it stands.
    """
    with contextlib.ExitStack() as hold:
        return _run(experiment, folder, fresh, resume_step, hold)


def _run(
    experiment: Experiment, folder: RunFolder, fresh: bool, resume_step: int | None, hold: contextlib.ExitStack
) -> Finished:
    started = time.perf_counter()
    config = experiment.config
    dataset = load_data(config, len(experiment.configs))
    for other in experiment.configs[1:]:  # a swept k or density, too, has to fit
        other.model.layers(dataset.train.images.shape[1:])
    parameters = count_parameters(config, dataset) if config.training.order_seed is not None else None
    placement = place(config.devices, len(experiment.configs), batch_sizes(config), sharing=parameters)
    description = describe(
        config, name=experiment.name, seeds=experiment.seeds, points=experiment.points, data=_origin(dataset)
    )
    same = ("config", "seeds", "points", "data", "versions")
    processes.agree("configuration", json.dumps([description[name] for name in same], sort_keys=True, default=str))

    def claim() -> None:
        hold.enter_context(folder.held())
        if fresh:
            folder.discard()
        folder.claim(description)

    processes.first_does(claim)
    first, networks = processes.is_first(), len(experiment.configs)
    hyper = put_members(stack_hyper(experiment.configs), placement)
    objective, normalise, streaming = objective_of(config.objective), config.data.normalise, config.data.streaming
    train = resident(dataset, dataset.train, normalise=normalise, on_device=not streaming)
    train = train if streaming else put_shared(train, placement)
    job = loop.Job(
        config.model, objective, config.training, placement, hyper, train, config.data.balanced,
        _AUGMENTATIONS[config.data.augment], jax.tree.leaves(hyper)[0].shape[0] - networks, streaming,
    )  # fmt: skip
    test = put_shared(resident(dataset, dataset.test, normalise=normalise), placement)
    sizes = {"examples": len(dataset.test.labels), "batch_size": config.evaluation.batch_size,
             "seed": config.evaluation.noise_seed, "axis_name": placement.axis_name,
             "shards": placement.shards}  # fmt: skip
    scored = {
        units: carry(make_evaluation(config.model, objective, units=units, **sizes), placement)
        for units in (False, True)
    }
    measured = jax.jit(jax.vmap(lambda variables, counts: layer_measures(variables, counts, sizes["examples"])))
    implicit = _implicit_evaluation(config, test)

    def evaluate(variables, epoch):
        counts = scored[config.evaluation.track](variables, hyper, epoch, test)
        scores = {f"test_{name}": total / sizes["examples"] for name, total in counts.sums.items()}
        scores = {name: scores[name] for name in sorted(scores)}
        if config.evaluation.track:
            scores |= measured(variables, counts)
        return scores if implicit is None else scores | implicit(variables, hyper, epoch)

    with (
        checkpoints.opened(folder.checkpoints, keep=config.training.keep_checkpoints) as saved,
        processes.termination() as asked_to_stop,
    ):
        progress = loop.start(job, experiment.seeds)
        like = jax.eval_shape(lambda tree: jax.tree.map(lambda leaf: leaf[:networks], tree), progress)
        restored = saved.restore(like, resume_step)
        if restored is not None:
            progress = put_members(restored.tree, placement)
        at = gathered_members((progress.state.epoch, progress.state.position, progress.state.step), networks)
        epoch, position, step = (int(values[0]) for values in at)
        total, done = (
            loop.examples_done(config.training, len(dataset.train.labels), *at)
            for at in ((config.training.epochs, 0), (epoch, position))
        )
        log = MetricsLog(folder.metrics, folder.tensorboard, resumed_step=step, quiet=not first)
        terminal = Terminal(total * networks, done * networks, quiet=not first)
        for line in _headline(experiment, dataset, placement, step):
            terminal.say(line)
        training_started = time.perf_counter()
        try:
            progress = loop.train(
                job, progress, evaluate=evaluate, saved=saved, log=log, terminal=terminal, asked_to_stop=asked_to_stop
            )
        finally:
            terminal.close()
            log.close()
        training_seconds = time.perf_counter() - training_started

    members, counts, detail = _final_figures(
        experiment,
        dataset,
        progress,
        count=lambda variables, epoch: scored[True](variables, hyper, epoch, test),
        detail=_detail_evaluation(config, dataset, placement, sizes, hyper, test),
        noise=_noise_evaluation(experiment, placement, sizes, hyper, test),
    )
    variables = gathered_members(progress.state.variables, networks)
    result = {
        "name": experiment.name,
        **summary(members),
        "dataset": dataset.name,
        "source": dataset.source,
        "notice": dataset.notice,
        "training_seconds": round(training_seconds, 2),
        "seconds": round(time.perf_counter() - started, 2),
        "members": members,
        **{name: description[name] for name in ("command", "versions", "device", "data", "config")},
    }

    def write() -> None:
        folder.write_arrays(folder.units, _unit_arrays(variables, counts))
        if detail is not None:
            folder.write_arrays(folder.detail, detail_arrays(detail, variables))
        folder.write(folder.result, result)
        write_figures(folder, result, variables)

    processes.first_does(write)
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
    }


def _headline(experiment: Experiment, dataset: Dataset, placement, step: int) -> list[str]:
    """Returns the lines that open a run."""
    networks = len(experiment.configs)
    devices = 1 if placement.mesh is None else placement.mesh.size
    lines = [
        f"{experiment.name}: {networks} network{'s' if networks > 1 else ''} on {dataset.name} ({dataset.source}; "
        f"{len(dataset.train.labels):,} training, {len(dataset.test.labels):,} test {dataset.kind}), "
        f"{devices} {jax.default_backend()} device{'s' if devices > 1 else ''}, {placement.carrier}"
    ]
    if step:
        lines.append(f"going on from the checkpoint of step {step:,}")
    return lines


def _noise_evaluation(experiment: Experiment, placement, sizes, hyper, test):
    """Returns `noise(variables, epoch)`, or None if it is not asked for or there are no answers, pixels or clips."""
    config, noisy = experiment.config, test.images.dtype in (jnp.uint8, jnp.int16)
    if not config.evaluation.noise or config.objective.kind != "classification" or not noisy:
        return None
    noise = carry(make_noise_evaluation(config.model, **sizes), placement)
    return lambda variables, epoch: noise(variables, hyper, epoch, test)


def _detail_evaluation(config: Config, dataset: Dataset, placement, sizes, hyper, test):
    """Returns `detail(variables, epoch)`, or None where it is not asked for."""
    if not config.evaluation.detail:
        return None
    classifier = config.objective.kind == "classification"
    measure = carry(make_detail(config.model, classes=dataset.classes, classifier=classifier, **sizes), placement)
    return lambda variables, epoch: measure(variables, hyper, epoch, test)


def _implicit_evaluation(config: Config, test: Resident):
    """Returns `implicit(variables, hyper, epoch)`, or None where it is not asked for."""
    if config.evaluation.implicit_examples is None:
        return None

    def of_member(variables, hyper, epoch, data):
        hyper = config.model.scheduled(hyper["model"], epoch=epoch, step=jnp.int32(0))
        x = normalised(data, data.images[: config.evaluation.implicit_examples])
        return implicit_measures(variables, hyper, x)

    # One network after another: a term takes a matrix over all pairs of units.
    mapped = jax.jit(over_members(of_member, 1))
    return lambda variables, hyper, epoch: mapped(variables, hyper, epoch, test)


def _unit_arrays(variables, counts) -> dict[str, np.ndarray]:
    """Returns per network and layer how often each unit was active, for how many examples k units were, and biases."""
    arrays = {}
    for layer in counts.active:
        arrays |= {f"{layer}.active": counts.active[layer], f"{layer}.k": counts.k[layer]}
        if "bias" in variables.params.get(layer, {}):
            arrays[f"{layer}.bias"] = np.asarray(variables.params[layer]["bias"])
    return arrays


def _final_figures(experiment: Experiment, dataset: Dataset, progress: loop.Progress, *, count, detail, noise):
    """Describes every network as it is after the last epoch and, under "best", as it was after its best one."""
    examples, objective = len(dataset.test.labels), OBJECTIVES[experiment.config.objective.kind]
    language = experiment.config.objective.kind == "next_token"
    (state, best), networks = progress, len(experiment.configs)
    last_epoch = state.epoch.astype(jnp.float32)

    def numbers(tree):
        return gathered_members(tree, networks)

    counts = numbers(count(state.variables, last_epoch))
    details = None if detail is None else numbers(detail(state.variables, last_epoch))
    correct = None  # [rule, member, level]
    if noise is not None:
        last = numbers(noise(state.variables, last_epoch))
        same = np.array_equal(*numbers((best.epoch, state.epoch)))
        correct = np.stack([last, last if same else numbers(noise(best.variables, best.epoch.astype(jnp.float32)))])
    best, epochs, trained = *numbers((best._replace(variables=None), state.epoch)), numbers(state.variables)
    members = []
    for i, config in enumerate(experiment.configs):
        layers = config.model.layers(dataset.train.images.shape[1:])
        variables, one = jax.tree.map(lambda leaf, i=i: leaf[i], (trained, counts))
        score = float(best.score[i]) * (-1 if objective.least else 1)
        if objective.best == "accuracy":
            score = round(score * examples) / examples  # whole examples, without float32's error
        member = {
            "seed": config.training.seed,
            **experiment.points[i],
            "epoch": int(epochs[i]),
            **{f"test_{name}": float(total) / examples for name, total in sorted(one.sums.items())},
            **({"test_perplexity": math.exp(float(one.sums["loss"]) / examples)} if language else {}),
            "layers": layer_report(layers, variables, one, examples),
            **products_report(list(count_products(layers, variables, one, examples).values())),
            "best": {"epoch": int(best.epoch[i]), f"test_{objective.best}": score},
        }
        if details is not None:
            classes, codes = detail_report(jax.tree.map(lambda leaf, i=i: leaf[i], details))
            member |= classes
            member["layers"] = {name: entry | codes[name] for name, entry in member["layers"].items()}
        if correct is not None:
            member |= noise_report(correct[0, i], examples)
            member["best"] |= noise_report(correct[1, i], examples)
        members.append(member)
    return members, counts, details
