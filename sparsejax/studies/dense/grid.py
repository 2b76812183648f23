"""Effects of winners, density and boosting: a grid over all three in one program (not in the paper)."""

from pathlib import Path

import numpy as np

from sparsejax import configs
from sparsejax.configuration import replace
from sparsejax.figures.heat import heat_maps
from sparsejax.studies.networks import train
from sparsejax.studies.study import Outcome, Scale, study
from sparsejax.training.config import Config

WINNERS = {"small": (20, 100, 300), "paper": (10, 30, 100, 300, 600)}
DENSITIES = {"small": (0.05, 0.3, 0.9), "paper": (0.02, 0.1, 0.3, 0.6, 0.95)}
BOOSTS = {"small": (0.0, 1.5), "paper": (0.0, 0.5, 1.5, 4.0)}
_SEEDS = {"small": (42,), "paper": (42, 43, 44)}


def base(scale: Scale) -> Config:
    """Returns the base network: Sparse CNN-2, on part of MNIST for a few epochs or as published."""
    config = configs.get("mnist_kwinners")
    if scale == "paper":
        return config
    short = {"training.epochs": 3, "training.first_epoch_batch_size": 16, "training.learning_rate": 0.04}
    return replace(config, short | {"data.train_examples": 6000, "data.test_examples": 1000})


@study("dense/grid", "accuracy, noise score and entropy over k, density and boost strength", "section 3, varied")
def _grid(scale: Scale, folder: Path) -> Outcome:
    boosts, winners, densities, seeds = BOOSTS[scale], WINNERS[scale], DENSITIES[scale], _SEEDS[scale]
    fields = {"model.boost_strength": boosts, "model.hidden_k": winners, "model.density": densities}
    members = train(base(scale), folder, "grid", fields=fields, seeds=seeds).finished.result["members"]
    layer = [member["layers"]["hidden"] for member in members]
    quantities = {
        "accuracy (%)": [100 * member["test_accuracy"] for member in members],
        "noise score (%)": [100 * member["noise_score"] / member["noise_score_max"] for member in members],
        "entropy (% of most)": [100 * entry["duty_entropy"] / entry["max_entropy"] for entry in layer],
    }
    shape = (len(boosts), len(winners), len(densities), len(seeds))
    means = {name: np.reshape(values, shape).mean(-1) for name, values in quantities.items()}
    figure = heat_maps(
        means, rows=winners, columns=densities, panels=boosts, labels=("k", "density", "boost"), forms=(".1f",) * 3
    )
    ours = {"boost_strength": list(boosts), "k": list(winners), "density": list(densities)}
    ours |= {name: values.tolist() for name, values in means.items()}
    ratios = np.asarray([entry["products_ratio"] for entry in layer], float)
    ours["products, times fewer"] = ratios.reshape(shape).mean(-1).tolist()
    return Outcome(figure, ours, {}, list(seeds))
