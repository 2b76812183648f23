"""Codes of patches of natural images against those that scikit-learn and the original code gave (see golden.py)."""

import jax
import numpy as np
import pytest

from sparsejax.coding import admm, duality_gap, fista, matching_pursuit, orthogonal_matching_pursuit
from tests import golden
from tests.coding.problems import objective, worst_violation

pytestmark = pytest.mark.optimized


@pytest.mark.parametrize(("solve", "atoms"), [(fista, 256), (admm, 512)], ids=["fista", "admm"])
def test_solutions_of_the_lasso_are_scikit_learns(solve, atoms):
    case = golden.load("codes_sklearn_reference")
    x, dictionary, l1 = case["X"][:30], case[f"D{atoms}"].T, float(case[f"alpha{atoms}"])
    result = solve(x, dictionary, l1=l1, tolerance=1e-3, violation=1e-4)
    np.testing.assert_allclose(result.code, case[f"lasso{atoms}"][:30], atol=3e-3)
    _, gap = objective(x, dictionary, result.code, l1)
    ours = jax.jit(duality_gap)(x, dictionary, result.code, l1=l1)
    np.testing.assert_allclose(ours, gap, rtol=0.05, atol=2e-6 * float((x**2).sum(1).max()))
    assert worst_violation(x, dictionary, result.code, l1) < 1.5e-4 * l1


def test_matching_pursuit_is_the_recorded_one():
    case = golden.load("codes_matching_pursuit")
    result = matching_pursuit(case["X"], case["D"].T, k=int(case["K"]))
    np.testing.assert_allclose(result.code, case["codes"], atol=1e-4)
    # The reference overwrites atoms that are chosen again, so its residual is larger.
    overwritten = np.linalg.norm(case["X"] - case["codes_rctn"] @ case["D"], axis=1)
    assert np.sqrt(result.gap).mean() < (overwritten / np.linalg.norm(case["X"], axis=1)).mean()


def test_orthogonal_matching_pursuit_is_scikit_learns():
    case = golden.load("codes_sklearn_reference")
    result = orthogonal_matching_pursuit(case["X"][:64], case["D512"].T, k=26)
    np.testing.assert_allclose(result.code, case["omp512"][:64], atol=1e-3)
