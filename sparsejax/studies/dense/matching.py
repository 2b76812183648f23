"""Matching random sparse vectors: figures 2 and 3 of "How Can We Be So Dense?"."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.studies.dense.match_figure import Curve, Panel, match_curves
from sparsejax.studies.dense.match_probability import (
    match_probability,
    scalar_threshold,
    simulate_given_overlap,
    simulate_matches,
    simulated_trials,
)
from sparsejax.studies.study import Outcome, Scale, study

_SEED = 42
TRIALS = {"small": 1_000_000, "paper": 100_000_000}
ACTIVE: dict[str, int | None] = {"a = 64": 64, "a = 128": 128, "a = 256": 256, "a = n/2": None}

BINARY_N = tuple(range(300, 3501, 200))
BINARY_K, BINARY_THRESHOLD = 24, 12
SCALAR_N = (250, 500, 1000, 1500, 2000, 2500)
SCALAR_K, SCALES, SCALED_N = 32, (1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0), 1000

# Observed frequencies that the authors plot (numbers in their figures' scripts; for binary vectors some 1e8 trials).
PAPER_BINARY = {
    "a = 64": (1.09318e-3, 5.74e-6, 1.1e-7),
    "a = 128": (0.292048, 7.37836e-3, 3.2014e-4, 2.585e-5, 2.95e-6, 5.9e-7, 1.3e-7, 1e-8, 1e-8),
    "a = 256": (0.997368, 0.629267, 0.121048, 1.93688e-2, 3.50879e-3, 7.4956e-4, 1.8659e-4, 5.332e-5, 1.65e-5, 5.58e-6,
                2.23e-6, 9.3e-7, 3.2e-7, 2.7e-7, 7e-8, 4e-8, 2e-8),
    "a = n/2": (5.18604e-3, 5.95903e-3, 6.30387e-3, 6.49884e-3, 6.62415e-3, 6.71146e-3, 6.77577e-3, 6.82511e-3,
                6.86417e-3, 6.89585e-3, 6.92207e-3, 6.94412e-3, 6.96292e-3, 6.97915e-3, 6.99329e-3, 7.00573e-3,
                7.01676e-3),
}  # fmt: skip
PAPER_SCALAR = {
    "a = 64": (3.65083e-3, 3.06167e-4, 1.89167e-5, 4.16667e-6, 1.5e-6, 9.16667e-7),
    "a = 128": (2.44633e-2, 3.64492e-3, 3.16083e-4, 6.93333e-5, 2.16667e-5, 8.66667e-6),
    "a = 256": (7.61642e-2, 2.42497e-2, 3.75608e-3, 9.78333e-4, 3.3325e-4, 1.4225e-4),
    "a = n/2": (2.31303e-2, 2.38609e-2, 2.28073e-2, 2.33225e-2, 2.3065e-2, 2.33988e-2),
}
PAPER_SCALED = {
    "a = 64": (1.94167e-5, 1.149e-3, 7.20725e-3, 1.92406e-2, 3.60794e-2, 5.70277e-2, 7.88511e-2),
    "a = 128": (3.125e-4, 7.07617e-3, 2.716e-2, 5.72416e-2, 8.95498e-2, 0.121294, 0.150583),
    "a = 256": (3.97708e-3, 3.31468e-2, 8.04756e-2, 0.128688, 0.17122, 0.207019, 0.234703),
}


@study("dense/fig2", "how often random binary vectors match, counted and drawn")
def _fig2(scale: Scale, folder: Path) -> Outcome:
    trials = simulated_trials(TRIALS[scale])
    names, n = list(ACTIVE), np.asarray(BINARY_N)
    active = np.stack([_active(name, n) for name in names])
    size = np.broadcast_to(n, active.shape)
    predicted = np.vectorize(
        lambda n, a: match_probability(int(n), k=BINARY_K, active=int(a), threshold=BINARY_THRESHOLD)
    )(size, active)
    setting = {"k": BINARY_K, "threshold": BINARY_THRESHOLD, "values": "binary"}
    observed = _simulate(size, active, np.ones(size.shape), trials, 0, **setting)
    ours = {"n": list(BINARY_N), "trials": trials, **_compare(names, predicted, observed, trials, 0.0)}
    dense = predicted[names.index("a = n/2")]
    ours["dense: greatest / least prediction"] = float(dense.max() / dense.min())
    ours["note"] = (
        "The authors' script plots 0.005 to 0.007 for a = n/2; Eq. 3 with the |x_i| = 24 and theta = 12 of the text, "
        "which give their other curves, gives 0.58. Both are flat."
    )
    curves = _curves(names, predicted, observed / trials, PAPER_BINARY)
    figure = match_curves([Panel("dimensionality n", BINARY_N, curves)], width="column")
    return Outcome(figure, ours, {f"{name}: observed": list(values) for name, values in PAPER_BINARY.items()}, [_SEED])


@study("dense/fig3", "how often random scalar vectors match, counted and drawn")
def _fig3(scale: Scale, folder: Path) -> Outcome:
    trials, theta = simulated_trials(TRIALS[scale]), scalar_threshold(SCALAR_K)
    many = simulated_trials(10 * TRIALS["small"])
    overlaps = jax.jit(jax.vmap(
        lambda s: simulate_given_overlap(_key(1), s, k=SCALAR_K, threshold=theta, trials=many)
    ))(jnp.asarray(SCALES))  # fmt: skip
    given = np.asarray(overlaps) / many
    setting = {"k": SCALAR_K, "threshold": theta, "values": "scalar"}
    names = list(ACTIVE)

    n = np.asarray(SCALAR_N)
    active = np.stack([_active(name, n) for name in names])
    size, scales = np.broadcast_to(n, active.shape), np.ones(active.shape)
    predicted, error = _given_overlap(size, active, given[:1], many)
    observed = _simulate(size, active, scales, trials, 2, **setting)
    left = _compare(names, predicted, observed, trials, error)
    panels = [Panel("dimensionality n", SCALAR_N, _curves(names, predicted, observed / trials, PAPER_SCALAR))]

    names = names[:-1]
    active = np.stack([np.full(len(SCALES), ACTIVE[name]) for name in names])
    size, scales = np.full(active.shape, SCALED_N), np.broadcast_to(SCALES, active.shape)
    predicted, error = _given_overlap(size, active, given, many)
    observed = _simulate(size, active, scales, trials, 3, **setting)
    right = _compare(names, predicted, observed, trials, error)
    panels.append(Panel("scale S", SCALES, _curves(names, predicted, observed / trials, PAPER_SCALED)))

    ours = {"n": list(SCALAR_N), "S": list(SCALES), "trials": trials, "p_b at S = 1": given[0].tolist()}
    ours |= {f"left, {name}": value for name, value in left.items()}
    ours |= {f"right, {name}": value for name, value in right.items()}
    paper = {f"left, {name}: observed": list(values) for name, values in PAPER_SCALAR.items()}
    paper |= {f"right, {name}: observed": list(values) for name, values in PAPER_SCALED.items()}
    return Outcome(match_curves(panels), ours, paper, [_SEED])


def _active(name: str, n: np.ndarray) -> np.ndarray:
    """Returns the non-zeros of a curve's vectors, for each n: at most all places."""
    active = ACTIVE[name]
    return n // 2 if active is None else np.minimum(active, n)


