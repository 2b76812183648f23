"""Sparsenet: its codes and its learning."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.coding import (
    SparsenetState,
    admm,
    init_sparsenet,
    sparsenet_code,
    sparsenet_objective,
    sparsenet_step,
)
from tests.coding.problems import problem

each_cost = pytest.mark.parametrize("sparseness", ["cauchy", "l1", "gaussian"])
coded = jax.jit(sparsenet_code, static_argnames=("sparseness", "max_iterations"))
sparsenet_value = jax.jit(sparsenet_objective, static_argnames="sparseness")


@each_cost
def test_inference_never_rises_and_ends_at_a_stationary_point(sparseness):
    x, dictionary = problem()
    settings = {"sparseness": sparseness, "penalty": 0.05, "scale": 0.5}
    codes = [coded(x, dictionary, max_iterations=n, **settings) for n in (0, 5, 400)]
    means = [float(sparsenet_value(x, dictionary, result.code, **settings).mean()) for result in codes]
    assert means == sorted(means, reverse=True) and means[0] > means[-1]
    result = codes[-1]
    if sparseness == "l1":
        expected = admm(x, dictionary, l1=0.05 / 0.5, tolerance=1e-6, max_iterations=100_000).code
        np.testing.assert_allclose(result.code, expected, atol=2e-3)
        return
    slope = jax.jit(jax.grad(lambda code: jnp.sum(sparsenet_objective(x, dictionary, code, **settings))))(result.code)
    np.testing.assert_allclose(slope, 0, atol=2e-3)
    assert float(result.gap.max()) < 1e-5
    warm = coded(x, dictionary, initial=result.code, max_iterations=1, **settings)
    np.testing.assert_allclose(warm.code, result.code, atol=2e-3)


def test_the_three_costs_by_hand():
    x, dictionary, code = np.zeros((1, 1), np.float32), np.ones((1, 1), np.float32), np.full((1, 1), 0.6, np.float32)
    expected = {"cauchy": np.log1p(4.0), "l1": 2.0, "gaussian": 1 - np.exp(-4.0)}
    for sparseness, cost in expected.items():
        value = sparsenet_value(x, dictionary, code, sparseness=sparseness, penalty=0.1, scale=0.3)
        np.testing.assert_allclose(value, 0.18 + 0.1 * cost, rtol=1e-6)


@pytest.mark.parametrize(
    "sparseness", ["cauchy", *(pytest.param(s, marks=pytest.mark.slow) for s in ("l1", "gaussian"))]
)
def test_sparsenet_learns_the_atoms_that_made_the_data(sparseness):
    rng = np.random.default_rng(0)
    truth = np.linalg.qr(rng.standard_normal((16, 16)))[0].astype(np.float32)
    code = rng.laplace(size=(2000, 16)) * (rng.random((2000, 16)) < 0.15)
    x = jnp.asarray(code @ truth.T, jnp.float32)
    settings = {"sparseness": sparseness, "penalty": 0.1, "variance_goal": 0.3}

    @jax.jit
    def learn(state):
        return jax.lax.scan(
            lambda state, i: sparsenet_step(state, x[jnp.arange(100) + 100 * (i % 20)], **settings),
            state,
            jnp.arange(700),
        )

    state, metrics = learn(init_sparsenet(jax.random.key(1), 16, 16, variance_goal=0.3))
    lengths = np.linalg.norm(state.dictionary, axis=0)
    found = np.abs(truth.T @ (np.asarray(state.dictionary) / lengths)).max(1)
    assert np.all(found > 0.99)
    assert metrics.error[-50:].mean() < 0.5 * metrics.error[:10].mean()
    np.testing.assert_allclose(lengths, state.gain, rtol=1e-4)


def test_an_inactive_atom_is_replaced_by_the_worst_patch():
    (x, dictionary), step = problem(), jax.jit(sparsenet_step)
    variance = np.full(24, 0.1, np.float32)
    variance[5] = 0
    state = SparsenetState(dictionary, np.ones(24, np.float32), variance)
    frozen = {"learning_rate": 0.0, "variance_rate": 0.0, "gain_exponent": 0.0}
    after, metrics = step(state, x, least_variance=0.1, **frozen)
    residual = x - np.asarray(coded(x, dictionary).code) @ dictionary.T
    np.testing.assert_allclose(metrics.error, (residual**2).sum() / (x**2).sum(), rtol=1e-4)
    worst = x[np.argmax((residual**2).sum(1))]
    np.testing.assert_allclose(after.dictionary[:, 5], worst / np.linalg.norm(worst), rtol=1e-4)
    np.testing.assert_allclose(after.dictionary[:, 6], dictionary[:, 6], rtol=1e-4)
    never, _ = step(state, x, least_variance=0.0, **frozen)
    np.testing.assert_allclose(never.dictionary[:, 5], dictionary[:, 5], rtol=1e-4)


@pytest.mark.wrong_types
def test_errors_say_what_was_expected():
    x, dictionary = problem()
    with pytest.raises(ValueError, match="sparseness is 'log'"):
        sparsenet_code(x, dictionary, sparseness="log")
    with pytest.raises(ValueError, match="scale is 0"):
        sparsenet_code(x, dictionary, scale=0)
    with pytest.raises(ValueError, match="inputs is 0 and atoms 4"):
        init_sparsenet(jax.random.key(0), 0, 4)
    with pytest.raises(ValueError, match=r"expected \[examples, inputs\]"):
        sparsenet_step(SparsenetState(dictionary, np.ones(24), np.ones(24)), x[0])
