"""How near the lasso solvers come to the minimum, or say that they do not: `python -m benchmarks.convergence`.

Writes the table of docs/howto/convergence.md: six penalties, four dictionaries, four solvers in float32 at their
defaults, against the objective that scikit-learn's coordinate descent and `admm` find in float64.
"""

import sys
import warnings
from pathlib import Path

import jax
import numpy as np
from sklearn.linear_model import Lasso

from sparsejax.coding import admm, dictionary_step, fista, init_dictionary, ista, lca
from sparsejax.data.natural_images import patches, photographs, whiten

PAGE = Path(__file__).parents[1] / "docs/howto/convergence.md"
PENALTIES = (1e-4, 1e-3, 1e-2, 0.03, 0.1, 1.0)
SOLVERS = {"ista": ista, "fista": fista, "admm": admm, "lca": lca}
EXAMPLES, ATOMS, SIZE = 100, 128, 8
NEAR = 1e-4
INTRODUCTION = f"""# Which codes have converged

Every solver returns, for each example, its duality gap and whether it `converged`: whether it reached the tolerances
that were asked for. Trust `converged`; a code without it may still be near the minimum, because the gap is only an
upper bound of the distance.

The table has {EXAMPLES} whitened patches of {SIZE} x {SIZE} pixels of photographs and dictionaries of {ATOMS} atoms:
learnt from other patches; Gaussian; very coherent, where pairs of atoms have cosines near 0.99; and the learnt one with
atoms of unequal lengths. All solvers run in float32 at their defaults. Each cell has the largest relative distance of
the objective from the minimum among the codes that converged, and how many of the {EXAMPLES} did not. The minimum is
the smaller of the objectives that scikit-learn's `Lasso` (10,000 sweeps) and `admm` (tolerance 1e-6) find in float64.

For small l1, `admm` comes nearest: it gives each example its own rho. The last column shows how far its worst code is
from the minimum, converged or not. Codes of coherent atoms, or of atoms of unequal lengths, at a small l1 need float64
(`JAX_ENABLE_X64=1`), as their differences cancel.

"""


def dictionaries() -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Returns the patches `[examples, inputs]`, and dictionaries `[inputs, atoms]` by name."""
    images = [whiten(image) for image in photographs().values()]
    x, training = (patches(images, n, size=SIZE, seed=s, remove_mean=True) for n, s in ((EXAMPLES, 1), (20_000, 2)))
    state = init_dictionary(jax.random.key(0), training, atoms=ATOMS)
    for first in range(0, len(training), 500):
        state, _ = dictionary_step(state, training[first : first + 500], l1=1.0)
    learnt, rng = np.asarray(state.dictionary), np.random.default_rng(0)

    def unit(atoms: np.ndarray) -> np.ndarray:
        return (atoms / np.linalg.norm(atoms, axis=0)).astype(np.float32)

    gaussian = unit(rng.standard_normal(learnt.shape))
    coherent = unit(0.1 * gaussian + rng.standard_normal((len(learnt), 1)) / np.sqrt(len(learnt)))
    unequal = (learnt * np.exp(rng.normal(0, 1, ATOMS))).astype(np.float32)
    return x, {"learnt": learnt, "Gaussian": gaussian, "coherent": coherent, "unequal": unequal}


def objectives(x: np.ndarray, dictionary: np.ndarray, code: np.ndarray, l1: float) -> np.ndarray:
    """Returns the objective of each example in float64."""
    x, dictionary, code = (np.asarray(a, np.float64) for a in (x, dictionary, code))
    return ((x - code @ dictionary.T) ** 2).sum(1) / 2 + l1 * np.abs(code).sum(1)


def minima(x: np.ndarray, dictionary: np.ndarray, l1: float) -> np.ndarray:
    """Returns the smallest objective of each example that two solvers find in float64."""
    model = Lasso(alpha=l1 / x.shape[1], fit_intercept=False, tol=1e-8, max_iter=10_000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = model.fit(np.asarray(dictionary, np.float64), np.asarray(x.T, np.float64)).coef_
    ours = admm(x.astype(np.float64), dictionary.astype(np.float64), l1=l1, tolerance=1e-6, max_iterations=20_000)
    return np.minimum(*(objectives(x, dictionary, code, l1) for code in (theirs, np.asarray(ours.code))))


def cell(excess: np.ndarray, converged: np.ndarray) -> str:
    """Formats the worst distance of the codes that converged, and how many did not."""
    worst = f"{max(excess[converged].max(), 0):.0e}" if converged.any() else "-"
    return worst if converged.all() else f"{worst}, {int((~converged).sum())} not"


def table() -> tuple[list[str], bool]:
    """Returns the table's lines, and whether every code is near the minimum or reported."""
    x, by_name = dictionaries()
    lines = [f"| dictionary | l1 | {' | '.join(SOLVERS)} | worst of admm |", "|---" * (len(SOLVERS) + 3) + "|"]
    honest = True
    for name, dictionary in by_name.items():
        for l1 in PENALTIES:
            best = minima(x, dictionary, l1)
            cells, worst = [], 0.0
            for solver, solve in SOLVERS.items():
                code = solve(x, dictionary, l1=l1)
                excess = objectives(x, dictionary, np.asarray(code.code), l1) / best - 1
                converged = np.asarray(code.converged)
                honest &= bool((excess[converged] <= NEAR).all())
                cells.append(cell(excess, converged))
                worst = excess.max() if solver == "admm" else worst
            lines.append(f"| {name} | {l1:g} | {' | '.join(cells)} | {max(worst, 0):.0e} |")
            print(lines[-1], flush=True)
    return lines, honest


def main() -> int:
    """Writes the page; returns 1 if a code is far from the minimum and says that it converged."""
    jax.config.update("jax_enable_x64", True)  # for the minima; arrays in float32 stay so
    lines, honest = table()
    verdict = f"Every code that converged is within {NEAR:g} of the minimum." if honest else "Some codes are not."
    end = f"\n\n{verdict} `python -m benchmarks.convergence` makes this page.\n"
    PAGE.write_text(INTRODUCTION + "\n".join(lines) + end, encoding="utf-8")
    print(verdict)
    return int(not honest)


if __name__ == "__main__":
    sys.exit(main())
