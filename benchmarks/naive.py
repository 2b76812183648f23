"""Straightforward selection, for comparison with ours."""

import jax
import jax.numpy as jnp
from jax import lax

from sparsejax.functional.selection import ordered_key


def threshold_by_top_k(x: jax.Array, k: int) -> jax.Array:
    """Returns the k-th largest of each row `[..., 1]` as the last of `lax.top_k`."""
    # The barrier keeps the compiler from folding the slice into the top-k, which it would then sort.
    return lax.optimization_barrier(lax.top_k(x, k)[0])[..., -1:]


def threshold_by_sort(x: jax.Array, k: int) -> jax.Array:
    """Returns the k-th largest of each row `[..., 1]` after a sort."""
    return jnp.sort(x, axis=-1)[..., x.shape[-1] - k, None]


def threshold_by_bisection(x: jax.Array, k: int) -> jax.Array:
    """Returns the k-th largest key of each row `[..., 1]` in 32 passes that compare and count."""
    key = ordered_key(x)

    def settle(i: jax.Array, threshold: jax.Array) -> jax.Array:
        probe = threshold + (jnp.int32(1) << (31 - i))
        count = jnp.sum((key >= probe).astype(jnp.int32), axis=-1, keepdims=True)
        return jnp.where(count >= k, probe, threshold)

    return lax.fori_loop(0, 32, settle, jnp.full_like(key[..., :1], -(2**31)))


def winners_by_top_k(x: jax.Array, k: int) -> jax.Array:
    """Marks values at or above the last of `lax.top_k`."""
    return x >= threshold_by_top_k(x, k)


def winners_by_sort(x: jax.Array, k: int) -> jax.Array:
    """Marks values at or above the k-th of a sorted row."""
    return x >= threshold_by_sort(x, k)


def winners_by_bisection(x: jax.Array, k: int) -> jax.Array:
    """Marks values at or above the threshold of 32 counting passes."""
    return ordered_key(x) >= threshold_by_bisection(x, k)
