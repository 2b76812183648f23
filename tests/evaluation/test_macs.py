"""Non-zero products, counted from how often units were active, are those of the network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax import data
from sparsejax.configuration import as_arrays
from sparsejax.data.resident import make_resident
from sparsejax.evaluation.measure import MEASURES, setting_of
from sparsejax.evaluation.measures.macs import count_macs, dense_macs, macs_report, nonzero_products
from sparsejax.evaluation.split import make_evaluation
from sparsejax.functional import conv2d
from sparsejax.models import HebbianVGG, NoisyNetwork, SparseCNN, SparseMLP
from sparsejax.studies.dense import macs as study
from sparsejax.training.config import Config

EXAMPLES = 20


def indicator_products(x, kernel):
    """Counts by computing the layer's sum with ones instead of numbers."""
    ones = [jnp.asarray(np.asarray(array) != 0, jnp.float32) for array in (x, kernel)]
    y = conv2d(*ones) if kernel.ndim == 4 else ones[0] @ ones[1]
    return float(jnp.sum(y))


@pytest.mark.parametrize(("inputs", "weights"), [((7,), (7, 5)), ((6, 5, 3), (3, 2, 3, 4)), ((4, 4, 2), (4, 4, 2, 3))])
def test_products_are_those_of_the_layer_with_ones_for_numbers(inputs, weights):
    rng = np.random.default_rng(0)
    x, kernel = rng.integers(0, 2, (EXAMPLES, *inputs)), rng.integers(0, 2, weights)
    assert nonzero_products(x.sum(0), kernel != 0) == indicator_products(x, kernel)
    full = nonzero_products(np.full(inputs, EXAMPLES), np.ones(weights, bool))
    assert full == EXAMPLES * dense_macs(inputs, weights) == indicator_products(x * 0 + 1, kernel * 0 + 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    "model",
    [
        SparseCNN(channels=(4, 6), conv_k=(60, 20), conv_density=(1.0, 0.5), hidden=30, hidden_k=6),
        SparseMLP(hidden=(40, 20), k=(8, None)),
        HebbianVGG(widths=(10, 0, 12, 0), hebbian=2, alphas=(0.1, 0.1), hidden=8),
    ],
)
def test_a_networks_products_are_those_of_its_masks_and_activations(model):
    dataset = data.load("digits").limit(None, EXAMPLES)
    test = make_resident(dataset, dataset.test)
    variables = model.init(jax.random.key(1), jnp.zeros((1, 28, 28, 1)))
    measure = MEASURES["macs"].bind(setting_of(Config(model), dataset))
    evaluate = jax.jit(make_evaluation([measure], examples=EXAMPLES, batch_size=7))
    counts = evaluate(variables, as_arrays(Config(model)), jnp.float32(0), test)["macs"]
    products = count_macs(model.layers((28, 28, 1)), variables, counts, EXAMPLES)

    images = (dataset.test.images / np.float32(255) - dataset.mean[0]) / dataset.std[0]
    activations = model.apply(variables, jnp.asarray(images, jnp.float32)).activations
    assert list(products) == [*activations, "output"]
    x = np.ones(images.shape)
    for name in products:
        kernel = np.asarray(variables.params[name]["kernel"])
        x = x if kernel.ndim == 4 else np.reshape(x, (EXAMPLES, -1))
        x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))) if kernel.shape[:2] == (3, 3) else x
        assert products[name].nonzero * EXAMPLES == pytest.approx(indicator_products(x, kernel), rel=1e-12)
        assert products[name].nonzero <= products[name].dense
        x = np.asarray(activations[name]) if name in activations else x
    report = macs_report(list(products.values()))
    assert report["products"] == pytest.approx(sum(entry.nonzero for entry in products.values()))
    assert report["products_ratio"] == pytest.approx(report["products_dense"] / report["products"])
    assert report["products_ratio"] > 1.3


def test_networks_that_are_no_plain_chain_are_not_counted():
    assert NoisyNetwork(hidden=10).layers((4, 4, 1))[0].inputs == (16,)
    for other in (NoisyNetwork(hidden=10, competition="explain_away"), NoisyNetwork(hidden=10, hidden_sigma=0.1)):
        assert count_macs(other.layers((4, 4, 1)), None, None, 1) == {}  # pyright: ignore[reportArgumentType]
    assert macs_report([]) == {}


def test_the_papers_numbers_come_out_by_its_formula():
    ratios = {
        key: study.paper_products(study.NETWORKS["Dense CNN-2"], key[1]) / study.paper_products(study.NETWORKS[key[0]],
                                                                                              key[1])
        for key in study.PAPER
    }  # fmt: skip
    assert round(ratios["Sparse CNN-2", "conv2"], 1) == 10.5
    assert ratios["Sparse CNN-2", "hidden"] == 20
    assert int(ratios["Super-Sparse CNN-2", "hidden"]) == 35
    sparse = study.NETWORKS["Sparse CNN-2"]
    assert study.paper_products(sparse, "conv2") == 1200 * 1600 * 6400 == pytest.approx(1.23e10, rel=2e-3)
    assert study.paper_products(sparse, "hidden") == 200 * 640_000 * 1000 == 1.28e11


@pytest.mark.slow
def test_masks_and_activations_save_as_many_products_as_the_paper_says():
    dense = 10_240_000, 1_600_000
    sparse, more = study.count_products(study.NETWORKS["Sparse CNN-2"], examples=16)
    assert (sparse["conv2"].dense, sparse["hidden"].dense) == dense
    assert dense[0] / sparse["conv2"].nonzero == pytest.approx(10.5, rel=0.02)
    assert dense[1] / sparse["hidden"].nonzero == pytest.approx(20, rel=0.01)
    assert dense[1] / more["hidden"].nonzero == pytest.approx(20 / 1.5, rel=0.01)
    # The true count of the last is a larger saving than printed: 200 inputs with a tenth of 1,500 units each.
    tenth, _ = study.count_products(study.NETWORKS["Super-Sparse CNN-2"], examples=16)
    assert dense[1] / tenth["hidden"].nonzero == pytest.approx(1_600_000 / (200 * 150), rel=0.01)


def test_shapes_that_do_not_fit_are_refused():
    for inputs, weights in (((6,), (7, 5)), ((6, 5, 3), (7, 2, 3, 4)), ((6, 5, 2), (3, 2, 3, 4)), ((9,), (3, 3, 1, 4))):
        with pytest.raises(ValueError, match="do not fit weights"):
            dense_macs(inputs, weights)
