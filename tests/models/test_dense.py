"""Fully connected networks: their outputs, their thresholds, and the gradients of their penalty."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.errors import ConfigError
from sparsejax.models import DenseNetwork
from sparsejax.models.base import Variables
from tests.models.made_up import made_up

X = np.random.default_rng(1).random((5, 6, 6, 1), np.float32)
SHAPE = X.shape[1:]


@functools.cache
def applied(model):
    return jax.jit(model.apply)


@pytest.mark.parametrize("activation", ["relu", "sigmoid"])
def test_layers_are_what_numpy_computes(activation):
    model = DenseNetwork(hidden=(7, 4), classes=3, activation=activation)
    variables = made_up(model, SHAPE)
    output, params = applied(model)(variables, X), jax.tree.map(np.asarray, variables.params)
    expected = X.reshape(5, -1)
    functions = {"relu": lambda z: np.maximum(z, 0), "sigmoid": lambda z: 1 / (1 + np.exp(-z))}
    for name in ("hidden1", "hidden2"):
        expected = functions[activation](expected @ params[name]["kernel"] + params[name]["bias"])
        np.testing.assert_allclose(output.activations[name], expected, rtol=1e-5, atol=1e-6)
    expected = expected @ params["output"]["kernel"] + params["output"]["bias"]
    np.testing.assert_allclose(output.prediction, expected, rtol=1e-5, atol=1e-6)
    assert [(layer.name, layer.units, layer.inputs) for layer in model.layers(SHAPE)] == [
        ("hidden1", 7, (36,)), ("hidden2", 4, (7,)),
    ]  # fmt: skip


def test_an_autoencoder_returns_as_many_pixels_without_negative_ones():
    model = DenseNetwork(hidden=(9, 3, 9), classes=None, output="relu")
    prediction = np.asarray(applied(model)(made_up(model, SHAPE), X).prediction)
    assert prediction.shape == (5, 36)
    assert (prediction >= 0).all() and (prediction == 0).any() and (prediction > 0).any()


def test_thresholds_are_positive_and_start_at_the_magnitude_of_the_bias():
    model = DenseNetwork(hidden=(50, 20), bias="threshold", output_bias=False)
    free, own = (
        jax.tree.map(np.asarray, jax.jit(network.init)(jax.random.key(0), X).params)
        for network in (DenseNetwork(hidden=(50, 20)), model)
    )
    for name in ("hidden1", "hidden2"):
        np.testing.assert_array_equal(own[name]["kernel"], free[name]["kernel"])
        thresholds = np.log1p(np.exp(own[name]["threshold"]))
        np.testing.assert_allclose(thresholds, np.maximum(np.abs(free[name]["bias"]), 1e-4), rtol=1e-3)
    assert "bias" not in own["output"]
    # No amount of training makes a threshold negative, and inactive units carry no information.
    far = jax.tree.map(lambda leaf: leaf - np.float32(20), own)
    output = applied(model)(Variables(far, {}), np.zeros_like(X))
    assert all(not np.any(h) for h in (*output.activations.values(), output.prediction))


def test_the_gradient_of_the_penalty_is_that_of_the_thesis():
    """Eq. 3.8 and 3.9, for one example, whose f' are 1 where a unit is active and 0 elsewhere."""
    model, x = DenseNetwork(hidden=(8, 6), classes=2), X[:1]
    params = made_up(model, SHAPE, seed=1).params

    def penalty(params):
        activations = model.apply(Variables(params, {}), x).activations
        return sum(jnp.abs(h).sum() for h in activations.values()), activations

    gradient, activations = jax.jit(jax.grad(penalty, has_aux=True))(params)
    first, second = (np.asarray(h[0]) for h in activations.values())
    kernel = np.asarray(params["hidden2"]["kernel"])
    np.testing.assert_allclose(gradient["hidden2"]["kernel"], np.outer(first, second > 0), rtol=1e-5, atol=1e-6)
    per_unit = (first > 0) * (kernel @ (second > 0) + 1)
    np.testing.assert_allclose(gradient["hidden1"]["kernel"], np.outer(x.ravel(), per_unit), rtol=1e-5, atol=1e-6)
    assert 0 < (first > 0).sum() < 8, "some units are on and some off"


@pytest.mark.parametrize("fields", [{"hidden": ()}, {"hidden": (5, 0)}, {"classes": 0}])
def test_what_cannot_be_is_refused(fields):
    with pytest.raises(ConfigError, match=next(iter(fields))):
        DenseNetwork(**fields)
