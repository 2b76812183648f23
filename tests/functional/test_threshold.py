"""The threshold found by counting: the same as by sorting, by every way, for every width and type of key."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.functional import threshold as module
from sparsejax.functional.kernels import tpu as tpu_blocks
from sparsejax.functional.threshold import ordered_key, threshold

INF, NAN = float("inf"), float("nan")
METHODS = ("whole", "halves", "few", "blocks", "digits")
WIDTHS = (1, 7, 63, 64, 100, 519, 1000, 2**15 + 40)


def search(method, monkeypatch):
    """Returns a jitted search by one of the ways, whatever the size."""
    monkeypatch.setattr(module, "_HALVED", 0 if method == "halves" else 2**62)
    monkeypatch.setattr(module, "_MANY", 2**62 if method == "few" else 1)
    monkeypatch.setattr(tpu_blocks, "by_blocks", partial(tpu_blocks.by_blocks, interpret=True))
    way = {"digits": module._by_digits, "blocks": module._by_blocks}.get(method, module._by_bisection)
    return jax.jit(lambda key, k: way(key, k))  # of its own: programs of one function are kept, whatever was patched


def assert_is_the_kth(search, keys, k):
    """Compares what lies at or above the threshold, and whether it is k, with a sort."""
    found, exactly = map(np.asarray, search(jnp.asarray(keys), jnp.full(len(keys), k, jnp.int32)))
    kth = -np.sort(-keys.astype(np.int64), axis=-1)[:, k - 1]
    np.testing.assert_array_equal(keys >= np.asarray(found)[:, None], keys >= kth[:, None])
    count = np.sum(keys >= kth[:, None], axis=-1)
    np.testing.assert_array_equal(count[exactly], k)
    if k < keys.shape[-1]:
        np.testing.assert_array_equal(count == k, exactly)
    np.testing.assert_array_equal(found[~exactly], kth[~exactly])
    assert found.dtype == keys.dtype


@pytest.mark.parametrize("dtype", [np.int32, np.int16])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n", WIDTHS)
def test_every_way_agrees_with_sorting(monkeypatch, method, n, dtype):
    rng, bounds = np.random.default_rng(n), np.iinfo(dtype)
    keys = rng.integers(bounds.min, bounds.max + 1, (8, n), dtype=np.int64)
    keys[1:3] = rng.integers(-2, 3, (2, n))  # many ties
    keys[3] = bounds.min
    keys[4] = bounds.max
    keys[5, : n // 2] = bounds.min
    keys[6] = np.sort(keys[6])
    keys[7] = rng.integers(-3, 4, n) << (bounds.bits // 2)  # lower halves are equal
    by = search(method, monkeypatch)
    for k in sorted({1, min(2, n), (n + 1) // 2, n}):
        assert_is_the_kth(by, keys.astype(dtype), k)


@pytest.mark.parametrize("dtype", [np.int32, np.int16])
@pytest.mark.parametrize("method", ["whole", "halves"])
def test_counts_beyond_sixteen_bits_are_kept(monkeypatch, method, dtype):
    n = 1_300_003
    keys = np.random.default_rng(0).integers(-9, 9, (2, n))
    keys[1] = 5  # every slice counts all it can
    by = search(method, monkeypatch)
    for k in (1, 2**15 + 1, 2**16 + 1, n - 1, n):
        assert_is_the_kth(by, keys.astype(dtype), k)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e4])
def test_values_of_any_size_are_searched(monkeypatch, method, dtype, scale):
    x = (scale * np.random.default_rng(0).standard_normal((5, 300))).astype(np.float32)
    x[3] = np.maximum(x[3], 0)
    keys = np.asarray(ordered_key(jnp.asarray(x).astype(dtype)))
    assert keys.dtype == (np.int32 if dtype == jnp.float32 else np.int16)
    for k in (1, 30, 299):
        assert_is_the_kth(search(method, monkeypatch), keys, k)


@pytest.mark.slow
def test_many_rows_are_searched_by_halves_and_few_whole(monkeypatch):
    seen, bisect = [], module.bisect

    def spy(count, *arguments, **options):
        seen.append(count.args[0].dtype)
        return bisect(count, *arguments, **options)

    monkeypatch.setattr(module, "bisect", spy)
    for rows, types in ((8, [jnp.int32]), (128, [jnp.int16, jnp.int16])):
        seen.clear()
        keys = np.random.default_rng(0).integers(-(2**31), 2**31, (rows, 1000)).astype(np.int32)
        assert_is_the_kth(threshold, keys, 100)
        assert seen == types


@pytest.mark.parametrize("n", [5, 63, 64, 100, 511, 512, 1000, 10_007, 1_000_000])
def test_slices_leave_little_over(n):
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
