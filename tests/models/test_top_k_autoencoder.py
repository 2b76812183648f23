"""The Top-K autoencoder: its formula, its gradients, and training that lowers its error."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.errors import ConfigError
from sparsejax.functional import top_k
from sparsejax.models import TopKAutoencoder
from sparsejax.models.base import kernel_of
from tests.command import launch

MODEL = TopKAutoencoder(hidden=256, k=6)


def network(scale=1.0):
    variables = MODEL.init(jax.random.key(0), jnp.zeros((1, 4, 5, 1)))
    params = jax.tree.map(
        lambda leaf: leaf + scale * jax.random.normal(jax.random.key(leaf.size), leaf.shape), variables.params
    )
    return variables._replace(params=params), jax.random.normal(jax.random.key(3), (7, 4, 5, 1))


def dense(params, x):
    x, centre = x.reshape(len(x), -1), params["output"]["bias"][None]
    h = (x - centre) @ kernel_of(params["hidden"]) + params["hidden"]["bias"][None]
    h = jax.nn.relu(top_k(h, MODEL.k, ties="first"))
    return h @ params["output"]["kernel"] + centre, h


@pytest.mark.slow
def test_it_is_the_dense_formula_and_so_are_its_gradients():
    variables, x = network(0.1)

    def loss(params, predict):
        return jnp.sum((predict(params) - x.reshape(7, -1)) ** 2)

    output = MODEL.apply(variables, x)
    for ours, formula in zip(
        (output.prediction, output.activations["hidden"]), dense(variables.params, x), strict=True
    ):
        np.testing.assert_allclose(ours, formula, rtol=1e-5, atol=1e-5)
    ours = jax.jit(jax.grad(lambda p: loss(p, lambda p: MODEL.apply(variables._replace(params=p), x).prediction)))
    formula = jax.grad(lambda p: loss(p, lambda p: dense(p, x)[0]))(variables.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3), ours(variables.params), formula)


def test_boosted_units_that_never_won_come_in():
    variables, x = network()

    def used(strength):
        now, apply = variables, jax.jit(lambda v: MODEL.apply(v, x, train=True, hyper={"boost_strength": strength}))
        seen = np.zeros(MODEL.hidden, bool)
        for _ in range(20):
            output = apply(now)
            now = now._replace(state=output.state)
            seen |= np.asarray(output.activations["hidden"] > 0).any(0)
        assert float(now.state["hidden"]["boost"].samples) == 20 * len(x)
        return seen.sum()

    assert used(jnp.float32(20.0)) > 2 * used(jnp.float32(0.0))


def test_impossible_sizes_are_refused():
    with pytest.raises(ConfigError, match=r"model.k is 129; expected a number of winners from 1 to 128"):
        TopKAutoencoder(hidden=128, k=129)
    with pytest.raises(ValueError, match="TopKAutoencoder has no traced field"):
        MODEL.apply(*network(), hyper={"k": jnp.float32(3)})
    with pytest.raises(ConfigError, match="model.boost_strength is -1"):
        TopKAutoencoder(boost_strength=-1.0)


@pytest.mark.slow
def test_it_learns_to_draw_digits_with_few_units(tmp_path):
    small = ("--data.name", "digits", "--model.hidden", "200", "--model.k", "9", "--training.epochs", "8")
    done = launch("--config", "mnist_top_k_autoencoder", *small, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "result.json").read_text())
    lines = (json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines())
    losses = [line["test_loss"][0] for line in lines if "test_loss" in line]
    assert result["layers"]["hidden"]["active_fraction"] <= 9 / 200
    assert losses[-1] < 0.6 * losses[0]
    assert (tmp_path / "figures" / "filters.png").exists()
    assert result["products_ratio"] > 1.5
