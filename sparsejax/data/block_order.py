"""The order of examples on a disk: blocks are shuffled, and the rows within each, so that reads stay close together."""

import numpy as np


class BlockOrder:
    """Example indices of the batches of an epoch, `[steps, batch]`, computed when they are indexed.

    The order of the blocks is a pure function of (seed, epoch), that of the rows in a block of (seed, epoch, block), so
    a run resumes from its step alone. The last batch is padded with the first examples of the same order.

    Args:
      seed: non-negative integers that name the network's key.
      epoch: number of the epoch.
      examples: size of the training set.
      batch_size: examples per step.
      block: rows of a block, in the order of the disk.
    """

    def __init__(self, seed: tuple[int, ...], epoch: int, examples: int, batch_size: int, block: int):
        self._seed, self._examples, self._batch, self._block = (*seed, epoch), examples, batch_size, block
        count = -(-examples // block)
        self._blocks = np.random.default_rng((*self._seed, 0)).permutation(count)
        sizes = np.minimum(block, examples - self._blocks * block)
        self._ends = np.cumsum(sizes)
        self._held: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return -(-self._examples // self._batch)

    def __getitem__(self, index: tuple[slice, slice]) -> np.ndarray:
        steps, columns = index
        first, end, _ = steps.indices(len(self))
        at = np.arange(first * self._batch, end * self._batch) % self._examples
        which = np.searchsorted(self._ends, at, side="right")
        rows = np.empty(at.size, np.int64)
        for place in np.unique(which):
            inside = which == place
            start = self._ends[place - 1] if place else 0
            rows[inside] = self._rows(int(self._blocks[place]))[at[inside] - start]
        return rows.reshape(end - first, self._batch)[:, columns]

    def _rows(self, block: int) -> np.ndarray:
        """Returns the rows of a block, shuffled."""
        found = self._held.get(block)
        if found is None:
            first = block * self._block
            size = min(self._block, self._examples - first)
            found = first + np.random.default_rng((*self._seed, 1, block)).permutation(size)
            # Batches go from block to block, and threads read a few ahead.
            self._held = dict([*self._held.items()][-3:]) | {block: found}
        return found
