"""The detailed measures of a split agree with numpy over all its examples at once, for any batches."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax import configs, data
from sparsejax.configuration import as_arrays, replace
from sparsejax.data.resident import make_resident
from sparsejax.errors import ConfigError
from sparsejax.evaluation.measure import MEASURES, setting_of
from sparsejax.evaluation.measures.detail import EDGES, NORMS, DetailMeasure, weight_histograms
from sparsejax.evaluation.split import make_evaluation
from sparsejax.experiment import Experiment, run
from sparsejax.models import SparseCNN
from sparsejax.training.config import CLEAN_MEASURES, Config
from sparsejax.training.run_folder import RunFolder

MODEL = SparseCNN(channels=(3,), conv_k=(None,), kernel_size=11, pool=1, hidden=20, hidden_k=None, density=None)
EXAMPLES = 45


@pytest.fixture(scope="module")
def setting():
    dataset = data.load("digits").limit(None, EXAMPLES)
    variables = jax.jit(MODEL.init)(jax.random.key(1), jnp.zeros((1, 28, 28, 1)))
    images = (dataset.test.images / np.float32(255) - dataset.mean[0]) / dataset.std[0]
    output = jax.jit(MODEL.apply)(variables, jnp.asarray(images, jnp.float32))
    return dataset, variables, output


@pytest.fixture(scope="module", params=[7, 500], ids=["the last batch is not full", "one batch"])
def detail(setting, request):
    dataset, variables, _ = setting
    measure = MEASURES["detail"].bind(setting_of(Config(MODEL), dataset))
    evaluate = jax.jit(make_evaluation([measure], examples=EXAMPLES, batch_size=request.param))
    test = make_resident(dataset, dataset.test)
    return evaluate(variables, as_arrays(Config(MODEL)), jnp.float32(0), test)["detail"]


def test_misclassifications_are_counted_by_class(setting, detail):
    dataset, _, output = setting
    labels, guess = dataset.test.labels, np.asarray(output.prediction).argmax(-1)
    expected = np.zeros((10, 10), int)
    np.add.at(expected, (labels, guess), 1)
    np.testing.assert_array_equal(detail.confusion, expected)
    np.testing.assert_array_equal(detail.examples, np.bincount(labels, minlength=10))
    classes = DetailMeasure().report(detail)
    assert np.trace(classes["confusion"]) == (labels == guess).sum()
    np.testing.assert_allclose(classes["recall"], np.diag(expected) / expected.sum(1), rtol=1e-6)


def test_codes_are_measured_layer_by_layer(setting, detail):
    dataset, _, output = setting
    layers = DetailMeasure().report(detail)["layers"]
    for name, y in output.activations.items():
        y = np.asarray(y, float).reshape(EXAMPLES, -1)
        ordered, n = np.sort(y), y.shape[1]
        gini = (ordered * (2 * np.arange(1, n + 1) - n - 1)).sum(1) / (n * y.sum(1))
        hoyer = (np.sqrt(n) - y.sum(1) / np.sqrt((y**2).sum(1))) / (np.sqrt(n) - 1)
        for norm, values in zip(NORMS, ((y > 0).sum(1), y.sum(1), gini, hoyer), strict=True):
            assert layers[name][norm] == pytest.approx(values.mean(), rel=1e-4)
            assert layers[name][f"{norm}_spread"] == pytest.approx(values.std(), rel=1e-2, abs=1e-3)
        for label in range(10):
            expected = (y[dataset.test.labels == label] > 0).sum(0)
            assert (np.abs(np.asarray(detail.active[name][label]) - expected) <= 1).all()
        sizes = np.histogram(np.abs(y), [0, *EDGES, np.inf])[0]
        assert np.abs(np.asarray(detail.magnitudes[name]) - sizes).sum() <= 4


def test_weights_are_counted_in_symmetric_bins():
    weights = np.array([[[0.5, -1.0], [0.1, 0.2]], [[2.0, np.nan], [0.0, 0.0]]])
    counts, edges = weight_histograms(weights, bins=4)
    np.testing.assert_allclose(edges, [-2, -1, 0, 1, 2])
    np.testing.assert_array_equal(counts, [[0, 1, 3, 0], [0, 0, 2, 1]])
    assert weight_histograms(np.zeros((2, 3)))[0].sum(1).tolist() == [3, 3]


def _few(name: str):
    few = {"data.train_examples": 100, "data.test_examples": 40, "training.epochs": 1, "training.batch_size": 25}
    measured = {"evaluation.measures": (*CLEAN_MEASURES, "detail"), "devices.transform": "jit"}
    return replace(configs.get(name), few | measured)


@pytest.mark.slow
def test_a_run_writes_what_it_measured(tmp_path: Path):
    config = replace(_few("digits_mlp"), {"training.first_epoch_batch_size": None})
    pair = tuple(replace(config, {"training.seed": seed}) for seed in (1, 2))
    folder = RunFolder(tmp_path / "run")
    run(Experiment("digits_mlp", pair, ({}, {})), folder)
    result = json.loads(folder.result.read_text())
    assert np.shape(result["confusion"]) == (10, 10) and len(result["precision"]) == len(result["recall"]) == 10
    hidden = result["members"][0]["layers"]["hidden1"]
    assert hidden["l0"] == pytest.approx(hidden["active_fraction"] * hidden["units"], rel=1e-4)
    assert 0 < hidden["gini"] <= 1 and 0 < hidden["hoyer"] <= 1
    with np.load(folder.detail) as arrays, np.load(folder.units) as units:
        np.testing.assert_array_equal(arrays["hidden1.active"].sum(1), units["hidden1.active"])
        assert arrays["hidden1.weights"].shape[0] == arrays["output.weights"].shape[0] == 2
    page = folder.report.read_text()
    for words in ("Precision", "Gini", "Confusion matrix"):
        assert words in page, words


def test_texts_have_no_classes_to_measure(tmp_path: Path, monkeypatch):
    folder = tmp_path / "wikitext-2"
    folder.mkdir()
    for part in ("train", "valid", "test"):
        (folder / f"{part}.txt").write_text("one two three four five six\n" * 1000)
    monkeypatch.setenv("SPARSEJAX_DATA", str(tmp_path))
    few = {"data.train_examples": 20, "data.test_examples": 20}
    config = replace(configs.get("wikitext_gpt_small"), {"evaluation.measures": ("detail",), **few})
    with pytest.raises(ConfigError, match=r"evaluation.measures has detail, but windows"):
        run(Experiment("gpt", (config,), ({},)), RunFolder(tmp_path / "run"))
