"""Spoken words in "How Can We Be So Dense?": table 2, four networks with and without white noise.

As for MNIST, every number is given twice: after the last epoch, and after the one with the best test accuracy.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sparsejax import configs
from sparsejax.evaluation.measures.noise_score import NOISE_LEVELS
from sparsejax.figures.noise import noise_curve
from sparsejax.studies.dense.mnist import SEEDS, both_rules
from sparsejax.studies.networks import train_members
from sparsejax.studies.study import Outcome, Scale, study
from sparsejax.training.config import Config

# Test accuracy in per cent and noise score of 28,072, each with its standard deviation over ten seeds.
TABLE2 = {
    "Sparse CNN-2": ("sparse_cnn2", (96.65, 0.21), (11_233, 1_013)),
    "Dense CNN-2": ("dense_cnn2", (96.37, 0.37), (8_730, 471)),
    "Super-sparse CNN-2": ("super_sparse_cnn2", (96.57, 0.16), (10_752, 942)),
    "Dense CNN-2, dropout": ("dense_cnn2_dropout", (95.69, 0.48), (7_681, 368)),
}
GREATEST = 28_072


def networks(scale: Scale) -> dict[str, Config]:
    """Returns the networks as published, on the ten digits, or half as large, on the available words."""
    family = "gsc" if scale == "paper" else "speech"
    return {label: configs.get(f"{family}_{name}") for label, (name, *_) in TABLE2.items()}


@study("dense/table2", "spoken words: test accuracy and noise score of the four networks", seeds=SEEDS, small=3)
def _table2(scale: Scale, folder: Path, seeds: Sequence[int]) -> Outcome:
    rows, data = {}, {}
    for label, config in networks(scale).items():
        (members,) = train_members(config, folder, TABLE2[label][0], seeds=seeds)
        rows[label], data = [member.result for member in members], members[0].run.read_result()["data"]
    best = {label: [member["best"] for member in row] for label, row in rows.items()}
    figure = noise_curve(
        NOISE_LEVELS,
        [one["noise_accuracy"] for row in best.values() for one in row],
        scores=[one["noise_score"] for row in best.values() for one in row],
        groups=[label for label, row in best.items() for _ in row],
        label="white noise (%)",
    )
    ours: dict[str, Any] = {label: both_rules(row) for label, row in rows.items()}
    for label, row in best.items():
        share = [100 * one["noise_score"] / one["noise_score_max"] for one in row]
        ours[label]["noise_score_percent_best"] = [round(float(np.mean(share)), 2), round(float(np.std(share)), 2)]
        ours[f"{label}, accuracy"] = np.mean([one["noise_accuracy"] for one in row], axis=0).round(4).tolist()
    scores = {label: ours[label]["noise_score_best"][0] for label in ("Sparse CNN-2", "Dense CNN-2")}
    ours |= {
        "levels": list(NOISE_LEVELS),
        "noise_score_max": best["Sparse CNN-2"][0]["noise_score_max"],
        "sparse has the higher noise score": scores["Sparse CNN-2"] > scores["Dense CNN-2"],
        "data": {name: data[name] for name in ("name", "notice", "train", "test", "fingerprint")},
    }
    published: dict[str, Any] = {
        label: {
            "test_accuracy_best": list(accuracy),
            "noise_score_best": list(noise),
            "noise_score_percent_best": [round(100 * number / GREATEST, 2) for number in noise],
        }
        for label, (_, accuracy, noise) in TABLE2.items()
    }
    published["sparse has the higher noise score"] = True
    return Outcome(figure, ours, published, list(seeds))
