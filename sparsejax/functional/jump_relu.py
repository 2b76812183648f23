"""JumpReLU: units that are active beyond a learned threshold, with straight-through gradients for it.

Neither the activity nor the number of active units has a useful gradient with respect to the threshold: it is 0
almost everywhere. A kernel of width `bandwidth` around the threshold estimates the gradient of their expectation.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sparsejax.functional.arguments import checked
from sparsejax.functional.shards import vary_alike

Threshold = float | Float[Array, ""] | Float[Array, "units"]
"""One threshold for all units, or one for each."""


@checked
def jump_relu(
    x: Float[Array, "*batch units"],
    threshold: Threshold,
    *,
    bandwidth: float | Float[Array, ""],
    to_input: bool = False,
) -> Float[Array, "*batch units"]:
    r"""Returns x where it exceeds its threshold, else 0.

    The gradient with respect to x is 1 on active units. That with respect to a threshold is
    :math:`-(\theta / \epsilon)` for every x within :math:`\epsilon / 2` of it.

    Args:
      x: pre-activations `[..., units]`.
      threshold: theta, one for all or `[units]`, usually 0 or more; float32 also for x in bfloat16, whose steps are
        too coarse for it to move.
      bandwidth: epsilon, more than 0, in the unit of x; may be traced.
      to_input: also add :math:`\theta / \epsilon` to the gradient with respect to x there.

    Returns:
      Array like x.

    Raises:
      ValueError: thresholds and units differ in number, or the bandwidth is a Python number that is not positive.

    References:
      Rajamanoharan et al., Jumping Ahead: Improving Reconstruction Fidelity with JumpReLU Sparse Autoencoders, 2024,
      Eq. 3 and 11; `to_input` is an option of SAELens.
    """
    return _jump(*_arguments(x, threshold, bandwidth), to_input)


@checked
def jump_step(
    x: Float[Array, "*batch units"],
    threshold: Threshold,
    *,
    bandwidth: float | Float[Array, ""],
    to_input: bool = False,
) -> Float[Array, "*batch units"]:
    r"""Returns 1 where x exceeds its threshold, else 0; the sum over the units is L0.

    The gradient with respect to a threshold is :math:`-1 / \epsilon` for every x within :math:`\epsilon / 2` of it;
    that with respect to x is 0. x are pre-activations: of activities after the jump, those below the threshold are
    lost.

    Args:
      x: pre-activations `[..., units]`.
      threshold: as in `jump_relu`.
      bandwidth: as in `jump_relu`.
      to_input: also give x the gradient :math:`1 / \epsilon` there.

    Returns:
      Array like x.

    Raises:
      ValueError: as `jump_relu`.

    References:
      Rajamanoharan et al., Jumping Ahead, 2024, Eq. 12.
    """
    return _step(*_arguments(x, threshold, bandwidth), to_input)


def _arguments(x: Array, threshold: Threshold, bandwidth: float | Array) -> tuple[Array, Array, Array]:
    """Returns x, and its thresholds and bandwidth in the same shape, so that each rule is elementwise."""
    if isinstance(bandwidth, (int, float)) and not bandwidth > 0:
        raise ValueError(f"bandwidth is {bandwidth}; expected a positive width, such as 0.05.")
    theta = jnp.asarray(threshold, jnp.float32 if x.dtype.itemsize < 4 else x.dtype)
    if theta.ndim and theta.shape[0] != x.shape[-1]:
        raise ValueError(f"There are {theta.shape[0]} thresholds for {x.shape[-1]} units; expected one for each.")
    each = jnp.broadcast_to(theta.reshape(*(1,) * (x.ndim - theta.ndim), *theta.shape), x.shape)
    return vary_alike(x, each, jnp.asarray(bandwidth, theta.dtype))


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _jump(x: Array, theta: Array, width: Array, to_input: bool) -> Array:
    return jnp.where(x.astype(theta.dtype) > theta, x, 0)


def _jump_backward(to_input, kept, upstream):
    x, theta, width = kept
    at = theta / width * _near(x, theta, width) * upstream.astype(theta.dtype)
    to_x = jnp.where(x.astype(theta.dtype) > theta, upstream, 0)
    return to_x + at.astype(x.dtype) if to_input else to_x, -at, jnp.zeros_like(width)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _step(x: Array, theta: Array, width: Array, to_input: bool) -> Array:
    return (x.astype(theta.dtype) > theta).astype(x.dtype)


def _step_backward(to_input, kept, upstream):
    x, theta, width = kept
    at = _near(x, theta, width) / width * upstream.astype(theta.dtype)
    return at.astype(x.dtype) if to_input else jnp.zeros_like(x), -at, jnp.zeros_like(width)


def _near(x: Array, theta: Array, width: Array) -> Array:
    """Returns 1 within half the width of the threshold, else 0."""
    return (jnp.abs(x.astype(theta.dtype) - theta) < width / 2).astype(theta.dtype)


_jump.defvjp(lambda x, theta, width, to_input: (_jump(x, theta, width, to_input), (x, theta, width)), _jump_backward)
_step.defvjp(lambda x, theta, width, to_input: (_step(x, theta, width, to_input), (x, theta, width)), _step_backward)
