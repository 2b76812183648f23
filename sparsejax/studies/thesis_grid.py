"""The grids of the thesis: networks of one shape for each penalty and seed, and what is measured of them.

Networks of five seeds and all penalties are one run, whose networks see the same batches; so further seeds are added
to those that a folder holds without training these again.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sparsejax.figures.curves import curves_of
from sparsejax.studies.study import recorded, replaced, train
from sparsejax.training.config import Config
from sparsejax.training.log import read_metrics
from sparsejax.training.run_folder import RunFolder

TOGETHER = 5  # seeds of a run, and of an order of the examples

Measures = dict[str, np.ndarray]


def penalised_grid(config: Config, folder: Path, penalties: Sequence[float], seeds: Sequence[int]) -> Measures:
    """Trains a network for each weight of the L1 penalty and seed that the folder does not hold yet.

    Args:
      config: the network, a classifier whose hidden layers have equally many units.
      folder: of this kind of network; the runs are `runs/SEEDS` in it.
      penalties: weights.
      seeds: of the networks; seeds 0 to 4 share the order of the examples, and so on.

    Returns:
      Over the test set, `accuracy [penalties, seeds]`, and of an image `l0`, `l1` and `gini [penalties, seeds, layers]`
      and `fired [penalties, seeds, layers, classes, units]`, the fraction of the images of a class for which a unit was
      active; of training, `epochs [points]` and the penalised activity `l1_along [penalties, seeds, points]`.
    """
    config = replaced(config, "evaluation.detail", True)
    found = _found(config, folder, penalties)
    missing = [seed for seed in seeds if seed not in found]
    for group in sorted({seed // TOGETHER for seed in missing}):
        chosen = [seed for seed in missing if seed // TOGETHER == group]
        network = replaced(config, "training.order_seed", group)
        train(network, folder, "_".join(map(str, chosen)), field="objective.l1", values=penalties, seeds=chosen)
    found = _found(config, folder, penalties)
    first = found[seeds[0]]
    return {name: np.stack([found[seed][name] for seed in seeds], 1) for name in first if name != "epochs"} | {
        "epochs": first["epochs"]
    }


def _found(config: Config, folder: Path, penalties: Sequence[float]) -> dict[int, Measures]:
    """Returns what the finished runs of a folder say of each seed, arrays `[penalties, ...]`."""
    found = {}
    for path in sorted(folder.glob("runs/*/result.json")):
        run = RunFolder(path.parent)
        members = json.loads(path.read_text(encoding="utf-8"))
        settings, members = members["config"], members["members"]
        seeds = [member["seed"] for member in members[: len(members) // len(penalties)]]
        if settings == _settings(config, penalties[0], seeds[0]) and (
            [member["objective.l1"] for member in members] == [weight for weight in penalties for _ in seeds]
        ):
            measures = _measures(run, members)
            epochs = measures.pop("epochs")
            for i, seed in enumerate(seeds):
                one = {name: values[i :: len(seeds)] for name, values in measures.items()}
                found[seed] = one | {"epochs": epochs}
    return found


def _settings(config: Config, penalty: float, seed: int) -> dict:
    """Returns the configuration that a run of these networks records, that of its first."""
    for field, value in (("objective.l1", penalty), ("training.seed", seed), ("training.order_seed", seed // TOGETHER)):
        config = replaced(config, field, value)
    return recorded(config)


def _measures(run: RunFolder, members: list[dict]) -> Measures:
    """Reads what a run says of its networks: name -> `[networks, ...]`."""
    layers = list(members[0]["layers"])
    measures = {
        name: np.asarray([[member["layers"][layer][name] for layer in layers] for member in members])
        for name in ("l0", "l1", "gini")
    }
    with np.load(run.detail) as detail:
        counts = np.stack([detail[f"{layer}.active"] for layer in layers], 1)
        measures["fired"] = counts / detail["examples"][:, None, :, None]
    along = curves_of(read_metrics(run.metrics))["l1_activity"]
    measures["accuracy"] = np.asarray([member["test_accuracy"] for member in members])
    return measures | {"l1_along": along.values.T, "epochs": along.epochs}
