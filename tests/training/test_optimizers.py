"""Update rules, schedules, and the shuffled batches."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sparsejax.data.resident import epoch_order, steps_per_epoch
from sparsejax.errors import ConfigError
from sparsejax.training.config import TrainingConfig
from sparsejax.training.loop import examples_done
from sparsejax.training.optimizers import learning_rate, optimizer
from sparsejax.training.step import chunk_length

PARAMS = {"w": jnp.asarray([1.0, -2.0, 3.0])}
GRADS = {"w": jnp.asarray([0.5, 0.25, -4.0])}


def stepped(transformation, steps=3):
    params, state = PARAMS, transformation.init(PARAMS)
    for _ in range(steps):
        updates, state = transformation.update(GRADS, state, params)
        params = optax.apply_updates(params, updates)
    return params["w"]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (TrainingConfig(learning_rate=0.1), optax.sgd(0.1)),
        (TrainingConfig(learning_rate=0.1, momentum=0.9), optax.sgd(0.1, momentum=0.9)),
        (TrainingConfig(learning_rate=0.1, optimizer="adam"), optax.adam(0.1)),
        (TrainingConfig(learning_rate=0.1, optimizer="rmsprop"), optax.rmsprop(0.1)),
        (
            TrainingConfig(learning_rate=0.1, clip_norm=1.0, weight_decay=0.5),
            optax.chain(optax.clip_by_global_norm(1.0), optax.add_decayed_weights(0.5), optax.sgd(0.1)),
        ),
    ],
)
def test_update_rules_are_those_of_optax(config, expected):
    ours = optimizer(config, jnp.float32(config.learning_rate))
    with jax.numpy_dtype_promotion("standard"):  # optax's adam relies on it
        np.testing.assert_allclose(stepped(ours), stepped(expected), rtol=1e-6)


@pytest.mark.parametrize(
    ("schedule", "epoch", "expected"),
    [
        ({"schedule": "constant"}, 7, 0.02),
        ({"schedule": "step", "lr_decay": 0.8}, 0, 0.02),
        ({"schedule": "step", "lr_decay": 0.8}, 3, 0.02 * 0.8**3),
        ({"schedule": "step", "lr_decay": 0.5, "lr_decay_every": 2}, 5, 0.02 * 0.5**2),
        ({"schedule": "constant", "warmup_epochs": 4.0}, 0, 0.0),
        ({"schedule": "constant", "warmup_epochs": 4.0}, 1, 0.005),
        ({"schedule": "constant", "warmup_epochs": 4.0}, 4, 0.02),
        ({"schedule": "constant", "warmup_epochs": 4.0}, 9, 0.02),
        ({"schedule": "cosine"}, 0, 0.02),
        ({"schedule": "cosine"}, 5, 0.01),
        ({"schedule": "cosine"}, 10, 0.0),
    ],
)
def test_learning_rate_over_the_epochs(schedule, epoch, expected):
    config = TrainingConfig(epochs=10, learning_rate=0.02, **schedule)
    rate = learning_rate(config, jnp.float32(epoch), jnp.float32(epoch / 10))
    np.testing.assert_allclose(rate, expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"epochs": 0}, "training.epochs is 0"),
        ({"batch_size": -1}, "training.batch_size is -1"),
        ({"learning_rate": 0.0}, r"training.learning_rate is 0.0"),
        ({"momentum": 1.5}, r"expected a number in \[0, 1\]"),
        ({"optimizer": "adam", "momentum": 0.9}, "adam has its own averages"),
        ({"seed": -1}, "training.seed is -1"),
        ({"weight_decay": -0.1}, "training.weight_decay is -0.1"),
    ],
)
def test_impossible_settings_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        TrainingConfig(**fields)


def test_an_epoch_shows_every_example_and_fills_the_last_batch_from_its_start():
    order = np.asarray(epoch_order(jax.random.key(0), jnp.int32(0), 10, 4))
    assert order.shape == (3, 4)
    flat = order.reshape(-1)
    assert sorted(flat[:10]) == list(range(10))
    assert list(flat[10:]) == list(flat[:2])
    again = np.asarray(epoch_order(jax.random.key(0), jnp.int32(0), 10, 4))
    other = np.asarray(epoch_order(jax.random.key(0), jnp.int32(1), 10, 4))
    assert (again == order).all()
    assert (other != order).any()
    with pytest.raises(ConfigError, match="The batch size is 11, but the training set has 10 examples"):
        steps_per_epoch(10, 11)


@pytest.mark.parametrize(("steps", "length"), [(15000, 1000), (938, 67), (937, 937), (1, 1), (16, 1), (90, 6)])
def test_chunks_divide_an_epoch_evenly(steps, length):
    assert chunk_length(steps) == length


def test_examples_done_counts_the_smaller_batches_of_the_first_epoch():
    config = TrainingConfig(batch_size=4, first_epoch_batch_size=3)
    assert examples_done(config, 10, 0, 2) == 6
    assert examples_done(config, 10, 1, 0) == 12
    assert examples_done(dataclasses.replace(config, epochs=3), 10, 2, 1) == 12 + 12 + 4
