"""What is measured of a run's networks on the test set: after every epoch, and in the end."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.data.dataset import Dataset
from sparsejax.data.resident import Resident, normalised
from sparsejax.evaluation.accuracy import Counts, make_evaluation, make_noise_evaluation
from sparsejax.evaluation.detail import detail_arrays, detail_report, make_detail
from sparsejax.evaluation.macs import count_macs, macs_report
from sparsejax.evaluation.noise_terms import implicit_measures
from sparsejax.evaluation.report import layer_report, noise_report
from sparsejax.evaluation.tracking import layer_measures
from sparsejax.models.base import Variables
from sparsejax.training.config import Config
from sparsejax.training.devices import Placement, gathered_members, transform
from sparsejax.training.loop import Progress
from sparsejax.training.members import over_members
from sparsejax.training.objectives import OBJECTIVES


class Final(NamedTuple):
    """What `result.json` says of each network, and the arrays of `units.npz` and `detail.npz`."""

    members: list[dict[str, Any]]
    units: dict[str, np.ndarray]
    detail: dict[str, np.ndarray] | None


class Evaluator:
    """Evaluations of networks of one shape, each compiled for their devices when it is first needed."""

    def __init__(
        self, configs: Sequence[Config], dataset: Dataset, placement: Placement, stacked: Config, test: Resident
    ):
        self._configs, self._dataset, self._stacked, self._test = configs, dataset, stacked, test
        self._examples, config = len(dataset.test.labels), configs[0]
        thresholds = {layer.name: layer.threshold for layer in config.model.layers(dataset.train.images.shape[1:])}
        sizes: dict[str, Any] = {
            "examples": self._examples, "batch_size": config.evaluation.batch_size,
            "seed": config.evaluation.noise_seed, "axis_name": placement.axis_name, "shards": placement.shards,
        }  # fmt: skip
        self._scored = {
            units: transform(make_evaluation(thresholds, units=units, **sizes), placement) for units in (False, True)
        }
        self._layers = jax.jit(jax.vmap(lambda variables, counts: layer_measures(variables, counts, self._examples)))
        classifier = config.objective.kind == "classification"
        # Noise is for answers to pixels or clips.
        noise = config.evaluation.noise and classifier and test.images.dtype in (jnp.uint8, jnp.int16)
        detail = make_detail(thresholds, classes=dataset.classes, classifier=classifier, **sizes)
        self._noise = transform(make_noise_evaluation(**sizes), placement) if noise else None
        self._detail = transform(detail, placement) if config.evaluation.detail else None
        # One network after another: an implicit term takes a matrix over all pairs of units.
        tracked = config.evaluation.implicit_examples is not None
        self._implicit = jax.jit(over_members(self._implicit_of_member, 1)) if tracked else None

    def after_epoch(self, variables: Variables, epoch: jax.Array) -> dict[str, jax.Array]:
        """Returns the scores, and what else is asked for, of every network `[members]`."""
        counts = self._scored[self._configs[0].evaluation.track](variables, self._stacked, epoch, self._test)
        scores = {f"test_{name}": total / self._examples for name, total in sorted(counts.sums.items())}
        if self._configs[0].evaluation.track:
            scores |= self._layers(variables, counts)
        return (
            scores if self._implicit is None else scores | self._implicit(variables, self._stacked, epoch, self._test)
        )

    def in_the_end(self, progress: Progress, points: Sequence[dict[str, Any]]) -> Final:
        """Describes every network as it is after the last epoch and, under "best", as it was after its best one.

        Args:
          progress: the networks.
          points: what each was swept to.
        """
        (state, best), networks = progress, len(self._configs)
        epoch = state.epoch.astype(jnp.float32)

        def numbers(tree: Any) -> Any:
            return gathered_members(tree, networks)

        def of(measure: Any, variables: Variables, epoch: jax.Array) -> Any:
            return numbers(measure(variables, self._stacked, epoch, self._test))

        counts = of(self._scored[True], state.variables, epoch)
        detail = None if self._detail is None else of(self._detail, state.variables, epoch)
        correct = None  # [rule, member, level]
        if self._noise is not None:
            last = of(self._noise, state.variables, epoch)
            same = np.array_equal(*numbers((best.epoch, state.epoch)))
            correct = last if same else of(self._noise, best.variables, best.epoch.astype(jnp.float32))
            correct = np.stack([last, correct])
        trained, epochs, best = numbers((state.variables, state.epoch, best._replace(variables=None)))
        members = []
        for i, point in enumerate(points):
            variables, one = jax.tree.map(lambda leaf, i=i: leaf[i], (trained, counts))
            member = self._described(i, variables, one) | {"epoch": int(epochs[i])}
            member = {"seed": self._configs[i].training.seed, **point, **member}
            member["best"] = self._best(int(best.epoch[i]), float(best.score[i]))
            if detail is not None:
                classes, codes = detail_report(jax.tree.map(lambda leaf, i=i: leaf[i], detail))
                member |= classes
                member["layers"] = {name: entry | codes[name] for name, entry in member["layers"].items()}
            if correct is not None:
                member |= noise_report(correct[0, i], self._examples)
                member["best"] |= noise_report(correct[1, i], self._examples)
            members.append(member)
        return Final(members, _unit_arrays(trained, counts), detail and detail_arrays(detail, trained))

    def _described(self, place: int, variables: Variables, counts: Counts) -> dict[str, Any]:
        layers = self._configs[place].model.layers(self._dataset.train.images.shape[1:])
        figures = {f"test_{name}": float(total) / self._examples for name, total in sorted(counts.sums.items())}
        if self._configs[place].objective.kind == "next_token":
            figures["test_perplexity"] = math.exp(figures["test_loss"])
        products = count_macs(layers, variables, counts, self._examples)
        reports = layer_report(layers, variables, counts, self._examples)
        return figures | {"layers": reports} | macs_report(list(products.values()))

    def _best(self, epoch: int, score: float) -> dict[str, Any]:
        objective = OBJECTIVES[self._configs[0].objective.kind]
        score = -score if objective.least else score
        if objective.best == "accuracy":
            score = round(score * self._examples) / self._examples  # whole examples, without float32's error
        return {"epoch": epoch, f"test_{objective.best}": score}

    def _implicit_of_member(self, variables: Variables, config: Config, epoch: jax.Array, data: Resident) -> Any:
        x = normalised(data, data.images[: config.evaluation.implicit_examples])
        return implicit_measures(variables, config.model.at(epoch, jnp.int32(0)), x)


def _unit_arrays(variables: Variables, counts: Counts) -> dict[str, np.ndarray]:
    """Returns per network and layer how often each unit was active, for how many examples k units were, and biases."""
    arrays = {}
    for layer in counts.active:
        arrays |= {f"{layer}.active": counts.active[layer], f"{layer}.k": counts.k[layer]}
        if "bias" in variables.params.get(layer, {}):
            arrays[f"{layer}.bias"] = np.asarray(variables.params[layer]["bias"])
    return arrays
