"""Balls, boxes and hyperplanes: the feasible set of an attack, and projections.

Every function takes batches `[batch, ...]` and treats an example as one vector. Norms are "linf", "l2", "l1" and "l0"
(the number of entries that differ from 0).
"""

import math
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from sparsejax.functional import kth_largest, winners

Norm = Literal["linf", "l2", "l1", "l0"]
Bounds = tuple[float, float]
BALLS: tuple[Norm, ...] = ("linf", "l2", "l1")
"""The norms of attacks within a ball."""

_PASSES = 100
"""Most steps towards a threshold of l1."""


def widen(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Returns an array in float32, or in float64 if it was."""
    return x if jnp.finfo(x.dtype).bits >= 32 else x.astype(jnp.float32)


def flatten(x: Float[Array, "batch *shape"]) -> Float[Array, "batch entries"]:
    """Returns every example as one vector, also of an empty batch."""
    return x.reshape(x.shape[0], math.prod(x.shape[1:]))


def length(delta: Float[Array, "batch *shape"], norm: Norm) -> Float[Array, "batch"]:
    """Returns the norm of every example; in l2 without underflow or overflow of the squares."""
    flat = jnp.abs(flatten(delta))
    if norm == "linf":
        return jnp.max(flat, axis=-1)
    if norm == "l2":
        largest = jnp.max(flat, axis=-1)
        scale = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)
        return scale * jnp.sqrt(jnp.sum((flat / scale[:, None]) ** 2, axis=-1))
    if norm == "l1":
        return jnp.sum(flat, axis=-1)
    return jnp.sum(flat > 0, axis=-1).astype(delta.dtype)


def dual_length(gradient: Float[Array, "batch *shape"], norm: Norm) -> Float[Array, "batch"]:
    """Returns the largest slope of a function along a direction of norm 1; for l0, along one entry."""
    dual: dict[Norm, Norm] = {"linf": "l1", "l2": "l2", "l1": "linf", "l0": "linf"}
    return length(gradient, dual[norm])


def expand(scale: Float[Array, "batch"], like: Float[Array, "batch *shape"]) -> Float[Array, "batch *ones"]:
    """Returns one number per example, reshaped to broadcast against the examples."""
    return scale.reshape((-1,) + (1,) * (like.ndim - 1))


def onto_ball(
    delta: Float[Array, "batch *shape"], epsilon: Float[Array, "batch"], norm: Norm
) -> Float[Array, "batch *shape"]:
    """Returns the nearest points (in l2) of the balls of radius epsilon around 0.

    References:
      Duchi et al., Efficient projections onto the l1-ball for learning in high dimensions, 2008.
    """
    if norm == "linf":
        radius = expand(epsilon, delta)
        return jnp.clip(delta, -radius, radius)
    if norm == "l2":
        return delta * expand(jnp.minimum(1.0, epsilon / jnp.maximum(length(delta, "l2"), 1e-30)), delta)
    flat = jnp.abs(flatten(delta))
    if norm == "l0":
        return jnp.where(_first(jnp.abs(delta), epsilon), delta, 0)
    ranked = -jnp.sort(-flat, axis=-1)
    excess = (jnp.cumsum(ranked, -1) - epsilon[:, None]) / jnp.arange(1, flat.shape[-1] + 1, dtype=delta.dtype)[None, :]
    last = jnp.sum(ranked > excess, axis=-1) - 1
    threshold = jnp.maximum(jnp.take_along_axis(excess, jnp.maximum(last, 0)[:, None], 1)[:, 0], 0)
    return jnp.sign(delta) * jnp.maximum(jnp.abs(delta) - expand(threshold, delta), 0)


def inside(
    x: Float[Array, "batch *shape"],
    candidate: Float[Array, "batch *shape"],
    epsilon: Float[Array, "batch"],
    norm: Norm,
    bounds: Bounds,
) -> Float[Array, "batch *shape"]:
    r"""Projects candidates onto the intersection of the balls around x and the box, which contains x.

    This is the nearest point (in l2) of both, so that no part of epsilon is wasted on a pixel at its bound. In l2 every
    entry of the difference d is multiplied by the same factor, unless it then leaves its room to the bound:
    :math:`\sum_i \min(s |d_i|, room_i)^2 = \epsilon^2`.

    References:
      Croce & Hein, Mind the box: l1-APGD for sparse adversarial attacks on image classifiers, 2021, section 2 (l1).
    """
    if norm == "linf":
        return jnp.clip(x + onto_ball(candidate - x, epsilon, norm), *bounds)
    if norm == "l0":
        cut = jnp.clip(candidate, *bounds)
        nearer_by = (candidate - x) ** 2 - (candidate - cut) ** 2  # squared distance that moving an entry saves
        return jnp.where(_first(nearer_by, epsilon), cut, x)
    delta = candidate - x
    move = _within_l1 if norm == "l1" else _within_l2
    size = move(jnp.abs(flatten(delta)), flatten(_room(x, delta, bounds)), epsilon)
    return jnp.clip(x + jnp.sign(delta) * size.reshape(x.shape), *bounds)


def _room(x: Array, direction: Array, bounds: Bounds) -> Array:
    """Returns how far every entry may move in its direction; 0 also beyond a bound by rounding."""
    room = jnp.where(direction > 0, bounds[1] - x, jnp.where(direction < 0, x - bounds[0], 0))
    return jnp.maximum(room, 0)


def _within_l2(size: Array, room: Array, epsilon: Array) -> Array:
    longest = jnp.maximum(length(size, "l2"), 1e-30)
    unit = size / longest[:, None]
    factor = jnp.sqrt(fill_level(unit * unit, room * room, epsilon * epsilon))
    return jnp.minimum(jnp.minimum(factor, longest)[:, None] * unit, room)


def _first(gain: Array, entries: Array) -> Array:
    """Marks the `entries` entries of largest gain."""
    flat = flatten(gain)
    return jax.vmap(partial(winners, ties="first"))(flat, jnp.floor(entries).astype(jnp.int32)).reshape(gain.shape)


def _within_l1(size: Array, room: Array, epsilon: Array) -> Array:
    r"""Finds the threshold t with :math:`\sum_i \min(\max(|d_i| - t, 0), room_i)` = epsilon, or 0 if none reaches it.

    The sum falls piecewise linearly in t. Newton's steps are exact once they reach the right piece; one that leaves the
    interval known to contain t is replaced by its middle. That takes about ten passes over the entries; sorting them
    takes many more.
    """

    def move(threshold: Array) -> Array:
        return jnp.clip(size - threshold[:, None], 0, room)

    def step(carry: tuple[Array, ...]) -> tuple[Array, ...]:
        low, high, threshold, _, turn = carry
        excess = jnp.sum(move(threshold), -1) - epsilon
        left = size - threshold[:, None]
        rate = jnp.sum((left > 0) & (left <= room), -1).astype(size.dtype)
        low, high = jnp.where(excess > 0, threshold, low), jnp.where(excess > 0, high, threshold)
        newton = threshold + excess / jnp.maximum(rate, 1)
        there = jnp.where((newton > low) & (newton < high) & (rate > 0), newton, (low + high) / 2)
        there = jnp.where(jnp.abs(excess) <= 1e-6 * epsilon, threshold, jnp.clip(there, low, high))
        return low, high, there, threshold, turn + 1

    def unfinished(carry: tuple[Array, ...]) -> Array:
        _, _, there, before, turn = carry
        return jnp.any(there != before) & (turn < _PASSES)

    nothing = jnp.zeros_like(epsilon)
    start = (nothing, jnp.max(size, -1), nothing, nothing - 1, jnp.int32(0))
    threshold = lax.while_loop(unfinished, step, start)[2]
    moved = move(jnp.where(jnp.sum(move(nothing), -1) > epsilon, threshold, 0))
    # Sums and images are rounded: a slightly smaller radius keeps them in the ball.
    return moved * jnp.minimum(1, epsilon * (1 - 1e-6) / jnp.maximum(jnp.sum(moved, -1), 1e-30))[:, None]


def steepest(
    gradient: Float[Array, "batch *shape"], norm: Norm, *, share: float = 0.01
) -> Float[Array, "batch *shape"]:
    """Returns the direction of norm 1 of steepest ascent.

    For l1 that would be one entry; instead the `share` of the entries with the largest gradients is used, in equal
    parts.

    References:
      Tramèr & Boneh, Adversarial Training and Robustness for Multiple Perturbations, 2019 (l1).
    """
    if norm == "linf":
        return jnp.sign(gradient)
    if norm == "l2":
        return gradient / expand(jnp.maximum(length(gradient, "l2"), 1e-30), gradient)
    flat = jnp.abs(flatten(gradient))
    count = max(1, round(share * flat.shape[-1]))
    direction = jnp.where(jnp.abs(gradient) >= expand(kth_largest(flat, count), gradient), jnp.sign(gradient), 0)
    return direction / expand(jnp.maximum(length(direction, "l1"), 1), gradient)


def random_start(
    key: PRNGKeyArray, x: Float[Array, "batch *shape"], epsilon: Float[Array, "batch"], norm: Norm
) -> Float[Array, "batch *shape"]:
    """Draws a point in every ball: uniform in it for linf, of length epsilon times U(0, 1) for l2 and l1."""
    radius, own = expand(epsilon, x), jax.random.split(key)
    if norm == "linf":
        return x + radius * jax.random.uniform(own[0], x.shape, x.dtype, -1, 1)
    draw = jax.random.normal if norm == "l2" else jax.random.laplace
    direction = draw(own[0], x.shape, x.dtype)
    far = jax.random.uniform(own[1], (x.shape[0],), x.dtype)
    return x + radius * expand(far / length(direction, norm), x) * direction


def to_hyperplane(
    x: Float[Array, "batch *shape"],
    normal: Float[Array, "batch *shape"],
    missing: Float[Array, "batch"],
    norm: Norm,
    bounds: Bounds,
) -> Float[Array, "batch *shape"]:
    r"""Returns the shortest d within the box with :math:`\langle w, d \rangle` = missing, or the closest possible.

    Entry i may move by at most room_i, its distance to the bound. l1 fills the entries of largest :math:`|w|` first;
    linf and l2 raise a level, :math:`|d_i| = \min(\mu, room_i)` and
    :math:`\min(\mu |w_i|, room_i)`, until the sum is reached.

    Args:
      x: points in the box.
      normal: w.
      missing: target of the inner product `[batch]`.
      norm: of d.
      bounds: of the box.

    References:
      Croce & Hein, Minimally distorted Adversarial Examples with a Fast Adaptive Boundary Attack, 2020, section 2.2.
    """
    toward = normal * expand(jnp.sign(missing), normal)
    total, size, room = jnp.abs(missing), jnp.abs(flatten(normal)), flatten(_room(x, toward, bounds))
    gain = size * room
    if norm in ("linf", "l2"):
        level = fill_level(size if norm == "linf" else size * size, gain, total)[:, None]
        move = jnp.minimum(level if norm == "linf" else level * size, room)
    else:
        order = jnp.argsort(-size, axis=-1)
        ranked = jnp.take_along_axis(gain, order, 1)
        before = jnp.cumsum(ranked, -1) - ranked
        part = jnp.clip((total[:, None] - before) / jnp.maximum(ranked, 1e-30), 0, 1)
        share = jnp.zeros_like(part).at[jnp.arange(len(x))[:, None], order].set(part)
        move = share * room
    return jnp.sign(toward) * move.reshape(x.shape)


def fill_level(
    rate: Float[Array, "batch entries"], most: Float[Array, "batch entries"], total: Float[Array, "batch"]
) -> Float[Array, "batch"]:
    r"""Returns the smallest level with :math:`\sum_i \min(level \, rate_i, most_i) \ge total`, or one that fills all.

    The sum is concave and piecewise linear in the level, so Newton's steps from below never pass the solution, and end
    once no entry becomes full: usually after about five passes over the entries, where sorting takes many more.
    """

    def rise(level: Array) -> Array:
        full = (level[:, None] * rate >= most) | (rate <= 0)
        filled = jnp.sum(jnp.where(full & (rate > 0), most, 0), axis=-1)
        rising = jnp.sum(jnp.where(full, 0, rate), axis=-1)
        return jnp.where(rising > 0, jnp.maximum((total - filled) / jnp.where(rising > 0, rising, 1), level), level)

    def step(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        return rise(carry[0]), carry[0]

    start = jnp.zeros_like(total)
    return lax.while_loop(lambda carry: jnp.any(carry[0] > carry[1]), step, (rise(start), start))[0]
