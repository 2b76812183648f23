"""Hebbian/anti-Hebbian networks on CIFAR-10: tables 1 and 2 and figures 2 to 5 of Cekic et al.

All share their networks and robustness reports. Attacks are APGD on the cross-entropy and targeted
APGD, as the paper's; noisy images are clipped, and accuracies averaged over three draws.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax import configs
from sparsejax.configs.hebbian import narrow
from sparsejax.configuration import replace
from sparsejax.evaluation.attacks.geometry import Norm
from sparsejax.figures.blocks import by_block
from sparsejax.figures.noise import noise_curve
from sparsejax.figures.table import table
from sparsejax.models import HebbianVGG, Variables
from sparsejax.studies.attacked import cached_report, test_pixels
from sparsejax.studies.hebbian.responses import channel_ratio, signal_to_noise
from sparsejax.studies.networks import Trained, train
from sparsejax.studies.study import Outcome, Scale, study
from sparsejax.training.config import Config

SEEDS = tuple(range(2022, 2027))
# Accuracy in per cent: clean, with noise of 0.1, and under attack within 2/255 (linf) and 0.25 (l2).
PAPER = {
    "standard": ("cifar_vgg16", (92.5, 26.6, 10.4, 13.9)),
    "HaH": ("cifar_hebbian", (87.3, 64.0, 21.5, 27.6)),
    "no HaH cost": ("cifar_hebbian_no_cost", (89.7, 50.4, 8.8, 11.7)),
    "batch norm": ("cifar_hebbian_batch_norm", (90.4, 46.7, 12.3, 17.4)),
    "no threshold": ("cifar_hebbian_no_threshold", (89.9, 37.5, 3.7, 2.5)),
}
_COLUMNS = ("clean", "noise of 0.1", "linf, 2/255", "l2, 0.25")
_PAIR = ("standard", "HaH")
NOISE = (0.0, 0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2)
NORMS: dict[Norm, str] = {"l0": "ℓ0", "l1": "ℓ1", "l2": "ℓ2", "linf": "ℓ∞"}
_FEW = {"data.train_examples": 20_000, "data.test_examples": 1_000}
_IMAGES = {"small": (1_000, 150), "paper": (10_000, 10_000)}
"""Number of test images, and of attacked ones."""


def base(scale: Scale, label: str) -> Config:
    """Returns a network as published, or a narrow one for fewer epochs on fewer images."""
    config = configs.get(PAPER[label][0])
    return config if scale == "paper" else replace(narrow(config), _FEW)


def _train(label: str, scale: Scale, folder: Path, seed: int) -> tuple[HebbianVGG, Variables]:
    config = base(scale, label)
    name = f"{label.replace(' ', '_')}/{seed}"
    trained: Trained = train(config, folder.parents[1] / "cifar" / scale, name, fields={}, seeds=[seed])
    assert isinstance(config.model, HebbianVGG)
    return config.model, trained.network(0)


def _robustness(label: str, scale: Scale, folder: Path, seed: int) -> dict[str, Any]:
    model, variables = _train(label, scale, folder, seed)
    path = folder.parents[1] / "cifar" / scale / f"{label.replace(' ', '_')}_{seed}.json"
    images, attacked = _IMAGES[scale]
    data, minimal = test_pixels("cifar10", images), tuple(NORMS) if label in _PAIR else ()
    settings = {"noise": {"gaussian": NOISE}, "attacks": ("apgd_ce", "apgd_t"), "minimal": minimal,
                "attacked": attacked}  # fmt: skip
    return cached_report(path, model, variables, data, seed=seed, **settings)


def _row(report: dict[str, Any]) -> list[float]:
    return [100 * value for value in (report["clean"], report["noise"]["gaussian"]["0.1"], report["linf"]["all"],
                                      report["l2"]["all"])]  # fmt: skip


@study("hah/table1", "accuracy, clean, noisy and attacked, standard and HaH networks", seeds=SEEDS, labels=_PAIR)
@study("hah/table2", "the same of the ablations", seeds=SEEDS, labels=tuple(PAPER)[1:])
def _table(scale: Scale, folder: Path, seeds: Sequence[int], labels: tuple[str, ...]) -> Outcome:
    means = {
        label: np.mean([_row(_robustness(label, scale, folder, seed)) for seed in seeds], axis=0) for label in labels
    }
    cells = {label: [f"{a:.1f} ({b:.1f})" for a, b in zip(means[label], PAPER[label][1], strict=True)]
             for label in labels}  # fmt: skip
    head = ["accuracy (%), in brackets the paper's", *_COLUMNS]
    figure = table(head, [[label, *cells[label]] for label in labels])
    ours: dict[str, Any] = {"columns": list(_COLUMNS)} | {label: row.round(2).tolist() for label, row in means.items()}
    first = labels[0]
    ours["same direction as in the paper, against the first row"] = {
        label: [bool((row[i] > means[first][i]) == (PAPER[label][1][i] > PAPER[first][1][i])) for i in range(4)]
        for label, row in means.items()
        if label != first
    }
    paper = {label: list(PAPER[label][1]) for label in labels}
    return Outcome(figure, ours, paper, list(seeds))


def _of_pair(seeds: Sequence[int], of: Callable[[str, int], list[float]]) -> dict[str, np.ndarray]:
    """Returns `of(label, seed)` for both networks, `[seeds, values]`."""
    return {label: np.array([of(label, seed) for seed in seeds]) for label in _PAIR}


@study("hah/fig2", "how sparse the channels of the first blocks are", seeds=SEEDS)
def _fig2(scale: Scale, folder: Path, seeds: Sequence[int]) -> Outcome:
    blocks = range(1, base(scale, "HaH").model.hebbian + 1)  # pyright: ignore
    images, _, normalize = test_pixels("cifar10", 500)

    def ratios(label: str, seed: int) -> list[float]:
        model, variables = _train(label, scale, folder, seed)
        activations = jax.jit(model.apply)(variables, normalize(jnp.asarray(images))).activations
        return [float(channel_ratio(activations[f"conv{block}"])) for block in blocks]

    networks = _of_pair(seeds, ratios)
    figure = by_block([str(block) for block in blocks], networks, label="ℓ1/ℓ2 ratio, in [0, 1]")
    ours: dict[str, Any] = {label: rows.mean(0).round(4).tolist() for label, rows in networks.items()}
    ours["HaH is sparser in every block"] = bool(np.all(networks["HaH"].mean(0) < networks["standard"].mean(0)))
    return Outcome(figure, ours, {"HaH is sparser in every block": True}, list(seeds))


@study("hah/fig3", "signal to noise at every block", seeds=SEEDS)
def _fig3(scale: Scale, folder: Path, seeds: Sequence[int]) -> Outcome:
    blocks: list[str] = []
    images, _, normalize = test_pixels("cifar10", 500)
    noise = 0.1 * jax.random.normal(jax.random.key(0), images.shape)
    noisy = jnp.clip(jnp.asarray(images) + noise, 0, 1)

    def ratios(label: str, seed: int) -> list[float]:
        model, variables = _train(label, scale, folder, seed)
        seen = jax.jit(model.block_inputs)
        found = signal_to_noise(seen(variables, normalize(jnp.asarray(images))), seen(variables, normalize(noisy)))
        blocks[:] = sorted((name.removeprefix("conv") for name in found), key=int)
        return [float(found[f"conv{block}"]) for block in blocks]

    networks = _of_pair(seeds, ratios)
    figure = by_block(blocks, networks, label="signal to noise (dB)")
    ours: dict[str, Any] = {label: rows.mean(0).round(2).tolist() for label, rows in networks.items()}
    above = networks["HaH"].mean(0)[1:] > networks["standard"].mean(0)[1:]
    ours["blocks but the first in which HaH has the higher ratio"] = float(above.mean())
    return Outcome(figure, ours, {"blocks but the first in which HaH has the higher ratio": 1.0}, list(seeds))


@study("hah/fig4", "accuracy against Gaussian noise", seeds=SEEDS)
def _fig4(scale: Scale, folder: Path, seeds: Sequence[int]) -> Outcome:
    def accuracies(label: str, seed: int) -> list[float]:
        accuracy = _robustness(label, scale, folder, seed)["noise"]["gaussian"]
        return [accuracy[str(level)] for level in NOISE]

    networks = _of_pair(seeds, accuracies)
    groups = [label for label in _PAIR for _ in seeds]
    accuracy, label = np.concatenate(list(networks.values())), "standard deviation of the noise (%)"
    figure = noise_curve(NOISE, accuracy, groups=groups, label=label)
    ours = {"sigma": list(NOISE), **{label: rows.mean(0).round(4).tolist() for label, rows in networks.items()}}
    return Outcome(figure, ours, {"standard": {"0.1": 0.26}, "HaH": {"0.1": 0.64}}, list(seeds))


@study("hah/fig5", "distance of the nearest mistake in four norms", seeds=SEEDS)
def _fig5(scale: Scale, folder: Path, seeds: Sequence[int]) -> Outcome:
    def distances(label: str, seed: int) -> list[float]:
        nearest = _robustness(label, scale, folder, seed)["minimal"]
        return [nearest[norm] for norm in NORMS]

    medians = _of_pair(seeds, distances)
    middle = medians["standard"].mean(0)  # 0 where the network gets half of the images wrong as they are
    relative = {label: values / np.where(middle > 0, middle, np.nan) for label, values in medians.items()}
    figure = by_block(
        list(NORMS.values()), relative, label="median distance of a mistake,\nover the standard network's", axis="norm"
    )
    ours: dict[str, Any] = {label: dict(zip(NORMS, values.mean(0).round(5).tolist(), strict=True))
                            for label, values in medians.items()}  # fmt: skip
    ours["HaH is farther in every norm"] = bool((medians["HaH"].mean(0) > medians["standard"].mean(0)).all())
    return Outcome(figure, ours, {"HaH is farther in every norm": True}, list(seeds))
