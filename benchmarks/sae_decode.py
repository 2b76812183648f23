"""Decoding of codes by the winners' rows only, with gradients, and in a Top-K autoencoder."""

import functools
from collections.abc import Callable
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.peers import Twin
from benchmarks.rows import Report, Row, row
from benchmarks.timing import Run, compile_run, refill_run, round_robin, training_run
from sparsejax.configuration import as_arrays
from sparsejax.data.resident import Resident
from sparsejax.functional import SparseCode, decode, to_dense
from sparsejax.functional import sparse_code as compact
from sparsejax.models import TopKAutoencoder
from sparsejax.training.config import Config, DataConfig, ObjectiveConfig, TrainingConfig
from sparsejax.training.state import init_state
from sparsejax.training.step import chunk

GROUP = "sae_decode"
SHAPES = (
    (1, 768, 24_576, 32), (128, 768, 24_576, 32), (1, 768, 100_000, 100), (128, 768, 100_000, 100),
    (128, 256, 10_000, 100),
)  # fmt: skip
"""Batch, outputs, units, winners."""
CROSSOVER = (128, 256, 10_000)
WINNERS = (50, 100, 200, 400, 800, 1600)
STEPS = {(128, 256, 10_000, 100): 24, (512, 768, 24_576, 32): 8}
"""Batch, inputs, units, winners: steps in one program, whose memory is allocated once."""
EXAMPLES, CALLS = 4096, 3
_GRADIENTS = {"": None, ", gradients": refill_run, ", gradients in new memory": compile_run}
"""What is computed in addition to the output, and how it is timed."""


def measure(twin: Twin | None) -> Report:
    """Compares decoding without and with gradients, the densities where dense products win, and whole steps."""
    rows, remarks = [], []
    for shape in SHAPES:
        for asked in _GRADIENTS:
            rows += _decoded(twin, shape, asked, remarks)
    rows += [_crossing(k) for k in WINNERS]
    for shape in STEPS:
        rows += _stepped(twin, shape, remarks)
    remarks += [
        "Gradients are written where the last ones lay, as in a training step, which keeps its memory from one turn to "
        "the next. In new memory, as a call by itself returns them, an array of the kernel's size waits for the system "
        "to hand out its pages (18,000 of them for 24,576 units, 12 ms), for us, the dense product and PyTorch alike, "
        "unless an allocator still has some: that leaves little of the difference. Linux hands out larger pages to "
        "programs started with GLIBC_TUNABLES=glibc.malloc.hugetlb=1. PyTorch always takes new memory for gradients.",
        "PyTorch's bag of rows fetches them by hand-written loops over both cores, ours by gathers in a loop of XLA's, "
        "which are slower: it shows where no gradients are asked for.",
        "Of kernels that fit the cache PyTorch's gradients are faster, too: XLA adds row after row in a loop that "
        "costs more than the row.",
        "Of the smaller step the rest is the same dense product and the same Adam, on whose memory both wait.",
        "Rows are taken up to a density of one in 32; the cases of more winners show what they would cost there.",
    ]
    return Report(tuple(rows), tuple(remarks))


def _decoded(twin: Twin | None, shape: tuple[int, int, int, int], asked: str, remarks: list[str]) -> list[Row]:
    batch, outputs, units, k = shape
    case, gradients = f"decode [{batch}, {k} of {units:,}] to {outputs}{asked}", _GRADIENTS[asked]
    code, kernel, upstream = _drawn(*shape)
    runs = {"ours": _call(decode, code, kernel, upstream, gradients),
            "dense": _call(_dense, code, kernel, upstream, gradients)}  # fmt: skip
    if twin is not None:
        sizes = {"batch": batch, "outputs": outputs, "units": units, "k": k, "gradients": gradients is not None}
        runs["PyTorch"] = twin.run(case, steps=CALLS, what="decode", **sizes)
        remarks.append(f"PyTorch, {case}: {twin.forms[case]}.")
    timings = round_robin(runs, repetitions=7)
    goal = 2.0 if gradients else 5.0
    return [row(GROUP, case, timings["ours"], "dense product", timings["dense"], goal),
            row(GROUP, case, timings["ours"], "PyTorch", timings.get("PyTorch"), 1.0)]  # fmt: skip


