"""top_k, winners and kth_largest: what they keep, for every input, k and type."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from jax import lax

from sparsejax.functional import kth_largest, top_k, winners
from tests.functional.drawn import normal

INF, NAN = float("inf"), float("nan")
ROWS, N = 4, 16

kept_by = {ties: jax.jit(partial(winners, ties=ties)) for ties in ("all", "first")}
kth = jax.jit(kth_largest)
library = jax.jit(lambda x: lax.top_k(x, N)[0])

finite = st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=False)
few_values = st.sampled_from([-2.0, -1.0, -0.0, 0.0, 1.0, 2.0])
arrays = hnp.arrays(np.float32, (ROWS, N), elements=finite) | hnp.arrays(np.float32, (ROWS, N), elements=few_values)
any_float = st.floats(width=32, allow_subnormal=False)


@pytest.mark.parametrize(
    ("row", "k", "ties", "kept"),
    [
        ([1.0, 3.0, 2.0, 5.0, 4.0], 2, "all", [0, 0, 0, 1, 1]),
        ([1.0, 3.0, 3.0, 3.0, 0.0], 2, "all", [0, 1, 1, 1, 0]),
        ([1.0, 3.0, 3.0, 3.0, 0.0], 2, "first", [0, 1, 1, 0, 0]),
        ([5.0, 3.0, 3.0, 3.0, 9.0], 3, "first", [1, 1, 0, 0, 1]),
        ([2.0, 2.0, 2.0, 2.0, 2.0], 2, "all", [1, 1, 1, 1, 1]),
        ([2.0, 2.0, 2.0, 2.0, 2.0], 2, "first", [1, 1, 0, 0, 0]),
        ([0.0, 0.0, 7.0, 0.0, 0.0], 1, "all", [0, 0, 1, 0, 0]),
        ([0.0, 0.0, 7.0, 0.0, 0.0], 2, "first", [1, 0, 1, 0, 0]),
        ([-0.0, 0.0, -1.0, -0.0, -2.0], 1, "all", [1, 1, 0, 1, 0]),
        ([-0.0, 0.0, -1.0, -0.0, -2.0], 2, "first", [1, 1, 0, 0, 0]),
        ([-5.0, -1.0, -2.0, -4.0, -3.0], 2, "all", [0, 1, 1, 0, 0]),
        ([INF, 1.0, -INF, 2.0, 3.0], 2, "all", [1, 0, 0, 0, 1]),
        ([-INF, -INF, -INF, -INF, 3.0], 2, "first", [1, 0, 0, 0, 1]),
        ([NAN, 1.0, INF, 2.0, 3.0], 2, "all", [1, 0, 1, 0, 0]),
        ([NAN, -NAN, NAN, 2.0, 3.0], 2, "all", [1, 1, 1, 0, 0]),
        ([NAN, -NAN, NAN, 2.0, 3.0], 2, "first", [1, 1, 0, 0, 0]),
        ([1.0, 3.0, 2.0, 5.0, 4.0], 0, "all", [0, 0, 0, 0, 0]),
        ([2.0, 2.0, 2.0, 2.0, 2.0], 0, "first", [0, 0, 0, 0, 0]),
        ([-1.0, NAN, 2.0, 2.0, -0.0], 5, "all", [1, 1, 1, 1, 1]),
        ([-1.0, NAN, 2.0, 2.0, -0.0], 5, "first", [1, 1, 1, 1, 1]),
    ],
)
def test_the_kept_units_are_those_written_down_by_hand(row, k, ties, kept):
    x, kept = jnp.array(row, jnp.float32), np.array(kept, bool)
    np.testing.assert_array_equal(kept_by[ties](x, k), kept)
    np.testing.assert_array_equal(top_k(x, k, ties=ties), np.where(kept, x, 0))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16, jnp.int32])
def test_every_dtype_is_kept_and_ranked_as_sorting_ranks_it(dtype):
    x = np.asarray(100 * normal(ROWS, N)).astype(dtype)
    if dtype == jnp.int32:
        low, high = np.iinfo(np.int32).min, np.iinfo(np.int32).max
        x[0, :6] = low, high, 0, -1, low, high
    rank = x.astype(np.int64 if dtype == jnp.int32 else np.float32)
    order = np.argsort(-rank, axis=-1, kind="stable")
    keep = jax.jit(lambda x, k: (top_k(x, k, ties="first"), kth_largest(x, k)))
    for k in (1, 3, 5, N):
        expected = np.zeros_like(x)
        np.put_along_axis(expected, order[:, :k], np.take_along_axis(x, order[:, :k], -1), -1)
        got, smallest = keep(x, k)
        assert got.dtype == smallest.dtype == dtype
        np.testing.assert_array_equal(got, expected)
        np.testing.assert_array_equal(smallest, np.take_along_axis(x, order[:, k - 1 : k], -1)[:, 0])


@given(x=arrays, k=st.integers(0, N))
def test_ties_first_keeps_exactly_k_and_those_of_lax_top_k(x, k):
    x = x + np.float32(0)  # lax.top_k puts -0 below +0; here they are equal
    order = np.argsort(-x, axis=-1, kind="stable")
    expected = np.zeros((ROWS, N), bool)
    np.put_along_axis(expected, order[:, :k], True, axis=-1)
    got = kept_by["first"](x, k)
    np.testing.assert_array_equal(got, expected)
    assert (np.sum(got, axis=-1) == k).all()
    np.testing.assert_array_equal(np.sort(np.where(got, x, -np.inf))[:, ::-1][:, :k], library(x)[:, :k])


@given(x=arrays, k=st.integers(1, N))
def test_ties_all_keeps_everything_at_or_above_the_kth_largest(x, k):
    threshold = -np.sort(-x, axis=-1)[:, k - 1]
    np.testing.assert_array_equal(kept_by["all"](x, k), x >= threshold[:, None])
    np.testing.assert_array_equal(kth(x, k), threshold)


@given(x=hnp.arrays(np.float32, (ROWS, N), elements=any_float), k=st.integers(1, N))
def test_nan_and_infinities_rank_as_sorting_ranks_them(x, k):
    # Ascending order of NumPy: -inf, ..., inf, NaN.
    np.testing.assert_array_equal(kth(x, k), np.sort(x, axis=-1)[:, N - k])


@given(x=arrays, k=st.integers(0, N), seed=st.integers(0, 2**20))
def test_permuting_the_units_permutes_the_winners(x, k, seed):
    order = np.random.default_rng(seed).permutation(N)
    kept = kept_by["all"]
    np.testing.assert_array_equal(kept(x[:, order], k), np.asarray(kept(x, k))[:, order])


@given(x=hnp.arrays(np.float32, (ROWS, N), elements=any_float), k=st.integers(0, N))
def test_no_row_depends_on_another(x, k):
    changed = x.copy()
    changed[1:] = np.float32(np.nan)
    for kept in kept_by.values():
        np.testing.assert_array_equal(kept(changed, k)[0], kept(x, k)[0])


@pytest.mark.parametrize("ties", ["all", "first"])
def test_traced_k_jit_and_vmap_equal_the_plain_call(ties):
    x = jnp.asarray(np.round(2 * normal(3, ROWS, N)))  # with ties
    traced = jax.jit(partial(top_k, ties=ties))
    for k in (0, 5, N):
        plain = np.asarray(top_k(x, k, ties=ties))
        assert 0 < np.count_nonzero(plain) < x.size or k in (0, N)
        np.testing.assert_array_equal(traced(x, k), plain)
        if k == 5:
            np.testing.assert_array_equal(jax.jit(jax.vmap(lambda row: top_k(row, 5, ties=ties)))(x), plain)
            np.testing.assert_array_equal(traced(x[1, 2], k), plain[1, 2])


def test_vmap_over_k_gives_each_row_its_own_k():
    x, ks = normal(N + 1, N), np.arange(N + 1)
    kept = jax.jit(jax.vmap(lambda row, k: winners(row, k, ties="first")))(x, ks)
    np.testing.assert_array_equal(np.sum(kept, axis=-1), ks)
    np.testing.assert_array_equal(kept[5], kept_by["first"](x[5], 5))


def test_traced_k_outside_the_row_is_clipped():
    x = normal(ROWS, N)
    assert not kept_by["all"](x, -3).any()
    assert kept_by["all"](x, N + 3).all()
    np.testing.assert_array_equal(kth(x, 0), np.max(x, axis=-1))
    np.testing.assert_array_equal(kth(x, N + 3), np.min(x, axis=-1))


@pytest.mark.parametrize("ties", ["all", "first"])
def test_the_gradient_is_one_on_winners_and_zero_elsewhere(ties):
    x, upstream = normal(2, ROWS, N)
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(upstream * top_k(x, 5, ties=ties))))(x)
    np.testing.assert_array_equal(gradient, np.where(kept_by[ties](x, 5), upstream, 0.0))
    assert np.count_nonzero(gradient) == 5 * ROWS


def test_all_units_tied_at_the_threshold_get_gradient():
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(top_k(x, 2, ties="all"))))(jnp.array([1.0, 3.0, 3.0, 3.0, 0.0]))
    np.testing.assert_array_equal(gradient, [0, 1, 1, 1, 0])


@jax.jit
def kth_and_its_gradients(x, k, direction):
    value, tangent = jax.jvp(lambda x: kth_largest(x, k), (x,), (direction,))
    return value, tangent, jax.grad(lambda x: kth_largest(x, k).astype(jnp.float32))(x)


@pytest.mark.parametrize(
    ("row", "k", "gradient"),
    [
        ([1.0, 3.0, 2.0, 0.0], 1, [0, 1, 0, 0]),
        ([1.0, 3.0, 2.0, 1.5], 4, [1, 0, 0, 0]),
        ([1.0, 3.0, 3.0, 0.0], 2, [0, 0.5, 0.5, 0]),
        ([0.0, -0.0, 0.0, 0.0], 2, [0.25, 0.25, 0.25, 0.25]),
    ],
)
def test_the_gradient_of_kth_largest_is_shared_by_the_units_that_hold_it(row, k, gradient):
    direction = np.arange(1.0, 5.0, dtype=np.float32)
    for dtype in (np.float32, jnp.bfloat16):
        value, tangent, found = kth_and_its_gradients(np.array(row, dtype), k, direction.astype(dtype))
        assert value == sorted(row)[-k]
        np.testing.assert_array_equal(tangent.astype(jnp.float32), np.dot(gradient, direction))
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, np.array(gradient, dtype))


@pytest.mark.wrong_types
@pytest.mark.parametrize("k", [-1, 6, 2.0, 0.5])
def test_a_k_that_cannot_be_is_refused_by_name(k):
    with pytest.raises(ValueError, match=f"k is {k}"):
        top_k(jnp.ones((2, 5)), k)


@pytest.mark.wrong_types
def test_k_0_unknown_ties_and_dtypes_are_refused_by_name():
    with pytest.raises(ValueError, match="k is 0, but a row has 5 units; expected 1 <= k <= 5"):
        kth_largest(jnp.ones(5), 0)
    with pytest.raises(ValueError, match="ties is 'last'; expected 'first'"):
        winners(jnp.ones(5), 2, ties="last")
    with pytest.raises(ValueError, match="uint8"):
        top_k(jnp.ones(5, jnp.uint8), 2)


def test_64_bit_mode_changes_nothing():
    x = np.asarray([[0, 1, 2, 3, 4, 5, 6, 7], [3, 3, 3, 0, 3, 9, 3, 3]], np.float32)
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        kept, least = top_k(jnp.asarray(x), 3), kth_largest(jnp.asarray(x), jnp.asarray([3, 2]))
    assert kept.dtype == least.dtype == jnp.float32
    np.testing.assert_array_equal(kept, [[0, 0, 0, 0, 0, 5, 6, 7], [3, 3, 0, 0, 0, 9, 0, 0]])
    np.testing.assert_array_equal(least, [5, 3])


def test_64_bit_values_are_ranked_by_all_their_bits():
    rng = np.random.default_rng(0)
    close, huge = 1 + 1e-14 * rng.integers(-9, 9, (3, 70)), 1e300 * rng.standard_normal((3, 70))
    tiny, special = 5e-324 * rng.integers(-3, 3, (1, 70)), rng.choice([-np.inf, 0, -0.0, np.inf, 2], (1, 70))
    x = np.concatenate([close, huge, tiny, special])
    whole = rng.integers(-(2**63), 2**63, (8, 70), dtype=np.int64)
    whole[0], whole[1] = rng.integers(-3, 3, 70), (1 << 40) + rng.integers(-2, 2, 70)
    with jax.enable_x64(True):
        for values in (x, whole):
            order = np.argsort(values, axis=-1, kind="stable")
            for k in (1, 9, 69):
                least = np.take_along_axis(values, order[:, [70 - k]], -1)
                found, kth = (
                    np.asarray(winners(jnp.asarray(values), k, ties="all")),
                    kth_largest(jnp.asarray(values), k),
                )
                np.testing.assert_array_equal(found, values >= least)
                np.testing.assert_array_equal(kth, least[:, 0])
                first = np.asarray(top_k(jnp.asarray(values), k))
                expected = np.zeros_like(values)
                best = np.argsort(~values if values.dtype.kind == "i" else -values, axis=-1, kind="stable")[:, :k]
                np.put_along_axis(expected, best, np.take_along_axis(values, best, -1), -1)
                np.testing.assert_array_equal(first, expected)
                assert first.dtype == values.dtype
        value, gradient = jax.value_and_grad(lambda x: jnp.sum(top_k(x, 9)))(jnp.asarray(x))
        assert value.dtype == gradient.dtype == jnp.float64 and jnp.sum(gradient) == 9 * len(x)
