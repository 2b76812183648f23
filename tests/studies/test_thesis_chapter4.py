"""The thesis's convnets and autoencoders: every figure is made, from few digits, and the networks are its own."""

import json

import jax
import matplotlib.image
import numpy as np
import pytest

from sparsejax.configs.convnets import convnet
from sparsejax.reproduce import main
from sparsejax.studies import thesis_autoencoders, thesis_convnets, thesis_distributions
from sparsejax.studies.study import replaced

_FEW = {"data.name": "digits", "data.train_examples": 50, "data.test_examples": 20, "training.epochs": 1,
        "training.batch_size": 25, "devices.carrier": "jit"}  # fmt: skip


@pytest.fixture
def tiny(monkeypatch, quick_compile):
    """Makes the studies train small networks on few of the bundled digits, for two weights of the penalty."""

    def shrink(module, **more):
        whole = module.base

        def base(*arguments):
            config = whole(*arguments)
            for field, value in {**_FEW, **more}.items():
                config = replaced(config, field, value)
            return config

        monkeypatch.setattr(module, "base", base)

    two = {"small": dict.fromkeys(thesis_convnets.KERNELS, (0.0, 0.002))}
    monkeypatch.setattr(thesis_convnets, "PENALTIES", two)
    monkeypatch.setattr(thesis_convnets, "KERNELS", (7, 11))
    monkeypatch.setattr(thesis_convnets, "load", lambda name: thesis_convnets_load("digits"))
    thesis_convnets_load = thesis_autoencoders.load
    monkeypatch.setattr(thesis_autoencoders, "load", lambda name: thesis_convnets_load("digits"))
    monkeypatch.setattr(thesis_autoencoders, "PENALTIES", {"small": (0.0, 1e-3)})
    monkeypatch.setattr(thesis_autoencoders, "SIZES", {64: (6, 4, 6), 1024: (8, 10, 8)})
    monkeypatch.setattr(thesis_distributions, "PENALTIES", (0.0, 0.1))
    shrink(thesis_convnets, **{"model.hidden": 6})
    shrink(thesis_autoencoders)
    shrink(thesis_distributions)
    with jax.numpy_dtype_promotion("standard"):
        yield


def made(name, folder):
    """Makes a study and returns its numbers."""
    assert main([name, "--out", str(folder)]) == 0
    numbers = json.loads((folder / f"{name}.json").read_text())
    assert numbers["ours"] and numbers["seeds"]
    picture = matplotlib.image.imread(folder / f"{name}.png")
    assert len(np.unique(picture.reshape(-1, picture.shape[-1]), axis=0)) > 10
    return numbers


@pytest.mark.slow
def test_figures_of_convnets_share_their_networks(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(thesis_convnets, "_SMALL_SEEDS", 1)
    accuracy = made("thesis/fig4_1", tmp_path)["ours"]
    runs = sorted(tmp_path.glob("thesis/convnets/small/runs/*/*/result.json"))
    assert [path.parts[-3] for path in runs] == [
        "mnist_1_layers_11x11", "mnist_1_layers_7x7", "mnist_2_layers_11x11", "mnist_2_layers_7x7", "mnist_3_layers_7x7"
    ]  # fmt: skip
    when = [path.stat().st_mtime_ns for path in runs]
    active = made("thesis/fig4_2", tmp_path)["ours"]
    assert [path.stat().st_mtime_ns for path in runs] == when, "nothing is trained twice"
    assert active["7 × 7 kernels"]["units"] == {"conv1": 6 * 22 * 22, "conv2": 16 * 16 * 16, "hidden": 6}
    assert set(accuracy["11 × 11 kernels"]["critical lambda"]) == {"1 layer", "2 layers"}
    assert list(made("thesis/fig4_3", tmp_path)["ours"])[:1] == ["7 × 7 kernels"]
    for name in ("fig4_4", "fig4_5", "fig4_6", "fig4_7"):
        made(f"thesis/{name}", tmp_path)
    result = json.loads(runs[0].read_text())
    assert result["members"][1]["objective.l1"] == 0.002


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fig4_14", "fig4_15", "fig4_16", "fig4_17", "figA_1", "figA_2", "figA_3", "figA_4"])
def test_figures_of_autoencoders_and_distributions(tiny, tmp_path, name):
    ours = made(f"thesis/{name}", tmp_path)["ours"]
    assert "lambda" in ours or name == "fig4_16"
    if name == "figA_2":
        assert max(ours["exactly 0"]) == 0, "a sigmoid is never 0"


def test_a_critical_penalty_takes_ten_points_of_the_best():
    accuracy = np.array([[0.9, 0.9], [0.95, 0.95], [0.86, 0.9], [0.8, 0.84], [0.1, 0.9]])
    assert thesis_convnets.critical((0, 1, 2, 3, 4), accuracy) == 3
    assert thesis_convnets.critical((0, 1), accuracy[:2]) is None


def test_convnets_are_those_of_table_4_1():
    for data, shape, kernel, layers, units in (
        ("mnist", (28, 28, 1), 3, 2, [6 * 26**2, 16 * 24**2, 64]),
        ("mnist", (28, 28, 1), 11, 2, [6 * 18**2, 16 * 8**2, 64]),
        ("cifar10", (32, 32, 3), 11, 3, [6 * 22**2, 16 * 12**2, 24 * 2**2, 64]),
    ):
        assert [layer.units for layer in convnet(data, layers, kernel).model.layers(shape)] == units
    assert not thesis_convnets.Kind("mnist", 3, 11).fits and thesis_convnets.Kind("cifar10", 3, 11).fits
    config = thesis_convnets.base("paper", thesis_convnets.Kind("mnist", 2, 7))
    assert (config.training.epochs, config.training.batch_size, config.data.train_examples) == (15, 100, 50_000)
    for weights in thesis_convnets.PENALTIES["paper"].values():
        assert len(weights) == 16 and thesis_convnets.SHOWN in weights
