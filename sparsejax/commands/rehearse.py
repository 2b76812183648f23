"""Compiles the training of an experiment for a Cloud TPU, without one, with the TPU compiler: does it fit?"""

import os
import re
import time
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import PartitionSpec as P

from sparsejax.data.resident import example_of
from sparsejax.errors import ConfigError
from sparsejax.experiment import Experiment
from sparsejax.training import loop
from sparsejax.training.checks import load_data
from sparsejax.training.devices import Placement
from sparsejax.training.environment import version_of
from sparsejax.training.prepare import prepare, shapes_of, shapes_on

_COLLECTIVE = re.compile(r" (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\(")


class Rehearsal(NamedTuple):
    """The compiler's analysis of the training of an experiment.

    Attributes:
      placement: how networks and batches are sharded over the chips.
      seconds: compile time.
      held_bytes: memory per chip between two steps: networks, the best of them so far, training and test data.
      working_bytes: additional memory during a step.
      flops: per step and chip, including the shuffle of an epoch.
      moved_bytes: memory traffic of the same step, per chip.
      collectives: kind of communication between chips -> count in the program.
    """

    placement: Placement
    seconds: float
    held_bytes: int
    working_bytes: int
    flops: float
    moved_bytes: float
    collectives: dict[str, int]


def rehearse(experiment: Experiment, topology: str) -> Rehearsal:
    """Compiles the steps of a training for chips that are not available, as a run on them would.

    It needs libtpu (`pip install sparsejax[tpu]`) and the data, but no TPU: it runs on any Linux machine.

    Args:
      experiment: the networks.
      topology: generation and shape, such as "v5e:2x2", "v5p:2x2x1" or "v6e:4x4".

    Raises:
      ConfigError: libtpu is missing or does not know the topology, the experiment does not fit it or the memory of a
        chip, or uses pmap or streaming.
    """
    config = experiment.config
    if config.data.streaming or config.devices.transform == "pmap":
        what = "data.streaming True" if config.data.streaming else "devices.transform pmap"
        raise ConfigError(f"{what} cannot be rehearsed; omit it for the rehearsal.")
    chips = _chips(topology)
    dataset = load_data(config)
    job, test = prepare(experiment.configs, dataset, chips)
    placement, data = job.placement, job.data
    progress = shapes_of(job.config, example_of(data))
    if config.training.order_seed is not None:
        length = loop.chunk_length(loop.steps_per_epoch(job.examples, config.training.batch_size))
        order = jax.ShapeDtypeStruct((length, config.training.batch_size), np.int32)
        data = data._replace(batches=shapes_on(order, placement, P(), chips))
    chunk, _ = loop.compile_chunk(job, config.training.batch_size)
    started = time.perf_counter()
    try:
        compiled = chunk.lower(shapes_on(progress.state, placement, P("member"), chips), job.config, data).compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        said = str(error).partition(":")[2].split("\n")[0].strip(" .")
        raise ConfigError(
            f"{experiment.name} does not fit a chip of {topology} ({said}); use fewer networks per chip, a smaller "
            "--training.batch-size or network, more chips, or --training.precision bfloat16."
        ) from None
    seconds = time.perf_counter() - started
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
    best = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(progress.best))
    found = _COLLECTIVE.findall(compiled.as_text())
    return Rehearsal(
        placement,
        seconds,
        held_bytes=memory.argument_size_in_bytes
        + best // placement.member_devices
        + sum(leaf.size * leaf.dtype.itemsize for leaf in (test.images, test.labels)),
        working_bytes=memory.temp_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.generated_code_size_in_bytes,
        flops=cost["flops"],
        moved_bytes=cost["bytes accessed"],
        collectives={kind: found.count(kind) for kind in sorted(set(found))},
    )


def lines_of(rehearsal: Rehearsal, experiment: Experiment, topology: str) -> list[str]:
    """Returns a summary as lines of text."""
    placement, members = rehearsal.placement, len(experiment.configs)
    spread = f"{members} network{'s' if members > 1 else ''} over {placement.member_devices}, each batch over "
    told = [f"{count} {kind}" for kind, count in rehearsal.collectives.items()]
    return [
        f"{experiment.name} on {topology}: {spread}{placement.shards} chip{'s' if placement.shards > 1 else ''}, "
        f"{placement.transform}; compiled in {rehearsal.seconds:.0f} s by libtpu {version_of('libtpu')}",
        f"memory of a chip  a step fits: {_size(rehearsal.held_bytes)} held between steps, "
        f"{_size(rehearsal.working_bytes)} more in them",
        f"a step            {rehearsal.flops / 1e9:,.3g} GFLOP and {_size(rehearsal.moved_bytes)} moved on a chip, "
        f"{' and '.join(told) or 'no communication'}",
    ]


def _chips(topology: str) -> list[Any]:
    # Otherwise libtpu queries the machine's TPU metadata, logs at length, and blocks concurrent compilations.
    for name, value in (("TPU_SKIP_MDS_QUERY", "1"), ("TPU_WORKER_HOSTNAMES", "localhost"), ("TPU_LOG_DIR", "disabled"),
                        ("TPU_STDERR_LOG_LEVEL", "3"), ("TPU_MIN_LOG_LEVEL", "3"), ("ALLOW_MULTIPLE_LIBTPU_LOAD", "1"),
                        ("TPU_ACCELERATOR_TYPE", "v5litepod-4")):  # fmt: skip
        os.environ.setdefault(name, value)
    libtpu = version_of("libtpu")
    if libtpu is None:
        raise ConfigError("A rehearsal needs the TPU compiler; pip install 'sparsejax[tpu]' (Linux on x86-64).")
    from jax.experimental import topologies

    try:
        return list(topologies.get_topology_desc(topology, platform="tpu").devices)
    except Exception as error:
        reason = str(error).strip().split("\n")[0]
        raise ConfigError(
            f"{topology} is not a TPU known to libtpu {libtpu} ({reason}); expected generation and shape, such as "
            "v5e:2x2, v5p:2x2x1 or v6e:4x4."
        ) from None


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} GB"
