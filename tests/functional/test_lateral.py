"""Explaining away and the inhibitory interneuron, against an explicit loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from sparsejax.functional import explain_away, inhibitory_interneuron
from tests.functional.drawn import normal

BATCH, UNITS = 4, 7
STATIC = ("steps", "zero_diagonal", "only_inhibitory")

settle = jax.jit(explain_away, static_argnames=STATIC)
interneuron = jax.jit(inhibitory_interneuron, static_argnames=("steps", "rectified"))


def written_out(drive, lateral, steps, gamma, only_inhibitory=False):
    drive, lateral = np.asarray(drive, np.float64), np.asarray(lateral, np.float64)
    mu = drive
    for _ in range(steps):
        received = np.maximum(mu, 0) @ lateral.T
        mu = mu + gamma * (drive - (np.maximum(received, 0) if only_inhibitory else received) - mu)
    return np.maximum(mu, 0)


def example():
    return normal(BATCH, UNITS), jnp.asarray(np.float32(0.3) * normal(UNITS, UNITS, seed=1))


def weights_of_the_interneuron():
    return map(jnp.asarray, np.float32(0.4) * np.asarray(normal(2, UNITS, seed=2)))


@pytest.mark.parametrize(("steps", "gamma"), [(0, 1.0), (1, 0.3), (5, 0.5)])
@pytest.mark.parametrize("only_inhibitory", [False, True])
def test_it_is_the_loop_of_the_paper(steps, gamma, only_inhibitory):
    drive, lateral = example()
    y = settle(drive, lateral, steps=steps, gamma=gamma, only_inhibitory=only_inhibitory)
    np.testing.assert_allclose(y, written_out(drive, lateral, steps, gamma, only_inhibitory), rtol=1e-5, atol=1e-6)


def test_no_step_and_no_lateral_weight_are_a_relu_layer():
    drive, lateral = example()
    rectified = np.maximum(drive, 0)
    np.testing.assert_array_equal(settle(drive, lateral, steps=0), rectified)
    np.testing.assert_array_equal(settle(drive, np.zeros_like(lateral), steps=3, gamma=1.0), rectified)
    np.testing.assert_array_equal(settle(drive, lateral, steps=3, gamma=0.0), rectified)


def test_two_redundant_units_inhibit_each_other_by_hand():
    lateral = jnp.array([[0.0, 0.5], [1.0, 0.0]])
    np.testing.assert_allclose(settle(jnp.array([1.0, 0.8]), lateral), [1 - 0.5 * 0.8, 0])
    np.testing.assert_allclose(settle(jnp.array([1.0, 0.8]), lateral, steps=2), [1, 0.8 - 0.6], rtol=1e-6)


def test_many_small_steps_reach_the_fixed_point():
    drive, lateral = map(np.asarray, example())
    lateral = np.float32(0.3) * lateral
    y = np.asarray(settle(drive, lateral, steps=100, gamma=0.5))
    np.testing.assert_allclose(y, np.maximum(drive - y @ lateral.T, 0), atol=1e-5)


def test_without_the_diagonal_no_unit_acts_on_itself():
    drive, lateral = example()
    y = settle(drive, lateral, steps=2, zero_diagonal=True)
    without = np.where(np.eye(UNITS, dtype=bool), np.float32(0), lateral)
    np.testing.assert_array_equal(y, settle(drive, without, steps=2))
    gradient = jax.jit(jax.grad(lambda g: jnp.sum(explain_away(drive, g, steps=2, zero_diagonal=True))))(lateral)
    assert not np.any(np.diag(gradient)) and np.any(gradient)


@pytest.mark.parametrize("gamma", [0.4, 1.0])
def test_inhibition_alone_raises_no_unit_above_its_drive(gamma):
    drive, lateral = map(np.asarray, example())
    y = settle(drive, 3 * lateral, steps=4, gamma=gamma, only_inhibitory=True)
    assert np.all(y <= np.maximum(drive, 0) + 1e-6)
    assert np.any(settle(drive, 3 * lateral, steps=4, gamma=gamma) > np.maximum(drive, 0))


@pytest.mark.parametrize(("steps", "gamma"), [(1, 1.0), (3, 0.5)])
def test_a_linear_interneuron_is_explaining_away_of_rank_one(steps, gamma):
    drive, _ = example()
    gather, scatter = weights_of_the_interneuron()
    y = interneuron(drive, gather, scatter, steps=steps, gamma=gamma)
    full = settle(drive, np.outer(scatter, gather), steps=steps, gamma=gamma)
    np.testing.assert_allclose(y, full, rtol=1e-5, atol=1e-6)
    biased = interneuron(drive, gather, scatter, jnp.float32(0.7))
    received = np.outer(np.maximum(drive, 0) @ np.asarray(gather) + np.float32(0.7), scatter)
    np.testing.assert_allclose(biased, np.maximum(drive - received, 0), rtol=1e-5, atol=1e-6)


def test_an_inactive_rectified_interneuron_does_not_inhibit():
    drive, _ = example()
    gather, scatter = jnp.ones(UNITS, jnp.float32), jnp.ones(UNITS, jnp.float32)
    y = interneuron(drive, gather, scatter, jnp.float32(-1e3), rectified=True)
    np.testing.assert_array_equal(y, np.maximum(drive, 0))


def test_gradients_pass_through_all_steps():
    drive, lateral = example()
    gather, scatter = weights_of_the_interneuron()
    settled = jax.jit(lambda d, g, r: explain_away(d, g, steps=3, gamma=r))
    check_grads(settled, (drive, lateral, jnp.float32(0.6)), 1, eps=1e-3, rtol=2e-2)
    inhibited = jax.jit(lambda *a: inhibitory_interneuron(*a, steps=3, gamma=0.6, rectified=True))
    check_grads(inhibited, (drive, gather, scatter, jnp.float32(0.2)), 1, ("rev",), eps=1e-3, rtol=2e-2)


def test_jit_vmap_batch_axes_and_traced_gamma_change_nothing():
    drive, lateral = example()
    plain = explain_away(drive, lateral, steps=3, gamma=0.5)
    np.testing.assert_allclose(settle(drive, lateral, steps=3, gamma=jnp.float32(0.5)), plain, rtol=1e-6, atol=1e-6)
    rows = jax.jit(jax.vmap(lambda row: explain_away(row, lateral, steps=3, gamma=0.5)))
    np.testing.assert_allclose(rows(drive), plain, rtol=1e-6, atol=1e-6)
    folded = settle(drive.reshape(2, 2, UNITS), lateral, steps=3, gamma=0.5)
    np.testing.assert_allclose(folded.reshape(BATCH, UNITS), plain, rtol=1e-6, atol=1e-6)
    gather, scatter = weights_of_the_interneuron()
    ours = inhibitory_interneuron(drive, gather, scatter, steps=2)
    rows = jax.jit(jax.vmap(lambda row: inhibitory_interneuron(row, gather, scatter, steps=2)))
    np.testing.assert_allclose(rows(drive), ours, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(interneuron(drive.reshape(2, 2, UNITS), gather, scatter, steps=2).reshape(BATCH, UNITS),
                               ours, rtol=1e-6, atol=1e-6)  # fmt: skip


def test_members_of_a_vmap_have_their_own_weights_and_gamma():
    drive, laterals = normal(BATCH, UNITS), jnp.asarray(np.float32(0.3) * normal(3, UNITS, UNITS))
    gammas = jnp.array([0.2, 0.5, 1.0])
    together = jax.jit(jax.vmap(lambda g, r: explain_away(drive, g, steps=2, gamma=r)))(laterals, gammas)
    for i in range(3):
        np.testing.assert_allclose(together[i], settle(drive, laterals[i], steps=2, gamma=gammas[i]), atol=1e-6)


def test_half_precision_keeps_its_type():
    drive, lateral = (np.asarray(a).astype(jnp.bfloat16) for a in example())
    y = settle(drive, lateral, steps=2, gamma=jnp.float32(0.5))
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(y, np.float32), written_out(drive, lateral, 2, 0.5), atol=0.05)


def test_no_output_row_depends_on_another():
    drive, lateral = example()
    spoilt = np.array(drive)
    spoilt[1:] = np.nan
    changed = settle(spoilt, lateral, steps=2)
    np.testing.assert_array_equal(changed[0], settle(drive, lateral, steps=2)[0])
    assert np.isnan(changed[1:]).all()


ROW, SQUARE, ONES = jnp.ones((2, 4)), jnp.ones((4, 4)), jnp.ones(4)


@pytest.mark.wrong_types
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: explain_away(ROW, jnp.ones((4, 3))), r"lateral has shape \(4, 3\), but drive has 4 units"),
        (lambda: explain_away(ROW, SQUARE, steps=-1), "steps is -1"),
        (lambda: explain_away(ROW, SQUARE, steps=1.5), "steps is 1.5"),
        (lambda: explain_away(ROW, SQUARE, gamma=-0.1), "gamma is -0.1"),
        (lambda: explain_away(ROW, SQUARE, gamma=float("nan")), "gamma is nan"),
        (lambda: inhibitory_interneuron(ROW, jnp.ones(3), ONES), r"gather has shape \(3,\), but drive has 4"),
        (lambda: inhibitory_interneuron(ROW, ONES, jnp.ones((4, 1))), r"scatter has shape \(4, 1\)"),
        (lambda: inhibitory_interneuron(ROW, ONES, ONES, jnp.ones(1)), r"bias has shape \(1,\)"),
    ],
)
def test_bad_arguments_are_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()
