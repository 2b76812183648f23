"""Convolutional networks with penalised activity: figures 4.1 to 4.13 of the thesis.

Every figure takes its networks from the same folder: a grid over the penalty's weight and the seeds for each number of
convolutions, size of their kernels and data set. The only weight that the thesis prints for these networks is 0.002;
the ranges are chosen so that the accuracy collapses within them. Its Table 4.1 omits three layers of 3 x 3 kernels on
MNIST, but Fig. 4.3 shows them and not those of 11 x 11, which leave nothing of an image after two layers; we follow the
figure.
"""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np

from sparsejax.configs.convnets import KERNELS, convnet
from sparsejax.configuration import replace
from sparsejax.data import load
from sparsejax.figures.activity import image_grid
from sparsejax.figures.filters import tile_panels
from sparsejax.figures.histograms import Histogram, histograms
from sparsejax.studies.networks import Trained, train, train_members
from sparsejax.studies.study import Outcome, Scale, study
from sparsejax.studies.thesis.grid import SEEDS, critical
from sparsejax.studies.thesis.penalty_figure import against_penalty
from sparsejax.training.config import Config

PENALTIES: dict[str, dict[int, tuple[float, ...]]] = {
    "small": {
        3: (0.0, 0.002, 0.004, 0.008, 0.016, 0.024),
        7: (0.0, 0.001, 0.002, 0.004, 0.006, 0.008),
        11: (0.0, 0.0005, 0.001, 0.002, 0.003, 0.004),
    },
    "paper": {
        3: tuple(round(0.002 * i, 4) for i in range(16)),
        7: tuple(round(0.0005 * i, 4) for i in range(16)),
        11: tuple(round(0.00025 * i, 5) for i in range(16)),
    },
}
"""Weights of the penalty, by scale and size of the kernels."""

SHOWN = 0.002
"""The weight at which the thesis shows maps and kernels."""

_SHORT = {
    "data.train_examples": 2500,
    "data.test_examples": 1000,
    "training.epochs": 4,
    "training.batch_size": 25,
}
Images = Literal["mnist", "cifar10"]
_SHAPES = {"mnist": (28, 28, 1), "cifar10": (32, 32, 3)}


class Kind(NamedTuple):
    """A data set, the number of convolutions, and the size of their kernels."""

    data: Images
    layers: int
    kernel: int

    @property
    def name(self) -> str:
        """Name of the folder of its networks."""
        return f"{self.data}_{self.layers}_layers_{self.kernel}x{self.kernel}"

    @property
    def fits(self) -> bool:
        """Whether anything is left of an image after the convolutions."""
        return _SHAPES[self.data][0] > self.layers * (self.kernel - 1)


def base(scale: Scale, kind: Kind) -> Config:
    """Returns the network as published, or for a few steps on a few images."""
    config = convnet(kind.data, kind.layers, kind.kernel)
    return replace(config, _SHORT if scale == "small" else {})


def _measure(kind: Kind, scale: Scale, folder: Path, seeds: Sequence[int]) -> dict[str, np.ndarray]:
    """Returns test accuracy in per cent, and for each layer the active units per image, `[weights, seeds]`."""
    shared, fields = folder.parents[1] / "convnets" / scale, {"objective.l1": PENALTIES[scale][kind.kernel]}
    members = train_members(base(scale, kind), shared, kind.name, seeds=seeds, together=1, fields=fields)

    def of(quantity: Callable[[dict[str, Any]], float]) -> np.ndarray:
        return np.array([[quantity(member.result) for member in row] for row in members], float)

    def active(layer: str) -> np.ndarray:
        return of(lambda result: result["layers"][layer]["active_fraction"] * result["layers"][layer]["units"])

    accuracy = of(lambda result: 100 * result["test_accuracy"])
    return {"accuracy": accuracy, **{layer: active(layer) for layer in members[0][0].result["layers"]}}


