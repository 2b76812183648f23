"""A training step of a noisy autoencoder inside the scan, and its memory."""

import functools
import resource

import jax
import jax.numpy as jnp

from benchmarks.kwinners_step import EXAMPLES, synthetic_data
from benchmarks.peers import Twin
from benchmarks.rows import Report, row
from benchmarks.timing import Run, round_robin, training_run
from sparsejax.configuration import as_arrays
from sparsejax.models import NoisyNetwork
from sparsejax.training.config import Config, DataConfig, ObjectiveConfig, TrainingConfig
from sparsejax.training.state import init_state
from sparsejax.training.step import chunk

GROUP = "autoencoder"
BATCH, STEPS = 128, 16
UNITS = (1_000, 10_000)
MEMORY_UNITS = (1_000, 10_000, 100_000)


def measure(twin: Twin | None) -> Report:
    """Compares steps of several sizes with PyTorch, and reports the memory of each size."""
    rows, remarks = [], []
    for units in UNITS:
        runs: dict[str, Run] = {"ours": _run(units)}
        if twin is not None:
            case = f"PyTorch, {units:,} units"
            runs["torch"] = twin.run(case, steps=STEPS, what="autoencoder", hidden=units, batch=BATCH)
            remarks.append(f"{case}: {twin.forms[case]}.")
        timings = round_robin(runs, repetitions=7)
        rows.append(
            row(GROUP, f"{units:,} units, batch {BATCH}", timings["ours"], "PyTorch", timings.get("torch"), target=1.0)
        )
    largest = MEMORY_UNITS[-1]
    run = _run(largest, steps=2)
    milliseconds = min(run(), run())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    remarks.append(f"{largest:,} units, batch {BATCH}, really trained: {milliseconds:,.0f} ms a step, the process took "
                   f"at most {peak:.1f} GiB.")  # fmt: skip
    for units in MEMORY_UNITS:
        memory = _program(units)[0].compile().memory_analysis()
        arguments, temporary = memory.argument_size_in_bytes / 2**20, memory.temp_size_in_bytes / 2**20
        remarks.append(
            f"{units:,} units: {arguments:,.0f} MiB of weights, optimiser state and data, {temporary:,.0f} MiB besides."
        )
    remarks.append(
        "Where PyTorch is ahead it is by a few hundredths: both wait for products of the same size and for Adam's "
        "memory."
    )
    return Report(tuple(rows), tuple(remarks))


def _program(units: int, steps: int = STEPS):
    """Returns the lowered chunk of an autoencoder and its arguments, as shapes."""
    data = synthetic_data()._replace(mean=jnp.zeros((1, 1, 1, 1)), std=jnp.ones((1, 1, 1, 1)))
    training = TrainingConfig(batch_size=BATCH, optimizer="adam", learning_rate=1e-3, clip_norm=1.0)
    network = NoisyNetwork(hidden=units, sigma=0.3)
    objective = ObjectiveConfig("reconstruction")
    config = Config(network, DataConfig(normalise=False), training, objective=objective)
    config = as_arrays(config)
    function = functools.partial(chunk, examples=EXAMPLES, batch_size=BATCH, length=steps)

    def init(config):
        return init_state(config, jnp.zeros((1, 28, 28, 1)))

    state = jax.eval_shape(init, config)
    return jax.jit(function, donate_argnums=0).lower(state, config, data), (init, config, data)


def _run(units: int, steps: int = STEPS) -> Run:
    lowered, (init, config, data) = _program(units, steps)
    program, state = lowered.compile(), jax.jit(init)(config)
    return training_run(program, state, config, data, steps=steps)
