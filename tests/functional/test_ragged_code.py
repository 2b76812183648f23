"""Ragged codes: equal to dense ones, gradients included; counted overflow; grids, several devices, types."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import PartitionSpec as P

from sparsejax.functional import (
    RaggedCode,
    batch_top_k,
    decode_ragged,
    encode_above,
    encode_batch_top_k,
    init_boost_state,
    jump_relu,
    jump_step,
    update_boost_state,
)

BATCH, INPUTS, UNITS, OUTPUTS = 8, 5, 70, 4


def arrays(seed):
    """Returns inputs, encoder, bias, decoder and targets."""
    rng = np.random.default_rng(seed)
    shapes = (BATCH, INPUTS), (UNITS, INPUTS), (UNITS,), (UNITS, OUTPUTS), (BATCH, OUTPUTS)
    return tuple(jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes)


def ragged(x, kernel, bias, decoder, target, k):
    code = encode_batch_top_k(x, kernel, bias, k, capacity=6 * BATCH)
    return jnp.sum((decode_ragged(code, decoder) - target) ** 2)


def dense(x, kernel, bias, decoder, target, k):
    z = batch_top_k(jax.nn.relu(x @ kernel.T + bias[None]), k)
    return jnp.sum((z @ decoder - target) ** 2)


def assert_same(found, expected):
    for got, wanted in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(got, wanted, atol=2e-6 * max(1, np.abs(wanted).max()))


_graded = {f: jax.jit(jax.value_and_grad(f, (0, 1, 2, 3))) for f in (ragged, dense)}


@given(st.integers(0, 2**31), st.sampled_from([0.2, 1, 3, 6]))
def test_batch_top_k_is_the_dense_one_with_its_gradients(seed, k):
    assert_same(_graded[ragged](*arrays(seed), jnp.float32(k)), _graded[dense](*arrays(seed), jnp.float32(k)))


@pytest.mark.parametrize("ks", [(1.0, 2.5, 6.0)])
def test_a_grid_is_a_loop(ks):
    given_arrays = [jnp.stack(parts) for parts in zip(*(arrays(seed) for seed in range(3)), strict=True)]
    found = jax.jit(jax.vmap(jax.value_and_grad(ragged, (1, 3))))(*given_arrays, jnp.asarray(ks))
    for i, k in enumerate(ks):
        expected = jax.value_and_grad(dense, (1, 3))(*arrays(i), k)
        assert_same(jax.tree.map(lambda leaf: leaf[i], found), expected)  # noqa: B023


def test_jump_relu_is_the_dense_one_with_its_gradients():
    x, kernel, bias, decoder, target = arrays(1)
    theta, width = jnp.asarray(np.random.default_rng(2).uniform(1, 4, UNITS), jnp.float32), 0.8

    def of_ragged(x, kernel, bias, theta, decoder):
        near = encode_above(x, kernel, bias, theta - width / 2, capacity=UNITS * BATCH)
        each = theta.at[near.units].get(mode="fill", fill_value=0)
        code = near.replace_values(jump_relu(near.values, each, bandwidth=width))
        l0 = near.sum_by_row(jump_step(near.values, each, bandwidth=width))
        return jnp.sum((decode_ragged(code, decoder) - target) ** 2) + jnp.sum((l0 - 3) ** 2)

    def of_dense(x, kernel, bias, theta, decoder):
        h = x @ kernel.T + bias[None]
        l0 = jnp.sum(jump_step(h, theta, bandwidth=width), axis=-1)
        return jnp.sum((jump_relu(h, theta, bandwidth=width) @ decoder - target) ** 2) + jnp.sum((l0 - 3) ** 2)

    given_arrays = (x, kernel, bias, theta, decoder)
    found, expected = (jax.jit(jax.value_and_grad(f, range(5)))(*given_arrays) for f in (of_ragged, of_dense))
    assert np.any(expected[1][3])
    assert_same(found, expected)


def test_entries_are_in_order_and_empty_slots_touch_nothing():
    x, kernel, bias, decoder, _ = arrays(3)
    code = encode_batch_top_k(x, kernel, bias, 2, capacity=40)
    kept = int(code.kept)
    assert kept == 16 and code.overflow == 0
    places = np.asarray(code.rows[:kept]) * UNITS + np.asarray(code.units[:kept])
    assert (np.diff(places) > 0).all()
    assert set(np.asarray(code.rows[kept:])) == {BATCH} and not np.any(code.values[kept:])
    infinite = decoder.at[0].set(jnp.inf)  # an empty slot would make 0 * inf of it
    assert not np.isnan(decode_ragged(code, infinite)).any() or np.any(code.units[:kept] == 0)
    np.testing.assert_array_equal(code.to_dense(), batch_top_k(jax.nn.relu(x @ kernel.T + bias[None]), 2))
    np.testing.assert_array_equal(code.count_by_unit(), np.sum(np.asarray(code.to_dense()) > 0, axis=0))


def test_overflow_is_counted():
    x, kernel, bias, decoder, _ = arrays(4)
    code = jax.jit(lambda: encode_batch_top_k(x, kernel, bias, 3, capacity=10))()
    assert (int(code.kept), int(code.overflow)) == (24, 14)
    whole = encode_batch_top_k(x, kernel, bias, 3, capacity=24)
    np.testing.assert_allclose(code.values, whole.values[:10], rtol=1e-6)
    np.testing.assert_array_equal(code.units, whole.units[:10])
    first = RaggedCode(whole.values.at[10:].set(0), whole.rows, whole.units, whole.kept, BATCH, UNITS)
    np.testing.assert_allclose(decode_ragged(code, decoder), decode_ragged(first, decoder), rtol=1e-6)


@pytest.mark.parametrize("devices", [2, 8])
def test_several_devices_have_the_code_of_one(devices):
    x, kernel, bias, decoder, target = arrays(5)
    mesh = jax.make_mesh((devices,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    encode = functools.partial(encode_batch_top_k, k=3, capacity=3 * BATCH)

    def of_shard(x, target, kernel, decoder):
        def loss(kernel, decoder):
            code = encode(x, kernel, bias, axis_name="data")
            return jnp.sum((decode_ragged(code, decoder) - target) ** 2)

        kernel, decoder = jax.lax.pcast((kernel, decoder), "data", to="varying")
        return jax.lax.psum(jax.value_and_grad(loss, (0, 1))(kernel, decoder), "data")

    specs = (P("data"), P("data"), P(), P())
    found = jax.jit(jax.shard_map(of_shard, mesh=mesh, in_specs=specs, out_specs=P()))(x, target, kernel, decoder)
    expected = jax.value_and_grad(dense, (1, 3))(x, kernel, bias, decoder, target, 3)
    assert_same(found, expected)


def test_half_precision():
    x, kernel, bias, decoder, _ = (leaf.astype(jnp.bfloat16) for leaf in arrays(6))
    code = encode_batch_top_k(x, kernel, bias, 3, capacity=3 * BATCH)
    assert code.values.dtype == jnp.bfloat16 and decode_ragged(code, decoder).dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(decode_ragged(code, decoder), np.float32),
                               np.asarray(code.to_dense(), np.float32) @ np.asarray(decoder, np.float32), rtol=0.02,
                               atol=0.2)  # fmt: skip


def test_duty_cycles_of_a_ragged_code_are_those_of_the_dense_one():
    x, kernel, bias, _, _ = arrays(7)
    code = encode_batch_top_k(x, kernel, bias, 3, capacity=3 * BATCH)
    states = [update_boost_state(init_boost_state(UNITS), y) for y in (code, code.to_dense())]
    assert_same(*states)


def test_empty_batches_and_wrong_arguments():
    x, kernel, bias, decoder, _ = arrays(8)
    code = encode_batch_top_k(x[:0], kernel, bias, 3, capacity=4)
    assert code.kept == 0 and decode_ragged(code, decoder).shape == (0, OUTPUTS)
    with pytest.raises(ValueError, match="capacity is 0"):
        encode_batch_top_k(x, kernel, bias, 3, capacity=0)
    with pytest.raises(ValueError, match="is of 70 units"):
        decode_ragged(code, decoder[:-1])
