"""Fully connected networks: what they compute, what their thresholds promise, and the gradients of their penalty."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.errors import ConfigError
from sparsejax.models import DenseNetwork
from sparsejax.models.base import Variables

SHAPE = (5, 6, 6, 1)


def network(**fields):
    model = DenseNetwork(**fields)
    x = jax.random.uniform(jax.random.key(1), SHAPE)
    return model, model.init(jax.random.key(0), x), x


@pytest.mark.parametrize("activation", ["relu", "sigmoid"])
def test_layers_are_what_numpy_computes(activation):
    model, variables, x = network(hidden=(7, 4), classes=3, activation=activation)
    output = jax.jit(model.apply)(variables, x)
    expected = np.asarray(x).reshape(5, -1)
    functions = {"relu": lambda z: np.maximum(z, 0), "sigmoid": lambda z: 1 / (1 + np.exp(-z))}
    for name in ("hidden1", "hidden2"):
        layer = variables.params[name]
        expected = functions[activation](expected @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"]))
        np.testing.assert_allclose(output.activations[name], expected, rtol=1e-5, atol=1e-6)
    layer = variables.params["output"]
    expected = expected @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"])
    np.testing.assert_allclose(output.prediction, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(model.apply(variables, x).prediction, output.prediction, rtol=1e-5, atol=1e-6)
    assert [(layer.name, layer.units, layer.inputs) for layer in model.layers(SHAPE[1:])] == [
        ("hidden1", 7, (36,)), ("hidden2", 4, (7,)),
    ]  # fmt: skip


def test_an_autoencoder_gives_back_as_many_pixels_and_none_below_0():
    model, variables, x = network(hidden=(9, 3, 9), classes=None, output="relu")
    prediction = model.apply(variables, x).prediction
    assert prediction.shape == (5, 36)
    assert (prediction >= 0).all() and (prediction == 0).any() and (prediction > 0).any()


def test_thresholds_are_positive_and_begin_at_the_size_of_the_bias():
    _, free, _ = network(hidden=(50, 20))
    model, variables, _ = network(hidden=(50, 20), bias="threshold", output_bias=False)
    for name in ("hidden1", "hidden2"):
        np.testing.assert_array_equal(variables.params[name]["kernel"], free.params[name]["kernel"])
        thresholds = jax.nn.softplus(variables.params[name]["threshold"])
        expected = np.maximum(np.abs(free.params[name]["bias"]), 1e-4)
        np.testing.assert_allclose(thresholds, expected, rtol=1e-3)
    assert "bias" not in variables.params["output"]
    # However far training goes, no threshold is below 0, and silence says nothing.
    far = jax.tree.map(lambda leaf: leaf - 20, variables.params)
    output = model.apply(Variables(far, {}), jnp.zeros(SHAPE))
    assert all((h == 0).all() for h in output.activations.values())
    assert (output.prediction == 0).all()


def test_the_gradient_of_the_penalty_is_that_of_the_thesis():
    """Eq. 3.8 and 3.9, for one example, whose f' are 1 where a unit is active and 0 elsewhere."""
    model, variables, x = network(hidden=(8, 6), classes=2)
    x = x[:1]

    def penalty(params):
        return sum(jnp.abs(h).sum() for h in model.apply(Variables(params, {}), x).activations.values())

    gradient = jax.grad(penalty)(variables.params)
    first, second = (np.asarray(h[0]) for h in model.apply(variables, x).activations.values())
    kernel = np.asarray(variables.params["hidden2"]["kernel"])
    np.testing.assert_allclose(gradient["hidden2"]["kernel"], np.outer(first, second > 0), rtol=1e-5, atol=1e-6)
    per_unit = (first > 0) * (kernel @ (second > 0) + 1)
    pixels = np.asarray(x).ravel()
    np.testing.assert_allclose(gradient["hidden1"]["kernel"], np.outer(pixels, per_unit), rtol=1e-5, atol=1e-6)
    assert 0 < (first > 0).sum() < 8, "some units are on and some off"


@pytest.mark.parametrize("fields", [{"hidden": ()}, {"hidden": (5, 0)}, {"classes": 0}])
def test_what_cannot_be_is_refused(fields):
    with pytest.raises(ConfigError, match=next(iter(fields))):
        DenseNetwork(**fields)
