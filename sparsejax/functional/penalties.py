"""Penalties on activations: summed over the units of an example, averaged over the batch.

All axes except the first are units, so every position of a feature map counts as one. Sums are in float32 for all types
of activations but float64; an empty batch costs 0.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from sparsejax.functional.arguments import checked
from sparsejax.functional.sums import at_least_float32


@checked
def l1(activations: Float[Array, "batch units *more"]) -> Float[Array, ""]:
    """Returns the sum of the absolute values, the penalty of a Laplace prior; its gradient is 0 at 0.

    Args:
      activations: a layer's output `[batch, units]`, `[batch, height, width, channels]`, ....

    Returns:
      Summed over the units of an example and averaged over the batch, float32 `[]`.

    Raises:
      ValueError: activations have no axis besides the batch.

    References:
      Bricken et al., Noise Transforms Feed-Forward Networks into Sparse Coding Networks, 2022, the L1 baseline:
      added to the reconstruction error with a coefficient.
    """
    # The gradient of jnp.abs at 0 is 1, which would change inactive units.
    return _per_example(activations, lambda a: a * lax.stop_gradient(jnp.sign(a)))


@checked
def l2(activations: Float[Array, "batch units *more"]) -> Float[Array, ""]:
    """Returns the sum of squares, the penalty of a Gaussian prior: it shrinks activations but does not make them 0.

    Args:
      activations: a layer's output `[batch, units]`, `[batch, height, width, channels]`, ....

    Returns:
      Summed over the units of an example and averaged over the batch, float32 `[]`.

    Raises:
      ValueError: activations have no axis besides the batch.
    """
    return _per_example(activations, jnp.square)


@checked
def cauchy(activations: Float[Array, "batch units *more"]) -> Float[Array, ""]:
    r"""Returns the sum of :math:`\log(1 + a^2)`, the penalty of a Cauchy prior.

    Args:
      activations: a layer's output `[batch, units]`, `[batch, height, width, channels]`, ....

    Returns:
      Summed over the units of an example and averaged over the batch, float32 `[]`.

    Raises:
      ValueError: activations have no axis besides the batch.

    References:
      Olshausen & Field, Emergence of simple-cell receptive field properties by learning a sparse code for natural
      images, 1996; the thesis Sparse Coding in Deep Neural Networks and the Visual System, section 1.2.3.
    """
    return _per_example(activations, lambda a: jnp.log1p(jnp.square(a)))


@checked
def gaussian(activations: Float[Array, "batch units *more"]) -> Float[Array, ""]:
    """Returns the sum of :math:`-e^{-a^2}`, a smooth approximation of counting: minus the number of units if all are 0.

    Args:
      activations: a layer's output `[batch, units]`, `[batch, height, width, channels]`, ....

    Returns:
      Summed over the units of an example and averaged over the batch, float32 `[]`.

    Raises:
      ValueError: activations have no axis besides the batch.

    References:
      Olshausen & Field, Emergence of simple-cell receptive field properties by learning a sparse code for natural
      images, 1996.
    """
    return _per_example(activations, lambda a: -jnp.exp(-jnp.square(a)))


def _per_example(activations, cost) -> Float[Array, ""]:
    return jnp.sum(cost(at_least_float32(activations))) / max(1, activations.shape[0])
