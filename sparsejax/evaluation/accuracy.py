"""Loss, accuracy, noise accuracy and the use of units, over a whole split inside one compiled call."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Key

from sparsejax.data.resident import Batch, Resident, normalised
from sparsejax.functional import example_keys, pixel_noise, white_noise_blend
from sparsejax.models.base import Variables
from sparsejax.training.config import Config
from sparsejax.training.objectives import OBJECTIVES

NOISE_LEVELS = tuple(level / 20 for level in range(11))
"""Fractions of pixels replaced, or shares of white noise in a waveform (Ahmad & Scheinkman, 2019, section 4)."""


class Counts(NamedTuple):
    """Of a split: the objective's figures summed over the examples, and how the hidden layers were used.

    `density` holds for each layer the sum over the examples of the fraction of units active, and of its square;
    `active` how often each unit was active, `k` for how many examples each number of units was. The last two are
    empty unless they were asked for.
    """

    sums: dict[str, Float[Array, ""]]
    density: dict[str, Float[Array, "2"]]
    active: dict[str, Int[Array, "units"]]
    k: dict[str, Int[Array, "units+1"]]


def make_evaluation(
    thresholds: Mapping[str, float],
    *,
    examples: int,
    batch_size: int,
    units: bool,
    seed: int = 0,
    axis_name: str | None = None,
    shards: int = 1,
):
    """Returns `evaluate(variables, config, epoch, data) -> Counts` of one network.

    Args:
      thresholds: hidden layer -> a unit counts as active beyond this.
      examples: size of the split.
      batch_size: examples at a time, over all shards; rounded up to a multiple of them.
      units: also count how often each unit is active, which takes half as long again.
      seed: of the noise of networks that keep it when they are evaluated; it depends on the image alone.
      axis_name: mesh axis of the shards, which each evaluate a part of every batch.
      shards: their number.
    """

    def evaluate(variables: Variables, config: Config, epoch: Float[Array, ""], data: Resident) -> Counts:
        model, objective = config.model.at(epoch, jnp.int32(0)), OBJECTIVES[config.objective.kind]

        def counts_of(rows, counted):
            images = normalised(data, data.images[rows])
            keys = example_keys(jax.random.key(seed), rows)
            output = model.apply(variables, images, key=keys, train=False)
            scores = objective.score(output, Batch(images, data.labels[rows], rows))
            sums = {name: jnp.sum(jnp.where(counted, values, 0.0)) for name, values in scores.items()}
            density, active, k = {}, {}, {}
            for name, y in output.activations.items():
                on = (jnp.abs(y) > thresholds[name]).reshape(len(rows), -1) & counted[:, None]
                winners = jnp.sum(on.astype(jnp.int32), axis=-1)
                fraction = winners / on.shape[-1]
                density[name] = jnp.stack([jnp.sum(fraction), jnp.sum(fraction**2)])
                if units:
                    active[name] = jnp.sum(on.astype(jnp.int32), axis=0)
                    k[name] = jnp.zeros(on.shape[-1] + 1, jnp.int32).at[winners].add(counted.astype(jnp.int32))
            return Counts(sums, density, active, k)

        return over_split(counts_of, examples, batch_size, axis_name, shards)

    return evaluate


def make_noise_evaluation(*, examples: int, batch_size: int, seed: int, axis_name: str | None = None, shards: int = 1):
    """Returns `evaluate(variables, config, epoch, data) -> correct [11]`, the correct answers at every noise level.

    The noise depends on the seed, the level and the image alone. Other arguments as in `make_evaluation`.
    """

    def evaluate(variables: Variables, config: Config, epoch: Float[Array, ""], data: Resident) -> Int[Array, "levels"]:
        model = config.model.at(epoch, jnp.int32(0))

        def correct_at(level, index):
            key = jax.random.fold_in(jax.random.key(seed), index)

            def counts_of(rows, counted):
                noisy = corrupted(example_keys(key, rows), data, data.images[rows], level)
                output = model.apply(variables, noisy, train=False)
                hits = (jnp.argmax(output.prediction, axis=-1) == data.labels[rows]) & counted
                return jnp.sum(hits.astype(jnp.int32))

            return over_split(counts_of, examples, batch_size, axis_name, shards)

        levels = jnp.asarray(NOISE_LEVELS, jnp.float32)
        return lax.map(lambda pair: correct_at(*pair), (levels, jnp.arange(len(NOISE_LEVELS))))

    return evaluate


def corrupted(
    keys: Key[Array, "batch"], data: Resident, examples: Array, level: float | Float[Array, ""]
) -> Float[Array, "batch ..."]:
    """Returns what a network is given of examples under noise: waveforms blended with white noise, or images with that
    fraction of their pixels replaced by the mean plus two standard deviations, then normalised.
    """
    if examples.dtype == jnp.int16:
        return white_noise_blend(keys, normalised(data, examples), level=level)
    white = data.mean + 2 * data.std
    noisy = pixel_noise(keys, examples.astype(jnp.float32) / 255, level=level, value=white)
    return (noisy - data.mean) / data.std


def over_split(
    counts_of: Callable[[Int[Array, "batch"], Bool[Array, "batch"]], Any],
    examples: int,
    batch_size: int,
    axis_name: str | None,
    shards: int,
) -> Any:
    """Adds up `counts_of(rows, counted)`, arrays in any structure, over a split, batch by batch and over the shards."""
    share = -(-min(batch_size, examples) // shards)
    shard = 0 if axis_name is None else lax.axis_index(axis_name)
    batches = -(-examples // (share * shards))

    def of_batch(batch):
        rows = (batch * shards + shard) * share + jnp.arange(share)
        # The last batch runs past the end: those rows repeat the last example and do not count.
        return counts_of(jnp.minimum(rows, examples - 1), rows < examples)

    total = jax.tree.map(lambda counts: jnp.sum(counts, axis=0), lax.map(of_batch, jnp.arange(batches)))
    return total if axis_name is None else lax.psum(total, axis_name)
