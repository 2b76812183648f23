"""Training steps of sparse autoencoders in PyTorch, by active latents' rows and dense; `torch_twin.py` serves them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

try:
    from torch_sparse import Encoder  # next to this file, when run as a script
except ImportError:
    from benchmarks.torch_sparse import Encoder


class Entries(torch.autograd.Function):
    """A dense product and the entries of it that a function selects, whose gradients use only their rows."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, select: Callable[..., Any]):
        h = F.linear(x, weight, bias)
        rows, units = select(h)
        ctx.save_for_backward(x, weight, rows, units)
        ctx.mark_non_differentiable(rows, units)
        return h[rows, units], rows, units

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor, _rows: torch.Tensor, _units: torch.Tensor):
        x, weight, rows, units = ctx.saved_tensors
        to_weight = torch.zeros_like(weight).index_add_(0, units, upstream[:, None] * x[rows])
        to_bias = torch.zeros_like(weight[:, 0]).index_add_(0, units, upstream)
        to_x = torch.zeros_like(x).index_add_(0, rows, upstream[:, None] * weight[units])
        return to_x, to_weight, to_bias, None


class JumpReLU(torch.autograd.Function):
    """Values beyond their thresholds, with the straight-through gradient of these."""

    @staticmethod
    def forward(ctx: Any, h: torch.Tensor, theta: torch.Tensor, width: float):
        ctx.save_for_backward(h, theta)
        ctx.width = width
        return h * (h > theta)

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor):
        h, theta = ctx.saved_tensors
        near = ((h - theta).abs() < ctx.width / 2).float()
        return upstream * (h > theta), -(theta / ctx.width) * near * upstream, None


class JumpStep(torch.autograd.Function):
    """1 beyond the thresholds, with the straight-through gradient of these."""

    @staticmethod
    def forward(ctx: Any, h: torch.Tensor, theta: torch.Tensor, width: float):
        ctx.save_for_backward(h, theta)
        ctx.width = width
        return (h > theta).float()

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor):
        h, theta = ctx.saved_tensors
        return None, -upstream / ctx.width * ((h - theta).abs() < ctx.width / 2), None


def steps(
    activation: str, batch: int, inputs: int, units: int, k: int, threshold: float, networks: int = 1
) -> dict[str, Callable[[], Any]]:
    """Returns steps of `networks` autoencoders in turn, with Adam, unit rows, projected gradients and idle counts."""

    def make(sparse: bool) -> Callable[[], Any]:
        each = [_step(activation, batch, inputs, units, k, threshold, sparse) for _ in range(networks)]

        def all_of_them() -> Any:
            for step in each:
                last = step()
            return last

        return all_of_them

    return {"by rows": make(True), "dense": make(False)}


def _step(
    activation: str, batch: int, inputs: int, units: int, k: int, threshold: float, sparse: bool
) -> Callable[[], Any]:
    torch.manual_seed(0)
    data = torch.randn(4096, inputs)
    weight = nn.Parameter(F.normalize(torch.randn(units, inputs), dim=1))
    decoder = nn.Parameter(weight.detach().clone())
    bias, centre = nn.Parameter(torch.zeros(units)), nn.Parameter(torch.zeros(inputs))
    theta = nn.Parameter(torch.full((units,), threshold))
    jump = activation == "jump_relu"
    learned = [weight, bias, decoder, centre, *[theta] * jump]
    optimizer = torch.optim.Adam(learned, lr=1e-4, fused=True)
    idle, order, position, width = torch.zeros(units, dtype=torch.int32), torch.randperm(4096), 0, 0.05

    def select(h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if activation == "batch_top_k":
            flat = torch.topk(F.relu(h).flatten(), k * batch, sorted=False).indices
            return flat // units, flat % units
        return (h > theta - width / 2).nonzero(as_tuple=True)

    def top_k(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        values, indices = Encoder.apply(x, weight, bias, k) if sparse else torch.topk(
            F.relu(F.linear(x, weight, bias)), k, dim=1, sorted=False)  # fmt: skip
        if sparse:
            y = F.embedding_bag(indices, decoder, per_sample_weights=values, mode="sum")
        else:
            y = torch.zeros(batch, units).scatter(1, indices, values) @ decoder
        return y, indices.flatten()

    def step() -> Any:
        nonlocal position
        with torch.no_grad():
            decoder.div_(torch.linalg.vector_norm(decoder, dim=1, keepdim=True))
        x = data[order[position : position + batch]]
        position = (position + batch) % 4096
        given, l0 = x - centre, 0.0
        if activation == "top_k":
            y, fired = top_k(given)
        elif sparse:
            values, rows, fired = Entries.apply(given, weight, bias, select)
            if jump:
                l0 = JumpStep.apply(values, theta[fired], width).sum() / batch
                values = JumpReLU.apply(values, theta[fired], width)
            else:
                values = F.relu(values)
            y = torch.zeros(batch, inputs).index_add(0, rows, values[:, None] * decoder[fired])
        else:
            h = F.linear(given, weight, bias)
            if jump:
                l0 = JumpStep.apply(h, theta, width).sum() / batch
                z = JumpReLU.apply(h, theta.expand_as(h), width)
            else:
                rows, fired = select(h)
                z = torch.zeros_like(h).index_put((rows, fired), F.relu(h[rows, fired]))
            y = z @ decoder
            fired = (z > 0).any(0).nonzero()[:, 0]
        loss = F.mse_loss(y + centre, x) + 1e-3 * l0
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        with torch.no_grad():
            decoder.grad.sub_((decoder.grad * decoder).sum(1, keepdim=True) * decoder)
            idle.add_(batch)
            idle[fired] = 0
        optimizer.step()
        return loss

    return step
