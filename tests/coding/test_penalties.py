"""Weighted, non-negative, elastic-net, masked, grouped and bounded codes, beside scikit-learn and plain references."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import lsq_linear, minimize
from sklearn.linear_model import ElasticNet, Lasso, OrthogonalMatchingPursuit

from sparsejax.coding import (
    admm,
    code_within_error,
    code_within_l1,
    duality_gap,
    fista,
    group_lasso,
    ista,
    kkt_violation,
    lasso_objective,
    lasso_path,
    lca,
    orthogonal_matching_pursuit,
)
from tests.coding.problems import problem

SOLVERS = {"ista": ista, "fista": fista, "admm": admm, "lca": lca}
each = pytest.mark.parametrize("solve", SOLVERS.values(), ids=list(SOLVERS))
LONG = {"tolerance": 1e-5, "max_iterations": 20000}


def weights_like(dictionary, seed=3):
    return np.random.default_rng(seed).uniform(0.05, 0.4, dictionary.shape[1]).astype(np.float32)


def sklearn_code(x, dictionary, l1, *, l2=0.0, nonnegative=False, weights=None):
    """Minimises in float64; weights divide the atoms, as the penalty of a/w is that of a weighted a."""
    weights = np.ones(dictionary.shape[1]) if weights is None else np.asarray(weights, np.float64)
    n = x.shape[1]
    common = {"fit_intercept": False, "tol": 1e-12, "max_iter": 1_000_000, "positive": nonnegative}
    whole = (l1 + l2) / n
    model = ElasticNet(alpha=whole, l1_ratio=l1 / (l1 + l2), **common) if l2 else Lasso(alpha=whole, **common)
    scaled = np.asarray(dictionary, np.float64) / weights
    return np.stack([model.fit(scaled, row).coef_ for row in np.asarray(x, np.float64)]) / weights


@each
@pytest.mark.parametrize("nonnegative", [False, True])
def test_weighted_codes_are_scikit_learns(solve, nonnegative):
    x, dictionary = problem()
    weights = weights_like(dictionary)
    code = solve(x, dictionary, l1=weights, nonnegative=nonnegative, **LONG)
    right = sklearn_code(x, dictionary, 1.0, nonnegative=nonnegative, weights=weights)
    assert bool(code.converged.all())
    np.testing.assert_allclose(np.asarray(code.code), right, atol=2e-3)
    found, best = (lasso_objective(x, dictionary, a, l1=weights) for a in (code.code, right.astype(np.float32)))
    np.testing.assert_allclose(np.asarray(found), np.asarray(best), rtol=2e-5)
    conditions = {"l1": weights, "nonnegative": nonnegative}
    assert float(kkt_violation(x, dictionary, code.code, **conditions).max()) < 1e-3
    assert float(duality_gap(x, dictionary, code.code, relative=True, **conditions).max()) < 3e-5
    assert not nonnegative or float(code.code.min()) >= 0


@each
@pytest.mark.parametrize("nonnegative", [False, True])
def test_elastic_nets_are_scikit_learns(solve, nonnegative):
    x, dictionary = problem(seed=1)
    code = solve(x, dictionary, l1=0.1, l2=0.3, nonnegative=nonnegative, **LONG)
    right = sklearn_code(x, dictionary, 0.1, l2=0.3, nonnegative=nonnegative)
    np.testing.assert_allclose(np.asarray(code.code), right, atol=2e-3)
    assert (
        float(duality_gap(x, dictionary, code.code, l1=0.1, l2=0.3, nonnegative=nonnegative, relative=True).max())
        < 3e-5
    )


@each
def test_every_example_may_have_its_own_weight(solve):
    x, dictionary = problem()
    l1 = np.linspace(0.05, 0.5, len(x)).astype(np.float32)
    together = solve(x, dictionary, l1=l1[:, None])
    apart = [solve(row, dictionary, l1=float(weight)).code for row, weight in zip(x, l1, strict=True)]
    np.testing.assert_allclose(np.asarray(together.code), np.stack(apart), atol=2e-3)


@pytest.mark.parametrize("solve", [ista, fista, lca], ids=["ista", "fista", "lca"])
def test_masked_inputs_do_not_count(solve):
    x, dictionary = problem(inputs=30)
    mask = np.random.default_rng(5).random(x.shape) < 0.7
    code = solve(np.where(mask, x, np.nan), dictionary, l1=0.1, mask=mask, **LONG)
    for row, seen, got in zip(x, mask, np.asarray(code.code), strict=True):
        right = sklearn_code(row[None, seen], dictionary[seen], 0.1)
        np.testing.assert_allclose(got, right[0], atol=2e-3)
    shared = solve(x, dictionary, l1=0.1, mask=mask[0], **LONG)
    np.testing.assert_allclose(
        np.asarray(shared.code), sklearn_code(x[:, mask[0]], dictionary[mask[0]], 0.1), atol=2e-3
    )


def test_a_mask_of_each_example_is_refused_by_admm_alone():
    x, dictionary = problem()
    with pytest.raises(TypeError, match="mask"):
        admm(x, dictionary, l1=0.1, mask=x > 0)


def test_masked_pursuit_is_scikit_learns():
    x, dictionary = problem(inputs=30)
    mask = np.random.default_rng(5).random(x.shape) < 0.7
    code = orthogonal_matching_pursuit(np.where(mask, x, np.nan), dictionary, k=4, mask=mask)
    for row, seen, got in zip(x, mask, np.asarray(code.code), strict=True):
        lengths = np.linalg.norm(dictionary[seen], axis=0)
        model = OrthogonalMatchingPursuit(n_nonzero_coefs=4, fit_intercept=False)
        right = model.fit(dictionary[seen] / lengths, row[seen]).coef_ / lengths
        np.testing.assert_allclose(got, right, atol=1e-4)


def groups_of(dictionary, size=3):
    return np.arange(dictionary.shape[1]) // size


def plain_group_lasso(x, dictionary, groups, l1, steps=20000):
    """Proximal gradient in float64."""
    x, dictionary = np.asarray(x, np.float64), np.asarray(dictionary, np.float64)
    step = 1 / np.linalg.norm(dictionary, 2) ** 2
    code = np.zeros((len(x), dictionary.shape[1]))
    one_hot = np.eye(groups.max() + 1)[groups]
    for _ in range(steps):
        code = code + step * (x - code @ dictionary.T) @ dictionary
        length = np.sqrt(code**2 @ one_hot)
        code = code * ((np.maximum(length - step * l1, 0) / np.maximum(length, 1e-300)) @ one_hot.T)
    return code


def test_group_lasso_is_a_plain_proximal_gradient():
    x, dictionary = problem()
    groups = groups_of(dictionary)
    code = group_lasso(x, dictionary, groups=groups, l1=0.3, **LONG)
    right = plain_group_lasso(x, dictionary, groups, 0.3)
    assert bool(code.converged.all())
    np.testing.assert_allclose(np.asarray(code.code), right, atol=2e-3)
    on = np.asarray(code.code).reshape(len(x), -1, 3) != 0
    assert (on.all(-1) == on.any(-1)).all() and on.any() and not on.all()


def test_groups_of_one_are_the_lasso_and_weights_are_per_group():
    x, dictionary = problem()
    alone = np.arange(dictionary.shape[1])
    np.testing.assert_allclose(
        np.asarray(group_lasso(x, dictionary, groups=alone, l1=0.1, **LONG).code),
        np.asarray(fista(x, dictionary, l1=0.1, **LONG).code),
        atol=1e-3,
    )
    groups = groups_of(dictionary)
    weights = np.where(np.arange(groups.max() + 1) == 0, 1e3, 0.2).astype(np.float32)
    code = np.asarray(group_lasso(x, dictionary, groups=groups, l1=weights).code)
    assert (code[:, groups == 0] == 0).all() and (code[:, groups != 0] != 0).any()


@pytest.mark.parametrize("groups, message", [([0, 1], "shape"), (-np.ones(24, int), "from 0")])
def test_wrong_groups_are_refused(groups, message):
    x, dictionary = problem()
    with pytest.raises(ValueError, match=message):
        group_lasso(x, dictionary, groups=np.asarray(groups), l1=0.1)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"l1": np.ones(3, np.float32)}, r"l1 has shape \(3,\)"),
        ({"l1": np.zeros(24, np.float32)}, "weight above 0"),
        ({"l1": np.float32(np.nan)}, "weight above 0"),
        ({"l1": 0.1, "l2": -1.0}, "l2 is -1"),
        ({"l1": 0.1, "mask": np.ones(3, bool)}, "mask has shape"),
    ],
)
def test_wrong_weights_and_masks_are_refused(settings, message):
    x, dictionary = problem()
    with pytest.raises(ValueError, match=message):
        fista(x, dictionary, **settings)


def test_a_path_is_each_penalty_by_itself():
    x, dictionary = problem()
    penalties = np.geomspace(1, 0.01, 7).astype(np.float32)
    path = lasso_path(x, dictionary, l1=penalties)
    assert path.code.shape == (7, *x.shape[:1], dictionary.shape[1]) and bool(path.converged.all())
    for code, l1 in zip(path.code, penalties, strict=True):
        np.testing.assert_allclose(np.asarray(code), sklearn_code(x, dictionary, float(l1)), atol=5e-3)
    assert lasso_path(x[0], dictionary, l1=penalties).code.shape == (7, dictionary.shape[1])


@pytest.mark.parametrize("nonnegative", [False, True])
def test_codes_within_a_ball_have_the_least_error(nonnegative):
    x, dictionary = problem(examples=6)
    radius = np.linspace(0.5, 2, 6).astype(np.float32)
    found = code_within_l1(x, dictionary, radius=radius, nonnegative=nonnegative)
    size = np.abs(np.asarray(found.code)).sum(-1)
    assert bool(found.converged.all()) and (size <= radius).all() and (size >= 0.998 * radius).all()
    signed = [dictionary] if nonnegative else [dictionary, -dictionary]
    both = np.concatenate(signed, 1).astype(np.float64)
    for row, r, code in zip(x, radius, np.asarray(found.code, np.float64), strict=True):
        best = minimize(
            lambda a, row=row: ((row - both @ a) ** 2).sum(),
            np.zeros(both.shape[1]),
            jac=lambda a, row=row: -2 * (row - both @ a) @ both,
            bounds=[(0, None)] * both.shape[1],
            constraints={"type": "ineq", "fun": lambda a, r=r: r - a.sum(), "jac": lambda a: -np.ones(len(a))},
            method="SLSQP",
            options={"maxiter": 500, "ftol": 1e-10},
        )
        assert ((row - code @ dictionary.T) ** 2).sum() <= best.fun * 1.003 + 1e-6


def test_a_ball_that_holds_the_least_squares_solution_does_not_bind():
    x, dictionary = problem(inputs=16, atoms=10)
    found = code_within_l1(x, dictionary, radius=1e3)
    right = np.stack([lsq_linear(dictionary.astype(np.float64), row).x for row in x])
    assert bool(found.converged.all())
    left, least = (((x - np.asarray(a) @ dictionary.T) ** 2).sum(-1) for a in (found.code, right))
    assert (left <= least * 1.012).all()  # at the smallest l1 of the search, a ten-thousandth of that of a code of 0


def test_codes_within_an_error_are_the_smallest():
    x, dictionary = problem(examples=6)
    energy = (x**2).sum(-1)
    error = (np.linspace(0.05, 0.6, 6) * energy).astype(np.float32)
    found = code_within_error(x, dictionary, error=error)
    left = ((x - np.asarray(found.code) @ dictionary.T) ** 2).sum(-1)
    assert bool(found.converged.all()) and (left <= error * (1 + 1e-5)).all() and (left >= 0.998 * error).all()
    # Optimal for the error it has: it solves a lasso, whose multiplier is l1.
    conditions = kkt_violation(x, dictionary, found.code, l1=found.l1[:, None])
    assert (np.asarray(conditions) < 0.02 * np.asarray(found.l1) + 1e-4).all()
    enough = code_within_error(x, dictionary, error=2 * energy)
    assert bool(enough.converged.all()) and not np.asarray(enough.code).any()


def test_an_error_that_no_code_reaches_is_reported():
    x, dictionary = problem(inputs=16, atoms=4)
    found = code_within_error(x, dictionary, error=1e-6)
    assert not bool(found.converged.any())


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 10_000), l1=st.floats(0.02, 1), nonnegative=st.booleans(), weighted=st.booleans())
def test_admm_is_never_worse_than_scikit_learn(seed, l1, nonnegative, weighted):
    x, dictionary = problem(examples=5, inputs=12, atoms=20, seed=seed, unit=False)
    weights = weights_like(dictionary, seed) if weighted else np.ones(20, np.float32)
    code = admm(x, dictionary, l1=l1 * weights, nonnegative=nonnegative)
    right = sklearn_code(x, dictionary, l1, nonnegative=nonnegative, weights=weights)
    found, best = (
        np.asarray(lasso_objective(x, dictionary, np.asarray(a, np.float32), l1=l1 * weights))
        for a in (code.code, right)
    )
    assert (found <= best * (1 + 2e-4) + 1e-6).all()


def test_rows_that_are_not_finite_have_codes_of_nan_and_leave_the_others_alone():
    x, dictionary = problem()
    bad = x.copy()
    bad[1, 0], bad[4, 3] = np.nan, np.inf
    solvers = {name: lambda x, s=s: s(x, dictionary, l1=0.1) for name, s in SOLVERS.items()}
    solvers["group"] = lambda x: group_lasso(x, dictionary, groups=groups_of(dictionary), l1=0.1)
    solvers["omp"] = lambda x: orthogonal_matching_pursuit(x, dictionary, k=3)
    solvers["ball"] = lambda x: code_within_l1(x, dictionary, radius=1.0)
    for name, solve in solvers.items():
        code, clean = solve(bad), solve(x)
        fine = ~np.isin(np.arange(len(x)), [1, 4])
        assert np.isnan(np.asarray(code.code)[~fine]).all() and np.isnan(np.asarray(code.gap)[~fine]).all(), name
        assert not np.asarray(code.converged)[~fine].any(), name
        np.testing.assert_allclose(np.asarray(code.code)[fine], np.asarray(clean.code)[fine], atol=1e-6, err_msg=name)
        whole = solve(np.full_like(x, np.nan))
        assert np.isnan(np.asarray(whole.code)).all(), name


def test_float64_codes_are_in_float64():
    if not jax.config.jax_enable_x64:
        pytest.skip("needs JAX_ENABLE_X64=1")
    x, dictionary = (a.astype(np.float64) for a in problem())
    for solve in SOLVERS.values():
        code = solve(x, dictionary, l1=0.1, tolerance=1e-9, max_iterations=50_000)
        assert code.code.dtype == jnp.float64 and float(code.gap.max()) <= 1e-9


@each
def test_infinite_weights_are_refused(solve):
    x, dictionary = np.ones((3, 4), np.float32), np.eye(4, dtype=np.float32)
    for weights in ({"l1": np.inf}, {"l1": np.float32([1, np.inf, 1, 1])}, {"l1": 0.1, "l2": np.inf}):
        with pytest.raises(ValueError, match="expected a finite weight"):
            solve(x, dictionary, **weights)


@each
def test_dictionaries_without_atoms_or_numbers_give_zeros(solve):
    for inputs, atoms in ((4, 0), (0, 5)):
        code = solve(np.ones((3, inputs), np.float32), np.ones((inputs, atoms), np.float32), l1=0.1)
        assert code.code.shape == (3, atoms) and not np.any(code.code)
        assert not np.any(code.gap) and np.all(code.converged)
