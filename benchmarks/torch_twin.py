"""The paper's Sparse CNN-2 in PyTorch, in its fastest form on a CPU, as a peer.

It only imports torch and numpy and runs under a separate interpreter (`pip install torch==2.13.0 numpy` in a
separate environment). By hand: `python torch_twin.py --batch 64 4` prints one JSON line per case. With `--serve` it
answers one JSON request per line, so that its runs can alternate with those of another program.
"""

import argparse
import functools
import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

try:
    import torch_accelerator  # next to this file, when run as a script
    import torch_data
    import torch_sae
    import torch_sparse
    from torch_layers import LAYERS, SELECTIONS, KWinners, Net, convolution_calls
except ImportError:
    from benchmarks import torch_accelerator, torch_data, torch_sae, torch_sparse
    from benchmarks.torch_layers import LAYERS, SELECTIONS, KWinners, Net, convolution_calls


def make_step(
    sparse: bool, batch: int, select: tuple[str, ...], mask: str, compile: bool, channels_last: bool
) -> Callable[[], float]:
    """Returns a function that takes one training step on shuffled images and returns the loss."""
    torch.manual_seed(0)
    net = Net(sparse, select, mask)
    if channels_last:
        net = net.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.02, fused=True)
    images = torch.randint(0, 256, (2048, 1, 28, 28), dtype=torch.uint8)
    labels = torch.randint(0, 10, (2048,))
    rezero = sparse and mask == "rezero"

    def loss_of(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(net((x.float() / 255 - 0.1307) / 0.3081), y)

    run = torch.compile(loss_of) if compile else loss_of
    order, position = torch.randperm(2048), 0

    def step() -> float:
        nonlocal position
        indices = order[position : position + batch]
        position = (position + batch) % 2048
        loss = run(images[indices], labels[indices])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if rezero:
            with torch.no_grad():
                net.hidden.weight.mul_(net.keep)
        return loss

    return step


def milliseconds(function: Callable[[], Any], steps: int) -> float:
    """Returns the mean time of one of `steps` calls, after enough calls to warm up cores and caches."""
    awake = _now() + 0.1
    while _now() < awake:
        function()
    started = _now()
    for _ in range(steps):
        function()
    return (_now() - started) * 1e3 / steps


def _now() -> float:
    """Reads the clock after the GPU has finished."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


def fastest(candidates: dict[str, Callable[[], Any]], steps: int, rounds: int = 5) -> str:
    """Returns the name of the candidate with the smallest median; all alternate."""
    for function in candidates.values():
        milliseconds(function, 3)
    taken = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, function in candidates.items():
            taken[name].append(milliseconds(function, steps))
    return min(taken, key=lambda name: statistics.median(taken[name]))


def fastest_step(sparse: bool, batch: int) -> tuple[Callable[[], Any], str]:
    """Returns the training step in its fastest form, and a description of that form.

    Per layer the fastest selection of eager PyTorch; then memory format, mask and compilation, one after the other.
    """
    steps = max(2, 128 // batch)
    select = []
    for n, k in LAYERS:
        x = torch.randn(batch, n)
        calls = {name: (lambda f=f, x=x, k=k: f(x, k)) for name, f in SELECTIONS.items()}
        select.append(fastest(calls, 10))
    forms = {
        f"{mask}{', channels last' if last else ''}": make_step(sparse, batch, tuple(select), mask, False, last)
        for mask in (("forward", "rezero") if sparse else ("none",))
        for last in (False, True)
    }
    best = fastest(forms, steps)
    chosen = {f"eager, {'/'.join(select)}": forms[best]} if sparse else {"eager": forms[best]}
    mask, last = best.split(",")[0], "last" in best
    for name, way in {"as eager": tuple(select), "counting": ("counting",) * 3}.items():
        if name == "as eager" or sparse:
            try:
                step = make_step(sparse, batch, way, mask, True, last)
                milliseconds(step, 3)
            except Exception as error:  # no working compiler: use eager
                print(f"torch.compile failed: {type(error).__name__}", file=sys.stderr)
                break
            chosen[f"compiled, {'/'.join(way)}" if sparse else "compiled"] = step
    name = fastest(chosen, steps)
    return chosen[name], f"{name}, mask {best}" if sparse else f"{name}{', channels last' if last else ''}"


def autoencoder_step(hidden: int, batch: int, sigma: float = 0.3) -> tuple[Callable[[], Any], str]:
    """Returns a training step of a noisy autoencoder of MNIST's size on resident data, in its faster form."""
    torch.manual_seed(0)
    images = torch.randint(0, 256, (2048, 784), dtype=torch.uint8)

    def make(compile: bool) -> Callable[[], Any]:
        net = nn.Sequential(nn.Linear(784, hidden), nn.ReLU(), nn.Linear(hidden, 784))
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, fused=True)
        order, position = torch.randperm(2048), 0

        def loss_of(x: torch.Tensor, noisy: torch.Tensor) -> torch.Tensor:
            return F.mse_loss(net(noisy), x)

        run = torch.compile(loss_of) if compile else loss_of

        def step() -> Any:
            nonlocal position
            x = images[order[position : position + batch]].float() / 255
            position = (position + batch) % 2048
            loss = run(x, x + sigma * torch.randn_like(x))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            return loss

        return step

    forms = {"eager": make(False)}
    try:
        forms["compiled"] = make(True)
        milliseconds(forms["compiled"], 3)
    except Exception as error:  # no working compiler: use eager
        print(f"torch.compile failed: {type(error).__name__}", file=sys.stderr)
        del forms["compiled"]
    name = fastest(forms, 5)
    return forms[name], name


