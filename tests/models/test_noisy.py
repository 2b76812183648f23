"""The noisy network: the peers' recorded training steps, its noise, and every way its units compete."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sparsejax.hyper import hyper_of

from sparsejax.data.resident import Batch
from sparsejax.errors import ConfigError
from sparsejax.functional import add_noise, annealed, example_keys
from sparsejax.functional.penalties import l1
from sparsejax.models import NoisyNetwork
from sparsejax.models.base import Variables
from sparsejax.training.config import Config, ObjectiveConfig, TrainingConfig
from sparsejax.training.objectives import reconstruction, total_loss
from sparsejax.training.optimizers import optimizer
from sparsejax.training.state import init_state
from sparsejax.training.step import make_step
from tests import golden

WAYS = {
    "relu": {},
    "gelu": {"activation": "gelu"},
    "sigmoid": {"activation": "sigmoid"},
    "shared bias": {"bias": "shared", "normalised": True},
    "top_k": {"competition": "top_k", "k": 5.0, "bias": "none", "normalised": True},
    "subtract": {"competition": "top_k_subtract", "k": 5.0},
    "learned k": {"competition": "learned_k", "k": 12.0, "k_window": 0.5},
    "sampled k": {"competition": "sampled_k", "sampled_log_k": 2.5, "k_rate": 20.0},
    "explain away": {"competition": "explain_away", "circuit_steps": 3, "gamma": 0.5},
    "interneuron": {"competition": "interneuron", "rectified_interneuron": True},
    "noise inside": {"hidden_sigma": 0.1, "noise": "laplace"},
    "implicit": {"implicit": 1.0, "implicit_sigma": 0.2},
}


def keys(count=8, seed=0):
    return example_keys(jax.random.key(seed), jnp.arange(count))


def images(count=8):
    return jax.random.uniform(jax.random.key(1), (count, 5, 5, 1))


def scored(params, clean, noisy):
    """Returns mean and single losses of a network of 12 units."""
    output = NoisyNetwork(hidden=12).apply(Variables(params, {}), jnp.asarray(noisy))
    batch = Batch(jnp.asarray(clean), jnp.zeros(len(clean), int), jnp.arange(len(clean)))
    each = reconstruction.score(output, batch)["loss"]
    return each.mean(), each


@pytest.fixture
def adam():
    """Lets Optax's Adam raise floats to whole powers, which strict promotion forbids."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.mark.slow
def test_training_steps_are_the_originals(adam):
    for name, sigma in (("noise_train3_relu", np.float32(0.3)), ("noise_train3_sigma0", np.float32(0.0))):
        case = golden.load(name)

        def params_of(when, case=case):
            layers = {"hidden": "net.1", "output": "net.3"}
            return {
                ours: {"kernel": jnp.asarray(case[f"{when}.{theirs}.weight"]).T,
                       "bias": jnp.asarray(case[f"{when}.{theirs}.bias"])}
                for ours, theirs in layers.items()
            }  # fmt: skip

        params = params_of("init")
        training = TrainingConfig(optimizer="adam", learning_rate=1e-2, clip_norm=1.0)
        update = optimizer(training, hyper_of(training), jnp.float32(1e-2))
        opt_state = update.init(params)
        for x, eps, loss, norm in zip(case["x"], case["eps"], case["loss"], case["grad_norm"], strict=True):
            # The noise is the recorded one, so the network sees it on its input and adds none.
            (_, each), grads = jax.value_and_grad(scored, has_aux=True)(params, x, x + sigma * eps)
            np.testing.assert_allclose(each, loss, rtol=1e-5)
            np.testing.assert_allclose(optax.tree.norm(grads), norm, rtol=1e-5)
            updates, opt_state = update.update(grads, opt_state, params)
            params = optax.apply_updates(params, updates)
        for got, wanted in zip(jax.tree.leaves(params), jax.tree.leaves(params_of("final")), strict=True):
            np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-6)


