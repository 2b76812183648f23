"""The noisy network: its noise, and every way its units compete; see test_noisy_golden.py for its peers' steps."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.configuration import as_arrays
from sparsejax.data.resident import Batch
from sparsejax.errors import ConfigError
from sparsejax.functional import example_keys
from sparsejax.functional.penalties import l1
from sparsejax.models import NoisyNetwork
from sparsejax.training.config import Config, ObjectiveConfig, TrainingConfig
from sparsejax.training.objectives import total_loss
from sparsejax.training.state import init_state
from sparsejax.training.step import step
from tests.models.made_up import made_up

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


QUICK = ("top_k", "sampled k")
IMAGES = jnp.asarray(np.random.default_rng(1).random((8, 5, 5, 1), np.float32))
BATCH = Batch(IMAGES, jnp.zeros(8, jnp.int32), jnp.arange(8))


def keys():
    return jax.jit(example_keys)(jax.random.key(0), np.arange(8))


@pytest.mark.parametrize(
    "way", [way if way in QUICK else pytest.param(way, marks=pytest.mark.slow) for way in WAYS]
)  # fmt: skip
def test_every_way_to_compete_learns(way):
    model = NoisyNetwork(hidden=30, sigma=0.1, **WAYS[way])
    training = TrainingConfig(seed=0, optimizer="adam", learning_rate=1e-2, clip_norm=1.0)
    config = Config(model, training=training, objective=ObjectiveConfig("reconstruction"))

    @jax.jit
    def learnt(config):
        state = init_state(config, IMAGES)
        after, metrics = jax.lax.scan(lambda state, _: step(state, BATCH, config, steps=1000), state, length=150)
        return state.variables, after.variables, metrics["loss"]

    with jax.numpy_dtype_promotion("standard"):  # Optax's Adam raises floats to whole powers
        before, after, losses = learnt(as_arrays(config))
    assert losses[-1] < 0.5 * losses[0]
    assert all(np.isfinite(leaf).all() for leaf in map(np.asarray, jax.tree.leaves(after)))
    if way in ("learned k", "sampled k"):
        first, last = (float(model.winners(variables.params)) for variables in (before, after))
        assert abs(last - first) > 0.2
    if way in ("top_k", "subtract"):
        output = jax.jit(model.apply)(after, IMAGES, key=keys())
        assert np.count_nonzero(output.activations["hidden"], -1).max() <= {"top_k": 5, "subtract": 4}[way]


def test_noise_is_optional_at_evaluation_and_training_needs_keys():
    model = NoisyNetwork(hidden=20, sigma=0.5)
    variables = made_up(model, IMAGES.shape[1:])
    silent = dataclasses.replace(model, noise_at_evaluation=False)
    clean = jax.jit(model.apply)(variables, IMAGES).prediction
    noisy, kept = (jax.jit(network.apply)(variables, IMAGES, key=keys()).prediction for network in (model, silent))
    assert np.abs(noisy - clean).max() > 1e-2
    np.testing.assert_array_equal(kept, clean)
    with pytest.raises(ValueError, match="needs `key`"):
        model.apply(variables, IMAGES, train=True)


def test_schedules_of_noise_and_k():
    model = NoisyNetwork(
        hidden=100, sigma=0.4, hidden_sigma=0.2, anneal_after=10.0, anneal_epochs=10.0, competition="top_k", k=10.0,
        k_schedule="linear", k_epochs=9.0,
    )  # fmt: skip
    at = jax.jit(jax.vmap(lambda model, epoch: model.at(epoch, jnp.int32(0)), (None, 0)))
    models = at(as_arrays(model), np.asarray([0, 3, 15, 20], np.float32))
    np.testing.assert_allclose(models.sigma, [0.4, 0.4, 0.2, 0.0], atol=1e-6)
    np.testing.assert_allclose(models.hidden_sigma, [0.2, 0.2, 0.1, 0.0], atol=1e-6)
    assert np.asarray(models.k).astype(int).tolist() == [100, 70, 10, 10]


def test_l1_penalises_the_summed_activity():
    model = NoisyNetwork(hidden=20)
    variables = made_up(model, IMAGES.shape[1:])

    @jax.jit
    def losses(keys):
        output = model.apply(variables, IMAGES, key=keys, train=True)
        plain, _ = total_loss(ObjectiveConfig("reconstruction"), output, BATCH)
        penalised, (metrics, _) = total_loss(ObjectiveConfig("reconstruction", l1=0.1), output, BATCH)
        return plain, penalised, metrics["l1_activity"], output.activations["hidden"]

    plain, penalised, activity, hidden = losses(keys())
    np.testing.assert_allclose(activity, l1(hidden), rtol=1e-6)
    np.testing.assert_allclose(penalised - plain, 0.1 * activity, rtol=1e-5)


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
