"""Measures of sparsity and of how evenly units are used."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.functional import measures, penalties
from sparsejax.functional.measures import (
    activation_frequency,
    active_counts,
    active_fraction,
    best_weight,
    binary_entropy,
    dead_units,
    duty_entropy,
    gini,
    gini_weighted_accuracy,
    hoyer,
    l0,
    magnitude_counts,
    max_entropy,
)
from tests.functional.drawn import normal

X = jnp.array([[0.0, 1.0, -2.0, 0.0, -0.0], [0.0, 0.0, 3.0, 0.0, jnp.nan]])


def test_counts_and_fractions_of_active_units():
    np.testing.assert_array_equal(l0(X), [2, 2])
    np.testing.assert_array_equal(l0(X.reshape(2, 1, 5)), [[2], [2]])
    assert active_fraction(X) == np.float32(0.4)
    np.testing.assert_array_equal(dead_units(X), [True, False, False, True, False])


def test_counts_do_not_overflow_in_half_precision():
    x = jnp.ones((1, 4096), jnp.bfloat16)
    assert int(l0(x)[0]) == 4096 and active_fraction(x) == 1


def test_the_entropy_of_a_coin():
    bits = jax.jit(binary_entropy)(jnp.array([0.0, 1.0, 0.5, 0.25, 0.1]))
    np.testing.assert_allclose(bits, [0.0, 0.0, 1.0, 0.8112781, 0.4689956], atol=1e-6)


def test_the_entropy_has_finite_gradients_at_its_ends():
    slopes = jax.jit(jax.vmap(jax.grad(binary_entropy)))(jnp.array([0.0, 0.5, 1.0]))
    assert np.isfinite(slopes).all() and abs(slopes[1]) < 1e-6


def test_the_entropy_of_a_layer_is_the_sum_over_its_units():
    duty_cycle, entropy = jnp.array([0.1, 0.5, 0.0, 1.0]), jax.jit(duty_entropy, static_argnames="positions")
    np.testing.assert_allclose(entropy(duty_cycle), 1.4689956, rtol=1e-6)
    np.testing.assert_allclose(entropy(duty_cycle, positions=12), 12 * 1.4689956, rtol=1e-6)


def test_equal_use_has_the_largest_entropy():
    np.testing.assert_allclose(max_entropy(20, 5), duty_entropy(jnp.full(20, 0.25)), rtol=1e-6)
    np.testing.assert_allclose(jax.jit(max_entropy, static_argnums=0)(20, 5), 20 * 0.8112781, rtol=1e-6)
    uneven = jnp.array([0.5] * 10 + [0.0] * 10)
    assert float(duty_entropy(uneven)) < float(max_entropy(20, 5))
    assert max_entropy(20, 0) == max_entropy(20, 20) == 0


@pytest.mark.parametrize("k", [-1, 21])
def test_more_winners_than_units_are_refused(k):
    with pytest.raises(ValueError, match=f"k is {k}, but the layer has 20 units"):
        max_entropy(20, k)


@pytest.mark.parametrize("measure", [gini, hoyer])
def test_sparsity_indices_are_invariant_to_scale_order_and_sign(measure):
    x, signs, of = np.asarray(normal(4, 50)), np.sign(normal(4, 50, seed=1)), jax.jit(measure)
    plain = measure(jnp.asarray(x))
    for same in (x, np.float32(1e30) * x, np.float32(1e-30) * x, x[:, ::-1], x * signs):
        np.testing.assert_allclose(of(same), plain, rtol=2e-5)
    np.testing.assert_allclose(jax.jit(jax.vmap(measure))(x), plain, rtol=1e-5)
    np.testing.assert_allclose(of(x.reshape(2, 2, 50)).ravel(), plain, rtol=1e-5)
    assert (of(np.where(np.abs(x) > 1, x, np.float32(0))) > plain).all()
    np.testing.assert_allclose(of(np.ones((2, 10_000), jnp.bfloat16)), 0, atol=1e-4)
    slopes = jax.jit(jax.grad(lambda x: measure(x).sum()))(np.zeros((2, 5), np.float32))
    assert np.isfinite(slopes).all()


def test_gini_is_its_sum_over_pairs():
    x = np.abs(np.random.default_rng(0).normal(size=(3, 40)))
    pairs = np.abs(x[:, :, None] - x[:, None]).sum((1, 2)) / (2 * 40 * x.sum(1))
    np.testing.assert_allclose(jax.jit(gini)(x.astype(np.float32)), pairs, rtol=1e-5)


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
    precision, recall = (partial(score, average=None) for score in (metrics.precision_score, metrics.recall_score))
    rng = np.random.default_rng(1)
    labels, predictions = rng.integers(0, 7, (2, 300))
    confusion = jax.jit(measures.confusion_matrix, static_argnames="classes")(labels, predictions, classes=7)
    np.testing.assert_array_equal(confusion, metrics.confusion_matrix(labels, predictions))
    np.testing.assert_allclose(measures.precision(confusion), precision(labels, predictions))
    np.testing.assert_allclose(measures.recall(confusion), recall(labels, predictions), rtol=1e-6)


def test_unpredicted_and_missing_classes_have_no_precision_or_recall():
    confusion_matrix = jax.jit(measures.confusion_matrix, static_argnames="classes")
    precision, recall = jax.jit(measures.precision), jax.jit(measures.recall)
    confusion = confusion_matrix(LABELS, PREDICTIONS, classes=4)
    np.testing.assert_allclose(precision(confusion), [0.5, 0.5, 1, np.nan])
    np.testing.assert_allclose(recall(confusion), [0.5, 1, 2 / 3, np.nan], rtol=1e-6)
    counted = jnp.array([True, False, True, True, True, True])
    np.testing.assert_allclose(recall(confusion_matrix(LABELS, PREDICTIONS, classes=4, counted=counted))[0], 1)
    beyond = confusion_matrix(LABELS, PREDICTIONS + 4, classes=4)
    assert int(beyond.sum()) == 0, "an output without a class is no class"


def test_activity_by_class_adds_up_to_the_frequency_of_every_unit():
    x = X.at[1, 4].set(0.5)
    frequency = jax.jit(activation_frequency, static_argnames="threshold")
    np.testing.assert_allclose(frequency(x), [0, 0.5, 1, 0, 0.5])
    np.testing.assert_allclose(frequency(x, threshold=1.0), [0, 0, 1, 0, 0])
    counts = jax.jit(active_counts, static_argnames="classes")(x != 0, jnp.array([2, 0]), classes=3)
    np.testing.assert_array_equal(counts, [[0, 0, 1, 0, 1], [0, 0, 0, 0, 0], [0, 1, 1, 0, 0]])


def test_magnitudes_are_counted_between_edges():
    edges = jnp.array([0.5, 1.0, 2.0])
    x = jnp.array([[0.0, -0.5, 0.7], [1.0, -1.5, 9.0]])
    np.testing.assert_array_equal(magnitude_counts(x, edges), [1, 2, 2, 1])
    counted = jnp.array([[True], [False]])
    np.testing.assert_array_equal(magnitude_counts(x, edges, counted=counted), [1, 2, 0, 0])


def test_an_answer_is_the_first_largest_logit_and_with_a_nan_it_is_wrong():
    logits = jnp.asarray([[1.0, 2.0, 0.0], [2.0, 2.0, 0.0], [jnp.nan, 0.0, 0.0], [0.0, 0.0, jnp.inf]])
    for label, wrong in enumerate([[1, 0, 1, 1], [0, 1, 1, 1], [1, 1, 1, 0]]):
        found = measures.is_misclassified(logits, jnp.full(4, label, jnp.uint8))
        np.testing.assert_array_equal(found, np.asarray(wrong, bool))


@pytest.mark.parametrize("measure", [gini, hoyer])
@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf, -jnp.inf])
def test_the_index_of_what_is_not_finite_is_nan(measure, bad):
    x = jnp.array([[1.0, 2.0, 0.0], [1.0, bad, 0.0], [bad, bad, bad], [0.0, 0.0, 0.0]])
    index = np.asarray(jax.jit(measure)(x))
    np.testing.assert_array_equal(np.isnan(index), [False, True, True, False])
    assert index[3] == 0


def test_measures_of_nan_are_nan_and_counts_take_it_for_active():
    p = jnp.array([0.5, jnp.nan])
    assert np.isnan(binary_entropy(p)[1]) and np.isnan(duty_entropy(p))
    assert np.isnan(max_entropy(4, jnp.float32(np.nan)))
    np.testing.assert_array_equal(gini_weighted_accuracy(p[:, None], jnp.ones((2, 1))), p)
    np.testing.assert_array_equal(activation_frequency(X), [0, 0.5, 1, 0, jnp.nan])
    np.testing.assert_array_equal(magnitude_counts(X, jnp.array([1.5, 2.5])), [7, 1, 2])
    assert all(np.isnan(penalty(X)) for penalty in (penalties.l1, penalties.l2, penalties.cauchy, penalties.gaussian))


def test_the_best_weight_is_not_that_of_nan():
    accuracy = jnp.array([[0.2], [jnp.nan], [0.5], [0.5]])
    weights, ones = jnp.arange(4), jnp.ones((4, 1))
    assert best_weight(weights, accuracy, ones) == 2
    assert best_weight(weights, accuracy * jnp.nan, ones) == 0
