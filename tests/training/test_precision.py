"""Training in bfloat16 is near that in float32, and leaves float32 behind."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sparsejax.hyper import hyper_of

from sparsejax.data.resident import Batch
from sparsejax.models import (
    ConvMixer,
    DenseNetwork,
    HebbianVGG,
    NoisyNetwork,
    SparseCNN,
    SparseMLP,
    TopKAutoencoder,
)
from sparsejax.training.config import Config, ObjectiveConfig, TrainingConfig
from sparsejax.training.objectives import objective_of
from sparsejax.training.state import init_state
from sparsejax.training.step import make_step
from tests.command import launch

TRAINING = TrainingConfig(learning_rate=0.05, momentum=0.0)
CLASSIFIERS = (
    SparseCNN(channels=(4, 6), conv_k=(60, 5), hidden=30, hidden_k=8, batch_norm=True, density=0.5),
    SparseMLP(hidden=(40,), k=(8,)),
    DenseNetwork(hidden=(20,)),
    HebbianVGG(widths=(8, 0, 12), hebbian=1, alphas=(0.1,)),
    ConvMixer(width=8, depth=1, kernel=3, patch=4),
)
AUTOENCODERS = (NoisyNetwork(hidden=30, sigma=0.3), TopKAutoencoder(hidden=40, k=6))


@pytest.mark.slow
@pytest.mark.parametrize("model", CLASSIFIERS + AUTOENCODERS, ids=lambda model: type(model).__name__)
def test_a_step_in_bfloat16_is_near_one_in_float32(model):
    kind = "reconstruction" if model in AUTOENCODERS else "classification"
    config = Config(model, training=TRAINING, objective=ObjectiveConfig(kind))
    hyper = jax.tree.map(jnp.asarray, hyper_of(config))
    images = jax.random.uniform(jax.random.key(1), (16, 16, 16, 1))
    batch = Batch(images, jnp.arange(16) % 10, jnp.arange(16))

    def stepped(precision):
        training = dataclasses.replace(TRAINING, precision=precision)
        state = init_state(model, training, hyper, jnp.int32(0), images[:1])
        step = make_step(model, objective_of(config.objective), training, steps=10)
        after, metrics = jax.jit(step)(state, batch, hyper)
        return state, after, metrics

    before, exact, metrics = stepped("float32")
    _, near, rough = stepped("bfloat16")
    assert jax.tree.map(lambda leaf: leaf.dtype, near) == jax.tree.map(lambda leaf: leaf.dtype, before)
    assert abs(rough["loss"] - metrics["loss"]) < 0.03 * metrics["loss"] and rough["loss"] != metrics["loss"]
    moved, differ = (
        np.concatenate([np.ravel(a - b) for a, b in zip(*map(jax.tree.leaves, pair), strict=True)])
        for pair in ((exact.variables.params, before.variables.params), (near.variables.params, exact.variables.params))
    )
    assert np.linalg.norm(differ) < 0.4 * np.linalg.norm(moved)  # rounding moves winners, too


@pytest.mark.slow
def test_weights_are_rewired_by_gradients_in_bfloat16(tmp_path):
    small = ("--data.train-examples", "100", "--data.test-examples", "20", "--training.epochs", "1")
    small += ("--training.precision", "bfloat16")
    options = ("--model.conv-density", "0.5", "0.5", "--training.rewiring", "rigl", "--training.rewire-every", "2")
    done = launch("--config", "digits_kwinners", *small, *options, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
