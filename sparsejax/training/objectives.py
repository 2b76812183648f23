"""What training minimises: functions of a network's output and a batch."""

from collections.abc import Callable

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from sparsejax.data.resident import Batch
from sparsejax.models.base import Output

Metrics = dict[str, Array]
Objective = Callable[[Output, Batch], tuple[Float[Array, ""], Metrics]]


def cross_entropy(output: Output, batch: Batch) -> tuple[Float[Array, ""], Metrics]:
    """Returns the mean negative log-likelihood in nats of the labels, and the accuracy."""
    loss = jnp.mean(optax.softmax_cross_entropy_with_integer_labels(output.prediction, batch.labels))
    hits = jnp.argmax(output.prediction, axis=-1) == batch.labels
    return loss, {"accuracy": jnp.mean(hits.astype(jnp.float32))}
