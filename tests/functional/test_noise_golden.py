"""Learned k, explaining away and the implicit terms against the code of Bricken et al. (see golden.py)."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.functional import (
    explain_away,
    implicit_terms,
    implicit_terms_smooth,
    inhibitory_interneuron,
    k_schedule,
    reinforce_loss,
    soft_top_k,
    top_k_subtract,
)
from sparsejax.functional.learned_k import _k_of_noise
from tests import golden

pytestmark = pytest.mark.optimized


def value_and_gradients(function):
    """Returns a program that gives a function's output and the gradients of that times the first argument."""

    def both(upstream, *arguments):
        y, backward = jax.vjp(function, *arguments)
        return y, backward(upstream)

    return jax.jit(both)


soft_window = value_and_gradients(lambda x, k: soft_top_k(jax.nn.relu(x), k[0], window=10))


@pytest.mark.parametrize("name", ["noise_learnk_sigmoid_mid", "noise_learnk_sigmoid_high_edge"])
def test_the_soft_window(name):
    case = golden.load(name)
    y, (by_x, by_k) = soft_window(case["c"], case["x"], case["learnt_k"])
    np.testing.assert_allclose(y, case["out"], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(by_x, case["grad_x"], rtol=1e-5, atol=1e-7)
    # At the edge, 1 - sigmoid has few digits left in float32.
    np.testing.assert_allclose(by_k, case["grad_k"], rtol=1e-5, atol=2e-8)
    row = np.arange(40.0, 0.0, -1.0, dtype=np.float32)
    weights = np.pad(case["weights"], (0, 40 - len(case["weights"])))
    soft = jax.jit(partial(soft_top_k, window=10))
    np.testing.assert_allclose(soft(row, case["learnt_k"][0]) / row, weights, rtol=1e-5, atol=1e-7)


def test_sampled_k_and_its_density_but_its_score_is_right():
    case = golden.load("noise_learnk_reinforce")
    noise, loss = case["eps"][:, 0], case["loss"]
    mu, sigma = map(np.float32, case["mu_sigma"])
    k, log_p = jax.jit(_k_of_noise, static_argnums=3)(noise, mu, sigma, case["x"].shape[1])
    np.testing.assert_array_equal(k, case["k"])
    np.testing.assert_allclose(log_p, case["log_probs"], rtol=1e-5)

    def surrogate(mu, sigma, baseline):
        return reinforce_loss(_k_of_noise(jnp.asarray(noise), mu, sigma, 60)[1], jnp.asarray(loss), baseline)

    by_mu, by_sigma, by_baseline = jax.jit(jax.grad(surrogate, argnums=(0, 1, 2)))(mu, sigma, 1.2)
    # d log p / d mu = eps / sigma, d log p / d sigma = (eps^2 - 1) / sigma.
    np.testing.assert_allclose(by_mu, np.mean(noise / 0.5 * (loss - 1.2)), rtol=1e-5)
    np.testing.assert_allclose(by_sigma, np.mean((noise**2 - 1) / 0.5 * (loss - 1.2)), rtol=1e-5)
    assert by_baseline == 0
    assert case["grad_mu_sigma"][0] == 0 != by_mu


def test_the_linear_schedule():
    k = jax.jit(partial(k_schedule, n=1000, k_min=10, epochs=100))(np.arange(130))
    np.testing.assert_array_equal(k, golden.load("noise_k_schedule_linear_decay_mask")["k"])


def test_the_units_that_survive_a_subtraction_are_among_the_winners():
    case = golden.load("noise_topk_flat_mask")
    x = np.maximum(case["x"], 0)
    kept = np.asarray(jax.jit(top_k_subtract)(x, 3)) > 0
    np.testing.assert_array_equal(kept, case["out"] > np.sort(x, axis=-1)[:, -3, None])


@pytest.mark.parametrize(
    ("name", "steps", "gamma", "only_inhibitory"),
    [
        ("noise_explain_away_t1_g1p0", 1, 1.0, False),
        ("noise_explain_away_t3_g0p5", 3, 0.5, False),
        ("noise_explain_away_only_inhib_t2_g0p7", 2, 0.7, True),
    ],
)
def test_explaining_away(name, steps, gamma, only_inhibitory):
    case = golden.load(name)
    output = partial(explain_away, steps=steps, gamma=gamma, only_inhibitory=only_inhibitory)
    y, (by_drive, by_lateral) = value_and_gradients(output)(case["c"], case["mu"], case["G"])
    np.testing.assert_allclose(y, case["out"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(by_drive, case["grad_mu"], rtol=1e-5, atol=2e-6)
    np.testing.assert_allclose(by_lateral, case["grad_G"], rtol=1e-5, atol=2e-6)


def test_the_interneuron():
    case, names = golden.load("noise_interneuron_t1_g1"), ("mu", "Ge", "Gd", "be")

    def output(drive, gather, scatter, bias):
        return inhibitory_interneuron(drive, gather[0], scatter[:, 0], bias[0], rectified=True)

    y, gradients = value_and_gradients(output)(case["c"], *(case[name] for name in names))
    np.testing.assert_allclose(y, case["out"], rtol=1e-5, atol=1e-6)
    for gradient, name in zip(gradients, names, strict=True):
        np.testing.assert_allclose(gradient, case[f"grad_{name}"], rtol=1e-5, atol=2e-6, err_msg=name)


def test_implicit_terms_of_relu_and_to_second_order():
    case = {name: a.astype(np.float32) for name, a in golden.load("noise_implicit_terms").items()}
    network = case["x"], case["We"].T, case["be"], case["Wd"].T, case["bd"]
    terms = jax.jit(implicit_terms)(*network, sigma=case["sigma"])
    for i, term in enumerate(terms):
        np.testing.assert_allclose(term, case[f"relu_T{i + 1}"], rtol=1e-4, atol=1e-7)
    # The columns drawn: loss, the three terms, and a standard error.
    np.testing.assert_allclose(sum(map(np.asarray, terms)), np.sum(case["relu_mc"][:, 1:4], axis=1), atol=4e-5)
    gelu = partial(jax.nn.gelu, approximate=False)
    for i, term in enumerate(jax.jit(implicit_terms_smooth, static_argnums=5)(*network, gelu, sigma=case["sigma"])):
        np.testing.assert_allclose(term, case[f"gelu_T{i + 1}"], rtol=1e-4, atol=1e-8)
