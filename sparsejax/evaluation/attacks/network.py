"""The attacked network: its logits, and the gradient of a loss with respect to its images."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from sparsejax.errors import ConfigError
from sparsejax.evaluation.attacks.geometry import widen
from sparsejax.evaluation.attacks.losses import Loss
from sparsejax.functional.measures import is_misclassified

LogitsFn = Callable[..., Float[Array, "batch classes"]]
"""`logits(x)`, or for a stochastic network `logits(x, key)`."""


class Network(NamedTuple):
    """Logits of images, averaged over draws if the network is stochastic.

    Attributes:
      logits: the user's function.
      draws: number of draws, or None for a deterministic network.
      clean: images `[batch, ...]` in the dtype that the network receives; None for images that have it already.
    """

    logits: LogitsFn
    draws: int | None = None
    clean: Array | None = None

    def __call__(self, x: Array, key: PRNGKeyArray) -> Array:
        """Returns logits `[batch, classes]`, at least in float32, the mean over the draws."""
        seen = self.shown(x)
        if self.draws is None:
            return self._once(seen, None)
        return jnp.mean(jax.vmap(lambda key: self._once(seen, key))(jax.random.split(key, self.draws)), 0)

    def shown(self, x: Array) -> Array:
        """Returns images in the dtype of the clean ones, every entry rounded towards these, so that they stay as near.

        Rounding bfloat16 images of a ball of 2/255 to the nearest would move some of them out of it by a quarter.
        """
        if self.clean is None or x.dtype == self.clean.dtype:
            return x
        nearest, clean = x.astype(self.clean.dtype), self.clean.astype(x.dtype)
        beyond = jnp.abs(nearest.astype(x.dtype) - clean) > jnp.abs(x - clean)
        return jnp.where(beyond, jnp.nextafter(nearest, self.clean), nearest)

    def around(self, x: Array) -> "Network":
        """Returns the network for some of the clean images, given at least in float32."""
        return self if self.clean is None else self._replace(clean=x.astype(self.clean.dtype))

    def loss_and_gradient(self, loss: Loss, x: Array, labels: Array, key: PRNGKeyArray) -> tuple[Array, Array, Array]:
        """Returns the loss `[batch]`, its gradient with respect to x, and which examples are misclassified.

        For a stochastic network the loss is the mean over the draws (expectation over transformation). Entries of the
        gradient that are not finite count as 0, and a loss that is no number as -inf: an attack moves the other entries
        instead of returning images that are not finite.
        """

        def one(x: Array, key: Any) -> tuple[Array, tuple[Array, Array]]:
            logits = self._once(x, key)
            losses = loss(logits, labels)
            return jnp.sum(losses), (losses, logits)

        seen = self.shown(x)
        if self.draws is None:
            gradient, (losses, logits) = jax.grad(one, has_aux=True)(seen, None)
            gradient = _finite(gradient.astype(x.dtype))
        else:
            keys = jax.random.split(key, self.draws)
            gradient, several = jax.vmap(jax.grad(one, has_aux=True), (None, 0))(seen, keys)
            gradient = jnp.mean(_finite(gradient.astype(x.dtype)), 0)
            losses, logits = jax.tree.map(lambda leaf: jnp.mean(leaf, 0), several)
        losses = jnp.where(jnp.isnan(losses), -jnp.inf, losses).astype(x.dtype)
        return losses, gradient, is_misclassified(logits, labels)

    def _once(self, x: Array, key: Any) -> Array:
        """Returns the logits of one draw; for an empty batch without an empty batch, which some networks refuse.

        Raises:
          ConfigError: the function returns something else.
        """
        if not len(x):
            return self._once(jnp.zeros((1, *x.shape[1:]), x.dtype), key)[:0]
        logits = self.logits(x) if self.draws is None else self.logits(x, key)
        shape, dtype = getattr(logits, "shape", None), getattr(logits, "dtype", None)
        if shape is None or len(shape) != 2 or shape[0] != len(x) or shape[1] < 2:
            raise ConfigError(
                f"logits_fn returned {type(logits).__name__ if shape is None else shape} for {len(x)} images; expected "
                f"an array of logits [batch, classes], here [{len(x)}, 2 or more]."
            )
        if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
            raise ConfigError(f"logits_fn returned an array of {dtype}; expected logits, in a floating-point dtype.")
        return widen(logits)


def _finite(gradient: Array) -> Array:
    return jnp.where(jnp.isfinite(gradient), gradient, 0)
