"""Training steps of sparse autoencoders, and of grids of them, compared with PyTorch."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.peers import Twin
from benchmarks.rows import Report, Row, row
from benchmarks.timing import Run, round_robin, training_run
from sparsejax.configuration import stack
from sparsejax.data.resident import Resident, epoch_order
from sparsejax.models import SparseAutoencoder
from sparsejax.training.config import Config, DataConfig, DevicesConfig, ObjectiveConfig, TrainingConfig
from sparsejax.training.devices import place, put_members, put_shared, transform
from sparsejax.training.state import init_state
from sparsejax.training.step import chunk

GROUP = "sae_step"
SHAPES = ((768, 24_576, 32, 512), (256, 10_000, 100, 128))
"""Inputs, latents, active ones, batch."""
GOALS = {(768, "top_k"): 1.5, (768, "batch_top_k"): 2.5, (768, "jump_relu"): 2.5}
GRID = (384, 2048, 32, 256)
NETWORKS = 16
ACTIVATIONS = ("top_k", "batch_top_k", "jump_relu")
EXAMPLES, STEPS = 4096, 8


def measure(twin: Twin | None) -> Report:
    """Compares a step of each kind at two sizes, and a step of 16 networks in one program."""
    rows: list[Row] = []
    remarks = [
        "All with Adam, decoder rows scaled to norm 1 before the step, gradients without the parts along them, and "
        "counts of the examples since each latent was active. PyTorch in the faster of two forms: by the active "
        "latents' rows, as sparsify does, and dense.",
        "jump_relu starts with thresholds at which as many latents are active.",
    ]
    for shape in SHAPES:
        for activation in ACTIVATIONS:
            case = f"{activation}, {shape[2]} of {shape[1]:,}, {shape[0]} inputs, batch {shape[3]}"
            goal = GOALS.get((shape[0], activation), 1.2)
            rows += _compared(twin, case, activation, shape, 1, goal, remarks)
    case = f"{NETWORKS} networks: top_k, {GRID[2]} of {GRID[1]:,}, {GRID[0]} inputs, batch {GRID[3]}"
    rows += _compared(twin, case, "top_k", GRID, NETWORKS, 3.0, remarks)
    return Report(tuple(rows), tuple(remarks))


def _compared(
    twin: Twin | None, case: str, activation: str, shape: Any, networks: int, goal: float, remarks: list[str]
) -> list[Row]:
    runs: dict[str, Run] = {"ours": _run(activation, *shape, networks=networks)}
    if twin is not None:
        inputs, units, k, batch = shape
        threshold = _threshold(units, k)
        runs["PyTorch"] = twin.run(case, steps=STEPS, what="sparse_autoencoder", activation=activation, batch=batch,
                                   inputs=inputs, units=units, k=k, threshold=threshold, networks=networks)  # fmt: skip
        remarks.append(f"PyTorch, {case}: {twin.forms[case]}.")
    timings = round_robin(runs, repetitions=7)
    return [row(GROUP, case, timings["ours"], "PyTorch", timings.get("PyTorch"), goal)]


def _threshold(units: int, k: int) -> float:
    """Returns the threshold beyond which normal numbers are active so often."""
    return float(jax.scipy.stats.norm.isf(k / units))


def _run(activation: str, inputs: int, units: int, k: int, batch: int, networks: int) -> Run:
    """Returns a run of training steps as in `launch`, whose buffers are donated."""
    jump = activation == "jump_relu"
    model = SparseAutoencoder(hidden=units, activation=activation, k=None if jump else k,
                              most_k=3 * k // 2 if jump else k,
                              aux=None, l0=1e-3 * inputs if jump else None, bandwidth=0.05,
                              initial_threshold=_threshold(units, k))  # fmt: skip
    training = TrainingConfig(batch_size=batch, optimizer="adam", learning_rate=1e-4, schedule="constant")
    # One network takes both cores, as in `launch`; those of a grid one each.
    devices = DevicesConfig(transform="jit" if networks == 1 else "auto", data=1)
    config = Config(model, DataConfig(), training, devices=devices, objective=ObjectiveConfig("reconstruction"))
    configs = [dataclasses.replace(config, training=dataclasses.replace(training, seed=i)) for i in range(networks)]
    x = np.random.default_rng(0).normal(size=(EXAMPLES, inputs)).astype(np.float32)
    data = Resident(jnp.asarray(x), jnp.zeros(EXAMPLES, jnp.int32), jnp.zeros((1, 1, 1, 1)), jnp.ones((1, 1, 1, 1)))
    order = epoch_order(jax.random.key(0), jnp.int32(0), EXAMPLES, batch)[:STEPS]
    stacked = stack(configs)
    state = jax.vmap(lambda config: init_state(config, jnp.zeros((1, inputs))))(stacked)
    placement = place(config.devices, networks, {batch})
    data = put_shared(data._replace(batches=order), placement)
    state, stacked = put_members(state, placement), put_members(stacked, placement)
    function = functools.partial(chunk, examples=EXAMPLES, batch_size=batch, length=STEPS)
    program = transform(function, placement, donate=True).lower(state, stacked, data).compile()
    return training_run(program, state, stacked, data, steps=STEPS)
