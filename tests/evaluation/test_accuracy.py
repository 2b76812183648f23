"""Accuracy and noise score agree with a plain loop over the images for any batch size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax import data
from sparsejax.configuration import as_arrays
from sparsejax.data.resident import make_resident
from sparsejax.evaluation.measure import MEASURES, setting_of
from sparsejax.evaluation.measures.noise_score import NOISE_LEVELS
from sparsejax.evaluation.report import summary
from sparsejax.evaluation.split import make_evaluation
from sparsejax.functional import example_keys, pixel_noise
from sparsejax.models import SparseMLP
from sparsejax.training.config import Config, EvaluationConfig

MODEL = SparseMLP(hidden=(30,), k=(6,), k_inference_factor=1.5)
CONFIG = Config(MODEL, evaluation=EvaluationConfig(noise_seed=5))
EXAMPLES = 45


@pytest.fixture(scope="module")
def setting():
    dataset = data.load("digits").limit(None, EXAMPLES)
    variables = MODEL.init(jax.random.key(1), jnp.zeros((1, 28, 28, 1)))
    return dataset, make_resident(dataset, dataset.test), variables


def counted(setting, batch_size, *names):
    """Returns measures bound to the network, and their sums."""
    dataset, test, variables = setting
    bound = setting_of(CONFIG, dataset, jax.tree.map(np.asarray, variables))
    measures = {name: MEASURES[name].bind(bound) for name in names}
    evaluate = jax.jit(make_evaluation(list(measures.values()), examples=EXAMPLES, batch_size=batch_size))
    return measures, jax.tree.map(np.asarray, evaluate(variables, as_arrays(CONFIG), jnp.float32(0), test))


@pytest.mark.parametrize("batch_size", [7, 45, 500])
def test_counts_equal_those_of_one_pass(setting, batch_size):
    dataset, _, variables = setting
    _, sums = counted(setting, batch_size, "accuracy", "activity")
    scores, counts = sums["accuracy"], sums["activity"]
    images = (dataset.test.images / np.float32(255) - dataset.mean[0]) / dataset.std[0]
    output = MODEL.apply(variables, jnp.asarray(images, jnp.float32))
    log_p = np.asarray(jax.nn.log_softmax(output.prediction))
    assert float(scores["accuracy"]) == (log_p.argmax(-1) == dataset.test.labels).sum()
    np.testing.assert_allclose(scores["loss"], -log_p[np.arange(EXAMPLES), dataset.test.labels].sum(), rtol=1e-5)
    on = np.asarray(output.activations["hidden1"]) != 0
    np.testing.assert_array_equal(counts.active["hidden1"], on.sum(0))
    np.testing.assert_array_equal(counts.k["hidden1"], np.bincount(on.sum(1), minlength=31))
    np.testing.assert_allclose(counts.density["hidden1"], [on.mean(1).sum(), (on.mean(1) ** 2).sum()], rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [7, 45])
def test_noise_depends_on_seed_level_and_image_alone(setting, batch_size):
    dataset, _, variables = setting
    correct = counted(setting, batch_size, "noise_score")[1]["noise_score"]
    white = dataset.mean[0] + 2 * dataset.std[0]
    for index, level in enumerate(NOISE_LEVELS):
        keys = example_keys(jax.random.fold_in(jax.random.key(5), index), jnp.arange(EXAMPLES))
        pixels = jnp.asarray(dataset.test.images, jnp.float32) / 255
        noisy = np.asarray(pixel_noise(keys, pixels, level=level, value=white))
        changed = (noisy != np.asarray(pixels)).reshape(EXAMPLES, -1).sum(1)
        assert (changed <= int(784 * level)).all()
        assert changed.max() >= 0.9 * int(784 * level)
        logits = MODEL.apply(variables, jnp.asarray((noisy - dataset.mean[0]) / dataset.std[0], jnp.float32)).prediction
        assert correct[index] == (np.asarray(logits).argmax(-1) == dataset.test.labels).sum()
    assert NOISE_LEVELS == (0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5)


def test_the_report_of_a_layer(setting):
    measures, sums = counted(setting, 45, "activity")
    entry = measures["activity"].report(sums["activity"])["layers"]["hidden1"]
    active = np.asarray(sums["activity"].active["hidden1"])
    assert entry["active_fraction"] == pytest.approx(active.sum() / (30 * EXAMPLES))
    assert entry["active_fraction"] == pytest.approx(9 / 30)
    assert entry["dead_units"] == (active == 0).sum() > 0
    assert entry["duty_entropy"] == 0, "nothing has been trained, so no unit has won yet"
    assert entry["max_entropy"] == pytest.approx(30 * (-0.2 * np.log2(0.2) - 0.8 * np.log2(0.8)), rel=1e-5)


def test_a_summary_of_several_networks_is_their_mean_and_population_deviation():
    setting = setting_of(CONFIG, data.load("digits").limit(None, 10))
    reports = [MEASURES["noise_score"].bind(setting).report(np.array(counts)) for counts in ([10] * 11, [8] * 11)]
    members = [
        {"seed": i, "test_accuracy": accuracy, **report, "layers": {"a": {"units": 4, "k": None}},
         "best": {"epoch": i, "test_accuracy": accuracy, **report}}
        for i, (accuracy, report) in enumerate(zip((1.0, 0.8), reports, strict=True))
    ]  # fmt: skip
    both = summary(members)
    assert both["test_accuracy"] == pytest.approx(0.9)
    assert both["test_accuracy_std"] == pytest.approx(0.1)
    assert both["noise_score"] == 99
    assert both["noise_score_std"] == pytest.approx(11)
    assert both["noise_accuracy"] == pytest.approx([0.9] * 11)
    assert both["layers"]["a"] == {"units": 4, "k": None}
    assert summary(members[:1])["noise_score"] == 110


def test_predictions_that_are_nan_are_misclassified(setting):
    dataset, test, variables = setting
    undefined = variables._replace(params=jax.tree.map(lambda leaf: leaf * jnp.nan, variables.params))
    measures, sums = counted((dataset, test, undefined), 45, "accuracy", "noise_score", "detail")
    assert (dataset.test.labels == 0).any(), "argmax would answer 0"
    reports = {name: measure.report(sums[name]) for name, measure in measures.items()}
    assert reports["accuracy"]["test_accuracy"] == 0 == reports["noise_score"]["noise_score"]
    assert not np.any(reports["detail"]["confusion"]) and not np.any(reports["detail"]["recall"])
