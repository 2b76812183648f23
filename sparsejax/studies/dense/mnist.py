"""MNIST in "How Can We Be So Dense?": table 1, figure 5, and the same with dropout.

Every number is given twice: after the last epoch, and after the epoch with the best test accuracy of each network,
which the paper reports, without stating it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax import configs
from sparsejax.configuration import replace
from sparsejax.data import load
from sparsejax.evaluation.measures.noise_score import NOISE_LEVELS
from sparsejax.figures.activity import image_grid
from sparsejax.figures.comparison import paper_comparison
from sparsejax.figures.noise import noise_curve
from sparsejax.functional import example_keys, pixel_noise
from sparsejax.studies.networks import train_members
from sparsejax.studies.study import Outcome, Scale, study
from sparsejax.training.config import Config

# Test accuracy in per cent and noise score, each with its standard deviation over ten seeds.
TABLE1 = {
    "Dense CNN-1": ("mnist_dense_cnn1", (99.14, 0.03), (74_569, 3_200)),
    "Dense CNN-2": ("mnist_dense_cnn2", (99.31, 0.06), (97_040, 2_853)),
    "Sparse CNN-1": ("mnist_sparse_cnn1", (98.41, 0.08), (100_306, 1_735)),
    "Sparse CNN-2": ("mnist_kwinners", (99.09, 0.05), (103_764, 1_125)),
    "Dense CNN-2 SP3": ("mnist_dense_cnn2_sp3", (99.13, 0.07), (100_318, 2_762)),
    "Sparse CNN-2 D3": ("mnist_sparse_cnn2_d3", (98.89, 0.13), (102_328, 1_720)),
    "Sparse CNN-2 W1": ("mnist_sparse_cnn2_w1", (98.20, 0.19), (100_322, 2_082)),
    "Sparse CNN-2 DSW": ("mnist_sparse_cnn2_dsw", (98.92, 0.09), (70_566, 2_857)),
}
SEEDS = tuple(range(42, 52))
_FIG5 = ("Dense CNN-1", "Dense CNN-2", "Sparse CNN-1", "Sparse CNN-2")
_SHORT = {"training.epochs": 3, "data.train_examples": 12_000, "data.test_examples": 2_000}


def apply_scale(config: Config, scale: Scale) -> Config:
    """Returns a configuration as published, or with a fifth of the images for three epochs."""
    return replace(config, _SHORT if scale == "small" else {})


def _rows(networks: Mapping[str, Config], scale: Scale, folder: Path, seeds: Sequence[int]) -> dict[str, list[dict]]:
    """Trains every kind of network with every seed: name -> the results of each network.

    The table and the figures share networks, and so their folder.
    """
    shared, rows = folder.parents[1] / "mnist" / scale, {}
    for name, config in networks.items():
        label = name.replace(", ", "_").replace(" ", "_")
        (members,) = train_members(apply_scale(config, scale), shared, label, seeds=seeds)
        rows[name] = [member.result for member in members]
    return rows


def both_rules(members: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns mean and standard deviation over the networks of test accuracy (per cent) and noise score."""
    figures = {}
    for rule, entries in (("best", [member["best"] for member in members]), ("last", members)):
        for name, factor in (("test_accuracy", 100), ("noise_score", 1)):
            values = factor * np.asarray([entry[name] for entry in entries], float)
            figures[f"{name}_{rule}"] = [round(float(values.mean()), 3), round(float(values.std()), 3)]
    return figures


