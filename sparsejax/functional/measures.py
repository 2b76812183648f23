"""Measures of how sparse an activation is and how evenly its units are used."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Num


def l0(x: Float[Array, "*batch units"]) -> Int[Array, "*batch"]:
    """Counts the non-zero units of each example `[..., units]` -> `[...]`."""
    return jnp.sum((x != 0).astype(jnp.int32), axis=-1)


def active_fraction(x: Float[Array, "*shape"]) -> Float[Array, ""]:
    """Returns the fraction of non-zero entries (the density) of an array."""
    return jnp.mean((x != 0).astype(jnp.float32))


def dead_units(x: Float[Array, "batch units"]) -> Bool[Array, "units"]:
    """Marks the units that are zero in every example `[batch, units]` -> `[units]`."""
    return jnp.all(x == 0, axis=0)


def binary_entropy(p: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    r"""Returns the entropy of a coin in bits, :math:`-p \log_2 p - (1-p) \log_2 (1-p)`, with 0 log 0 = 0."""
    q = 1 - p
    safe_p, safe_q = jnp.where(p > 0, p, 1.0), jnp.where(q > 0, q, 1.0)
    return -(p * jnp.log2(safe_p) + q * jnp.log2(safe_q))


def duty_entropy(duty_cycle: Float[Array, "units"], *, positions: int = 1) -> Float[Array, ""]:
    """Returns the entropy of a layer in bits: the sum over its units, each taken as an independent coin.

    Args:
      duty_cycle: fraction of examples in which each unit wins, `[units]` or one per channel.
      positions: units that share each duty cycle (height * width of a feature map).
    """
    return positions * jnp.sum(binary_entropy(duty_cycle))


def max_entropy(units: int, k: int | Num[Array, ""]) -> Float[Array, ""]:
    """Returns the largest entropy, in bits, that a layer of `units` with k winners can have: all equally often.

    Args:
      units: number of units.
      k: winners, 0 <= k <= units.

    Raises:
      ValueError: k is a Python number outside [0, units].
    """
    if isinstance(k, (int, float)) and not 0 <= k <= units:
        raise ValueError(f"k is {k}, but the layer has {units} units; expected 0 <= k <= {units}.")
    return units * binary_entropy(jnp.asarray(k / units, jnp.float32))