def penalised_step(hidden: int, batch: int, loader: bool) -> tuple[Callable[[], Any], str]:
    """Returns a training step of an MLP with an L1 penalty on its activity, on 50,000 images of MNIST's size.

    With `loader` each image is converted to a tensor separately and a DataLoader collates the batches, as in tutorials;
    otherwise images are in memory as floats, a batch is one gather, and the fastest form is used: eager or compiled,
      Adam fused or not, one thread or all.
    """
    torch.manual_seed(0)
    images, labels = torch.randint(0, 256, (50_000, 784), dtype=torch.uint8), torch.randint(0, 10, (50_000,))

    class Images(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(labels)

        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            return images[index].float().div(255), int(labels[index])

    def batches():
        resident = None if loader else images.float() / 255
        while True:
            if resident is None:
                yield from torch.utils.data.DataLoader(Images(), batch_size=batch, shuffle=True)
            else:
                for indices in torch.randperm(len(labels)).split(batch):
                    yield resident[indices], labels[indices]

    def make(compile: bool, fused: bool, threads: int) -> Callable[[], Any]:
        first, last = nn.Linear(784, hidden), nn.Linear(hidden, 10)
        optimizer = torch.optim.Adam([*first.parameters(), *last.parameters()], lr=1e-3, fused=fused)
        source = batches()

        def loss_of(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            h = F.relu(first(x))
            return F.cross_entropy(last(h), y) + 0.008 * h.abs().sum() / batch

        run = torch.compile(loss_of) if compile else loss_of

        def step() -> Any:
            torch.set_num_threads(threads)
            loss = run(*next(source))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            return loss

        return step

    if loader:  # the time after loading the images is negligible
        return make(False, True, 1), "eager, fused Adam, 1 thread"
    most = torch.get_num_threads()
    forms = {
        f"{'fused' if fused else 'plain'} Adam, {threads} thread{'s' if threads > 1 else ''}": make(
            False, fused, threads
        )
        for fused in (False, True)
        for threads in sorted({1, most})
    }
    name = fastest(forms, 20)
    chosen = {f"eager, {name}": forms[name]}
    try:
        compiled = make(True, "fused" in name, 1 if "1 thread" in name else most)
        milliseconds(compiled, 3)
        chosen[f"compiled, {name}"] = compiled
    except Exception as error:  # no working compiler: use eager
        print(f"torch.compile failed: {type(error).__name__}", file=sys.stderr)
    name = fastest(chosen, 20)
    return chosen[name], name


def selection_call(rows: int, n: int, k: int, tied: bool, method: str) -> Callable[[], Any]:
    """Returns a call that marks the winners of a fixed array."""
    x = np.random.default_rng(0).standard_normal((rows, n)).astype(np.float32)
    if tied:
        x[:, ::2] = 3
    values, select = torch.from_numpy(x), SELECTIONS[method]
    return lambda: values >= select(values, k)


def fastest_of(calls: dict[str, Callable[[], Any]]) -> tuple[Callable[[], Any], str]:
    """Returns the fastest of several equivalent calls, and its name."""
    name = fastest(calls, 3)
    return calls[name], name


def kwinners(shape: list[int], k: int) -> tuple[Callable[[], Any], str]:
    """Returns a k-winners layer, forward and backward, by its faster selection."""
    return fastest_of(torch_sparse.kwinners_calls(tuple(shape), k, lambda method: KWinners(shape[1], k, method)))


def inference(hidden: list[int] | None, batch: int, k: list[int] | None) -> tuple[Callable[[], Any], str]:
    """Returns the inference call of a trained network: of the CNN, or of an MLP with these hidden units."""
    torch.manual_seed(0)
    torch.compiler.reset()  # otherwise it stops recompiling the same code for more networks
    x, nets = torch.rand(batch, 1, 28, 28), {}
    for select in ("topk", "kthvalue") if k else ("ReLU",):
        if hidden is None:
            net = nets[select] = Net(k is not None, (select,) * 3, "rezero")
            if k:
                net.act1.k, net.act2.k, net.act3.k = k
        else:
            layers, inputs = [nn.Flatten()], 784
            for i, units in enumerate(hidden):
                layers += [nn.Linear(inputs, units), KWinners(units, k[i], select) if k else nn.ReLU()]
                inputs = units
            nets[select] = nn.Sequential(*layers, nn.Linear(inputs, 10))
    calls = {}
    for select, net in nets.items():
        calls[f"eager, {select}"] = functools.partial(torch_sparse.answered, net.eval(), x)
        try:
            calls[f"compiled, {select}"] = functools.partial(torch_sparse.answered, torch.compile(net), x)
            calls[f"compiled, {select}"]()
        except Exception as error:  # no working compiler: use eager
            print(f"torch.compile failed: {type(error).__name__}", file=sys.stderr)
            del calls[f"compiled, {select}"]
    if hidden is not None and k:
        net = nets["topk"]
        rows = [layer.weight.T.contiguous() for layer in net if isinstance(layer, nn.Linear)]
        calls["eager, topk, rows of the winners"] = functools.partial(torch_sparse.by_rows, net, rows, x)
    return fastest_of(calls)


STEPS = {
    "step": fastest_step, "autoencoder": autoencoder_step, "penalised": penalised_step, "kwinners": kwinners,
    "inference": inference,
    "convolution": lambda **sizes: fastest_of(convolution_calls(**sizes)),
    "explain_away": lambda **sizes: fastest_of(torch_sparse.explain_away_calls(**sizes)),
    "batches": lambda **sizes: fastest_of(torch_data.batches(**sizes)),
    "decode": lambda **sizes: fastest_of(torch_sparse.decode_calls(**sizes)),
    "sae": lambda **sizes: fastest_of(torch_sparse.sae_steps(**sizes)),
    "sparse_autoencoder": lambda **sizes: fastest_of(torch_sae.steps(**sizes)),
    **{name: lambda make=make, **sizes: fastest_of(make(**sizes)) for name, make in torch_accelerator.CALLS.items()},
}  # fmt: skip


def serve() -> None:
    """Answers requests: `{"id", "make": {...}}` prepares a case, `{"id", "steps"}` times it."""
    calls: dict[str, Callable[[], Any]] = {}
    for line in sys.stdin:
        request = json.loads(line)
        if "make" not in request:
            answer = {"ms": milliseconds(calls[request["id"]], request["steps"])}
        elif (what := request["make"].pop("what")) in STEPS:
            calls[request["id"]], form = STEPS[what](**request["make"])
            answer = {"form": form, "torch": torch.__version__}
        elif what == "fista":
            calls[request["id"]], form = torch_sparse.fista(**request["make"])
            answer = {"form": form, "torch": torch.__version__}
        else:
            calls[request["id"]] = selection_call(**request["make"])
            answer = {"form": "eager", "torch": torch.__version__}
        print(json.dumps(answer), flush=True)


def main() -> None:
    """Prints one JSON line per batch size and network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, nargs="+", default=[64, 4])
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--serve", action="store_true", help="answer requests from standard input")
    arguments = parser.parse_args()
    if arguments.serve:
        return serve()
    for batch in arguments.batch:
        steps = max(10, 640 // batch)
        for kind in ("sparse", "dense"):
            step, form = fastest_step(kind == "sparse", batch)
            taken = [milliseconds(step, steps) for _ in range(arguments.repetitions)]
            line = {"case": f"{kind} step, batch {batch}", "median_ms": statistics.median(taken),
                    "min_ms": min(taken), "form": form, "torch": torch.__version__,
                    "threads": torch.get_num_threads()}  # fmt: skip
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
