"""What an attack is given: checks of its arguments, and the numbers it computes with."""

import math
import operator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int, PRNGKeyArray

from sparsejax.errors import ConfigError
from sparsejax.evaluation.attacks.geometry import BALLS, Bounds, Norm, widen
from sparsejax.evaluation.attacks.network import LogitsFn, Network

_LARGEST = float(jnp.finfo(jnp.float32).max)


class Problem(NamedTuple):
    """A checked problem: the network, images in at least float32, labels in int32, a radius per example, and a key."""

    network: Network
    x: Float[Array, "batch *shape"]
    labels: Int[Array, "batch"]
    radius: Float[Array, "batch"]
    key: PRNGKeyArray


def pose(
    logits_fn: LogitsFn,
    x: Array,
    labels: Array,
    *,
    norm: Norm,
    bounds: Bounds,
    draws: int | None,
    key: PRNGKeyArray | None,
    epsilon: float | Array = math.inf,
    random: bool = False,
    norms: tuple[Norm, ...] = BALLS,
) -> Problem:
    """Checks the arguments that all attacks share; values only where they are concrete.

    Args:
      logits_fn: the network.
      x: images `[batch, ...]`.
      labels: `[batch]`.
      norm: of the ball.
      bounds: of a pixel.
      draws: samples of a stochastic network, or None.
      key: or None.
      epsilon: radius of the ball; one that exceeds the box counts as the box's diameter.
      random: whether the attack needs a key.
      norms: those that the attack knows.

    Raises:
      ConfigError: one of them is wrong.
    """
    if norm not in norms:
        raise ConfigError(f"norm is {norm}; expected {', '.join(norms[:-1])} or {norms[-1]}.")
    check_number("epsilon", epsilon, least=0, finite=False)
    if draws is not None:
        check_count("draws", draws)
    if key is None and (random or draws is not None):
        raise ConfigError("key is None; a random start or a stochastic network needs one, such as jax.random.key(0).")
    low, high = check_images(x, labels, bounds)
    key = check_network(logits_fn, jax.random.key(0) if key is None else key)
    x = jnp.asarray(x)
    network = Network(logits_fn, draws, x)
    if not isinstance(labels, Tracer):
        check_labels(labels, classes_of(network, x, key))
    wide, size = widen(x), math.prod(x.shape[1:])
    span = 1.001 * (high - low)
    diameter = {"linf": span, "l2": span * size**0.5, "l1": span * size, "l0": size}[norm]
    return Problem(network, wide, jnp.asarray(labels, jnp.int32), as_lengths(epsilon, wide, most=diameter), key)


def as_lengths(value: float | Array, x: Array, *, most: float) -> Float[Array, "batch"]:
    """Returns a length for every example, at most `most`; traced numbers that are not positive, and NaN, become 0."""
    length = jnp.asarray(value, x.dtype)
    return jnp.broadcast_to(jnp.where(length > 0, jnp.minimum(length, most), 0), x.shape[:1])


def check_network(logits_fn: Any, key: Any) -> PRNGKeyArray:
    """Checks that a network can be called; returns the key, also of one in the form of `jax.random.PRNGKey`.

    Raises:
      ConfigError: one is something else.
    """
    if not callable(logits_fn):
        raise ConfigError(f"logits_fn is of {type(logits_fn)}; expected a function of images that returns logits.")
    dtype, shape = getattr(key, "dtype", None), getattr(key, "shape", None)
    if dtype == jnp.uint32 and shape == jax.random.key_data(jax.random.key(0)).shape:
        return jax.random.wrap_key_data(jnp.asarray(key))
    if dtype is None or shape != () or not jnp.issubdtype(dtype, jax.dtypes.prng_key):
        found = type(key).__name__ if dtype is None else f"an array of {dtype} {shape}"
        raise ConfigError(f"key is {found}; expected one key of JAX, such as jax.random.key(0).")
    return key


