"""Sparse connectivity: masks with an exact number of non-zero weights per unit."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from sparsejax.functional.selection import winners


def sparse_mask(key: PRNGKeyArray, shape: tuple[int, ...], density: float | Float[Array, ""]) -> Bool[Array, "*shape"]:
    """Draws, for every unit on its own, which of its inputs are connected.

    Each unit has exactly round(density * fan_in) connections (half to even), drawn without replacement.

    Args:
      key: a PRNG key; the same key gives the same mask.
      shape: of the weights, units last: `[inputs, units]`, or `[height, width, channels, units]` for a convolution,
        whose fan-in is height * width * channels.
      density: fraction of non-zero weights, 0 < density <= 1. A traced one gives the same mask, at least one
        connection, and its number is rounded in float32.

    Returns:
      Boolean array of that shape, True where connected.

    Raises:
      ValueError: shape has fewer than two axes, or density is a Python number outside (0, 1] or so small that a unit
        would have no connection.

    References:
      Ahmad & Scheinkman, How Can We Be So Dense?, 2019, section 3 ("sparse random distribution").
    """
    fan_in = fan_in_of(shape)
    if isinstance(density, (int, float)):
        connections = connections_per_unit(shape, density)
        if connections == fan_in:
            return jnp.ones(shape, bool)
    else:
        connections = jnp.clip(jnp.round(density * fan_in), 1, fan_in).astype(jnp.int32)
    # Equal random numbers are possible, so ties must be broken for the count to be exact.
    scores = jax.random.bits(key, (shape[-1], fan_in), jnp.uint32).astype(jnp.int32)
    return winners(scores, connections, ties="first").T.reshape(shape)


def connections_per_unit(shape: tuple[int, ...], density: float) -> int:
    """Returns the number of non-zero weights of each unit: round(density * fan_in), half to even.

    Args:
      shape: of the weights, units last: `[inputs, units]`, or `[height, width, channels, units]` for a convolution.
      density: fraction of non-zero weights, 0 < density <= 1.

    Returns:
      A Python integer, 1 or more.

    Raises:
      ValueError: shape has fewer than two axes, density is outside (0, 1], or so small that a unit would have no
        connection.

    References:
      Ahmad & Scheinkman, How Can We Be So Dense?, 2019, section 3; that every unit has exactly as many is how the
      authors' library draws them.
    """
    fan_in = fan_in_of(shape)
    if not 0 < density <= 1:
        raise ValueError(f"density is {density}; expected a fraction of non-zero weights in (0, 1].")
    connections = round(density * fan_in)
    if connections < 1:
        raise ValueError(
            f"density {density} leaves a unit none of its {fan_in} inputs; expected at least {1 / fan_in:.3g}."
        )
    return connections


def fan_in_of(shape: tuple[int, ...]) -> int:
    """Returns the number of inputs of one unit, for weights `[..., units]`.

    Raises:
      ValueError: shape has fewer than two axes.
    """
    if len(shape) < 2:
        raise ValueError(f"Weights of shape {shape} have no inputs; expected [inputs, units] or [H, W, C, units].")
    fan_in = 1
    for size in shape[:-1]:
        fan_in *= size
    return fan_in
