"""Group "ensemble": a grid of small penalised networks in one program, beside PyTorch training each by itself."""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.peers import Twin
from benchmarks.rows import Report, Row, row
from benchmarks.timing import Run, Timing, round_robin, trained
from sparsejax import configs
from sparsejax.data.resident import Resident, epoch_order
from sparsejax.hyper import stack_hyper
from sparsejax.training.config import replaced
from sparsejax.training.devices import carry, place
from sparsejax.training.objectives import objective_of
from sparsejax.training.state import init_state
from sparsejax.training.step import make_chunk

GROUP = "ensemble"
SIZES = (8, 32, 64, 128, 256)
EXAMPLES, BATCH, STEPS = 50_000, 100, 50
SEEDS, PENALTIES = 4, tuple(round(0.008 * i, 3) for i in range(15))
RESIDENT, LOADER = "PyTorch, resident data", "PyTorch, DataLoader"
TARGETS = {8: 5.0, 32: 5.0}


def measure(twin: Twin | None) -> Report:
    """Compares an epoch of one network (500 steps), a grid of 60 being trained, at every size."""
    data, rows, remarks = _data(), [], []
    for hidden in SIZES:
        run, at_once = _grid(hidden, data)
        runs: dict[str, Run] = {"ours": run}
        if twin is not None:
            for peer, steps in ((RESIDENT, STEPS), (LOADER, STEPS // 2)):
                case = f"{peer}, {hidden} units"
                step = twin.run(case, steps=steps, what="penalised", hidden=hidden, batch=BATCH, loader=peer == LOADER)
                runs[peer] = lambda step=step: step() * EXAMPLES / BATCH
                remarks.append(f"{case}: {twin.forms[case]}.")
        timings = round_robin(runs, repetitions=7)
        rows += [_row(hidden, timings, RESIDENT, TARGETS.get(hidden, 1.0)), _row(hidden, timings, LOADER, 10.0)]
        remarks.append(f"{hidden} units: {1e3 / timings['ours'].median:.2f} network-epochs a second, "
                       f"{at_once or 'all'} networks at once.")  # fmt: skip
    remarks.append(
        "ours_ms and peer_ms are milliseconds of one network's epoch: 500 batches of 100 images of 784 pixels, Adam, "
        f"an L1 penalty; ours are {len(PENALTIES)} penalties x {SEEDS} seeds trained together."
    )
    return Report(tuple(rows), tuple(remarks))


def _row(hidden: int, timings: dict[str, Timing], peer: str, target: float) -> Row:
    return row(GROUP, f"{hidden} units, {peer.split(', ')[1]}", timings["ours"], peer, timings.get(peer), target)


def _data() -> Resident:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (EXAMPLES, 28, 28, 1), np.uint8)
    images[generator.random(images.shape) < 0.8] = 0  # as much ink as MNIST has
    labels = generator.integers(0, 10, EXAMPLES, np.int32)
    return Resident(jnp.asarray(images), jnp.asarray(labels), jnp.zeros((1, 1, 1, 1)), jnp.ones((1, 1, 1, 1)))


def _grid(hidden: int, data: Resident) -> tuple[Run, int | None]:
    """Returns a run of the grid's chunk that gives the milliseconds of a network's epoch, and the networks at once."""
    base = replaced(configs.get("mnist_l1_mlp"), {"model.hidden": (hidden,)})
    networks = [replaced(base, {"objective.l1": penalty}) for penalty in PENALTIES for _ in range(SEEDS)]
    hyper = stack_hyper(networks)
    model, training = base.model, base.training
    seeds = jnp.arange(len(networks)) % SEEDS
    state = jax.vmap(lambda h, seed: init_state(model, training, h, seed, jnp.zeros((1, 28, 28, 1))))(hyper, seeds)
    parameters = sum(leaf[0].size for leaf in jax.tree.leaves(state.variables.params))
    placement = place(base.devices, len(networks), {BATCH}, sharing=parameters)
    chunk = make_chunk(model, objective_of(base.objective), training, examples=EXAMPLES, batch_size=BATCH, length=STEPS)
    batches = epoch_order(jax.random.key(0), jnp.int32(0), EXAMPLES, BATCH)[:STEPS]
    data = data._replace(batches=batches)
    program = carry(chunk, placement, donate=True).lower(state, hyper, data).compile()
    # Milliseconds of one network's epoch.
    return trained(
        program, state, hyper, data, steps=STEPS * len(networks) * BATCH / EXAMPLES
    ), placement.members_at_once
