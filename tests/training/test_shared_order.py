"""Networks with shared batches: each equals the network alone, and their first layers are one product."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.configuration import replace, stack
from sparsejax.data.resident import Resident, epoch_order
from sparsejax.errors import ConfigError
from sparsejax.models import DenseNetwork
from sparsejax.training.config import Config, DataConfig, DevicesConfig, ObjectiveConfig, TrainingConfig
from sparsejax.training.devices import place, transform
from sparsejax.training.state import ORDER, init_state
from sparsejax.training.step import chunk

EXAMPLES, BATCH, UNITS = 40, 8, 5
BASE = Config(
    DenseNetwork(hidden=(UNITS,)),
    DataConfig(normalise=False),
    TrainingConfig(epochs=2, batch_size=BATCH, optimizer="sgd", learning_rate=0.1, order_seed=3),
    objective=ObjectiveConfig(l1=0.0),
)


@jax.jit
def order_of(key):
    return epoch_order(key, jnp.int32(0), EXAMPLES, BATCH)


@pytest.fixture(scope="module")
def data() -> Resident:
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.integers(0, 256, (EXAMPLES, 6, 6, 1), np.uint8))
    labels = jnp.asarray(rng.integers(0, 10, EXAMPLES, np.int32))
    return Resident(images, labels, jnp.zeros((1, 1, 1, 1)), jnp.ones((1, 1, 1, 1)), order_of(jax.random.key(3)))


@jax.jit
@jax.vmap
def untrained(config):
    return init_state(config, jnp.zeros((1, 6, 6, 1)))


def grid(points):
    """Returns states and configurations of networks, one for each (weight, seed)."""
    config = stack([replace(BASE, {"objective.l1": weight, "training.seed": seed}) for weight, seed in points])
    return untrained(config), config


epoch = functools.partial(chunk, examples=EXAMPLES, batch_size=BATCH, length=EXAMPLES // BATCH)
program = jax.jit(jax.vmap(epoch, in_axes=(0, 0, None)))


@pytest.mark.slow
@pytest.mark.parametrize("at_once", [1, 2, None])
def test_each_network_is_as_it_would_be_alone(data, at_once):
    points = [(0.0, 0), (0.3, 0), (0.0, 1), (0.3, 1)]
    placement = place(DevicesConfig(transform="jit", members_at_once=at_once), len(points), {BATCH}, sharing=10**9)
    together, _ = transform(epoch, placement)(*grid(points), data)
    for i, point in enumerate(points):
        alone, _ = program(*grid([point]), data)
        for a, b in zip(*(jax.tree.leaves(state.variables) for state in (together, alone)), strict=True):
            np.testing.assert_allclose(a[i], b[0], rtol=1e-5, atol=1e-6)
    kernels = np.asarray(together.variables.params["hidden1"]["kernel"])
    assert len(np.unique(kernels.reshape(4, -1), axis=0)) == 4, "seed and weight both count"


def test_the_same_batches_come_from_the_order_that_is_given(data):
    """A network whose own order is the one given is trained to the same weights."""
    state, config = grid([(0.1, 3)])
    order = order_of(jax.random.fold_in(state.key[0], ORDER))
    given, _ = program(state, config, data._replace(batches=order))
    own, _ = program(state, config, data._replace(batches=None))
    other, _ = program(state, config, data)
    first, second, third = (np.asarray(s.variables.params["hidden1"]["kernel"]) for s in (given, own, other))
    np.testing.assert_allclose(first, second, rtol=1e-5, atol=1e-6)
    assert np.abs(first - third).max() > 1e-4


def products(jaxpr):
    """Yields the dot products of a program, those of its loops too."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield equation
        for value in equation.params.values():
            if hasattr(value, "jaxpr"):  # the body of a loop
                yield from products(value.jaxpr)


def test_the_first_layers_of_all_networks_are_one_product(data):
    state, config = grid([(0.0, 0), (0.3, 0), (0.0, 1)])
    mapped = jax.vmap(epoch, in_axes=(0, 0, None))
    for shared in (data, data._replace(batches=None)):
        found = list(products(jax.make_jaxpr(mapped)(state, config, shared).jaxpr))
        shapes = {tuple(sorted(variable.aval.shape for variable in equation.invars)) for equation in found}
        assert (((3, 36, UNITS), (BATCH, 36)) in shapes) == (shared.batches is not None)


def test_small_networks_that_share_batches_are_computed_side_by_side():
    for sharing, members in ((None, 1), (6_370, 30), (25_450, 10), (203_530, 1), (10**7, 1)):
        assert place(DevicesConfig(transform="jit"), 60, {BATCH}, sharing=sharing).members_at_once == members
    assert place(DevicesConfig(transform="jit", members_at_once=7), 60, {BATCH}, sharing=10).members_at_once == 7


def test_an_order_needs_a_valid_seed():
    with pytest.raises(ConfigError, match=r"order_seed is -1"):
        TrainingConfig(order_seed=-1)
