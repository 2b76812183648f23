"""Arrays that tests draw with NumPy: `jax.random` compiles a program for every shape."""

import jax
import jax.numpy as jnp
import numpy as np


def normal(*shape: int, seed: int = 0) -> jax.Array:
    """Returns standard normal numbers in float32, the same ones for the same shape and seed."""
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32))


def uniform(*shape: int, seed: int = 0) -> jax.Array:
    """Returns numbers from [0, 1) in float32, the same ones for the same shape and seed."""
    return jnp.asarray(np.random.default_rng(seed).random(shape, np.float32))
