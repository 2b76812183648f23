"""Measurements on a GPU or TPU, in about six minutes.

On a CPU it measures nothing. PyTorch uses the same GPU in a separate process, or the CPU next to a TPU. JAX allocates
three quarters of a GPU's memory: if PyTorch needs more than the rest, set XLA_PYTHON_CLIENT_PREALLOCATE=false.
"""

import functools
import os
import sys
from collections.abc import Callable
from typing import Protocol
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks import ensemble, kwinners_step, naive
from benchmarks.peers import Twin
from benchmarks.rows import Report, Row, row, table
from benchmarks.timing import Run, Timing, compile_run, in_scan, round_robin, training_run
from sparsejax import configs
from sparsejax.configuration import as_arrays
from sparsejax.data.resident import Resident, steps_per_epoch
from sparsejax.functional import BoostState, k_winners, top_k
from sparsejax.functional.kernels import gpu as gpu_rows
from sparsejax.models import TopKAutoencoder
from sparsejax.training.config import Config, DataConfig, ObjectiveConfig, TrainingConfig
from sparsejax.training.state import init_state
from sparsejax.training.step import chunk, chunk_length

GROUP = "accelerator"
SELECTIONS = ((4096, 10_000, 1000), (4096, 65_536, 64))
"""Rows, units, winners."""
TURNS, BOOST = 20, 1.5
BY_KERNEL = "k_winners by one kernel"
"""The GPU kernel, enabled by an environment variable, if rows fit."""
AUTOENCODER, STEPS = (4096, 768, 24_576, 32), 8
"""Batch, inputs, units, winners; and steps in one program."""
MNIST = 60_000
NETWORKS = {8: (300,), 32: (300,), 64: (300,), 128: (300, 320), 256: (300,)}
"""Hidden units, and networks trained together: starting with the thesis's grid, 15 penalties and 20 seeds."""
EPOCHS, GOAL = 15, 30.0
"""Epochs of the thesis's networks; and the target speed-up over PyTorch for networks beyond its grid."""
REPETITIONS = 5


class Peers(Protocol):
    """Prepares a PyTorch case, and returns its run by name; nothing if it cannot be measured."""

    def __call__(self, case: str, *, peer: str = "PyTorch", steps: int, **make: object) -> dict[str, Run]: ...


def measure(twin: Twin | None) -> Report:
    """Measures selection and a copy, a large autoencoder's step, epochs of a CNN, and grids of small networks."""
    if not accelerated():
        return Report((), (
            "There is no accelerator, so nothing was measured. On a GPU or TPU this group compares selection "
            "with a copy of the same array, and with PyTorch the step of a Top-K autoencoder in float32 and bfloat16, "
            "epochs of mnist_kwinners, an epoch of the thesis's 1,500 networks, and 320 networks of 128 units.",
        ))  # fmt: skip
    rows, remarks = [], []
    peers = _peers(twin, remarks)
    for part in (_selections, _autoencoders, _epochs, _grids):
        measured = part(peers, remarks)
        print(table(measured), file=sys.stderr, flush=True)  # so that a later failure does not lose it
        rows += measured
    return Report(tuple(rows), tuple(remarks))


def accelerated() -> bool:
    """Returns whether there is a GPU or TPU."""
    return jax.default_backend() != "cpu"


def _peers(twin: Twin | None, remarks: list[str]) -> Peers:
    """Returns a function that prepares PyTorch's cases, until one ends its process."""
    device = "cuda" if jax.default_backend() == "gpu" else "cpu"
    twins = [] if twin is None else [twin]
    if twins and device == "cuda":
        remarks.append("Products of float32 are computed in TF32 by both: XLA does by default, and PyTorch is told to.")

    def prepared(case: str, *, peer: str = "PyTorch", steps: int, **make: object) -> dict[str, Run]:
        if not twins:
            return {}
        try:
            run = twins[0].run(case, steps=steps, device=device, **make)
        except RuntimeError as error:
            remarks.append(f"PyTorch was not measured from {case} on: {error}")
            twins.clear()
            return {}
        remarks.append(f"PyTorch on {device}, {case}: {twin.forms[case]}.")
        return {peer: run}

    return prepared