@study("thesis/fig4_1", "accuracy of convnets against the penalty, MNIST", seeds=SEEDS, small=2, data="mnist")
@study("thesis/fig4_8", "accuracy of convnets against the penalty, CIFAR-10", seeds=SEEDS, small=2, data="cifar10")
def _accuracy(scale: Scale, folder: Path, seeds: Sequence[int], data: Images) -> Outcome:
    weights = PENALTIES[scale]
    panels: dict[str, dict[str, np.ndarray]] = {}
    ours: dict[str, Any] = {}
    for kernel in KERNELS:
        lines = {}
        for layers in (1, 2, 3):
            if (kind := Kind(data, layers, kernel)).fits:
                lines[f"{layers} layer{'s' * (layers > 1)}"] = _measure(kind, scale, folder, seeds)["accuracy"]
        title = f"{kernel} × {kernel} kernels"
        panels[title] = lines
        ours[title] = {"lambda": list(weights[kernel])}
        ours[title] |= {f"{name}, median accuracy (%)": np.median(v, axis=1).tolist() for name, v in lines.items()}
        ours[title]["critical lambda"] = {name: critical(weights[kernel], v) for name, v in lines.items()}
        if SHOWN in weights[kernel]:
            at = weights[kernel].index(SHOWN)
            lost = {name: float(np.median(v[0]) - np.median(v[at])) for name, v in lines.items()}
            ours[title]["points lost at 0.002"] = lost
    by_panel = {f"{kernel} × {kernel} kernels": weights[kernel] for kernel in KERNELS}
    figure = against_penalty(by_panel, panels, label="test accuracy (%)")
    ends = [ours[title]["critical lambda"] for title in panels]
    falls = [  # of those that broke down within their ranges
        small[name] <= large[name]
        for large, small in itertools.pairwise(ends)
        for name in small
        if large.get(name) is not None and small[name] is not None
    ]
    ours["larger kernels break down at smaller lambda"] = bool(falls) and all(falls)
    paper = {
        "larger kernels break down at smaller lambda": True,
        "7 × 7 kernels": {"points lost at 0.002": {"2 layers": "largely unaffected"}},
    }
    return Outcome(figure, ours, paper if data == "mnist" else {}, list(seeds))


@study("thesis/fig4_2", "active units of two convolutions, MNIST", seeds=SEEDS, small=2, data="mnist", layers=2)
@study("thesis/fig4_3", "active units of three convolutions, MNIST", seeds=SEEDS, small=2, data="mnist", layers=3)
@study("thesis/fig4_9", "active units of two convolutions, CIFAR-10", seeds=SEEDS, small=2, data="cifar10", layers=2)
@study("thesis/fig4_10", "active units of three convolutions, CIFAR-10", seeds=SEEDS, small=2, data="cifar10", layers=3)
def _active(scale: Scale, folder: Path, seeds: Sequence[int], data: Images, layers: int) -> Outcome:
    weights, panels, ours, later = {}, {}, {}, []
    for kernel in KERNELS:
        kind = Kind(data, layers, kernel)
        if not kind.fits:
            continue
        title, measured = f"{kernel} × {kernel} kernels", _measure(kind, scale, folder, seeds)
        convolutions = {name: values for name, values in measured.items() if name.startswith("conv")}
        weights[title], panels[title] = PENALTIES[scale][kernel], convolutions
        units = {layer.name: layer.units for layer in base(scale, kind).model.layers(_SHAPES[data])}
        means = np.stack([values.mean(1) for values in convolutions.values()])
        alive = measured["accuracy"].mean(1) > 20  # beyond, there is nothing left to compare
        alive[0] = False
        ours[title] = {"lambda": list(weights[title]), "units": units}
        ours[title] |= dict(zip(convolutions, means.tolist(), strict=True))
        grows = np.diff(means[:, alive], axis=0) > 0
        ours[title]["a later layer is the more active"] = float(grows.mean()) if grows.size else None
        later.append(grows.ravel())
    figure = against_penalty(weights, panels, label="active units per image", spread="deviation", compressed=True)
    grows = np.concatenate(later)
    ours["a later layer is the more active, of lambda > 0"] = float(grows.mean()) if grows.size else None
    paper = {"a later layer is the more active, of lambda > 0": "mostly"}
    return Outcome(figure, ours, paper, list(seeds))


def _image(data: Images) -> np.ndarray:
    """Returns the first "5", or the first truck, of the training images, `[height, width, channels]` in [0, 1]."""
    train = load(data).train
    wanted = {"mnist": 5, "cifar10": 9}[data]
    return train.images[np.flatnonzero(train.labels == wanted)[0]].astype(np.float32) / 255


