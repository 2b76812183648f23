"""What public functions accept: the rules of `checked`, the same for all of them."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sparsejax import functional as F
from sparsejax.coding import DictionaryState, dictionary_step, fista, init_dictionary, soft_threshold
from sparsejax.functional import measures, penalties
from tests.functional.drawn import normal

X = np.array([[3.0, 1.0, 2.0]], np.float32)
KEYS = jax.random.split(jax.random.key(0), 4)


def test_integers_of_any_kind_are_one():
    for k in (2, np.int64(2), np.uint8(2), np.array(2), jnp.int32(2)):
        np.testing.assert_array_equal(F.top_k(X, k), [[3, 0, 2]])
        assert F.init_boost_state(k).duty_cycle.shape == (2,)
    ks = np.array([1, 3], np.int8)  # 200 units are beyond eight bits
    assert np.count_nonzero(F.top_k(normal(2, 200), ks), axis=-1).tolist() == [1, 3]
    np.testing.assert_array_equal(measures.confusion_matrix(np.uint8([0, 1]), np.int8([0, 0]), classes=300)[:2, 0], 1)


@pytest.mark.parametrize("k", [True, np.bool_(True), 2.0, np.float32(2), 0.5, "2", None, [2], 2j, Fraction(2), 10**12])
def test_what_is_no_integer_is_refused_by_name(k):
    for call in (lambda: F.top_k(X, k), lambda: F.init_boost_state(k), lambda: F.explain_away(X, np.eye(3), steps=k)):
        with pytest.raises(ValueError, match=r"(k|units|steps) is .*; expected an integer"):
            call()


def test_floats_and_traced_sizes_are_refused_while_tracing():
    with pytest.raises(ValueError, match=r"k is an array of float\d\d; expected integers \(jnp.round"):
        jax.jit(F.top_k)(X, 0.5)
    with pytest.raises(ValueError, match="units is a traced value of int"):
        jax.jit(F.init_boost_state)(3)


def test_a_schedule_of_k_has_to_be_rounded():
    schedule = optax.linear_schedule(700, 20, 10)
    x = normal(2, 700)
    with pytest.raises(ValueError, match="expected integers"):
        F.top_k(x, schedule(10))
    kept = F.top_k(x, jnp.round(schedule(10)).astype(int))
    assert np.count_nonzero(kept, axis=-1).tolist() == [20, 20]
    # The last k, 19.999998 in float32, is not 19.
    assert F.k_schedule(10, n=700, k_min=jnp.float32(19.999998), epochs=10) == 20


@pytest.mark.parametrize("level", ["0.5", None, [0.5], 0.5j, object()])
def test_what_is_no_number_is_refused_by_name(level):
    with pytest.raises(TypeError, match=r"rate is .*; expected a number"):
        F.dropout(KEYS, normal(4, 3), rate=level)


@pytest.mark.parametrize("rate", [1.0, np.float32(1), np.array(-0.5), float("nan"), 10**400])
def test_numbers_of_any_kind_are_checked(rate):
    with pytest.raises(ValueError, match="rate is"):
        F.dropout(KEYS, normal(4, 3), rate=rate)


def test_arrays_are_those_of_jax_and_numpy_with_the_right_axes():
    for x in ([1.0, 2.0], (1.0,), None, "x", {}, np.array(["a"]), np.ones(3, complex)):
        with pytest.raises(TypeError, match="x is"):
            measures.gini(x)
    with pytest.raises(ValueError, match=r"activations has shape \(3,\); expected \[batch, units, ...\]"):
        penalties.l1(np.ones(3))
    with pytest.raises(ValueError, match=r"images has shape \(4, 4\); expected \[batch, height, width, channels\]"):
        F.crop_and_flip(KEYS, np.ones((4, 4)))
    with pytest.raises(TypeError, match="mask is an array of float32; expected booleans"):
        F.rewire(KEYS[0], np.ones((3, 2)), np.ones((3, 2), np.float32), None, 0.5)
    with jax.enable_x64(False), pytest.raises(ValueError, match="an array of int64 with integers beyond int32"):
        F.top_k(np.array([2**40, 1]), 1)


def test_integers_become_floats_where_floats_are_expected():
    whole = np.array([[3, 1, 0, 0]])
    np.testing.assert_allclose(penalties.l2(whole), 10)
    np.testing.assert_allclose(measures.gini(whole), measures.gini(whole.astype(np.float32)))
    np.testing.assert_array_equal(F.top_k(whole.astype(np.int32), 1), [[3, 0, 0, 0]])
    assert F.top_k(whole.astype(np.int32), 1).dtype == jnp.int32


def test_examples_are_never_broadcast():
    for call in (
        lambda: F.add_noise(KEYS, X, sigma=0.1),
        lambda: measures.active_counts(X > 0, KEYS_LABELS, classes=2),
    ):
        with pytest.raises(ValueError, match="expected the same number of examples"):
            call()


KEYS_LABELS = np.zeros(4, np.int32)


def test_names_are_those_of_the_annotation():
    with pytest.raises(ValueError, match="ties is 'frist'; expected 'first' or 'all'"):
        F.top_k(X, 1, ties="frist")
    with pytest.raises(ValueError, match="distribution is 'normal'; expected 'gaussian' or 'laplace' or 'uniform'"):
        F.add_noise(KEYS, normal(4, 3), sigma=0.1, distribution="normal")
    with pytest.raises(TypeError, match="relu is 'yes'; expected True or False"):
        F.k_winners(X, F.init_boost_state(3), k=1, relu="yes")
    with pytest.raises(TypeError, match="unexpected keyword"):
        F.top_k(X, 1, tie="first")
    with pytest.raises(TypeError, match="positional"):
        F.top_k(X, 1, -1, "first")


def test_records_may_be_dictionaries_of_arrays_of_either_kind():
    state = F.BoostState(jnp.array([0.5, 0.0, 0.1], jnp.float32), jnp.float32(7))
    plain = {name: np.asarray(part, np.float64) for name, part in state._asdict().items()}
    expected = F.k_winners(X, state, k=1, boost_strength=9.0)
    np.testing.assert_array_equal(F.k_winners(X, plain, k=1, boost_strength=9.0), expected)
    new = F.update_boost_state(plain, jnp.asarray(X))
    assert isinstance(new, F.BoostState) and new.duty_cycle.dtype == jnp.float32 and new.samples == 8
    with pytest.raises(TypeError, match="state is a dict; expected a BoostState"):
        F.k_winners(X, {"duty_cycle": state.duty_cycle}, k=1)
    dictionary = init_dictionary(KEYS[0], X, atoms=2)
    again = dictionary_step(dictionary._asdict(), X, l1=0.1)[0]
    assert isinstance(again, DictionaryState)
    jax.tree.map(np.testing.assert_array_equal, again, dictionary_step(dictionary, X, l1=0.1)[0])


def test_a_traced_number_does_not_change_the_type_of_the_result():
    x, gains = jnp.ones((4, 3), jnp.float32), jnp.eye(3, dtype=jnp.float32)
    with jax.enable_x64(True):
        wide = jnp.asarray(0.25, jnp.float64) + np.float64(0)
        for y in (F.dropout(KEYS, x, rate=wide), F.explain_away(x, gains, gamma=wide), fista(x, gains, l1=wide).code):
            assert y.dtype == jnp.float32
        one_by_one = jax.vmap(lambda z: soft_threshold(z, wide))(x[0].astype(jnp.float64))
        assert one_by_one.dtype == jnp.float64
        assert fista(x.astype(jnp.float64), gains, l1=jnp.float32(0.25)).code.dtype == jnp.float64


def test_predictions_beyond_the_classes_are_not_counted():
    counts = measures.confusion_matrix(np.array([0, 1, -1, 2]), np.array([-1, 1, 0, 3]), classes=3)
    np.testing.assert_array_equal(counts, np.diag([0, 1, 0]))


def test_a_dictionary_of_zeros_gives_a_code_of_zeros():
    np.testing.assert_array_equal(fista(X, np.zeros((3, 4), np.float32), l1=0.1).code, np.zeros((1, 4)))
