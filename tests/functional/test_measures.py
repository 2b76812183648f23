"""Measures of sparsity and of how evenly units are used."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.functional import (
    active_fraction,
    binary_entropy,
    dead_units,
    duty_entropy,
    l0,
    max_entropy,
)

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
