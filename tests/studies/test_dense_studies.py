"""The studies of "How Can We Be So Dense?": from few digits here, so only the parts are tested."""

import jax
import pytest

from sparsejax import configs
from sparsejax.configuration import replace
from sparsejax.data import load
from sparsejax.models import SparseCNN
from sparsejax.studies.dense import grid as grid_study
from sparsejax.studies.dense import macs as products
from sparsejax.studies.dense import matching
from sparsejax.studies.dense import mnist as dense_mnist
from sparsejax.training.config import Config
from tests.studies.making import DIGITS, made


def small(config: Config) -> Config:
    """Returns a convolutional network of few channels and units, and few digits for an epoch."""
    model, few = config.model, {"data.train_examples": 100, "data.test_examples": 30, "training.epochs": 1}
    layers = len(model.channels)
    winners = {"model.conv_k": (20, 10)[:layers], "model.hidden_k": 10} if model.hidden_k else {}
    rate = {"training.batch_size": 25, "training.first_epoch_batch_size": None}
    return replace(config, {**DIGITS, **few, **rate, **winners, "model.channels": (2, 3)[:layers], "model.hidden": 40})


@pytest.fixture
def tiny(monkeypatch):
    """Makes the studies train small networks on few of the bundled digits, and draw few vectors."""
    table = {name: dense_mnist.TABLE1[name] for name in ("Sparse CNN-2", "Dense CNN-1")}
    monkeypatch.setattr(dense_mnist, "TABLE1", table)
    monkeypatch.setattr(dense_mnist, "_FIG5", tuple(table))
    monkeypatch.setattr(dense_mnist, "apply_scale", lambda config, scale: small(config))
    monkeypatch.setattr(dense_mnist, "load", lambda name: load("digits"))
    monkeypatch.setattr(grid_study, "base", lambda scale: small(configs.get("digits_kwinners")))
    for name, values in (("WINNERS", (5, 20)), ("DENSITIES", (0.1, 0.5)), ("BOOSTS", (0.0, 1.5))):
        monkeypatch.setattr(grid_study, name, {"small": values})
    monkeypatch.setattr(products, "EXAMPLES", {"small": 16})
    monkeypatch.setattr(SparseCNN, "init", jax.jit(SparseCNN.init))
    monkeypatch.setattr(matching, "TRIALS", {"small": 2_000})


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dense/fig2", "dense/fig3", "dense/fig5a", "dense/grid"])
def test_a_study_writes_a_figure_and_numbers(tiny, out, capsys, name):
    assert made(name, out)["source"] in capsys.readouterr().out


@pytest.mark.slow
def test_masks_and_activations_save_as_many_products_as_the_paper_says(tiny, out):
    ours = made("dense/products", out)["ours"]
    sparse, more = (lambda layer, network=name: ours[f"{network}, {layer}"] for name in (
        "Sparse CNN-2", "Super-Sparse CNN-2"))  # fmt: skip
    assert (sparse("conv2: dense"), sparse("hidden: dense")) == (10_240_000, 1_600_000)
    assert sparse("conv2: times fewer") == pytest.approx(10.5, rel=0.02)
    assert sparse("hidden: times fewer") == pytest.approx(20, rel=0.01)
    assert sparse("hidden: times fewer at inference") == pytest.approx(20 / 1.5, rel=0.01)
    # Really counted, the last saves more than printed: 200 inputs with a tenth of 1,500 units each.
    assert more("hidden: times fewer") == pytest.approx(1_600_000 / (200 * 150), rel=0.01)


@pytest.mark.slow
def test_a_row_the_figure_and_the_table_share_networks_and_more_seeds_are_added(tiny, tmp_path, capsys):
    def trained():
        results = tmp_path.glob("dense/mnist/small/runs/*/*/result.json")
        return {path.relative_to(tmp_path).parts[-3:-1]: path.stat().st_mtime_ns for path in results}

    row = made("dense/sparse_cnn2", tmp_path)
    assert list(row["paper"]) == list(row["ours"]) == ["Sparse CNN-2"] and row["seeds"] == [42]
    first = trained()
    assert list(first) == [("Sparse_CNN-2", "42")], "where the table finds it"
    one = made("dense/fig5", tmp_path)
    assert one["seeds"] == [42] and len(trained()) == 2
    before = trained()
    two = made("dense/fig5", tmp_path, "--seeds", "2")
    assert two["seeds"] == [42, 43] and len(trained()) == 4
    assert before.items() <= trained().items(), "what was done is not done again"
    scores = [numbers["ours"]["Sparse CNN-2"]["noise_score_best"][0] for numbers in (row, one, two)]
    assert scores[0] == scores[1] != scores[2], "the second network counts"
    table = made("dense/table1", tmp_path)
    assert table["seeds"] == [42] and list(table["ours"]) == ["Sparse CNN-2", "Dense CNN-1"]
    assert table["ours"]["Sparse CNN-2"] == row["ours"]["Sparse CNN-2"]
    assert first.items() <= trained().items() and len(trained()) == 4, "what was done is not done again"
    assert table["source"] in capsys.readouterr().out
