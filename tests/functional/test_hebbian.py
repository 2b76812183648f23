"""The parts of a Hebbian/anti-Hebbian block by hand, and by their properties."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from sparsejax.functional import (
    adaptive_threshold,
    conv2d,
    conv2d_twice,
    divisive_norm,
    hebbian_cost,
    mean_threshold,
    unit_norm,
)
from tests.functional.drawn import normal, uniform

normed = jax.jit(divisive_norm, static_argnames="pool")


def test_divisive_normalisation_by_hand():
    y = jnp.array([[[[1.0, 3.0]], [[4.0, 0.0]]]])  # two positions, of mean 2 each
    np.testing.assert_allclose(divisive_norm(y, sigma=0.5, pool=1), y / 2, rtol=1e-6)
    np.testing.assert_allclose(normed(y, sigma=0.5, pool=1), y / 2, rtol=1e-6)
    dim = jnp.array([[[[1.0, 3.0]], [[0.4, 0.0]]]])  # the second is ten times as dim, and is suppressed
    np.testing.assert_allclose(normed(dim, sigma=0.5, pool=1)[0, 1, 0], [0.4 / 1.1, 0], rtol=1e-6)
    silent = jnp.zeros((1, 3, 3, 2))
    value, gradient = jax.jit(jax.value_and_grad(lambda y: divisive_norm(jax.nn.relu(y)).sum()))(silent)
    assert value == 0 and np.isfinite(gradient).all()


def test_the_greatest_around_is_that_of_reduce_window():
    y = uniform(2, 6, 5, 3)
    for pool in (3, 5):
        around = lax.reduce_window(y, -jnp.inf, lax.max, (1, pool, pool, 1), (1, 1, 1, 1), "SAME")
        expected = y / (np.mean(around, axis=-1, keepdims=True) + np.float32(1e-7))
        np.testing.assert_allclose(normed(y, sigma=0.0, pool=pool), expected, rtol=1e-6)


def test_equal_values_fall_together_and_nan_stays():
    z, cut = (
        jnp.array([1.0, 2.0, 2.0, 2.0, 5.0]).reshape(1, 5, 1, 1),
        jax.jit(adaptive_threshold, static_argnames="keep"),
    )
    np.testing.assert_array_equal(cut(z, keep=0.4)[0, :, 0, 0], [0, 0, 0, 0, 5])
    few = jnp.array([0.0, 1.0, 0.0, 0.0, 0.0]).reshape(1, 5, 1, 1)
    np.testing.assert_array_equal(cut(few, keep=0.4), few)
    np.testing.assert_array_equal(cut(z, keep=1.0), z)
    np.testing.assert_array_equal(cut(z, keep=0.8)[0, :, 0, 0], [0, 2, 2, 2, 5])  # 1 - 0.8 < 1 / 5
    for threshold in (functools.partial(cut, keep=0.4), mean_threshold):
        assert np.isnan(threshold(z.at[0, 1].set(jnp.nan))).any()


def test_the_mean_threshold_by_hand_and_without_gradient():
    z = jnp.array([1.0, 2.0, 3.0, 6.0]).reshape(1, 2, 2, 1)
    np.testing.assert_array_equal(mean_threshold(z).ravel(), [0, 0, 0, 6])
    np.testing.assert_array_equal(mean_threshold(z, factor=0.5).ravel(), [0, 2, 3, 6])
    np.testing.assert_array_equal(jax.jit(jax.grad(lambda z: mean_threshold(z).sum()))(z).ravel(), [0, 0, 0, 1])


@pytest.mark.parametrize(("neurons", "promoted"), [(2, 0.1), (5, 0.4), (12, 0.26), (12, 0.9)])
def test_the_cost_is_that_of_sorted_activations(neurons, promoted):
    cost = jax.jit(functools.partial(hebbian_cost, promoted=promoted))
    for seed, demote in enumerate((0.0, 0.1, 1.7)):
        k = int(np.ceil(promoted * neurons))
        y = np.random.default_rng(seed).exponential(size=(3, 2, neurons)).astype(np.float32)
        order = -np.sort(-y, -1)
        expected = (order[..., :k].mean(-1) - demote * order[..., k:].mean(-1)).mean()
        np.testing.assert_allclose(cost(y, demote=demote), expected, atol=1e-5)


def test_a_layers_own_cost_moves_its_kernel_alone():
    x, kernel = normal(2, 6, 6, 3), normal(3, 3, 3, 20)

    def loss(x, kernel, convolve):
        passed, local = convolve(x, unit_norm(kernel))
        return jnp.sum(jnp.tanh(passed)) - hebbian_cost(jax.nn.relu(local), demote=0.5)

    def by_stopping(x, kernel):
        return conv2d(x, kernel), conv2d(lax.stop_gradient(x), kernel)

    gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)), static_argnums=2)
    got, expected = gradients(x, kernel, conv2d_twice), gradients(x, kernel, by_stopping)
    for ours, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_unit_norm_has_length_1_and_no_gradient_along_itself():
    kernel = np.array(normal(3, 3, 4, 5))
    kernel[..., 2] = 0
    unit = np.asarray(unit_norm(jnp.asarray(kernel)))
    np.testing.assert_allclose(np.linalg.norm(unit.reshape(-1, 5), axis=0), [1, 1, 0, 1, 1], atol=2e-6)
    gradient = np.asarray(jax.jit(jax.grad(lambda w: jnp.sum(jnp.sin(3 * unit_norm(w)))))(kernel))
    assert np.isfinite(gradient).all()
    along = np.sum((gradient * kernel).reshape(-1, 5), 0)
    np.testing.assert_allclose(along, np.zeros(5), atol=1e-4)


def test_members_of_a_vmap_have_their_own_sigma_and_demote():
    y, values = uniform(2, 4, 4, 10), np.array([0.0, 0.3, 1.0], np.float32)
    both = lambda value: (divisive_norm(y, sigma=value), hebbian_cost(y, demote=value))  # noqa: E731
    together, alone = jax.jit(jax.vmap(both))(values), jax.jit(both)
    for i, value in enumerate(values):
        jax.tree.map(lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=1e-6), together, alone(value))


def test_bfloat16_stays_bfloat16():
    y = np.asarray(uniform(2, 4, 4, 10)).astype(jnp.bfloat16)

    @jax.jit
    def both(y):
        return adaptive_threshold(divisive_norm(y)), hebbian_cost(y, demote=0.1)

    block, cost = both(y)
    assert block.dtype == jnp.bfloat16 and cost.dtype == jnp.float32
    assert 0 < np.count_nonzero(block) < block.size and np.isfinite(cost)


@pytest.mark.wrong_types
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: divisive_norm(jnp.ones((2, 3))), r"y has shape \(2, 3\)"),
        (lambda: divisive_norm(jnp.ones((1, 2, 2, 1)), sigma=1.5), "sigma is 1.5"),
        (lambda: divisive_norm(jnp.ones((1, 2, 2, 1)), pool=2), "pool is 2"),
        (lambda: adaptive_threshold(jnp.ones((1, 2, 2, 1)), keep=0.0), "keep is 0.0"),
        (lambda: adaptive_threshold(jnp.ones((2, 2))), r"z has shape \(2, 2\)"),
        (lambda: mean_threshold(jnp.ones((2, 2))), r"z has shape \(2, 2\)"),
        (lambda: hebbian_cost(jnp.ones((2, 1)), demote=1.0), "1 of 1 neurons"),
        (lambda: hebbian_cost(jnp.ones((2, 5)), demote=1.0, promoted=0.9), "promoted is 0.9, 5 of 5 neurons"),
    ],
)
def test_errors_say_what_was_expected(call, message):
    with pytest.raises(ValueError, match=message):
        call()
