"""Functions of rows by blocks, interpreted: every row gets its own numbers, for all splits of rows and devices."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from sparsejax.functional import selection, top_k
from sparsejax.functional import threshold as threshold_module
from sparsejax.functional.kernels import tpu as tpu_blocks
from sparsejax.functional.threshold import threshold


def extremes(values, k):
    """Returns the least value of a row plus its k, and the greatest."""
    return jnp.min(values[...], axis=-1, keepdims=True) + k, jnp.max(values[...], axis=-1, keepdims=True)


def interpreted(values, k):
    return tpu_blocks.by_blocks(extremes, values, k, interpret=True)


def assert_extremes(found, values, k):
    np.testing.assert_array_equal(found[0], values.min(-1) + k)
    np.testing.assert_array_equal(found[1], values.max(-1))


@pytest.mark.parametrize("shape", [(1, 1), (7, 30), (8, 100), (21, 1000), (2, 3, 5, 17), (3000, 100), (19, 2**15)])
def test_every_row_gets_its_own_numbers(shape):
    rng = np.random.default_rng(0)
    values = rng.integers(-(2**30), 2**30, shape).astype(np.int32)
    k = rng.integers(0, 100, shape[:-1]).astype(np.int32)
    assert_extremes(jax.jit(interpreted)(values, k), values, k)


def test_networks_of_a_grid_and_a_batch_over_devices():
    """k belongs to the network, values to the network and the device: results vary over both axes."""
    mesh = Mesh(np.reshape(jax.devices(), (2, 4)), ("member", "data"))
    values = np.random.default_rng(1).integers(-1000, 1000, (6, 32, 50)).astype(np.int32)
    k = np.arange(6, dtype=np.int32)

    def of_networks(values, k):
        def of_one(values, k):
            return interpreted(values, jnp.broadcast_to(k, values.shape[:-1]))

        return jax.vmap(of_one)(values, k)

    # What interprets kernels does not keep track of what varies over an axis; the compiler of a TPU does (rehearsal).
    shared = jax.shard_map(
        of_networks, mesh=mesh, in_specs=(P("member", "data"), P("member")), out_specs=P("member", "data"),
        check_vma=False,
    )  # fmt: skip
    assert_extremes(jax.jit(shared)(values, k), values, k[:, None])


@pytest.mark.skipif(jax.config.read("jax_enable_x64"), reason="TPU kernels have no 64-bit types")
@pytest.mark.parametrize("shape", [(4, 0), (0, 4), (4, 2**17 + 1)])
def test_rows_that_fit_no_block_are_left_to_xla(shape):
    assert not tpu_blocks.is_usable(shape)
    assert tpu_blocks.is_usable((4, 2**17))


@pytest.mark.parametrize(("setting", "kernels"), [(None, True), ("1", True), ("0", False)])
@pytest.mark.skipif(jax.config.read("jax_enable_x64"), reason="TPU kernels have no 64-bit types")
def test_the_environment_decides_what_a_tpu_runs(monkeypatch, setting, kernels):
    if setting is None:
        monkeypatch.delenv("SPARSEJAX_TPU_KERNELS", raising=False)
    else:
        monkeypatch.setenv("SPARSEJAX_TPU_KERNELS", setting)
    program = jax.jit(lambda key: threshold(key, jnp.int32(3))[0]).trace(jnp.zeros((8, 100), jnp.int32))
    text = program.lower(lowering_platforms=("tpu",)).as_text()
    assert ("tpu_custom_call" in text) == kernels
    assert ("stablehlo.while" in text) != kernels


def test_winners_are_those_of_the_other_ways(monkeypatch):
    x = np.random.default_rng(2).standard_normal((40, 300)).astype(np.float32)
    x[3] = 0

    def found(ties):
        keep = jax.jit(lambda x, k: top_k(x, k, ties=ties))  # a new function: programs are cached despite patches
        return [np.asarray(keep(x, k)) for k in (1, 30)]

    monkeypatch.setattr(tpu_blocks, "by_blocks", partial(tpu_blocks.by_blocks, interpret=True))
    monkeypatch.setattr(selection, "_winners", selection._winners.__wrapped__)  # it keeps its programs, too
    expected = {ties: found(ties) for ties in ("all", "first")}
    monkeypatch.setattr(threshold_module, "_by_bisection", threshold_module._by_blocks)
    for ties, kept in expected.items():
        np.testing.assert_array_equal(found(ties), kept)
        assert np.count_nonzero(kept[1]) == 30 * 39
