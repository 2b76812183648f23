"""A k-winners layer, forward and backward, and its cost by units, winners and batch."""

import functools
import itertools
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

from benchmarks.kwinners_step import EXAMPLES, synthetic_data
from benchmarks.naive import threshold_by_top_k
from benchmarks.peers import Twin
from benchmarks.rows import Report, Row, row
from benchmarks.timing import Run, compile_run, in_scan, round_robin, training_run
from sparsejax.configuration import as_arrays
from sparsejax.functional import BoostState, boost, k_winners, k_winners_2d, to_dense, top_k
from sparsejax.functional.sparse_code import SparseCode
from sparsejax.models import NoisyNetwork, SparseMLP
from sparsejax.training.config import Config, ObjectiveConfig, TrainingConfig
from sparsejax.training.state import init_state
from sparsejax.training.step import chunk

GROUP = "kwinners"
SHAPES = (((128, 10_000), 1_000), ((64, 1_500), 100), ((64, 12, 12, 64), 921))
BOOST = 1.5
CALLS = 3
"""More than one, so that a run starts with awake cores, as in PyTorch: sleeping cores take three times as long."""
PYTORCH, SCATTER, SORTED = "PyTorch", "lax.top_k and scatter", "top_k(...)[0][..., -1]"
HIDDEN = (1_000, 3_000, 10_000)
UNITS = (1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000)
WINNERS = (10, 30, 100, 300, 1_000, 3_000)
BATCHES = (1, 4, 16, 64, 256, 1_024)
FIXED = {"batch": 16, "units": 10_000, "k": 100}


