"""The thesis's convnets and autoencoders: every figure, with few digits, and the networks' definitions."""

import json

import jax
import numpy as np
import pytest

from sparsejax import studies
from sparsejax.configs.convnets import convnet
from sparsejax.configuration import replace
from sparsejax.data import load
from sparsejax.studies.thesis import autoencoders as thesis_autoencoders
from sparsejax.studies.thesis import convnets as thesis_convnets
from sparsejax.studies.thesis import distributions as thesis_distributions
from tests.studies.making import DIGITS, made

_FEW = {**DIGITS, "data.train_examples": 50, "data.test_examples": 20, "training.epochs": 1,
        "training.batch_size": 25}  # fmt: skip


@pytest.fixture
def tiny(monkeypatch):
    """Makes the studies train small networks on few of the bundled digits, for two weights of the penalty."""

    def shrink(module, **more):
        whole = module.base

        def base(*arguments):
            return replace(whole(*arguments), {**_FEW, **more})

        monkeypatch.setattr(module, "base", base)

    two = {"small": dict.fromkeys(thesis_convnets.KERNELS, (0.0, 0.002))}
    monkeypatch.setattr(thesis_convnets, "PENALTIES", two)
    monkeypatch.setattr(thesis_convnets, "KERNELS", (7, 11))
    for module in (thesis_convnets, thesis_autoencoders):
        monkeypatch.setattr(module, "load", lambda name: load("digits"))
    monkeypatch.setattr(thesis_autoencoders, "PENALTIES", {"small": (0.0, 1e-3)})
    monkeypatch.setattr(thesis_autoencoders, "SIZES", {64: (6, 4, 6), 1024: (8, 10, 8)})
    monkeypatch.setattr(thesis_distributions, "PENALTIES", (0.0, 0.1))
    shrink(thesis_convnets, **{"model.hidden": 6})
    shrink(thesis_autoencoders)
    shrink(thesis_distributions)


@pytest.mark.slow
def test_figures_of_convnets_share_their_networks(tiny, opened_once, tmp_path):
    accuracy = made("thesis/fig4_1", tmp_path, "--seeds", "1")["ours"]
    runs = sorted(tmp_path.glob("thesis/convnets/small/runs/*/*/result.json"))
    kinds = [(1, 11), (1, 7), (2, 11), (2, 7), (3, 7)]  # a third of the larger kernels does not fit
    assert [path.parts[-3] for path in runs] == [f"mnist_{layers}_layers_{size}x{size}" for layers, size in kinds]
    when = [path.stat().st_mtime_ns for path in runs]
    active = made("thesis/fig4_2", tmp_path, "--seeds", "1")["ours"]
    assert [path.stat().st_mtime_ns for path in runs] == when, "nothing is trained twice"
    assert active["7 × 7 kernels"]["units"] == {"conv1": 6 * 22 * 22, "conv2": 16 * 16 * 16, "hidden": 6}
    assert set(accuracy["7 × 7 kernels"]["critical lambda"]) == {"1 layer", "2 layers", "3 layers"}
    assert set(accuracy["11 × 11 kernels"]["critical lambda"]) == {"1 layer", "2 layers"}
    assert list(made("thesis/fig4_3", tmp_path, "--seeds", "1")["ours"])[:1] == ["7 × 7 kernels"]
    made("thesis/fig4_4", tmp_path)
    result = json.loads(runs[0].read_text())
    assert result["members"][1]["objective.l1"] == 0.002


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fig4_14", "fig4_15", "fig4_16", "fig4_17", "figA_1", "figA_2", "figA_3", "figA_4"])
def test_figures_of_autoencoders_and_distributions(tiny, opened_once, out, name):
    options = ("--seeds", "1") if name in ("fig4_14", "fig4_15", "fig4_16") else ()
    ours = made(f"thesis/{name}", out, *options)["ours"]
    assert "lambda" in ours or name == "fig4_16"
    if name == "figA_2":
        assert max(ours["exactly 0"]) == 0, "a sigmoid is never 0"


def _made_up(kind, scale, folder, seeds):
    """Accuracy that collapses at 0.06 / (kernel x layers), and decreasing activity, higher in later layers."""
    weights = np.asarray(thesis_convnets.PENALTIES[scale][kind.kernel])[:, None]
    breaks = 0.06 / kind.kernel / kind.layers
    measured = {"accuracy": np.where(weights < breaks, 97, 10) + np.arange(len(seeds))}
    for i, layer in enumerate(thesis_convnets.base(scale, kind).model.layers(thesis_convnets._SHAPES[kind.data])):
        measured[layer.name] = 100 * (i + 1) * np.exp(-500 * weights) + np.zeros(len(seeds))
    return measured


