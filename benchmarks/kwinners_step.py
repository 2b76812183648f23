"""A training step of the paper's Sparse CNN-2, inside the scan that training runs."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import naive
from benchmarks.peers import Twin
from benchmarks.rows import Report, Row, row
from benchmarks.timing import Run, Timing, compile_run, in_scan, round_robin
from sparsejax.configuration import as_arrays
from sparsejax.data.resident import Batch, Resident, normalize
from sparsejax.functional import conv2d, max_pool2d
from sparsejax.models.sparse_cnn import SparseCNN
from sparsejax.training.config import Config, TrainingConfig
from sparsejax.training.devices import place, put_members, put_shared, transform
from sparsejax.training.objectives import cross_entropy
from sparsejax.training.state import TrainState, init_state
from sparsejax.training.step import chunk

GROUP = "kwinners_step"
EXAMPLES = 2048
MNIST = 60_000
STEPS = {64: 8, 4: 128}  # batch size -> steps of a scan; they divide those of an epoch
TARGETS = {64: (1.1, 1.4), 4: (2.0, 2.0)}  # batch size -> least ratio to PyTorch: alone, and as one of several
SPARSE = SparseCNN()
DENSE = SparseCNN(conv_k=(None, None), hidden_k=None, density=None)
MASKED = dataclasses.replace(DENSE, density=SPARSE.density)
WINNERS = dict(zip((4608, 1024, 700), (*SPARSE.conv_k, SPARSE.hidden_k), strict=True))


def measure(twin: Twin | None) -> Report:
    """Compares the step at both batch sizes and breaks down its time."""
    data, rows, remarks, sparse, several, torch = synthetic_data(), [], [], {}, {}, {}
    for batch in STEPS:
        timings = round_robin(_steps(batch, data) | _twins(twin, batch))
        rows += _rows(batch, timings)
        sparse[batch], torch[batch] = timings["sparse"], timings.get("torch sparse")
        several[batch] = timings["side by side"]
        parts = round_robin(_parts(batch, data), repetitions=7)
        remarks.append(where_the_time_goes(batch, timings, parts))
    for case, steps in (("one of several networks", several), ("one network", sparse)):
        ours = _of_ten(steps)
        assert ours is not None
        rows.append(row(GROUP, f"ten epochs of MNIST, {case}", ours, "PyTorch, sparse", _of_ten(torch), 1.1))
    remarks.append(
        "Ten epochs are the first in batches of 4 and nine of 64, from the times of their steps. Several networks are "
        f"trained side by side, one on each of {jax.device_count()} cores; PyTorch has all cores for one after another."
    )
    remarks.append(
        "The rest is mainly the pooling's gradient, which is written out, and the loss with its gradient. At batch 4 "
        "the parts are slower alone than within the step, which computes some of them at once."
    )
    if twin is not None:
        remarks += [f"{case}: {form}." for case, form in twin.forms.items()]
    return Report(tuple(rows), tuple(remarks))


def synthetic_data() -> Resident:
    """Draws images like those of MNIST: a fifth of the pixels dark, the rest blank.

    Blank parts give a filter equal responses, so units tie at the threshold as often as on MNIST.
    """
    generator = np.random.default_rng(0)
    images = np.zeros((EXAMPLES, 28, 28, 1), np.uint8)
    for image, (top, left) in zip(images, generator.integers(4, 10, (EXAMPLES, 2)), strict=True):
        image[top : top + 14, left : left + 10] = generator.integers(1, 256, (14, 10, 1), np.uint8)
    labels = generator.integers(0, 10, EXAMPLES, np.int32)
    return Resident(
        jnp.asarray(images), jnp.asarray(labels), jnp.asarray([0.1307], jnp.float32), jnp.asarray([0.3081], jnp.float32)
    )


def where_the_time_goes(batch: int, timings: dict[str, Timing], parts: dict[str, Timing]) -> str:
    """Returns the time of each part of the sparse step: layers measured alone, the rest by omission.

    Differences of medians are too noisy, so these are minima.
    """
    whole = timings["sparse"].least
    taken = {name: parts[name].least for name in ("convolution 1", "convolution 2", "hidden layer", "update")}
    taken["selection and boosting"] = whole - timings["without k-winners"].least
    taken["mask"] = timings["without k-winners"].least - timings["dense"].least
    taken["rest"] = whole - sum(taken.values())
    shares = ", ".join(f"{name} {time / whole:.0%} ({time:.2f})" for name, time in taken.items())
    forward = parts["forward only"].least
    return f"batch {batch}: of {whole:.2f} ms: {shares}; the forward pass alone {forward / whole:.0%} ({forward:.2f})."


def _rows(batch: int, timings: dict[str, Timing]) -> list[Row]:
    sparse, dense, (alone, several) = timings["sparse"], timings["dense"], TARGETS[batch]
    compared = (
        ("sparse", sparse, "our dense network", dense, 1 / 1.15),
        ("sparse", sparse, "PyTorch, sparse", timings.get("torch sparse"), alone),
        ("one of several sparse", timings["side by side"], "PyTorch, sparse", timings.get("torch sparse"), several),
        ("sparse", sparse, "naive port (lax.top_k)", timings["naive"], None),
        ("sparse", sparse, "without k-winners", timings["without k-winners"], None),
        ("dense", dense, "PyTorch, dense", timings.get("torch dense"), None),
    )
    return [
        row(GROUP, f"{case}, batch {batch}", ours, peer, peers, target) for case, ours, peer, peers, target in compared
    ]


def _of_ten(steps: dict[int, Timing | None]) -> Timing | None:
    """Returns the training time of `mnist_kwinners`, from the times of its steps."""
    small, large = steps[4], steps[64]
    if small is None or large is None:
        return None
    counts = MNIST // 4, 9 * -(-MNIST // 64)
    return Timing(*(counts[0] * a + counts[1] * b for a, b in zip(small[:2], large[:2], strict=True)))


def _steps(batch: int, data: Resident) -> dict[str, Run]:
    """Returns runs of the training step of each network."""
    runs = {
        name: _chunk(model, batch, data)
        for name, model in (("sparse", SPARSE), ("dense", DENSE), ("without k-winners", MASKED))
    }
    with mock.patch("sparsejax.functional.selection.winners", _naive_winners):
        runs["naive"] = _chunk(SPARSE, batch, data)
    return runs | {"side by side": _side_by_side(batch, data)}


def _naive_winners(rank: jax.Array, k: jax.Array, *, ties: str = "all") -> jax.Array:
    """Marks the winners by `lax.top_k`, which needs k while it is compiled."""
    return naive.winners_by_top_k(rank, WINNERS[rank.shape[-1]])


def _twins(twin: Twin | None, batch: int) -> dict[str, Run]:
    if twin is None:
        return {}
    return {
        f"torch {kind}": twin.run(
            f"PyTorch, {kind}, batch {batch}", steps=STEPS[batch], what="step", sparse=kind == "sparse", batch=batch
        )
        for kind in ("sparse", "dense")
    }


def _setting(model: SparseCNN, batch: int) -> tuple[Config, TrainState]:
    config = as_arrays(Config(model, training=TrainingConfig(learning_rate=0.02, batch_size=batch)))
    return config, init_state(config, jnp.zeros((1, 28, 28, 1)))


def _function(batch: int) -> Callable[..., Any]:
    return functools.partial(chunk, examples=EXAMPLES, batch_size=batch, length=STEPS[batch])


def _chunk(model: SparseCNN, batch: int, data: Resident) -> Run:
    config, state = _setting(model, batch)
    return compile_run(_function(batch), state, config, data, steps=STEPS[batch])


def _side_by_side(batch: int, data: Resident) -> Run:
    """Returns a run of the step of one of as many networks as there are devices, the cores."""
    config, state = _setting(SPARSE, batch)
    networks = jax.device_count()
    placement = place(config.devices, networks, {batch})
    each = jax.tree.map(lambda leaf: jnp.stack([leaf] * networks), (state, config))
    arguments = (*(put_members(tree, placement) for tree in each), put_shared(data, placement))
    return compile_run(transform(_function(batch), placement), *arguments, steps=STEPS[batch] * networks)


def _parts(batch: int, data: Resident) -> dict[str, Run]:
    """Returns runs of the parts of a step: layers with their gradients, the update, the forward pass."""
    _, state = _setting(SPARSE, batch)
    params = state.variables.params
    normal = np.random.default_rng(0).standard_normal

    def array(*shape: int) -> jax.Array:
        return jnp.asarray(normal(shape), jnp.float32)

    def convolution(x: jax.Array, weights: dict[str, jax.Array]) -> jax.Array:
        return max_pool2d(conv2d(x, weights["kernel"]) + weights["bias"].reshape(1, 1, 1, -1))

    def hidden(x: jax.Array, weights: dict[str, jax.Array]) -> jax.Array:
        return x @ weights["kernel"] + weights["bias"].reshape(1, -1)

    def forward(images: jax.Array) -> jax.Array:
        batch_ = Batch(normalize(data, images), data.labels[:batch], jnp.arange(batch))
        output = SPARSE.apply(state.variables, batch_.images, train=True)
        duty = [layer["boost"].duty_cycle.sum() for layer in output.state.values() if "boost" in layer]
        return jnp.mean(cross_entropy.score(output, batch_)["loss"]) + sum(duty)

    def update(kernel: jax.Array, gradient: jax.Array) -> jax.Array:
        return kernel - 0.02 * gradient

    steps = STEPS[batch]
    layers = {
        "convolution 1": (_with_gradient(convolution, False), array(batch, 28, 28, 1), params["conv1"]),
        "convolution 2": (_with_gradient(convolution, True), array(batch, 12, 12, 32), params["conv2"]),
        "hidden layer": (_with_gradient(hidden, True), array(batch, 1024), params["hidden"]),
        "update": (update, array(1024, 700), array(1024, 700)),
        "forward only": (forward, data.images[:batch]),
    }
    runs = {}
    for name, (function, x, *others) in layers.items():
        program, arguments = in_scan(function, x, *others, steps=steps)
        runs[name] = compile_run(program, *arguments, steps=steps)
    return runs


def _with_gradient(layer: Callable[..., jax.Array], of_input: bool) -> Callable[..., jax.Array]:
    """Returns a function that computes a layer and its gradients, and returns a number that depends on all of them."""

    def function(x: jax.Array, weights: dict[str, jax.Array]) -> jax.Array:
        y, pull_back = jax.vjp(layer, x, weights) if of_input else jax.vjp(lambda w: layer(x, w), weights)
        gradients = pull_back(y)
        return sum(jnp.sum(leaf) for leaf in jax.tree.leaves((y, gradients)))

    return function
