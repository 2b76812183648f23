"""Training that rewires: when it is due, by as much as asked, the same on every number of devices."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sparsejax.hyper import hyper_of

from sparsejax.data.resident import Batch
from sparsejax.errors import ConfigError
from sparsejax.models import SparseMLP
from sparsejax.training.config import TrainingConfig
from sparsejax.training.devices import Placement, carry
from sparsejax.training.objectives import cross_entropy
from sparsejax.training.rewiring import rewire_fraction
from sparsejax.training.state import init_state
from sparsejax.training.step import make_step

MODEL = SparseMLP(hidden=(20,), k=(8,), density=0.25)
CONFIG = TrainingConfig(epochs=4, batch_size=8, learning_rate=0.1, momentum=0.9, rewire_every=2, rewire_fraction=0.5)
CONNECTIONS = 16  # a quarter of 64 inputs


def states(rewiring, transform="jit", steps=2):
    """Returns the network before and after every step, on one device or on two."""
    config = dataclasses.replace(CONFIG, rewiring=rewiring)
    hyper = {"model": hyper_of(MODEL), "training": hyper_of(config)}
    rng = np.random.default_rng(0)
    images, labels = rng.normal(size=(8, 8, 8, 1)).astype(np.float32), rng.integers(0, 10, 8).astype(np.int32)
    mesh = None
    if transform == "shard_map":
        mesh = jax.make_mesh((1, 2), ("member", "data"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    placement = Placement(transform, mesh, None)
    step = make_step(MODEL, cross_entropy, config, 4, axis_name=placement.axis_name)

    def share(state, batch):
        first = 0 if mesh is None else 4 * jax.lax.axis_index("data")
        size = 8 // placement.shards
        cut = [jax.lax.dynamic_slice_in_dim(array, first, size) for array in batch]
        return step(state, Batch(*cut), hyper)[0]

    run = carry(share, placement)
    state = jax.tree.map(
        lambda leaf: leaf[None], init_state(MODEL, config, hyper, jnp.int32(3), jnp.zeros((1, 8, 8, 1)))
    )
    passed = [state]
    for _ in range(steps):
        passed.append(run(passed[-1], (jnp.asarray(images), jnp.asarray(labels), jnp.arange(8))))
    return passed


def mask(state):
    return np.asarray(state.variables.state["hidden1"]["mask"][0])


@pytest.mark.parametrize("rewiring", ["set", "rigl"])
def test_masks_move_when_it_is_due_and_keep_their_counts(rewiring):
    before, first, second = states(rewiring)
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
    assert np.count_nonzero(kept) > kept.size / 2, "dense layers forget nothing"
    assert set(second.variables.state["hidden1"]) == set(before.variables.state["hidden1"])


@pytest.mark.slow
@pytest.mark.parametrize("rewiring", ["set", "rigl"])
def test_two_devices_rewire_as_one_does(rewiring):
    one, two = states(rewiring)[-1], states(rewiring, "shard_map")[-1]
    np.testing.assert_array_equal(mask(one), mask(two))
    np.testing.assert_allclose(one.variables.params["hidden1"]["kernel"], two.variables.params["hidden1"]["kernel"],
                               rtol=1e-4, atol=1e-6)  # fmt: skip


def test_rigl_grows_where_a_finite_difference_says():
    """The gradient to a masked weight is that of connecting it, which the masked forward pass itself cannot see."""
    before, _ = states("rigl", steps=1)
    variables = jax.tree.map(lambda leaf: leaf[0], before.variables)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(8, 64)), jnp.float32)

    def output(step, at):
        probe = jnp.zeros((64, 20)).at[at].set(step)
        state = {**variables.state, "hidden1": {**variables.state["hidden1"], "probe": probe}}
        return jnp.sum(MODEL.apply(variables._replace(state=state), x).prediction ** 2)

    masked = [tuple(at) for at in np.argwhere(~mask(before))[:40]]
    gradients = np.array([float(jax.grad(output)(0.0, at)) for at in masked[:5]])
    differences = np.array([float(output(1e-3, at) - output(-1e-3, at)) / 2e-3 for at in masked[:5]])
    np.testing.assert_allclose(gradients, differences, atol=5e-3)
    assert np.abs(gradients).max() > 1e-3


def test_the_fraction_of_rigl_falls_and_that_of_set_stays():
    hyper = {"rewire_fraction": jnp.float32(0.4)}
    rigl = dataclasses.replace(CONFIG, rewiring="rigl")
    values = [float(rewire_fraction(rigl, hyper, jnp.float32(done))) for done in (0, 0.375, 0.75, 1)]
    np.testing.assert_allclose(values, [0.4, 0.2, 0, 0], atol=1e-7)
    assert float(rewire_fraction(dataclasses.replace(CONFIG, rewiring="set"), hyper, jnp.float32(0.9))) == np.float32(
        0.4
    )


def test_fields_outside_their_range_are_refused():
    for field, value in (("rewire_fraction", 1.5), ("rewire_every", 0)):
        with pytest.raises(ConfigError, match=f"training.{field} is {value}"):
            dataclasses.replace(CONFIG, **{field: value})
