"""APGD: projected gradient ascent with momentum and adaptive step sizes, on three losses."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from sparsejax.errors import ConfigError
from sparsejax.evaluation.attacks.apgd_l1 import climb_l1
from sparsejax.evaluation.attacks.geometry import BALLS, Bounds, Norm, expand, inside, length, steepest
from sparsejax.evaluation.attacks.lanes import run_in_lanes
from sparsejax.evaluation.attacks.losses import Loss, cross_entropy, dlr, runner_up, targeted_dlr
from sparsejax.evaluation.attacks.network import LogitsFn
from sparsejax.evaluation.attacks.pgd import Adversarial
from sparsejax.evaluation.attacks.problem import Problem, check_count, check_ranks, pose
from sparsejax.evaluation.attacks.registry import register_attack
from sparsejax.functional.measures import is_misclassified

_MOMENTUM, _RISES = 0.75, 0.75


class _Climb(NamedTuple):
    """Per example: current and previous point, best point with loss and gradient, step size, and the last check."""

    now: Array
    before: Array
    loss: Array
    best: Array
    best_gradient: Array
    best_loss: Array
    step: Array
    rises: Array
    checked_loss: Array
    halved: Array
    since: Array
    period: Array
    done: Array


@register_attack("apgd_ce", norms=BALLS, place=2)
def apgd(
    logits_fn: LogitsFn,
    x: Float[Array, "batch *shape"],
    labels: Int[Array, "batch"],
    *,
    epsilon: float | Float[Array, ""],
    norm: Norm = "linf",
    loss: Loss = cross_entropy,
    iterations: int = 100,
    bounds: Bounds = (0.0, 1.0),
    draws: int | None = None,
    key: PRNGKeyArray,
) -> Adversarial:
    """Maximises a loss within a ball, from a random start, until the examples are misclassified.

    In linf and l2 the step size starts at twice epsilon. At increasingly frequent checkpoints, an example whose loss
    rose in at most three quarters of the steps, or whose best loss and step size have not changed since the last
    checkpoint, returns to its best point and halves its step size. In l1 steps change the entries with the largest
    gradients, about as many as differ in the best point, within balls of three, two and one times epsilon.

    Args:
      logits_fn: `logits_fn(x) -> [batch, classes]`, or `logits_fn(x, key)` with `draws`; examples are independent.
      x: images `[batch, ...]` within the bounds.
      labels: their classes `[batch]`.
      epsilon: radius of the ball, in the norm and the unit of a pixel; may be traced.
      norm: "linf", "l2" or "l1".
      loss: to maximise, `loss(logits, labels) -> [batch]`; `apgd_targeted` uses another.
      iterations: largest number of steps, each with one gradient.
      bounds: smallest and largest value of a pixel.
      draws: samples of a stochastic network over which gradients are averaged; None for a deterministic network.
      key: for the random start and the noise.

    Returns:
      Adversarial, with `images` `[batch, ...]` in the ball and the bounds, misclassified if found, else those with the
        largest loss, and `success` `[batch]`.

    Raises:
      ConfigError: epsilon is a negative Python number, the norm is unknown, or the key is None.

    References:
      Croce & Hein, Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks,
      2020, algorithm 1; Mind the box: l1-APGD for sparse adversarial attacks on image classifiers, 2021.
    """
    check_count("iterations", iterations)
    problem = pose(
        logits_fn, x, labels, epsilon=epsilon, norm=norm, bounds=bounds, draws=draws, key=key, random=True
    )  # fmt: skip
    found = _climb(problem, norm, lambda _: loss, iterations, bounds, problem.labels)
    return found._replace(images=problem.network.shown(found.images))


@register_attack("apgd_dlr", classes=3, norms=BALLS, place=3)
def apgd_dlr(logits_fn: LogitsFn, x: Array, labels: Array, **settings) -> Adversarial:
    """Runs APGD on the difference of logits ratio, which is invariant to the scale of the logits.

    Args:
      logits_fn: `logits_fn(x) -> [batch, classes]`, or `logits_fn(x, key)` with `draws`; examples are independent.
      x: images `[batch, ...]` within the bounds.
      labels: their classes `[batch]`.
      **settings: other arguments of `apgd`: `epsilon`, radius of the ball; `norm`, "linf", "l2" or "l1";
        `iterations`, the largest number; `bounds` of a pixel; `draws` of a stochastic network; `key` for the random
        start and noise.

    Returns:
      Adversarial, with `images` `[batch, ...]` in the ball and the bounds, misclassified if found, else those with the
        largest loss, and `success` `[batch]`.

    Raises:
      ConfigError: epsilon is a negative Python number, the norm is unknown, the key is None, or there are
        fewer than three classes.

    References:
      Croce & Hein, Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks,
      2020 (the loss as well as the steps).
    """
    return apgd(logits_fn, x, labels, loss=dlr, **settings)


@register_attack("apgd_t", targeted=True, classes=4, norms=BALLS, place=4)
def apgd_targeted(
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
    key: PRNGKeyArray,
) -> Adversarial:
    """Runs APGD towards one class after another, the most likely first, each on the examples not yet misclassified.

    Misclassified clean images are returned unchanged.

    Args:
      logits_fn: `logits_fn(x) -> [batch, classes]`, or `logits_fn(x, key)` with `draws`; examples are independent.
      x: images `[batch, ...]` within the bounds.
      labels: their classes `[batch]`.
      epsilon: radius of the ball, in the norm and the unit of a pixel; may be traced.
      norm: "linf", "l2" or "l1".
      ranks: which classes to try `[targets]`, from 1 for the most likely class except the label; None for up to nine.
      iterations: largest number of steps per class.
      bounds: smallest and largest value of a pixel.
      draws: samples of a stochastic network over which gradients are averaged; None for a deterministic network.
      key: for the random start and the noise.

    Returns:
      Adversarial, with `images` `[batch, ...]` in the ball and the bounds, misclassified if found, else the last
        class's, and `success` `[batch]`.

    Raises:
      ConfigError: epsilon is a negative Python number, the norm is unknown, the key is None, or there are
        fewer than four classes.

    References:
      Croce & Hein, Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks,
      2020, section 4.2.
    """
    check_count("iterations", iterations)
    problem = pose(
        logits_fn, x, labels, epsilon=epsilon, norm=norm, bounds=bounds, draws=draws, key=key, random=True
    )  # fmt: skip
    network, x, labels, _, key = problem
    logits = network(x, key)
    classes = logits.shape[-1]
    if classes < 4:
        raise ConfigError(f"There are {classes} classes; the targeted loss needs four. Use `apgd`.")
    ranks = check_ranks(ranks, classes)

    def attack(found: Adversarial, rank: Array) -> tuple[Adversarial, None]:
        target = runner_up(logits, labels, rank)
        own = problem._replace(key=jax.random.fold_in(key, rank))
        again = _climb(own, norm, targeted_dlr, iterations, bounds, target, found.success)
        images = jnp.where(expand(found.success, x), found.images, again.images)
        return Adversarial(images, found.success | again.success), None

    found, _ = lax.scan(attack, Adversarial(x, is_misclassified(logits, labels)), ranks)
    return found._replace(images=network.shown(found.images))


def _climb(
    problem: Problem,
    norm: Norm,
    loss: Callable[[Array], Loss],
    iterations: int,
    bounds: Bounds,
    target: Array,
    done: Array | None = None,
) -> Adversarial:
    """Maximises `loss(target)`, `target` having one entry per example; examples that are done stay."""
    spared = jnp.zeros(problem.x.shape[:1], bool) if done is None else done
    if norm == "l1":
        return climb_l1(problem, loss, iterations, bounds, target, spared)
    network, x, labels, radius, key = problem
    start_key, key = jax.random.split(key)
    start = _on_the_sphere(start_key, x, radius, norm, bounds)
    shortest, decrease = max(int(0.06 * iterations), 1), max(int(0.03 * iterations), 1)

    def step(examples, state, i, turn):
        x, labels, radius, target = examples
        losses, gradient, wrong = network.around(x).loss_and_gradient(
            loss(target), state.now, labels, jax.random.fold_in(key, turn)
        )
        better = (losses > state.best_loss) | (i == 0)
        state = state._replace(
            loss=losses,
            best=jnp.where(expand(better, x), state.now, state.best),
            best_gradient=jnp.where(expand(better, x), gradient, state.best_gradient),
            best_loss=jnp.where(better, losses, state.best_loss),
            rises=state.rises + ((losses > state.loss) & (i > 0)).astype(x.dtype),
            checked_loss=jnp.where(i == 0, losses, state.checked_loss),
            since=state.since + (i > 0).astype(jnp.int32),
            done=wrong,
        )
        due = state.since >= state.period
        halve = due & _is_without_progress(state)
        back = expand(halve, x)
        now, gradient = jnp.where(back, state.best, state.now), jnp.where(back, state.best_gradient, gradient)
        size = jnp.where(halve, state.step / 2, state.step)
        there = inside(x, now + expand(size, x) * steepest(gradient, norm), radius, norm, bounds)
        share = expand(jnp.where(i > 0, _MOMENTUM, 1.0).astype(x.dtype), x)
        moved = inside(x, now + share * (there - now) + (1 - share) * (now - state.before), radius, norm, bounds)
        state = state._replace(
            now=jnp.where(expand(wrong, x), state.now, moved),  # a misclassified image stays
            before=now,
            step=size,
            rises=jnp.where(due, 0, state.rises),
            checked_loss=jnp.where(due, state.best_loss, state.checked_loss),
            halved=jnp.where(due, halve, state.halved),
            since=jnp.where(due, 0, state.since),
            period=jnp.where(due, jnp.maximum(state.period - decrease, shortest), state.period),
        )
        return state, wrong

    nothing, none, unset = jnp.zeros_like(radius), jnp.zeros_like(labels), jnp.zeros_like(spared)
    first = _Climb(
        start, start, nothing, start, jnp.zeros_like(start), nothing, 2 * radius, nothing, nothing, unset, none,
        none + max(int(0.22 * iterations), 1), unset,
    )  # fmt: skip
    # The first step only evaluates the start.
    state, _ = run_in_lanes(step, (x, labels, radius, target), first, ~spared, iterations=iterations + 1)
    return Adversarial(jnp.where(expand(state.done, x), state.now, state.best), state.done | spared)


def _is_without_progress(state: _Climb) -> Array:
    """Returns which examples return to their best points, at a checkpoint."""
    seldom = state.rises <= _RISES * state.period.astype(state.rises.dtype)
    stuck = ~state.halved & (state.checked_loss >= state.best_loss)
    return seldom | stuck


def _on_the_sphere(key: PRNGKeyArray, x: Array, radius: Array, norm: Norm, bounds: Bounds) -> Array:
    """Draws a start at distance epsilon, as in the authors' code."""
    draw = (
        jax.random.uniform(key, x.shape, x.dtype, -1, 1) if norm == "linf" else jax.random.normal(key, x.shape, x.dtype)
    )
    return jnp.clip(x + expand(radius / jnp.maximum(length(draw, norm), 1e-30), x) * draw, *bounds)
