"""Evaluates a whole split in one compiled call: batch by batch, all measures at once, over the shards of a batch."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from sparsejax.data.resident import Resident, normalize
from sparsejax.errors import blame
from sparsejax.evaluation.measure import EvaluationBatch, Measure
from sparsejax.functional import example_keys
from sparsejax.models.base import Output, Variables
from sparsejax.training.config import Config


def make_evaluation(
    measures: Sequence[Measure],
    *,
    examples: int,
    batch_size: int,
    seed: int = 0,
    axis_name: str | None = None,
    shards: int = 1,
) -> Callable[[Variables, Config, Float[Array, ""], Resident], dict[str, Any]]:
    """Return `evaluate(variables, config, epoch, data) -> sums of every measure by name`, of one network.

    One forward pass of a batch serves all measures; each additional version needs its own.

    Args:
      measures: bound to a network of the same structure.
      examples: size of the split.
      batch_size: examples per batch over all shards; rounded up to a multiple of their number.
      seed: for networks with noise in evaluation; the noise depends only on the image.
      axis_name: mesh axis of the shards, each of which evaluates a part of every batch.
      shards: their number.
    """
    sizes = {measure.name: min(measure.examples or examples, examples) for measure in measures}

    def evaluate(variables: Variables, config: Config, epoch: Float[Array, ""], data: Resident) -> dict[str, Any]:
        model = config.model.at(epoch, jnp.int32(0))

        def run_network(batch: EvaluationBatch) -> EvaluationBatch:
            return batch._replace(output=model.apply(variables, batch.images, key=batch.keys, train=False))

        def sums_of(measure: Measure, batch: EvaluationBatch) -> Any:
            def of_version(index: Int[Array, ""]) -> Any:
                with blame(f"`version` of the measure {measure.name!r}"):
                    changed = measure.version(batch, index)
                return of(run_network(changed))

            def of(batch: EvaluationBatch) -> Any:
                with blame(f"`of_batch` of the measure {measure.name!r}"):
                    return jax.tree.map(jnp.asarray, measure.of_batch(model, variables, batch))

            return (
                of(batch)
                if measure.versions is None
                else lax.map(of_version, jnp.arange(measure.versions, dtype=jnp.int32))
            )

        def over_first(size: int) -> dict[str, Any]:
            def counts_of(rows: Int[Array, "batch"], counted: Bool[Array, "batch"]) -> dict[str, Any]:
                raw, keys = data.images[rows], example_keys(jax.random.key(seed), rows)
                batch = EvaluationBatch(
                    normalize(data, raw), data.labels[rows], rows, counted, keys, _NOTHING, raw, data
                )
                batch = run_network(batch)
                return {measure.name: sums_of(measure, batch) for measure in measures if sizes[measure.name] == size}

            return sum_over_split(counts_of, size, batch_size, axis_name, shards)

        return {name: sums for size in sorted(set(sizes.values())) for name, sums in over_first(size).items()}

    return evaluate


_NOTHING = Output(None, None, {})  # type: ignore[arg-type]


def sum_over_split(
    counts_of: Callable[[Int[Array, "batch"], Bool[Array, "batch"]], Any],
    examples: int,
    batch_size: int,
    axis_name: str | None,
    shards: int,
) -> Any:
    """Sum the pytree `counts_of(rows, counted)` over a split, batch by batch and over the shards."""
    share = -(-min(batch_size, examples) // shards)
    shard = 0 if axis_name is None else lax.axis_index(axis_name)
    batches = -(-examples // (share * shards))

    def of_batch(batch):
        rows = (batch * shards + shard) * share + jnp.arange(share, dtype=jnp.int32)
        # The last batch is padded by repeating the last example; these rows do not count.
        return counts_of(jnp.minimum(rows, examples - 1), rows < examples)

    total = jax.tree.map(
        lambda counts: jnp.sum(counts, axis=0, dtype=counts.dtype),
        lax.map(of_batch, jnp.arange(batches, dtype=jnp.int32)),
    )
    return total if axis_name is None else lax.psum(total, axis_name)
