"""Small networks to attack: a linear one with known distances to the boundary, and a curved one."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg

CLASSES, PIXELS, COUNT = 5, (4, 4, 2), 40


def length_of(delta, norm):
    """Returns the norm of every example, by NumPy."""
    order = {"linf": np.inf, "l2": 2, "l1": 1, "l0": 0}[norm]
    return np.linalg.norm(np.reshape(delta, (len(delta), -1)), order, axis=-1)


class Network(NamedTuple):
    """`z @ weights + tanh(z @ inner) @ outer`, z being images `[n, 4, 4, 2]` less 0.5."""

    weights: np.ndarray
    inner: np.ndarray
    outer: np.ndarray

    def __call__(self, x):
        flat = x.reshape(x.shape[0], -1) - 0.5
        return flat @ self.weights + jnp.tanh(flat @ self.inner) @ self.outer


class Case(NamedTuple):
    """A network, images, labels, and for the linear one the distance to the boundary, by norm."""

    logits: Callable
    x: np.ndarray
    labels: np.ndarray
    nearest: dict[str, np.ndarray]


answers = jax.jit(lambda network, x: jnp.argmax(network(x), -1).astype(jnp.int32))


def network_of(curved: float) -> Network:
    """Returns a linear network plus a multiple of a curved one.

    The weights of its classes are about as far apart in every norm, so that the nearest class is the most likely one.
    """
    rng, size = np.random.default_rng(1), int(np.prod(PIXELS))
    even = 8 * scipy.linalg.hadamard(size)[:, 1 : CLASSES + 1] * rng.uniform(0.97, 1.03, (size, CLASSES))
    inner, outer = rng.normal(size=(size, 16)), curved * rng.normal(size=(16, CLASSES))
    return Network(*(weights.astype(np.float32) for weights in (even, inner, outer)))


@functools.cache
def linear() -> Case:
    """Returns a linear network, images well within the box, its answers, and the distance to the boundary by norm."""
    network = network_of(0)
    x = np.random.default_rng(8).uniform(0.25, 0.75, (COUNT, *PIXELS)).astype(np.float32)
    logits = (x.reshape(COUNT, -1) - 0.5) @ network.weights
    labels = logits.argmax(-1)
    gaps = logits[np.arange(COUNT), labels][:, None] - logits
    slopes = network.weights.T[labels][:, None] - network.weights.T[None]
    dual = {"linf": np.abs(slopes).sum(-1), "l2": np.sqrt((slopes**2).sum(-1)), "l1": np.abs(slopes).max(-1)}
    others = np.arange(CLASSES) != labels[:, None]
    nearest = {
        norm: np.min(np.divide(gaps, rate, out=np.full(gaps.shape, np.inf, np.float32), where=others), -1)
        for norm, rate in dual.items()
    }
    return Case(network, x, labels.astype(np.int32), nearest)


@functools.cache
def curved() -> Case:
    """Returns a curved network and images from edge to edge of the box; one of them with another label."""
    network = network_of(16)
    x = np.random.default_rng(3).uniform(0, 1, (COUNT, *PIXELS)).astype(np.float32)
    x[0, :2], x[1] = 0.0, 1.0
    labels = np.array(answers(network, x), np.int32)
    labels[2] = (labels[2] + 1) % CLASSES
    return Case(network, x, labels, {})
