"""k-winners and the paper's Sparse CNN-2 in PyTorch; `torch_twin.py` serves them."""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

LAYERS = ((4608, 400), (1024, 300), (700, 100))
"""Competing units, and winners, of each layer."""


def by_topk(x: torch.Tensor, k: int) -> torch.Tensor:
    """Returns the k-th largest of each row as the smallest of the k largest, unsorted."""
    return torch.topk(x, k, dim=1, sorted=False).values.amin(1, keepdim=True)


def by_kthvalue(x: torch.Tensor, k: int) -> torch.Tensor:
    """Returns the k-th largest of each row by quickselect."""
    return torch.kthvalue(x, x.shape[1] - k + 1, dim=1, keepdim=True).values


def by_counting(x: torch.Tensor, k: int) -> torch.Tensor:
    """Returns the k-th largest of each row bit by bit, counting values at or above a probe."""
    bits = x.view(torch.int32)
    key = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    threshold = torch.full((x.shape[0], 1), -(2**31), dtype=torch.int32, device=x.device)
    for bit in range(31, -1, -1):
        probe = threshold + (1 << bit if bit < 31 else -(2**31))
        threshold = torch.where((key >= probe).sum(1, keepdim=True) >= k, probe, threshold)
    return torch.where(threshold < 0, threshold ^ 0x7FFFFFFF, threshold).view(torch.float32)


SELECTIONS: dict[str, Callable[[torch.Tensor, int], torch.Tensor]] = {
    "topk": by_topk,
    "kthvalue": by_kthvalue,
    "counting": by_counting,
}


class KWinners(nn.Module):
    """Keeps the k units of highest boosted activation, and updates the duty cycles."""

    def __init__(self, units: int, k: int, select: str, boost: float = 1.5, period: int = 1000):
        super().__init__()
        self.k, self.select, self.boost, self.period = k, SELECTIONS[select], boost, period
        self.register_buffer("duty", torch.zeros(units))
        self.register_buffer("samples", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Takes `[batch, units]` or `[batch, channels, height, width]`."""
        shape = (1, -1) + (1,) * (x.ndim - 2)
        with torch.no_grad():
            rank = x * torch.exp(-self.boost * self.duty).view(shape)
            threshold = self.select(rank.flatten(1), self.k).view((-1,) + (1,) * (x.ndim - 1))
            won = rank >= threshold
        y = x * won
        if not self.training:
            return y
        with torch.no_grad():
            axes = [axis for axis in range(x.ndim) if axis != 1]
            count = (y > 0).sum(axes) / x[0, 0].numel()
            self.samples += x.shape[0]
            window = self.samples.clamp(max=self.period)
            self.duty.mul_((window - x.shape[0]) / window).add_(count / window)
        return y


class Net(nn.Module):
    """Two convolutions, a hidden layer whose weights are sparse, and an output layer."""

    def __init__(self, sparse: bool, select: tuple[str, ...], mask: str):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 32, 5), nn.Conv2d(32, 64, 5)
        self.hidden, self.output = nn.Linear(1024, 700), nn.Linear(700, 10)
        units = (32, 64, 700)
        activations = [
            KWinners(n, k, s) if sparse else nn.ReLU() for n, (_, k), s in zip(units, LAYERS, select, strict=True)
        ]
        self.act1, self.act2, self.act3 = activations
        keep = torch.rand(700, 1024).argsort(1) < round(0.3 * 1024)
        self.register_buffer("keep", keep.float())
        self.mask_forward = sparse and mask == "forward"
        if sparse:
            self.hidden.weight.data *= self.keep

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns logits of images `[batch, 1, 28, 28]`."""
        x = self.act1(F.max_pool2d(self.conv1(x), 2))
        x = self.act2(F.max_pool2d(self.conv2(x), 2))
        weight = self.hidden.weight * self.keep if self.mask_forward else self.hidden.weight
        x = self.act3(F.linear(x.flatten(1), weight, self.hidden.bias))
        return self.output(x)


def convolution_calls(images: list[int], kernel: list[int], gradients: bool) -> dict[str, Callable[[], object]]:
    """Returns a convolution of images `[batch, height, width, inputs]` in both memory formats, without padding."""
    calls = {}
    for name, layout in {"": torch.contiguous_format, "channels last": torch.channels_last}.items():
        x, w = (
            torch.randn([shape[i] for i in axes]).to(memory_format=layout).requires_grad_(gradients)
            for shape, axes in ((images, (0, 3, 1, 2)), (kernel, (3, 2, 0, 1)))
        )
        upstream = torch.randn_like(F.conv2d(x, w))

        def call(x=x, w=w, upstream=upstream):
            y = F.conv2d(x, w)
            return (y, *torch.autograd.grad(y, (x, w), upstream)) if gradients else y

        calls[f"eager{name and ', '}{name}"] = call
    return calls