def test_a_shared_bias_is_the_originals():
    case = golden.load("noise_shared_bias")
    model = NoisyNetwork(hidden=12, bias="shared")
    variables = model.init(jax.random.key(0), jnp.zeros((1, 8)))

    def hidden(x, kernel, bias):
        params = {**variables.params, "hidden": {"kernel": kernel, "bias": bias}}
        return model.apply(Variables(params, {}), x).activations["hidden"]

    x, kernel, bias = jnp.asarray(case["x"]), jnp.asarray(case["W"]).T, jnp.asarray(case["b0"][0])
    out, backward = jax.vjp(hidden, x, kernel, bias)
    np.testing.assert_allclose(out, case["out"], rtol=1e-5, atol=1e-6)
    by_x, by_kernel, by_bias = backward(jnp.asarray(case["c"]))
    np.testing.assert_allclose(by_x, case["grad_x"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(by_kernel.T, case["grad_W"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(by_bias, case["grad_b0"][0], rtol=1e-4)


def test_noise_has_the_originals_moments_and_is_fresh_for_each_example_and_stream():
    case = golden.load("noise_layer_moments")
    zeros = jnp.zeros((400, 500))
    for name, distribution in (("normal", "gaussian"), ("laplace", "laplace")):
        noise = add_noise(keys(400), zeros, sigma=0.5, distribution=distribution)
        np.testing.assert_allclose([noise.mean(), noise.var()], case[name], atol=0.01)
    assert len(np.unique(np.asarray(noise))) > 0.98 * noise.size
    np.testing.assert_allclose(
        add_noise(keys(400), zeros, sigma=0.5)[7:9], add_noise(keys(400)[7:9], zeros[7:9], sigma=0.5)
    )
    with pytest.raises(ValueError, match="distribution is 'cauchy'"):
        add_noise(keys(2), zeros[:2], sigma=1.0, distribution="cauchy")
    with pytest.raises(ValueError, match=r"sigma is -1\.0"):
        add_noise(keys(2), zeros[:2], sigma=-1.0)


def test_annealing_is_the_originals():
    after = golden.load("noise_anneal_sigma0p3")["sigma_after_epoch"]
    epochs = np.arange(len(after))
    ours = jax.jit(jax.vmap(lambda epoch: annealed(0.3, epoch, hold=800, duration=800)))(epochs)
    np.testing.assert_allclose(ours, after, atol=1e-6)
    assert annealed(0.3, 801, hold=800, duration=0) == 0


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_compete_learns_and_is_the_same_compiled(adam, way):
    model = NoisyNetwork(hidden=30, sigma=0.1, **WAYS[way])
    config = Config(model, training=TrainingConfig(optimizer="adam", learning_rate=1e-2, clip_norm=1.0),
                    objective=ObjectiveConfig("reconstruction"))  # fmt: skip
    hyper = jax.tree.map(jnp.asarray, hyper_of(config))
    state = init_state(model, config.training, hyper, jnp.int32(0), images())
    batch = Batch(images(), jnp.zeros(8, jnp.int32), jnp.arange(8))
    step = make_step(model, reconstruction, config.training, 1000)
    once, _ = step(state, batch, hyper)
    compiled = jax.jit(step)
    twice, first = compiled(state, batch, hyper)
    for got, wanted in zip(jax.tree.leaves(twice.variables), jax.tree.leaves(once.variables), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-5)
    before = model.winners(state.variables.params, hyper["model"])
    for _ in range(150):
        state, metrics = compiled(state, batch, hyper)
    assert metrics["loss"] < 0.5 * first["loss"]
    assert jax.tree.all(jax.tree.map(lambda leaf: bool(jnp.isfinite(leaf).all()), state.variables))
    if way in ("learned k", "sampled k"):
        assert abs(float(model.winners(state.variables.params, hyper["model"])) - float(before)) > 0.2
    output = model.apply(state.variables, images(), key=keys(), hyper=hyper["model"])
    active = (output.activations["hidden"] != 0).sum(-1)
    if way == "top_k":
        assert active.max() <= 5
    if way == "subtract":
        assert active.max() <= 4


def test_noise_stays_or_goes_at_evaluation_and_training_needs_keys():
    model = NoisyNetwork(hidden=20, sigma=0.5)
    variables = model.init(jax.random.key(0), images())
    silent = dataclasses.replace(model, noise_at_evaluation=False)
    clean = model.apply(variables, images()).prediction
    assert jnp.abs(model.apply(variables, images(), key=keys()).prediction - clean).max() > 1e-2
    np.testing.assert_array_equal(silent.apply(variables, images(), key=keys()).prediction, clean)
    with pytest.raises(ValueError, match="needs `key`"):
        model.apply(variables, images(), train=True)


def test_schedules_of_noise_and_k():
    model = NoisyNetwork(
        hidden=100, sigma=0.4, hidden_sigma=0.2, anneal_after=10.0, anneal_epochs=10.0, competition="top_k", k=10.0,
        k_schedule="linear", k_epochs=9.0,
    )  # fmt: skip
    hyper = jax.tree.map(jnp.asarray, hyper_of(model))
    at = [model.scheduled(hyper, epoch=jnp.float32(epoch), step=jnp.int32(0)) for epoch in (0, 3, 15, 20)]
    np.testing.assert_allclose([h["sigma"] for h in at], [0.4, 0.4, 0.2, 0.0], atol=1e-6)
    np.testing.assert_allclose([h["hidden_sigma"] for h in at], [0.2, 0.2, 0.1, 0.0], atol=1e-6)
    assert [int(h["k"]) for h in at] == [100, 70, 10, 10]


def test_l1_penalises_the_summed_activity():
    model = NoisyNetwork(hidden=20)
    variables = model.init(jax.random.key(0), images())
    output = model.apply(variables, images(), key=keys(), train=True)
    batch = Batch(images(), jnp.zeros(8, jnp.int32), jnp.arange(8))
    plain, _ = total_loss(reconstruction, output, batch, {})
    penalised, (metrics, _) = total_loss(reconstruction, output, batch, {"l1": jnp.float32(0.1)})
    np.testing.assert_allclose(penalised - plain, 0.1 * l1(output.activations["hidden"]), rtol=1e-5)
    np.testing.assert_allclose(metrics["l1_activity"], l1(output.activations["hidden"]), rtol=1e-6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden": 0}, "model.hidden is 0"),
        ({"sigma": -0.1}, "model.sigma is -0.1"),
        ({"competition": "top_k"}, "model.k is None"),
        ({"competition": "top_k", "k": 2000.0}, "model.k is 2000"),
        ({"competition": "top_k", "k": 5.0, "activation": "gelu"}, "model.activation is gelu"),
        ({"implicit": 1.0, "classes": 10}, "model.implicit is 1.0"),
        ({"k_window": 0.0}, "model.k_window is 0.0"),
        ({"circuit_steps": 0}, "model.circuit_steps is 0"),
    ],
)
def test_what_cannot_be_is_refused_by_name(fields, message):
    with pytest.raises(ConfigError, match=message):
        NoisyNetwork(**fields)
