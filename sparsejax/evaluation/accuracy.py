"""Accuracy, noise accuracy and the use of units, counted over a whole split inside one compiled call."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from sparsejax.data.resident import Resident, normalised
from sparsejax.functional import example_keys, pixel_noise
from sparsejax.hyper import Hyper
from sparsejax.models.base import Model, Variables

NOISE_LEVELS = tuple(level / 20 for level in range(11))
"""Fractions of pixels replaced, 0 to 0.5 (Ahmad & Scheinkman, 2019, section 4.1)."""


class Counts(NamedTuple):
    """Of a split: examples classified correctly, summed loss in nats, and how often each unit of a layer was active.

    `active` is empty unless it was asked for.
    """

    correct: Int[Array, ""]
    loss: Float[Array, ""]
    active: dict[str, Int[Array, "units"]]


def make_evaluation(
    model: Model, *, examples: int, batch_size: int, units: bool, axis_name: str | None = None, shards: int = 1
):
    """Returns `evaluate(variables, hyper, epoch, data) -> Counts` of one network.

    Args:
      model: the network.
      examples: size of the split.
      batch_size: examples at a time, over all shards; rounded up to a multiple of them.
      units: also count how often each unit is active, which takes half as long again.
      axis_name: mesh axis of the shards, which each evaluate a part of every batch.
      shards: their number.
    """

    def evaluate(variables: Variables, hyper: Hyper, epoch: Float[Array, ""], data: Resident) -> Counts:
        hyper = model.scheduled(hyper["model"], epoch=epoch, step=jnp.int32(0))

        def counts_of(rows, counted):
            images = normalised(data, data.images[rows])
            output = model.apply(variables, images, train=False, hyper=hyper)
            active = {
                name: jnp.sum(((y != 0).reshape(len(rows), -1) & counted[:, None]).astype(jnp.int32), axis=0)
                for name, y in (output.activations.items() if units else ())
            }
            correct, loss = _scored(output.prediction, data.labels[rows], counted)
            return Counts(correct, loss, active)

        return _summed(counts_of, examples, batch_size, axis_name, shards)

    return evaluate


def make_noise_evaluation(
    model: Model, *, examples: int, batch_size: int, seed: int, axis_name: str | None = None, shards: int = 1
):
    """Returns `evaluate(variables, hyper, epoch, data) -> correct [11]`, the correct answers at every noise level.

    The noise depends on the seed, the level and the image alone. Other arguments as in `make_evaluation`.
    """

    def evaluate(variables: Variables, hyper: Hyper, epoch: Float[Array, ""], data: Resident) -> Int[Array, "levels"]:
        hyper = model.scheduled(hyper["model"], epoch=epoch, step=jnp.int32(0))
        white = data.mean + 2 * data.std

        def correct_at(level, index):
            key = jax.random.fold_in(jax.random.key(seed), index)

            def counts_of(rows, counted):
                pixels = data.images[rows].astype(jnp.float32) / 255
                noisy = pixel_noise(example_keys(key, rows), pixels, level=level, value=white)
                output = model.apply(variables, (noisy - data.mean) / data.std, train=False, hyper=hyper)
                return _scored(output.prediction, data.labels[rows], counted)[0]

            return _summed(counts_of, examples, batch_size, axis_name, shards)

        levels = jnp.asarray(NOISE_LEVELS, jnp.float32)
        return lax.map(lambda pair: correct_at(*pair), (levels, jnp.arange(len(NOISE_LEVELS))))

    return evaluate


def _scored(logits, labels, counted):
    """Returns the number of correct answers and the summed negative log-likelihood of the rows that count."""
    log_p = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=-1)[:, 0]
    hits = (jnp.argmax(logits, axis=-1) == labels) & counted
    return jnp.sum(hits.astype(jnp.int32)), -jnp.sum(jnp.where(counted, log_p, 0.0))


def _summed(counts_of, examples, batch_size, axis_name, shards):
    """Adds up `counts_of(rows, counted)` over all rows of a split, batch by batch and over the shards."""
    share = -(-min(batch_size, examples) // shards)
    shard = 0 if axis_name is None else lax.axis_index(axis_name)
    batches = -(-examples // (share * shards))

    def of_batch(batch):
        rows = (batch * shards + shard) * share + jnp.arange(share)
        # The last batch runs past the end: those rows repeat the last example and do not count.
        return counts_of(jnp.minimum(rows, examples - 1), rows < examples)

    total = jax.tree.map(lambda counts: jnp.sum(counts, axis=0), lax.map(of_batch, jnp.arange(batches)))
    return total if axis_name is None else lax.psum(total, axis_name)
