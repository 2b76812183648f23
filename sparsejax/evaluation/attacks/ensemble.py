"""AutoAttack: several attacks in sequence, each on the examples that the previous ones left."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from sparsejax.evaluation.attacks.apgd import apgd, apgd_targeted
from sparsejax.evaluation.attacks.fab import fab_targeted
from sparsejax.evaluation.attacks.geometry import Bounds, Norm
from sparsejax.evaluation.attacks.network import LogitsFn
from sparsejax.evaluation.attacks.pgd import Adversarial
from sparsejax.evaluation.attacks.problem import check_count, classes_of, pose
from sparsejax.evaluation.attacks.programs import compile_attack
from sparsejax.evaluation.attacks.square import square

Attack = Callable[[Array, Array, PRNGKeyArray], Adversarial]
"""`attack(images, labels, key)`, a compiled function."""

_FEW = 4
_NO_CLASS = -1
"""The label of an image that only fills a batch: it counts as misclassified, so that an attack stops at once."""


def survivors_of(
    attacks: Sequence[Attack],
    images: np.ndarray,
    labels: np.ndarray,
    *,
    key: PRNGKeyArray,
    batch_size: int = 250,
    watch: Callable[[int, int, int], None] | None = None,
    **settings: Any,
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Runs each attack on the examples that no previous attack has changed to a misclassified one.

    Misclassified examples leave the batch: the rest are gathered in batches of half the size, and half again, so that
    only a few programs are compiled.

    Args:
      attacks: compiled functions `attack(images, labels, key)`, in order, the cheapest first.
      images: `[n, ...]`.
      labels: `[n]`.
      key: for all attacks.
      batch_size: images per batch.
      watch: called after each batch as `watch(done, total, standing)`: how many images of how many are done with, all
        attacks together, and how many of all still stand.
      settings: further arguments of the attacks, such as epsilon.

    Returns:
      The images `[n, ...]`, misclassified if found, else clean, and for each attack which are left after it `[n]`.

    References:
      Croce & Hein, Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks,
      2020: an example counts as robust if every attack fails on it.
    """
    found, left, after = np.array(images), np.ones(len(images), bool), []
    for number, attack in enumerate(attacks):
        own = jax.random.fold_in(key, number)
        waiting = np.flatnonzero(left)
        for start in range(0, len(waiting), batch_size):
            rows = waiting[start : start + batch_size]
            size = batch_size
            while size // 2 >= max(len(rows), _FEW):
                size //= 2
            filled = np.resize(rows, size)
            signed = labels[filled].astype(labels.dtype if labels.dtype.kind == "i" else np.int32)
            classes = np.where(np.arange(size) < len(rows), signed, _NO_CLASS)
            result = attack(
                jnp.asarray(images[filled]), jnp.asarray(classes), jax.random.fold_in(own, start), **settings
            )
            success = np.asarray(result.success)[: len(rows)]
            found[rows[success]] = np.asarray(result.images)[: len(rows)][success]
            left[rows[success]] = False
            if watch is not None:
                watch(number * len(images) + start + len(rows), len(attacks) * len(images), int(left.sum()))
        after.append(left.copy())
    return found, after


