"""The training step on 1 to 8 devices with equal batches per device, and an estimate for Cloud TPU.

CPU devices share the cores, and a single device already uses all of them. So each row compares several devices with one
device and the same batch, and the ratio shows the overhead of sharding the batch: the sum of the gradients, and an
optimizer step on every device. The estimate uses XLA's arithmetic, memory traffic and gradient size of a step, and the
vendor's peak rates of a chip; it is the time at these peaks, not a measurement.
"""

import functools
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
from sparsejax.configuration import stack
from sparsejax.data.resident import Resident, example_of
from sparsejax.models import NoisyNetwork
from sparsejax.training.config import Config, DataConfig, DevicesConfig, ObjectiveConfig, TrainingConfig
from sparsejax.training.devices import place, put_members, put_shared, transform
from sparsejax.training.prepare import start
from sparsejax.training.step import chunk

GROUP = "scaling"
DEVICES = (1, 2, 4, 8)
BATCH, UNITS, STEPS = 32, 1_000, 16
LARGE_UNITS, LARGE_BATCH, PIXELS = 100_000, 128, 3072


class Chip(NamedTuple):
    """A slice of TPUs: its chips, and per chip the bfloat16 FLOP/s, memory bytes/s and bytes/s to its neighbours."""

    chips: int
    flops: float
    memory: float
    links: float


# https://cloud.google.com/tpu/docs/v5e and /v5p, as of 2026; v5p-64 counts cores, two per chip.
SLICES = {"v5e-8": Chip(8, 197e12, 819e9, 200e9), "v5p-64": Chip(32, 459e12, 2765e9, 600e9)}


def measure(twin: Twin | None) -> Report:
    """Times the step in a process for each number of devices, and estimates that of a large network."""
    rows: list[Row] = []
    for devices in DEVICES:
        batch = devices * BATCH
        alone = _in_a_process(1, batch)
        spread = _in_a_process(devices, batch) if devices > 1 else alone
        case = f"{devices} device{'s' if devices > 1 else ''}, batch {batch}"
        rate = {"images_per_second": round(1e3 * batch / spread.median)}
        rows.append(row(GROUP, case, spread, f"1 device, batch {batch}", alone, details=rate))
    rates = ", ".join(
        f"{r.details['images_per_second']:,} ({devices})" for devices, r in zip(DEVICES, rows, strict=True)
    )
    remarks = [f"Noisy autoencoder, {UNITS:,} units, Adam, {BATCH} images a device; images/s (devices): {rates}. "
               f"The devices share {os.cpu_count()} cores."]  # fmt: skip
    return Report(tuple(rows), (*remarks, *estimates()))


def estimates() -> list[str]:
    """Returns estimates of the time of a step of the largest network on the slices, part by part."""
    cost = _cost()
    said = [f"noise_autoencoder, {LARGE_UNITS:,} units, {PIXELS} inputs, {LARGE_BATCH} images a chip: by XLA "
            f"{cost['flops'] / 1e12:.2f} TFLOP and {cost['bytes'] / 1e9:.1f} GB of memory traffic a chip and step; "
            f"{cost['gradients'] / 1e9:.2f} GB of gradients to be added up."]  # fmt: skip
    for name, chip in SLICES.items():
        arithmetic, memory = cost["flops"] / chip.flops, cost["bytes"] / chip.memory
        # A ring sends every byte twice, except the part that each chip keeps.
        sharing = 2 * (chip.chips - 1) / chip.chips * cost["gradients"] / chip.links
        step = max(arithmetic, memory) + sharing
        said.append(f"{name} ({chip.chips} chips): arithmetic {1e3 * arithmetic:.1f} ms at bfloat16's peak, memory "
                    f"{1e3 * memory:.1f} ms, all-reduce {1e3 * sharing:.1f} ms: {1e3 * step:.0f} ms a step if none "
                    f"overlap but the first two, {chip.chips * LARGE_BATCH / step:,.0f} images/s.")  # fmt: skip
    return said


def _cost() -> dict[str, float]:
    """Returns XLA's cost analysis of one device's step of the large network, compiled from shapes."""
    program, state, config, data = _chunk(LARGE_UNITS, LARGE_BATCH, DevicesConfig("jit"), PIXELS, shapes=True)
    analysis: Any = program.lower(state, config, data).compile().cost_analysis()
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.variables.params))
    return {"flops": analysis["flops"], "bytes": analysis["bytes accessed"], "gradients": 4.0 * parameters}


def _chunk(units: int, batch: int, devices: DevicesConfig, pixels: int, *, shapes: bool = False, steps: int = 1):
    """Returns the compiled chunk of an autoencoder and its arguments, only their shapes for the large one."""
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
    data, stacked = put_shared(data, placement), put_members(stack([config]), placement)

    def init():
        return start(stacked, placement, example_of(data)).state

    state = jax.eval_shape(init) if shapes else init()
    function = functools.partial(
        chunk, examples=examples, batch_size=batch, length=steps, axis_name=placement.axis_name, shards=placement.shards
    )
    return transform(function, placement), state, stacked, data


def _in_a_process(devices: int, batch: int) -> Timing:
    """Measures in a separate process, because devices cannot be added to a running one."""
    settings = os.environ | {"JAX_NUM_CPU_DEVICES": str(devices), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "benchmarks.scaling", str(batch)]
    said = subprocess.run(command, env=settings, stdout=subprocess.PIPE, text=True, check=True)
    return Timing(*json.loads(said.stdout))


def main() -> None:
    """Prints median and minimal milliseconds of a step on all devices of this process; the argument is the batch."""
    import time

    devices = DevicesConfig("auto" if jax.device_count() > 1 else "jit")
    program, state, config, data = _chunk(UNITS, int(sys.argv[1]), devices, 784, steps=STEPS)

    def run() -> float:
        started = time.perf_counter()
        jax.block_until_ready(program(state, config, data))
        return (time.perf_counter() - started) * 1e3 / STEPS

    print(json.dumps(round_robin({"step": run}, repetitions=9, warm_up=2)["step"]))


if __name__ == "__main__":
    main()
