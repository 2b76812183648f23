"""The threshold found by counting: the same as by sorting, by every way, for every width and type of key."""

import functools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.functional import threshold as module
from sparsejax.functional.kernels import tpu as tpu_blocks
from sparsejax.functional.threshold import ordered_key, threshold

INF, NAN = float("inf"), float("nan")
WIDTHS = (1, 7, 63, 64, 100, 519, 1000, 2**15 + 40)
# Sixteen bits have no halves. What depends on the width is how rows are cut into slices, which only bisection does;
# how it ends for few rows does not depend on that.
CASES = [
    *(("whole", dtype, n) for dtype in (np.int32, np.int16) for n in WIDTHS),
    *(("halves", np.int32, n) for n in WIDTHS),
    *((way, dtype, n) for way in ("few", "blocks", "digits") for dtype in (np.int32, np.int16) for n in (1, 519)),
]


@functools.cache
def search(way, dtype, shape):
    """Returns a compiled search by one of the ways, whatever the size."""
    function = {"digits": module._by_digits, "blocks": module._by_blocks}.get(way, module._by_bisection)
    interpreted = functools.partial(tpu_blocks.by_blocks, interpret=True)
    with (
        mock.patch.object(module, "_HALVED", 0 if way == "halves" else 2**62),
        mock.patch.object(module, "_MANY", 2**62 if way == "few" else 1),
        mock.patch.object(tpu_blocks, "by_blocks", interpreted),
    ):
        # A new function, because compiled programs are cached despite patches.
        keys, ks = jax.ShapeDtypeStruct(shape, dtype), jax.ShapeDtypeStruct(shape[:1], np.int32)
        return jax.jit(lambda key, k: function(key, k)).lower(keys, ks).compile()


def assert_is_the_kth(search, keys, k, ordered=None):
    """Compares the values at or above the threshold, and whether they are k, with a sort."""
    ordered = np.sort(keys, axis=-1) if ordered is None else ordered
    found, exactly = map(np.asarray, search(jnp.asarray(keys), jnp.asarray(np.full(len(keys), k, np.int32))))
    kth = ordered[:, ordered.shape[-1] - k]
    np.testing.assert_array_equal(keys >= found[:, None], keys >= kth[:, None])
    count = np.sum(keys >= kth[:, None], axis=-1)
    np.testing.assert_array_equal(count[exactly], k)
    if k < keys.shape[-1]:
        np.testing.assert_array_equal(count == k, exactly)
    np.testing.assert_array_equal(found[~exactly], kth[~exactly])
    assert found.dtype == keys.dtype


@pytest.mark.parametrize(("way", "dtype", "n"), CASES)
def test_every_way_agrees_with_sorting(way, dtype, n):
    rng, bounds = np.random.default_rng(n), np.iinfo(dtype)
    keys = rng.integers(bounds.min, bounds.max + 1, (8, n), dtype=np.int64)
    keys[1:3] = rng.integers(-2, 3, (2, n))  # many ties
    keys[3] = bounds.min
    keys[4] = bounds.max
    keys[5, : n // 2] = bounds.min
    keys[6] = np.sort(keys[6])
    keys[7] = rng.integers(-3, 4, n) << (bounds.bits // 2)  # lower halves are equal
    for k in sorted({1, min(2, n), (n + 1) // 2, n}):
        assert_is_the_kth(search(way, dtype, keys.shape), keys.astype(dtype), k)


@pytest.mark.parametrize(("way", "dtype"), [("whole", np.int32), ("whole", np.int16), ("halves", np.int32)])
def test_counts_beyond_sixteen_bits_are_kept(way, dtype):
    n = 1_300_003
    keys = np.random.default_rng(0).integers(-9, 9, (2, n)).astype(dtype)
    keys[1] = 5  # every slice counts all it can
    ordered = np.sort(keys, axis=-1)
    for k in (1, 2**15 + 1, 2**16 + 1, n - 1, n):
        assert_is_the_kth(search(way, dtype, keys.shape), keys, k, ordered)


@pytest.mark.parametrize("way", ["whole", "halves", "few", "blocks", "digits"])
def test_values_of_any_size_are_searched(way):
    for dtype in (jnp.float32, jnp.bfloat16, jnp.float16):
        for scale in (1e-30, 1.0, 1e4):
            x = (scale * np.random.default_rng(0).standard_normal((8, 519))).astype(np.float32)
            x[3] = np.maximum(x[3], 0)
            keys = np.asarray(ordered_key(jnp.asarray(x.astype(dtype))))
            assert keys.dtype == (np.int32 if dtype == jnp.float32 else np.int16)
            kind = np.int32 if way == "halves" else keys.dtype
            for k in (1, 30, 518):
                assert_is_the_kth(search(way, kind, keys.shape), keys.astype(kind), k)


def test_many_rows_are_searched_by_halves_and_few_whole(monkeypatch):
    seen, bisect = [], module.bisect

    def spy(count, *arguments, **options):
        if isinstance(count, functools.partial):  # not of the blocks of a TPU
            seen.append(count.args[0].dtype)
        return bisect(count, *arguments, **options)

    monkeypatch.setattr(module, "bisect", spy)
    for rows, types in ((8, [jnp.int32]), (128, [jnp.int16, jnp.int16])):
        seen.clear()
        keys = np.random.default_rng(0).integers(-(2**31), 2**31, (rows, 1000)).astype(np.int32)
        assert_is_the_kth(jax.jit(lambda key, k: threshold(key, k)), keys, 100)
        assert seen == types


@pytest.mark.parametrize("n", [5, 63, 64, 100, 511, 512, 1000, 10_007, 1_000_000])
def test_slices_have_small_remainders(n):
    parts, width = module._slices(n)
    assert parts * width <= n
    assert n - parts * width < max(16 * parts, n / 16)
    assert (parts, width) == (1, n) or width % 16 == 0


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_keys_order_as_the_values_do(dtype):
    x = jnp.array([-INF, -6e4, -1.0, -1e-3, -0.0, 0.0, 1e-3, 1.0, 6e4, INF, NAN, -NAN], dtype)
    keys = np.asarray(ordered_key(x), np.int64)
    assert keys[4] == keys[5] == 0
    assert (np.diff(keys[:5]) > 0).all()
    assert (np.diff(keys[5:11]) > 0).all()
    assert keys[10] == keys[11]
