"""k-winners with boosting: the winners, the outputs, and the duty cycles."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sparsejax.functional import (
    BoostState,
    boost,
    inference_k,
    init_boost_state,
    k_winners,
    k_winners_2d,
    sparse_top_k,
    top_k,
    update_boost_state,
)
from tests.functional.drawn import normal, uniform

UNITS, BATCH = 10, 6
DUTY = jnp.array([0.0, 0.1, 0.9, 0.2, 0.5, 0.0, 0.3, 1.0, 0.1, 0.7])
STATE = BoostState(DUTY, jnp.float32(1000))

keep = jax.jit(k_winners, static_argnames=("ties", "relu"))
keep_2d = jax.jit(k_winners_2d, static_argnames=("local", "ties", "relu"))
update = jax.jit(update_boost_state, static_argnames="period")


@pytest.mark.parametrize(
    ("strength", "kept"),
    [
        (0.0, [0, 0, 1, 1]),  # 1.0, 1.1, 1.2, 1.3 as they are
        (0.2, [0, 1, 0, 1]),  # 1.0, 1.1, 1.2 e^-.2 = 0.98, 1.3 e^-.1 = 1.18
        (1.0, [1, 1, 0, 0]),  # 1.0, 1.1, 0.44, 0.79
    ],
)
def test_boosting_favours_idle_units_and_outputs_their_own_value(strength, kept):
    x = jnp.array([1.0, 1.1, 1.2, 1.3], jnp.float32)
    state = BoostState(jnp.array([0.0, 0.0, 1.0, 0.5]), jnp.float32(1000))
    np.testing.assert_array_equal(keep(x, state, k=2, boost_strength=strength), x * np.array(kept, np.float32))


def test_boosted_values_are_those_of_the_formula():
    x = normal(BATCH, UNITS)
    expected = np.asarray(x) * np.exp(1.5 * (0.3 - np.asarray(DUTY)))
    np.testing.assert_allclose(jax.jit(boost)(x, STATE, 0.3, 1.5), expected, rtol=1e-6)


@pytest.mark.parametrize("ties", ["all", "first"])
def test_without_boost_and_with_equal_duty_cycles_it_is_top_k(ties):
    x = np.round(2 * normal(BATCH, UNITS))
    expected = jax.jit(top_k, static_argnames="ties")(x, 3, ties=ties)
    np.testing.assert_array_equal(keep(x, STATE, k=3, boost_strength=0.0, ties=ties), expected)
    level = init_boost_state(UNITS)
    np.testing.assert_array_equal(keep(x, level, k=3, boost_strength=4.0, ties=ties), expected)


def test_boosting_is_reversed_on_negative_values():
    x = jnp.array([-1.0, -1.1])
    busy_second = BoostState(jnp.array([0.0, 1.0]), jnp.float32(1000))
    np.testing.assert_array_equal(keep(x, busy_second, k=1, boost_strength=1.0), jnp.array([0.0, -1.1]))


@pytest.mark.parametrize("ties", ["all", "first"])
def test_relu_drops_winners_that_are_not_positive_but_not_nan(ties):
    x = jnp.array([[-1.0, 0.0, 2.0, -3.0], [-1.0, -2.0, -3.0, -4.0], [jnp.nan, 1.0, -1.0, -0.0]])
    expected = np.array([[0, 0, 2, 0], [0, 0, 0, 0], [np.nan, 1, 0, 0]], np.float32)
    np.testing.assert_array_equal(keep(x, init_boost_state(4), k=3, ties=ties, relu=True), expected)


def test_relu_stops_the_gradient_of_winners_that_are_not_positive():
    x = jnp.array([-1.0, 0.0, 2.0, -3.0])
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(k_winners(x, init_boost_state(4), k=3, relu=True))))(x)
    np.testing.assert_array_equal(gradient, [0, 0, 1, 0])


def test_the_gradient_is_one_on_winners_and_none_passes_the_boost():
    x, upstream = normal(2, BATCH, UNITS)

    def loss(x, duty_cycle, strength):
        state = BoostState(duty_cycle, jnp.float32(1000))
        return jnp.sum(upstream * k_winners(x, state, k=4, boost_strength=strength, ties="first"))

    by_x, by_duty, by_strength = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(x, DUTY, 1.5)
    won = np.asarray(keep(x, STATE, k=4, boost_strength=1.5, ties="first")) != 0
    np.testing.assert_array_equal(by_x, np.where(won, upstream, 0))
    assert won.sum() == 4 * BATCH
    assert not np.any(by_duty) and by_strength == 0


@pytest.mark.parametrize("ties", ["all", "first"])
def test_jit_vmap_and_traced_hyperparameters_change_nothing(ties):
    x = normal(BATCH, UNITS)
    plain = k_winners(x, STATE, k=3, boost_strength=1.5, ties=ties)
    rows = jax.jit(jax.vmap(lambda row: k_winners(row, STATE, k=3, boost_strength=1.5, ties=ties)))
    np.testing.assert_array_equal(keep(x, STATE, k=jnp.int32(3), boost_strength=jnp.float32(1.5), ties=ties), plain)
    np.testing.assert_array_equal(rows(x), plain)
    np.testing.assert_array_equal(keep(x.reshape(2, 3, UNITS), STATE, k=3, boost_strength=1.5, ties=ties),
                                  plain.reshape(2, 3, UNITS))  # fmt: skip


def test_members_of_a_vmap_have_their_own_k_strength_and_state():
    x = normal(3, BATCH, UNITS)
    states = BoostState(uniform(3, UNITS), jnp.full(3, 1000.0))
    ks, strengths = jnp.array([0, 4, 10]), jnp.array([0.0, 1.0, 2.0])
    step = lambda x, state, k, b: k_winners(x, state, k=k, boost_strength=b)  # noqa: E731
    together = jax.jit(jax.vmap(step))(x, states, ks, strengths)
    for i in range(3):
        alone = keep(x[i], jax.tree.map(lambda leaf, i=i: leaf[i], states), k=ks[i], boost_strength=strengths[i])
        np.testing.assert_array_equal(together[i], alone)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_keeps_its_type_and_at_least_k(dtype):
    x = np.asarray(normal(BATCH, UNITS)).astype(dtype)
    first = keep(x, STATE, k=4, boost_strength=1.5, ties="first")
    assert first.dtype == dtype
    assert (np.sum(np.asarray(first) != 0, axis=-1) == 4).all()
    every = keep(x, STATE, k=4, boost_strength=1.5, ties="all")
    assert (np.sum(np.asarray(every) != 0, axis=-1) >= 4).all()


def test_no_output_row_depends_on_another():
    x = np.array(normal(BATCH, UNITS))
    y = keep(x, STATE, k=3, boost_strength=1.5, ties="first")
    x[1:] = np.nan
    changed = keep(x, STATE, k=3, boost_strength=1.5, ties="first")
    np.testing.assert_array_equal(changed[0], y[0])


@pytest.mark.parametrize("ties", ["all", "first"])
def test_images_compete_over_all_positions_and_channels(ties):
    x = normal(BATCH, 3, 4, 5)
    state = BoostState(np.asarray(DUTY)[:5], jnp.float32(1000))
    flat = BoostState(np.tile(np.asarray(DUTY)[:5], 12), jnp.float32(1000))
    y = keep_2d(x, state, k=7, boost_strength=1.5, ties=ties)
    np.testing.assert_array_equal(
        y.reshape(BATCH, -1), keep(x.reshape(BATCH, -1), flat, k=7, boost_strength=1.5, ties=ties)
    )
    np.testing.assert_array_equal(keep_2d(x[2], state, k=7, boost_strength=1.5, ties=ties), y[2])
    assert (np.count_nonzero(y, axis=(1, 2, 3)) == 7).all()


def test_with_local_the_channels_of_each_position_compete():
    x = normal(BATCH, 3, 4, 5)
    state = BoostState(np.asarray(DUTY)[:5], jnp.float32(1000))
    y = keep_2d(x, state, k=2, boost_strength=1.5, local=True)
    np.testing.assert_array_equal(y, keep(x, state, k=2, boost_strength=1.5))
    assert (np.count_nonzero(y, axis=-1) == 2).all()


def test_images_with_equal_values_keep_the_first_in_row_major_order():
    y = keep_2d(jnp.ones((1, 2, 2, 2)), init_boost_state(2), k=3, ties="first")
    np.testing.assert_array_equal(y.reshape(-1), [1, 1, 1, 0, 0, 0, 0, 0])


def test_a_sparse_code_gives_the_same_counts():
    x = np.asarray(normal(6, 20)) - np.float32(1.5)  # so that some winners are negative, and do not count
    state = BoostState(np.linspace(0, 1, 20, dtype=np.float32), jnp.float32(30))

    @jax.jit
    def updates(x, state):
        winners = sparse_top_k(x, 4), top_k(x, 4, ties="first")
        return tuple(update_boost_state(state, y, period=40) for y in winners)

    ours, dense = updates(x, state)
    assert ours.samples == dense.samples == 36
    np.testing.assert_allclose(ours.duty_cycle, dense.duty_cycle, rtol=1e-6)


def test_the_duty_cycle_is_the_mean_over_all_examples_until_the_period_is_full():
    y = np.asarray(normal(40, UNITS))
    whole = update(init_boost_state(UNITS), y, period=40)
    np.testing.assert_allclose(whole.duty_cycle, np.mean(np.asarray(y) > 0, axis=0), rtol=1e-6)
    state = init_boost_state(UNITS)
    for part in np.split(y, 4):
        state = update(state, part, period=40)
    np.testing.assert_allclose(state.duty_cycle, whole.duty_cycle, rtol=1e-6)
    assert state.samples == whole.samples == 40


def test_with_a_full_period_the_old_average_decays():
    state = BoostState(jnp.array([0.5, 1.0]), jnp.float32(5000))
    new = update(state, jnp.array([[1.0, -1.0], [1.0, 0.0]]), period=10)
    np.testing.assert_allclose(new.duty_cycle, [(0.5 * 8 + 2) / 10, (1.0 * 8 + 0) / 10], rtol=1e-6)
    assert new.samples == 5002


def test_a_batch_larger_than_the_period_replaces_the_average_by_its_own():
    state = BoostState(jnp.array([0.9, 0.1]), jnp.float32(100))
    new = update(state, jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0], [1.0, 1.0]]), period=3)
    np.testing.assert_allclose(new.duty_cycle, [0.75, 0.25], rtol=1e-6)


def test_only_positive_winners_count():
    y = jnp.array([[1.0, -1.0, 0.0, -0.0, jnp.inf, -jnp.inf, jnp.nan]])
    new = update(init_boost_state(7), y)
    np.testing.assert_array_equal(new.duty_cycle, [1, 0, 0, 0, 1, 0, 0])


def test_a_channel_counts_the_fraction_of_positions_it_won():
    y = np.zeros((2, 2, 2, 3), np.float32)
    y[0, 0, 0, 0] = y[1, :, :, 1] = 1
    new = update(init_boost_state(3), y)
    np.testing.assert_allclose(new.duty_cycle, [1 / 8, 4 / 8, 0], rtol=1e-6)
    assert new.samples == 2


def test_no_gradient_passes_the_state():
    y = normal(BATCH, UNITS)
    gradient = jax.jit(jax.grad(lambda y: jnp.sum(update_boost_state(STATE, y).duty_cycle)))(y)
    assert not np.any(gradient)


@given(
    batches=hnp.arrays(np.float32, (3, 5, 4), elements=st.sampled_from([-1.0, 0.0, 1.0])),
    duty=hnp.arrays(np.float32, (4,), elements=st.floats(0, 1, width=32, allow_subnormal=False)),
    period=st.sampled_from([1, 7, 1000]),
    samples=st.sampled_from([0.0, 3.0, 1e6]),
)
def test_duty_cycles_stay_fractions(batches, duty, period, samples):
    state = BoostState(jnp.asarray(duty), jnp.float32(samples))
    for y in batches:
        state = update(state, jnp.asarray(y), period=period)
        assert np.all((state.duty_cycle >= 0) & (state.duty_cycle <= 1 + 1e-6))


@pytest.mark.parametrize(
    ("k", "factor", "units", "expected"),
    [(100, 1.5, 700, 150), (5, 1.5, 100, 8), (3, 1.5, 100, 4), (90, 1.5, 100, 100), (4, 0.5, 12, 2), (7, 1.0, 9, 7)],
)
def test_k_at_inference_is_rounded_half_to_even_and_at_most_all(k, factor, units, expected):
    found = inference_k(k, factor, units)
    assert found == expected and found.dtype == jnp.int32
    assert jax.jit(inference_k, static_argnums=2)(k, factor, units) == expected


@pytest.mark.wrong_types
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: k_winners(jnp.ones((2, 4)), init_boost_state(5), k=2), "has 5 units, but x has 4"),
        (lambda: k_winners(jnp.ones((2, 5)), init_boost_state(5), k=6), "k is 6, but a row has 5 units"),
        (lambda: k_winners(jnp.ones((2, 5)), init_boost_state(5), k=2, boost_strength=-0.5), "boost_strength is -0.5"),
        (lambda: k_winners(jnp.ones((2, 5)), init_boost_state(5), k=2, boost_strength=float("nan")), "is nan"),
        (lambda: k_winners(jnp.ones((2, 5)), init_boost_state(5), k=2, ties="none"), "ties is 'none'"),
        (lambda: k_winners_2d(jnp.ones((4, 5)), init_boost_state(5), k=2), r"x has shape \(4, 5\)"),
        (lambda: k_winners_2d(jnp.ones((4, 4, 5)), init_boost_state(4), k=2), "has 4 units, but x has 5"),
        (lambda: k_winners_2d(jnp.ones((2, 2, 5)), init_boost_state(5), k=21), "k is 21, but a row has 20 units"),
        (lambda: k_winners_2d(jnp.ones((2, 2, 5)), init_boost_state(5), k=6, local=True), "k is 6"),
        (lambda: init_boost_state(0), "units is 0"),
        (lambda: update_boost_state(init_boost_state(5), jnp.ones((2, 4))), r"\(2, 4\), but the state has 5"),
        (lambda: update_boost_state(init_boost_state(5), jnp.ones(5)), r"y has shape \(5,\)"),
        (lambda: update_boost_state(init_boost_state(5), jnp.ones((2, 5)), period=0), "period is 0"),
    ],
)
def test_bad_arguments_are_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()
