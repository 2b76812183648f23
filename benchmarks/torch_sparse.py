"""k-winners, Top-K autoencoders and FISTA in PyTorch, in their fastest form on a CPU; `torch_twin.py` serves them."""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F


def decode_calls(batch: int, outputs: int, units: int, k: int, gradients: bool) -> dict[str, Callable[[], Any]]:
    """Returns calls that decode k of `units` units: a bag of rows, and a dense product with the dense code."""
    torch.manual_seed(0)
    kernel = torch.randn(units, outputs).requires_grad_(gradients)
    values = torch.randn(batch, k).requires_grad_(gradients)
    indices = torch.stack([torch.randperm(units)[:k] for _ in range(batch)])
    upstream = torch.randn(batch, outputs)

    def bag() -> torch.Tensor:
        return F.embedding_bag(indices, kernel, per_sample_weights=values, mode="sum")

    def dense() -> torch.Tensor:
        return torch.zeros(batch, units).scatter(1, indices, values) @ kernel

    def timed(way: Callable[[], torch.Tensor]) -> Callable[[], Any]:
        def call() -> Any:
            if not gradients:
                with torch.inference_mode():
                    return way()
            return torch.autograd.grad(way(), (values, kernel), upstream)

        return call

    return {"embedding_bag": timed(bag), "dense": timed(dense)}


class Encoder(torch.autograd.Function):
    """A dense product and the k largest of it, whose gradients use only the winners' rows."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, k: int):
        values, indices = torch.topk(F.relu(F.linear(x, weight, bias)), k, dim=1, sorted=False)
        ctx.save_for_backward(x, weight, values, indices)
        ctx.mark_non_differentiable(indices)
        return values, indices

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor, _: torch.Tensor):
        x, weight, values, indices = ctx.saved_tensors
        upstream = upstream * (values > 0)
        flat = indices.flatten()
        rows = (upstream[..., None] * x[:, None]).flatten(0, 1)
        to_weight = torch.zeros_like(weight).index_add_(0, flat, rows)
        to_bias = torch.zeros_like(weight[:, 0]).index_add_(0, flat, upstream.flatten())
        to_x = F.embedding_bag(indices, weight, per_sample_weights=upstream, mode="sum")
        return to_x, to_weight, to_bias, None


def sae_steps(batch: int, inputs: int, units: int, k: int) -> dict[str, Callable[[], Any]]:
    """Returns training steps of a Top-K autoencoder with Adam on resident data: dense, and by winners' rows."""

    def make(sparse: bool) -> Callable[[], Any]:
        torch.manual_seed(0)
        data = torch.randint(0, 256, (4096, inputs), dtype=torch.uint8)
        encoder = nn.Linear(inputs, units)
        decoder = nn.Parameter(encoder.weight.detach().clone())
        centre = nn.Parameter(torch.zeros(inputs))
        optimizer = torch.optim.Adam([*encoder.parameters(), decoder, centre], lr=1e-3, fused=True)
        order, position = torch.randperm(4096), 0

        def step() -> Any:
            nonlocal position
            x = data[order[position : position + batch]].float() / 255
            position = (position + batch) % 4096
            values, indices = Encoder.apply(x - centre, encoder.weight, encoder.bias, k) if sparse else torch.topk(
                F.relu(encoder(x - centre)), k, dim=1, sorted=False)  # fmt: skip
            if sparse:
                y = F.embedding_bag(indices, decoder, per_sample_weights=values, mode="sum")
            else:
                y = torch.zeros(batch, units).scatter(1, indices, values) @ decoder
            loss = F.mse_loss(y + centre, x)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            return loss

        return step

    return {"by rows": make(True), "dense": make(False)}


def kwinners_calls(shape: tuple[int, ...], k: int, layer: Callable[[str], nn.Module]) -> dict[str, Callable[[], Any]]:
    """Returns k-winners layers, forward and backward, by their selection."""
    torch.manual_seed(0)
    x, upstream = torch.randn(shape).requires_grad_(), torch.randn(shape)
    layers = {method: layer(method) for method in ("topk", "kthvalue")}
    return {method: (lambda layer=layer: torch.autograd.grad(layer(x), x, upstream))
            for method, layer in layers.items()}  # fmt: skip


