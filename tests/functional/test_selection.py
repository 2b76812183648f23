"""top_k, winners and kth_largest: what they keep, for every input, k and type."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from jax import lax

from sparsejax.functional import kth_largest, top_k, winners

INF, NAN = float("inf"), float("nan")
ROWS, N = 4, 16

kept_all = jax.jit(lambda x, k: winners(x, k, ties="all"))
kept_first = jax.jit(lambda x, k: winners(x, k, ties="first"))
keep = jax.jit(top_k, static_argnums=1, static_argnames="ties")
kth = jax.jit(kth_largest)

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
    x = jnp.array(row, jnp.float32)
    expected = np.where(kept, np.array(row, np.float32), 0)
    np.testing.assert_array_equal(keep(x, k, ties=ties), expected)
    np.testing.assert_array_equal(kept_all(x, k) if ties == "all" else kept_first(x, k), np.array(kept, bool))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16, jnp.int32])
@pytest.mark.parametrize("k", [1, 3, 16])
def test_every_dtype_keeps_the_units_and_type_of_lax_top_k(fresh_key, dtype, k):
    x = (100 * jax.random.normal(fresh_key(), (ROWS, N))).astype(dtype)
    values, indices = lax.top_k(x, k)
    expected = jnp.zeros_like(x).at[jnp.arange(ROWS)[:, None], indices].set(values)
    got = keep(x, k, ties="first")
    assert got.dtype == dtype
    np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(kth(x, k), values[:, -1])


def test_int32_extremes_are_ranked():
    low, high = np.iinfo(np.int32).min, np.iinfo(np.int32).max
    x = jnp.array([low, high, 0, -1, low, high], jnp.int32)
    np.testing.assert_array_equal(winners(x, 1, ties="first"), [False, True, False, False, False, False])
    np.testing.assert_array_equal(winners(x, 5, ties="first"), [True, True, True, True, False, True])
    assert kth_largest(x, 2) == high
    assert kth_largest(x, 6) == low


@given(x=arrays, k=st.integers(0, N))
def test_ties_first_keeps_exactly_k_and_those_of_lax_top_k(x, k):
    x = x + np.float32(0)  # lax.top_k puts -0 below +0; here they are equal
    order = np.argsort(-x, axis=-1, kind="stable")
    expected = np.zeros((ROWS, N), bool)
    np.put_along_axis(expected, order[:, :k], True, axis=-1)
    got = kept_first(x, k)
    np.testing.assert_array_equal(got, expected)
    assert (np.sum(got, axis=-1) == k).all()
    if k:
        np.testing.assert_array_equal(np.sort(np.where(got, x, -np.inf))[:, ::-1][:, :k], lax.top_k(x, k)[0])


@given(x=arrays, k=st.integers(1, N))
def test_ties_all_keeps_everything_at_or_above_the_kth_largest(x, k):
    threshold = -np.sort(-x, axis=-1)[:, k - 1]
    np.testing.assert_array_equal(kept_all(x, k), x >= threshold[:, None])
    np.testing.assert_array_equal(kth(x, k), threshold)


@given(x=hnp.arrays(np.float32, (ROWS, N), elements=any_float), k=st.integers(1, N))
def test_nan_and_infinities_rank_as_sorting_ranks_them(x, k):
    # Ascending order of NumPy: -inf, ..., inf, NaN.
    np.testing.assert_array_equal(kth(x, k), np.sort(x, axis=-1)[:, N - k])


@given(x=arrays, k=st.integers(0, N), seed=st.integers(0, 2**20))
def test_permuting_the_units_permutes_the_winners(x, k, seed):
    order = np.random.default_rng(seed).permutation(N)
    np.testing.assert_array_equal(kept_all(x[:, order], k), np.asarray(kept_all(x, k))[:, order])


@pytest.mark.parametrize("ties", ["all", "first"])
@pytest.mark.parametrize("k", [0, 5, N])
def test_traced_k_jit_and_vmap_equal_the_plain_call(fresh_key, ties, k):
    x = jnp.round(2 * jax.random.normal(fresh_key(), (3, ROWS, N)))  # with ties
    plain = keep(x, k, ties=ties)
    assert 0 < np.count_nonzero(plain) < x.size or k in (0, N)
    np.testing.assert_array_equal(jax.jit(lambda x, k: top_k(x, k, ties=ties))(x, k), plain)
    np.testing.assert_array_equal(top_k(x, k, ties=ties), plain)
    np.testing.assert_array_equal(jax.jit(jax.vmap(lambda row: top_k(row, k, ties=ties)))(x), plain)
    np.testing.assert_array_equal(keep(x[1, 2], k, ties=ties), plain[1, 2])


def test_vmap_over_k_gives_each_row_its_own_k(fresh_key):
    x, ks = jax.random.normal(fresh_key(), (N + 1, N)), jnp.arange(N + 1)
    kept = jax.vmap(lambda row, k: winners(row, k, ties="first"))(x, ks)
    np.testing.assert_array_equal(jnp.sum(kept, axis=-1), ks)
    np.testing.assert_array_equal(kept[5], winners(x[5], 5))


def test_traced_k_outside_the_row_is_clipped(fresh_key):
    x = jax.random.normal(fresh_key(), (ROWS, N))
    assert not kept_all(x, -3).any()
    assert kept_all(x, N + 3).all()
    np.testing.assert_array_equal(kth(x, 0), jnp.max(x, axis=-1))
    np.testing.assert_array_equal(kth(x, N + 3), jnp.min(x, axis=-1))


@pytest.mark.parametrize("ties", ["all", "first"])
def test_the_gradient_is_one_on_winners_and_zero_elsewhere(fresh_key, ties):
    x, upstream = jax.random.normal(fresh_key(), (2, ROWS, N))
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(upstream * top_k(x, 5, ties=ties))))(x)
    np.testing.assert_array_equal(gradient, jnp.where(winners(x, 5, ties=ties), upstream, 0.0))
    assert np.count_nonzero(gradient) == 5 * ROWS


def test_all_units_tied_at_the_threshold_get_gradient():
    gradient = jax.grad(lambda x: jnp.sum(top_k(x, 2, ties="all")))(jnp.array([1.0, 3.0, 3.0, 3.0, 0.0]))
    np.testing.assert_array_equal(gradient, [0, 1, 1, 1, 0])


@pytest.mark.parametrize(
    ("row", "k", "gradient"),
    [
        ([1.0, 3.0, 2.0], 1, [0, 1, 0]),
        ([1.0, 3.0, 2.0], 3, [1, 0, 0]),
        ([1.0, 3.0, 3.0, 0.0], 2, [0, 0.5, 0.5, 0]),
        ([0.0, -0.0, 0.0, 0.0], 2, [0.25, 0.25, 0.25, 0.25]),
    ],
)
def test_the_gradient_of_kth_largest_is_shared_by_the_units_that_hold_it(row, k, gradient):
    x = jnp.array(row)
    np.testing.assert_array_equal(jax.grad(kth_largest)(x, k), gradient)
    value, tangent = jax.jvp(lambda x: kth_largest(x, k), (x,), (jnp.arange(1.0, len(row) + 1),))
    assert value == sorted(row)[-k]
    np.testing.assert_allclose(tangent, np.dot(gradient, np.arange(1.0, len(row) + 1)))
    half = jax.grad(lambda x: kth_largest(x, k).astype(jnp.float32))(x.astype(jnp.bfloat16))
    assert half.dtype == jnp.bfloat16
    np.testing.assert_array_equal(half, jnp.array(gradient, jnp.bfloat16))


@given(x=hnp.arrays(np.float32, (ROWS, N), elements=any_float), k=st.integers(0, N))
def test_no_row_depends_on_another(x, k):
    changed = x.copy()
    changed[1:] = np.float32(np.nan)
    np.testing.assert_array_equal(kept_first(changed, k)[0], kept_first(x, k)[0])
    np.testing.assert_array_equal(kept_all(changed, k)[0], kept_all(x, k)[0])


@pytest.mark.parametrize("k", [-1, 6, 2.0, 0.5])
def test_a_k_that_cannot_be_is_refused_by_name(k):
    with pytest.raises(ValueError, match=f"k is {k}"):
        top_k(jnp.ones((2, 5)), k)


def test_kth_largest_refuses_k_0():
    with pytest.raises(ValueError, match="k is 0, but a row has 5 units; expected 1 <= k <= 5"):
        kth_largest(jnp.ones(5), 0)


def test_unknown_ties_and_dtypes_are_refused_by_name():
    with pytest.raises(ValueError, match="ties is 'last'; expected 'first'"):
        winners(jnp.ones(5), 2, ties="last")
    with pytest.raises(ValueError, match="uint8"):
        top_k(jnp.ones(5, jnp.uint8), 2)
