"""Square: random search over squares of pixels, without gradients."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from sparsejax.errors import ConfigError
from sparsejax.evaluation.attacks.geometry import Bounds, Norm, expand, length
from sparsejax.evaluation.attacks.lanes import run_in_lanes
from sparsejax.evaluation.attacks.losses import margin
from sparsejax.evaluation.attacks.network import LogitsFn
from sparsejax.evaluation.attacks.pgd import Adversarial
from sparsejax.evaluation.attacks.problem import check_count, check_number, pose
from sparsejax.evaluation.attacks.registry import register_attack
from sparsejax.functional.measures import is_misclassified

# Queries, of 10,000, after which the squares shrink to half their area.
_SHRINK_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


@register_attack("square", norms=("linf", "l2"), place=6)
def square(
    logits_fn: LogitsFn,
    x: Float[Array, "batch height width channels"],
    labels: Int[Array, "batch"],
    *,
    epsilon: float | Float[Array, ""],
    norm: Norm = "linf",
    queries: int = 5000,
    area: float = 0.8,
    bounds: Bounds = (0.0, 1.0),
    draws: int | None = None,
    key: PRNGKeyArray,
) -> Adversarial:
    """Changes a random square, and keeps the change if it lowers the label's margin over the other classes.

    For linf every channel of the square is set to a bound of the ball; for l2 a peak and a trough are added in one
    square and another is reset, so that the distance stays epsilon.

    Args:
      logits_fn: `logits_fn(x) -> [batch, classes]`, or `logits_fn(x, key)` with `draws`; examples are independent.
      x: images `[batch, height, width, channels]` within the bounds.
      labels: their classes `[batch]`.
      epsilon: radius of the ball, in the norm and the unit of a pixel; may be traced.
      norm: "linf" or "l2".
      queries: largest number of queries per example.
      area: fraction of the image that the first squares cover.
      bounds: smallest and largest value of a pixel.
      draws: samples of a stochastic network over which logits are averaged; None for a deterministic network.
      key: for the squares and the noise.

    Returns:
      Adversarial, with `images` `[batch, height, width, channels]` in the ball and the bounds, misclassified if found,
        else those with the smallest margin, and `success` `[batch]`.

    Raises:
      ConfigError: epsilon is a negative Python number, the norm is unknown, x is not a batch of images, or the key is
        None.

    References:
      Andriushchenko, Croce, Flammarion & Hein, Square Attack: a query-efficient black-box adversarial attack via random
      search, 2020.
    """
    check_count("queries", queries)
    check_number("area", area, least=0, most=1)
    network, x, labels, radius, key = pose(
        logits_fn, x, labels, epsilon=epsilon, norm=norm, bounds=bounds, draws=draws, key=key, random=True,
        norms=("linf", "l2"),
    )  # fmt: skip
    if x.ndim != 4:
        raise ConfigError(f"x has shape {x.shape}; expected [batch, height, width, channels].")
    _, height, width, _ = x.shape
    sides = jnp.asarray(_sides(queries, area, height, width, least=1 if norm == "linf" else 3), jnp.int32)
    change = functools.partial(_linf_change if norm == "linf" else _l2_change, bounds=bounds)
    start = (_stripes if norm == "linf" else _tiles)(jax.random.fold_in(key, queries), x, radius)
    start = jnp.clip(x + start, *bounds)
    squares, noise = jax.random.fold_in(key, 0), jax.random.fold_in(key, 1)

    def query(examples, state, i, turn):
        x, labels, radius = examples
        now, most, _ = state
        there = change(jax.random.fold_in(squares, turn), x=x, radius=radius, now=now, side=sides[i])
        there = jnp.where(expand(i > 0, x), there, now)  # the first query asks about the start
        logits = network.around(x)(there, jax.random.fold_in(noise, turn))
        lead, wrong = margin(logits, labels).astype(x.dtype), is_misclassified(logits, labels)
        better = (lead > most) | wrong | (i == 0)
        return (jnp.where(expand(better, x), there, now), jnp.where(better, lead, most), wrong), wrong

    clean = is_misclassified(network(x, jax.random.fold_in(noise, queries)), labels)
    first = (jnp.where(expand(clean, x), x, start), jnp.zeros_like(radius), clean)
    # Misclassified images stay unchanged.
    (images, _, done), _ = run_in_lanes(query, (x, labels, radius), first, ~clean, iterations=queries)
    return Adversarial(network.shown(images), done)


def _sides(queries: int, area: float, height: int, width: int, *, least: int) -> np.ndarray:
    """Returns the side of the square of every query; odd for l2, whose pattern has a centre."""
    at = np.arange(queries) * 10_000 // queries
    halvings = np.searchsorted(_SHRINK_AFTER, at, side="left")
    side = np.maximum(np.round(np.sqrt(area * height * width / 2.0**halvings)), least).astype(int)
    side = side + (side % 2 == 0) if least > 1 else side
    return np.minimum(side, min(height, width) - 1)


def _window(key: PRNGKeyArray, x: Array, side: Array) -> tuple[Array, Array, Array]:
    """Draws squares of sides `[batch]`; returns their tops, left edges, and masks `[batch, height, width, 1]`."""
    batch, height, width, _ = x.shape
    own, side = jax.random.split(key), side.reshape(-1, 1, 1, 1)
    top, left = (
        jax.random.randint(k, (batch, 1, 1, 1), 0, jnp.maximum(size - side, 1), jnp.int32)
        for k, size in zip(own, (height, width), strict=True)
    )
    rows = jnp.arange(height, dtype=jnp.int32).reshape(1, -1, 1, 1)
    columns = jnp.arange(width, dtype=jnp.int32).reshape(1, 1, -1, 1)
    return top, left, (rows >= top) & (rows < top + side) & (columns >= left) & (columns < left + side)


def _signs(key: PRNGKeyArray, x: Array, shape: tuple[int, ...]) -> Array:
    return jax.random.rademacher(key, shape, x.dtype)


def _stripes(key: PRNGKeyArray, x: Array, radius: Array) -> Array:
    batch, _, width, channels = x.shape
    return jnp.broadcast_to(expand(radius, x) * _signs(key, x, (batch, 1, width, channels)), x.shape)


def _linf_change(key, *, x, radius, bounds, now, side):
    own = jax.random.split(key)
    _, _, where = _window(own[0], x, side)
    signs = jnp.where(where, _signs(own[1], x, (x.shape[0], 1, 1, x.shape[-1])), 0)
    moved = now + 2 * expand(radius, x) * signs
    return jnp.clip(jnp.clip(moved, x - expand(radius, x), x + expand(radius, x)), *bounds)


def _tiles(key: PRNGKeyArray, x: Array, radius: Array) -> Array:
    """Covers images with five by five patterns of random signs."""
    batch, height, width, channels = x.shape
    side = max(min(height, width) // 5, 1)
    pattern = jnp.asarray(_pattern(side), x.dtype)
    tiles = jnp.tile(pattern, (5, 5))[:height, :width]
    signs = _signs(key, x, (batch, 5, 5, channels)).repeat(side, 1).repeat(side, 2)[:, :height, :width]
    delta = tiles[None, :, :, None] * signs
    before = [(size - used) // 2 for size, used in zip((height, width), tiles.shape, strict=True)]
    after = [size - used - first for size, used, first in zip((height, width), tiles.shape, before, strict=True)]
    delta = jnp.pad(delta, ((0, 0), (before[0], after[0]), (before[1], after[1]), (0, 0)))
    return expand(radius / jnp.maximum(length(delta, "l2"), 1e-12), x) * delta


def _l2_change(key, *, x, radius, bounds, now, side):
    batch, height, width, channels = x.shape
    own = jax.random.split(key, 4)
    delta = now - x
    top, left, where = _window(own[0], x, side)
    _, _, cleared = _window(own[1], x, side)
    pattern = jnp.asarray(_bank(min(height, width)), x.dtype)[side]
    peak = jnp.where(jax.random.bernoulli(own[2], shape=(batch, 1, 1)), pattern, pattern.mT)
    peak = jnp.pad(peak, ((0, 0), (0, height - pattern.shape[1]), (0, width - pattern.shape[2])))
    place = jax.vmap(lambda image, row, column: jnp.roll(image, (row, column), (0, 1)))
    placed = place(peak, top.ravel(), left.ravel())[..., None] * _signs(own[3], x, (batch, 1, 1, channels))

    masks = jnp.concatenate([where, where | cleared, jnp.ones_like(where)], -1)
    old, both, all_of_it = jnp.moveaxis(_sums(delta**2, masks), 1, 0)
    new = placed + jnp.where(where, delta, 0) / (jnp.sqrt(old) + 1e-12)[:, None, None]
    unused = jnp.maximum(radius**2 - jnp.sum(all_of_it, -1), 0)[:, None] / channels
    size = jnp.sqrt(unused + both) / (jnp.sqrt(_sums(new**2, masks[..., 2:])[:, 0]) + 1e-12)
    delta = jnp.where(where, new * size[:, None, None], jnp.where(cleared, 0, delta))
    far = jnp.sqrt(jnp.sum(_sums(delta**2, masks[..., 2:]), (1, 2)))
    return jnp.clip(x + delta * expand(radius / (far + 1e-12), x), *bounds)


def _sums(images: Array, masks: Array) -> Array:
    """Returns the sum of every channel within each mask `[batch, masks, channels]`.

    A product of matrices: XLA's sums along the two middle axes are several times as slow on a CPU.
    """
    flat = images.reshape(images.shape[0], -1, images.shape[-1])
    return jnp.einsum("bpm,bpc->bmc", masks.reshape(*flat.shape[:2], -1).astype(images.dtype), flat)


@functools.cache
def _bank(most: int) -> np.ndarray:
    """Returns the patterns of all sides up to the largest, each in a corner `[sides, most, most]`."""
    bank = np.zeros((most + 1, most, most))
    for side in range(1, most + 1):
        bank[side, :side, :side] = _pattern(side)
    return bank


def _pattern(side: int) -> np.ndarray:
    """Returns a peak above a trough, of norm 1."""
    half = side // 2
    pattern = np.concatenate([_peak(half, side), -_peak(side - half, side)])
    return pattern / math.sqrt((pattern**2).sum())


def _peak(rows: int, columns: int) -> np.ndarray:
    """Sums rectangles that grow around the centre, each lower than the previous one."""
    peak = np.zeros((rows, columns))
    if not rows:
        return peak
    row, column = rows // 2, columns // 2
    for i in range(max(rows // 2 + 1, columns // 2 + 1)):
        top, left = max(row - i, 0), max(column - i, 0)
        peak[top : max(row + i + 1, 0), left : max(column + i + 1, 0)] += 1 / (i + 1) ** 2
    return peak / math.sqrt((peak**2).sum())
