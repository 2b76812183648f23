"""Penalties on activations: their values, gradients and what they are averaged over."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.functional.penalties import cauchy, gaussian, l1, l2

X = jnp.array([[0.0, 1.0, -2.0], [0.5, 0.0, 0.0]])
CASES = [
    (l1, np.abs, np.sign),
    (l2, np.square, lambda a: 2 * a),
    (cauchy, lambda a: np.log(1 + a**2), lambda a: 2 * a / (1 + a**2)),
    (gaussian, lambda a: -np.exp(-(a**2)), lambda a: 2 * a * np.exp(-(a**2))),
]
ALL = pytest.mark.parametrize(("penalty", "cost", "slope"), CASES, ids=lambda f: getattr(f, "__name__", ""))


def test_values_by_hand():
    np.testing.assert_allclose(l1(X), 3.5 / 2)
    np.testing.assert_allclose(l2(X), 5.25 / 2)
    np.testing.assert_allclose(cauchy(X), (np.log(2) + np.log(5) + np.log(1.25)) / 2, rtol=1e-6)
    np.testing.assert_allclose(gaussian(X), -(3 + np.exp(-1) + np.exp(-4) + np.exp(-0.25)) / 2, rtol=1e-6)


@ALL
def test_values_and_gradients_are_those_of_the_formula(fresh_key, penalty, cost, slope):
    x = 2 * jax.random.normal(fresh_key(), (5, 8))
    value, gradient = jax.value_and_grad(penalty)(x)
    np.testing.assert_allclose(value, np.sum(cost(np.asarray(x, np.float64))) / 5, rtol=1e-5)
    np.testing.assert_allclose(gradient, slope(np.asarray(x, np.float64)) / 5, rtol=1e-5, atol=1e-7)


@ALL
def test_units_that_are_off_are_not_pushed(penalty, cost, slope):
    gradient = jax.grad(penalty)(jnp.zeros((2, 3)))
    np.testing.assert_array_equal(gradient, np.zeros((2, 3)))


@ALL
def test_signs_do_not_matter_and_larger_activations_cost_more(fresh_key, penalty, cost, slope):
    x = jax.random.normal(fresh_key(), (5, 8))
    np.testing.assert_allclose(penalty(-x), penalty(x), rtol=1e-6)
    assert penalty(0 * x) < penalty(x) < penalty(2 * x)


@ALL
def test_jit_vmap_and_shape_change_nothing(fresh_key, penalty, cost, slope):
    x = jax.random.normal(fresh_key(), (4, 2, 3, 5))
    plain = penalty(x)
    np.testing.assert_allclose(jax.jit(penalty)(x), plain, rtol=1e-6)
    np.testing.assert_allclose(penalty(x.reshape(4, 30)), plain, rtol=1e-6)
    each = jax.jit(jax.vmap(lambda example: penalty(example[None])))(x)
    np.testing.assert_allclose(np.mean(each), plain, rtol=1e-6)


@ALL
def test_half_precision_is_summed_in_single(penalty, cost, slope):
    x = jnp.ones((3, 5000), jnp.bfloat16)
    assert penalty(x).dtype == jnp.float32
    np.testing.assert_allclose(penalty(x), 5000 * cost(np.float64(1)), rtol=1e-5)
    assert jax.grad(penalty)(x).dtype == jnp.bfloat16


@ALL
def test_nan_passes_and_one_example_alone_is_refused(penalty, cost, slope):
    assert np.isnan(penalty(X.at[0, 0].set(jnp.nan)))
    with pytest.raises(ValueError, match=r"shape \(3,\); expected \[batch, ...\]"):
        penalty(X[0])
