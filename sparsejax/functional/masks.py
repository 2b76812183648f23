"""Sparse connectivity: masks with an exact number of non-zero weights per unit, and their rewiring during training."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from sparsejax.functional.arguments import checked
from sparsejax.functional.selection import winners
from sparsejax.functional.shards import on_shards, spread_like


@checked
def sparse_mask(key: PRNGKeyArray, shape: tuple[int, ...], density: float | Float[Array, ""]) -> Bool[Array, "*shape"]:
    """Draws the connected inputs of every unit independently.

    Each unit has exactly round(density * fan_in) connections (half to even), drawn without replacement.

    Args:
      key: a PRNG key; the same key gives the same mask.
      shape: of the weights, units last: `[inputs, units]`, or `[height, width, channels, units]` for a convolution,
        whose fan-in is height * width * channels.
      density: fraction of non-zero weights, 0 < density <= 1. A traced one gives the same mask, with at least one
        connection and rounding in float32.

    Returns:
      Boolean array of that shape, True where connected.

    Raises:
      ValueError: shape has fewer than two axes, or density is a Python number outside (0, 1] or so small that a unit
        has no connection.

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
    # Random numbers may be equal, so ties must be broken for an exact count.
    scores = jax.random.bits(key, (shape[-1], fan_in), jnp.uint32).astype(jnp.int32)
    return winners(scores, connections).T.reshape(shape)


@checked
def connections_per_unit(shape: tuple[int, ...], density: float) -> int:
    """Returns the number of non-zero weights of each unit: round(density * fan_in), half to even.

    Args:
      shape: of the weights, units last: `[inputs, units]`, or `[height, width, channels, units]` for a convolution.
      density: fraction of non-zero weights, 0 < density <= 1.

    Returns:
      A Python integer, 1 or more.

    Raises:
      ValueError: shape has fewer than two axes, density is outside (0, 1], or so small that a unit has no connection.

    References:
      Ahmad & Scheinkman, How Can We Be So Dense?, 2019, section 3; the equal number for every unit is that of the
      authors' library.
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
      ValueError: shape has fewer than two axes, or no inputs.
    """
    if len(shape) < 2 or min(shape[:-1]) < 1:
        raise ValueError(f"Weights of shape {shape} have no inputs; expected [inputs, units] or [H, W, C, units].")
    fan_in = 1
    for size in shape[:-1]:
        fan_in *= size
    return fan_in


def check_kernel(shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    """Checks the shape of a layer's kernel, with a hint for kernels in PyTorch's layout.

    Args:
      shape: of the kernel.
      expected: shape for the layer's inputs and units, units last.

    Raises:
      ValueError: they differ.
    """
    if shape == expected:
        return
    *image, inputs, units = expected
    names, turn = ("[inputs, units]", "kernel.T") if not image else (
        "[height, width, inputs, units]", "jnp.transpose(kernel, (2, 3, 1, 0))"
    )  # fmt: skip
    hint = f" It seems to be in PyTorch's layout; pass {turn}." if shape == (units, inputs, *image) else ""
    raise ValueError(f"The kernel has shape {shape}; expected {names}, {expected}.{hint}")


@checked
def rewire(
    key: PRNGKeyArray,
    weights: Float[Array, "*inputs units"],
    mask: Bool[Array, "*inputs units"],
    gradient: Float[Array, "*inputs units"] | None,
    fraction: float | Float[Array, ""],
) -> tuple[Float[Array, "*inputs units"], Bool[Array, "*inputs units"]]:
    """Drops each unit's smallest weights and grows as many: at random (SET), or where the gradient is largest (RigL).

    Every unit keeps exactly its number of connections, of which round(fraction * connections) are dropped. New
    connections come from all positions not kept, so a dropped one may return, and start at 0: the network's output
      changes only by the dropped weights.

    Args:
      key: a PRNG key; unused with a gradient.
      weights: `[inputs, units]` or `[height, width, channels, units]`.
      mask: like weights, True where connected.
      gradient: of the loss with respect to every weight, including masked ones; None to grow at random.
      fraction: of the connections to move, in [0, 1]; may be traced.

    Returns:
      The weights, 0 where newly grown or not connected, and the mask.

    Raises:
      ValueError: shapes differ, or fraction is a Python number outside [0, 1].

    References:
      Mocanu et al., Scalable Training of Artificial Neural Networks with Adaptive Sparse Connectivity, 2018 (SET, which
      drops the smallest positive and largest negative weights; by magnitude here); Evci et al., Rigging the Lottery,
      2020, Algorithm 1 (RigL).
    """
    if weights.shape != mask.shape or (gradient is not None and gradient.shape != weights.shape):
        others = mask.shape if gradient is None else (mask.shape, gradient.shape)
        raise ValueError(f"weights have shape {weights.shape}, mask and gradient {others}; expected one shape for all.")
    if isinstance(fraction, (int, float)) and not 0 <= fraction <= 1:
        raise ValueError(f"fraction is {fraction}; expected the fraction of the connections to move, in [0, 1].")
    fan_in, units = fan_in_of(weights.shape), weights.shape[-1]

    def by_unit(array):
        return None if array is None else jnp.moveaxis(array, -1, 0)

    scores = None if gradient is not None else jax.random.bits(key, (units, fan_in), jnp.uint32)
    rows = {name: by_unit(a) for name, a in (("weights", weights), ("mask", mask), ("gradient", gradient))}
    kept, grown = on_shards(_move, lead=1, rows={**rows, "scores": scores}, shared={"fraction": fraction})
    kept, grown = (spread_like(jnp.moveaxis(marks, 0, -1), mask) for marks in (kept, grown))
    return jnp.where(kept, weights, jnp.zeros_like(weights)), kept | grown


def _move(weights, mask, gradient, scores, fraction) -> tuple[Bool[Array, "units *inputs"], ...]:
    """Marks the connections that each unit keeps, and those it grows."""
    connected = mask.reshape(len(mask), math.prod(mask.shape[1:]))
    count = jnp.sum(connected, axis=-1, dtype=jnp.int32)
    moved = jnp.round(jnp.asarray(fraction, jnp.float32) * count.astype(jnp.float32)).astype(jnp.int32)
    # -1 is below every magnitude and every random number, so it is never chosen.
    kept = winners(jnp.where(connected, jnp.abs(weights.reshape(connected.shape)), -1.0), count - moved)
    score = (scores >> 1).astype(jnp.int32) if gradient is None else jnp.abs(gradient.reshape(connected.shape))
    grown = winners(jnp.where(kept, jnp.full_like(score, -1), score), moved)
    return kept.reshape(mask.shape), grown.reshape(mask.shape)
