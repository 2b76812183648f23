"""Codes of 2,000 whitened patches, at equal error, compared with scikit-learn, SPAMS and PyTorch."""

import functools
import importlib
import itertools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.decomposition import sparse_encode
from sklearn.linear_model import Lasso

from benchmarks.peers import Twin
from benchmarks.rows import Report, Row, row
from benchmarks.timing import Run, round_robin
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

GROUP = "codes"
PATCHES, TRAINING, ATOMS, L1, K = 2_000, 20_000, (256, 512), 1.1, 26
GAP, KKT = 1e-3, 1e-3
REPETITIONS = 5

Solve = Callable[[], np.ndarray]  # codes all patches, [patches, atoms]


class Peer(NamedTuple):
    """A timed solver, and the quality of its codes: errors of the worst patch, by name."""

    run: Run
    quality: dict[str, float]


def measure(twin: Twin | None) -> Report:
    """Compares solvers of the lasso at equal accuracy of the worst patch, and OMP at equal sparsity."""
    images = [whiten(image) for image in photographs().values()]
    x = patches(images, PATCHES, seed=1, remove_mean=True)
    training = patches(images, TRAINING, seed=2, remove_mean=True)
    spams = _spams()
    rows, remarks = [], [f"Patches of 16 x 16 pixels, l1 = {L1}, dictionaries learnt from {TRAINING:,} others."]
    if spams is None:
        remarks.append("SPAMS was not measured because it is not installed: `pip install spams-bin`.")
    else:
        remarks.append(
            "SPAMS solves the lasso by LARS, in as many steps as a code has entries, where ours repeat products of "
            "hundreds of patches, each until it is done. Ours are the same programs on an accelerator."
        )
    for atoms in ATOMS:
        dictionary = _dictionary(training, atoms)
        for violation in (None, KKT):
            rows += _lasso(twin, spams, x, dictionary, violation)
        rows += _pursuit(spams, x, dictionary)
    return Report(tuple(rows), tuple(remarks))


def _dictionary(x: np.ndarray, atoms: int) -> np.ndarray:
    state = init_dictionary(jax.random.key(0), jnp.asarray(x), atoms=atoms)
    step = jax.jit(lambda state, x: dictionary_step(state, x, l1=L1, tolerance=1e-2)[0])
    for first in range(0, len(x), 500):
        state = step(state, jnp.asarray(x[first : first + 500]))
    lengths = jnp.linalg.norm(state.dictionary, axis=0)
    return np.asarray(state.dictionary / lengths[None, :])


def _lasso(
    twin: Twin | None, spams: ModuleType | None, x: np.ndarray, dictionary: np.ndarray, violation: float | None
) -> list[Row]:
    """Compares codes whose worst patch has a relative gap of GAP and, if given, a KKT violation of `violation`.

    Ours and PyTorch's stop at exactly that; scikit-learn's tolerance is the loosest (of 1 and 0.3 times powers of ten)
    with equally good codes; for SPAMS it is the fastest homotopy with equally good codes, because rounding affects some
    patches.
    """
    atoms = dictionary.shape[1]
    name = f"{atoms} atoms, " + (f"relative gap {GAP:g}" if violation is None else f"KKT violation {violation:g}")
    device_x, device_d = jnp.asarray(x), jnp.asarray(dictionary)

    def quality(code: np.ndarray) -> dict[str, float]:
        with jax.enable_x64(True):
            arrays = [jnp.asarray(array, jnp.float64) for array in (x, dictionary, code)]
            gap, kkt = duality_gap(*arrays, l1=L1, relative=True), kkt_violation(*arrays, l1=L1)
            return {"gap": float(gap.max()), "kkt": float(kkt.max())}

    def good(quality: dict[str, float]) -> bool:
        return quality["gap"] <= 1.01 * GAP and (violation is None or quality["kkt"] <= violation)

    # Ours measures the Gram matrix' correlations; a tenth is a margin for rounding.
    settings = {"l1": L1, "tolerance": GAP, "violation": violation and 0.9 * violation / L1}
    ours = {
        "admm": lambda: jax.block_until_ready(admm(device_x, device_d, **settings).code),
        "fista": lambda: jax.block_until_ready(fista(device_x, device_d, **settings).code),
    }
    solvers = {solver: Peer(_timed(call), quality(call())) for solver, call in ours.items()}
    for tolerance in (factor * 10.0**-power for power in range(3, 8) for factor in (1, 0.3)):
        call = _sklearn_lasso(x, dictionary, tolerance)
        solvers["scikit-learn lasso_cd float64"] = Peer(_timed(call), quality(call()))
        if good(solvers["scikit-learn lasso_cd float64"].quality):
            break
    if spams is not None:
        homotopies = _spams_lasso(spams, x, dictionary)
        qualities = {name: quality(call()) for name, call in homotopies.items()}
        as_good = [name for name in homotopies if good(qualities[name])]
        times = {name: min(_timed(homotopies[name])() for _ in range(REPETITIONS)) for name in as_good}
        fastest = min(times, key=lambda name: times[name])
        solvers[fastest] = Peer(_timed(homotopies[fastest]), qualities[fastest])
    if twin is not None:
        with tempfile.TemporaryDirectory() as folder:
            path, case = Path(folder) / "problem.npz", f"PyTorch FISTA {name}"
            np.savez(path, x=x, dictionary=dictionary)
            run = twin.run(case, steps=1, what="fista", path=str(path), l1=L1, tolerance=GAP, violation=violation)
        solvers["PyTorch FISTA"] = Peer(run, dict(zip(("gap", "kkt"), twin.forms[case], strict=True)))
    spams_name = next((solver for solver in solvers if solver.startswith("SPAMS")), "SPAMS lasso")
    peers = ("scikit-learn lasso_cd float64", spams_name, "PyTorch FISTA")
    return _rows(name, tuple(ours), peers, solvers)


