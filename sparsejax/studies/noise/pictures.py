"""Figures of what noisy networks learn: figures 4, 5 and 8 to 10 of "Noise Transforms Feed-Forward Networks...".

Receptive fields are the keys of the units most active for one noisy image, each scaled by its largest weight around
mid-grey, as in the authors' notebook.
"""

from pathlib import Path

import numpy as np

from sparsejax.configuration import replace
from sparsejax.data import load
from sparsejax.figures.activity import image_grid
from sparsejax.studies.networks import Trained
from sparsejax.studies.noise import activity as noise_activity
from sparsejax.studies.noise.activity import base, grid
from sparsejax.studies.study import Outcome, Scale, study

_SEEDS = [10]
STAGES = {"small": (5, 20, 60), "paper": (3_000, 9_000, 19_000)}  # epochs of figure 10


def _train(scale: Scale, folder: Path) -> Trained:
    return grid(base(scale), scale, folder, "plain")


def _levels() -> list[tuple[int, float]]:
    """Returns the noise levels that are shown: more noise than 3 prevents learning."""
    return [(level, sigma) for level, sigma in enumerate(noise_activity.SIGMAS) if sigma <= 3]


def _images(scale: Scale, count: int) -> np.ndarray:
    """Returns test images with pixels in [0, 1], `[count, height, width, channels]`."""
    config = base(scale)
    return load(config.data.name, config.data.source).test.images[:count].astype(np.float32) / 255


def _hidden(trained: Trained, level: int, inputs: np.ndarray) -> np.ndarray:
    """Returns the hidden layer of the first network of a noise level, `[inputs, units]`."""
    key, bias = trained.parameter("hidden", "kernel")[level, 0], trained.parameter("hidden", "bias")[level, 0]
    return np.maximum(inputs @ key + bias, 0)


@study("noise/fig4", "reconstructions of noisy images")
def _fig4(scale: Scale, folder: Path) -> Outcome:
    trained, images = _train(scale, folder), _images(scale, 5)
    rng, shape = np.random.default_rng(0), images.shape[1:]
    rows, errors = [], []
    for level, sigma in _levels():
        noisy = images.reshape(len(images), -1) + sigma * rng.standard_normal((len(images), images[0].size))
        decoder = trained.parameter("output", "kernel")[level, 0], trained.parameter("output", "bias")[level, 0]
        made = _hidden(trained, level, noisy) @ decoder[0] + decoder[1]
        errors.append(float(np.mean((made - images.reshape(len(images), -1)) ** 2)))
        apart = np.ones((1, *shape))
        rows.append(np.concatenate([noisy.reshape(-1, *shape), apart, made.reshape(-1, *shape)]))
    labels = [f"σ = {sigma:g}" for _, sigma in _levels()]
    figure = image_grid(np.stack(rows), labels, headings=["noisy images", "reconstructions"])
    return Outcome(figure, {"sigma": [sigma for _, sigma in _levels()], "squared_error": errors}, {}, _SEEDS)


def _fields(trained: Trained, level: int, sigma: float, image: np.ndarray, most: int) -> np.ndarray:
    """Returns the receptive fields of the units most active for a noisy image, in [0, 1], most active first."""
    noisy = image.ravel() + sigma * np.random.default_rng(1).standard_normal(image.size)
    activity = _hidden(trained, level, noisy[None])[0]
    chosen = np.argsort(-activity)[: min(most, int((activity > 0).sum()))]
    keys = trained.parameter("hidden", "kernel")[level, 0][:, chosen].T
    scaled = 0.5 + 0.5 * keys / np.abs(keys).max(axis=1, keepdims=True).clip(1e-12)
    return scaled.reshape(-1, *image.shape)


@study("noise/fig5", "receptive fields of the most active units, sigma 0.8")
def _fig5(scale: Scale, folder: Path) -> Outcome:
    trained, image = _train(scale, folder), _images(scale, 1)[0]
    fields = _fields(trained, noise_activity.SIGMAS.index(0.8), 0.8, image, 125)
    blank = np.ones((-len(fields) % 25, *image.shape), np.float32)
    rows = np.concatenate([fields, blank]).reshape(-1, 25, *image.shape)
    ours = {"shown": len(fields), "centred": _locality(fields)}
    return Outcome(image_grid(rows, None), ours, {"shown": 125}, _SEEDS)


@study("noise/fig8", "receptive fields for each noise level")
def _fig8(scale: Scale, folder: Path) -> Outcome:
    trained, image = _train(scale, folder), _images(scale, 1)[0]
    rows, ours = [], {"sigma": [sigma for _, sigma in _levels()], "active": [], "centred": []}
    for level, sigma in _levels():
        fields = _fields(trained, level, sigma, image, 48)
        ours["active"].append(len(fields))
        ours["centred"].append(_locality(fields))
        blank = np.ones((48 - len(fields), *image.shape), np.float32)
        rows.append(np.concatenate([fields, blank]).reshape(2, 24, *image.shape))
    labels = [text for _, sigma in _levels() for text in (f"σ = {sigma:g}", "")]
    return Outcome(image_grid(np.concatenate(rows), labels), ours, {}, _SEEDS)


@study("noise/fig9", "the noisy images whose receptive fields are shown")
def _fig9(scale: Scale, folder: Path) -> Outcome:
    """Shows the queries of the other figures at every noise level; it trains nothing."""
    images, rng = _images(scale, 3), np.random.default_rng(1)
    rows = [images + sigma * rng.standard_normal(images.shape) for _, sigma in _levels()]
    noise = [float(np.std(row - images)) for row in rows]
    figure = image_grid(np.stack(rows), [f"σ = {sigma:g}" for _, sigma in _levels()], width="column")
    return Outcome(figure, {"sigma": [sigma for _, sigma in _levels()], "noise_drawn": noise}, {}, [1])


@study("noise/fig10", "receptive fields over training")
def _fig10(scale: Scale, folder: Path) -> Outcome:
    """Trains one network for increasing numbers of epochs; longer runs contain shorter ones, as they share a seed."""
    image, sigma = _images(scale, 1)[0], 0.3
    stages = STAGES[scale]
    rows, ours = [], {"epochs": list(stages), "active": [], "centred": []}
    for epochs in stages:
        config = replace(base(scale, epochs=epochs), {"training.epochs": epochs})
        fields = _fields(grid(config, scale, folder, f"epochs_{epochs}", (sigma,)), 0, sigma, image, 75)
        ours["active"].append(len(fields))
        ours["centred"].append(_locality(fields))
        blank = np.ones((75 - len(fields), *image.shape), np.float32)
        rows.append(np.concatenate([fields, blank]).reshape(3, 25, *image.shape))
    labels = [text for epochs in stages for text in (f"{epochs:,} epochs", "", "")]
    return Outcome(image_grid(np.concatenate(rows), labels), ours, {"epochs": list(STAGES["paper"])}, _SEEDS)


def _locality(fields: np.ndarray) -> float:
    """Returns the locality of the fields: the mean fraction of a field's energy within a fifth of its pixels.

    A field of equal weights has 0.2, one whose weights are independent and normal about 0.53.
    """
    if not len(fields):
        return float("nan")
    energy = np.sort((fields.reshape(len(fields), -1) - 0.5) ** 2, axis=1)[:, ::-1]
    top = energy[:, : energy.shape[1] // 5].sum(1)
    return float(np.mean(top / energy.sum(1).clip(1e-12)))
