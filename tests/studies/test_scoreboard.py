"""The scoreboard, with few digits: every network in every column; its numbers are those of its parts."""

import inspect

import jax
import numpy as np
import pytest
from PIL import Image

from sparsejax.configs.scoreboard import networks
from sparsejax.configuration import replace
from sparsejax.data import load
from sparsejax.evaluation.robustness import robustness_report
from sparsejax.studies import attacked
from sparsejax.studies.scoreboard import study
from sparsejax.studies.scoreboard.figure import Column, scoreboard
from tests.studies.making import DIGITS, made

_FEW = {**DIGITS, "data.train_examples": 100, "data.test_examples": 20, "training.epochs": 1,
        "training.batch_size": 25}  # fmt: skip


def even_report(logits_fn, images, labels, **settings):
    """Returns a report in the form of `robustness_report`, which has tests of its own, with one accuracy throughout."""
    inspect.signature(robustness_report).bind(logits_fn, images, labels, **settings)
    accuracy = float(np.mean(np.argmax(jax.jit(logits_fn)(images), -1) == labels))
    attacked = {norm: dict.fromkeys((*settings["attacks"][norm], "all"), accuracy) for norm in settings["balls"]}
    noise = {kind: dict.fromkeys(scales, accuracy) for kind, scales in settings["noise"].items()}
    return {"clean": accuracy, "noise": noise, "minimal": dict.fromkeys(settings["minimal"], 0.5), **attacked}


@pytest.fixture
def tiny(monkeypatch):
    """Makes small networks of few digits, the first of which is attacked, weakly."""
    times = []

    def report(logits_fn, images, labels, **settings):
        times.append(1)
        if len(times) > 1:
            return even_report(logits_fn, images, labels, **settings)
        weak = {"attacks": ("fgsm",), "minimal_iterations": 3, "noise_draws": 1}
        found = robustness_report(logits_fn, images, labels, **{**settings, **weak})
        found["linf"] |= dict.fromkeys(study.ATTACKS, found["linf"]["fgsm"])
        return found

    def base(data, scale):
        small = networks("mnist", channels=(4, 6), hidden=10)
        few = small if data == "mnist" else {"ReLU": small["ReLU"]}
        return {label: replace(config, _FEW) for label, config in few.items()}

    monkeypatch.setattr(study, "base", base)
    monkeypatch.setattr(attacked, "load", lambda name: load("digits"))
    monkeypatch.setattr(attacked, "robustness_report", report)
    benches = {name: bench._replace(attacked={"small": 16}) for name, bench in study.BENCHES.items()}
    monkeypatch.setattr(study, "BENCHES", benches)


@pytest.mark.slow
def test_one_command_evaluates_every_network_in_every_column(tiny, tmp_path):
    ours = made("scoreboard", tmp_path)["ours"]
    assert set(ours) == {"mnist", "cifar10"}
    rows = ours["mnist"]
    assert list(rows) == ["ReLU", "noise", "L1", "Top-K", "k-winners", "HaH"]
    for row in (*rows.values(), *ours["cifar10"].values()):
        assert list(row) == list(study.KEYS)
        assert all(0 <= row[key] <= 100 for key in study.KEYS[:11]) and 0 <= row["gini"] <= 1
        assert row["linf_all"] == row["fgsm"] and row["training_seconds"] > 0 and row["products_saved"] >= 1
    assert rows["ReLU"]["linf_all"] < rows["ReLU"]["clean"] and rows["ReLU"]["l2_mistake"] != 0.5, "it is attacked"
    assert rows["Top-K"]["active"] < rows["ReLU"]["active"] and rows["HaH"]["active"] < rows["ReLU"]["active"]
    picture = Image.open(tmp_path / "scoreboard.png").convert("RGB")
    assert picture.width == round(6.8 * 200) and len(picture.getcolors(picture.width * picture.height)) > 50


def test_networks_have_one_architecture_for_all_methods():
    for data, shape in (("mnist", (28, 28, 1)), ("cifar10", (32, 32, 3))):
        for scale in ("small", "paper"):
            configs = study.base(data, scale)
            layers = {label: config.model.layers(shape) for label, config in configs.items()}
            assert len({tuple(layer.units for layer in of) for of in layers.values()}) == 1
            assert len({tuple(layer.inputs for layer in of) for of in layers.values()}) == 1
            kernels = {
                label: jax.tree.map(np.shape, jax.eval_shape(
                    config.model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, *shape), np.float32)
                ).params)
                for label, config in configs.items()
            }  # fmt: skip
            for name in ("conv1", "conv2", "hidden"):
                assert len({of[name]["kernel"] for of in kernels.values()}) == 1
        assert configs["k-winners"].model.hidden_k == 105 and configs["noise"].model.sigma == 0.5


def test_a_row_combines_its_parts():
    layer = {"units": 10, "active_fraction": 0.5, "gini": 0.2, "hoyer": 0.1, "dead_units": 1}
    result = {
        "test_accuracy": 0.9, "noise_score": 55, "noise_score_max": 110, "training_seconds": 7.0,
        "layers": {"a": layer, "b": {**layer, "units": 30, "active_fraction": 0.1}},
    }  # fmt: skip
    attacks = {name: 0.01 * i for i, name in enumerate(study.ATTACKS)}
    report = {"noise": {"gaussian": {"0.1": 0.8}}, "linf": attacks | {"all": 0.0}, "l2": {"all": 0.3},
              "minimal": {"l2": 1.5}}  # fmt: skip
    row = dict(zip(study.KEYS, study.measure_row(result, report, study.BENCHES["cifar10"]), strict=True))
    assert row["clean"] == pytest.approx(90) and row["gaussian_noise"] == pytest.approx(80)
    assert row["pixel_noise"] == pytest.approx(50) and row["pgd"] == pytest.approx(1) and row["l2_mistake"] == 1.5
    assert row["active"] == pytest.approx(100 * (0.5 * 10 + 0.1 * 30) / 40) and row["dead"] == pytest.approx(5)
    assert np.isnan(row["products_saved"])


def test_the_best_of_a_column_is_bold():
    columns = (Column("a", "more", ".0f", "more"), Column("a", "less", ".0f", "less"), Column("b", "any", ".0f", None))
    figure = scoreboard({"one": {"x": (1, 2, 3), "y": (4, 5, float("nan"))}}, columns)
    (axes,) = figure.axes
    bold = [text.get_text() for text in axes.texts if text.get_fontweight() == "bold"]
    assert bold == ["one", "2", "4"] and "–" in [text.get_text() for text in axes.texts]
    with pytest.raises(ValueError, match="x has 2 numbers, but there are 3 columns"):
        scoreboard({"one": {"x": (1, 2)}}, columns)
