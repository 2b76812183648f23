"""The parts of a Hebbian/anti-Hebbian block against the recorded cases, by hand, and by their properties."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
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
from tests.golden import load

# The cases' images are [batch, channels, height, width], their kernels [outputs, inputs, height, width].
LAST, KERNEL = (0, 2, 3, 1), (2, 3, 1, 0)


def images(case, *names):
    return tuple(jnp.asarray(case[name].transpose(LAST)) for name in names)


def padded(x):
    return jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))


def implicit(x, kernel):
    return conv2d(padded(x), unit_norm(kernel))


def block(x, kernel):
    return adaptive_threshold(divisive_norm(jax.nn.relu(implicit(x, kernel))))


def assert_close(got, expected, tolerance=2e-6):
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize(("name", "form"), [("hah_implicit_conv", implicit), ("hah_block", block)])
def test_convolution_and_whole_block_are_the_recorded_ones(name, form):
    case = load(name)
    x, upstream, expected, to_input = images(case, "x", "g", "out", "grad_x")
    kernel = jnp.asarray(case["W"].transpose(KERNEL))
    y, backward = jax.vjp(jax.jit(form), x, kernel)
    assert_close(y, expected)
    got = backward(upstream)
    assert_close(got[0], to_input)
    assert_close(got[1], case["grad_W"].transpose(KERNEL))


def test_a_block_sees_no_scale():
    case = load("hah_block")
    x, larger, smaller = images(case, "x", "out_scaled_1e3", "out_scaled_1em3")
    kernel = jnp.asarray(case["W"].transpose(KERNEL))
    y = block(x, kernel)
    assert_close(block(1e3 * x, kernel), larger)
    assert_close(block(1e-3 * x, kernel), smaller)
    assert_close(larger, y, 1e-5)
    assert_close(smaller, y, 1e-3)  # by then eps counts


@pytest.mark.parametrize(
    ("name", "sigma", "pool"),
    [
        ("linf3_sigma0p0", 0.0, 3),
        ("linf3_sigma0p1", 0.1, 3),
        ("linf3_sigma1p0", 1, 3),
        ("paper_eq2_sigma0p1", 0.1, 1),
    ],
)
def test_divisive_normalisation_is_the_recorded_one(name, sigma, pool):
    x, upstream, expected, to_input = images(load(f"hah_divnorm_{name}"), "x", "g", "out", "grad_x")
    for traced in (False, True):
        weight = jnp.float32(sigma) if traced else sigma
        y, backward = jax.vjp(jax.jit(lambda x, weight=weight: divisive_norm(x, sigma=weight, pool=pool)), x)
        assert_close(y, expected)
        assert_close(backward(upstream)[0], to_input)


@pytest.mark.slow
def test_divisive_normalisation_by_hand():
    y = jnp.array([[[[1.0, 3.0]], [[4.0, 0.0]]]])  # two positions, of mean 2 each
    np.testing.assert_allclose(divisive_norm(y, sigma=0.5, pool=1), y / 2, rtol=1e-6)
    dim = jnp.array([[[[1.0, 3.0]], [[0.4, 0.0]]]])  # the second is ten times as dim, and is suppressed
    np.testing.assert_allclose(divisive_norm(dim, sigma=0.5, pool=1)[0, 1, 0], [0.4 / 1.1, 0], rtol=1e-6)
    silent = jnp.zeros((1, 3, 3, 2))
    assert not divisive_norm(silent).any()
    assert jnp.isfinite(jax.grad(lambda y: divisive_norm(jax.nn.relu(y)).sum())(silent)).all()


def test_the_greatest_around_is_that_of_reduce_window(fresh_key):
    y = jax.random.uniform(fresh_key(), (2, 6, 5, 3))
    for pool in (3, 5):
        around = lax.reduce_window(y, -jnp.inf, lax.max, (1, pool, pool, 1), (1, 1, 1, 1), "SAME")
        expected = y / (around.mean(-1, keepdims=True) + 1e-7)
        np.testing.assert_allclose(divisive_norm(y, sigma=0.0, pool=pool), expected, rtol=1e-6)


def test_the_adaptive_threshold_is_the_recorded_one():
    x, upstream, expected, to_input = images(load("hah_fractional_threshold_0p2"), "x", "g", "out", "grad_x")
    y, backward = jax.vjp(jax.jit(adaptive_threshold), x)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(backward(upstream)[0], to_input)


@pytest.mark.slow
def test_as_many_positions_are_kept_as_recorded(fresh_key):
    table = load("hah_fractional_k_table")
    for (height, width), *below in zip(table["hw"], table["k_r0p2"], table["k_r0p1"], strict=True):
        z = jax.random.uniform(fresh_key(), (1, int(height), int(width), 1))
        for keep, count in zip((0.2, 0.1), below, strict=True):
            kept = (adaptive_threshold(z, keep=keep) > 0).sum((1, 2))
            assert (kept == height * width - count).all()


def test_equal_values_fall_together_and_nan_stays():
    z = jnp.array([1.0, 2.0, 2.0, 2.0, 5.0]).reshape(1, 5, 1, 1)
    np.testing.assert_array_equal(adaptive_threshold(z, keep=0.4)[0, :, 0, 0], [0, 0, 0, 0, 5])
    few = jnp.array([0.0, 0.0, 0.0, 0.0, 1.0, 2.0, 0.0, 0.0, 0.0, 0.0]).reshape(1, 10, 1, 1)
    np.testing.assert_array_equal(adaptive_threshold(few, keep=0.5), few)
    np.testing.assert_array_equal(adaptive_threshold(z, keep=1.0), z)
    np.testing.assert_array_equal(adaptive_threshold(z, keep=0.8)[0, :, 0, 0], [0, 2, 2, 2, 5])  # 1 - 0.8 < 1 / 5
    for cut in (functools.partial(adaptive_threshold, keep=0.4), mean_threshold):
        assert jnp.isnan(cut(z.at[0, 1].set(jnp.nan))).any()


def test_the_mean_threshold_by_hand_and_without_gradient():
    z = jnp.array([1.0, 2.0, 3.0, 6.0]).reshape(1, 2, 2, 1)
    np.testing.assert_array_equal(mean_threshold(z).ravel(), [0, 0, 0, 6])
    np.testing.assert_array_equal(mean_threshold(z, factor=0.5).ravel(), [0, 2, 3, 6])
    np.testing.assert_array_equal(jax.grad(lambda z: mean_threshold(z).sum())(z).ravel(), [0, 0, 0, 1])


def test_the_cost_is_the_recorded_one():
    case = load("hah_cost_lam1p0")
    x, to_input = images(case, "x", "grad_x")

    def cost(x):
        return hebbian_cost(jax.nn.relu(x), demote=1.0)

    got, gradient = jax.jit(jax.value_and_grad(cost))(x)
    assert_close(got, case["cost"])
    assert_close(gradient, to_input)
    parts = hebbian_cost(jax.nn.relu(x), demote=0.0), hebbian_cost(jax.nn.relu(x), demote=0.0) - got
    assert_close(parts[0], case["top"])
    assert_close(parts[1], case["bottom"])


def test_as_called_the_papers_code_demoted_with_1():
    case = load("hah_cost_kwarg_bug")
    (x,) = images(case, "x")
    assert_close(hebbian_cost(jax.nn.relu(x), demote=1.0), case["cost_as_called"])
    assert abs(hebbian_cost(jax.nn.relu(x), demote=0.1) - case["cost_as_called"]) > 1e-2


def test_weights_of_a_plain_convolution_are_normalised_in_the_cost():
    case = load("hah_cost_plainconv_weights")
    (x,), kernel = images(case, "x"), jnp.asarray(case["W"].transpose(KERNEL))
    # Normalising after the ReLU or before it is the same.
    got, gradient = jax.value_and_grad(lambda w: hebbian_cost(jax.nn.relu(implicit(x, w)), demote=1.0))(kernel)
    assert_close(got, case["cost"])
    assert_close(gradient, case["grad_W"].transpose(KERNEL), 1e-5)


@given(st.sampled_from((2, 5, 12)), st.floats(0.05, 0.9), st.floats(0, 2), st.integers(0, 2**31 - 1))
@settings(max_examples=15, deadline=None)
def test_the_cost_is_that_of_sorted_activations(neurons, promoted, demote, seed):
    k = int(np.ceil(promoted * neurons))
    y = np.random.default_rng(seed).exponential(size=(3, 2, neurons)).astype(np.float32)
    if k == neurons:
        with pytest.raises(ValueError, match="promoted"):
            hebbian_cost(jnp.asarray(y), demote=demote, promoted=promoted)
        return
    order = -np.sort(-y, -1)
    expected = (order[..., :k].mean(-1) - demote * order[..., k:].mean(-1)).mean()
    np.testing.assert_allclose(hebbian_cost(jnp.asarray(y), demote=demote, promoted=promoted), expected, atol=1e-5)


@pytest.mark.slow
def test_a_layers_own_cost_moves_its_kernel_alone(fresh_key):
    x, kernel = jax.random.normal(fresh_key(), (2, 6, 6, 3)), jax.random.normal(fresh_key(), (3, 3, 3, 20))

    def loss(x, kernel, convolve):
        passed, local = convolve(x, unit_norm(kernel))
        return jnp.sum(jnp.tanh(passed)) - hebbian_cost(jax.nn.relu(local), demote=0.5)

    def by_stopping(x, kernel):
        return conv2d(x, kernel), conv2d(lax.stop_gradient(x), kernel)

    got = jax.jit(jax.value_and_grad(lambda x, w: loss(x, w, conv2d_twice), argnums=(0, 1)))(x, kernel)
    expected = jax.value_and_grad(lambda x, w: loss(x, w, by_stopping), argnums=(0, 1))(x, kernel)
    for ours, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_unit_norm_has_length_1_and_no_gradient_along_itself(fresh_key):
    kernel = jax.random.normal(fresh_key(), (3, 3, 4, 5)).at[..., 2].set(0)
    lengths = jnp.linalg.norm(unit_norm(kernel).reshape(-1, 5), axis=0)
    np.testing.assert_allclose(lengths, [1, 1, 0, 1, 1], atol=2e-6)
    gradient = jax.grad(lambda w: jnp.sum(jnp.sin(3 * unit_norm(w))))(kernel)
    assert jnp.isfinite(gradient).all()
    along = jnp.sum((gradient * kernel).reshape(-1, 5), 0)
    np.testing.assert_allclose(along, np.zeros(5), atol=1e-4)


@pytest.mark.slow
def test_members_of_a_vmap_have_their_own_sigma_and_demote(fresh_key):
    y = jax.random.uniform(fresh_key(), (2, 4, 4, 10))
    values = jnp.array([0.0, 0.3, 1.0])
    together = jax.vmap(lambda value: (divisive_norm(y, sigma=value), hebbian_cost(y, demote=value)))(values)
    for i, value in enumerate(values):
        np.testing.assert_allclose(together[0][i], divisive_norm(y, sigma=value), rtol=1e-6)
        np.testing.assert_allclose(together[1][i], hebbian_cost(y, demote=value), rtol=1e-6)


def test_bfloat16_stays_bfloat16(fresh_key):
    y = jax.random.uniform(fresh_key(), (2, 4, 4, 10)).astype(jnp.bfloat16)
    assert adaptive_threshold(divisive_norm(y)).dtype == jnp.bfloat16
    assert hebbian_cost(y, demote=0.1).dtype == jnp.float32


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
    ],
)
def test_errors_say_what_was_expected(call, message):
    with pytest.raises(ValueError, match=message):
        call()
