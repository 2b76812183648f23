"""The training step, and the chunk of steps of one compiled call."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Bool

from sparsejax.data.resident import Batch, Resident, epoch_order, normalize, steps_per_epoch
from sparsejax.data.streaming import Streamed
from sparsejax.functional import crop_and_flip, example_keys
from sparsejax.training.config import Config
from sparsejax.training.objectives import Metrics, total_loss
from sparsejax.training.optimizers import learning_rate, optimizer
from sparsejax.training.precision import apply_with_precision
from sparsejax.training.rewiring import add_probes, masked_layers, rewire_fraction, rewire_layers, zero_probes
from sparsejax.training.state import AUGMENT, NOISE, ORDER, REWIRE, TrainState

AUGMENTATIONS: dict[str, Callable[[Array, Array], Array]] = {"crop_flip": crop_and_flip}
"""Augmentations of training images `[batch, ...]`, given a key for each; "none" has no entry."""


def step(
    state: TrainState, batch: Batch, config: Config, *, steps: int, axis_name: str | None = None
) -> tuple[TrainState, Metrics]:
    """Takes one training step, in the configured precision.

    Args:
      state: of the training.
      batch: examples, with their rows in the whole batch.
      config: the configuration; its leaves may be traced.
      steps: steps per epoch in the current epoch; the last of them starts the next epoch.
      axis_name: mesh axis over which the batch is sharded, None on one device. Gradients, metrics and counts are those
        of the whole batch on every device.

    Returns:
      The next state, and the metrics to log.
    """
    training = config.training
    epoch = state.epoch.astype(jnp.float32)
    model = config.model.at(epoch, state.step)
    # At the start: XLA copies parameters that the end of a step projects after their update.
    projected = params = model.project(state.variables.params)
    if axis_name is not None:
        # Gradients of replicated parameters are summed under shard_map and local under pmap; gradients of
        # device-varying parameters are local under both.
        params = lax.pcast(params, axis_name, to="varying")
    # Keys are folded with the row in the whole batch, so noise does not depend on the sharding.
    noise_key = jax.random.fold_in(jax.random.fold_in(state.key, NOISE), state.step)
    keys = example_keys(noise_key, batch.rows)

    def loss_of(params, probes=None):
        variables = state.variables._replace(params=params)
        variables = variables if probes is None else add_probes(variables, probes)
        output = apply_with_precision(
            model, variables, batch.images, precision=training.precision, key=keys, axis_name=axis_name
        )
        return total_loss(config.objective, output, batch, axis_name=axis_name)

    (_, (metrics, new_state)), grads = jax.value_and_grad(loss_of, has_aux=True)(params)
    if axis_name is not None:
        grads, metrics = lax.pmean((grads, metrics), axis_name)
    grads = model.project_gradient(projected, grads)
    fraction = (epoch + state.position / steps) / training.epochs
    rate = learning_rate(training, epoch, fraction)
    # With the barrier the squares are summed where they are computed. Otherwise XLA shares them with Adam, and writes
    # them to memory and reads them again: 8 % of the step of a large autoencoder on a CPU.
    norm = optax.tree.norm(lax.optimization_barrier(grads))
    # `0 * norm` is a data dependency: the update starts after all gradients. Without it XLA copies the parameters in
    # every step, because a gradient may still read what another parameter's update overwrites.
    updates, opt_state = optimizer(training, rate + 0 * norm).update(grads, state.opt_state, projected)
    variables = state.variables._replace(params=optax.apply_updates(projected, updates), state=new_state)
    if training.rewiring != "none" and masked_layers(variables):

        def dense_gradients():
            probes = zero_probes(state.variables)
            if axis_name is not None:
                probes = lax.pcast(probes, axis_name, to="varying")
            grads = jax.grad(lambda probes: loss_of(params, probes)[0])(probes)
            return grads if axis_name is None else lax.pmean(grads, axis_name)

        key = jax.random.fold_in(jax.random.fold_in(state.key, REWIRE), state.step)
        variables, opt_state = lax.cond(
            (state.step + 1) % training.rewire_every == 0,
            lambda networks: rewire_layers(
                key,
                networks[0],
                networks[1],
                dense_gradients if training.rewiring == "rigl" else None,
                rewire_fraction(training, fraction),
                optimizer(training, rate).init,
            ),
            lambda networks: networks,
            (variables, opt_state),
        )
    metrics |= {"grad_norm": norm, "learning_rate": rate}
    if training.on_nan == "skip":
        total = sum(jnp.sum(jnp.abs(leaf)) for leaf in jax.tree.leaves(variables.params))
        finite = is_finite(metrics) & jnp.isfinite(total)
        metrics["grad_norm"] = jnp.where(finite, norm, jnp.nan)  # `is_finite` of a skipped step is false
        variables, opt_state = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old),
            (variables, opt_state), (state.variables, state.opt_state),
        )  # fmt: skip
    position = state.position + 1
    return TrainState(
        variables, opt_state, state.key, state.epoch + position // steps, position % steps, state.step + 1
    ), metrics


def chunk(
    state: TrainState,
    config: Config,
    data: Resident | Streamed,
    *,
    examples: int,
    batch_size: int,
    length: int,
    axis_name: str | None = None,
    shards: int = 1,
) -> tuple[TrainState, Metrics]:
    """Takes `length` steps of one epoch, as a scan.

    The examples are the streamed ones, or those of `data.batches` if given. Networks mapped over members then share
    them, so that all first layers are one product; otherwise each has the order of its own key.

    Args:
      state: the network.
      config: the configuration.
      data: the training set, or the next batches of it.
      examples: size of the training set.
      batch_size: examples per step, over all shards.
      length: number of steps; it must divide those of an epoch.
      axis_name: mesh axis of the shards.
      shards: number of parts of a batch.

    Returns:
      The state, and the means of the steps' metrics. They include `not_finite`, the number of steps with a loss or
      gradient that is not finite, and `first_not_finite`, the index of the first, or `length` if there is none; the
      means exclude skipped steps. Parameters that are not finite at the end count for the last step.
    """
    steps, share = steps_per_epoch(examples, batch_size), batch_size // shards
    augment, skip = AUGMENTATIONS.get(config.data.augment), config.training.on_nan == "skip"
    first_row = jnp.int32(0) if axis_name is None else share * lax.axis_index(axis_name)
    if isinstance(data, Streamed):
        batches = data.images, data.labels
        if data.labels.shape[1] != share:  # pmap gives all devices the whole batch
            batches = jax.tree.map(lambda leaf: lax.dynamic_slice_in_dim(leaf, first_row, share, 1), batches)
    else:
        order, first = data.batches, jnp.int32(0)
        if order is None:
            labels = data.labels if config.data.balanced else None
            order = epoch_order(jax.random.fold_in(state.key, ORDER), state.epoch, examples, batch_size, labels)
            first = state.position
        batches = lax.dynamic_slice(order, (first, first_row), (length, share))

    def body(state: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
        images, labels = batch if isinstance(data, Streamed) else (data.images[batch], data.labels[batch])
        rows = first_row + jnp.arange(share, dtype=jnp.int32)
        if augment is not None:
            key = jax.random.fold_in(jax.random.fold_in(state.key, AUGMENT), state.step)
            images = augment(example_keys(key, rows), images)
        return step(state, Batch(normalize(data, images), labels, rows), config, steps=steps, axis_name=axis_name)

    state, metrics = lax.scan(body, state, batches)
    good = is_finite(metrics)
    total = sum(jnp.sum(jnp.abs(leaf)) for leaf in jax.tree.leaves(state.variables.params))
    good = good.at[-1].set(good[-1] & (jnp.isfinite(total) | skip))
    counted = good if skip else jnp.ones_like(good)
    number = jnp.maximum(jnp.sum(counted.astype(jnp.float32)), 1)
    means = {name: jnp.sum(jnp.where(counted, values, 0), axis=0) / number for name, values in metrics.items()}
    first_bad = jnp.where(jnp.all(good), length, jnp.argmin(good)).astype(jnp.int32)
    return state, means | {"not_finite": jnp.sum((~good).astype(jnp.int32)), "first_not_finite": first_bad}


def is_finite(metrics: Metrics) -> Bool[Array, "*steps"]:
    """Returns whether loss and gradient of a step are finite."""
    return jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])


def chunk_length(steps: int, most_chunks: int = 16) -> int:
    """Returns the steps per chunk: an epoch is divided into as many equal chunks as possible, at most `most_chunks`.

    Chunks of equal length need one compilation; progress is shown and checkpoints are saved between them.
    """
    return steps // max(count for count in range(1, most_chunks + 1) if steps % count == 0)
