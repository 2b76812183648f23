"""JumpReLU and its step: recorded gradients, every type, and batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.functional import jump_relu, jump_step
from tests import golden

FUNCTIONS = {"jump": jump_relu, "step": jump_step}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("peer", ["dl", "sl_ste0", "sl_ste1"])
def test_recorded_values_and_gradients(name, peer):
    case, (library, _, option) = golden.load("sae_jumprelu"), peer.partition("_")
    prefix = f"{library}_{name}" + f"_{option}" * bool(option)
    width, to_input = float(case["bandwidth"]), option == "ste1"

    def of(x, theta):
        return FUNCTIONS[name](x, theta, bandwidth=width, to_input=to_input)

    value, pull = jax.vjp(of, jnp.asarray(case["x"]), jnp.asarray(case["theta"]))
    np.testing.assert_allclose(value, case[prefix], rtol=1e-6)
    to_x, to_theta = pull(jnp.asarray(case["g"]))
    np.testing.assert_allclose(to_x, case[f"{prefix}_dx"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(to_theta, case[f"{prefix}_dtheta"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_one_threshold_for_all_is_that_of_each(name):
    x, function = np.random.default_rng(0).normal(size=(5, 2, 7)).astype(np.float32), FUNCTIONS[name]
    one = jax.value_and_grad(lambda t: jnp.sum(function(x, t, bandwidth=0.5) ** 2))(jnp.float32(0.3))
    each = jax.value_and_grad(lambda t: jnp.sum(function(x, t, bandwidth=0.5) ** 2))(jnp.full(7, 0.3, jnp.float32))
    np.testing.assert_allclose(one[0], each[0], rtol=1e-6)
    np.testing.assert_allclose(one[1], jnp.sum(each[1]), rtol=1e-5)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_vmap_and_jit_are_loops(name):
    rng, function = np.random.default_rng(1), FUNCTIONS[name]
    x, theta, width = (jnp.asarray(rng.uniform(0.1, 1, s), jnp.float32) for s in ((3, 4, 6), (3, 6), (3,)))

    def loss(x, theta, width):
        return jnp.sum(function(x, theta, bandwidth=width) * x)

    found = jax.jit(jax.vmap(jax.grad(loss, (0, 1))))(x, theta, width)
    for i in range(3):
        expected = jax.grad(loss, (0, 1))(x[i], theta[i], width[i])
        for got, wanted in zip(found, expected, strict=True):
            np.testing.assert_allclose(got[i], wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_keeps_its_type_and_the_threshold_float32(dtype):
    x, theta = jnp.linspace(-1, 1, 9, dtype=jnp.float32).astype(dtype), jnp.full(9, 0.25, jnp.float32)
    assert jump_relu(x, theta, bandwidth=0.5).dtype == x.dtype
    to_x, to_theta = jax.grad(lambda x, t: jnp.sum(jump_relu(x, t, bandwidth=0.5).astype(jnp.float32)), (0, 1))(
        x, theta
    )
    assert (to_x.dtype, to_theta.dtype) == (x.dtype, jnp.float32)
    assert float(jnp.sum(to_theta)) != 0


def test_at_the_threshold_and_the_edges_of_the_window_nothing_counts():
    x, theta = jnp.float32([0.25, 0.5, 0.75]), jnp.float32([0.5, 0.5, 0.5])
    value, pull = jax.vjp(lambda t: jump_relu(x, t, bandwidth=0.5), theta)
    np.testing.assert_array_equal(value, [0, 0, 0.75])
    np.testing.assert_array_equal(pull(jnp.ones(3, jnp.float32))[0], [0, -1, 0])


@pytest.mark.wrong_types
@pytest.mark.parametrize("function", FUNCTIONS.values())
def test_wrong_arguments(function):
    x = np.zeros((2, 4), np.float32)
    with pytest.raises(ValueError, match="bandwidth is 0"):
        function(x, 0.1, bandwidth=0)
    with pytest.raises(ValueError, match="3 thresholds for 4 units"):
        function(x, np.zeros(3, np.float32), bandwidth=0.1)
    assert function(x[:0], 0.1, bandwidth=0.1).shape == (0, 4)