def _pursuit(spams: ModuleType | None, x: np.ndarray, dictionary: np.ndarray) -> list[Row]:
    device_x, device_d = jnp.asarray(x), jnp.asarray(dictionary)
    wide_x, rows = x.astype(np.float64), np.ascontiguousarray(dictionary.T, np.float64)
    calls: dict[str, Solve] = {
        "omp": lambda: jax.block_until_ready(orthogonal_matching_pursuit(device_x, device_d, k=K).code),
        "scikit-learn omp float64": lambda: sparse_encode(wide_x, rows, algorithm="omp", n_nonzero_coefs=K),
    }
    if spams is not None:
        tall_x, tall_d = np.asfortranarray(x.T, np.float64), np.asfortranarray(dictionary, np.float64)
        calls["SPAMS omp float64"] = lambda: spams.omp(tall_x, tall_d, L=K, numThreads=-1).toarray().T
    solvers = {
        solver: Peer(
            _timed(call),
            {"relative_error": float(np.linalg.norm(x - np.asarray(call()) @ dictionary.T) / np.linalg.norm(x))},
        )
        for solver, call in calls.items()
    }
    name = f"{dictionary.shape[1]} atoms, {K} of them"
    return _rows(name, ("omp",), ("scikit-learn omp float64", "SPAMS omp float64"), solvers)


def _rows(name: str, ours: tuple[str, ...], peers: tuple[str, ...], solvers: dict[str, Peer]) -> list[Row]:
    """Times all solvers in turn; returns a row for each of ours and each peer, empty if the peer is not available."""
    timings = round_robin({solver: peer.run for solver, peer in solvers.items()}, repetitions=REPETITIONS)

    def details(whose: str, solver: str) -> dict[str, float]:
        if solver not in solvers:
            return {}
        rate = {"patches_per_second": round(1e3 * PATCHES / timings[solver].median)}
        return {f"{whose}_{key}": value for key, value in (solvers[solver].quality | rate).items()}

    return [
        row(
            GROUP,
            f"{solver}, {name}",
            timings[solver],
            peer if peer in solvers else f"{peer} (not installed)",
            timings.get(peer),
            target=1.0,
            details=details("ours", solver) | details("peer", peer),
        )
        for solver in ours
        for peer in peers
    ]


def _sklearn_lasso(x: np.ndarray, dictionary: np.ndarray, tolerance: float) -> Solve:
    """Equivalent to sparse_encode(algorithm="lasso_cd"), which has no setting for the tolerance."""
    design, targets = np.asfortranarray(dictionary, np.float64), np.asfortranarray(x.T, np.float64)
    gram = design.T @ design

    def call() -> np.ndarray:
        model = Lasso(L1 / len(design), fit_intercept=False, precompute=gram, tol=tolerance, max_iter=10_000)
        return model.fit(design, targets, check_input=False).coef_

    return call


def _spams() -> ModuleType | None:
    try:
        return importlib.import_module("spams")
    except ImportError:
        return None


def _spams_lasso(spams: ModuleType, x: np.ndarray, dictionary: np.ndarray) -> dict[str, Solve]:
    """Returns its homotopy, which keeps the inverse of the Gram matrix or its Cholesky factor, in both precisions."""
    solvers: dict[str, Solve] = {}
    for precision, cholesky in itertools.product((np.float32, np.float64), (False, True)):
        tall_x, tall_d = np.asfortranarray(x.T, precision), np.asfortranarray(dictionary, precision)
        # Mode 2 is the objective of `lasso_objective`; all cores.
        settings = {"lambda1": L1, "mode": 2, "cholesky": cholesky, "numThreads": -1}
        name = f"SPAMS lasso {precision.__name__}{' Cholesky' if cholesky else ''}"
        solvers[name] = functools.partial(_dense, spams.lasso, tall_x, D=tall_d, **settings)
    return solvers


def _dense(solve: Callable[..., Any], *arguments: Any, **settings: Any) -> np.ndarray:
    return solve(*arguments, **settings).toarray().T


def _timed(call: Solve) -> Run:
    """Returns a run that times a call; an untimed call first waits for spinning threads of the previous solver."""

    def run() -> float:
        call()
        started = time.perf_counter()
        call()
        return (time.perf_counter() - started) * 1e3

    return run
