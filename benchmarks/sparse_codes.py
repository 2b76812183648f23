"""Group "sparse_codes": codes of 2,000 whitened patches, at equal error, beside scikit-learn and PyTorch."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.decomposition import sparse_encode
from sklearn.linear_model import Lasso

from benchmarks.peers import Twin
from benchmarks.rows import Report, Row, row
from benchmarks.timing import Run, Timing, round_robin
from sparsejax.coding import (
    admm,
    dictionary_step,
    duality_gap,
    fista,
    init_dictionary,
    kkt_violation,
    orthogonal_matching_pursuit,
)
from sparsejax.data.natural_images import patches, photographs, whiten

GROUP = "sparse_codes"
PATCHES, ATOMS, L1, K = 2_000, (256, 512), 1.1, 26
GAP, KKT = 1e-3, 1e-3


def measure(twin: Twin | None) -> Report:
    """Compares solvers of the lasso at equal accuracy of the worst patch, and OMP at equal sparsity."""
    images = [whiten(image) for image in photographs().values()]
    x = patches(images, PATCHES, seed=1, remove_mean=True)
    training = patches(images, 20_000, seed=2, remove_mean=True)
    rows, remarks = [], [f"Patches of 16 x 16 pixels, l1 = {L1}, dictionaries learnt from 20,000 others."]
    for atoms in ATOMS:
        dictionary = _dictionary(training, atoms)
        for target in ("gap", "KKT"):
            some, said = _lasso(twin, x, dictionary, target)
            rows, remarks = rows + some, remarks + said
        some, said = _pursuit(x, dictionary)
        rows, remarks = rows + some, remarks + said
    return Report(tuple(rows), tuple(remarks))


def _dictionary(x: np.ndarray, atoms: int) -> np.ndarray:
    state = init_dictionary(jax.random.key(0), jnp.asarray(x), atoms=atoms)
    step = jax.jit(lambda state, x: dictionary_step(state, x, l1=L1, tolerance=1e-2)[0])
    for first in range(0, len(x), 500):
        state = step(state, jnp.asarray(x[first : first + 500]))
    lengths = jnp.linalg.norm(state.dictionary, axis=0)
    return np.asarray(state.dictionary / lengths[None, :])


def _lasso(twin: Twin | None, x: np.ndarray, dictionary: np.ndarray, target: str) -> tuple[list[Row], list[str]]:
    """Each solver with the loosest tolerance (of 1 and 0.3 times powers of ten) whose worst patch is good enough."""
    atoms = dictionary.shape[1]
    name = f"{atoms} atoms, relative gap {GAP:g}" if target == "gap" else f"{atoms} atoms, KKT violation {KKT:g}"
    device_x, device_d = jnp.asarray(x), jnp.asarray(dictionary)

    def worst(code: np.ndarray) -> tuple[float, float]:
        gap = duality_gap(device_x, device_d, jnp.asarray(code, jnp.float32), l1=L1, relative=True)
        kkt = kkt_violation(device_x, device_d, jnp.asarray(code, jnp.float32), l1=L1)
        return float(gap.max()), float(kkt.max())

    good = (lambda gap, kkt: gap <= 1.01 * GAP) if target == "gap" else (lambda gap, kkt: kkt <= KKT)
    ours = {"admm": admm, "fista": fista}
    calls: dict[str, Callable[[float], Callable[[], np.ndarray]]] = {
        name: lambda tolerance, solve=solve: (
            lambda: jax.block_until_ready(solve(device_x, device_d, l1=L1, tolerance=tolerance).code)
        )
        for name, solve in ours.items()
    }
    calls["scikit-learn lasso_cd float64"] = lambda tolerance: _sklearn_lasso(x, dictionary, tolerance)
    runs, remarks = {}, []
    for solver, make in calls.items():
        for tolerance in _tolerances():
            call = make(tolerance)
            gap, kkt = worst(call())
            if good(gap, kkt):
                break
        remarks.append(
            f"{name}, {solver}: tolerance {tolerance:g}, worst gap {gap:.1e}, worst KKT violation {kkt:.1e}."
        )
        runs[solver] = _timed(call)
    if twin is not None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "problem.npz"
            np.savez(path, x=x, dictionary=dictionary)
            for tolerance in _tolerances():
                case = f"PyTorch FISTA {name} {tolerance:g}"
                run = twin.run(case, steps=1, what="fista", path=str(path), l1=L1, tolerance=tolerance)
                gap, kkt = twin.forms[case]
                if good(gap, kkt):
                    break
            runs["PyTorch FISTA"] = run
            remarks.append(f"{name}, PyTorch FISTA: worst gap {gap:.1e}, worst KKT violation {kkt:.1e}.")
    timings = round_robin(runs, repetitions=3)
    remarks.append(_rates(name, timings))
    peers = ("scikit-learn lasso_cd float64", "PyTorch FISTA")
    return [
        row(GROUP, f"{solver}, {name}", timings[solver], peer, timings.get(peer), target=1.0)
        for solver in ours
        for peer in peers
    ], remarks


def _pursuit(x: np.ndarray, dictionary: np.ndarray) -> tuple[list[Row], list[str]]:
    name = f"{dictionary.shape[1]} atoms, {K} of them"
    device_x, device_d = jnp.asarray(x), jnp.asarray(dictionary)
    wide_x, rows = x.astype(np.float64), np.ascontiguousarray(dictionary.T, np.float64)

    def ours() -> np.ndarray:
        return jax.block_until_ready(orthogonal_matching_pursuit(device_x, device_d, k=K).code)

    def theirs() -> np.ndarray:
        return sparse_encode(wide_x, rows, algorithm="omp", n_nonzero_coefs=K)

    error = [
        float(np.linalg.norm(x - np.asarray(call()) @ dictionary.T) / np.linalg.norm(x)) for call in (ours, theirs)
    ]
    timings = round_robin({"omp": _timed(ours), "scikit-learn omp float64": _timed(theirs)}, repetitions=3)
    remarks = [f"{name}: relative error {error[0]:.5f} (ours), {error[1]:.5f} (scikit-learn).", _rates(name, timings)]
    peer = "scikit-learn omp float64"
    return [row(GROUP, f"omp, {name}", timings["omp"], peer, timings[peer], target=1.0)], remarks


def _tolerances() -> list[float]:
    return [factor * 10.0**-power for power in range(3, 8) for factor in (1, 0.3)]


def _sklearn_lasso(x: np.ndarray, dictionary: np.ndarray, tolerance: float) -> Callable[[], np.ndarray]:
    """What sparse_encode(algorithm="lasso_cd") does, which has no setting for the tolerance."""
    design, targets = np.asfortranarray(dictionary, np.float64), np.asfortranarray(x.T, np.float64)
    gram = design.T @ design

    def call() -> np.ndarray:
        model = Lasso(L1 / len(design), fit_intercept=False, precompute=gram, tol=tolerance, max_iter=10_000)
        return model.fit(design, targets, check_input=False).coef_

    return call


def _timed(call: Callable[[], np.ndarray]) -> Run:
    def run() -> float:
        started = time.perf_counter()
        call()
        return (time.perf_counter() - started) * 1e3

    return run


def _rates(name: str, timings: dict[str, Timing]) -> str:
    rates = (f"{solver} {1e3 * PATCHES / timing.median:,.0f}" for solver, timing in timings.items())
    return f"{name}: patches per second: {'; '.join(rates)}."
