"""Distributions of activations and weights of 64 penalised units: figures A.1 to A.4 of the thesis.

One network for each of 16 weights of the penalty, 0 to 0.12, in the order of the panels.
"""

from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from sparsejax import configs
from sparsejax.configuration import replace
from sparsejax.data import load
from sparsejax.figures.histograms import Histogram, histograms
from sparsejax.studies.networks import Trained, train
from sparsejax.studies.study import Outcome, Scale, study
from sparsejax.training.config import Config

PENALTIES = tuple(round(0.008 * i, 3) for i in range(16))
_IMAGES = 1000
_SHORT = {"data.train_examples": 10_000, "data.test_examples": 1000, "training.epochs": 5}

Activation = Literal["relu", "sigmoid"]


def base(scale: Scale, activation: Activation) -> Config:
    """Returns the network of one hidden layer, as published or on fewer images for fewer epochs."""
    config = configs.get({"relu": "mnist_l1_mlp", "sigmoid": "mnist_l1_sigmoid"}[activation])
    return replace(config, _SHORT if scale == "small" else {})


def _train(activation: Activation, scale: Scale, folder: Path) -> Trained:
    shared = folder.parent.parent / "distributions" / scale
    return train(base(scale, activation), shared, activation, fields={"objective.l1": PENALTIES}, seeds=[0])


@study("thesis/figA_1", "distribution of activations, ReLU, for each penalty", activation="relu")
@study("thesis/figA_2", "distribution of activations, sigmoid, for each penalty", activation="sigmoid")
def _activations(scale: Scale, folder: Path, activation: Activation) -> Outcome:
    config, trained = base(scale, activation), _train(activation, scale, folder)
    images = jnp.asarray(load(config.data.name, config.data.source).test.images[:_IMAGES], jnp.float32) / 255
    values = [
        np.asarray(config.model.apply(trained.network(i), images).activations["hidden1"]).ravel()
        for i in range(len(PENALTIES))
    ]
    end = 1.0 if activation == "sigmoid" else max(float(one.max()) for one in values)
    edges = np.linspace(0, end, 41)
    silent = [float((one == 0).mean()) for one in values]
    panels = {
        f"λ = {weight:g}": Histogram(
            np.histogram(one, edges)[0], edges, "activation", f"{100 * zero:.1f} % are 0" * (zero > 0)
        )
        for weight, one, zero in zip(PENALTIES, values, silent, strict=True)
    }
    ours: dict[str, Any] = {
        "lambda": list(PENALTIES),
        "mean": [float(one.mean()) for one in values],
        "exactly 0": silent,
        "below 0.1": [float((one < 0.1).mean()) for one in values],
        "images": len(images),
    }
    paper = {"exactly 0": [0.0] * len(PENALTIES)} if activation == "sigmoid" else {}
    return Outcome(histograms(panels, columns=4, height=1.2, log_y=True, shared=True), ours, paper, [0])


@study("thesis/figA_3", "distribution of weights, ReLU, for each penalty", activation="relu")
@study("thesis/figA_4", "distribution of weights, sigmoid, for each penalty", activation="sigmoid")
def _weights(scale: Scale, folder: Path, activation: Activation) -> Outcome:
    trained = _train(activation, scale, folder)
    layers = [trained.parameter(layer, "kernel")[:, 0] for layer in ("hidden1", "output")]
    values = [np.concatenate([layer[i].ravel() for layer in layers]) for i in range(len(PENALTIES))]
    # Without outliers, one weight in ten thousand, which would dominate the axis.
    edges = np.linspace(-1, 1, 61) * float(np.quantile(np.abs(np.concatenate(values)), 0.9999))
    panels = {
        f"λ = {weight:g}": Histogram(np.histogram(one, edges)[0], edges, "weight")
        for weight, one in zip(PENALTIES, values, strict=True)
    }
    ours: dict[str, Any] = {
        "lambda": list(PENALTIES),
        "mean": [float(one.mean()) for one in values],
        "negative": [float((one < 0).mean()) for one in values],
        "skewness": [float(((one - one.mean()) ** 3).mean() / one.std() ** 3) for one in values],
    }
    ours["penalised weights lie lower"] = bool(np.mean(ours["mean"][1:]) < ours["mean"][0])
    figure = histograms(panels, columns=4, height=1.2, log_y=True, shared=True)
    return Outcome(figure, ours, {"penalised weights lie lower": True}, [0])
