"""The winners of each row, inside a scan as training uses them."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import naive
from benchmarks.peers import Twin
from benchmarks.rows import Report, Row, row
from benchmarks.timing import Run, compile_run, in_scan, round_robin
from sparsejax.functional import kth_largest, top_k, winners

GROUP = "selection"
SHAPES = (
    (64, 4608, 400), (64, 1024, 300), (64, 700, 100),
    (4, 4608, 400), (4, 1024, 300), (4, 700, 100),
    (128, 10000, 100), (128, 10000, 1000),
)  # fmt: skip
OURS = {
    "winners": lambda x, k: winners(x, k, ties="first"),
    "winners, ties kept": lambda x, k: winners(x, k, ties="all"),
    "kth_largest": kth_largest,
    "top_k": top_k,
}
PEERS = {
    "lax.top_k": naive.winners_by_top_k,
    "sort": naive.winners_by_sort,
    "32 passes": naive.winners_by_bisection,
}
TORCH = {"torch.topk": "topk", "torch.kthvalue": "kthvalue"}


def measure(twin: Twin | None) -> Report:
    """Compares all shapes, with distinct values and with half of them equal."""
    rows = []
    for batch, n, k in SHAPES:
        for tied in (False, True):
            rows += _measure_one(twin, batch, n, k, tied)
    return Report(tuple(rows), (
        "Every peer marks the winners with ties kept; k is traced for us, fixed for them.",
        "Tied rows are the slow ones: no threshold has k values at or above it, so that no pass ends the search early, "
        "and `winners` then searches once more for the last that it keeps; sorts and partial sorts are faster on them.",
    ))  # fmt: skip


def _measure_one(twin: Twin | None, batch: int, n: int, k: int, tied: bool) -> list[Row]:
    name = f"[{batch},{n}] k={k}{' tied' if tied else ''}"
    x = jnp.asarray(values(batch, n, tied))
    steps = max(3, min(200, 2**21 // x.size))
    runs = {key: _run(function, x, steps, jnp.int32(k)) for key, function in OURS.items()}
    for key, peer in PEERS.items():
        runs[key] = _run(lambda x, peer=peer: peer(x, k), x, steps)
    if twin is not None:
        for key, method in TORCH.items():
            runs[key] = twin.run(
                f"{key} {name}", steps=steps, what="selection", rows=batch, n=n, k=k, tied=tied, method=method
            )
    timings = round_robin(runs, repetitions=5)
    compared = [row(GROUP, f"winners {name}", timings["winners"], peer, timings.get(peer)) for peer in (*PEERS, *TORCH)]
    return compared + [
        row(GROUP, f"{ours} {name}", timings[ours], "lax.top_k", timings["lax.top_k"]) for ours in list(OURS)[1:]
    ]


def values(batch: int, n: int, tied: bool) -> np.ndarray:
    """Draws normal values; when tied, every second one is 3, so that the threshold falls on them."""
    x = np.random.default_rng(0).standard_normal((batch, n)).astype(np.float32)
    if tied:
        x[:, ::2] = 3
    return x


def _run(function: Callable[..., jax.Array], x: jax.Array, steps: int, *others: jax.Array) -> Run:
    program, arguments = in_scan(function, x, *others, steps=steps)
    return compile_run(program, *arguments, steps=steps, calls=3)  # more than one, so that cores are awake
