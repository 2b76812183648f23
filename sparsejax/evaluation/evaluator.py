"""Evaluates a run's networks on the test set: after every epoch, and at the end."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.data.dataset import Dataset
from sparsejax.data.resident import Resident
from sparsejax.errors import blame
from sparsejax.evaluation.measure import Measure, file_of, has_track, numbers_of, setting_of
from sparsejax.evaluation.report import add, add_report
from sparsejax.evaluation.split import make_evaluation
from sparsejax.models.base import Variables
from sparsejax.training.config import Config
from sparsejax.training.devices import Placement, gather_members, transform
from sparsejax.training.objectives import OBJECTIVES
from sparsejax.training.prepare import Progress


class Final(NamedTuple):
    """The entries of `result.json` for each network, and arrays for all of them, by file name."""

    members: list[dict[str, Any]]
    arrays: dict[str, dict[str, np.ndarray]]


class Evaluator:
    """Evaluations of networks of one structure, compiled on first use.

    One compiled pass over the test set computes all measures at the end of training, another one those tracked.
    """

    def __init__(
        self,
        configs: Sequence[Config],
        dataset: Dataset,
        placement: Placement,
        stacked: Config,
        test: Resident,
        measures: Sequence[Measure],
    ):
        self._configs, self._dataset, self._stacked, self._test = configs, dataset, stacked, test
        self._examples, track = len(dataset.test.labels), {"accuracy", *configs[0].evaluation.track}
        self._tracked = tuple(measure.name for measure in measures if measure.name in track)
        self._measures = _bind(measures, configs[0], dataset)
        self._evaluate = functools.cache(functools.partial(self._compile, placement))
        own = {name: measure for name, measure in self._measures.items() if has_track(measure)}

        def track_all(variables: Variables, sums: dict[str, Any]) -> dict[str, jax.Array]:
            numbers: dict[str, jax.Array] = {}
            for name in filter(own.__contains__, self._tracked):
                with blame(f"`track` of the measure {name!r}"):
                    add(numbers, dict(own[name].track(variables, sums[name])), name)
            return numbers

        self._numbers = jax.jit(jax.vmap(track_all))

    def check(self, variables: Variables) -> None:
        """Trace all measures on networks, of which the shapes suffice: most mistakes are found before training.

        Raises:
          ConfigError: a measure raises an exception.
        """
        epoch = jax.ShapeDtypeStruct(jax.tree.leaves(variables)[0].shape[:1], jnp.float32)
        own = (variables, self._stacked, epoch, self._test)
        jax.eval_shape(self._numbers, variables, jax.eval_shape(self._evaluate(self._tracked), *own))
        jax.eval_shape(self._evaluate(tuple(self._measures)), *own)

    def after_epoch(self, variables: Variables, epoch: jax.Array) -> dict[str, Any]:
        """Return the scores and the other tracked numbers of every network `[members]`."""
        sums = self._evaluate(self._tracked)(variables, self._stacked, epoch, self._test)
        scores = self._numbers(variables, sums)
        rest = {name: sums[name] for name in self._tracked if not has_track(self._measures[name])}
        if rest:
            gathered = gather_members(rest, len(self._configs))
            taken = dict.fromkeys(scores)
            bound = enumerate(self._bind_each(rest))
            numbers = [numbers_of(_add_reports(taken, measures, gathered, i)) for i, measures in bound]
            scores |= {name: np.array([of_one[name] for of_one in numbers]) for name in numbers[0]}
        return scores

    def at_end(self, progress: Progress, points: Sequence[dict[str, Any]]) -> Final:
        """Return the report of every network after the last epoch and, under "best", after its best epoch.

        Args:
          progress: the networks.
          points: the swept values of each.
        """
        (state, best), count, names = progress, len(self._configs), tuple(self._measures)

        def sums_of(variables: Variables, epoch: jax.Array) -> dict[str, Any]:
            sums = self._evaluate(names)(variables, self._stacked, epoch.astype(jnp.float32), self._test)
            return gather_members(sums, count)

        last = at_best = sums_of(state.variables, state.epoch)
        same = np.array_equal(*gather_members((best.epoch, state.epoch), count))
        if not same and any(measure.at_best for measure in self._measures.values()):
            at_best = sums_of(best.variables, best.epoch)
        trained, epochs, best = gather_members((state.variables, state.epoch, best._replace(variables=None)), count)
        members = []
        for i, (point, measures) in enumerate(zip(points, self._bind_each(self._measures, trained), strict=True)):
            layers = next(iter(measures.values())).setting.layers
            described = {layer.name: {"units": layer.units, "k": layer.k, "k_inference": layer.k_inference}
                         for layer in layers}  # fmt: skip
            member = {"seed": self._configs[i].training.seed, **point, "layers": described}
            member = _add_reports(member, measures, last, i) | {"epoch": int(epochs[i])}
            kept = {name: measure for name, measure in measures.items() if measure.at_best}
            at_its_best = self._best(int(best.epoch[i]), float(best.score[i]))
            members.append(member | {"best": _add_reports(at_its_best, kept, at_best, i)})
        arrays = {}
        for name, measure in _bind(self._measures.values(), self._configs[0], self._dataset, trained).items():
            with blame(f"`arrays` of the measure {name!r}"):
                if made := measure.arrays(last[name]):
                    arrays[file_of(measure)] = {key: np.asarray(values) for key, values in made.items()}
                    if odd := [key for key, values in arrays[file_of(measure)].items() if values.dtype.hasobject]:
                        raise TypeError(f"{', '.join(odd)} has Python objects; expected arrays of numbers or text")
        return Final(members, arrays)

    def _compile(self, placement: Placement, names: tuple[str, ...]) -> Callable[..., dict[str, Any]]:
        """Return the compiled pass over the test set for these measures."""
        settings = self._configs[0].evaluation
        evaluate = make_evaluation(
            [self._measures[name] for name in names],
            examples=self._examples,
            batch_size=settings.batch_size,
            seed=settings.noise_seed,
            axis_name=placement.axis_name,
            shards=placement.shards,
        )
        return transform(evaluate, placement)

    def _bind_each(self, names: Any, trained: Variables | None = None) -> list[dict[str, Measure]]:
        """Return the named measures for every network."""
        chosen = [self._measures[name] for name in names]
        variables = [None if trained is None else jax.tree.map(lambda leaf, i=i: leaf[i], trained)
                     for i in range(len(self._configs))]  # fmt: skip
        return [_bind(chosen, config, self._dataset, one) for config, one in zip(self._configs, variables, strict=True)]

    def _best(self, epoch: int, score: float) -> dict[str, Any]:
        objective = OBJECTIVES[self._configs[0].objective.kind]
        score = -score if objective.least else score
        if objective.best == "accuracy":
            score = round(score * self._examples) / self._examples  # whole examples, without float32's error
        return {"epoch": epoch, f"test_{objective.best}": score}


def _bind(measures: Any, config: Config, dataset: Dataset, variables: Variables | None = None) -> dict[str, Measure]:
    setting = setting_of(config, dataset, variables)
    return {measure.name: measure.bind(setting) for measure in measures}


def _add_reports(
    entries: dict[str, Any], measures: dict[str, Measure], sums: dict[str, Any], member: int
) -> dict[str, Any]:
    """Return the entries of one network with the measures' reports, from the sums of all networks."""
    for name, measure in measures.items():
        entries = add_report(entries, measure, jax.tree.map(lambda leaf: leaf[member], sums[name]))
    return entries
