"""The scoreboard: networks of one architecture with different sparse methods on one benchmark, MNIST and CIFAR-10.

It is in none of the papers. It measures for every network: accuracy on clean, noisy and attacked images, the distance
to misclassified images, sparsity, saved products, and training time.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sparsejax.configs.scoreboard import DataName, networks
from sparsejax.configuration import replace
from sparsejax.evaluation.attacks.geometry import Norm
from sparsejax.studies.attacked import cached_report, test_pixels
from sparsejax.studies.networks import train
from sparsejax.studies.scoreboard.figure import Column, scoreboard
from sparsejax.studies.study import Outcome, Scale, study
from sparsejax.training.config import Config

SEEDS = tuple(range(5))
ATTACKS = {"fgsm": "FGSM", "pgd": "PGD", "apgd_ce": "APGD\nCE", "apgd_t": "APGD\nT", "fab_t": "FAB\nT",
           "square": "Square"}  # fmt: skip
"""All run separately; the last four are AutoAttack's."""


class Bench(NamedTuple):
    """The benchmark of a data set: noise, a ball for each norm, and the attacked images."""

    title: str
    sigma: float
    balls: dict[Norm, float]
    attacked: dict[Scale, int]


BENCHES: dict[DataName, Bench] = {
    "mnist": Bench("MNIST", 0.3, {"linf": 0.1, "l2": 1.0}, {"small": 100, "paper": 1000}),
    "cifar10": Bench("CIFAR-10", 0.1, {"linf": 2 / 255, "l2": 0.25}, {"small": 100, "paper": 1000}),
}
_SMALL: dict[DataName, dict[str, Any]] = {
    "mnist": {"data.train_examples": 12_000, "data.test_examples": 2_000},
    "cifar10": {"data.train_examples": 20_000, "data.test_examples": 2_000},
}
_LINF = "accuracy under attack, ℓ∞ (%)"
COLUMNS = (
    Column("accuracy (%)", "clean", ".1f", "more"),
    Column("accuracy (%)", "Gauss\nnoise", ".1f", "more"),
    Column("accuracy (%)", "pixels\nnoise", ".1f", "more"),
    *(Column(_LINF, name, ".1f", "more") for name in (*ATTACKS.values(), "all")),
    Column("ℓ2", "all\n(%)", ".1f", "more"),
    Column("ℓ2", "median\naway", ".2f", "more"),
    Column("activity", "active\n(%)", ".1f", "less"),
    Column("activity", "Gini", ".2f", "more"),
    Column("activity", "Hoyer", ".2f", "more"),
    Column("activity", "dead\n(%)", ".1f", "less"),
    Column("cost", "fewer\nprod. ×", ".1f", "more"),
    Column("cost", "train\n(s)", ".0f", "less"),
)
KEYS = ("clean", "gaussian_noise", "pixel_noise", *ATTACKS, "linf_all", "l2_all", "l2_mistake", "active", "gini",
        "hoyer", "dead", "products_saved", "training_seconds")  # fmt: skip
"""Names of the columns in the numbers."""


def base(data: DataName, scale: Scale) -> dict[str, Config]:
    """Returns the networks: with the published width and all images, or half as wide on a part of them."""
    if scale == "paper":
        return networks(data)
    small = networks(data, channels=(16, 32), hidden=128, epochs=10)
    return {label: replace(config, _SMALL[data]) for label, config in small.items()}


def measure_row(result: Mapping[str, Any], report: Mapping[str, Any], bench: Bench) -> list[float]:
    """Returns a row from a run's `result.json` and its network's report, in the order of the columns."""
    layers = list(result["layers"].values())
    units = sum(layer["units"] for layer in layers)

    def overall(name: str) -> float:
        """Returns the mean over the layers, weighted by their units."""
        return sum(layer[name] * layer["units"] for layer in layers) / units

    return [
        100 * result["test_accuracy"],
        100 * report["noise"]["gaussian"][str(bench.sigma)],
        100 * result["noise_score"] / result["noise_score_max"],
        *(100 * report["linf"][attack] for attack in ATTACKS),
        100 * report["linf"]["all"],
        100 * report["l2"]["all"],
        report["minimal"]["l2"],
        100 * overall("active_fraction"),
        overall("gini"),
        overall("hoyer"),
        100 * sum(layer["dead_units"] for layer in layers) / units,
        result.get("products_ratio") or math.nan,
        result["training_seconds"],
    ]


def _rows(data: DataName, scale: Scale, folder: Path, seeds: Sequence[int]) -> dict[str, list[float]]:
    bench, rows = BENCHES[data], {}
    pixels = test_pixels(data, bench.attacked[scale])
    for label, config in base(data, scale).items():
        of_seeds = []
        for seed in seeds:
            trained = train(config, folder / data, f"{label}/{seed}", fields={}, seeds=[seed])
            report = cached_report(
                folder / data / f"{label}_{seed}.json", config.model, trained.network(0), pixels, seed=seed,
                noise={"gaussian": (bench.sigma,)}, balls=bench.balls, minimal=("l2",),
                attacks={"linf": tuple(ATTACKS), "l2": ("apgd_ce", "apgd_t")}, batch_size=min(250, len(pixels.labels)),
            )  # fmt: skip
            of_seeds.append(measure_row(trained.finished.result, report, bench))
        rows[label] = np.mean(of_seeds, axis=0).tolist()
    return rows


@study("scoreboard", "every way to be sparse, one shape, noise and attacks: one table", seeds=SEEDS)
def _scoreboard(scale: Scale, folder: Path, seeds: Sequence[int]) -> Outcome:
    boards, ours = {}, {}
    for data, bench in BENCHES.items():
        rows = _rows(data, scale, folder, seeds)
        radii = f"ℓ∞ {_format_radius(bench.balls['linf'])}, ℓ2 {bench.balls['l2']:g}"
        boards[f"{bench.title}\nGaussian noise {bench.sigma:g}; attacks within {radii}"] = rows
        ours[data] = {label: dict(zip(KEYS, (round(value, 4) for value in row), strict=True))
                      for label, row in rows.items()}  # fmt: skip
    return Outcome(scoreboard(boards, COLUMNS), ours, {}, list(seeds))


def _format_radius(radius: float) -> str:
    return f"{radius:g}" if radius >= 0.05 else f"{round(255 * radius)}/255"
