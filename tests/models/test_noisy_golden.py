"""The noisy network against what was recorded from its peers: training steps, a shared bias, its noise."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sparsejax.data.resident import Batch
from sparsejax.functional import add_noise, anneal, example_keys
from sparsejax.models import NoisyNetwork
from sparsejax.models.base import Variables
from sparsejax.training.config import TrainingConfig
from sparsejax.training.objectives import reconstruction
from sparsejax.training.optimizers import optimizer
from tests import golden
from tests.models.made_up import made_up

pytestmark = pytest.mark.optimized
TRAINING = TrainingConfig(optimizer="adam", learning_rate=1e-2, clip_norm=1.0)


def keys(count):
    return jax.jit(example_keys)(jax.random.key(0), np.arange(count))


def params_of(case, when):
    layers = {"hidden": "net.1", "output": "net.3"}
    return {
        ours: {"kernel": case[f"{when}.{theirs}.weight"].T, "bias": case[f"{when}.{theirs}.bias"]}
        for ours, theirs in layers.items()
    }


def scored(params, clean, noisy):
    """Returns mean and single losses of a network of 12 units."""
    output = NoisyNetwork(hidden=12).apply(Variables(params, {}), noisy)
    batch = Batch(clean, jnp.zeros(len(clean), int), jnp.arange(len(clean)))
    each = reconstruction.score(output, batch)["loss"]
    return each.mean(), each


@jax.jit
def step(params, opt_state, clean, noisy):
    update = optimizer(TRAINING, jnp.float32(1e-2))
    (_, each), grads = jax.value_and_grad(scored, has_aux=True)(params, clean, noisy)
    updates, opt_state = update.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, each, optax.tree.norm(grads)


@pytest.mark.parametrize(("name", "sigma"), [("noise_train3_relu", 0.3), ("noise_train3_sigma0", 0.0)])
def test_training_steps_are_the_originals(name, sigma):
    case = golden.load(name)
    params = params_of(case, "init")
    with jax.numpy_dtype_promotion("standard"):  # Optax's Adam raises floats to whole powers
        opt_state = jax.jit(optimizer(TRAINING, jnp.float32(1e-2)).init)(params)
        for x, eps, loss, norm in zip(case["x"], case["eps"], case["loss"], case["grad_norm"], strict=True):
            # The noise is the recorded one, so the network sees it on its input and adds none.
            params, opt_state, each, grad_norm = step(params, opt_state, x, x + np.float32(sigma) * eps)
            np.testing.assert_allclose(each, loss, rtol=1e-5)
            np.testing.assert_allclose(grad_norm, norm, rtol=1e-5)
    for got, wanted in zip(jax.tree.leaves(params), jax.tree.leaves(params_of(case, "final")), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-6)


def test_a_shared_bias_is_the_originals():
    case = golden.load("noise_shared_bias")
    model = NoisyNetwork(hidden=12, bias="shared")
    variables = made_up(model, (8,))

    def hidden(x, kernel, bias):
        params = {**variables.params, "hidden": {"kernel": kernel, "bias": bias}}
        return model.apply(Variables(params, {}), x).activations["hidden"]

    def backward(inputs, out_gradient):
        out, pull = jax.vjp(hidden, *inputs)
        return out, pull(out_gradient)

    inputs = case["x"], case["W"].T, case["b0"][0]
    out, (by_x, by_kernel, by_bias) = jax.jit(backward)(inputs, case["c"])
    np.testing.assert_allclose(out, case["out"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(by_x, case["grad_x"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(by_kernel.T, case["grad_W"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(by_bias, case["grad_b0"][0], rtol=1e-4)


def test_noise_has_the_originals_moments_and_is_fresh_for_each_example():
    case, zeros = golden.load("noise_layer_moments"), jnp.zeros((400, 500))
    for name, distribution in (("normal", "gaussian"), ("laplace", "laplace")):
        draw = jax.jit(
            lambda keys, distribution=distribution: add_noise(keys, zeros, sigma=0.5, distribution=distribution)
        )
        noise = np.asarray(draw(keys(400)))
        np.testing.assert_allclose([noise.mean(), noise.var()], case[name], atol=0.01)
        assert len(np.unique(noise)) > 0.98 * noise.size
        np.testing.assert_allclose(np.asarray(draw(keys(400)[::-1]))[::-1], noise, rtol=1e-6)


@pytest.mark.wrong_types
def test_noise_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="distribution is 'cauchy'"):
        add_noise(keys(2), jnp.zeros((2, 5)), sigma=1.0, distribution="cauchy")
    with pytest.raises(ValueError, match=r"sigma is -1\.0"):
        add_noise(keys(2), jnp.zeros((2, 5)), sigma=-1.0)


def test_annealing_is_the_originals():
    after = golden.load("noise_anneal_sigma0p3")["sigma_after_epoch"]
    ours = jax.jit(jax.vmap(lambda epoch: anneal(0.3, epoch, hold=800, duration=800)))
    np.testing.assert_allclose(ours(np.arange(len(after), dtype=np.float32)), after, atol=1e-6)
    assert anneal(0.3, 801, hold=800, duration=0) == 0