def measure(twin: Twin | None) -> Report:
    """Compares layers at the shapes of networks, then the selection alone along one size after another."""
    rows, remarks = [], []
    for shape, k in SHAPES:
        rows += _layer(twin, shape, k, remarks)
    rows += [_step(network, units) for network in ("classifier", "autoencoder") for units in HIDDEN]
    rows += [_alone("units", n, batch=4, units=n, k=n // 100) for n in UNITS]
    rows += [_alone("k", k, **FIXED | {"k": k}) for k in WINNERS]
    rows += [_alone("batch", batch, **FIXED | {"batch": batch}) for batch in BATCHES]
    remarks.append("Arrays beyond 4 million values (16 MB) cost more than their size: memory is what they wait for.")
    remarks.append(
        "A step with k-winners takes longer than ReLU's by the selection, some fifteen passes (of 16 bits from 80,000 "
        "values on); boosting, the mask and the count of the winners hardly weigh. A step of 1,000 units is so short "
        "that this comes to about the twentieth aimed at, a little more or less from run to run."
    )
    remarks.append(
        "One row takes as long as four: it waits for each pass to start. lax.top_k is faster there with few winners, "
        "whose number it must know beforehand; ours takes any."
    )
    return Report(tuple(rows), tuple(remarks))


def _layer(twin: Twin | None, shape: tuple[int, ...], k: int, remarks: list[str]) -> list[Row]:
    case = f"k-winners {list(shape)} k={k}, forward and backward"
    units, keys = shape[-1], jax.random.split(jax.random.key(0))
    state = BoostState(jnp.linspace(0, 0.2, units), jnp.float32(1000))
    x, upstream = (jax.random.normal(key, shape) for key in keys)
    ours = k_winners if len(shape) == 2 else k_winners_2d

    def naive(threshold: Callable[[jax.Array, int], jax.Array]) -> Callable[[jax.Array], jax.Array]:
        def layer(x: jax.Array) -> jax.Array:
            rank = boost(x, state, k / x[0].size, BOOST).reshape(len(x), -1)
            return jnp.where(lax.stop_gradient(rank >= threshold(rank, k)).reshape(x.shape), x, 0)

        return layer

    def scattered(x: jax.Array) -> jax.Array:
        flat = x.reshape(len(x), -1)
        rank = boost(x, state, k / x[0].size, BOOST).reshape(flat.shape)
        indices = lax.top_k(lax.stop_gradient(rank), k)[1]
        return to_dense(SparseCode(jnp.take_along_axis(flat, indices, 1), indices), flat.shape[1]).reshape(x.shape)

    layers = {
        "ours": lambda x: ours(x, state, k=k, boost_strength=BOOST),
        SCATTER: scattered,
        "lax.top_k": naive(threshold_by_top_k),
        SORTED: naive(lambda x, k: lax.top_k(x, k)[0][..., -1:]),
    }
    # Enough steps to hide the cost of a program's memory, which may be newly allocated in each call.
    steps = max(16, 2**21 // x.size)
    runs = {name: _both(layer, x, upstream, 2 if name == SORTED else steps) for name, layer in layers.items()}
    if twin is not None:
        channels_first = shape if len(shape) == 2 else (shape[0], shape[3], *shape[1:3])
        runs[PYTORCH] = twin.run(case, steps=steps, what="kwinners", shape=channels_first, k=k)
        remarks.append(f"PyTorch, {case}: {twin.forms[case]}.")
    timings = round_robin(runs, repetitions=7)
    targets = {PYTORCH: 1.5, SCATTER: 1.0, "lax.top_k": 1.0, SORTED: 20.0}
    return [row(GROUP, case, timings["ours"], peer, timings.get(peer), target) for peer, target in targets.items()]


def _both(layer: Callable[[jax.Array], jax.Array], x: jax.Array, upstream: jax.Array, steps: int) -> Run:
    def both(x: jax.Array, upstream: jax.Array) -> jax.Array:
        y, backward = jax.vjp(layer, x)
        return y + backward(upstream)[0]  # so that neither is optimised away

    program, arguments = in_scan(both, x, upstream, steps=steps)
    return compile_run(program, *arguments, steps=steps, calls=CALLS)


def _step(network: Literal["classifier", "autoencoder"], hidden: int) -> Row:
    """Compares a training step of a network with one hidden layer, winners against ReLU, batches of 128.

    The classifier's are k-winners, the autoencoder's Top-K.
    """

    def model(k: int | None) -> SparseMLP | NoisyNetwork:
        if network == "classifier":
            return SparseMLP(hidden=(hidden,), k=(k,), density=None, dropout=None)
        return NoisyNetwork(hidden=hidden, k=k, competition="none" if k is None else "top_k")

    objective = ObjectiveConfig("classification" if network == "classifier" else "reconstruction")
    ways = {"ours": hidden // 10, "ReLU": None}
    timings = round_robin(
        {way: _placed_anew(model(k), objective) for way, k in ways.items()}, repetitions=45, warm_up=6
    )
    outputs, winning = (10, "") if network == "classifier" else (784, "Top-K ")
    case = f"training step, 784-{hidden:,}-{outputs}, {winning}k={hidden // 10:,}, batch 128"
    return row(GROUP, case, timings["ours"], "ReLU instead", timings["ReLU"], 0.95)


def _placed_anew(model: SparseMLP | NoisyNetwork, objective: ObjectiveConfig, places: int = 3) -> Run:
    """Returns a run of several steps, with arrays at different addresses in each run.

    Addresses alone change the time of a step of 3,000 units by up to 7 %.
    """
    runs = []
    for _ in range(places):
        data, training = synthetic_data(), TrainingConfig(batch_size=128, learning_rate=0.02)
        config = as_arrays(Config(model, training=training, objective=objective))
        state = init_state(config, jnp.zeros((1, 28, 28, 1)))
        function = functools.partial(chunk, examples=EXAMPLES, batch_size=128, length=12)
        program = jax.jit(function, donate_argnums=0).lower(state, config, data).compile()
        runs.append(training_run(program, state, config, data, steps=12))
    turns = itertools.cycle(runs)

    def run() -> float:
        return next(turns)()

    vars(run).update(vars(runs[0]))  # XLA's cost analysis of its program
    return run


def _alone(along: str, size: int, *, batch: int, units: int, k: int) -> Row:
    """Times the selection of one shape, k traced for us."""
    x = jax.random.normal(jax.random.key(0), (batch, units))
    calls = {"ours": (top_k, x, jnp.int32(k)), "library": (lambda x: jnp.where(x >= threshold_by_top_k(x, k), x, 0), x)}
    if x.size <= 2**20:  # a scan would copy larger arrays
        steps = max(2, min(200, 2**21 // x.size))
        looped = {name: in_scan(*call, steps=steps) for name, call in calls.items()}
        runs = {name: compile_run(program, *call, steps=steps, calls=CALLS) for name, (program, call) in looped.items()}
    else:
        runs = {name: compile_run(*call, steps=1) for name, call in calls.items()}
    timings = round_robin(runs, repetitions=15)
    case = f"top_k [{batch},{units}] k={k}"
    return row(GROUP, case, timings["ours"], "lax.top_k", timings["library"], details={f"along {along}": float(size)})
