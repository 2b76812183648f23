"""FMN: the nearest misclassified image in any norm, with a ball of adaptive radius."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from sparsejax.errors import ConfigError
from sparsejax.evaluation.attacks.geometry import Bounds, Norm, dual_length, expand, inside, length
from sparsejax.evaluation.attacks.losses import LogitsFn, margin
from sparsejax.evaluation.attacks.pgd import prepare


class Nearest(NamedTuple):
    """The nearest misclassified images, or clean ones; their distances, infinite if none was found; success."""

    images: Float[Array, "batch *shape"]
    distance: Float[Array, "batch"]
    success: Bool[Array, "batch"]


def fmn(
    logits_fn: LogitsFn,
    x: Float[Array, "batch *shape"],
    labels: Int[Array, "batch"],
    *,
    norm: Norm = "l2",
    iterations: int = 1000,
    step: float | None = None,
    bounds: Bounds = (0.0, 1.0),
    draws: int | None = None,
    key: PRNGKeyArray | None = None,
) -> Nearest:
    r"""Finds the nearest misclassified image by gradient steps within a ball that shrinks on misclassification.

    The radius starts at the first-order distance to the boundary, for l0 at one entry. It shrinks by a factor
    :math:`1 - \gamma` when the image is misclassified (never above the nearest one found) and grows by :math:`1 +
    \gamma` when it is not, for l0 by at least one entry; the step size and gamma follow a cosine schedule.

    Args:
      logits_fn: `logits_fn(x) -> [batch, classes]`, or `logits_fn(x, key)` with `draws`; examples are independent.
      x: images `[batch, ...]` within the bounds.
      labels: their classes `[batch]`.
      norm: "linf", "l2", "l1" or "l0" (the number of entries that differ).
      iterations: number of steps, each with one gradient.
      step: length (l2) of the first step; None for 1, for l0 10. (In linf, 10 gave distances larger by half.)
      bounds: smallest and largest value of a pixel.
      draws: samples of a stochastic network over which gradients are averaged; None for a deterministic network.
      key: for the noise; optional without noise.

    Returns:
      Nearest, with `images` `[batch, ...]`, misclassified if found, else clean, their `distance` `[batch]` in the norm
        and the unit of a pixel, infinite if none was found, and `success` `[batch]`.

    Raises:
      ConfigError: the norm is unknown, or a key is missing.

    References:
      Pintor et al., Fast Minimum-norm Adversarial Attacks through Adaptive Norm Constraints, 2021, algorithm 1.
    """
    if norm not in ("linf", "l2", "l1", "l0"):
        raise ConfigError(f"norm is {norm}; expected linf, l2, l1 or l0.")
    network, stream = prepare(logits_fn, 0.0, "l2", draws, key, random=False)
    first_step = (10.0 if norm == "l0" else 1.0) if step is None else step
    batch = x.shape[0]

    def once(i: Array, carry: tuple[Array, ...]) -> tuple[Array, ...]:
        now, radius, best, distance = carry
        lead, gradient, wrong = network.loss_and_gradient(margin, now, labels, jax.random.fold_in(stream, i))
        far = length(now - x, norm)
        nearer = wrong & (far < distance)
        best, distance = jnp.where(expand(nearer, x), now, best), jnp.where(nearer, far, distance)
        fall = 0.5 * (1 + jnp.cos(jnp.pi * i.astype(x.dtype) / iterations))
        gamma, size = 0.001 + (0.05 - 0.001) * fall, first_step * (0.01 + 0.99 * fall)
        found = jnp.isfinite(distance)
        to_boundary = jnp.abs(lead) / jnp.maximum(dual_length(gradient, norm), 1e-12)
        if norm == "l0":
            shrunk = jnp.minimum(jnp.minimum(radius - 1, jnp.floor(radius * (1 - gamma))), distance)
            grown = jnp.minimum(jnp.maximum(radius + 1, jnp.floor(radius * (1 + gamma))), x[0].size)
        else:
            shrunk = jnp.minimum(radius * (1 - gamma), distance)
            # Slightly beyond the boundary; otherwise rounding might keep an image from crossing it.
            grown = jnp.where(found, radius * (1 + gamma), far + (1 + gamma) * to_boundary)
        radius = jnp.where(wrong, shrunk, grown)
        direction = gradient / expand(jnp.maximum(length(gradient, "l2"), 1e-12), x)
        there = inside(x, now + size * direction, radius, norm, bounds)
        return there, radius, best, distance

    infinite = jnp.full(batch, jnp.inf, x.dtype)
    start = (x, jnp.zeros_like(infinite), x, infinite)  # a radius of 0 grows by the distance to the boundary
    now, _, best, distance = lax.fori_loop(0, iterations, once, start)
    wrong = margin(network(now, jax.random.fold_in(stream, iterations)), labels) > 0
    far = length(now - x, norm)
    nearer = wrong & (far < distance)
    best, distance = jnp.where(expand(nearer, x), now, best), jnp.where(nearer, far, distance)
    return Nearest(best, distance, jnp.isfinite(distance))
