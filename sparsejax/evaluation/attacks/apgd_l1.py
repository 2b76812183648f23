"""APGD within balls of l1: steps as sparse as the best point found, in balls that shrink to epsilon."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from sparsejax.evaluation.attacks.geometry import Bounds, expand, flatten, inside, length
from sparsejax.evaluation.attacks.losses import Loss
from sparsejax.evaluation.attacks.pgd import Adversarial
from sparsejax.evaluation.attacks.problem import Problem
from sparsejax.functional import kth_largest

_STAGES = ((3, 0.3), (2, 0.3), (1, 0.4))
"""Radius of each stage, in epsilon, and its fraction of the steps."""
_SPARSER, _SETTLED = 1.5, 0.95
_LEAST_STEP = 0.1


class _Climb(NamedTuple):
    """Per example: current point, best point with loss and gradient, and the length and density of its step."""

    now: Array
    gradient: Array
    best: Array
    best_gradient: Array
    best_loss: Array
    step: Array
    density: Array
    entries: Array
    done: Array


def climb_l1(problem: Problem, loss: Loss, iterations: int, bounds: Bounds, done: Array | None = None) -> Adversarial:
    """Maximises a loss in three stages, from a random start; examples misclassified at the start are unchanged.

    References:
      Croce & Hein, Mind the box: l1-APGD for sparse adversarial attacks on image classifiers, 2021, algorithm 1 and
      section 3.2 (the stages).
    """
    network, x, labels, radius, key = problem
    spared = jnp.zeros(x.shape[:1], bool) if done is None else done
    start_key, key = jax.random.split(key)
    found = Adversarial(x + jax.random.normal(start_key, x.shape, x.dtype), spared)
    density = jnp.full(x.shape[:1], 0.2, x.dtype)
    for number, (times, part) in enumerate(_STAGES):
        start, own = inside(x, found.images, times * radius, "l1", bounds), jax.random.fold_in(key, number)
        if number:
            density = length(start - x, "l0") / (math.prod(x.shape[1:]) * _SPARSER)
        found = _stage(
            network, x, start, labels, times * radius, density, loss, max(1, round(part * iterations)), bounds, own,
            spared,
        )  # fmt: skip
    return found


def _stage(network, x, start, labels, radius, density, loss, iterations, bounds, key, spared) -> Adversarial:
    losses, gradient, wrong = network.loss_and_gradient(loss, start, labels, jax.random.fold_in(key, iterations))
    entries = length(start - x, "l0")
    first = _Climb(start, gradient, start, gradient, losses, radius, density, entries, wrong | spared)
    period = max(1, round(0.04 * iterations))

    def unfinished(carry):
        i, state = carry
        return (i < iterations) & ~jnp.all(state.done)

    def step(carry):
        i, state = carry
        there = state.now + expand(state.step, x) * _sparse(state.gradient, state.density)
        now = inside(x, there, radius, "l1", bounds)
        losses, gradient, wrong = network.loss_and_gradient(loss, now, labels, jax.random.fold_in(key, i))
        better = losses > state.best_loss
        after = state._replace(
            now=now,
            gradient=gradient,
            best=jnp.where(expand(better, x), now, state.best),
            best_gradient=jnp.where(expand(better, x), gradient, state.best_gradient),
            best_loss=jnp.maximum(losses, state.best_loss),
            done=wrong,
        )
        due = (i + 1) % period == 0
        after = jax.tree.map(lambda a, b: jnp.where(due, a, b), _apply_checkpoint(after, x, radius), after)
        # Misclassified examples stay unchanged.
        return i + 1, jax.tree.map(lambda a, b: jnp.where(expand(state.done, a), b, a), after, state)

    _, state = lax.while_loop(unfinished, step, (jnp.int32(0), first))
    success = state.done & ~spared
    return Adversarial(jnp.where(expand(success, x), state.now, state.best), success)


def _apply_checkpoint(state: _Climb, x: Array, radius: Array) -> _Climb:
    """Adapts the density of the steps to the best point; restarts from it with full steps where it became sparser."""
    entries = length(state.best - x, "l0")
    sparser = (entries < _SETTLED * state.entries) & ~state.done  # which stay
    back = expand(sparser, x)
    return state._replace(
        now=jnp.where(back, state.best, state.now),
        gradient=jnp.where(back, state.best_gradient, state.gradient),
        step=jnp.where(sparser, radius, jnp.maximum(state.step / _SPARSER, _LEAST_STEP * radius)),
        density=entries / (math.prod(x.shape[1:]) * _SPARSER),
        entries=entries,
    )


def _sparse(gradient: Array, density: Array) -> Array:
    """Returns the signs of that fraction of the entries with the largest gradients, scaled equally to norm 1."""
    flat = jnp.abs(flatten(gradient))
    count = jnp.clip(jnp.ceil(density * flat.shape[-1]).astype(jnp.int32), 1, flat.shape[-1])
    least = jax.vmap(kth_largest)(flat, count)
    signs = jnp.where(jnp.abs(gradient) >= expand(least, gradient), jnp.sign(gradient), 0)
    return signs / expand(jnp.maximum(length(signs, "l1"), 1), gradient)
