"""Inference of a frozen network, compared with the unfrozen one, a dense network and PyTorch."""

import dataclasses
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.peers import Twin
from benchmarks.rows import Report, Row, row
from benchmarks.timing import Run, compile_run, round_robin
from sparsejax.functional import sparse_code as compact
from sparsejax.models import SparseCNN, SparseMLP, SparseNetwork, freeze, predict
from sparsejax.models import inference as frozen

GROUP = "inference"
BATCHES = (1, 4, 16, 64)
CALLS = 20
_PAPER: dict[str, Any] = {"k_inference_factor": 1.5}
NETWORKS: dict[str, SparseNetwork] = {
    "Sparse CNN-2": SparseCNN(**_PAPER),
    "MLP of 2 x 1,500 units, 75 win": SparseMLP(hidden=(1500, 1500), k=(50, 50), **_PAPER),
    "MLP of 2 x 4,096 units, 204 win": SparseMLP(hidden=(4096, 4096), k=(136, 136), **_PAPER),
}
"""At inference 1.5 times as many units win as in training."""
CROSSOVER, DENSITIES = 1500, (1 / 32, 0.05, 0.1, 0.2, 0.4)


def measure(twin: Twin | None) -> Report:
    """Compares whole networks at small batches, and rows with products at several densities."""
    remarks: list[str] = []
    rows = [made for name, model in NETWORKS.items() for batch in BATCHES
            for made in _answered(twin, name, model, batch, remarks)]  # fmt: skip
    rows += [_crossing(batch, density) for batch in BATCHES for density in DENSITIES]
    remarks.append(
        "Ours is frozen: masks are multiplied in ahead. `apply` is the forward pass that training and evaluation use. "
        "The dense network is ReLU's, of the same shape, frozen too. PyTorch has its masks multiplied in."
    )
    remarks.append(
        "No layer of Sparse CNN-2 is sparse enough to leave rows out (450 of 1,024 units win before the hidden); it "
        "costs what a dense network does and the choice of the winners besides. PyTorch's convolutions are faster for "
        "larger batches, ours for single images; its bag of rows takes both cores, ours one."
    )
    return Report(tuple(rows), tuple(remarks))


def _answered(twin: Twin | None, name: str, model: SparseNetwork, batch: int, remarks: list[str]) -> list[Row]:
    case, x = f"{name}, batch {batch}", jnp.asarray(np.random.default_rng(0).random((batch, 28, 28, 1), np.float32))
    variables = model.init(jax.random.key(0), x)
    ours = freeze(model, variables, x.shape[1:])
    relu = _relu(model)
    dense = freeze(relu, relu.init(jax.random.key(0), x), x.shape[1:])
    runs = {
        "ours": _timed(predict, ours, x),
        "apply": _timed(lambda variables, x: model.apply(variables, x).prediction, variables, x),
        "dense": _timed(predict, dense, x),
    }
    if twin is not None:
        hidden = list(model.hidden) if isinstance(model, SparseMLP) else None
        for kind, k in (("sparse", ours.k), ("dense", None)):
            peer = f"{case}, PyTorch, {kind}"
            runs[kind + "'s twin"] = twin.run(peer, steps=CALLS, what="inference", hidden=hidden, batch=batch, k=k)
            remarks.append(f"{peer}: {twin.forms[peer]}.")
    timings = round_robin(runs, repetitions=9)
    peers = (("`apply`", "apply", 1.0), ("our dense network", "dense", 1.0), ("PyTorch, sparse", "sparse's twin", 1.0),
             ("PyTorch, dense", "dense's twin", None))  # fmt: skip
    return [row(GROUP, case, timings["ours"], peer, timings.get(key), target) for peer, key, target in peers]


def _relu(model: SparseNetwork) -> SparseNetwork:
    if isinstance(model, SparseMLP):
        return dataclasses.replace(model, k=(None,) * len(model.hidden), density=None)
    assert isinstance(model, SparseCNN)
    return dataclasses.replace(model, conv_k=(None,) * len(model.channels), hidden_k=None, density=None)


def _crossing(batch: int, density: float) -> Row:
    """Compares both ways of a network's second layer, the selection of the winners and the product after it."""
    winners = round(CROSSOVER * density)
    model = SparseMLP(hidden=(CROSSOVER,) * 2, k=(winners, None))
    x = jnp.asarray(np.random.default_rng(0).random((batch, 784), np.float32))
    network, runs = freeze(model, model.init(jax.random.key(0), x), (784,)), {}
    for way in (True, False):
        pays = mock.Mock(return_value=way)
        with (
            mock.patch.object(frozen, "gathering_is_faster", pays),
            mock.patch.object(compact, "gathering_is_faster", pays),
        ):
            runs[way] = _timed(lambda network, x: predict(network, x), network, x)
    timings = round_robin(runs, repetitions=9)
    case = f"rows of {winners} in {CROSSOVER:,} to {CROSSOVER:,}, batch {batch}"
    return row(GROUP, case, timings[True], "dense product", timings[False])


def _timed(function, network, x: jax.Array) -> Run:
    return compile_run(function, network, x, steps=1, calls=CALLS)
