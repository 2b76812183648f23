"""The papers' initialisation of weights and biases."""

import jax
import numpy as np
import pytest

from sparsejax.functional import uniform_fan_in


@pytest.mark.parametrize(("shape", "fan_in"), [((1024, 700), 1024), ((5, 5, 32, 64), 800)])
def test_weights_are_uniform_within_one_over_the_root_of_the_fan_in(shape, fan_in):
    weights = np.asarray(jax.jit(uniform_fan_in, static_argnums=1)(jax.random.key(0), shape))
    bound = fan_in**-0.5
    assert weights.shape == shape and weights.dtype == np.float32
    assert 0.999 * bound < np.abs(weights).max() <= bound
    # Over 50,000 draws: the mean lies within 5 standard errors, the standard deviation within 1 %.
    assert abs(weights.mean()) < 5 * bound / np.sqrt(3 * weights.size)
    np.testing.assert_allclose(weights.std(), bound / np.sqrt(3), rtol=0.01)


def test_a_bias_needs_its_fan_in():
    with pytest.raises(ValueError, match=r"Weights of shape \(5,\) have no inputs"):
        uniform_fan_in(jax.random.key(0), (5,))
    with pytest.raises(ValueError, match="fan_in is 0"):
        uniform_fan_in(jax.random.key(0), (5,), fan_in=0)
