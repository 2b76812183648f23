"""FAB: steps to the linearised decision boundary while staying close to the clean image."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from sparsejax.evaluation.attacks.geometry import BALLS, Bounds, Norm, expand, flatten, length, to_hyperplane
from sparsejax.evaluation.attacks.lanes import run_in_lanes
from sparsejax.evaluation.attacks.losses import runner_up
from sparsejax.evaluation.attacks.network import LogitsFn, Network
from sparsejax.evaluation.attacks.pgd import Adversarial
from sparsejax.evaluation.attacks.problem import check_count, check_ranks, pose
from sparsejax.evaluation.attacks.registry import register_attack
from sparsejax.functional.measures import is_misclassified

_MOST_BACK, _BEYOND, _CLOSER = 0.1, 1.05, 0.9


@register_attack("fab_t", targeted=True, norms=BALLS, place=5)
def fab_targeted(
    logits_fn: LogitsFn,
    x: Float[Array, "batch *shape"],
    labels: Int[Array, "batch"],
    *,
    epsilon: float | Float[Array, ""],
    norm: Norm = "linf",
    ranks: Int[Array, "targets"] | None = None,
    iterations: int = 100,
    bounds: Bounds = (0.0, 1.0),
    draws: int | None = None,
    key: PRNGKeyArray | None = None,
    stop: bool = True,
) -> Adversarial:
    """Finds the nearest misclassified image, towards one class after another, the most likely first.

    Each step projects the current and the clean image onto the plane where, to first order, the target's logit equals
    the label's, averages both, weighted by their distances, and overshoots slightly. From a misclassified image it
    moves a tenth back towards the clean one.

    Args:
      logits_fn: `logits_fn(x) -> [batch, classes]`, or `logits_fn(x, key)` with `draws`; examples are independent.
      x: images `[batch, ...]` within the bounds.
      labels: their classes `[batch]`.
      epsilon: success is a misclassified image within this distance, in the norm and the unit of a pixel; other images
        are returned clean. May be traced.
      norm: "linf", "l2" or "l1".
      ranks: which classes to try `[targets]`, from 1 for the most likely class except the label; None for up to nine.
      iterations: largest number of steps per class.
      bounds: smallest and largest value of a pixel.
      draws: samples of a stochastic network over which gradients are averaged; None for a deterministic network.
      key: for the noise; optional without noise.
      stop: stop for an example once it is misclassified within epsilon; otherwise find the nearest image.

    Returns:
      Adversarial, with `images` `[batch, ...]` in the ball and the bounds, the nearest misclassified ones or else
        clean, and `success` `[batch]`.

    Raises:
      ConfigError: epsilon is a negative Python number, the norm is unknown, or a key is missing.

    References:
      Croce & Hein, Minimally distorted Adversarial Examples with a Fast Adaptive Boundary Attack, 2020.
    """
    check_count("iterations", iterations)
    network, x, labels, radius, stream = pose(
        logits_fn, x, labels, epsilon=epsilon, norm=norm, bounds=bounds, draws=draws, key=key
    )
    logits = network(x, stream)
    ranks = check_ranks(ranks, logits.shape[-1])
    wrong = is_misclassified(logits, labels)
    nearest = jnp.where(wrong, 0.0, jnp.inf).astype(x.dtype)

    def is_finished(distance: Array, radius: Array) -> Array:
        return (distance <= radius) if stop else (distance == 0)

    def towards(carry: tuple[Array, Array], rank: Array) -> tuple[tuple[Array, Array], None]:
        target = runner_up(logits, labels, rank)
        own = jax.random.fold_in(stream, rank)

        def step(examples, state, i, turn):
            del i
            (x, labels, target, radius), (now, best, distance) = examples, state
            there, wrong = _boundary_step(
                network.around(x), x, now, labels, target, norm, bounds, jax.random.fold_in(own, turn)
            )
            far = length(there - x, norm)
            nearer = wrong & (far < distance)
            best, distance = jnp.where(expand(nearer, x), there, best), jnp.where(nearer, far, distance)
            now = jnp.where(expand(wrong, x), x + _CLOSER * (there - x), there)
            return (now, best, distance), is_finished(distance, radius)

        first, waiting = (x, *carry), ~is_finished(carry[1], radius)
        (_, best, distance), _ = run_in_lanes(step, (x, labels, target, radius), first, waiting, iterations=iterations)
        return (best, distance), None

    (best, distance), _ = lax.scan(towards, (x, nearest), ranks)
    success = distance <= radius
    return Adversarial(network.shown(jnp.where(expand(success, x), best, x)), success)


def _boundary_step(
    network: Network, x: Array, now: Array, labels: Array, target: Array, norm: Norm, bounds: Bounds, key: PRNGKeyArray
) -> tuple[Array, Array]:
    """Returns the next image, and whether it is misclassified."""

    def lead(logits: Array, labels: Array) -> Array:
        chosen = jnp.stack([target, labels], 1)
        pair = jnp.take_along_axis(logits, chosen, 1)
        return pair[:, 0] - pair[:, 1]

    behind, normal, _ = network.loss_and_gradient(lead, now, labels, key)
    along = jnp.sum(flatten(normal * (x - now)), -1)
    here = to_hyperplane(now, normal, -behind, norm, bounds)
    home = to_hyperplane(x, normal, -behind - along, norm, bounds)
    near, far = (jnp.maximum(length(move, norm), 1e-8) for move in (here, home))
    share = expand(jnp.clip(near / (near + far), 0, _MOST_BACK), x)
    there = jnp.clip((1 - share) * (now + _BEYOND * here) + share * (x + _BEYOND * home), *bounds)
    return there, is_misclassified(network(there, key), labels)
