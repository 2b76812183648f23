"""APGD: projected gradient ascent with momentum and adaptive step sizes, on three losses."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from sparsejax.errors import ConfigError
from sparsejax.evaluation.attacks.apgd_l1 import climb_l1
from sparsejax.evaluation.attacks.geometry import BALLS, Bounds, Norm, expand, inside, length, steepest
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
    gradient: Array
    loss: Array
    best: Array
    best_gradient: Array
    best_loss: Array
    step: Array
    rises: Array
    checked_loss: Array
    halved: Array
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
    found = _climb(problem, norm, loss, iterations, bounds)
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
        again = _climb(own, norm, targeted_dlr(target), iterations, bounds, found.success)
        images = jnp.where(expand(found.success, x), found.images, again.images)
        return Adversarial(images, found.success | again.success), None

    found, _ = lax.scan(attack, Adversarial(x, is_misclassified(logits, labels)), ranks)
    return found._replace(images=network.shown(found.images))


def _climb(
    problem: Problem, norm: Norm, loss: Loss, iterations: int, bounds: Bounds, done: Array | None = None
) -> Adversarial:
    if norm == "l1":
        return climb_l1(problem, loss, iterations, bounds, done)
    network, x, labels, radius, key = problem
    start_key, key = jax.random.split(key)
    start = _on_the_sphere(start_key, x, radius, norm, bounds)
    losses, gradient, wrong = network.loss_and_gradient(loss, start, labels, jax.random.fold_in(key, iterations))
    done = wrong if done is None else wrong | done
    nothing = jnp.zeros_like(losses)
    state = _Climb(
        start, start, gradient, losses, start, gradient, losses, 2 * radius, nothing, losses, nothing > 0, done
    )

    def unfinished(carry):
        i, state, *_ = carry
        return (i < iterations) & ~jnp.all(state.done)

    def step(carry):
        i, state, since, period = carry
        share = jnp.where(i > 0, _MOMENTUM, 1.0).astype(x.dtype)
        there = state.now + expand(state.step, x) * steepest(state.gradient, norm)
        there = inside(x, there, radius, norm, bounds)
        moved = state.now + share * (there - state.now) + (1 - share) * (state.now - state.before)
        now = inside(x, moved, radius, norm, bounds)
        losses, gradient, wrong = network.loss_and_gradient(loss, now, labels, jax.random.fold_in(key, i))
        better = losses > state.best_loss
        after = state._replace(
            now=now,
            before=state.now,
            gradient=gradient,
            loss=losses,
            best=jnp.where(expand(better, x), now, state.best),
            best_gradient=jnp.where(expand(better, x), gradient, state.best_gradient),
            best_loss=jnp.maximum(losses, state.best_loss),
            rises=state.rises + (losses > state.loss).astype(x.dtype),
            done=wrong,
        )
        due = since + 1 >= period
        after = jax.tree.map(lambda a, b: jnp.where(due, a, b), _apply_checkpoint(after, period), after)
        # Misclassified examples stay unchanged.
        state = jax.tree.map(lambda a, b: jnp.where(expand(state.done, a), b, a), after, state)
        shrunk = jnp.maximum(period - max(int(0.03 * iterations), 1), max(int(0.06 * iterations), 1))
        return i + 1, state, jnp.where(due, 0, since + 1), jnp.where(due, shrunk, period)

    first = jnp.int32(max(int(0.22 * iterations), 1))
    _, state, *_ = lax.while_loop(unfinished, step, (jnp.int32(0), state, jnp.int32(0), first))
    return Adversarial(jnp.where(expand(state.done, x), state.now, state.best), state.done)


def _apply_checkpoint(state: _Climb, period: Array) -> _Climb:
    """Returns examples without progress to their best points, with half the step size.

    One that is misclassified now stays: its best point, of the largest loss, need not be.
    """
    seldom = state.rises <= _RISES * period.astype(state.rises.dtype)
    stuck = ~state.halved & (state.checked_loss >= state.best_loss)
    halve = (seldom | stuck) & ~state.done
    back = expand(halve, state.now)
    return state._replace(
        now=jnp.where(back, state.best, state.now),
        gradient=jnp.where(back, state.best_gradient, state.gradient),
        step=jnp.where(halve, state.step / 2, state.step),
        rises=jnp.zeros_like(state.rises),
        checked_loss=state.best_loss,
        halved=halve,
    )


def _on_the_sphere(key: PRNGKeyArray, x: Array, radius: Array, norm: Norm, bounds: Bounds) -> Array:
    """Draws a start at distance epsilon, as in the authors' code."""
    draw = (
        jax.random.uniform(key, x.shape, x.dtype, -1, 1) if norm == "linf" else jax.random.normal(key, x.shape, x.dtype)
    )
    return jnp.clip(x + expand(radius / jnp.maximum(length(draw, norm), 1e-30), x) * draw, *bounds)
