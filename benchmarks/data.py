"""Batches from bytes to normalised pixels, on the device or read from the host, compared with PyTorch."""

import time
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks.peers import Twin
from benchmarks.rows import Report, Row, row
from benchmarks.timing import Run, compile_run, round_robin
from sparsejax.data.dataset import Split
from sparsejax.data.resident import Resident, epoch_order, normalize
from sparsejax.data.streaming import Streamed, read_chunks
from sparsejax.functional import crop_and_flip, example_keys

GROUP = "data"
SETS = {"MNIST": ((60_000, 28, 28, 1), 64), "CIFAR-10": ((50_000, 32, 32, 3), 128)}
"""Shape of the images, and of a batch."""
STEPS = 64
RESIDENT, LOADER = "PyTorch, resident data", "PyTorch, DataLoader"
CUT, STREAMED = ", cropped and mirrored", ", read from the host"


def measure(twin: Twin | None) -> Report:
    """Compares the preparation of batches for data like MNIST and CIFAR-10."""
    remarks: list[str] = []
    rows = [made for name in SETS for made in _of_set(twin, name, remarks)]
    remarks.append(
        "Milliseconds of a batch: shuffled bytes become pixels of mean 0 and deviation 1. From the host ours are read "
        "by threads of grain, chunk by chunk, while the device works; PyTorch's DataLoader, whichever is faster of one "
        "without workers and one with two, makes a tensor of each image."
    )
    return Report(tuple(rows), tuple(remarks))


def _of_set(twin: Twin | None, name: str, remarks: list[str]) -> list[Row]:
    shape, batch = SETS[name]
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    labels, mean, std = jnp.zeros(len(images), jnp.int32), jnp.full((1, 1, 1, 1), 0.4), jnp.full((1, 1, 1, 1), 0.2)
    data = Resident(jnp.asarray(images), labels, mean, std)
    order = epoch_order(jax.random.key(0), jnp.int32(0), len(images), batch)[:STEPS]
    ways: dict[str, Run] = {"": _resident(data, order, False), CUT: _resident(data, order, True)}
    ways[STREAMED] = _streamed(Split(images, np.asarray(labels)), data, np.asarray(order))
    rows = []
    for way, ours in ways.items():
        runs, peers = {"ours": ours}, (LOADER,) if way == STREAMED else (RESIDENT, LOADER)
        for peer in peers if twin is not None else ():
            case = f"{name}{way}, {peer}"
            sizes = {"shape": list(shape), "batch": batch, "cut": way == CUT, "loader": peer == LOADER}
            runs[peer] = twin.run(case, steps=STEPS // 4, what="batches", **sizes)
            remarks.append(f"{case}: {twin.forms[case]}.")
        timings = round_robin(runs, repetitions=7)
        speed = {"images_per_s": round(1e3 * batch / timings["ours"].median)}
        rows += [row(GROUP, f"{name}, batch {batch}{way}", timings["ours"], peer, timings.get(peer), 1.0, speed)
                 for peer in peers]  # fmt: skip
    return rows


def _resident(data: Resident, order: jax.Array, cut: bool) -> Run:
    """Returns a run of a scan that makes a batch in each step, and overwrites the previous one."""

    def batches(data: Resident, order: jax.Array) -> jax.Array:
        def make(_, indices):
            images = data.images[indices]
            if cut:
                images = crop_and_flip(example_keys(jax.random.key(0), indices), images)
            return normalize(data, images), None

        empty = jnp.zeros((order.shape[1], *data.images.shape[1:]))
        return lax.scan(make, empty, order)[0]

    return compile_run(batches, data, order, steps=len(order))


def _streamed(split: Split, data: Resident, order: np.ndarray) -> Run:
    @jax.jit
    def pixels(chunk: Streamed) -> jax.Array:
        return lax.map(lambda images: normalize(chunk, images), chunk.images)

    def chunks() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return read_chunks(split, order, length=len(order) // 4, columns=slice(None))

    def run() -> float:
        started = time.perf_counter()
        for images, labels in chunks():
            made = pixels(Streamed(jnp.asarray(images), jnp.asarray(labels), data.mean, data.std))
        jax.block_until_ready(made)
        return (time.perf_counter() - started) * 1e3 / len(order)

    return run