def explain_away_calls(batch: int, units: int, turns: int, gamma: float) -> dict[str, Callable[[], Any]]:
    """Returns the explain-away loop, forward and backward, eager and compiled."""
    torch.manual_seed(0)
    torch.compiler.reset()
    drive, upstream = torch.randn(batch, units).requires_grad_(), torch.randn(batch, units)
    lateral = (torch.randn(units, units) / units).requires_grad_()

    def settled(drive: torch.Tensor, lateral: torch.Tensor) -> torch.Tensor:
        mu = drive
        for _ in range(turns):
            mu = mu + gamma * (drive - F.linear(F.relu(mu), lateral) - mu)
        return F.relu(mu)

    def both(settled: Callable[..., torch.Tensor]) -> Callable[[], Any]:
        return lambda: torch.autograd.grad(settled(drive, lateral), (drive, lateral), upstream)

    calls = {"eager": both(settled), "compiled": both(torch.compile(settled))}
    try:
        calls["compiled"]()
    except Exception as error:  # no working compiler: use eager
        print(f"torch.compile failed: {type(error).__name__}", file=sys.stderr)
        del calls["compiled"]
    return calls


@torch.inference_mode()
def answered(net: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Returns a network's outputs."""
    return net(x)


@torch.inference_mode()
def by_rows(net: nn.Sequential, rows: list[torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """Returns the outputs of an MLP with k-winners, summing the winners' rows: one row per unit, `[n, out]`."""
    linear = [layer for layer in net if isinstance(layer, nn.Linear)]
    x = linear[0](x.flatten(1))
    for layer, kernel, activation in zip(linear[1:], rows[1:], list(net)[2::2], strict=True):
        rank = x * torch.exp(-activation.boost * activation.duty)
        indices = torch.topk(rank, activation.k, dim=1, sorted=False).indices
        x = F.embedding_bag(indices, kernel, per_sample_weights=x.gather(1, indices), mode="sum") + layer.bias
    return x


def fista(
    path: str, l1: float, tolerance: float, violation: float | None
) -> tuple[Callable[[], Any], tuple[float, float]]:
    """Returns a call that codes patches by FISTA on the Gram matrix, and its worst relative gap and KKT violation.

    The momentum restarts for each patch, as in ours; every 10 iterations it stops if all patches are good enough:
    their relative gaps within the tolerance and, if given, their KKT violations within `violation`.
    """
    with np.load(path) as arrays:
        x, dictionary = torch.from_numpy(arrays["x"]), torch.from_numpy(arrays["dictionary"])
    energy = (x**2).sum(1)

    def quality(code: torch.Tensor, b: torch.Tensor, gram: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        c = b - code @ gram
        s = (l1 / c.abs().amax(1)).clamp(max=1)
        left = (energy - (code * (b + c)).sum(1)).clamp(min=0)
        size = l1 * code.abs()
        gap = (1 - s) ** 2 * left / 2 + (size - s[:, None] * code * c).sum(1)
        kkt = torch.where(code != 0, (c - l1 * code.sign()).abs(), (c.abs() - l1).clamp(min=0)).amax(1)
        return gap / (left / 2 + size.sum(1)), kkt

    @torch.inference_mode()
    def call() -> tuple[float, float]:
        gram, b = dictionary.T @ dictionary, x @ dictionary
        step = 1 / torch.linalg.matrix_norm(gram, 2)
        code = ahead = torch.zeros_like(b)
        t = torch.ones(len(x), 1)
        for iteration in range(2000):
            z = torch.addmm(b, ahead, gram, alpha=-1).mul_(step).add_(ahead)
            new = F.softshrink(z, float(l1 * step))
            change = new - code
            t = torch.where(((ahead - new) * change).sum(1, keepdim=True) > 0, 1.0, t)
            next_t = (1 + (1 + 4 * t**2).sqrt()) / 2
            code, ahead, t = new, torch.addcmul(new, (t - 1) / next_t, change), next_t
            if iteration % 10 == 9:
                gap, kkt = quality(code, b, gram)
                if gap.max() <= tolerance and (violation is None or kkt.max() <= violation):
                    break
        return float(gap.max()), float(kkt.max())

    return call, call()
