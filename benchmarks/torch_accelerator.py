"""Selection and training steps in their fastest PyTorch form on a GPU; `torch_twin.py` serves them.

Each takes a device, "cuda" or "cpu". Training steps have several forms, of which the twin takes the fastest: eager,
compiled, and for small steps on a GPU each of these captured in a CUDA graph.
"""

import itertools
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

try:
    import torch_sparse  # next to this file, when run as a script
    from torch_layers import SELECTIONS, Net
except ImportError:
    from benchmarks import torch_sparse
    from benchmarks.torch_layers import SELECTIONS, Net

Calls = dict[str, Callable[[], Any]]
Step = Callable[[torch.Tensor], Any]  # takes a training step on the examples of these indices


def selection(device: str, rows: int, n: int, k: int, method: str) -> Calls:
    """Returns a call that keeps the winners of a fixed array and zeroes the rest."""
    x, select = torch.randn(rows, n, device=device), SELECTIONS[method]
    return {"eager": lambda: torch.where(x >= select(x, k), x, 0)}


def sae_steps(device: str, batch: int, inputs: int, units: int, k: int, examples: int, precision: str) -> Calls:
    """Returns training steps of a Top-K autoencoder with Adam: dense, eager and compiled, and by winners' rows.

    In bfloat16 parameters and inputs are cast on entry, as in ours; the trained parameters stay in float32.
    """
    _as_fast_as_it_goes(device)
    dtype, images = getattr(torch, precision), _bytes(device, examples, inputs)

    def make(sparse: bool, compile: bool) -> Step:
        torch.manual_seed(0)
        rows = torch.randn(units, inputs, device=device) / inputs**0.5
        bias, centre = torch.zeros(units, device=device), torch.zeros(inputs, device=device)
        params = [nn.Parameter(start) for start in (rows, rows.clone(), bias, centre)]

        def loss_of(indices: torch.Tensor) -> torch.Tensor:
            x = images[indices].float() / 255
            encoder, decoder, bias, centre = (parameter.to(dtype) for parameter in params)
            inside = x.to(dtype) - centre
            if sparse:
                values, places = torch_sparse.Encoder.apply(inside, encoder, bias, k)
                y = F.embedding_bag(places, decoder, per_sample_weights=values, mode="sum")
            else:
                values, places = torch.topk(F.relu(F.linear(inside, encoder, bias)), k, dim=1, sorted=False)
                y = torch.zeros(len(x), units, dtype=dtype, device=device).scatter(1, places, values) @ decoder
            return F.mse_loss((y + centre).float(), x)

        return _step(loss_of, torch.optim.Adam(params, lr=1e-3, fused=True), compile)

    forms = {"dense, eager": make(False, False), "dense, compiled": make(False, True), "by rows": make(True, False)}
    return _calls(forms, device, examples, batch, captured=False)


def kwinners_steps(device: str, batch: int, examples: int) -> Calls:
    """Returns training steps of the paper's Sparse CNN-2, by selection, memory format and compilation."""
    _as_fast_as_it_goes(device)
    images, labels = _bytes(device, examples, 1, 28, 28), torch.randint(0, 10, (examples,), device=device)

    def make(select: str, last: bool, compile: bool) -> Step:
        torch.manual_seed(0)
        net = Net(True, (select,) * 3, "forward").to(device)
        net = net.to(memory_format=torch.channels_last) if last else net

        def loss_of(indices: torch.Tensor) -> torch.Tensor:
            return F.cross_entropy(net((images[indices].float() / 255 - 0.1307) / 0.3081), labels[indices])

        return _step(loss_of, torch.optim.SGD(net.parameters(), lr=0.02, fused=True), compile)

    forms = {f"eager, {select}{', channels last' if last else ''}": make(select, last, False)
             for select in ("topk", "kthvalue") for last in (False, True)}  # fmt: skip
    forms |= {f"compiled, {select}, channels last": make(select, True, True) for select in ("topk", "counting")}
    return _calls(forms, device, examples, batch)


def penalised_steps(device: str, hidden: int, batch: int, examples: int = 50_000) -> Calls:
    """Returns training steps of an MLP with an L1 penalty on its activity, on resident images as floats."""
    _as_fast_as_it_goes(device)
    images = _bytes(device, examples, 784).float() / 255
    labels = torch.randint(0, 10, (examples,), device=device)

    def make(compile: bool) -> Step:
        torch.manual_seed(0)
        first, last = nn.Linear(784, hidden, device=device), nn.Linear(hidden, 10, device=device)

        def loss_of(indices: torch.Tensor) -> torch.Tensor:
            h = F.relu(first(images[indices]))
            return F.cross_entropy(last(h), labels[indices]) + 0.008 * h.abs().sum() / batch

        params, on_gpu = [*first.parameters(), *last.parameters()], device == "cuda"
        return _step(loss_of, torch.optim.Adam(params, lr=1e-3, fused=True, capturable=on_gpu), compile)

    return _calls({"eager": make(False), "compiled": make(True)}, device, examples, batch)


def _as_fast_as_it_goes(device: str) -> None:
    torch.compiler.reset()  # otherwise it stops recompiling the same code for more networks
    if device == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32, as in XLA
        torch.backends.cudnn.benchmark = True


def _bytes(device: str, *shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, device=device)


def _step(loss_of: Callable[[torch.Tensor], torch.Tensor], optimizer: torch.optim.Optimizer, compile: bool) -> Step:
    run = torch.compile(loss_of) if compile else loss_of

    def step(indices: torch.Tensor) -> torch.Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = run(indices)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def _calls(forms: dict[str, Step], device: str, examples: int, batch: int, captured: bool = True) -> Calls:
    """Returns the steps that work, on batches of a shuffled order; on a GPU also captured, if `captured`."""
    batches = torch.randperm(examples, device=device)[: examples // batch * batch].split(batch)
    working: dict[str, Step] = {}
    for name, step in forms.items():
        try:
            step(batches[0])
            working[name] = step
            if captured and device == "cuda":
                working[f"{name}, CUDA graph"] = _in_a_graph(step, batches[0])
        except Exception as error:  # such as no working compiler: use the others
            print(f"{name} failed: {type(error).__name__}: {error}", file=sys.stderr)
    return {name: _over(step, batches) for name, step in working.items()}


def _over(step: Step, batches: tuple[torch.Tensor, ...]) -> Callable[[], Any]:
    source = itertools.cycle(batches)
    return lambda: step(next(source))


def _in_a_graph(step: Step, indices: torch.Tensor) -> Step:
    """Captures a step in a CUDA graph that reads the indices in place."""
    still, stream = indices.clone(), torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # required by PyTorch before a capture
        for _ in range(3):
            step(still)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step(still)

    def replayed(indices: torch.Tensor) -> None:
        still.copy_(indices)
        graph.replay()

    return replayed


CALLS: dict[str, Callable[..., Calls]] = {
    "selection_on_device": selection,
    "sae_on_device": sae_steps,
    "kwinners_on_device": kwinners_steps,
    "penalised_on_device": penalised_steps,
}
