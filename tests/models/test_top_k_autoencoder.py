"""The Top-K autoencoder: its formula, its gradients, and training that lowers its error."""

import dataclasses
import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.commands import train as launch
from sparsejax.errors import ConfigError
from sparsejax.functional import init_boost_state, top_k
from sparsejax.models import TopKAutoencoder
from sparsejax.models.base import kernel_of
from tests.models.made_up import made_up

MODEL = TopKAutoencoder(hidden=256, k=6)


X = np.random.default_rng(3).normal(size=(7, 4, 5, 1)).astype(np.float32)


def dense(variables, x):
    params, x = variables.params, x.reshape(len(x), -1)
    centre = params["output"]["bias"][None]
    h = (x - centre) @ kernel_of(params["hidden"]) + params["hidden"]["bias"][None]
    h = jax.nn.relu(top_k(h, MODEL.k, ties="first"))
    return h @ params["output"]["kernel"] + centre, h


def test_it_is_the_dense_formula_and_so_are_its_gradients():
    variables = made_up(MODEL, X.shape[1:])._replace(state={"hidden": {"boost": init_boost_state(MODEL.hidden)}})

    def graded(forward):
        def loss(params):
            prediction, h = forward(variables._replace(params=params), X)
            return jnp.sum((prediction - X.reshape(7, -1)) ** 2), (prediction, h)

        return jax.jit(jax.grad(loss, has_aux=True))(variables.params)

    def ours(variables, x):
        output = MODEL.apply(variables, x)
        return output.prediction, output.activations["hidden"]

    (gradients, outputs), (expected_gradients, expected) = graded(ours), graded(dense)
    chex.assert_trees_all_close(outputs, expected, rtol=1e-5, atol=1e-5)
    chex.assert_trees_all_close(gradients, expected_gradients, rtol=1e-4, atol=1e-3)


def test_boosting_activates_units_that_never_won():
    variables = jax.jit(MODEL.init)(jax.random.key(0), X[:1])
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: leaf + rng.normal(size=leaf.shape).astype(np.float32), variables.params)

    @jax.jit
    def apply(variables, strength):
        return dataclasses.replace(MODEL, boost_strength=strength).apply(variables, X, train=True)

    def used(strength):
        now, seen = variables._replace(params=params), np.zeros(MODEL.hidden, bool)
        for _ in range(20):
            output = apply(now, np.float32(strength))
            now = now._replace(state=output.state)
            seen |= (np.asarray(output.activations["hidden"]) > 0).any(0)
        assert float(now.state["hidden"]["boost"].samples) == 20 * len(X)
        return seen.sum()

    assert used(20) > 2 * used(0)


def test_impossible_sizes_are_refused():
    with pytest.raises(ConfigError, match=r"model.k is 129; expected a number of winners from 1 to 128"):
        TopKAutoencoder(hidden=128, k=129)
    with pytest.raises(ConfigError, match="model.boost_strength is -1"):
        TopKAutoencoder(boost_strength=-1.0)


@pytest.mark.slow
def test_it_learns_to_reconstruct_digits_with_few_units(tmp_path):
    small = ("--data.name", "digits", "--model.hidden", "200", "--model.k", "9", "--training.epochs", "8")
    with jax.numpy_dtype_promotion("standard"):
        assert launch.main(["--config", "mnist_top_k_autoencoder", *small, "--out", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    lines = (json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines())
    losses = [line["test_loss"][0] for line in lines if "test_loss" in line]
    assert result["layers"]["hidden"]["active_fraction"] <= 9 / 200
    assert losses[-1] < 0.6 * losses[0]
    assert (tmp_path / "figures" / "filters.png").exists()
    assert result["products_ratio"] > 1.5