def test_the_numbers_of_the_figures_of_convnets(monkeypatch, tmp_path):
    monkeypatch.setattr(thesis_convnets, "_measure", _made_up)
    outcome = studies.get("thesis/fig4_1").make("small", tmp_path, 3)
    assert outcome.seeds == [0, 1, 2] and len(outcome.figure.axes) == 3
    assert outcome.ours["larger kernels break down at smaller lambda"] is True
    assert outcome.ours["7 × 7 kernels"]["critical lambda"] == {"1 layer": None, "2 layers": 0.006, "3 layers": 0.004}
    assert set(outcome.ours["11 × 11 kernels"]["critical lambda"]) == {"1 layer", "2 layers"}, "a third does not fit"
    assert outcome.ours["7 × 7 kernels"]["points lost at 0.002"]["2 layers"] == pytest.approx(0)
    active = studies.get("thesis/fig4_10").make("small", tmp_path, 3)
    assert len(active.figure.axes) == 3 and active.ours["11 × 11 kernels"]["units"]["conv3"] == 96
    assert active.ours["a later layer is the more active, of lambda > 0"] == 1.0


@pytest.mark.slow
def test_maps_kernels_and_weights_are_those_of_the_networks(monkeypatch, tmp_path):
    kinds = []

    class Pair:
        def __init__(self, kind):
            model, shape = thesis_convnets.base("small", kind).model, thesis_convnets._SHAPES[kind.data]
            networks = [jax.jit(model.init)(jax.random.key(i), np.zeros((1, *shape), np.float32)) for i in range(2)]
            dead = jax.tree.map(lambda leaf: -jax.numpy.abs(leaf), networks[1].params)
            self.networks = networks[0], networks[1]._replace(params=dead)

        def network(self, point):
            return self.networks[point]

        def parameter(self, layer, name):
            return np.stack([np.asarray(network.params[layer][name]) for network in self.networks])[:, None]

    def pair(kind, scale, folder):
        kinds.append(kind)
        return Pair(kind), {"λ = 0": 0, "λ = 0.002": 1}

    image = np.linspace(0, 1, 28 * 28, dtype=np.float32).reshape(28, 28, 1)
    monkeypatch.setattr(thesis_convnets, "_pair", pair)
    monkeypatch.setattr(thesis_convnets, "_image", lambda data: image)
    maps = studies.get("thesis/fig4_4").make("small", tmp_path).ours
    assert maps["silent maps of conv1, λ = 0.002"] == 6 and maps["active in conv2, λ = 0.002"] == 0
    assert maps["active in conv1, λ = 0"] > 0
    kernels = studies.get("thesis/fig4_6").make("small", tmp_path)
    assert len(kernels.figure.axes) == 4 and kernels.ours["mean weight of conv1, λ = 0.002"] < 0
    weights = studies.get("thesis/fig4_7").make("small", tmp_path).ours
    assert weights["λ = 0.002"]["negative"] == 1 and weights["penalised weights are shifted below 0"] is True
    assert [kind.kernel for kind in kinds] == [7, 11, 11]


def test_the_numbers_of_the_figures_of_autoencoders(monkeypatch, tmp_path):
    def made_up(scale, folder, seeds):
        weights, networks = np.asarray(thesis_autoencoders.PENALTIES[scale]), np.ones(len(seeds))
        return {
            code: (
                (0.01 + 40 * weights / code)[:, None] * networks,
                np.exp(-3e3 * weights)[:, None, None] * np.array(units) * [0.1, 0.2, 0.3] * networks[None, :, None],
            )
            for code, units in thesis_autoencoders.SIZES.items()
        }

    monkeypatch.setattr(thesis_autoencoders, "_measure", made_up)
    figures = {n: studies.get(f"thesis/fig4_{n}").make("small", tmp_path, 4) for n in (14, 15, 16)}
    assert figures[14].ours["the smallest code suffers most"] and figures[15].ours["active units fall with lambda"]
    assert figures[15].ours["code of 64 units"]["the first layer is the sparsest, over lambda > 0"] == 1
    for entry in figures[16].ours.values():
        assert 0.7 < entry["inactive"][0] < entry["inactive up to 1.5 times the least error"] < 1
    assert all(figure.seeds == [0, 1, 2, 3] for figure in figures.values())


def test_convnets_are_those_of_table_4_1():
    table: list[tuple[thesis_convnets.Images, tuple[int, ...], int, int, list[int]]] = [
        ("mnist", (28, 28, 1), 3, 2, [6 * 26**2, 16 * 24**2, 64]),
        ("mnist", (28, 28, 1), 11, 2, [6 * 18**2, 16 * 8**2, 64]),
        ("cifar10", (32, 32, 3), 11, 3, [6 * 22**2, 16 * 12**2, 24 * 2**2, 64]),
    ]
    for data, shape, kernel, layers, units in table:
        assert [layer.units for layer in convnet(data, layers, kernel).model.layers(shape)] == units
    assert not thesis_convnets.Kind("mnist", 3, 11).fits and thesis_convnets.Kind("cifar10", 3, 11).fits
    config = thesis_convnets.base("paper", thesis_convnets.Kind("mnist", 2, 7))
    assert (config.training.epochs, config.training.batch_size, config.data.train_examples) == (15, 100, 50_000)
    for weights in thesis_convnets.PENALTIES["paper"].values():
        assert len(weights) == 16 and thesis_convnets.SHOWN in weights
