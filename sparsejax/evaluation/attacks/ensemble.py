"""AutoAttack: several attacks in sequence, each on the examples that the previous ones left."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from sparsejax.errors import ConfigError
from sparsejax.evaluation.attacks.apgd import apgd, apgd_targeted
from sparsejax.evaluation.attacks.fab import fab_targeted
from sparsejax.evaluation.attacks.geometry import Bounds, Norm, expand, length
from sparsejax.evaluation.attacks.losses import LogitsFn, Network, is_misclassified
from sparsejax.evaluation.attacks.pgd import Adversarial
from sparsejax.evaluation.attacks.square import square

Attack = Callable[[Array, Array, PRNGKeyArray], Adversarial]
"""`attack(images, labels, key)`, a compiled function."""

_FEW = 16
_AGAIN = 2**31 - 1
"""Folded into an attack's key for the draws of the check."""


def survivors_of(
    attacks: Sequence[Attack], images: np.ndarray, labels: np.ndarray, *, key: PRNGKeyArray, batch_size: int = 250
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
            padded = np.resize(rows, size)
            result = attack(jnp.asarray(images[padded]), jnp.asarray(labels[padded]), jax.random.fold_in(own, start))
            success = np.asarray(result.success)[: len(rows)]
            found[rows[success]] = np.asarray(result.images)[: len(rows)][success]
            left[rows[success]] = False
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
    settings: dict[str, Any] = {"epsilon": epsilon, "norm": norm, "bounds": bounds, "draws": draws}
    cheapest, apgd_t, fab_t, last = (
        compile_attack(attack, logits_fn, settings) for attack in (apgd, apgd_targeted, fab_targeted, square)
    )
    targeted = [apgd_t] * (classes >= 4) + [fab_t]
    attacks = [cheapest, *(one for attack in targeted for one in by_target(attack, classes))]
    return attacks + [last] * (square_too and norm != "l1")


def compile_attack(attack: Callable[..., Adversarial], logits_fn: LogitsFn, settings: dict[str, Any]) -> Attack:
    """Compiles an attack on a network, and checks its results; a targeted one also takes `ranks`.

    An attack has succeeded only where its image is finite, in the ball and the bounds up to rounding, and misclassified
    when the network answers again; a stochastic network answers with the mean over new draws.

    Raises:
      ConfigError: it returns no Adversarial of the shapes of the images and labels.
    """

    def checked(x: Array, y: Array, key: PRNGKeyArray, **own: Any) -> Adversarial:
        found = attack(logits_fn, x, y, key=key, **settings, **own)
        shapes = [jnp.shape(part) for part in found] if isinstance(found, Adversarial) else type(found).__name__
        if shapes != [x.shape, y.shape]:
            raise ConfigError(
                f"The attack {getattr(attack, '__name__', attack)} returned {shapes}; expected an Adversarial with "
                f"images {x.shape} and success {y.shape}."
            )
        images, (low, high), norm = found.images, settings["bounds"], settings["norm"]
        shares = {"linf": 1, "l2": x[0].size ** 0.5, "l1": x[0].size, "l0": 0}  # by which rounding adds up
        dtype = x.dtype if jnp.issubdtype(x.dtype, jnp.floating) else jnp.float32
        rounding = jnp.finfo(dtype).eps * jnp.maximum(length(x, "linf"), length(images, "linf"))
        near = length(images - x, norm) <= (1 + 1e-5) * settings["epsilon"] + shares[norm] * rounding
        inside = jnp.minimum(low, x) - expand(rounding, x) <= images
        inside &= images <= jnp.maximum(high, x) + expand(rounding, x)
        inside = jnp.all((inside & jnp.isfinite(images)).reshape(len(x), -1), axis=-1)
        wrong = is_misclassified(Network(logits_fn, settings["draws"])(images, jax.random.fold_in(key, _AGAIN)), y)
        return Adversarial(images, jnp.asarray(found.success, bool) & near & inside & wrong)

    return jax.jit(checked)


def check_images(images: np.ndarray, labels: np.ndarray, bounds: Bounds) -> None:
    """Checks images to attack.

    Raises:
      ConfigError: the numbers of images and labels differ, or an image is not within the bounds.
    """
    if len(images) != len(labels):
        raise ConfigError(f"There are {len(images)} images and {len(labels)} labels; expected equal numbers.")
    low, high = bounds
    slack = 1e-5 * (high - low)
    if np.size(images) and not (low - slack <= np.min(images) and np.max(images) <= high + slack):
        raise ConfigError(
            f"images has values from {np.min(images):g} to {np.max(images):g}, but bounds is {bounds}; expected values "
            "within the bounds. Scale the images and normalise them inside logits_fn, or pass their bounds."
        )


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

    Returns:
      Adversarial, with `images` `[n, ...]` in the ball and the bounds, misclassified if found, else clean, and
        `success` `[n]`.

    Raises:
      ConfigError: epsilon is negative, the norm is unknown, the numbers of images and labels differ, or an image is not
        within the bounds.

    References:
      Croce & Hein, Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks,
      2020: the version "standard".
    """
    check_images(np.asarray(images), np.asarray(labels), bounds)
    classes = classes_of(Network(logits_fn, draws), images, key)
    attacks = ensemble(
        logits_fn, classes=classes, epsilon=epsilon, norm=norm, bounds=bounds, draws=draws, square_too=images.ndim == 4
    )
    found, after = survivors_of(attacks, np.asarray(images), np.asarray(labels), key=key, batch_size=batch_size)
    return Adversarial(jnp.asarray(found), jnp.asarray(~after[-1]))


def classes_of(network: Network, images: Any, key: PRNGKeyArray) -> int:
    """Returns the number of classes of a network."""
    return jax.eval_shape(functools.partial(network), jnp.asarray(images[:1]), key).shape[-1]