@study("dense/table1", "MNIST: test accuracy and noise score of the eight networks", seeds=SEEDS)
@study("dense/sparse_cnn2", "table 1's row of Sparse CNN-2, in minutes", "Table 1", seeds=SEEDS, names=["Sparse CNN-2"])
def _table1(scale: Scale, folder: Path, seeds: Sequence[int], names: Sequence[str] | None = None) -> Outcome:
    table = {name: TABLE1[name] for name in names or TABLE1}
    rows = _rows({name: configs.get(config) for name, (config, *_) in table.items()}, scale, folder, seeds)
    best = {name: [member["best"] for member in row] for name, row in rows.items()}
    # In per cent, because both count test images, of which a smaller scale has fewer.
    drawn = {
        "test accuracy (%)": [[100 * one["test_accuracy"] for one in row] for row in best.values()],
        "noise score (% of the greatest)": [
            [100 * one["noise_score"] / one["noise_score_max"] for one in row] for row in best.values()
        ],
    }
    paper = {
        "test accuracy (%)": [accuracy for _, accuracy, _ in table.values()],
        "noise score (% of the greatest)": [(mean / 1100, std / 1100) for _, _, (mean, std) in table.values()],
    }
    figure = paper_comparison(list(table), drawn, paper)
    ours: dict[str, Any] = {name: both_rules(row) for name, row in rows.items()}
    published = {
        name: {"test_accuracy_best": list(accuracy), "noise_score_best": list(noise)}
        for name, (_, accuracy, noise) in table.items()
    }
    if scale == "paper":
        for measure in ("test_accuracy_best", "noise_score_best"):
            ours[f"within two of the paper's standard deviations: {measure}"] = [
                name
                for name, entry in published.items()
                if abs(ours[name][measure][0] - entry[measure][0]) <= 2 * entry[measure][1]
            ]
    return Outcome(figure, ours, published, list(seeds))


def _curves(networks: Mapping[str, Config], scale: Scale, folder: Path, seeds: Sequence[int]) -> Outcome:
    """Draws accuracy against noise at each network's best epoch."""
    rows = _rows(networks, scale, folder, seeds)
    accuracy = [member["best"]["noise_accuracy"] for row in rows.values() for member in row]
    scores = [member["best"]["noise_score"] for row in rows.values() for member in row]
    groups = [name for name, row in rows.items() for _ in row]
    figure = noise_curve(NOISE_LEVELS, accuracy, scores=scores, groups=groups)
    ours = {"levels": list(NOISE_LEVELS)}
    for name, row in rows.items():
        ours |= {f"{name}, accuracy": np.mean([member["best"]["noise_accuracy"] for member in row], axis=0).tolist()}
        ours |= {name: both_rules(row)}
    published = {name: {"noise_score_best": list(TABLE1[name][2])} for name in networks if name in TABLE1}
    return Outcome(figure, ours, published, list(seeds))


@study("dense/fig5", "accuracy against noise, dense and sparse", "Fig. 5B", seeds=SEEDS)
def _fig5(scale: Scale, folder: Path, seeds: Sequence[int]) -> Outcome:
    return _curves({name: configs.get(TABLE1[name][0]) for name in _FIG5}, scale, folder, seeds)


@study("dense/fig5a", "digits at the eleven noise levels", "Fig. 5A")
def _fig5a(scale: Scale, folder: Path) -> Outcome:
    """Shows test images at every noise level; it trains nothing."""
    dataset = load("mnist")
    images = jnp.asarray(dataset.test.images[:3].astype(np.float32) / 255)
    white, keys = dataset.mean[0] + 2 * dataset.std[0], example_keys(jax.random.key(0), jnp.arange(len(images)))
    noisy = np.stack([np.asarray(pixel_noise(keys, images, level=level, value=white)) for level in NOISE_LEVELS])
    changed = [float(np.mean(level != images)) for level in noisy]
    figure = image_grid(noisy.swapaxes(0, 1), None)
    return Outcome(figure, {"levels": list(NOISE_LEVELS), "pixels_changed": changed}, {}, [0])


@study("dense/dropout", "accuracy against noise, with and without dropout", "section 4.1 with dropout", seeds=SEEDS)
def _dropout(scale: Scale, folder: Path, seeds: Sequence[int]) -> Outcome:
    networks = {}
    for name in ("Dense CNN-2", "Sparse CNN-2"):
        config = configs.get(TABLE1[name][0])
        networks |= {name: config, f"{name}, dropout": replace(config, {"model.dropout": 0.5})}
    return _curves(networks, scale, folder, seeds)
