"""Group "scaling": the training step on 1 to 8 devices, each with as large a batch, and an estimate for Cloud TPU.

Devices of a CPU are threads that share its cores: with more devices than cores the work takes turns, and what the
table shows is what sharing costs beyond that. The estimate takes the arithmetic, memory traffic and gradients' size of
a step from XLA, and what a chip can do from the vendor's pages; it is the time at those peaks, not a measurement.
"""

import json
import os
import subprocess
import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.peers import Twin
from benchmarks.rows import Report, Row, row
from benchmarks.timing import Timing, round_robin
from sparsejax.data.resident import Resident
from sparsejax.hyper import stack_hyper
from sparsejax.models import NoisyNetwork
from sparsejax.training.config import Config, DataConfig, DevicesConfig, ObjectiveConfig, TrainingConfig
from sparsejax.training.devices import carry, place, put_members, put_shared
from sparsejax.training.loop import Job, start
from sparsejax.training.objectives import reconstruction
from sparsejax.training.step import make_chunk

GROUP = "scaling"
DEVICES = (1, 2, 4, 8)
BATCH, UNITS, STEPS = 32, 1_000, 16
LARGE_UNITS, LARGE_BATCH, PIXELS = 100_000, 128, 3072


class Chip(NamedTuple):
    """A slice of TPUs: its chips, and of one the bfloat16 FLOP/s, memory bytes/s and bytes/s to its neighbours."""

    chips: int
    flops: float
    memory: float
    links: float


# https://cloud.google.com/tpu/docs/v5e and /v5p, read in 2026; v5p-64 counts cores, of which a chip has two.
SLICES = {"v5e-8": Chip(8, 197e12, 819e9, 200e9), "v5p-64": Chip(32, 459e12, 2765e9, 600e9)}


def measure(twin: Twin | None) -> Report:
    """Times the step in a process for each number of devices, and estimates that of a large network."""
    timings = {devices: _in_a_process(devices) for devices in DEVICES}
    rows: list[Row] = []
    cores = os.cpu_count() or 1
    for devices, timing in timings.items():
        turns = max(1.0, devices / cores)
        ideal = Timing(*(turns * value for value in timings[1]))
        case = f"{devices} device{'s' if devices > 1 else ''}, batch {devices * BATCH}"
        rows.append(row(GROUP, case, timing, f"1 device x {turns:g}", ideal))
    remarks = [f"Noisy autoencoder, {UNITS:,} units, {BATCH} images a device. The peer is the time of one device times "
               f"the turns that {cores} cores have to take: ratio 1 would be perfect weak scaling."]  # fmt: skip
    return Report(tuple(rows), (*remarks, *estimates()))


def estimates() -> list[str]:
    """Says what a step of the largest network would take on the slices, part by part."""
    cost = _cost()
    said = [f"noise_autoencoder, {LARGE_UNITS:,} units, {PIXELS} inputs, {LARGE_BATCH} images a chip: by XLA "
            f"{cost['flops'] / 1e12:.2f} TFLOP and {cost['bytes'] / 1e9:.1f} GB of memory traffic a chip and step; "
            f"{cost['gradients'] / 1e9:.2f} GB of gradients to be added up."]  # fmt: skip
    for name, chip in SLICES.items():
        arithmetic, memory = cost["flops"] / chip.flops, cost["bytes"] / chip.memory
        # A ring sends every byte twice, but for the part that each chip keeps.
        sharing = 2 * (chip.chips - 1) / chip.chips * cost["gradients"] / chip.links
        step = max(arithmetic, memory) + sharing
        said.append(f"{name} ({chip.chips} chips): arithmetic {1e3 * arithmetic:.1f} ms at bfloat16's peak, memory "
                    f"{1e3 * memory:.1f} ms, all-reduce {1e3 * sharing:.1f} ms: {1e3 * step:.0f} ms a step if none "
                    f"overlap but the first two, {chip.chips * LARGE_BATCH / step:,.0f} images/s.")  # fmt: skip
    return said


def _cost() -> dict[str, float]:
    """Returns what XLA says of one device's step of the large network, compiled from shapes alone."""
    chunk, state, hyper, data = _chunk(LARGE_UNITS, LARGE_BATCH, DevicesConfig("jit"), PIXELS, shapes=True)
    analysis: Any = chunk.lower(state, hyper, data).compile().cost_analysis()
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.variables.params))
    return {"flops": analysis["flops"], "bytes": analysis["bytes accessed"], "gradients": 4.0 * parameters}


def _chunk(units: int, batch: int, devices: DevicesConfig, pixels: int, *, shapes: bool = False, steps: int = 1):
    """Returns the compiled chunk of an autoencoder and its arguments, of the large one only their shapes."""
    side = round((pixels / 3) ** 0.5) if pixels % 3 == 0 else round(pixels**0.5)
    shape = (side, side, 3 if pixels % 3 == 0 else 1)
    examples = batch * steps
    training = TrainingConfig(batch_size=batch, optimizer="adam", learning_rate=1e-3)
    config = Config(NoisyNetwork(hidden=units, sigma=0.3), DataConfig(normalise=False), training,
                    objective=ObjectiveConfig("reconstruction"))  # fmt: skip
    placement = place(devices, 1, {batch})
    images = np.random.default_rng(0).integers(0, 256, (examples, *shape), np.uint8)
    data = Resident(
        jnp.asarray(images), jnp.zeros(examples, jnp.int32), jnp.zeros((1, 1, 1, 1)), jnp.ones((1, 1, 1, 1))
    )
    data, hyper = put_shared(data, placement), put_members(stack_hyper([config]), placement)
    job = Job(config.model, reconstruction, training, placement, hyper, data)
    state = jax.eval_shape(lambda: start(job, [0]).state) if shapes else start(job, [0]).state
    function = make_chunk(
        config.model, reconstruction, training, examples=examples, batch_size=batch, length=steps,
        axis_name=placement.axis_name, shards=placement.shards,
    )  # fmt: skip
    return carry(function, placement), state, hyper, data


def _in_a_process(devices: int) -> Timing:
    """Measures in a process of its own, for devices cannot be added to one that runs."""
    settings = os.environ | {"JAX_NUM_CPU_DEVICES": str(devices), "JAX_PLATFORMS": "cpu"}
    said = subprocess.run(
        [sys.executable, "-m", "benchmarks.scaling"], env=settings, capture_output=True, text=True, check=True
    )
    return Timing(*json.loads(said.stdout))


def main() -> None:
    """Prints median and least milliseconds of a step on all devices of this process."""
    import time

    devices = jax.device_count()
    program, state, hyper, data = _chunk(
        UNITS, BATCH * devices, DevicesConfig("auto" if devices > 1 else "jit"), 784, steps=STEPS
    )

    def run() -> float:
        started = time.perf_counter()
        jax.block_until_ready(program(state, hyper, data))
        return (time.perf_counter() - started) * 1e3 / STEPS

    print(json.dumps(round_robin({"step": run}, repetitions=9, warm_up=2)["step"]))


if __name__ == "__main__":
    main()
