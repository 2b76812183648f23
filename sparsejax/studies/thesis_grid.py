"""The grids of the thesis: networks of one shape for each penalty and seed, and what is measured of them.

Networks of five seeds and all penalties are one run, whose networks see the same batches. A run that is done leaves
its measures beside it, so that further seeds are added without going through it again.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from sparsejax.data.resident import Batch, normalised, resident
from sparsejax.experiment import load_data
from sparsejax.models.base import Variables
from sparsejax.studies.study import recorded, replaced, train
from sparsejax.training.config import Config
from sparsejax.training.objectives import objective_of
from sparsejax.training.run_folder import RunFolder

TOGETHER = 5  # seeds of a run
_PER_CLASS = 100  # images of each class that the thesis counts activations over

Measures = dict[str, np.ndarray]


def penalised_grid(config: Config, folder: Path, penalties: Sequence[float], seeds: Sequence[int]) -> Measures:
    """Trains a network for each weight of the L1 penalty and seed that the folder does not hold yet.

    Args:
      config: the network.
      folder: of this kind of network.
      penalties: weights.
      seeds: of the networks; the order of the examples is that of seed // 5.

    Returns:
      Over the test set, `loss` and `accuracy` (of classifiers) `[penalties, seeds]`, `l0` and `l1` activity of an
      image `[penalties, seeds, layers]`; over the first 100 images of every class the `gini` index (that of an image,
      averaged) and, if all layers have as many units, the fraction of the images for which each unit was active,
      `fired [penalties, seeds, layers, classes, units]`; of training `epochs [points]` and the penalised activity
      `l1_along [points, penalties, seeds]`.
    """
    expected = recorded(config) | {"penalties": list(penalties)}
    found = _found(folder, expected)
    missing = [seed for seed in seeds if seed not in found]
    for group in sorted({seed // TOGETHER for seed in missing}):
        chosen = [seed for seed in missing if seed // TOGETHER == group]
        name = "_".join(map(str, chosen))
        network = replaced(config, "training.order_seed", group)
        trained = train(network, folder, name, field="objective.l1", values=penalties, seeds=chosen)
        measures = _measures(network, trained.finished.variables.params)
        shaped = {key: values.reshape(len(penalties), -1, *values.shape[1:]) for key, values in measures.items()}
        epochs, along = trained.along("l1_activity")
        arrays = shaped | {"l1_along": along.transpose(1, 2, 0), "epochs": epochs, "seeds": np.asarray(chosen)}
        RunFolder(folder).write_arrays(folder / f"{name}.npz", arrays | {"of": np.asarray(json.dumps(expected))})
    found = _found(folder, expected)
    first = found[seeds[0]]
    stacked = {key: np.stack([found[seed][key] for seed in seeds], 1) for key in first if key != "epochs"}
    return stacked | {"l1_along": np.moveaxis(stacked["l1_along"], -1, 0), "epochs": first["epochs"]}


def _found(folder: Path, expected: dict) -> dict[int, Measures]:
    """Returns what the folder holds of each seed, arrays `[penalties, ...]`."""
    found = {}
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as file:
            arrays = {key: file[key] for key in file.files}
        if json.loads(str(arrays.pop("of"))) != expected:
            continue
        epochs = arrays.pop("epochs")
        for i, seed in enumerate(arrays.pop("seeds").tolist()):
            found[seed] = {key: values[:, i] for key, values in arrays.items()} | {"epochs": epochs}
    return found


def _measures(config: Config, params: dict) -> Measures:
    """Measures networks on the test set, one after another: name -> `[networks, ...]`."""
    dataset = load_data(config)
    test = resident(dataset, dataset.test, normalise=config.data.normalise)
    labels = dataset.test.labels
    per_class = min(_PER_CLASS, int(np.bincount(labels, minlength=dataset.classes).min()))
    chosen = jnp.asarray([np.flatnonzero(labels == label)[:per_class] for label in range(dataset.classes)])
    objective, alike = objective_of(config.objective), len({*config.model.hidden}) == 1

    def measure(params):
        batch = Batch(normalised(test, test.images), test.labels, jnp.arange(len(labels)))
        output = config.model.apply(Variables(params, {}), batch.images)
        layers = list(output.activations.values())
        some = [h[chosen] for h in layers]
        measures = {name: jnp.mean(values) for name, values in objective.score(output, batch).items()}
        measures["l0"] = jnp.stack([jnp.mean(jnp.sum((h != 0).astype(jnp.float32), -1)) for h in layers])
        measures["l1"] = jnp.stack([jnp.mean(jnp.sum(jnp.abs(h), -1)) for h in layers])
        measures["gini"] = jnp.stack([jnp.mean(_gini(h)) for h in some])
        if alike:
            measures["fired"] = jnp.stack([jnp.mean((h != 0).astype(jnp.float32), 1) for h in some])
        return measures

    measured = jax.jit(lambda params: lax.map(measure, params))(params)
    return {name: np.asarray(values) for name, values in measured.items()}


def _gini(x: Float[Array, "*batch units"]) -> Float[Array, "*batch"]:
    """Returns the Gini index of each row of non-negative numbers (Eq. 1.18), 0 for a row of zeros."""
    n = x.shape[-1]
    weights = 2 * jnp.arange(1, n + 1, dtype=jnp.float32) - n - 1
    total = jnp.sum(x, -1)
    return jnp.where(total > 0, jnp.sort(x, axis=-1) @ weights / (n * jnp.where(total > 0, total, 1.0)), 0.0)