def _key(stream: int):
    return jax.random.fold_in(jax.random.key(_SEED), stream)


def _simulate(n: np.ndarray, active: np.ndarray, scales: np.ndarray, trials: int, stream: int, **setting: Any):
    """Counts matches at every point of `[curves, points]`, in one program."""
    count = jax.jit(jax.vmap(lambda *point: simulate_matches(*point, trials=trials, **setting)))
    keys = jax.random.split(_key(stream), n.size)
    arrays = (jnp.asarray(n.ravel()), jnp.asarray(active.ravel()), jnp.asarray(scales.ravel(), jnp.float32))
    return np.asarray(count(keys, *arrays)).reshape(n.shape)


def _given_overlap(n: np.ndarray, active: np.ndarray, given: np.ndarray, trials: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns Eq. 4 at every point of `[curves, points]`, and at most its standard error, from the simulated p_b.

    `given` holds the p_b of every point, or of all, `[points or 1, k + 1]`.
    """
    predicted, error = np.empty(n.shape), np.empty(n.shape)
    for at in np.ndindex(n.shape):
        p = given[at[1] % len(given)]
        setting = {"k": len(p) - 1, "active": int(active[at]), "threshold": 0}
        predicted[at] = match_probability(int(n[at]), **setting, given_overlap=p)
        # One draw serves every b, so the errors of the p_b are correlated and added directly.
        error[at] = match_probability(int(n[at]), **setting, given_overlap=np.sqrt(p * (1 - p) / trials))
    return predicted, error


def _compare(
    names: Sequence[str], predicted: np.ndarray, observed: np.ndarray, trials: int, error: np.ndarray | float
) -> dict[str, Any]:
    """Returns the curves, and the deviation of counts of matches from the prediction, in standard errors.

    Points with fewer than ten expected matches are pooled, because their counts are not close to normal.
    """
    expected = trials * predicted
    deviation = (observed - expected) / np.sqrt(expected * (1 - predicted) + (trials * error) ** 2)
    often = expected >= 10
    rare = float(expected[~often].sum())
    return {
        **{f"{name}: predicted": values.tolist() for name, values in zip(names, predicted, strict=True)},
        **{f"{name}: observed": (values / trials).tolist() for name, values in zip(names, observed, strict=True)},
        "points": int(often.size),
        "points with 10 expected matches": int(often.sum()),
        "largest deviation there, standard errors": float(np.abs(deviation[often]).max()),
        "root mean square deviation there": float(np.sqrt(np.mean(deviation[often] ** 2))),
        "rare points together, observed": int(observed[~often].sum()),
        "rare points together, expected": rare,
    }


def _curves(names: Sequence[str], predicted: np.ndarray, observed: np.ndarray, paper: dict[str, tuple[float, ...]]):
    curves = {}
    for name, line, dots in zip(names, predicted, observed, strict=True):
        published = np.full(len(line), np.nan)
        published[: len(paper[name])] = paper[name][: len(line)]
        curves[name] = Curve(line, dots, published, dashed=ACTIVE[name] is None)
    return curves
