"""Batches in PyTorch, from bytes to normalised pixels; `torch_twin.py` serves them."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.nn import functional as F

MEAN, STD, PAD = 0.4, 0.2, 4


class Images(torch.utils.data.Dataset):
    """Images that are converted to tensors, and optionally shifted and mirrored, one at a time."""

    def __init__(self, images: torch.Tensor, cut: bool):
        self.images, self.cut = images, cut

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> torch.Tensor:
        image = self.images[index]
        if self.cut:
            row, column = torch.randint(0, 2 * PAD + 1, (2,)).tolist()
            image = F.pad(image, (PAD,) * 4)[:, row : row + image.shape[1], column : column + image.shape[2]]
            image = image.flip(-1) if torch.rand(()) < 0.5 else image
        return image.float().div(255).sub(MEAN).div(STD)


def batches(shape: list[int], batch: int, cut: bool, loader: bool) -> dict[str, Callable[[], Any]]:
    """Returns calls that make the next batch: by a DataLoader, or by indexing data in memory."""
    torch.manual_seed(0)
    images = torch.randint(0, 256, (shape[0], shape[3], *shape[1:3]), dtype=torch.uint8)
    if not loader:
        return {"indexed": _calls(_indexed(images, batch, cut))}
    workers = {"no worker": 0, "two workers": 2}
    return {name: _calls(_loaded(images, batch, cut, count)) for name, count in workers.items()}


def _calls(source: Iterator[torch.Tensor]) -> Callable[[], Any]:
    return lambda: next(source)


def _indexed(images: torch.Tensor, batch: int, cut: bool) -> Iterator[torch.Tensor]:
    height, width = images.shape[2:]
    down, across = torch.arange(height), torch.arange(width)
    while True:
        for indices in torch.randperm(len(images)).split(batch):
            x = images[indices]
            if cut:  # the whole batch at once
                n = len(x)
                row, column = torch.randint(0, 2 * PAD + 1, (2, n, 1))
                columns = torch.where(torch.rand(n, 1) < 0.5, across.flip(0), across) + column
                x = F.pad(x, (PAD,) * 4).permute(0, 2, 3, 1)
                x = x[torch.arange(n)[:, None, None], (down + row)[:, :, None], columns[:, None]].permute(0, 3, 1, 2)
            yield x.float().div_(255).sub_(MEAN).div_(STD)


def _loaded(images: torch.Tensor, batch: int, cut: bool, workers: int) -> Iterator[torch.Tensor]:
    while True:
        yield from torch.utils.data.DataLoader(
            Images(images, cut), batch_size=batch, shuffle=True, num_workers=workers, persistent_workers=workers > 0
        )
