"""Autoencoders of three hidden layers with penalised activity: figures 4.14 to 4.17 of the thesis.

The error is the mean over the pixels, as in its code; Eq. 1.42 is a sum. All figures share their networks.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from sparsejax import configs
from sparsejax.configuration import replace
from sparsejax.data import load
from sparsejax.figures.activity import image_grid
from sparsejax.studies.networks import train, train_members
from sparsejax.studies.study import Outcome, Scale, study
from sparsejax.studies.thesis.grid import SEEDS
from sparsejax.studies.thesis.penalty_figure import against_penalty, against_sparsity
from sparsejax.training.config import Config

SIZES = {64: (400, 64, 400), 784: (784, 784, 784), 1024: (900, 1024, 900)}
"""Units of the code -> of the hidden layers."""

PENALTIES = {
    "small": (0.0, 0.5e-4, 1e-4, 2e-4, 4e-4, 6e-4, 9e-4),
    "paper": tuple(round(0.5e-4 * i, 6) for i in range(19)),
}
_SHORT = {
    "data.train_examples": 4000,
    "data.test_examples": 1000,
    "training.epochs": 5,
    "training.batch_size": 50,
}
_LAYERS = ("encoding", "code", "decoding")


def base(scale: Scale, code: int) -> Config:
    """Returns the autoencoder with a code of that many units, as published or for a few steps on a few images."""
    short = _SHORT if scale == "small" else {}
    return replace(configs.get("mnist_l1_autoencoder"), {"model.hidden": SIZES[code], **short})


def _measure(scale: Scale, folder: Path, seeds: Sequence[int]) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Returns for each size the error `[weights, seeds]` and the active units per image `[weights, seeds, 3]`."""
    shared, fields, measured = folder.parents[1] / "autoencoders" / scale, {"objective.l1": PENALTIES[scale]}, {}
    for code in SIZES:
        members = train_members(base(scale, code), shared, str(code), seeds=seeds, together=1, fields=fields)
        error = np.array([[member.result["test_loss"] for member in row] for row in members])
        active = [[[layer["active_fraction"] * layer["units"] for layer in member.result["layers"].values()]
                   for member in row] for row in members]  # fmt: skip
        measured[code] = (error, np.array(active))
    return measured


def _name(code: int) -> str:
    return f"code of {code:,} units"


@study("thesis/fig4_14", "error of autoencoders against the activity penalty", seeds=SEEDS, small=2)
def _fig4_14(scale: Scale, folder: Path, seeds: Sequence[int]) -> Outcome:
    weights = PENALTIES[scale]
    errors = {_name(code): error for code, (error, _) in _measure(scale, folder, seeds).items()}
    medians = {name: np.median(error, axis=1) for name, error in errors.items()}
    rise = {name: float(median[-1] / median[0]) for name, median in medians.items()}
    ours: dict[str, Any] = {"lambda": list(weights)}
    ours |= {name: median.tolist() for name, median in medians.items()}
    ours |= {
        "error at the greatest lambda over that at 0": rise,
        "error falls at 0.00005": {name: bool(median[1] < median[0]) for name, median in medians.items()},
        "the smallest code suffers most": max(rise, key=lambda name: rise[name]) == _name(64),
    }
    paper = {"error falls at 0.00005": dict.fromkeys(medians, True), "the smallest code suffers most": True}
    figure = against_penalty(weights, {"": errors}, label="squared error per pixel", width="column", columns=1)
    return Outcome(figure, ours, paper, list(seeds))


@study("thesis/fig4_15", "active units of autoencoders, layer by layer", seeds=SEEDS, small=2)
def _fig4_15(scale: Scale, folder: Path, seeds: Sequence[int]) -> Outcome:
    weights = PENALTIES[scale]
    panels: dict[str, dict[str, np.ndarray]] = {}
    ours: dict[str, Any] = {"lambda": list(weights)}
    falls = []
    for code, (_, active) in _measure(scale, folder, seeds).items():
        panels[_name(code)] = {layer: active[..., i] for i, layer in enumerate(_LAYERS)}
        means = active.mean(1)
        ours[_name(code)] = {layer: means[:, i].tolist() for i, layer in enumerate(_LAYERS)}
        sparser = means[1:, :1] / SIZES[code][0] < means[1:, 1:] / np.array(SIZES[code][1:])
        ours[_name(code)]["the first layer is the sparsest, over lambda > 0"] = float(sparser.all(1).mean())
        falls.append(bool(means[-1].sum() < means[0].sum()))
    ours["active units fall with lambda"] = all(falls)
    figure = against_penalty(weights, panels, label="active units per image", spread="deviation", compressed=True)
    return Outcome(figure, ours, {"active units fall with lambda": True}, list(seeds))


@study("thesis/fig4_16", "error of autoencoders against their sparsity", seeds=SEEDS, small=2)
def _fig4_16(scale: Scale, folder: Path, seeds: Sequence[int]) -> Outcome:
    lines: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    ours, paper = {}, {}
    for code, (error, active) in _measure(scale, folder, seeds).items():
        inactive = 1 - active.sum(-1) / sum(SIZES[code])
        lines[_name(code)] = (inactive, error)
        median, sparsity = np.median(error, axis=1), inactive.mean(1)
        tolerated = sparsity[median < 1.5 * median.min()]
        ours[_name(code)] = {
            "inactive": sparsity.tolist(),
            "squared error": median.tolist(),
            "inactive up to 1.5 times the least error": float(tolerated.max()),
        }
        paper[_name(code)] = {"inactive up to 1.5 times the least error": "about 0.85 before the error rises"}
    return Outcome(against_sparsity(lines, label="squared error per pixel"), ours, paper, list(seeds))


@study("thesis/fig4_17", "a digit reconstructed by autoencoders with increasing penalties")
def _fig4_17(scale: Scale, folder: Path) -> Outcome:
    """Shows the reconstructions of the first "6" of the test set by the networks of the first seed."""
    test, weights = load("mnist").test, PENALTIES[scale]
    image = test.images[np.flatnonzero(test.labels == 6)[0]].astype(np.float32) / 255
    shared = folder.parents[1] / "autoencoders" / scale
    shown = range(0, len(weights), -(-len(weights) // 7))
    rows: list[np.ndarray] = []
    ours: dict[str, Any] = {"lambda": [weights[i] for i in shown]}
    for code in SIZES:
        config = base(scale, code)
        name = f"{code}/{SEEDS[0]}"
        trained = train(config, shared, name, fields={"objective.l1": weights}, seeds=SEEDS[:1])
        made = [
            config.model.apply(trained.network(i), jnp.asarray(image)[None]).prediction.reshape(image.shape)
            for i in shown
        ]
        rows.append(np.stack([image, *map(np.asarray, made)]))
        ours[_name(code)] = [float(np.mean((np.asarray(one) - image) ** 2)) for one in made]
    best = min((errors[0], name) for name, errors in ours.items() if name != "lambda")
    ours |= {"best without penalty": best[1], "its squared error": best[0]}
    paper = {"best without penalty": _name(1024), "its squared error": 0.007}
    over = ["input", *(f"λ = {weights[i]:g}" for i in shown)]
    figure = image_grid(np.stack(rows), [f"{code:,} units" for code in SIZES], headings=over)
    return Outcome(figure, ours, paper, [SEEDS[0]])
