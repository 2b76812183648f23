"""Times programs alternately, so that noise of the machine affects all of them equally."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

Run = Callable[[], float]  # runs a case once and returns the milliseconds of one step


class Timing(NamedTuple):
    """Milliseconds per step over the repetitions, and XLA's arithmetic and memory traffic, if available."""

    median: float
    least: float
    flops: float | None = None
    bytes: float | None = None

    def rates(self) -> dict[str, float]:
        """Returns GFLOP/s and GB/s; XLA counts loop bodies once, which underestimates searches."""
        if self.flops is None or self.bytes is None:
            return {}
        return {"gflop_per_s": round(self.flops / self.median / 1e6, 2),
                "gbyte_per_s": round(self.bytes / self.median / 1e6, 2)}  # fmt: skip


def ceilings() -> dict[str, float]:
    """Measures the peak rates of this device: GFLOP/s of a large matrix product, GB/s of a large copy."""
    a = jnp.ones((2048, 2048))
    x = jnp.ones((64 * 2**20 // 4,))
    copies = jax.jit(lambda x: lax.fori_loop(0, 8, lambda _, x: x + 1, x))  # avoids the allocation of new memory
    runs = {"product": compile_run(lambda a: a @ a, a, steps=1), "copy": compile_run(copies, x, steps=8)}
    least = {name: timing.least for name, timing in round_robin(runs, repetitions=9, warm_up=2).items()}
    return {"gflop_per_s": round(2 * 2048**3 / least["product"] / 1e6, 1),
            "gbyte_per_s": round(2 * x.nbytes / least["copy"] / 1e6, 1)}  # fmt: skip


def round_robin(runs: dict[str, Run], repetitions: int = 9, warm_up: int = 1) -> dict[str, Timing]:
    """Runs every case `repetitions` times, alternating, after `warm_up` uncounted rounds."""
    for _ in range(warm_up):
        for run in runs.values():
            run()
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repetitions):
        for name, run in runs.items():
            taken[name].append(run())
    return {
        name: Timing(statistics.median(values), min(values), getattr(runs[name], "flops", None),
                     getattr(runs[name], "bytes", None))
        for name, values in taken.items()
    }  # fmt: skip


def compile_run(function: Callable[..., Any], *arguments: Any, steps: int, calls: int = 1) -> Run:
    """Compiles a function that takes `steps` steps, and returns a run that times one of them over `calls` calls."""
    program, taken = jax.jit(function).lower(*arguments).compile(), [0.0]

    def run() -> float:
        # After a peer's run the cores have idled: the next 60 ms took half as long again. PyTorch warms up as well.
        awake = time.perf_counter() + 0.1
        while taken[-1] < 100 and time.perf_counter() < awake:
            jax.block_until_ready(program(*arguments))
        started = time.perf_counter()
        for _ in range(calls):
            jax.block_until_ready(program(*arguments))
        taken[-1] = (time.perf_counter() - started) * 1e3
        return taken[-1] / steps / calls

    return add_cost(run, program)


def training_run(program: Any, state: Any, *arguments: Any, steps: float) -> Run:
    """Returns a run of a compiled chunk that donates its state and continues training."""
    kept = [state]

    def run() -> float:
        started = time.perf_counter()
        kept[0], _ = jax.block_until_ready(program(kept[0], *arguments))
        return (time.perf_counter() - started) * 1e3 / steps

    return add_cost(run, program)


def refill_run(function: Callable[..., Any], *arguments: Any, steps: int, calls: int = 1) -> Run:
    """Returns a run of a function that reuses the buffers of its previous results, as in a training step.

    New memory is slow because the system provides it page by page.
    """
    program = jax.jit(lambda last, *arguments: function(*arguments), donate_argnums=0, keep_unused=True)
    last = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(function, *arguments))
    program, kept = program.lower(last, *arguments).compile(), [last]

    def run() -> float:
        started = time.perf_counter()
        for _ in range(calls):
            kept[0] = jax.block_until_ready(program(kept[0], *arguments))
        return (time.perf_counter() - started) * 1e3 / steps / calls

    return add_cost(run, program)


def add_cost(run: Run, program: Any) -> Run:
    """Adds XLA's cost analysis of a step to a run; it counts the body of a scan over steps once."""
    analysis = program.cost_analysis() or {}
    for name, key in (("flops", "flops"), ("bytes", "bytes accessed")):
        setattr(run, name, analysis.get(key))
    return run


def in_scan(
    function: Callable[..., jax.Array], x: jax.Array, *others: Any, steps: int
) -> tuple[Callable[..., Any], Sequence[Any]]:
    """Returns a program that applies `function(x, *others)` `steps` times in a scan, and its arguments.

    Each step adds 0 to one entry of x in a way that the compiler cannot simplify, so no step is optimised away.
    """
    shape = jax.eval_shape(function, x, *others)

    def program(x: jax.Array, *others: Any) -> jax.Array:
        def body(carry: tuple[jax.Array, jax.Array], _: None) -> tuple[tuple[jax.Array, jax.Array], None]:
            x, y = carry
            first = (0,) * x.ndim
            nothing = y.ravel()[0].astype(x.dtype) * 0
            x = lax.dynamic_update_slice(x, (x[first] + nothing).reshape((1,) * x.ndim), first)
            return (x, function(x, *others)), None

        return lax.scan(body, (x, jnp.zeros(shape.shape, shape.dtype)), None, length=steps)[0][1]

    return program, (x, *others)
