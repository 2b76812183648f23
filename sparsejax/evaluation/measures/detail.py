"""Optional measures of a network: misclassifications by class, and the sparsity of its code."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from sparsejax.evaluation.measure import EvaluationBatch, Measure, Setting, register_measure
from sparsejax.evaluation.measures.activity import active_units
from sparsejax.figures import run_curves, run_layers
from sparsejax.figures.drawing import Column, Drawing, Shown, Table
from sparsejax.figures.words import count, percent, plain
from sparsejax.functional.measures import (
    active_counts,
    confusion_matrix,
    gini,
    hoyer,
    magnitude_counts,
    precision,
    recall,
)
from sparsejax.models.base import Model, Variables

EDGES = (2.0 ** np.linspace(-20, 20, 81)).astype(np.float32)
"""Edges of the histogram of activations: two per octave, from 1e-6 to 1e6."""

NORMS = ("l0", "l1", "gini", "hoyer")
_WEIGHT_BINS = 60


class Detail(NamedTuple):
    """Misclassifications and hidden codes of a split.

    `examples` of every class, and the `confusion` between classes (None without classes). `norms` holds for each
    layer the sum over the examples and that of squares of l0, l1, the Gini index and Hoyer's; `active` the number of
    examples of every class for which each unit was active, `magnitudes` the counts of `magnitude_counts` between
    `EDGES`.
    """

    examples: Int[Array, "classes"]
    confusion: Int[Array, "classes classes"] | None
    norms: dict[str, Float[Array, "4 2"]]
    active: dict[str, Int[Array, "classes units"]]
    magnitudes: dict[str, Int[Array, "bins"]]


@register_measure("detail", place=50)
class DetailMeasure(Measure):
    """Misclassifications by class, and the activity and sparsity of hidden layers by class."""

    file = "detail.npz"

    def misfit(self, setting: Setting) -> str | None:
        return "windows of a text have no classes" if setting.config.objective.kind == "next_token" else None

    def of_batch(self, model: Model, variables: Variables, batch: EvaluationBatch) -> Detail:
        classes, labels, counted = self.setting.classes, batch.labels, batch.counted
        confusion = None
        if self.setting.config.objective.kind == "classification":
            answers = batch.output.prediction
            # A prediction that is NaN is in no column.
            guess = jnp.where(jnp.any(jnp.isnan(answers), axis=-1), classes, jnp.argmax(answers, axis=-1))
            confusion = confusion_matrix(labels, guess, classes=classes, counted=counted)
        seen = jnp.zeros(classes, jnp.int32).at[labels].add(counted.astype(jnp.int32))
        units = active_units(batch, self.setting)
        norms, active, magnitudes = {}, {}, {}
        for name, y in batch.output.activations.items():
            y, on = y.reshape(len(labels), -1).astype(jnp.float32), units[name]
            l0, l1 = jnp.sum(on.astype(jnp.float32), axis=-1), jnp.sum(jnp.abs(y), axis=-1)
            alone = y.shape[-1] < 2  # Hoyer's index is undefined for a single unit
            each = jnp.stack([l0, l1, gini(y), jnp.zeros_like(l1) if alone else hoyer(y)])
            each = jnp.where(counted[None], each, 0.0)
            norms[name] = jnp.stack([jnp.sum(each, axis=-1), jnp.sum(each**2, axis=-1)], axis=-1)
            active[name] = active_counts(on, labels, classes=classes)
            magnitudes[name] = magnitude_counts(y, jnp.asarray(EDGES), counted=counted[:, None])
        return Detail(seen, confusion, norms, active, magnitudes)

    def report(self, sums: Detail) -> dict[str, Any]:
        """Return the entries of one network in `result.json`: for its classes, and for each hidden layer.

        For the classes `confusion` (rows are labels, columns predictions), `precision` and `recall`; none without
        classes. For a layer the mean over the examples of `l0` (units active), `l1` (summed absolute activity), `gini`
        and `hoyer`, and their standard deviations, such as `l0_spread`.
        """
        examples = int(sums.examples.sum())
        layers = {}
        for layer, norms in sums.norms.items():
            mean, square = (np.asarray(norms, float) / examples).T
            spread = np.sqrt(np.maximum(square - mean**2, 0.0))
            layers[layer] = dict(zip(NORMS, mean.tolist(), strict=True))
            layers[layer] |= {f"{name}_spread": value for name, value in zip(NORMS, spread.tolist(), strict=True)}
        if sums.confusion is None:
            return {"layers": layers}
        confusion = jnp.asarray(sums.confusion)
        undefined = jnp.asarray(sums.examples) - jnp.sum(confusion, axis=-1)
        recalled = recall(jnp.pad(confusion, (0, 1)).at[:-1, -1].set(undefined))[:-1]
        classes = {"confusion": confusion, "precision": precision(confusion), "recall": recalled}
        return {name: np.asarray(values).tolist() for name, values in classes.items()} | {"layers": layers}

    def arrays(self, sums: Detail) -> dict[str, np.ndarray]:
        """Return the arrays of `detail.npz`, all except the edges with a leading axis of networks.

        `examples [classes]`; per layer `LAYER.active [classes, units]`, the number of examples of every class for which
        each unit was active; `LAYER.magnitudes [bins]`, the histogram of activations between `magnitudes.edges`; and
        for a layer with a kernel, and the output, `LAYER.weights [bins]` between `LAYER.weights.edges`.
        """
        arrays = {"examples": np.asarray(sums.examples), "magnitudes.edges": EDGES}
        for name in sums.active:
            arrays[f"{name}.active"] = np.asarray(sums.active[name])
            arrays[f"{name}.magnitudes"] = np.asarray(sums.magnitudes[name])
        for name, params in self.setting.variables.params.items() if self.setting.variables else ():
            if isinstance(params, dict) and "kernel" in params:
                counts, edges = weight_histograms(np.asarray(params["kernel"]))
                arrays |= {f"{name}.weights": counts, f"{name}.weights.edges": edges}
        return arrays

    def columns(self, result: Mapping[str, Any]) -> list[Column]:
        if not all("gini" in layer for layer in (result.get("layers") or {}).values()):
            return []
        said = (
            "l0 and l1 are the active units and the summed activity per example; the Gini and Hoyer indices range "
            "from 0, all units equally active, to 1, only one."
        )
        titles = dict(zip(NORMS, ("l0", "l1", "Gini", "Hoyer"), strict=True))
        return [
            Column(title, lambda layer, name=name: plain(float(f"{layer[name]:.4g}")), said if name == "l0" else "")
            for name, title in titles.items()
        ]

    def tables(self, result: Mapping[str, Any]) -> list[Table]:
        if "confusion" not in result:
            return []
        rows = [
            [str(i), count(sum(row)), percent(of_those_named), percent(of_those_there)]
            for i, (row, of_those_named, of_those_there) in enumerate(
                zip(result["confusion"], result["precision"], result["recall"], strict=True)
            )
        ]
        said = (
            "Precision is the fraction of correct predictions of a class, recall the fraction of its examples "
            "that are recognised."
        )
        head = ["Class", "Examples", "Precision", "Recall"]
        return [Table("Classes", "Precision and recall of each class", head, rows, said)]

    def figures(self, run: Shown) -> Iterable[Drawing | None]:
        return [
            run_curves.confusion(run.result),
            run_layers.sizes(run.folder, run.result),
            run_layers.weights(run.folder, run.result),
        ]


def weight_histograms(weights: np.ndarray, bins: int = _WEIGHT_BINS) -> tuple[np.ndarray, np.ndarray]:
    """Counts weights `[networks, ...]` in bins that all networks share: counts `[networks, bins]`, edges `[bins + 1]`.

    The bins are of equal width and symmetric about 0; weights that are not finite are ignored.
    """
    finite = np.abs(weights[np.isfinite(weights)])
    most = float(finite.max()) if finite.size and finite.max() > 0 else 1.0
    edges = np.linspace(-most, most, bins + 1)
    return np.stack([np.histogram(one[np.isfinite(one)], edges)[0] for one in weights]), edges
