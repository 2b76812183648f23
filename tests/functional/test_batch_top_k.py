"""Selection over a whole batch, on one device and on several, and its running threshold."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import PartitionSpec as P

from sparsejax.functional import batch_top_k, update_threshold
from tests import golden

ROWS, N = 8, 24
_by_k = functools.cache(lambda k: jax.jit(functools.partial(batch_top_k, k=k)))


def kept_by_sorting(x, count):
    """Returns the largest values of an array, the earlier first among ties."""
    flat = np.asarray(x, np.float64).reshape(-1)
    kept = np.zeros_like(flat)
    chosen = np.argsort(-flat, kind="stable")[:count]
    kept[chosen] = flat[chosen]
    return kept.reshape(x.shape)


def drawn(seed, *, tied):
    values = np.random.default_rng(seed).normal(size=(ROWS, N))
    return (np.round(values * 2) / 2 if tied else values).astype(np.float32)


@given(st.integers(0, 2**31), st.sampled_from([0, 0.5, 1, 2.5, 7, N]), st.booleans())
def test_it_keeps_the_largest_of_the_batch(seed, k, tied):
    x = drawn(seed, tied=tied)
    np.testing.assert_array_equal(_by_k(k)(x), kept_by_sorting(x, int(k * ROWS)))


@pytest.mark.parametrize("devices", [2, 4, 8])
@pytest.mark.parametrize("tied", [False, True])
def test_several_devices_keep_what_one_does(devices, tied):
    mesh = jax.make_mesh((devices,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))

    def sharded(k, ties):
        of_shard = functools.partial(batch_top_k, ties=ties, axis_name="data")
        mapped = jax.shard_map(of_shard, mesh=mesh, in_specs=(P("data"), P()), out_specs=P("data"))
        return jax.jit(lambda x: mapped(x, k))

    for ties in ("first", "all"):
        for k in (0.5, 3, N):
            for seed in range(5):
                x = drawn(seed, tied=tied)
                np.testing.assert_array_equal(
                    sharded(jnp.float32(k), ties)(x), batch_top_k(x, k, ties=ties), err_msg=f"{ties} {k}"
                )


def test_several_devices_exchange_counts_only():
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    mapped = jax.shard_map(
        lambda x: batch_top_k(x, 3, axis_name="data"), mesh=mesh, in_specs=P("data"), out_specs=P("data")
    )
    text = jax.jit(mapped).lower(drawn(0, tied=False)).compile().as_text()
    assert "all-reduce" in text and "all-gather" not in text


def test_a_traced_k_and_a_grid_of_them():
    x = drawn(1, tied=False)
    ks = jnp.asarray([1.0, 2.5, 6.0])
    found = jax.jit(jax.vmap(batch_top_k, (None, 0)))(x, ks)
    for k, kept in zip(ks, found, strict=True):
        np.testing.assert_array_equal(kept, kept_by_sorting(x, int(k * ROWS)))


def test_gradients_go_to_the_winners():
    x = jnp.asarray(drawn(2, tied=False))
    gradient = jax.grad(lambda x: jnp.sum(3 * batch_top_k(x, 4)))(x)
    np.testing.assert_array_equal(gradient, jnp.where(batch_top_k(x, 4) != 0, 3.0, 0.0))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_types_and_leading_axes(dtype):
    x = jnp.asarray(drawn(3, tied=True).reshape(2, 4, N), dtype)
    found = batch_top_k(x, 2)
    assert found.dtype == x.dtype
    np.testing.assert_array_equal(np.asarray(found, np.float32), kept_by_sorting(np.asarray(x, np.float32), 16))


def test_recorded_codes():
    case = golden.load("sae_batchtopk")
    h = np.maximum((case["x"] - case["b_dec"]) @ case["W_enc"].T + case["b_enc"], 0)
    np.testing.assert_allclose(batch_top_k(h, 4), case["dl_f"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(batch_top_k(np.maximum(case["sl_h"], 0), 2.5), case["sl_out_k2p5"], rtol=1e-6)


def test_the_recorded_threshold():
    case = golden.load("sae_batchtopk")
    threshold = update_threshold(jnp.float32(-1), case["dl_f"])
    np.testing.assert_allclose(threshold, case["dl_thr1"], rtol=1e-6)
    again = update_threshold(jnp.float32(case["dl_thr1"]), case["dl_f"])
    np.testing.assert_allclose(again, case["dl_thr1"], rtol=1e-6)


def test_the_threshold_is_an_average_of_least_values():
    kept = [np.float32([[0, 3, 2], [0, 0, 5]]), np.float32([[4, 0, 0]]), np.zeros((2, 3), np.float32)]
    threshold, expected = jnp.float32(-1), [2.0, 0.9 * 2 + 0.1 * 4, 0.9 * 2 + 0.1 * 4]
    for values, wanted in zip(kept, expected, strict=True):
        threshold = update_threshold(threshold, values, decay=0.9)
        np.testing.assert_allclose(threshold, wanted, rtol=1e-6)


def test_an_empty_batch_and_wrong_numbers():
    assert batch_top_k(np.zeros((0, 5), np.float32), 2).shape == (0, 5)
    for k in (-1, 25, 24.5):
        with pytest.raises(ValueError, match="expected 0 <= k <= 24"):
            batch_top_k(drawn(0, tied=False), k)
