"""The explain-away loop, forward and backward, compared with PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.peers import Twin
from benchmarks.rows import Report, Row, row
from benchmarks.timing import compile_run, round_robin
from sparsejax.functional import explain_away

GROUP = "explain_away"
BATCH, GAMMA = 128, 0.5
UNITS, TURNS = (1_000, 4_000), (1, 4, 16)


def measure(twin: Twin | None) -> Report:
    """Compares the layer and its gradients at two sizes, over the number of steps."""
    remarks: list[str] = []
    rows = [_turned(twin, units, turns, remarks) for units in UNITS for turns in TURNS]
    remarks.append("Gradients to the drive and to the lateral weights, through all turns; gamma is 0.5.")
    return Report(tuple(rows), tuple(remarks))


def _turned(twin: Twin | None, units: int, turns: int, remarks: list[str]) -> Row:
    case = f"{units:,} units, {turns} turn{'s' if turns > 1 else ''}, batch {BATCH}"
    rng = np.random.default_rng(0)
    drive, upstream = (jnp.asarray(rng.standard_normal((BATCH, units), np.float32)) for _ in range(2))
    lateral = jnp.asarray(rng.standard_normal((units, units), np.float32) / units)

    def both(drive: jax.Array, lateral: jax.Array, upstream: jax.Array):
        y, back = jax.vjp(lambda drive, lateral: explain_away(drive, lateral, steps=turns, gamma=GAMMA), drive, lateral)
        return y, back(upstream)

    calls = max(1, 16_000 // units // turns)
    runs = {"ours": compile_run(both, drive, lateral, upstream, steps=1, calls=calls)}
    if twin is not None:
        sizes = {"batch": BATCH, "units": units, "turns": turns, "gamma": GAMMA}
        runs["torch"] = twin.run(case, steps=calls, what="explain_away", **sizes)
        remarks.append(f"PyTorch, {case}: {twin.forms[case]}.")
    timings = round_robin(runs, repetitions=9)
    along = {"along turns": float(turns)} if units == UNITS[0] else {}
    return row(GROUP, case, timings["ours"], "PyTorch", timings.get("torch"), 1.0, details=along)
