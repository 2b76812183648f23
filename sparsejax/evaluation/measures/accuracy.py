"""Loss and accuracy: the score of a network's objective, which selects the best network."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from sparsejax.data.resident import Batch
from sparsejax.evaluation.measure import EvaluationBatch, Measure, register_measure
from sparsejax.figures import run_curves
from sparsejax.figures.drawing import Drawing, Row, Shown
from sparsejax.figures.words import loss, percent
from sparsejax.models.base import Model, Variables
from sparsejax.training.objectives import OBJECTIVES


@register_measure("accuracy", place=0)
class Accuracy(Measure):
    """Mean loss over the test set, with the accuracy of a classifier and the perplexity of a language model."""

    def of_batch(self, model: Model, variables: Variables, batch: EvaluationBatch) -> dict[str, Float[Array, ""]]:
        objective = OBJECTIVES[self.setting.config.objective.kind]
        scores = objective.score(batch.output, Batch(batch.images, batch.labels, batch.rows))
        return {name: batch.sum(values) for name, values in scores.items()}

    def report(self, sums: Mapping[str, Any]) -> dict[str, Any]:
        """Return `test_loss` and, depending on the objective, `test_accuracy` or `test_perplexity`."""
        report = {f"test_{name}": float(total) / self.setting.examples for name, total in sorted(sums.items())}
        if self.setting.config.objective.kind == "next_token":
            report["test_perplexity"] = math.exp(report["test_loss"])
        return report

    def track(self, variables: Variables, sums: Mapping[str, Array]) -> dict[str, Float[Array, ""]]:
        # The barrier keeps XLA from multiplying by the reciprocal of a constant, which rounds twice.
        examples = lax.optimization_barrier(jnp.float32(self.setting.examples))
        return {f"test_{name}": total / examples for name, total in sorted(sums.items())}

    def rows(self, result: Mapping[str, Any]) -> list[Row]:
        if "test_accuracy" in result["members"][0]:
            return [Row("test_accuracy", "test accuracy", percent, at_best=True)]
        perplexity = [Row("test_perplexity", "perplexity")] * ("test_perplexity" in result["members"][0])
        return [Row("test_loss", "test loss", loss, at_best=True), *perplexity]

    def figures(self, run: Shown) -> Iterable[Drawing | None]:
        return [run_curves.training(run.folder, run.result, run.groups)]
