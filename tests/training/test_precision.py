"""Training in bfloat16 is near that in float32, and leaves float32 behind."""

import dataclasses

import jax
import numpy as np
import pytest

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
from sparsejax.training.state import init_state
from sparsejax.training.step import step

TRAINING = TrainingConfig(learning_rate=0.05, momentum=0.0)
CLASSIFIERS = (
    SparseCNN(channels=(4,), conv_k=(60,), hidden=30, hidden_k=8, batch_norm=True, density=0.5),
    SparseMLP(hidden=(40,), k=(8,)),
    DenseNetwork(hidden=(20,)),
    HebbianVGG(widths=(8, 0, 12), hebbian=1, alphas=(0.1,)),
    ConvMixer(width=8, depth=1, kernel=3, patch=4),
)
AUTOENCODERS = (NoisyNetwork(hidden=30, sigma=0.3), TopKAutoencoder(hidden=40, k=6))
QUICK = (DenseNetwork,)
MODELS = [
    pytest.param(model, id=type(model).__name__, marks=() if type(model) in QUICK else pytest.mark.slow)
    for model in CLASSIFIERS + AUTOENCODERS
]
IMAGES = np.random.default_rng(1).random((16, 16, 16, 1), np.float32)
BATCH = Batch(IMAGES, np.arange(16, dtype=np.int32) % 10, np.arange(16))


@pytest.mark.parametrize("model", MODELS)
def test_a_step_in_bfloat16_is_near_one_in_float32(model):
    kind = "reconstruction" if model in AUTOENCODERS else "classification"
    config = Config(model, training=TRAINING, objective=ObjectiveConfig(kind))
    before = jax.jit(init_state)(config, IMAGES[:1])

    def stepped(precision):
        training = dataclasses.replace(TRAINING, precision=precision)
        changed = dataclasses.replace(config, training=training)
        return jax.jit(step, static_argnames="steps")(before, BATCH, changed, steps=10)

    (exact, metrics), (near, rough) = stepped("float32"), stepped("bfloat16")
    assert jax.tree.map(lambda leaf: leaf.dtype, near) == jax.tree.map(lambda leaf: leaf.dtype, before)
    assert abs(rough["loss"] - metrics["loss"]) < 0.03 * metrics["loss"] and rough["loss"] != metrics["loss"]
    of_before, of_exact, of_near = (
        np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(state.variables.params)])
        for state in (before, exact, near)
    )
    # Rounding moves winners, too.
    assert np.linalg.norm(of_near - of_exact) < 0.4 * np.linalg.norm(of_exact - of_before)