def _selections(peers: Peers, remarks: list[str]) -> list[Row]:
    """Compares selections with a program that only reads and writes as much."""
    rows = []
    for count, n, k in SELECTIONS:
        x = jax.random.normal(jax.random.key(0), (count, n))
        state = BoostState(jax.random.uniform(jax.random.key(1), (n,)) * 2 * k / n, jnp.float32(1000))
        runs = {
            "top_k": _in_turns(lambda x, k: top_k(x, k, ties="all"), x, jnp.int32(k)),
            "k_winners": _in_turns(
                lambda x, k, state: k_winners(x, state, k=k, boost_strength=BOOST), x, jnp.int32(k), state
            ),
            "copy": _in_turns(lambda x: x + 1, x),
            "lax.top_k": _in_turns(lambda x, k=k: jnp.where(naive.winners_by_top_k(x, k), x, 0), x),
        }
        with mock.patch.dict(os.environ, SPARSEJAX_GPU_KERNELS="1"):
            if gpu_rows.is_usable(x.shape, x.dtype) and jax.default_backend() != "tpu":
                runs[BY_KERNEL] = _in_turns(
                    lambda x, k, state: k_winners(x, state, k=k, boost_strength=BOOST), x, jnp.int32(k), state
                )
        case = f"[{count:,}, {n:,}], k = {k:,}"
        for method in ("topk", "kthvalue"):
            sizes = {"rows": count, "n": n, "k": k, "method": method}
            name = f"torch.{method}"
            runs |= peers(f"{name} of {case}", peer=name, steps=TURNS, what="selection_on_device", **sizes)
        timings = round_robin(runs, REPETITIONS)
        goals = (("top_k", "copy", 0.5), ("k_winners", "copy", 0.5), (BY_KERNEL, "copy", 0.5),
                 *(("top_k", other, None) for other in ("lax.top_k", "torch.topk", "torch.kthvalue")))  # fmt: skip
        rows += [row(GROUP, f"{ours} of {case}", timings[ours], peer, timings.get(peer), goal)
                 for ours, peer, goal in goals if ours in timings]  # fmt: skip
    remarks.append(
        "Selections are of float32 and write the winners, zeros elsewhere; top_k keeps ties, k_winners exactly k. A "
        "copy reads and writes each value once, so that a ratio of 0.5 is twice its time."
    )
    return rows


def _in_turns(function: Callable[..., jax.Array], x: jax.Array, *others: object) -> Run:
    """Returns a run of `TURNS` calls in one program, because a call from the host costs a GPU 10 us or more."""
    # If the changing entry were modified in the buffer of x, all of x would be rewritten.
    behind = lambda x, *others: function(lax.optimization_barrier(x), *others)  # noqa: E731
    program, arguments = in_scan(behind, x, *others, steps=TURNS)
    return compile_run(program, *arguments, steps=TURNS)


