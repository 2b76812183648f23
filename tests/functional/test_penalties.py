"""Penalties on activations: their values, gradients and averages."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.functional.penalties import cauchy, gaussian, l1, l2
from tests.functional.drawn import normal

X = jnp.array([[0.0, 1.0, -2.0], [0.5, 0.0, 0.0]])
CASES = [
    (l1, np.abs, np.sign),
    (l2, np.square, lambda a: 2 * a),
    (cauchy, lambda a: np.log(1 + a**2), lambda a: 2 * a / (1 + a**2)),
    (gaussian, lambda a: -np.exp(-(a**2)), lambda a: 2 * a * np.exp(-(a**2))),
]
ALL = pytest.mark.parametrize(("penalty", "cost", "slope"), CASES, ids=lambda f: getattr(f, "__name__", ""))
both = {penalty: jax.jit(jax.value_and_grad(penalty)) for penalty, *_ in CASES}


def test_values_by_hand():
    np.testing.assert_allclose(both[l1](X)[0], 3.5 / 2)
    np.testing.assert_allclose(both[l2](X)[0], 5.25 / 2)
    np.testing.assert_allclose(both[cauchy](X)[0], (np.log(2) + np.log(5) + np.log(1.25)) / 2, rtol=1e-6)
    np.testing.assert_allclose(both[gaussian](X)[0], -(3 + np.exp(-1) + np.exp(-4) + np.exp(-0.25)) / 2, rtol=1e-6)


@ALL
def test_values_and_gradients_are_those_of_the_formula(penalty, cost, slope):
    x = 2 * np.asarray(normal(5, 8))
    value, gradient = both[penalty](x)
    np.testing.assert_allclose(value, np.sum(cost(x.astype(np.float64))) / 5, rtol=1e-5)
    np.testing.assert_allclose(gradient, slope(x.astype(np.float64)) / 5, rtol=1e-5, atol=1e-7)


@ALL
def test_inactive_units_get_no_gradient(penalty, cost, slope):
    np.testing.assert_array_equal(both[penalty](np.zeros((2, 3), np.float32))[1], np.zeros((2, 3)))


@ALL
def test_signs_do_not_matter_and_larger_activations_cost_more(penalty, cost, slope):
    x = np.asarray(normal(5, 8))
    value, negative, nothing, double = (both[penalty](factor * x)[0] for factor in (1, -1, 0, 2))
    np.testing.assert_allclose(negative, value, rtol=1e-6)
    assert nothing < value < double


@ALL
def test_jit_vmap_and_shape_change_nothing(penalty, cost, slope):
    x = normal(4, 2, 3, 5)

    @jax.jit
    def each_way(x):
        one_by_one = jax.vmap(lambda example: penalty(example[None]))(x)
        return penalty(x), penalty(x.reshape(4, 30)), jnp.mean(one_by_one)

    np.testing.assert_allclose(each_way(x), np.full(3, penalty(x)), rtol=1e-6)


@ALL
def test_half_precision_is_summed_in_single(penalty, cost, slope):
    value, gradient = both[penalty](np.ones((3, 5000), jnp.bfloat16))
    assert value.dtype == jnp.float32 and gradient.dtype == jnp.bfloat16
    np.testing.assert_allclose(value, 5000 * cost(np.float64(1)), rtol=1e-5)


@ALL
def test_nan_passes_and_one_example_alone_is_refused(penalty, cost, slope):
    assert np.isnan(both[penalty](X.at[0, 0].set(jnp.nan))[0])
    with pytest.raises(ValueError, match=r"shape \(3,\); expected \[batch, units, ...\]"):
        penalty(X[0])


def test_the_penaltys_gradients_are_the_thesiss():
    """The thesis' gradients of the l1 penalty on two layers of ReLUs, equations 3.8 and 3.9."""
    rng = np.random.default_rng(0)
    x = rng.random(7).astype(np.float32)
    w1, w2 = (rng.normal(size=shape).astype(np.float32) for shape in ((6, 7), (5, 6)))
    b1, b2 = (rng.normal(size=size).astype(np.float32) for size in (6, 5))

    def of_both_layers(weights):
        first = jax.nn.relu(weights[0] @ x + b1)
        second = jax.nn.relu(weights[1] @ first + b2)
        return l1(first[None]) + l1(second[None])

    by_w1, by_w2 = jax.jit(jax.grad(of_both_layers))((w1, w2))
    z1 = w1 @ x + b1
    a1 = np.maximum(z1, 0)
    z2 = w2 @ a1 + b2
    on1, on2 = z1 > 0, z2 > 0
    assert 0 < on1.sum() < 6 and 0 < on2.sum() < 5, "both cases of both layers"
    np.testing.assert_allclose(by_w2, np.where(on2[:, None], a1[None, :], 0), rtol=1e-5)  # 3.8
    whole = (on2 @ w2)[:, None] * x[None, :] + x[None, :]  # 3.9, where the unit is on
    np.testing.assert_allclose(by_w1, np.where(on1[:, None], whole, 0), rtol=1e-4, atol=1e-5)
