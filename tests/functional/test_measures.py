"""Measures of sparsity and of how evenly units are used."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.functional.measures import (
    activation_frequency,
    active_counts,
    active_fraction,
    best_weight,
    binary_entropy,
    confusion_matrix,
    dead_units,
    duty_entropy,
    gini,
    gini_weighted_accuracy,
    hoyer,
    l0,
    magnitude_counts,
    max_entropy,
    precision,
    recall,
)
from tests import golden

X = jnp.array([[0.0, 1.0, -2.0, 0.0, -0.0], [0.0, 0.0, 3.0, 0.0, jnp.nan]])


def test_counts_and_fractions_of_active_units():
    np.testing.assert_array_equal(l0(X), [2, 2])
    np.testing.assert_array_equal(l0(X.reshape(2, 1, 5)), [[2], [2]])
    assert active_fraction(X) == np.float32(0.4)
    np.testing.assert_array_equal(dead_units(X), [True, False, False, True, False])


def test_counts_do_not_overflow_in_half_precision():
    x = jnp.ones((1, 4096), jnp.bfloat16)
    assert int(l0(x)[0]) == 4096 and active_fraction(x) == 1


@pytest.mark.parametrize(("p", "bits"), [(0.0, 0.0), (1.0, 0.0), (0.5, 1.0), (0.25, 0.8112781), (0.1, 0.4689956)])
def test_the_entropy_of_a_coin(p, bits):
    np.testing.assert_allclose(binary_entropy(jnp.float32(p)), bits, atol=1e-6)


def test_the_entropy_has_finite_gradients_at_its_ends():
    slopes = jax.vmap(jax.grad(binary_entropy))(jnp.array([0.0, 0.5, 1.0]))
    assert np.isfinite(slopes).all() and abs(slopes[1]) < 1e-6


def test_the_entropy_of_a_layer_is_the_sum_over_its_units():
    duty_cycle = jnp.array([0.1, 0.5, 0.0, 1.0])
    np.testing.assert_allclose(duty_entropy(duty_cycle), 1.4689956, rtol=1e-6)
    np.testing.assert_allclose(duty_entropy(duty_cycle, positions=12), 12 * 1.4689956, rtol=1e-6)


def test_equal_use_has_the_largest_entropy():
    np.testing.assert_allclose(max_entropy(20, 5), duty_entropy(jnp.full(20, 0.25)), rtol=1e-6)
    np.testing.assert_allclose(jax.jit(max_entropy, static_argnums=0)(20, 5), 20 * 0.8112781, rtol=1e-6)
    uneven = jnp.array([0.5] * 10 + [0.0] * 10)
    assert duty_entropy(uneven) < max_entropy(20, 5)
    assert max_entropy(20, 0) == max_entropy(20, 20) == 0


@pytest.mark.parametrize("k", [-1, 21])
def test_more_winners_than_units_are_refused(k):
    with pytest.raises(ValueError, match=f"k is {k}, but the layer has 20 units"):
        max_entropy(20, k)


def test_gini_and_hoyer_are_the_thesis_values_for_absolute_activity():
    case = golden.load("hah_gini_hoyer_vectors")
    names = ("relu", "uniform", "onehot", "zeros", "signed", "exp")
    vectors = jnp.asarray(np.stack([case[name] for name in names]), jnp.float32)
    # Columns: the code's gini, Eq. 1.18 as printed and of |a|, Eq. 1.19 as printed and of |a|, the code in float32.
    expected = np.nan_to_num(case["values"])  # of all zeros the equations say nothing, and ours is 0
    np.testing.assert_allclose(gini(vectors), expected[:, 2], atol=2e-6)
    np.testing.assert_allclose(hoyer(vectors), expected[:, 4], atol=2e-6)
    unsigned = [0, 1, 2, 3, 5]  # where the thesis's code, which shifts negative values, means the same
    np.testing.assert_allclose(gini(vectors)[np.array(unsigned)], case["values"][unsigned, 0], atol=3e-6)


def test_hoyer_agrees_with_the_ratio_of_norms_of_the_hah_paper():
    case = golden.load("hah_hoyer_seed002")
    activity = jnp.asarray(case["act"]).transpose(0, 2, 3, 1)
    channels = activity.shape[-1]
    ratio = case["ratio"][:, 0]
    theirs = np.where(ratio > 0, 1 - (ratio - 1) / (np.sqrt(channels) - 1), 0.0)
    np.testing.assert_allclose(hoyer(activity), theirs, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("measure", [gini, hoyer])
def test_sparsity_indices_know_neither_scale_nor_order_nor_sign(measure, fresh_key):
    x = jax.random.normal(fresh_key(), (4, 50))
    signs = jnp.sign(jax.random.normal(fresh_key(), x.shape))
    for same in (1e30 * x, 1e-30 * x, x[:, ::-1], x * signs):
        np.testing.assert_allclose(measure(same), measure(x), rtol=2e-5)
    np.testing.assert_allclose(jax.jit(jax.vmap(measure))(x), measure(x), rtol=1e-5)
    np.testing.assert_allclose(measure(x.reshape(2, 2, 50)).ravel(), measure(x), rtol=1e-5)
    sparser = jnp.where(jnp.abs(x) > 1, x, 0.0)
    assert (measure(sparser) > measure(x)).all()
    half = measure(jnp.ones((2, 10_000), jnp.bfloat16))
    np.testing.assert_allclose(half, 0, atol=1e-4)
    slopes = jax.grad(lambda x: measure(x).sum())(jnp.zeros((2, 5)))
    assert np.isfinite(slopes).all()


def test_gini_is_its_sum_over_pairs():
    x = np.abs(np.random.default_rng(0).normal(size=(3, 40)))
    pairs = np.abs(x[:, :, None] - x[:, None]).sum((1, 2)) / (2 * 40 * x.sum(1))
    np.testing.assert_allclose(gini(jnp.asarray(x, jnp.float32)), pairs, rtol=1e-5)


def test_hoyer_of_one_unit_is_refused():
    with pytest.raises(ValueError, match=r"x has shape \(3, 1\).*2 units or more"):
        hoyer(jnp.ones((3, 1)))


def test_the_best_weight_is_accurate_and_sparse():
    accuracy, index = jnp.array([[0.98, 0.96], [0.97, 0.95], [0.4, 0.6]]), jnp.array([[0.5, 0.5], [0.8, 0.9], [1.0, 1]])
    np.testing.assert_allclose(gini_weighted_accuracy(accuracy, index), [0.485, 0.816, 0.5], rtol=1e-6)
    assert float(best_weight(jnp.array([0.0, 0.008, 0.016]), accuracy, index)) == np.float32(0.008)


LABELS, PREDICTIONS = jnp.array([0, 0, 1, 2, 2, 2]), jnp.array([0, 1, 1, 2, 0, 2])


def test_confusion_precision_and_recall_are_those_of_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(1)
    labels, predictions = rng.integers(0, 7, (2, 300))
    confusion = jax.jit(confusion_matrix, static_argnames="classes")(labels, predictions, classes=7)
    np.testing.assert_array_equal(confusion, metrics.confusion_matrix(labels, predictions))
    np.testing.assert_allclose(precision(confusion), metrics.precision_score(labels, predictions, average=None))
    np.testing.assert_allclose(recall(confusion), metrics.recall_score(labels, predictions, average=None), rtol=1e-6)


def test_what_a_class_never_was_has_no_precision_or_recall():
    confusion = confusion_matrix(LABELS, PREDICTIONS, classes=4)
    np.testing.assert_allclose(precision(confusion), [0.5, 0.5, 1, np.nan])
    np.testing.assert_allclose(recall(confusion), [0.5, 1, 2 / 3, np.nan], rtol=1e-6)
    counted = jnp.array([True, False, True, True, True, True])
    np.testing.assert_allclose(recall(confusion_matrix(LABELS, PREDICTIONS, classes=3, counted=counted))[0], 1)
    beyond = confusion_matrix(LABELS, PREDICTIONS + 4, classes=4)
    assert int(beyond.sum()) == 0, "an output without a class is no class"


def test_activity_by_class_adds_up_to_the_frequency_of_every_unit():
    x = X.at[1, 4].set(0.5)
    np.testing.assert_allclose(activation_frequency(x), [0, 0.5, 1, 0, 0.5])
    np.testing.assert_allclose(activation_frequency(x, threshold=1.0), [0, 0, 1, 0, 0])
    counts = active_counts(x != 0, jnp.array([2, 0]), classes=3)
    np.testing.assert_array_equal(counts, [[0, 0, 1, 0, 1], [0, 0, 0, 0, 0], [0, 1, 1, 0, 0]])


def test_magnitudes_are_counted_between_edges():
    edges = jnp.array([0.5, 1.0, 2.0])
    x = jnp.array([[0.0, -0.5, 0.7], [1.0, -1.5, 9.0]])
    np.testing.assert_array_equal(magnitude_counts(x, edges), [1, 2, 2, 1])
    counted = jnp.array([[True], [False]])
    np.testing.assert_array_equal(magnitude_counts(x, edges, counted=counted), [1, 2, 0, 0])