def _autoencoders(peers: Peers, remarks: list[str]) -> list[Row]:
    """Compares a Top-K autoencoder's step in both precisions with PyTorch's, and with one another."""
    batch, inputs, units, k = AUTOENCODER
    case = f"Top-K autoencoder step, {k} of {units:,}, {inputs} inputs, batch {batch:,}"
    images = np.random.default_rng(0).integers(0, 256, (STEPS * batch, 16, 16, inputs // 256), np.uint8)
    data = Resident(
        jnp.asarray(images), jnp.zeros(len(images), jnp.int32), jnp.zeros((1, 1, 1, 1)), jnp.ones((1, 1, 1, 1))
    )
    timings, rows = {}, []
    for precision in ("float32", "bfloat16"):
        training = TrainingConfig(batch_size=batch, optimizer="adam", learning_rate=1e-3, precision=precision)
        config = Config(TopKAutoencoder(hidden=units, k=k), DataConfig(normalise=False), training,
                        objective=ObjectiveConfig("reconstruction"))  # fmt: skip
        sizes = {"batch": batch, "inputs": inputs, "units": units, "k": k, "examples": len(images)}
        runs = {"ours": _trained(config, data, batch, STEPS)}
        runs |= peers(f"{case}, {precision}", steps=STEPS, what="sae_on_device", precision=precision, **sizes)
        timed = round_robin(runs, REPETITIONS)
        timings[precision] = timed["ours"]
        rows.append(row(GROUP, f"{case}, {precision}", timed["ours"], "PyTorch", timed.get("PyTorch")))
    return [*rows, row(GROUP, f"{case}, bfloat16", timings["bfloat16"], "ours, float32", timings["float32"])]


def _epochs(peers: Peers, remarks: list[str]) -> list[Row]:
    """Compares epochs of `mnist_kwinners` in its batch sizes, from the time of a training chunk."""
    config, some, rows = configs.get("mnist_kwinners"), kwinners_step.synthetic_data(), []
    images, labels = (jnp.resize(part, (MNIST, *part.shape[1:])) for part in some[:2])
    data = some._replace(images=images, labels=labels)
    for epoch in (1, 0):
        batch = config.training.batch_size_in(epoch)
        steps = steps_per_epoch(MNIST, batch)
        length, case = chunk_length(steps), f"an epoch of mnist_kwinners, batch {batch}"
        runs = {"ours": _trained(config, data, batch, length)}
        runs |= peers(case, steps=length, what="kwinners_on_device", batch=batch, examples=MNIST)
        timings = {name: _times(timing, steps) for name, timing in round_robin(runs, REPETITIONS).items()}
        ours, rates = timings["ours"], {name: 1e3 / timing.median for name, timing in timings.items()}
        details = {"epochs_per_s": round(rates["ours"], 4)}
        rows.append(row(GROUP, case, ours, "PyTorch", timings.get("PyTorch"), details=details))
        said = ", ".join(f"{rate:.3g} a second ({name})" for name, rate in rates.items())
        remarks.append(f"Epochs of mnist_kwinners in batches of {batch}: {said}, from chunks of {length} steps.")
    return rows


def _grids(peers: Peers, remarks: list[str]) -> list[Row]:
    """Compares an epoch of the thesis's grid, and of a network of other grids, with PyTorch's loop over networks."""
    data, epoch, rows = ensemble._data(), ensemble.EXAMPLES / ensemble.BATCH, []
    whole: dict[str, list[Timing]] = {}
    for hidden, (count, *others) in NETWORKS.items():
        runs = {str(many): ensemble._grid(hidden, many, data)[0] for many in (count, *others)}
        case = f"an epoch of a network of {hidden} units"
        runs |= peers(case, steps=ensemble.STEPS, what="penalised_on_device", hidden=hidden, batch=ensemble.BATCH)
        timings = round_robin(runs, REPETITIONS)
        torch = {name: _times(timings[name], epoch) for name in ("PyTorch",) if name in timings}
        for name, timing in ({"ours": timings[str(count)]} | torch).items():
            whole.setdefault(name, []).append(_times(timing, count))
        rows += [row(GROUP, f"{case}, {many} together", timings[str(many)], "PyTorch", torch.get("PyTorch"), GOAL)
                 for many in others]  # fmt: skip
    total = {name: Timing(sum(timing.median for timing in parts), sum(timing.least for timing in parts))
             for name, parts in whole.items() if len(parts) == len(NETWORKS)}  # fmt: skip
    networks = sum(counts[0] for counts in NETWORKS.values())
    case = f"an epoch of {networks:,} networks of {', '.join(map(str, NETWORKS))} units"
    minutes = ", ".join(f"{EPOCHS * timing.median / 6e4:.3g} ({name})" for name, timing in total.items())
    remarks.append(f"Minutes for {EPOCHS} epochs of the {networks:,} networks: {minutes}. Ours are trained together, a "
                   "size at a time; PyTorch's one after another, from the time of one network's epoch.")  # fmt: skip
    return [row(GROUP, case, total["ours"], "PyTorch", total.get("PyTorch")), *rows]


def _trained(config: Config, data: Resident, batch: int, length: int) -> Run:
    """Returns a run of training steps as in `launch`: resident bytes, one compiled scan."""
    config = as_arrays(config)
    state = jax.jit(init_state)(config, jnp.zeros((1, *data.images.shape[1:])))
    function = functools.partial(chunk, examples=len(data.labels), batch_size=batch, length=length)
    program = jax.jit(function, donate_argnums=0).lower(state, config, data).compile()
    return training_run(program, state, config, data, steps=length)


def _times(timing: Timing, count: float) -> Timing:
    return Timing(timing.median * count, timing.least * count)
