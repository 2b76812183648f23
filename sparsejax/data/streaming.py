"""Batches read from the host's memory or disk in a given order, while the device processes earlier ones."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from sparsejax.data.dataset import Split
from sparsejax.errors import ConfigError

_AHEAD = 2
"""Number of prefetched chunks."""


class Streamed(NamedTuple):
    """The batches of a chunk of steps, on the device; the moments as in `Resident`."""

    images: UInt8[Array, "steps batch *shape"]
    labels: Int[Array, "steps batch"]
    mean: Float[Array, "1 1 1 channels"]
    std: Float[Array, "1 1 1 channels"]


def read_chunks(
    split: Split, order: Any, *, length: int, columns: slice, done: int = 0
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields images `[length, batch, ...]` and labels `[length, batch]` of `length` batches at a time.

    A run's position in the order follows from its step, so it resumes exactly there.

    Args:
      split: arrays in memory, or on disk (`numpy.memmap`).
      order: indices of the examples of every batch, `[steps, batch]`, an array or a `BlockOrder`.
      length: batches per chunk; it must divide the number of batches in the order.
      done: batches to leave out at the start.
      columns: which examples of each batch are read: those of this process.

    Raises:
      ConfigError: grain is not installed.
    """
    try:
        import grain
    except ImportError:
        raise ConfigError(
            "data.streaming needs grain: pip install grain, or omit it and keep the training set on the devices."
        ) from None

    def read(start: Any) -> tuple[np.ndarray, np.ndarray]:
        rows = order[start : start + length, columns]
        return np.asarray(split.images[rows]), np.asarray(split.labels[rows])

    chunks = grain.MapDataset.source(range(done, len(order), length)).map(read)
    yield from chunks.to_iter_dataset(grain.ReadOptions(num_threads=_AHEAD, prefetch_buffer_size=_AHEAD))
