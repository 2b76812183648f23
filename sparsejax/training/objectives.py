"""Training objectives: functions of a network's output and a batch."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float

from sparsejax.data.resident import Batch
from sparsejax.functional import penalties, reinforce_loss
from sparsejax.functional.measures import is_misclassified
from sparsejax.models.base import Output
from sparsejax.models.gpt import next_token_loss
from sparsejax.training.config import ObjectiveConfig

Metrics = dict[str, Array]


class Objective(NamedTuple):
    """An objective: `score(output, batch)` returns `loss` and optionally other scores of each example `[batch]`.

    The best network has the largest `best`, or the smallest if `least`.
    """

    score: Callable[[Output, Batch], dict[str, Float[Array, "batch"]]]
    best: str
    least: bool = False


def _cross_entropy(output: Output, batch: Batch) -> dict[str, Float[Array, "batch"]]:
    hits = ~is_misclassified(output.prediction, batch.labels)
    loss = optax.softmax_cross_entropy_with_integer_labels(output.prediction, batch.labels)
    return {"loss": loss, "accuracy": hits.astype(jnp.float32)}


def _squared_error(output: Output, batch: Batch) -> dict[str, Float[Array, "batch"]]:
    target = batch.images.reshape(batch.images.shape[0], -1) if output.target is None else output.target
    return {"loss": jnp.mean(jnp.square(output.prediction - target), axis=-1)}


cross_entropy = Objective(_cross_entropy, "accuracy")
"""Negative log-likelihood of the labels in nats, and the accuracy."""

reconstruction = Objective(_squared_error, "loss", least=True)
"""Squared error against the clean input, or the target that the network names, averaged over its elements."""

next_token = Objective(
    lambda output, batch: {"loss": next_token_loss(output.prediction, batch.images)}, "loss", least=True
)
"""Negative log-likelihood of each next token in nats; its exponential is the perplexity."""

OBJECTIVES = {"classification": cross_entropy, "reconstruction": reconstruction, "next_token": next_token}
_PENALTIES = {name: getattr(penalties, name) for name in ("l1", "l2", "cauchy", "gaussian")}


def total_loss(
    config: ObjectiveConfig, output: Output, batch: Batch, *, axis_name: str | None = None
) -> tuple[Float[Array, ""], tuple[Metrics, Any]]:
    """Returns the total loss of a step, the metrics to log and the network's new state.

    The loss is the sum of the objective's mean loss, the network's own losses, the penalties on the activity of its
    hidden layers (logged as `l1_activity` and so on, without their weights), and for networks that sample the surrogate
    loss of REINFORCE, whose gradient raises the probability of samples with a loss below the average.

    Args:
      config: the task and the penalties.
      output: of the network, in training.
      batch: its inputs.
      axis_name: mesh axis over which the batch is sharded; the average loss is averaged over it.

    References:
      Williams, Simple Statistical Gradient-Following Algorithms, 1992; Bricken et al., 2022, for the L1 baseline;
      the thesis "Sparse Coding in Deep Neural Networks and the Visual System", Eq. 2.1 to 2.4 (an L1 penalty summed
      over all hidden units and averaged over the batch) and 3.1 (divided by the number of nodes).
    """
    scores = OBJECTIVES[config.kind].score(output, batch)
    metrics = {name: jnp.mean(values) for name, values in scores.items()}
    metrics |= {name: jnp.asarray(value, jnp.float32) for name, value in (output.measures or {}).items()}
    loss, state = metrics["loss"], output.state
    layers = {name: h for name, h in output.activations.items() if name in (config.penalised or (name,))}
    units = sum(h[0].size for h in layers.values()) if config.per_unit else 1
    for name, penalty in _PENALTIES.items():
        if (weight := getattr(config, name)) is not None:
            metrics[f"{name}_activity"] = activity = jnp.stack([penalty(h) for h in layers.values()]).sum()
            loss = loss + weight / units * activity
    for name, value in (output.losses or {}).items():
        metrics[name], loss = value, loss + value
    if output.log_probability is not None:
        usual = state["usual_loss"]
        each = lax.stop_gradient(scores["loss"])
        mean = jnp.mean(each) if axis_name is None else lax.pmean(jnp.mean(each), axis_name)
        # An exponential average with bias correction: unbiased from the first step.
        sums = {"sum": 0.95 * usual["sum"] + 0.05 * mean, "weight": 0.95 * usual["weight"] + 0.05}
        expected = jnp.where(usual["weight"] > 0, usual["sum"] / jnp.maximum(usual["weight"], 1e-8), mean)
        loss = loss + reinforce_loss(output.log_probability, each, expected)
        state = {**state, "usual_loss": sums}
    return loss, (metrics, state)
