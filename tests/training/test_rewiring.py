"""Training with rewiring: on schedule, by the configured fraction, the same on any number of devices."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.configuration import stack
from sparsejax.data.resident import Batch
from sparsejax.errors import ConfigError
from sparsejax.models import SparseCNN, SparseMLP
from sparsejax.training.config import Config, TrainingConfig
from sparsejax.training.devices import Placement, transform
from sparsejax.training.rewiring import rewire_fraction
from sparsejax.training.state import init_state
from sparsejax.training.step import step

MODEL = SparseMLP(hidden=(20,), k=(8,), density=0.25)
CONFIG = TrainingConfig(epochs=4, batch_size=8, learning_rate=0.1, momentum=0.9, rewire_every=2, rewire_fraction=0.5)
SET, RIGL = (dataclasses.replace(CONFIG, rewiring=rewiring) for rewiring in ("set", "rigl"))
both = pytest.mark.parametrize("config", [SET, RIGL], ids=["set", "rigl"])
CONNECTIONS = 16  # a quarter of 64 inputs


IMAGES = np.random.default_rng(0).normal(size=(8, 8, 8, 1)).astype(np.float32)
LABELS = np.random.default_rng(1).integers(0, 10, 8).astype(np.int32)


@functools.cache
def states(training, spread="jit", model=MODEL, steps=2):
    """Returns the network before and after every step, on one device or on two."""
    config, mesh = stack([Config(model, training=training)]), None
    if spread == "shard_map":
        mesh = jax.make_mesh((1, 2), ("member", "data"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    placement = Placement(spread, mesh, None)

    def share(state, config, batch):
        first = 0 if mesh is None else 4 * jax.lax.axis_index("data")
        size = 8 // placement.shards
        cut = [jax.lax.dynamic_slice_in_dim(array, first, size) for array in batch]
        return step(state, Batch(*cut), config, steps=4, axis_name=placement.axis_name)[0]

    run, passed = transform(share, placement), [untrained(model)]
    for _ in range(steps):
        passed.append(run(passed[-1], config, (IMAGES, LABELS, np.arange(8))))
    return passed


@functools.cache
def untrained(model):
    state = jax.jit(init_state)(Config(model, training=dataclasses.replace(SET, seed=3)), IMAGES[:1])
    return jax.tree.map(lambda leaf: leaf[None], state)


def mask(state):
    return np.asarray(state.variables.state["hidden1"]["mask"][0])


@both
def test_masks_are_rewired_on_schedule_and_keep_their_counts(config):
    before, first, second = states(config)
    np.testing.assert_array_equal(mask(first), mask(before))
    moved = (mask(second) & ~mask(before)).sum(0)
    assert (mask(second).sum(0) == CONNECTIONS).all()
    assert (moved <= CONNECTIONS // 2).all() and moved.sum() > 20
    kernel = np.asarray(second.variables.params["hidden1"]["kernel"][0])
    momentum = np.asarray(second.opt_state[0].trace["hidden1"]["kernel"][0])
    new = mask(second) & ~mask(before)
    assert (kernel[new] == 0).all() and (momentum[new] == 0).all()
    assert (kernel[~mask(second)] == 0).all() and (momentum[~mask(second)] == 0).all()
    assert (np.count_nonzero(kernel, axis=0) == CONNECTIONS // 2).all()
    kept = np.asarray(second.opt_state[0].trace["output"]["kernel"])
    assert np.count_nonzero(kept) > kept.size / 2, "dense layers keep their state"
    assert set(second.variables.state["hidden1"]) == set(before.variables.state["hidden1"])


@pytest.mark.slow
@both
def test_two_devices_rewire_as_one_does(config):
    one, two = states(config)[-1], states(config, "shard_map")[-1]
    np.testing.assert_array_equal(mask(one), mask(two))
    kernels = (state.variables.params["hidden1"]["kernel"] for state in (one, two))
    np.testing.assert_allclose(*kernels, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_convolutions_are_rewired_by_gradients_in_bfloat16():
    model = SparseCNN(
        channels=(4,), conv_k=(5,), conv_density=(0.5,), kernel_size=3, hidden=10, hidden_k=3, density=0.5
    )
    config = dataclasses.replace(RIGL, precision="bfloat16", rewire_every=1)
    before, after = (state.variables for state in states(config, model=model, steps=1))
    for name in ("conv1", "hidden"):
        old, new = (np.asarray(variables.state[name]["mask"][0]) for variables in (before, after))
        counts = (mask.reshape(-1, mask.shape[-1]).sum(0) for mask in (old, new))
        np.testing.assert_array_equal(*counts)
        assert (new & ~old).any() and after.params[name]["kernel"].dtype == jnp.float32


def test_rigl_grows_where_finite_differences_are_largest():
    """The gradient to a masked weight is that of connecting it, which the masked forward pass itself cannot see."""
    variables = jax.tree.map(lambda leaf: leaf[0], untrained(MODEL).variables)
    x = IMAGES.reshape(8, 64)

    @jax.jit
    @jax.value_and_grad
    def output(step, at):
        probe = jnp.zeros((64, 20)).at[at[0], at[1]].set(step)
        state = {**variables.state, "hidden1": {**variables.state["hidden1"], "probe": probe}}
        return jnp.sum(MODEL.apply(variables._replace(state=state), x).prediction ** 2)

    masked = np.argwhere(~mask(untrained(MODEL)))[:5]
    values = np.array([[output(np.float32(step), at)[0] for step in (1e-3, -1e-3)] for at in masked])
    gradients = np.array([output(np.float32(0), at)[1] for at in masked])
    np.testing.assert_allclose(gradients, (values[:, 0] - values[:, 1]) / 2e-3, atol=5e-3)
    assert np.abs(gradients).max() > 1e-3


def test_the_fraction_of_rigl_falls_and_that_of_set_stays():
    rigl, set_ = (dataclasses.replace(config, rewire_fraction=0.4) for config in (RIGL, SET))
    values = [float(rewire_fraction(rigl, jnp.float32(done))) for done in (0, 0.375, 0.75, 1)]
    np.testing.assert_allclose(values, [0.4, 0.2, 0, 0], atol=1e-7)
    assert float(rewire_fraction(set_, jnp.float32(0.9))) == 0.4


def test_fields_outside_their_range_are_refused():
    for field, value in (("rewire_fraction", 1.5), ("rewire_every", 0)):
        with pytest.raises(ConfigError, match=f"training.{field} is {value}"):
            dataclasses.replace(CONFIG, **{field: value})
