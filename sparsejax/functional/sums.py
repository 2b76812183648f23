"""Precision of sums, and means of arrays that may be empty."""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float


def at_least_float32(x: ArrayLike) -> Array:
    """Returns x in float64 if it is, else in float32: half precision is too coarse for long sums."""
    x = jnp.asarray(x)
    return x if x.dtype == jnp.float64 else x.astype(jnp.float32)


def mean(x: Float[Array, "*shape"], axis: int | None = None) -> Float[Array, "*rest"]:
    """Returns the mean, or 0 where there is nothing to average."""
    return jnp.mean(x, axis) if x.size else jnp.sum(x, axis)
