"""FMN: the nearest misclassified image in any norm, with a ball of adaptive radius."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from sparsejax.evaluation.attacks.geometry import Bounds, Norm, dual_length, expand, inside, length
from sparsejax.evaluation.attacks.losses import margin
from sparsejax.evaluation.attacks.network import LogitsFn
from sparsejax.evaluation.attacks.problem import check_count, check_number, pose
from sparsejax.functional.measures import is_misclassified


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
    check_count("iterations", iterations)
    if step is not None:
        check_number("step", step, least=0)
    network, x, labels, farthest, stream = pose(
        logits_fn, x, labels, norm=norm, bounds=bounds, draws=draws, key=key, norms=("linf", "l2", "l1", "l0")
    )
    first_step = (10.0 if norm == "l0" else 1.0) if step is None else step

    def nearer(now: Array, wrong: Array, best: Array, distance: Array) -> tuple[Array, Array, Array]:
        far = length(now - x, norm)
        better = wrong & (far < distance)
        return jnp.where(expand(better, x), now, best), jnp.where(better, far, distance), far

    def once(i: Array, carry: tuple[Array, ...]) -> tuple[Array, ...]:
        now, radius, *found = carry
        lead, gradient, wrong = network.loss_and_gradient(margin, now, labels, jax.random.fold_in(stream, i))
        best, distance, far = nearer(now, wrong, *found)
        # Only entries that the box lets move bring the boundary nearer.
        blocked = ((gradient > 0) & (now >= bounds[1])) | ((gradient < 0) & (now <= bounds[0]))
        free = jnp.where(blocked, 0, gradient)
        fall = 0.5 * (1 + jnp.cos(jnp.pi * i.astype(x.dtype) / iterations))
        gamma, size = 0.001 + (0.05 - 0.001) * fall, first_step * (0.01 + 0.99 * fall)
        to_boundary = jnp.abs(lead) / jnp.maximum(dual_length(free, norm), 1e-12)
        if norm == "l0":
            shrunk = jnp.minimum(jnp.minimum(radius - 1, jnp.floor(radius * (1 - gamma))), distance)
            grown = jnp.maximum(radius + 1, jnp.floor(radius * (1 + gamma)))
        else:
            shrunk = jnp.minimum(radius * (1 - gamma), distance)
            # Slightly beyond the boundary; otherwise rounding might keep an image from crossing it.
            grown = jnp.where(jnp.isfinite(distance), radius * (1 + gamma), far + (1 + gamma) * to_boundary)
        radius = jnp.where(wrong, shrunk, jnp.minimum(grown, farthest))
        direction = gradient / expand(jnp.maximum(length(gradient, "l2"), 1e-12), x)
        return inside(x, now + size * direction, radius, norm, bounds), radius, best, distance

    infinite = jnp.full(len(x), jnp.inf, x.dtype)
    start = (x, jnp.zeros_like(infinite), x, infinite)  # a radius of 0 grows by the distance to the boundary
    now, _, *found = lax.fori_loop(0, iterations, once, start)
    wrong = is_misclassified(network(now, jax.random.fold_in(stream, iterations)), labels)
    best, distance, _ = nearer(now, wrong, *found)
    shown = network.shown(best)
    return Nearest(
        shown,
        jnp.where(jnp.isfinite(distance), length(shown.astype(x.dtype) - x, norm), jnp.inf),
        jnp.isfinite(distance),
    )
