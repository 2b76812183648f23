"""Hebbian/anti-Hebbian networks on CIFAR-10: tables 1 and 2 and figures 2 to 5 of Cekic et al.

All share their networks and robustness reports. Attacks are APGD on the cross-entropy and targeted
APGD, as the paper's; noisy images are clipped, and accuracies averaged over three draws.
"""

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
from sparsejax.studies.study import Outcome, Scale, Study, chosen_seeds
from sparsejax.training.config import Config

_SOURCE = "Cekic et al., Neuro-Inspired Deep Neural Networks with Sparse, Strong Activations, 2022, "
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


def _table(labels: tuple[str, ...], scale: Scale, folder: Path, seeds: int | None = None) -> Outcome:
    chosen = chosen_seeds(SEEDS, scale, seeds, small=1)
    means = {
        label: np.mean([_row(_robustness(label, scale, folder, seed)) for seed in chosen], axis=0) for label in labels
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
    return Outcome(figure, ours, paper, list(chosen))


def _numbers(blocks: list[str]) -> list[str]:
    return [name.removeprefix("conv") for name in blocks]


def _fig2(scale: Scale, folder: Path, seeds: int | None = None) -> Outcome:
    """Sparsity of the channels of the first blocks."""
    chosen, blocks = chosen_seeds(SEEDS, scale, seeds, small=1), []
    networks: dict[str, list[list[float]]] = {label: [] for label in _PAIR}
    images, _, normalise = test_pixels("cifar10", 500)
    for label, rows in networks.items():
        for seed in chosen:
            model, variables = _train(label, scale, folder, seed)
            blocks = [f"conv{i + 1}" for i in range(base(scale, "HaH").model.hebbian)]  # pyright: ignore
            activations = jax.jit(model.apply)(variables, normalise(jnp.asarray(images))).activations
            rows.append([float(channel_ratio(activations[name])) for name in blocks])
    figure = by_block(_numbers(blocks), networks, label="ℓ1/ℓ2 ratio, in [0, 1]")
    ours: dict[str, Any] = {label: np.mean(rows, 0).round(4).tolist() for label, rows in networks.items()}
    ours["HaH is sparser in every block"] = bool(np.all(np.mean(networks["HaH"], 0) < np.mean(networks["standard"], 0)))
    return Outcome(figure, ours, {"HaH is sparser in every block": True}, list(chosen))


def _fig3(scale: Scale, folder: Path, seeds: int | None = None) -> Outcome:
    """Signal-to-noise ratios of the inputs of every block, with noise of 0.1."""
    chosen, blocks = chosen_seeds(SEEDS, scale, seeds, small=1), []
    networks: dict[str, list[list[float]]] = {label: [] for label in _PAIR}
    images, _, normalise = test_pixels("cifar10", 500)
    noise = 0.1 * jax.random.normal(jax.random.key(0), images.shape)
    noisy = jnp.clip(jnp.asarray(images) + noise, 0, 1)
    for label, rows in networks.items():
        for seed in chosen:
            model, variables = _train(label, scale, folder, seed)
            seen = jax.jit(model.block_inputs)
            ratios = signal_to_noise(seen(variables, normalise(jnp.asarray(images))), seen(variables, normalise(noisy)))
            blocks = sorted(ratios, key=lambda name: int(name.removeprefix("conv")))
            rows.append([float(ratios[name]) for name in blocks])
    figure = by_block(_numbers(blocks), networks, label="signal to noise (dB)")
    ours: dict[str, Any] = {label: np.mean(rows, 0).round(2).tolist() for label, rows in networks.items()}
    above = np.mean(networks["HaH"], 0)[1:] > np.mean(networks["standard"], 0)[1:]
    ours["blocks but the first in which HaH has the higher ratio"] = float(above.mean())
    return Outcome(figure, ours, {"blocks but the first in which HaH has the higher ratio": 1.0}, list(chosen))


def _fig4(scale: Scale, folder: Path, seeds: int | None = None) -> Outcome:
    chosen = chosen_seeds(SEEDS, scale, seeds, small=1)
    rows, groups = [], []
    for label in _PAIR:
        for seed in chosen:
            report = _robustness(label, scale, folder, seed)
            rows.append([report["noise"]["gaussian"][str(level)] for level in NOISE])
            groups.append(label)
    figure = noise_curve(NOISE, rows, groups=groups, label="standard deviation of the noise (%)")
    ours: dict[str, Any] = {"sigma": list(NOISE)}
    ours |= {label: np.mean([row for row, group in zip(rows, groups, strict=True) if group == label], 0)
             .round(4).tolist() for label in _PAIR}  # fmt: skip
    return Outcome(figure, ours, {"standard": {"0.1": 0.26}, "HaH": {"0.1": 0.64}}, list(chosen))


def _fig5(scale: Scale, folder: Path, seeds: int | None = None) -> Outcome:
    chosen = chosen_seeds(SEEDS, scale, seeds, small=1)
    medians = {
        label: np.array([[_robustness(label, scale, folder, seed)["minimal"][norm] for norm in NORMS]
                         for seed in chosen])
        for label in _PAIR
    }  # fmt: skip
    middle = medians["standard"].mean(0)  # 0 where the network gets half of the images wrong as they are
    relative = {label: values / np.where(middle > 0, middle, np.nan) for label, values in medians.items()}
    figure = by_block(
        list(NORMS.values()), relative, label="median distance of a mistake,\nover the standard network's", axis="norm"
    )
    ours: dict[str, Any] = {label: dict(zip(NORMS, values.mean(0).round(5).tolist(), strict=True))
                            for label, values in medians.items()}  # fmt: skip
    ours["HaH is farther in every norm"] = bool((medians["HaH"].mean(0) > medians["standard"].mean(0)).all())
    return Outcome(figure, ours, {"HaH is farther in every norm": True}, list(chosen))


SUMMARIES = {
    "hah/table1": "accuracy, clean, noisy and attacked, standard and HaH networks; --seeds N",
    "hah/table2": "the same of the ablations; --seeds N",
    "hah/fig2": "how sparse the channels of the first blocks are; --seeds N",
    "hah/fig3": "signal to noise at every block; --seeds N",
    "hah/fig4": "accuracy against Gaussian noise; --seeds N",
    "hah/fig5": "distance of the nearest mistake in four norms; --seeds N",
}

STUDIES: dict[str, Study] = {
    "hah/table1": Study(_SOURCE + "Table 1", lambda s, f, seeds=None: _table(_PAIR, s, f, seeds), len(SEEDS)),
    "hah/table2": Study(
        _SOURCE + "Table 2", lambda s, f, seeds=None: _table(tuple(PAPER)[1:], s, f, seeds), len(SEEDS)
    ),
    "hah/fig2": Study(_SOURCE + "Fig. 2", _fig2, len(SEEDS)),
    "hah/fig3": Study(_SOURCE + "Fig. 3", _fig3, len(SEEDS)),
    "hah/fig4": Study(_SOURCE + "Fig. 4", _fig4, len(SEEDS)),
    "hah/fig5": Study(_SOURCE + "Fig. 5", _fig5, len(SEEDS)),
}