@study("thesis/fig4_5", "the digit of these feature maps", data="mnist")
@study("thesis/fig4_12", "the truck of these feature maps", data="cifar10")
def _example(scale: Scale, folder: Path, data: Images) -> Outcome:
    image = _image(data)
    ours = {"label": {"mnist": "5", "cifar10": "truck"}[data], "mean of the pixels": float(image.mean())}
    return Outcome(image_grid(image[None, None], None, width="column"), ours, {"label": ours["label"]}, [0])


def _pair(kind: Kind, scale: Scale, folder: Path) -> tuple[Trained, dict[str, int]]:
    """Returns the networks of the first seed, and the indices of those with no penalty and with 0.002."""
    weights = PENALTIES[scale][kind.kernel]
    trained = train(base(scale, kind), folder.parents[1] / "convnets" / scale, f"{kind.name}/{SEEDS[0]}",
                    fields={"objective.l1": weights}, seeds=SEEDS[:1])  # fmt: skip
    return trained, {f"λ = {weight:g}": weights.index(weight) for weight in (0.0, SHOWN)}


@study("thesis/fig4_4", "feature maps of a digit, without and with the penalty", data="mnist")
@study("thesis/fig4_11", "feature maps of a truck, without and with the penalty", data="cifar10")
def _maps(scale: Scale, folder: Path, data: Images) -> Outcome:
    kind, image = Kind(data, 2, 7), _image(data)
    trained, places = _pair(kind, scale, folder)
    model, rows = base(scale, kind).model, {"conv1": {}, "conv2": {}}
    ours: dict[str, Any] = {}
    for name, at in places.items():
        maps = model.apply(trained.network(at), jnp.asarray(image)[None]).activations
        for layer, row in rows.items():
            values = np.asarray(maps[layer][0])
            row[f"{layer}, {name}"] = values[:, :, None]
            ours[f"active in {layer}, {name}"] = int((values != 0).sum())
            ours[f"silent maps of {layer}, {name}"] = int((values == 0).all((0, 1)).sum())
    paper = {f"silent maps of conv2, λ = {SHOWN:g}": "at least 6"} if data == "mnist" else {}
    return Outcome(tile_panels(list(rows.values())), ours, paper, [SEEDS[0]])


@study("thesis/fig4_6", "kernels on MNIST, without and with the penalty", data="mnist")
@study("thesis/fig4_13", "kernels on CIFAR-10, without and with the penalty", data="cifar10")
def _kernels(scale: Scale, folder: Path, data: Images) -> Outcome:
    """Shows the kernels of both convolutions; for the second the mean over its six channels."""
    trained, places = _pair(Kind(data, 2, 11), scale, folder)
    rows, ours = [], {}
    for layer in ("conv1", "conv2"):
        kernels = trained.parameter(layer, "kernel")[:, 0]
        rows.append({})
        for name, at in places.items():
            rows[-1][f"{layer}, {name}"] = kernels[at] if layer == "conv1" else kernels[at].mean(2, keepdims=True)
            ours[f"mean weight of {layer}, {name}"] = float(kernels[at].mean())
    return Outcome(tile_panels(rows), ours, {}, [SEEDS[0]])


@study("thesis/fig4_7", "distribution of the first kernels' weights, without and with the penalty")
def _weights(scale: Scale, folder: Path) -> Outcome:
    trained, places = _pair(Kind("mnist", 2, 11), scale, folder)
    kernels = trained.parameter("conv1", "kernel")[:, 0]
    edges = np.linspace(-1, 1, 51) * float(np.abs(kernels[list(places.values())]).max())
    panels, ours = {}, {}
    for name, at in places.items():
        values = kernels[at].ravel()
        panels[name] = Histogram(np.histogram(values, edges)[0], edges, "weight of conv1")
        ours[name] = {
            "mean": float(values.mean()),
            "negative": float((values < 0).mean()),
            "skewness": float(((values - values.mean()) ** 3).mean() / values.std() ** 3),
        }
    ours["penalised weights are shifted below 0"] = bool(ours[f"λ = {SHOWN:g}"]["mean"] < min(0, ours["λ = 0"]["mean"]))
    figure = histograms(panels, columns=2, height=2.0, shared=True)
    return Outcome(figure, ours, {"penalised weights are shifted below 0": True}, [SEEDS[0]])
