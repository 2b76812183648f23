"""Losses that attacks maximise: functions of logits and labels, one number per example."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from sparsejax.errors import ConfigError

LogitsFn = Callable[..., Float[Array, "batch classes"]]
"""`logits(x)`, or for a stochastic network `logits(x, key)`."""
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
    return jnp.take(jnp.argsort(-other, axis=-1), rank - 1, axis=1)


class Network(NamedTuple):
    """The attacked network: logits of images, averaged over draws if it is stochastic."""

    logits: LogitsFn
    draws: int | None = None

    def __call__(self, x: Array, key: PRNGKeyArray) -> Array:
        """Returns logits in float32, the mean over the draws."""
        if self.draws is None:
            return self.logits(x).astype(jnp.float32)
        keys = jax.random.split(key, self.draws)
        return jnp.mean(jax.vmap(lambda key: self.logits(x, key).astype(jnp.float32))(keys), 0)

    def loss_and_gradient(self, loss: Loss, x: Array, labels: Array, key: PRNGKeyArray) -> tuple[Array, Array, Array]:
        """Returns the loss `[batch]`, its gradient with respect to x, and which examples are misclassified.

        For a stochastic network the loss is the mean over the draws (expectation over transformation).
        """

        def one(x: Array, key: Any) -> tuple[Array, tuple[Array, Array]]:
            logits = (self.logits(x) if self.draws is None else self.logits(x, key)).astype(jnp.float32)
            losses = loss(logits, labels)
            return jnp.sum(losses), (losses, logits)

        if self.draws is None:
            gradient, (losses, logits) = jax.grad(one, has_aux=True)(x, None)
        else:
            several = jax.vmap(jax.grad(one, has_aux=True), (None, 0))(x, jax.random.split(key, self.draws))
            gradient, (losses, logits) = jax.tree.map(lambda leaf: jnp.mean(leaf, 0), several)
        return losses, gradient, is_misclassified(logits, labels)


def is_misclassified(logits: Float[Array, "batch classes"], labels: Int[Array, "batch"]) -> Bool[Array, "batch"]:
    """Returns which examples the network misclassifies."""
    return jnp.argmax(logits, axis=-1) != labels


def _at(logits: Array, classes: Array) -> Array:
    return jnp.take_along_axis(logits, classes[:, None], 1)[:, 0]
