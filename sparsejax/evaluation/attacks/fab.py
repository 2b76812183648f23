"""FAB: goes to the decision boundary, linearised, and stays close to where it came from."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from sparsejax.evaluation.attacks.geometry import Bounds, Norm, length, spread, to_hyperplane
from sparsejax.evaluation.attacks.losses import LogitsFn, Network, mistaken, runner_up
from sparsejax.evaluation.attacks.pgd import Adversarial, prepared
from sparsejax.evaluation.attacks.registry import register_attack

_MOST_BACK, _BEYOND, _CLOSER = 0.1, 1.05, 0.9


@register_attack("fab_t", targeted=True, place=5)
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
    """Seeks the nearest image that is mistaken, by way of one class after another, the likeliest first.

    Each step goes to the plane on which, to first order, the target's logit equals the label's: from where it is and
    from the clean image, and to a mean of both, weighted by how near they are; then a little beyond. From a mistaken
    image it goes a tenth back towards the clean one.

    Args:
      logits_fn: `logits_fn(x) -> [batch, classes]`, or `logits_fn(x, key)` with `draws`; examples are independent.
      x: images `[batch, ...]` within the bounds.
      labels: their classes `[batch]`.
      epsilon: success is a mistaken image within this distance, in the norm and the unit of a pixel; other images are
        given back clean. May be traced.
      norm: "linf", "l2" or "l1".
      ranks: which classes to try `[targets]`, from 1 for the likeliest but the label; None for nine or as many as there
        are.
      iterations: steps for each class, at most.
      bounds: least and greatest value of a pixel.
      draws: of a noisy network's answer, over which gradients are averaged; None for a network without noise.
      key: for the noise; it may be left out where there is none.
      stop: leave an example alone once it is mistaken within epsilon; otherwise the nearest image is sought.

    Returns:
      Adversarial, with `images` `[batch, ...]` in the ball and the bounds, the nearest mistaken ones or else the clean
        ones, and `success` `[batch]`.

    Raises:
      ValueError: epsilon is a negative Python number, the norm is none of the three, or a key is missing.

    References:
      Croce & Hein, Minimally distorted Adversarial Examples with a Fast Adaptive Boundary Attack, 2020.
    """
    network, stream = prepared(logits_fn, epsilon, norm, draws, key, random=False)
    radius = jnp.broadcast_to(jnp.asarray(epsilon, x.dtype), x.shape[:1])
    logits = network(x, stream)
    classes = logits.shape[-1]
    wrong = mistaken(logits, labels)
    nearest = jnp.where(wrong, 0.0, jnp.inf).astype(x.dtype)

    def finished(distance: Array) -> Array:
        return (distance <= radius) if stop else (distance == 0)

    def towards(carry: tuple[Array, Array], rank: Array) -> tuple[tuple[Array, Array], None]:
        target = runner_up(logits, labels, rank)

        def unfinished(state):
            i, _, _, distance = state
            return (i < iterations) & ~jnp.all(finished(distance))

        def step(state):
            i, now, best, distance = state
            own = jax.random.fold_in(jax.random.fold_in(stream, rank), i)
            there, wrong = _boundary_step(network, x, now, labels, target, norm, bounds, own)
            far = length(there - x, norm)
            nearer = wrong & (far < distance) & ~finished(distance)
            best, distance = jnp.where(spread(nearer, x), there, best), jnp.where(nearer, far, distance)
            return i + 1, jnp.where(spread(wrong, x), x + _CLOSER * (there - x), there), best, distance

        _, _, best, distance = lax.while_loop(unfinished, step, (0, x, *carry))
        return (best, distance), None

    ranks = jnp.arange(1, min(10, classes)) if ranks is None else ranks
    (best, distance), _ = lax.scan(towards, (x, nearest), ranks)
    success = distance <= radius
    return Adversarial(jnp.where(spread(success, x), best, x), success)


def _boundary_step(
    network: Network, x: Array, now: Array, labels: Array, target: Array, norm: Norm, bounds: Bounds, key: PRNGKeyArray
) -> tuple[Array, Array]:
    """Returns the next image, and whether it is mistaken."""

    def lead(logits: Array, labels: Array) -> Array:
        chosen = jnp.stack([target, labels], 1)
        pair = jnp.take_along_axis(logits, chosen, 1)
        return pair[:, 0] - pair[:, 1]

    behind, normal, _ = network.rising(lead, now, labels, key)
    along = jnp.sum((normal * (x - now)).reshape(x.shape[0], -1), -1)
    here = to_hyperplane(now, normal, -behind, norm, bounds)
    home = to_hyperplane(x, normal, -behind - along, norm, bounds)
    near, far = (jnp.maximum(length(move, norm), 1e-8) for move in (here, home))
    share = spread(jnp.clip(near / (near + far), 0, _MOST_BACK), x)
    there = jnp.clip((1 - share) * (now + _BEYOND * here) + share * (x + _BEYOND * home), *bounds)
    return there, mistaken(network(there, key), labels)
