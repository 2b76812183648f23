"""Selection and duty cycles over eight devices: the results of one, and no communication except counts."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from sparsejax.functional import (
    BoostState,
    k_winners,
    k_winners_2d,
    kth_largest,
    top_k,
    update_boost_state,
)

pytestmark = pytest.mark.optimized  # inspects compiled text

COLLECTIVE = re.compile(r"= (.*?) (all-gather|all-reduce|all-to-all|collective-permute)(?:-start)?\(")


@pytest.fixture(scope="module")
def mesh():
    if jax.device_count() < 8:
        pytest.skip(f"needs 8 devices, there are {jax.device_count()}")
    return jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))


def layer(x, state, axis_name=None):
    y = k_winners(x, state, k=5, boost_strength=1.5, ties="first")
    return y, update_boost_state(state, y, period=40, axis_name=axis_name)


def layer_2d(x, state, axis_name=None):
    y = k_winners_2d(x, state, k=9, boost_strength=1.5)
    return y, update_boost_state(state, y, period=40, axis_name=axis_name)


CASES = [(layer, (32, 20), 20), (layer_2d, (32, 3, 3, 4), 4)]


def example(shape, units):
    rng = np.random.default_rng(0)
    duty_cycle = jnp.asarray(rng.uniform(size=units), jnp.float32)
    return jnp.asarray(rng.normal(size=shape), jnp.float32), BoostState(duty_cycle, jnp.float32(16))


@pytest.mark.parametrize(("step", "shape", "units"), CASES)
def test_shard_map_over_eight_devices_equals_one(mesh, step, shape, units):
    x, state = example(shape, units)
    y, new = jax.jit(step)(x, state)
    sharded = jax.jit(
        jax.shard_map(
            lambda x, state: step(x, state, "data"), mesh=mesh, in_specs=(P("data"), P()), out_specs=(P("data"), P())
        )
    )
    program = sharded.lower(x, state).compile()
    y8, new8 = program(x, state)
    np.testing.assert_array_equal(y8, y)
    np.testing.assert_array_equal(new8.samples, new.samples)
    np.testing.assert_allclose(new8.duty_cycle, new.duty_cycle, rtol=1e-6)
    assert [kind for _, kind in COLLECTIVE.findall(program.as_text())] == ["all-reduce"]


@pytest.mark.parametrize(("step", "shape", "units"), CASES)
def test_pmap_over_eight_devices_equals_one_and_replicas_agree(mesh, step, shape, units):
    x, state = example(shape, units)
    y, new = jax.jit(step)(x, state)
    spread = jax.pmap(lambda x, state: step(x, state, "data"), axis_name="data", in_axes=(0, None))
    y8, new8 = spread(x.reshape(8, -1, *shape[1:]), state)
    np.testing.assert_array_equal(np.asarray(y8).reshape(shape), y)
    duty_cycles = np.asarray(new8.duty_cycle)
    np.testing.assert_array_equal(duty_cycles, np.broadcast_to(duty_cycles[0], (8, units)))
    np.testing.assert_allclose(duty_cycles[0], new.duty_cycle, rtol=1e-6)
    np.testing.assert_array_equal(new8.samples, np.full(8, new.samples))


def test_the_gradient_under_shard_map_equals_that_of_one_device(mesh):
    x, state = example((32, 20), 20)
    gradient = jax.grad(lambda x: jnp.sum(jnp.sin(layer(x, state)[0]) + kth_largest(x, 3)[:, None]))
    sharded = jax.shard_map(gradient, mesh=mesh, in_specs=P("data"), out_specs=P("data"))
    np.testing.assert_allclose(jax.jit(sharded)(x), jax.jit(gradient)(x), rtol=1e-6)


@pytest.mark.parametrize(("ties", "k"), [("all", 7), ("first", 7), ("first", None)])
def test_a_batch_spread_over_devices_is_ranked_in_place_and_without_a_sort(mesh, ties, k):
    x, _ = example((64, 256), 1)
    spread = jax.device_put(x, NamedSharding(mesh, P("data")))
    ranked = jax.jit(lambda x, traced_k: top_k(x, traced_k if k is None else k, ties=ties))
    program = ranked.lower(spread, 7).compile()
    text = program.as_text()
    assert "sort(" not in text and "TopK" not in text
    # The devices agree on when to stop and whether there are ties, one flag each; of the batch nothing is sent.
    assert {kind for _, kind in COLLECTIVE.findall(text)} <= {"all-reduce"}
    assert {re.sub(r"\{.*", "", shape) for shape, _ in COLLECTIVE.findall(text)} <= {"pred[]", "s32[]"}
    y = program(spread, 7)
    assert y.sharding.spec == P("data")
    np.testing.assert_array_equal(y, ranked(x, 7))


@pytest.mark.parametrize("ties", ["all", "first"])
def test_inside_shard_map_selection_sends_nothing(mesh, ties):
    x, _ = example((64, 256), 1)
    ranked = jax.shard_map(lambda x: top_k(x, 7, ties=ties), mesh=mesh, in_specs=P("data"), out_specs=P("data"))
    text = jax.jit(ranked).lower(x).compile().as_text()
    assert not COLLECTIVE.search(text)
    assert "sort(" not in text
