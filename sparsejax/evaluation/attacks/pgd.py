"""Gradient attacks with steps of a fixed size: FGSM and PGD."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from sparsejax.evaluation.attacks.geometry import BALLS, Bounds, Norm, expand, inside, random_start, steepest
from sparsejax.evaluation.attacks.lanes import run_in_lanes
from sparsejax.evaluation.attacks.losses import Loss, cross_entropy
from sparsejax.evaluation.attacks.network import LogitsFn
from sparsejax.evaluation.attacks.problem import as_lengths, check_count, check_number, pose
from sparsejax.evaluation.attacks.registry import register_attack
from sparsejax.functional.measures import is_misclassified


class Adversarial(NamedTuple):
    """The result of an attack.

    Attributes:
      images: `[batch, ...]`, misclassified if the attack succeeded, else those with the largest loss or the last ones.
      success: which of them the network misclassifies `[batch]`.
    """

    images: Float[Array, "batch *shape"]
    success: Bool[Array, "batch"]


@register_attack("fgsm", norms=BALLS, place=0)
def fgsm(
    logits_fn: LogitsFn,
    x: Float[Array, "batch *shape"],
    labels: Int[Array, "batch"],
    *,
    epsilon: float | Float[Array, ""],
    norm: Norm = "linf",
    bounds: Bounds = (0.0, 1.0),
    draws: int | None = None,
    key: PRNGKeyArray | None = None,
) -> Adversarial:
    """Takes one step of length epsilon along the gradient of the cross-entropy.

    Misclassified clean images are returned unchanged.

    Args:
      logits_fn: `logits_fn(x) -> [batch, classes]`, or `logits_fn(x, key)` with `draws`; examples are independent.
      x: images `[batch, ...]` within the bounds.
      labels: their classes `[batch]`.
      epsilon: radius of the ball, in the norm and the unit of a pixel; may be traced.
      norm: "linf", whose step is epsilon times the sign of the gradient, "l2" or "l1" (the 1 % of the entries with the
        largest gradients).
      bounds: smallest and largest value of a pixel.
      draws: samples of a stochastic network over which gradients are averaged; None for a deterministic network.
      key: for the noise; optional without noise.

    Returns:
      Adversarial, with `images` `[batch, ...]` in the ball and the bounds and `success` `[batch]`, whether they are
        misclassified.

    Raises:
      ConfigError: epsilon is a negative Python number, the norm is unknown, or a key is missing.

    References:
      Goodfellow, Shlens & Szegedy, Explaining and Harnessing Adversarial Examples, 2015.
    """
    return pgd(
        logits_fn, x, labels, epsilon=epsilon, norm=norm, step=epsilon, iterations=1, bounds=bounds, draws=draws,
        key=key, random=False,
    )  # fmt: skip


@register_attack("pgd", norms=BALLS, place=1)
def pgd(
    logits_fn: LogitsFn,
    x: Float[Array, "batch *shape"],
    labels: Int[Array, "batch"],
    *,
    epsilon: float | Float[Array, ""],
    norm: Norm = "linf",
    step: float | Float[Array, ""] | None = None,
    iterations: int = 40,
    loss: Loss = cross_entropy,
    bounds: Bounds = (0.0, 1.0),
    draws: int | None = None,
    key: PRNGKeyArray | None = None,
    random: bool = True,
    stop: bool = True,
) -> Adversarial:
    """Maximises the loss by steps of fixed length, each projected onto the ball and the box.

    Args:
      logits_fn: `logits_fn(x) -> [batch, classes]`, or `logits_fn(x, key)` with `draws`; examples are independent.
      x: images `[batch, ...]` within the bounds.
      labels: their classes `[batch]`.
      epsilon: radius of the ball, in the norm and the unit of a pixel; may be traced.
      norm: "linf", "l2" or "l1".
      step: length of a step, in the norm; None for 2.5 epsilon / iterations. May be traced.
      iterations: largest number of steps.
      loss: to maximise, `loss(logits, labels) -> [batch]`.
      bounds: smallest and largest value of a pixel.
      draws: samples of a stochastic network over which gradients are averaged; None for a deterministic network.
      key: for the random start and the noise; optional without both.
      random: start at a random point of the ball.
      stop: stop for an example once it is misclassified, and end when all are.

    Returns:
      Adversarial, with `images` `[batch, ...]` in the ball and the bounds after the last step, and `success` `[batch]`,
        whether they are misclassified.

    Raises:
      ConfigError: epsilon is a negative Python number, the norm is unknown, or a key is missing.

    References:
      Madry et al., Towards Deep Learning Models Resistant to Adversarial Attacks, 2018; Athalye et al., Obfuscated
      Gradients Give a False Sense of Security, 2018 (averaging over draws).
    """
    check_count("iterations", iterations)
    network, x, labels, radius, stream = pose(
        logits_fn, x, labels, epsilon=epsilon, norm=norm, bounds=bounds, draws=draws, key=key, random=random
    )
    if step is not None:
        check_number("step", step, least=0, finite=False)
    size = radius * (2.5 / iterations) if step is None else as_lengths(step, x, most=1e30)
    start_key, stream = jax.random.split(stream)
    start = inside(x, random_start(start_key, x, radius, norm), radius, norm, bounds) if random else x

    def climb(examples, now, i, turn):
        del i
        x, labels, radius, size = examples
        _, gradient, wrong = network.around(x).loss_and_gradient(loss, now, labels, jax.random.fold_in(stream, turn))
        done = wrong & stop
        there = inside(x, now + expand(size, x) * steepest(gradient, norm), radius, norm, bounds)
        return jnp.where(expand(done, x), now, there), done

    examples, waiting = (x, labels, radius, size), jnp.ones(x.shape[:1], bool)
    lanes = len(x) if iterations == 1 or not stop else None  # no example leaves before the others
    images, _ = run_in_lanes(climb, examples, start, waiting, iterations=iterations, lanes=lanes)
    wrong = is_misclassified(network(images, jax.random.fold_in(stream, iterations)), labels)
    return Adversarial(network.shown(images), wrong)
