"""The parts of a Hebbian/anti-Hebbian block, and measures of sparsity, against the recorded cases (see golden.py)."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.functional import adaptive_threshold, conv2d, divisive_norm, hebbian_cost, unit_norm
from sparsejax.functional.measures import gini, hoyer
from tests.golden import load

pytestmark = pytest.mark.optimized

# The cases' images are [batch, channels, height, width], their kernels [outputs, inputs, height, width].
LAST, KERNEL = (0, 2, 3, 1), (2, 3, 1, 0)


def images(case, *names):
    return tuple(case[name].transpose(LAST) for name in names)


def implicit(x, kernel):
    return conv2d(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), unit_norm(kernel))


def block(x, kernel):
    return adaptive_threshold(divisive_norm(jax.nn.relu(implicit(x, kernel))))


def value_and_gradients(function):
    """Returns a program that gives a function's output and the gradients of that times the first argument."""

    def both(upstream, *arguments):
        y, backward = jax.vjp(function, *arguments)
        return y, backward(upstream)

    return jax.jit(both)


def assert_close(got, expected, tolerance=2e-6):
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize(("name", "form"), [("hah_implicit_conv", implicit), ("hah_block", block)])
def test_convolution_and_whole_block(name, form):
    case = load(name)
    x, upstream, expected, to_input = images(case, "x", "g", "out", "grad_x")
    y, (by_x, by_kernel) = value_and_gradients(form)(upstream, x, case["W"].transpose(KERNEL))
    assert_close(y, expected)
    assert_close(by_x, to_input)
    assert_close(by_kernel, case["grad_W"].transpose(KERNEL))


def test_a_block_sees_no_scale():
    case, of = load("hah_block"), jax.jit(block)
    x, larger, smaller = images(case, "x", "out_scaled_1e3", "out_scaled_1em3")
    kernel = case["W"].transpose(KERNEL)
    y = np.asarray(of(x, kernel))
    assert_close(of(np.float32(1e3) * x, kernel), larger)
    assert_close(of(np.float32(1e-3) * x, kernel), smaller)
    assert_close(larger, y, 1e-5)
    assert_close(smaller, y, 1e-3)  # by then eps counts


divided = {pool: value_and_gradients(partial(lambda pool, x, sigma: divisive_norm(x, sigma=sigma, pool=pool), pool))
           for pool in (1, 3)}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "sigma", "pool"),
    [
        ("linf3_sigma0p0", 0.0, 3),
        ("linf3_sigma0p1", 0.1, 3),
        ("linf3_sigma1p0", 1.0, 3),
        ("paper_eq2_sigma0p1", 0.1, 1),
    ],
)
def test_divisive_normalisation(name, sigma, pool):
    x, upstream, expected, to_input = images(load(f"hah_divnorm_{name}"), "x", "g", "out", "grad_x")
    y, (by_x, _) = divided[pool](upstream, x, sigma)
    assert_close(y, expected)
    assert_close(by_x, to_input)


def test_the_adaptive_threshold():
    x, upstream, expected, to_input = images(load("hah_fractional_threshold_0p2"), "x", "g", "out", "grad_x")
    y, (gradient,) = value_and_gradients(adaptive_threshold)(upstream, x)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(gradient, to_input)


def test_as_many_positions_are_kept():
    table, kept = load("hah_fractional_k_table"), jax.jit(adaptive_threshold, static_argnames="keep")
    for (height, width), *below in zip(table["hw"], table["k_r0p2"], table["k_r0p1"], strict=True):
        z = np.random.default_rng(0).random((1, height, width, 1), np.float32)
        for keep, count in zip((0.2, 0.1), below, strict=True):
            assert np.count_nonzero(kept(z, keep=keep)) == height * width - count


cost = jax.jit(lambda x, demote: hebbian_cost(jax.nn.relu(x), demote=demote))


def test_the_cost():
    case = load("hah_cost_lam1p0")
    x, to_input = images(case, "x", "grad_x")
    got, gradient = jax.jit(jax.value_and_grad(cost))(x, 1.0)
    assert_close(got, case["cost"])
    assert_close(gradient, to_input)
    most = cost(x, 0.0)
    assert_close(most, case["top"])
    assert_close(most - got, case["bottom"])


def test_as_called_the_papers_code_demoted_with_1():
    case = load("hah_cost_kwarg_bug")
    (x,) = images(case, "x")
    assert_close(cost(x, 1.0), case["cost_as_called"])
    assert abs(cost(x, 0.1) - case["cost_as_called"]) > 1e-2


def test_weights_of_a_plain_convolution_are_normalised_in_the_cost():
    case = load("hah_cost_plainconv_weights")
    (x,) = images(case, "x")
    # Normalising after the ReLU or before it is the same.
    both = jax.jit(jax.value_and_grad(lambda w: hebbian_cost(jax.nn.relu(implicit(x, w)), demote=1.0)))
    got, gradient = both(case["W"].transpose(KERNEL))
    assert_close(got, case["cost"])
    assert_close(gradient, case["grad_W"].transpose(KERNEL), 1e-5)


def test_gini_and_hoyer_are_the_thesis_values_for_absolute_activity():
    case = load("hah_gini_hoyer_vectors")
    names = ("relu", "uniform", "onehot", "zeros", "signed", "exp")
    vectors = np.stack([case[name] for name in names]).astype(np.float32)
    # Columns: the code's gini, Eq. 1.18 as printed and of |a|, Eq. 1.19 as printed and of |a|, the code in float32.
    expected = np.nan_to_num(case["values"])  # of all zeros the equations say nothing, and ours is 0
    index = np.asarray(jax.jit(gini)(vectors))
    np.testing.assert_allclose(index, expected[:, 2], atol=2e-6)
    np.testing.assert_allclose(jax.jit(hoyer)(vectors), expected[:, 4], atol=2e-6)
    unsigned = [0, 1, 2, 3, 5]  # where the thesis's code, which shifts negative values, means the same
    np.testing.assert_allclose(index[unsigned], case["values"][unsigned, 0], atol=3e-6)


def test_hoyer_agrees_with_the_ratio_of_norms_of_the_hah_paper():
    case = load("hah_hoyer_seed002")
    activity, ratio = case["act"].transpose(LAST), case["ratio"][:, 0]
    theirs = np.where(ratio > 0, 1 - (ratio - 1) / (np.sqrt(activity.shape[-1]) - 1), 0.0)
    np.testing.assert_allclose(jax.jit(hoyer)(activity), theirs, atol=1e-5)
