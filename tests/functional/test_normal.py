"""The GELU and the normal distribution function have JAX's values and derivatives, also inside shard_map."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.functional.normal import gelu, normal_cdf

MESH = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
PAIRS = [(normal_cdf, jax.scipy.special.ndtr), (gelu, partial(jax.nn.gelu, approximate=False))]


def with_derivatives(function):
    def slope(x):
        return jax.jvp(function, (x,), (jnp.ones_like(x),))[1]

    def total(function):
        return jax.grad(lambda x: jnp.sum(function(x)))

    return lambda x: (function(x), total(function)(x), total(slope)(x))


@pytest.mark.parametrize(("ours", "jaxs"), PAIRS)
def test_values_and_two_derivatives_are_those_of_jax_on_one_device_and_on_eight(ours, jaxs):
    x = jnp.asarray([*np.linspace(-6, 6, 37), -40, 0, 40], jnp.float32)
    spread = jax.shard_map(with_derivatives(ours), mesh=MESH, in_specs=jax.P("data"), out_specs=jax.P("data"))
    for found in (jax.jit(with_derivatives(ours))(x), jax.jit(spread)(x)):
        for a, b in zip(found, with_derivatives(jaxs)(x), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_gelu_keeps_half_precision():
    x = jnp.linspace(-3, 3, 13, dtype=jnp.bfloat16)
    value, slope, _ = with_derivatives(gelu)(x)
    assert value.dtype == slope.dtype == jnp.bfloat16
    np.testing.assert_allclose(slope.astype(jnp.float32), jax.vmap(jax.grad(gelu))(x.astype(jnp.float32)), atol=0.02)
