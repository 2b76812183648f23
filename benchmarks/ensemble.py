"""A grid of small penalised networks in one program, compared with PyTorch training each separately."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.peers import Twin
from benchmarks.rows import Report, Row, row
from benchmarks.timing import Run, Timing, round_robin, training_run
from sparsejax import configs
from sparsejax.configuration import replace, stack
from sparsejax.data.resident import Resident, epoch_order
from sparsejax.training.devices import Placement, place, put_members, put_shared, transform
from sparsejax.training.state import init_state
from sparsejax.training.step import chunk

GROUP = "ensemble"
NETWORKS = ((8, 60), (32, 60), (64, 60), (128, 60), (128, 320), (256, 60))
"""Hidden units, and networks trained together."""
MEMBERS = (1, 4, 15, 60, 240)
"""Numbers of networks of `FEW` hidden units, for the curve of the cost of one."""
FEW = 32
EXAMPLES, BATCH, STEPS = 50_000, 100, 50
PENALTIES = tuple(round(0.008 * i, 3) for i in range(15))
RESIDENT, LOADER = "PyTorch, resident data", "PyTorch, DataLoader"
TARGETS = {8: 5.0, 32: 5.0}


def measure(twin: Twin | None) -> Report:
    """Compares an epoch (500 steps) of one network of a grid, at every size."""
    data, rows, remarks = _data(), [], []
    for hidden, networks in NETWORKS:
        run, placement = _grid(hidden, networks, data)
        runs: dict[str, Run] = {"ours": run}
        case = f"{networks} networks of {hidden} units"
        if twin is not None:
            for peer, steps in ((RESIDENT, STEPS), (LOADER, STEPS // 2)):
                name = f"{peer}, {hidden} units"
                step = twin.run(name, steps=steps, what="penalised", hidden=hidden, batch=BATCH, loader=peer == LOADER)
                runs[peer] = lambda step=step: step() * EXAMPLES / BATCH
                remarks.append(f"{name}: {twin.forms[name]}.")
        timings = round_robin(runs, repetitions=7)
        rows += [_row(case, timings, RESIDENT, TARGETS.get(hidden, 1.0)), _row(case, timings, LOADER, 10.0)]
        remarks.append(f"{case}: {1e3 / timings['ours'].median:.2f} network-epochs a second, "
                       f"{placement.members_at_once or 'all'} networks at once on each of {placement.member_devices} "
                       "devices, which are the cores.")  # fmt: skip
    rows += _along_members(twin, data)
    remarks.append(
        "ours_ms and peer_ms are milliseconds of one network's epoch: 500 batches of 100 images of 784 pixels, Adam, "
        f"an L1 penalty; ours are of {len(PENALTIES)} penalties, trained together."
    )
    return Report(tuple(rows), tuple(remarks))


def _along_members(twin: Twin | None, data: Resident) -> list[Row]:
    """Compares the cost of an epoch of one network in grids of increasing size."""
    runs = {members: _grid(FEW, members, data)[0] for members in MEMBERS}
    if twin is not None:
        step = twin.run(f"{RESIDENT}, {FEW} units, one after another", steps=STEPS, what="penalised", hidden=FEW,
                        batch=BATCH, loader=False)  # fmt: skip
        runs[RESIDENT] = lambda: step() * EXAMPLES / BATCH
    timings = round_robin(runs, repetitions=7)
    return [row(GROUP, f"{members} network{'s' if members > 1 else ''} of {FEW} units, each", timings[members],
                RESIDENT, timings.get(RESIDENT), details={"along members": float(members)})
            for members in MEMBERS]  # fmt: skip


def _row(case: str, timings: dict[str, Timing], peer: str, target: float) -> Row:
    return row(GROUP, f"{case}, {peer.split(', ')[1]}", timings["ours"], peer, timings.get(peer), target)


def _data() -> Resident:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (EXAMPLES, 28, 28, 1), np.uint8)
    images[generator.random(images.shape) < 0.8] = 0  # as many dark pixels as MNIST
    labels = generator.integers(0, 10, EXAMPLES, np.int32)
    return Resident(jnp.asarray(images), jnp.asarray(labels), jnp.zeros((1, 1, 1, 1)), jnp.ones((1, 1, 1, 1)))


def _grid(hidden: int, count: int, data: Resident) -> tuple[Run, Placement]:
    """Returns a run of the grid's chunk in milliseconds per network and epoch, and its placement."""
    base = replace(configs.get("mnist_l1_mlp"), {"model.hidden": (hidden,)})
    networks = [
        replace(base, {"objective.l1": PENALTIES[i % len(PENALTIES)], "training.seed": i // len(PENALTIES)})
        for i in range(count)
    ]
    stacked = stack(networks)
    state = jax.vmap(lambda config: init_state(config, jnp.zeros((1, 28, 28, 1))))(stacked)
    parameters = sum(leaf[0].size for leaf in jax.tree.leaves(state.variables.params))
    placement = place(base.devices, len(networks), {BATCH}, sharing=parameters)
    function = functools.partial(chunk, examples=EXAMPLES, batch_size=BATCH, length=STEPS)
    batches = epoch_order(jax.random.key(0), jnp.int32(0), EXAMPLES, BATCH)[:STEPS]
    data = put_shared(data._replace(batches=batches), placement)
    state, stacked = put_members(state, placement), put_members(stacked, placement)
    program = transform(function, placement, donate=True).lower(state, stacked, data).compile()
    # Milliseconds of one network's epoch.
    return training_run(program, state, stacked, data, steps=STEPS * count * BATCH / EXAMPLES), placement