def _crossing(k: int) -> Row:
    """Compares our sparse and dense decoding at a density, with gradients."""
    code, kernel, upstream = _drawn(*CROSSOVER, k)
    with mock.patch.object(compact, "gathering_is_faster", lambda *_: True):
        runs = {"rows": _call(decode, code, kernel, upstream, refill_run)}
    runs["dense"] = _call(_dense, code, kernel, upstream, refill_run)
    timings = round_robin(runs, repetitions=7)
    case = f"rows of {k} in {CROSSOVER[2]:,}, gradients, batch {CROSSOVER[0]}"
    return row(GROUP, case, timings["rows"], "dense product", timings["dense"], details={"along k": float(k)})


def _stepped(twin: Twin | None, shape: tuple[int, int, int, int], remarks: list[str]) -> list[Row]:
    batch, inputs, units, k = shape
    case = f"Top-K autoencoder step, {k} of {units:,}, {inputs} inputs, batch {batch}"
    runs = {"ours": _step(*shape)}
    with mock.patch.object(compact, "gathering_is_faster", lambda *_: False):
        runs["dense"] = _step(*shape)
    if twin is not None:
        sizes = {"batch": batch, "inputs": inputs, "units": units, "k": k}
        runs["PyTorch"] = twin.run(case, steps=STEPS[shape], what="sae", **sizes)
        remarks.append(f"PyTorch, {case}: {twin.forms[case]}.")
    timings = round_robin(runs, repetitions=7)
    return [row(GROUP, case, timings["ours"], "our dense products", timings["dense"]),
            row(GROUP, case, timings["ours"], "PyTorch", timings.get("PyTorch"), 1.5)]  # fmt: skip


def _drawn(batch: int, outputs: int, units: int, k: int) -> tuple[SparseCode, jax.Array, jax.Array]:
    rng = np.random.default_rng(0)
    places = np.sort(np.stack([rng.choice(units, k, replace=False) for _ in range(batch)]), axis=-1)
    values, kernel, upstream = (jnp.asarray(rng.standard_normal(shape, np.float32))
                                for shape in ((batch, k), (units, outputs), (batch, outputs)))  # fmt: skip
    return SparseCode(values, jnp.asarray(places, jnp.int32)), kernel, upstream


def _dense(code: SparseCode, kernel: jax.Array) -> jax.Array:
    return to_dense(code, len(kernel)) @ kernel


def _call(
    function: Callable[..., Any], code: SparseCode, kernel: Any, upstream: Any, gradients: Callable[..., Run] | None
) -> Run:
    if gradients is None:
        return compile_run(function, code, kernel, steps=1, calls=CALLS)

    def both(code: SparseCode, kernel: jax.Array, upstream: jax.Array) -> Any:
        way = lambda values, kernel: function(SparseCode(values, code.indices), kernel)  # noqa: E731
        output, pull = jax.vjp(way, code.values, kernel)
        return output, pull(upstream)

    return gradients(both, code, kernel, upstream, steps=1, calls=CALLS)


def _step(batch: int, inputs: int, units: int, k: int) -> Run:
    """Returns a run of training steps as in `launch`: resident bytes, Adam, one compiled scan."""
    shape, steps = (16, 16, inputs // 256), STEPS[batch, inputs, units, k]
    training = TrainingConfig(batch_size=batch, optimizer="adam", learning_rate=1e-3)
    config = Config(TopKAutoencoder(hidden=units, k=k), DataConfig(normalise=False), training,
                    objective=ObjectiveConfig("reconstruction"))  # fmt: skip
    config = as_arrays(config)
    images = np.random.default_rng(0).integers(0, 256, (EXAMPLES, *shape), np.uint8)
    data = Resident(
        jnp.asarray(images), jnp.zeros(EXAMPLES, jnp.int32), jnp.zeros((1, 1, 1, 1)), jnp.ones((1, 1, 1, 1))
    )
    function = functools.partial(chunk, examples=EXAMPLES, batch_size=batch, length=steps)
    state = init_state(config, jnp.zeros((1, *shape)))
    program = jax.jit(function, donate_argnums=0).lower(state, config, data).compile()
    return training_run(program, state, config, data, steps=steps)
