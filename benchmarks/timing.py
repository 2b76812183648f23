"""Times programs side by side: in turn, so that a busy moment of the machine falls on all of them alike."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

Run = Callable[[], float]  # runs a case once and returns the milliseconds of one step


class Timing(NamedTuple):
    """Milliseconds of one step over the repetitions."""

    median: float
    least: float


def round_robin(runs: dict[str, Run], repetitions: int = 9, warm_up: int = 1) -> dict[str, Timing]:
    """Runs every case `repetitions` times, in turn, after `warm_up` turns that do not count."""
    for _ in range(warm_up):
        for run in runs.values():
            run()
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repetitions):
        for name, run in runs.items():
            taken[name].append(run())
    return {name: Timing(statistics.median(values), min(values)) for name, values in taken.items()}


def compiled(function: Callable[..., Any], *arguments: Any, steps: int) -> Run:
    """Compiles a function that takes `steps` steps, and returns a run that times one of them."""
    program = jax.jit(function).lower(*arguments).compile()

    def run() -> float:
        started = time.perf_counter()
        jax.block_until_ready(program(*arguments))
        return (time.perf_counter() - started) * 1e3 / steps

    return run


def in_scan(
    function: Callable[..., jax.Array], x: jax.Array, *others: Any, steps: int
) -> tuple[Callable[..., Any], Sequence[Any]]:
    """Returns a program that applies `function(x, *others)` `steps` times in a scan, and its arguments.

    Each step changes one entry of x by nothing, in a way the compiler cannot see through; so no step is left out.
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