def ensemble(
    logits_fn: LogitsFn,
    *,
    classes: int,
    epsilon: float,
    norm: Norm = "linf",
    bounds: Bounds = (0.0, 1.0),
    draws: int | None = None,
    square_too: bool = True,
) -> list[Attack]:
    """Returns AutoAttack's standard ensemble, compiled when first called: APGD-CE, APGD-T, FAB-T and Square.

    A targeted attack aims at one class at a time, the most likely first, so that examples leave after each.

    Args:
      logits_fn: `logits_fn(x) -> [batch, classes]`, or `logits_fn(x, key)` with `draws`; examples are independent.
      classes: of the network; with fewer than four there is no APGD-T.
      epsilon: radius of the ball, in the norm and the unit of a pixel.
      norm: "linf", "l2" or "l1"; for l1 there is no Square.
      bounds: smallest and largest value of a pixel.
      draws: samples of a stochastic network over which gradients are averaged; None for a deterministic network.
      square_too: whether to include Square, which needs images.

    Returns:
      Functions `attack(images, labels, key) -> Adversarial` of images `[batch, ...]` and labels `[batch]`, in order.
        Each raises the errors of its attack.

    References:
      Croce & Hein, Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks,
      2020: the version "standard".
    """
    cheapest, apgd_t, fab_t, last = (
        functools.partial(compile_attack(attack, logits_fn, norm=norm, bounds=bounds, draws=draws), epsilon=epsilon)
        for attack in (apgd, apgd_targeted, fab_targeted, square)
    )
    targeted = [apgd_t] * (classes >= 4) + [fab_t]
    attacks = [cheapest, *(one for attack in targeted for one in by_target(attack, classes))]
    return attacks + [last] * (square_too and norm != "l1")


def by_target(attack: Callable[..., Adversarial], classes: int) -> list[Attack]:
    """Splits a targeted attack into one per class, so that examples leave after each.

    Args:
      attack: compiled, `attack(images, labels, key, ranks=ranks)` of images `[batch, ...]` and ranks `[classes]`.
      classes: of the network.

    Returns:
      Attacks towards the most likely class except the true one, the next, and so on, up to nine.

    References:
      Croce & Hein, Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks,
      2020: nine target classes.
    """
    return [functools.partial(attack, ranks=jnp.asarray([rank])) for rank in range(1, min(10, classes))]


def auto_attack(
    logits_fn: LogitsFn,
    images: Float[Array, "n *shape"],
    labels: Int[Array, "n"],
    *,
    epsilon: float,
    norm: Norm = "linf",
    key: PRNGKeyArray,
    bounds: Bounds = (0.0, 1.0),
    draws: int | None = None,
    batch_size: int = 250,
    watch: Callable[[int, int, int], None] | None = None,
) -> Adversarial:
    """Runs the standard `ensemble`, each attack on the examples that the previous ones left.

    It compiles and runs several programs, so do not call it under jit.

    Args:
      logits_fn: `logits_fn(x) -> [batch, classes]`, or `logits_fn(x, key)` with `draws`; examples are independent.
      images: `[n, ...]` within the bounds; Square runs only on `[n, H, W, C]`.
      labels: their classes `[n]`.
      epsilon: radius of the ball, in the norm and the unit of a pixel.
      norm: "linf", "l2" or "l1"; for l1 there is no Square.
      key: for all random numbers.
      bounds: smallest and largest value of a pixel.
      draws: samples of a stochastic network over which gradients are averaged; None for a deterministic network.
      batch_size: images per batch.
      watch: called after each batch, as by `survivors_of`.

    Returns:
      Adversarial, with `images` `[n, ...]` in the ball and the bounds, misclassified if found, else clean, and
        `success` `[n]`.

    Raises:
      ConfigError: epsilon is negative, the norm is unknown, the images are not floating-point numbers within the
        bounds, or the labels are not one class of the network for each.

    References:
      Croce & Hein, Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks,
      2020: the version "standard".
    """
    check_count("batch_size", batch_size)
    settings: dict[str, Any] = {"epsilon": epsilon, "norm": norm, "draws": draws}
    network = pose(logits_fn, images, labels, key=key, random=True, bounds=bounds, **settings).network
    settings["bounds"] = tuple(float(bound) for bound in bounds)
    classes = classes_of(network, images, key)
    attacks = ensemble(logits_fn, classes=classes, square_too=np.ndim(images) == 4, **settings)
    found, after = survivors_of(
        attacks, np.asarray(images), np.asarray(labels), key=key, batch_size=batch_size, watch=watch
    )
    return Adversarial(jnp.asarray(found), jnp.asarray(~after[-1]))