def check_images(x: Any, labels: Any, bounds: Bounds) -> Bounds:
    """Checks images to attack and the form of their labels, values only where they are concrete; returns the bounds.

    Raises:
      ConfigError: the images are no floating-point array `[batch, ...]` with values within the bounds, up to rounding,
        the labels no integers `[batch]`, or the bounds no increasing finite numbers.
    """
    try:
        low, high = (math.nan if isinstance(bound, (str, bytes)) else float(bound) for bound in bounds)
    except (TypeError, ValueError):
        low = high = math.nan
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ConfigError(f"bounds is {bounds!r}; expected the smallest and the largest value of a pixel: (0.0, 1.0).")
    dtype = getattr(x, "dtype", type(x).__name__)
    if not (isinstance(dtype, np.dtype) and jnp.issubdtype(dtype, jnp.floating)):
        raise ConfigError(
            f"images is of type {dtype}; expected an array of floating-point numbers. Scale integers to the bounds, "
            "such as np.float32(images) / 255."
        )
    if x.ndim < 2 or not math.prod(x.shape[1:]):
        raise ConfigError(f"images has the shape {x.shape}; expected [batch, ...] with at least one entry per image.")
    kind = getattr(labels, "dtype", type(labels).__name__)
    if np.shape(labels) != x.shape[:1] or not (isinstance(kind, np.dtype) and jnp.issubdtype(kind, jnp.integer)):
        raise ConfigError(
            f"There are {len(x)} images and labels of shape {np.shape(labels)} and type {kind}; expected one integer "
            "class for each image."
        )
    if isinstance(x, Tracer) or not x.size or not getattr(x, "is_fully_addressable", True):
        return low, high
    values = np.asarray(x)  # an array of JAX would be traced under jit
    slack, least, most = 1e-5 * (high - low), float(values.min()), float(values.max())
    if not (low - slack <= least and most <= high + slack):
        raise ConfigError(
            f"images has values from {least:g} to {most:g}, but bounds is {bounds}; expected values within the bounds. "
            "Scale the images and normalise them inside logits_fn, or pass their bounds."
        )
    return low, high


def check_labels(labels: Any, classes: int) -> None:
    """Checks labels that are concrete.

    Raises:
      ConfigError: one is not in [0, classes).
    """
    wrong = (labels := np.asarray(labels)) != np.clip(labels, 0, classes - 1)
    if wrong.any():
        raise ConfigError(
            f"labels[{wrong.argmax()}] is {labels[wrong.argmax()]}, but logits_fn returns {classes} classes; expected "
            f"labels from 0 to {classes - 1}."
        )


def check_ranks(ranks: Any, classes: int) -> Int[Array, "targets"]:
    """Returns the ranks of the classes to target, by default up to nine, the number of the authors of AutoAttack.

    Raises:
      ConfigError: they are no integers `[targets]`, or concrete and not in [1, classes).
    """
    if ranks is None:
        return jnp.arange(1, min(10, classes), dtype=jnp.int32)
    if not isinstance(ranks, Tracer):
        found = np.asarray(ranks)
        if found.ndim != 1 or found.dtype.kind not in "iu" or not ((found > 0) & (found < classes)).all():
            raise ConfigError(
                f"ranks is {ranks}; expected an array of integers from 1, the most likely class except the label, to "
                f"{classes - 1}, for {classes} classes."
            )
    return jnp.asarray(ranks, jnp.int32)


def classes_of(network: Network, x: Any, key: PRNGKeyArray) -> int:
    """Returns the number of classes of a network, without running it."""
    ask = network._replace(clean=None)
    return jax.eval_shape(lambda x, key: ask(x, key), jax.ShapeDtypeStruct(x.shape, x.dtype), key).shape[-1]


def check_number(
    name: str, value: Any, *, least: float = -math.inf, most: float = math.inf, finite: bool = True
) -> None:
    """Checks a number; one that is traced passes.

    Raises:
      ConfigError: it is no number, none of [least, most], or not finite.
    """
    if isinstance(value, Tracer):
        return
    array = np.asarray(value)
    is_real = jnp.issubdtype(array.dtype, jnp.floating) or jnp.issubdtype(array.dtype, jnp.integer)
    if not is_real or array.ndim or not least <= float(array) <= most or (finite and not abs(float(array)) <= _LARGEST):
        limits = f" from {least:g} to {most:g}" if most < math.inf else f" of {least:g} or more" * (least > -math.inf)
        raise ConfigError(f"{name} is {value!r}; expected a number{limits}.")


def check_count(name: str, value: Any, *, least: int = 1) -> None:
    """Checks a number of things, such as iterations.

    Raises:
      ConfigError: it is no integer of `least` or more.
    """
    try:
        right = not isinstance(value, (bool, np.bool_)) and operator.index(value) >= least
    except TypeError:
        right = False
    if not right:
        raise ConfigError(f"{name} is {value!r}; expected an integer of {least} or more.")
