"""APGD within balls of l1: steps as sparse as the best point found, in balls that shrink to epsilon."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from sparsejax.evaluation.attacks.geometry import Bounds, expand, flatten, inside, length
from sparsejax.evaluation.attacks.lanes import run_in_lanes
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
    best: Array
    best_gradient: Array
    best_loss: Array
    step: Array
    density: Array
    entries: Array
    done: Array


def climb_l1(
    problem: Problem, loss: Callable[[Array], Loss], iterations: int, bounds: Bounds, target: Array, spared: Array
) -> Adversarial:
    """Maximises `loss(target)` in three stages, from a random start; examples that are spared stay.

    References:
      Croce & Hein, Mind the box: l1-APGD for sparse adversarial attacks on image classifiers, 2021, algorithm 1 and
      section 3.2 (the stages).
    """
    _, x, _, radius, key = problem
    start_key, key = jax.random.split(key)
    found = Adversarial(x + jax.random.normal(start_key, x.shape, x.dtype), spared)
    density = jnp.full(x.shape[:1], 0.2, x.dtype)
    for number, (times, part) in enumerate(_STAGES):
        start, own = inside(x, found.images, times * radius, "l1", bounds), jax.random.fold_in(key, number)
        if number:
            density = length(start - x, "l0") / (math.prod(x.shape[1:]) * _SPARSER)
        found = _stage(
            problem._replace(radius=times * radius, key=own), start, density, loss, max(1, round(part * iterations)),
            bounds, target, spared,
        )  # fmt: skip
    return found


def _stage(problem, start, density, loss, iterations, bounds, target, spared) -> Adversarial:
    network, x, labels, radius, key = problem
    period = max(1, round(0.04 * iterations))

    def step(examples, state, i, turn):
        x, labels, radius, target = examples
        losses, gradient, wrong = network.around(x).loss_and_gradient(
            loss(target), state.now, labels, jax.random.fold_in(key, turn)
        )
        better = (losses > state.best_loss) | (i == 0)
        state = state._replace(
            best=jnp.where(expand(better, x), state.now, state.best),
            best_gradient=jnp.where(expand(better, x), gradient, state.best_gradient),
            best_loss=jnp.where(better, losses, state.best_loss),
            done=wrong,
        )
        back, state = _apply_checkpoint(state, x, radius, (i > 0) & (i % period == 0))
        now = jnp.where(expand(back, x), state.best, state.now)
        gradient = jnp.where(expand(back, x), state.best_gradient, gradient)
        there = inside(x, now + expand(state.step, x) * _sparse(gradient, state.density), radius, "l1", bounds)
        return state._replace(now=jnp.where(expand(wrong, x), state.now, there)), wrong  # a misclassified image stays

    nothing, entries = jnp.zeros_like(radius), length(start - x, "l0")
    first = _Climb(start, start, jnp.zeros_like(x), nothing, radius, density, entries, jnp.zeros_like(spared))
    # The first step only evaluates the start.
    state, _ = run_in_lanes(step, (x, labels, radius, target), first, ~spared, iterations=iterations + 1)
    return Adversarial(jnp.where(expand(state.done, x), state.now, state.best), state.done)


def _apply_checkpoint(state: _Climb, x: Array, radius: Array, due: Array) -> tuple[Array, _Climb]:
    """Adapts the density of the steps to the best point; returns where it became sparser.

    There the attack restarts from it with full steps.
    """
    entries = length(state.best - x, "l0")
    sparser = due & (entries < _SETTLED * state.entries)
    step = jnp.where(sparser, radius, jnp.maximum(state.step / _SPARSER, _LEAST_STEP * radius))
    return sparser, state._replace(
        step=jnp.where(due, step, state.step),
        density=jnp.where(due, entries / (math.prod(x.shape[1:]) * _SPARSER), state.density),
        entries=jnp.where(due, entries, state.entries),
    )


def _sparse(gradient: Array, density: Array) -> Array:
    """Returns the signs of that fraction of the entries with the largest gradients, scaled equally to norm 1."""
    flat = jnp.abs(flatten(gradient))
    count = jnp.clip(jnp.ceil(density * flat.shape[-1]).astype(jnp.int32), 1, flat.shape[-1])
    least = jax.vmap(kth_largest)(flat, count)
    signs = jnp.where(jnp.abs(gradient) >= expand(least, gradient), jnp.sign(gradient), 0)
    return signs / expand(jnp.maximum(length(signs, "l1"), 1), gradient)
