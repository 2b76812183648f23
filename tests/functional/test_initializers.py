"""The sources' initialisation of weights and biases."""

import jax
import numpy as np
import pytest

from sparsejax.functional import sparse_mask, uniform_fan_in
from tests import golden


@pytest.mark.parametrize(("shape", "fan_in"), [((1024, 700), 1024), ((5, 5, 32, 64), 800)])
def test_weights_are_uniform_within_one_over_the_root_of_the_fan_in(fresh_key, shape, fan_in):
    weights = np.asarray(uniform_fan_in(fresh_key(), shape))
    bound = fan_in**-0.5
    assert weights.shape == shape and weights.dtype == np.float32
    assert 0.999 * bound < np.abs(weights).max() <= bound
    # Over 50,000 draws: the mean lies within 5 standard errors, the standard deviation within 1 %.
    assert abs(weights.mean()) < 5 * bound / np.sqrt(3 * weights.size)
    np.testing.assert_allclose(weights.std(), bound / np.sqrt(3), rtol=0.01)


def test_scale_and_density_are_those_of_the_original_layers(fresh_key):
    for inputs, units, sparsity, largest, deviation, bias, density, *_ in golden.load("kwinners_20_init_scale")[
        "table"
    ]:
        shape = (int(inputs), 64)
        mask = np.asarray(sparse_mask(fresh_key(), shape, 1 - sparsity))
        weights = np.asarray(uniform_fan_in(fresh_key(), shape))[mask]
        np.testing.assert_allclose(mask.mean(), density, atol=1e-6)
        np.testing.assert_allclose(np.abs(weights).max(), largest, rtol=1e-3)
        np.testing.assert_allclose(weights.std(), deviation, rtol=0.02)
        ours = np.asarray(uniform_fan_in(fresh_key(), (int(units),), fan_in=int(inputs)))
        np.testing.assert_allclose(np.abs(ours).max(), bias, rtol=0.05)


def test_a_bias_needs_its_fan_in():
    with pytest.raises(ValueError, match=r"Weights of shape \(5,\) have no inputs"):
        uniform_fan_in(jax.random.key(0), (5,))
    with pytest.raises(ValueError, match="fan_in is 0"):
        uniform_fan_in(jax.random.key(0), (5,), fan_in=0)
