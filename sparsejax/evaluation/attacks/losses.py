"""Losses that attacks maximise: functions of logits and labels, one number per example."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from sparsejax.errors import ConfigError

Loss = Callable[[Array, Array], Array]


def cross_entropy(logits: Float[Array, "batch classes"], labels: Int[Array, "batch"]) -> Float[Array, "batch"]:
    """Returns minus the log-likelihood of the labels."""
    return jax.nn.logsumexp(logits, axis=-1) - _at(logits, labels)


def margin(logits: Float[Array, "batch classes"], labels: Int[Array, "batch"]) -> Float[Array, "batch"]:
    """Returns the largest other logit minus the label's: positive where the network is wrong."""
    other = jnp.where(jax.nn.one_hot(labels, logits.shape[-1], dtype=bool), -jnp.inf, logits)
    return jnp.max(other, axis=-1) - _at(logits, labels)


def dlr(logits: Float[Array, "batch classes"], labels: Int[Array, "batch"]) -> Float[Array, "batch"]:
    """Returns the margin divided by the difference of the largest and third logit, which is scale-invariant.

    Raises:
      ConfigError: there are fewer than three classes.

    References:
      Croce & Hein, Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks,
      2020, Eq. 6.
    """
    if logits.shape[-1] < 3:
        raise ConfigError(f"There are {logits.shape[-1]} classes; this loss needs three. The margin needs only two.")
    ranked = jnp.sort(logits, axis=-1)
    return margin(logits, labels) / (ranked[:, -1] - ranked[:, -3] + 1e-12)


def targeted_dlr(target: Int[Array, "batch"]) -> Loss:
    """Returns the targeted loss towards a class; it needs four classes.

    References:
      Croce & Hein, 2020, Eq. 7.
    """

    def loss(logits: Array, labels: Array) -> Array:
        ranked = jnp.sort(logits, axis=-1)
        scale = ranked[:, -1] - (ranked[:, -3] + ranked[:, -4]) / 2 + 1e-12
        return (_at(logits, target) - _at(logits, labels)) / scale

    return loss


def runner_up(
    logits: Float[Array, "batch classes"], labels: Int[Array, "batch"], rank: int | Int[Array, ""]
) -> Int[Array, "batch"]:
    """Returns the class of the rank-th largest logit (from 1) except the label's."""
    other = jnp.where(jax.nn.one_hot(labels, logits.shape[-1], dtype=bool), -jnp.inf, logits)
    return jnp.take(jnp.argsort(-other, axis=-1), rank - 1, axis=1).astype(jnp.int32)


def _at(logits: Array, classes: Array) -> Array:
    return jnp.take_along_axis(logits, classes[:, None], 1)[:, 0]
