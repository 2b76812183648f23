"""Rows of several .npy files as one array, read when they are indexed."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from sparsejax.errors import DataDamagedError, shorten
from sparsejax.files import is_supported

Stored = Literal["float32", "float16", "bfloat16"]
"""Types of numbers in shards; NumPy has no bfloat16, so its files hold the bits as uint16."""


class Shard(NamedTuple):
    """A file .npy and its number of rows."""

    path: Path
    rows: int


class ShardedRows:
    """Rows `[n, features]` in several files; an index returns them as float32.

    Indexing takes a slice without a step, which reads nothing, or an array of row numbers of any shape. A row is read
    from the disk when it is used, so the rows may be larger than memory.

    Args:
      shards: the files, in order.
      features: numbers in a row.
      stored: their type in the files.
    """

    dtype = np.dtype(np.float32)
    ndim = 2

    def __init__(
        self, shards: Sequence[Shard], features: int, stored: Stored, first: int = 0, count: int | None = None
    ):
        self._shards, self._features = tuple(shards), features
        self._stored: Stored = stored
        self._ends = np.cumsum([shard.rows for shard in shards])
        self._first = first
        self._count = int(self._ends[-1]) - first if count is None else count
        self._opened: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return self._count

    @property
    def shards(self) -> tuple[Shard, ...]:
        """The files."""
        return self._shards

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and features."""
        return self._count, self._features

    def __getitem__(self, rows: Any) -> Any:
        if isinstance(rows, slice):
            first, end, step = rows.indices(self._count)
            if step != 1:
                return self[np.arange(first, end, step)]
            return ShardedRows(self._shards, self._features, self._stored, self._first + first, max(0, end - first))
        rows = np.asarray(rows)
        if rows.size and not -self._count <= rows.min() <= rows.max() < self._count:
            raise IndexError(f"Rows run from {rows.min()} to {rows.max()}, but there are {self._count}.")
        flat = rows.reshape(-1) % max(1, self._count) + self._first
        found = np.empty((flat.size, self._features), np.float32)
        order = np.argsort(flat, kind="stable")  # by file, and in the order of the disk
        bounds = np.searchsorted(flat[order], [0, *self._ends])
        for i, (start, end) in enumerate(itertools.pairwise(bounds)):
            if start < end:
                which = order[start:end]
                found[which] = self._read(i, flat[which] - (self._ends[i] - self._shards[i].rows))
        return found.reshape(*rows.shape, self._features)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[np.arange(self._count)].astype(dtype or np.float32, copy=False)

    def _read(self, index: int, rows: np.ndarray) -> np.ndarray:
        if index not in self._opened:
            self._opened[index] = self._open(self._shards[index])
        return as_float32(self._opened[index][rows], self._stored)

    def _open(self, shard: Shard) -> np.ndarray:
        wanted = np.dtype(np.uint16 if self._stored == "bfloat16" else self._stored)
        try:
            mapped = is_supported(np.memmap, shard.path, np.uint8, "r")
            found = np.load(shard.path, mmap_mode="r" if mapped else None, allow_pickle=False)
        except Exception as error:  # NumPy's parsers raise various errors for damaged headers
            raise DataDamagedError(f"{shard.path} is not a readable array ({shorten(repr(error))}). {_AGAIN}") from None
        if found.shape != (shard.rows, self._features) or found.dtype != wanted:
            raise DataDamagedError(
                f"{shard.path} holds {found.dtype} {list(found.shape)}; expected {wanted} "
                f"{[shard.rows, self._features]}. {_AGAIN}"
            )
        return found


_AGAIN = "Delete its folder, and harvest the activations again."


def as_float32(stored: np.ndarray, kind: Stored) -> np.ndarray:
    """Returns stored numbers as float32; those of bfloat16 are the upper halves of float32's bits."""
    if kind == "bfloat16":
        return (stored.astype(np.uint32) << 16).view(np.float32)
    return stored.astype(np.float32)


def to_stored(x: np.ndarray, kind: Stored) -> np.ndarray:
    """Returns float32 numbers as they are stored, rounded to the nearest."""
    if kind != "bfloat16":
        return x.astype(kind)
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
