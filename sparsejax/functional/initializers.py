"""The papers' initialisations of weights and biases."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from sparsejax.functional.arguments import checked
from sparsejax.functional.masks import fan_in_of


@checked
def uniform_fan_in(key: PRNGKeyArray, shape: tuple[int, ...], fan_in: int | None = None) -> Float[Array, "*shape"]:
    r"""Draws from :math:`U(-1/\sqrt{n}, 1/\sqrt{n})`, n the fan-in: PyTorch's default for weights and biases.

    That is Kaiming uniform with a = sqrt(5). For sparse weights n is the dense fan-in, as in the paper's code: there is
    no compensation for masked weights.

    Args:
      key: a PRNG key.
      shape: of the weights, units last, or of a bias `[units]` (then fan_in is needed).
      fan_in: inputs of a unit; by default that of the shape.

    Returns:
      float32 array.

    Raises:
      ValueError: fan_in is not positive, or missing for a bias.

    References:
      He et al., Delving Deep into Rectifiers, 2015, section 2.2.
    """
    fan_in = fan_in_of(shape) if fan_in is None else fan_in
    if fan_in < 1:
        raise ValueError(f"fan_in is {fan_in}; expected a positive number of inputs.")
    bound = 1 / math.sqrt(fan_in)
    return jax.random.uniform(key, shape, jnp.float32, minval=-bound, maxval=bound)
