"""A k learned through a sigmoid window or by sampling, a decreasing k, and a subtracted threshold."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from jax import lax

from sparsejax.functional import (
    example_keys,
    k_schedule,
    reinforce_loss,
    sampled_k,
    soft_top_k,
    top_k,
    top_k_subtract,
    update_reinforce_baseline,
)
from sparsejax.functional.learned_k import _k_of_noise
from tests.functional.drawn import normal

BATCH, UNITS = 4, 40

soft = jax.jit(soft_top_k, static_argnames="window")
sample = jax.jit(sampled_k, static_argnums=3)
subtract = jax.jit(top_k_subtract)
schedule = jax.jit(k_schedule, static_argnames=("n", "kind"))
drawn_keys = jax.jit(example_keys)


def kept_weight(k, window, units=UNITS):
    """Returns the weights by rank: the output for a row of ones, which are all tied."""
    return np.asarray(soft(np.ones(units, np.float32), np.float32(k), window=window))


@given(k=st.floats(0, UNITS, width=32), window=st.sampled_from([2, 3, 10, 40]))
def test_weights_fall_from_one_to_zero_and_add_up_to_about_k(k, window):
    weights = kept_weight(k, window)
    assert np.all(np.diff(weights) <= 0) and np.all((weights >= 0) & (weights <= 1))
    assert abs(weights.sum() - k) <= 1.5 + window / 20
    assert not weights[int(np.round(k)) + window // 2 :].any()


@pytest.mark.parametrize(
    ("k", "window", "kept"), [(3.0, 2, 3), (0.0, 2, 1), (-9.0, 10, 0), (50.0, 10, 39), (40.0, 2, 39), (39.0, 2, 39)]
)
def test_at_and_beyond_the_ends_of_the_row_the_window_stops(k, window, kept):
    weights = kept_weight(k, window)
    assert np.isfinite(weights).all()
    np.testing.assert_allclose(weights.sum(), kept, atol=0.6)
    assert weights[-1] == 0


def test_the_gradient_to_k_is_the_slope_between_two_roundings():
    x, upstream = normal(2, BATCH, UNITS)
    loss = jax.jit(jax.value_and_grad(lambda k: jnp.sum(upstream * soft_top_k(x, k, window=12))))
    for k in (0.1, 7.2, 25.8, 39.7):
        slope = (loss(k + 0.02)[0] - loss(k - 0.02)[0]) / 0.04
        np.testing.assert_allclose(loss(k)[1], slope, rtol=2e-2, atol=2e-4)


def test_the_gradient_to_x_is_the_weight_and_jit_changes_nothing():
    x = normal(BATCH, UNITS)
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(soft_top_k(x, 7.3, window=8))))(x)
    np.testing.assert_allclose(gradient, soft(x, 7.3, window=8) / x, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(soft_top_k(x, 7.3, window=8), soft(x, 7.3, window=8), rtol=1e-5, atol=1e-7)


def test_before_the_window_values_are_those_of_top_k_and_order_is_kept():
    x, keep = normal(BATCH, UNITS), jax.jit(top_k)
    y = soft(x, 10.0, window=6)
    np.testing.assert_array_equal(keep(y, 7), keep(x, 7))
    assert not np.any(np.where(np.asarray(keep(x, 13)) == 0, y, 0))


def test_of_tied_units_the_first_rank_first_and_nan_and_infinity_rank_as_in_top_k():
    y = soft(jnp.array([2.0, 1.0, 2.0, 2.0, 2.0, 0.0]), 2.0, window=2)
    assert y[0] == 2 and 1.9 < y[2] < 2 and 0 < y[3] < 0.1 and y[4] == y[1] == y[5] == 0
    row, upstream = jnp.array([1.0, jnp.nan, jnp.inf, -jnp.inf, 0.5, -1.0]), jnp.array([1.0, 0.0, 1.0, 1.0, 1.0, 1.0])

    @jax.jit
    def both(x, k):
        y, backward = jax.vjp(lambda x, k: soft_top_k(x, k, window=2), x, k)
        return y, backward(upstream)[0]

    y, gradient = map(np.asarray, both(row, 3.0))
    assert np.isnan(y[1]) and np.isposinf(y[2]) and 0.9 < y[0] < 1 and 0 < y[4] < 0.1 and y[3] == y[5] == 0
    assert np.isfinite(gradient).all()


def test_each_row_may_have_its_own_k():
    x, ks = normal(BATCH, UNITS), np.array([0.0, 3.3, 20.5, 40.0], np.float32)
    together = soft(x, ks, window=8)
    for i in range(BATCH):
        np.testing.assert_allclose(together[i], soft(x[i], ks[i], window=8), rtol=1e-6)
    mapped = jax.jit(jax.vmap(lambda row, k: soft_top_k(row, k, window=8)))(x, ks)
    np.testing.assert_allclose(mapped, together, rtol=1e-6)
    np.testing.assert_allclose(soft(x.reshape(2, 2, UNITS), ks.reshape(2, 2), window=8).reshape(BATCH, UNITS), together)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_keeps_its_type(dtype):
    x = np.asarray(normal(BATCH, UNITS)).astype(dtype)
    y = soft(x, 7.3, window=8)
    assert y.dtype == dtype
    single = soft(x.astype(np.float32), 7.3, window=8)
    np.testing.assert_allclose(np.asarray(y, np.float32), single, rtol=2e-2, atol=1e-2)


def test_k_is_learned_by_descent():
    x = jnp.arange(40.0, 0.0, -1.0) / 40
    target = jnp.where(jnp.arange(40) < 12, x, 0.0)

    def step(k, _):
        return k - 10 * jax.grad(lambda k: jnp.sum((soft_top_k(x, k, window=10) - target) ** 2))(k), None

    learn = jax.jit(lambda k: lax.scan(step, k, length=200)[0])
    for start in (4.1, 30.1):
        assert abs(learn(start) - 12) < 1


def test_samples_are_log_normal_cut_to_the_units_and_belong_to_their_rows():
    keys = drawn_keys(jax.random.key(0), np.arange(4000))
    k, log_p = sample(keys, 3.0, 0.4, 10_000)
    assert k.dtype == jnp.int32 and k.shape == log_p.shape == (4000,)
    assert abs(np.log(k).mean() - 3.0) < 4 * 0.4 / np.sqrt(4000) + 1e-2
    assert abs(np.log(k).std() - 0.4) < 0.03
    again, density = sample(keys[100:110], 3.0, 0.4, 10_000)
    np.testing.assert_array_equal(again, k[100:110])
    np.testing.assert_allclose(density, log_p[100:110], rtol=1e-5)
    cut, density = sample(keys, 3.0, 3.0, 30)
    assert cut.min() == 1 and cut.max() == 30
    assert len(np.unique(density)) > 3900  # the density is that of the draw before clipping


def test_the_estimator_is_unbiased_and_a_baseline_lowers_its_variance():
    mu, sigma = np.float32(5.0), np.float32(0.3)
    k, _ = sample(drawn_keys(jax.random.key(1), np.arange(20_000)), mu, sigma, 100_000)
    loss = np.log(np.asarray(k, np.float32))  # its mean is mu, but for rounding k: the gradient to mu is 1
    noise = (loss - mu) / sigma

    def one(noise, loss, baseline):
        return jax.grad(lambda mu: reinforce_loss(_k_of_noise(noise[None], mu, sigma, 100_000)[1], loss, baseline))(mu)

    spread, gradients = [], jax.jit(jax.vmap(one, in_axes=(0, 0, None)))
    for baseline in (0.0, 5.0):
        each = np.asarray(gradients(noise, loss[:, None], baseline), np.float64)
        assert abs(each.mean() - 1) < 4 * each.std() / np.sqrt(each.size)
        spread.append(each.std())
    assert spread[1] < spread[0] / 5


def test_k_is_learned_by_sampling():
    target, key, sigma = np.log(np.float32(20.0)), jax.random.key(0), 0.3

    def step(carry, i):
        mu, baseline = carry

        def surrogate(mu):
            k, log_p = sampled_k(jax.random.split(jax.random.fold_in(key, i), 64), mu, sigma, 200)
            loss = (jnp.log(k.astype(jnp.float32)) - target) ** 2
            return reinforce_loss(log_p, loss, baseline), loss

        gradient, loss = jax.grad(surrogate, has_aux=True)(mu)
        return (mu - 0.05 * gradient, update_reinforce_baseline(baseline, loss)), None

    learn = jax.jit(lambda mu: lax.scan(step, (mu, jnp.float32(1.0)), jnp.arange(300))[0])
    for start in (1.5, 4.5):
        mu, baseline = learn(start)
        assert abs(mu - target) < 0.15
        np.testing.assert_allclose(baseline, sigma**2, atol=0.04)


def test_the_running_baseline_keeps_what_decay_says_and_no_gradient():
    loss = jnp.array([1.0, 3.0])
    np.testing.assert_allclose(update_reinforce_baseline(4.0, loss, decay=0.75), 3.5)
    assert not np.any(jax.jit(jax.grad(lambda loss: update_reinforce_baseline(4.0, loss)))(loss))
    spread = jax.vmap(lambda part: update_reinforce_baseline(4.0, part, decay=0.75, axis_name="d"), axis_name="d")
    np.testing.assert_allclose(spread(loss[:, None]), [3.5, 3.5])


@pytest.mark.parametrize(
    ("n", "k_min", "epochs"), [(1000, 10, 100), (784, 100, 50), (7, 3, 20), (40, 40, 5), (9, 1, 1)]
)
def test_schedules_truncate_the_formula(n, k_min, epochs):
    epoch = np.arange(epochs + 5)
    t = np.minimum(epoch / epochs, 1.0)
    linear = schedule(epoch, n=n, k_min=k_min, epochs=epochs)
    np.testing.assert_array_equal(linear, np.floor(n - (n - k_min) * t + 1e-9))
    falling = schedule(epoch, n=n, k_min=k_min, epochs=epochs, kind="exponential")
    np.testing.assert_array_equal(falling, np.floor(n * (k_min / n) ** t + 1e-9))
    for kind in ("linear", "exponential"):
        for e in (0, 1, epochs, 10**6):
            alone = k_schedule(e, n=n, k_min=k_min, epochs=epochs, kind=kind)
            assert alone.dtype == jnp.int32
            assert alone == (n if e == 0 else k_min if e >= epochs else (linear, falling)[kind != "linear"][e])


def test_a_long_schedule_of_many_units_does_not_overflow():
    k = schedule(np.array([0, 23_170, 46_339, 46_340]), n=2_000_000, k_min=1, epochs=46_340)
    np.testing.assert_array_equal(k, [2_000_000, 1_000_000, 44, 1])


def test_subtracting_by_hand():
    x = np.array([[5.0, 1.0, 3.0, 4.0], [2.0, 2.0, 2.0, 1.0], [-1.0, -2.0, -4.0, -3.0]], np.float32)
    np.testing.assert_array_equal(subtract(x, 3), [[2, 0, 0, 1], [0, 0, 0, 0], [2, 1, 0, 0]])
    np.testing.assert_array_equal(subtract(np.maximum(x, 0), 3)[2], np.zeros(4))
    np.testing.assert_array_equal(subtract(x, 1), np.zeros((3, 4)))
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(top_k_subtract(x, 3))))(x)
    np.testing.assert_array_equal(gradient, [[1, 0, 0, 1], [0, 0, 0, 0], [1, 1, 0, 0]])


@given(
    x=hnp.arrays(np.float32, (3, 9), elements=st.floats(-100, 100, width=32, allow_subnormal=False)),
    k=st.integers(1, 9),
)
def test_fewer_than_k_survive_a_subtraction_and_they_are_winners(x, k):
    y = np.asarray(subtract(x, k))
    assert np.all(np.count_nonzero(y, axis=-1) <= k - 1)
    kth = np.sort(x, axis=-1)[:, -k, None]
    np.testing.assert_array_equal(y, np.maximum(x - kth, 0))


def test_each_row_may_subtract_at_its_own_k():
    x, ks = normal(BATCH, UNITS), np.array([1, 5, 17, 40])
    together = subtract(x, ks)
    for i in range(BATCH):
        np.testing.assert_array_equal(together[i], subtract(x[i], ks[i]))
    np.testing.assert_array_equal(jax.jit(jax.vmap(top_k_subtract))(x, ks), together)
    np.testing.assert_array_equal(top_k_subtract(x, jnp.asarray(ks)), together)
    np.testing.assert_array_equal(np.count_nonzero(together, axis=-1), ks - 1)


ROW = jnp.ones((2, 8))


@pytest.mark.wrong_types
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: soft_top_k(ROW, 3.0, window=1), "window is 1, but a row has 8 units"),
        (lambda: soft_top_k(ROW, 3.0, window=9), "window is 9"),
        (lambda: soft_top_k(ROW, 3.0, window=2.5), "window is 2.5"),
        (lambda: soft_top_k(ROW, jnp.ones(3), window=2), r"k has shape \(3,\); expected \(\) or one k per row, \(2,\)"),
        (lambda: sampled_k(jax.random.split(jax.random.key(0)), 1.0, 1.0, 0), "n is 0"),
        (lambda: sampled_k(jax.random.split(jax.random.key(0)), 1.0, 0.0, 9), "sigma is 0.0"),
        (lambda: reinforce_loss(jnp.ones(3), jnp.ones(2), 0.0), "There are 3 of log_p and 2 of loss"),
        (lambda: update_reinforce_baseline(0.0, jnp.ones(3), decay=1.5), "decay is 1.5"),
        (lambda: k_schedule(0, n=5, k_min=6, epochs=3), "k_min is 6, but the layer has 5 units"),
        (lambda: k_schedule(0, n=5, k_min=0, epochs=3), "k_min is 0"),
        (lambda: k_schedule(0, n=5, k_min=2, epochs=0), "epochs is 0"),
        (lambda: k_schedule(0, n=5, k_min=2, epochs=3, kind="cosine"), "kind is 'cosine'"),
        (lambda: top_k_subtract(ROW, 9), "k is 9, but a row has 8 units"),
        (lambda: top_k_subtract(ROW, 0), "k is 0"),
    ],
)
def test_bad_arguments_are_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()
