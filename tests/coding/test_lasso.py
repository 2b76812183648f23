"""Solvers of the lasso, and LCA with the soft threshold, which solves it too."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsejax.coding import admm, duality_gap, fista, ista, kkt_violation, lasso_objective, lca, soft_threshold
from tests import golden
from tests.coding.problems import objective, problem

SOLVERS = {"ista": ista, "fista": fista, "admm": admm, "lca": lca}
each_solver = pytest.mark.parametrize("solve", SOLVERS.values(), ids=SOLVERS)


@pytest.mark.parametrize("solve", [fista, admm], ids=["fista", "admm"])
@pytest.mark.parametrize("atoms", [256, 512])
def test_codes_of_patches_are_scikit_learns(solve, atoms):
    case = golden.load("codes_sklearn_reference")
    x, dictionary, l1 = case["X"][:100], case[f"D{atoms}"].T, float(case[f"alpha{atoms}"])
    result = jax.jit(functools.partial(solve, l1=l1, tolerance=1e-3, violation=1e-4))(x, dictionary)
    np.testing.assert_allclose(result.code, case[f"lasso{atoms}"][:100], atol=3e-3)
    _, gap = objective(x, dictionary, result.code, l1)
    ours = duality_gap(x, dictionary, result.code, l1=l1)
    np.testing.assert_allclose(ours, gap, rtol=0.05, atol=2e-6 * float((x**2).sum(1).max()))
    assert worst_violation(x, dictionary, result.code, l1) < 1.5e-4 * l1


def worst_violation(x, dictionary, code, l1):
    """The largest KKT violation in float64."""
    x, dictionary, code = (np.asarray(array, np.float64) for array in (x, dictionary, code))
    c = (x - code @ dictionary.T) @ dictionary
    return np.where(code != 0, np.abs(c - l1 * np.sign(code)), np.maximum(np.abs(c) - l1, 0)).max()


@each_solver
def test_small_coefficients_are_held_to_account(solve):
    x, dictionary = problem(examples=60)
    x *= 30  # the objective is large, so that a small coefficient's error is nothing to the gap
    loose = solve(x, dictionary, l1=1.0, tolerance=1e-3, violation=None, max_iterations=20_000)
    assert worst_violation(x, dictionary, loose.code, 1.0) > 1e-3
    result = solve(x, dictionary, l1=1.0, tolerance=1e-3, max_iterations=20_000)
    assert worst_violation(x, dictionary, result.code, 1.0) < 1e-3
    assert float(result.gap.max()) <= 1e-3 and np.all(result.iterations >= loose.iterations)


@pytest.mark.parametrize("solve", [fista, admm], ids=["fista", "admm"])
def test_what_rounding_hides_is_not_waited_for(solve):
    x, dictionary = problem()
    result = solve(100 * x, dictionary, l1=1.0, tolerance=1e-4, violation=1e-9, max_iterations=20_000)
    assert int(result.iterations.max()) < 20_000
    assert worst_violation(100 * x, dictionary, result.code, 1.0) < 4e-6 * np.abs(100 * x @ dictionary).max()


@each_solver
@pytest.mark.parametrize("shape", [(16, 24), (16, 10), (8, 40)])
@pytest.mark.parametrize("unit", [True, False])
def test_every_solver_finds_scikit_learns_code(solve, shape, unit):
    linear_model = pytest.importorskip("sklearn.linear_model")
    x, dictionary = problem(inputs=shape[0], atoms=shape[1], unit=unit)
    result = solve(x, dictionary, l1=0.1, tolerance=1e-4, max_iterations=100_000)
    model = linear_model.Lasso(alpha=0.1 / shape[0], fit_intercept=False, tol=1e-12, max_iter=100_000)
    expected = [model.fit(dictionary.astype(np.float64), one.astype(np.float64)).coef_ for one in x]
    least, _ = objective(x, dictionary, np.stack(expected), 0.1)
    ours, _ = objective(x, dictionary, result.code, 0.1)
    assert np.all(ours <= least * (1 + 1.1e-4)) and np.all(ours >= least * (1 - 1e-6))
    assert float(result.gap.max()) <= 1e-4
    assert float(kkt_violation(x, dictionary, result.code, l1=0.1).max()) < 1e-4


@each_solver
def test_batch_axes_jit_and_vmap_change_nothing(solve):
    x, dictionary = problem()
    plain = solve(x, dictionary, l1=0.1)
    for other in (
        jax.jit(solve)(x, dictionary, l1=jnp.float32(0.1)),
        jax.tree.map(lambda leaf: leaf.reshape(12, *leaf.shape[2:]), solve(x.reshape(3, 4, 16), dictionary, l1=0.1)),
        jax.vmap(lambda one: solve(one, dictionary, l1=0.1))(x),
    ):
        np.testing.assert_allclose(other.code, plain.code, atol=1e-5)
        np.testing.assert_array_equal(other.iterations, plain.iterations)


def test_a_grid_of_weights_is_one_program():
    x, dictionary = problem()
    weights = jnp.array([0.05, 0.1, 0.2])
    many = jax.vmap(lambda l1: admm(x, dictionary, l1=l1).code)(weights)
    for l1, code in zip(weights, many, strict=True):
        np.testing.assert_allclose(code, admm(x, dictionary, l1=float(l1)).code, atol=1e-5)
    assert np.all(np.diff(np.count_nonzero(many, axis=(1, 2))) < 0)


@each_solver
def test_an_example_does_not_depend_on_its_neighbours(solve):
    x, dictionary = problem(examples=200)  # enough for the batch to be halved
    scale = np.logspace(-0.5, 0.5, 200, dtype=np.float32)[:, None]
    result = solve(x * scale, dictionary, l1=0.1, max_iterations=10_000)
    assert float(result.gap.max()) <= 1e-4 and len(np.unique(result.iterations)) > 2
    for i in (0, 77, 199):
        alone = solve(x[i] * scale[i], dictionary, l1=0.1, max_iterations=10_000)
        assert alone.iterations == result.iterations[i]
        np.testing.assert_allclose(alone.code, result.code[i], atol=1e-4 * float(scale[i, 0]))


@each_solver
def test_a_warm_start_needs_fewer_iterations(solve):
    x, dictionary = problem()
    first = solve(x, dictionary, l1=0.1)
    again = solve(x, dictionary, l1=0.1, initial=first.code)
    assert int(again.iterations.max()) == 0
    np.testing.assert_allclose(again.code, first.code, atol=1e-6)
    near = solve(x, dictionary, l1=0.095, initial=first.code)
    assert int(near.iterations.sum()) < 0.8 * int(solve(x, dictionary, l1=0.095).iterations.sum())
    assert float(near.gap.max()) <= 1e-4


@each_solver
def test_a_fixed_number_of_iterations(solve):
    x, dictionary = problem()
    gaps = [solve(x, dictionary, l1=0.1, tolerance=None, max_iterations=n) for n in (0, 20, 200)]
    assert [int(result.iterations[0]) for result in gaps] == [0, 20, 200]
    assert np.all(gaps[0].gap >= gaps[1].gap) and np.all(gaps[1].gap >= gaps[2].gap)
    np.testing.assert_array_equal(gaps[0].code, 0)


@pytest.mark.parametrize("solve", [ista, fista], ids=["ista", "fista"])
@pytest.mark.parametrize("examples", [5, 200])
def test_rounds_that_do_not_fit_the_limit_end_at_it(solve, examples):
    """A few examples are solved side by side, of many some wait for others; 13 is two rounds of five and a rest."""
    x, dictionary = problem(examples)
    settings = {"l1": 0.1, "check_every": 5}
    limited = solve(x, dictionary, tolerance=1e-9, max_iterations=13, **settings)
    assert set(np.asarray(limited.iterations)) == {13}
    exactly = solve(x, dictionary, tolerance=None, max_iterations=13, **settings)
    np.testing.assert_allclose(limited.code, exactly.code, atol=1e-6)
    np.testing.assert_allclose(limited.gap, exactly.gap, rtol=1e-3, atol=1e-6)


def test_unrolled_ista_is_differentiable():
    x, dictionary = problem()

    def loss(l1):
        return jnp.sum(ista(x, dictionary, l1=l1, tolerance=None, max_iterations=50).code ** 2)

    step = 1e-2
    expected = (loss(0.2 + step) - loss(0.2 - step)) / (2 * step)
    np.testing.assert_allclose(jax.grad(loss)(0.2), expected, rtol=0.05)


@given(st.integers(0, 2**31), st.floats(0.05, 2.0), st.floats(0.0, 3.0))
def test_the_gap_is_positive_and_above_the_distance_from_the_minimum(seed, l1, size):
    x, dictionary = problem(seed=seed)
    code = (size * np.random.default_rng(seed).standard_normal((12, 24))).astype(np.float32)
    primal, gap = objective(x, dictionary, code, l1)
    ours = duality_gap(x, dictionary, code, l1=l1)
    np.testing.assert_allclose(ours, gap, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(lasso_objective(x, dictionary, code, l1=l1), primal, rtol=1e-5)
    best = lasso_objective(x, dictionary, admm(x, dictionary, l1=l1, tolerance=1e-5).code, l1=l1)
    assert np.all(ours >= 0) and np.all(primal - best <= ours * 1.01 + 1e-5 * primal)


def test_float32_resolves_small_gaps():
    # The difference of the objectives is lost in float32 here; the sum of what is not negative is not.
    x, dictionary = problem(examples=50)
    code = admm(100 * x, dictionary, l1=10.0, tolerance=1e-5).code
    primal, exact = objective(100 * x, dictionary, code, 10.0)
    ours = duality_gap(100 * x, dictionary, code, l1=10.0, relative=True)
    np.testing.assert_allclose(ours, exact / primal, atol=5e-6)
    assert np.all(ours >= 0) and np.max(ours) < 2e-5


def test_the_first_step_of_lca_and_of_ista_by_hand():
    dictionary = jnp.eye(2)
    x = jnp.array([1.0, -0.3])
    # u = 0: du = b, step 0.5; the threshold then takes 0.2.
    code = lca(x, dictionary, l1=0.2, step=0.5, tolerance=None, max_iterations=1).code
    np.testing.assert_allclose(code, [0.3, 0.0], atol=1e-6)
    # The second: u = 0.5 + 0.5 (1 - 0.5 - 0) = 0.75 and -0.15 + 0.5 (-0.3 + 0.15) = -0.225.
    code = lca(x, dictionary, l1=0.2, step=0.5, tolerance=None, max_iterations=2).code
    np.testing.assert_allclose(code, [0.55, -0.025], atol=1e-6)
    np.testing.assert_allclose(soft_threshold(x, 0.2), [0.8, -0.1], atol=1e-7)


def test_hard_lca_rests_where_no_atom_is_above_the_threshold_without_being_used():
    x, dictionary = problem()
    result = lca(x, dictionary, l1=0.3, threshold="hard", tolerance=1e-4, max_iterations=20_000)
    assert float(result.gap.max()) <= 1e-4
    correlations = (x - result.code @ dictionary.T) @ dictionary
    on = np.asarray(result.code != 0)
    np.testing.assert_allclose(correlations[on], 0, atol=1e-3)  # coefficients are not shrunk
    assert np.all(np.abs(correlations[~on]) <= 0.3 + 1e-3)
    assert np.all(np.abs(result.code)[on] > 0.3)
    again = lca(x, dictionary, l1=0.3, threshold="hard", initial=result.code, tolerance=1e-3)
    assert int(again.iterations.max()) == 0


@each_solver
def test_empty_inputs_and_empty_atoms(solve):
    x, dictionary = problem()
    dictionary[:, 3] = 0
    x[2] = 0
    result = solve(x, dictionary, l1=0.1)
    np.testing.assert_array_equal(result.code[:, 3], 0)
    np.testing.assert_array_equal(result.code[2], 0)
    assert result.iterations[2] == 0 and result.gap[2] == 0
    assert np.all(np.isfinite(result.code))
    x[1, 0] = np.nan
    spoilt = solve(x, dictionary, l1=0.1)
    np.testing.assert_allclose(spoilt.code[2:], result.code[2:], atol=1e-5)
    assert solve(x[:0], dictionary, l1=0.1).code.shape == (0, 24)


def test_half_precision_is_solved_in_single():
    x, dictionary = problem()
    result = admm(jnp.asarray(x, jnp.bfloat16), jnp.asarray(dictionary, jnp.bfloat16), l1=0.1)
    assert result.code.dtype == jnp.float32 and float(result.gap.max()) <= 1e-4


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"l1": 0.0}, "l1 is 0.0"),
        ({"l1": -1}, "l1 is -1"),
        ({"dictionary": "transposed"}, "pass its transpose"),
        ({"initial": jnp.zeros((12, 3))}, r"\(12, 3\)"),
        ({"tolerance": -1.0}, "tolerance is -1.0"),
        ({"violation": -1.0}, "violation is -1.0"),
        ({"check_every": 0}, "check_every is 0"),
    ],
)
@each_solver
def test_errors_say_what_was_expected(solve, change, words):
    x, dictionary = problem()
    arguments = {"l1": 0.1} | change
    if arguments.pop("dictionary", None):
        dictionary = dictionary.T
    with pytest.raises(ValueError, match=words):
        solve(x, dictionary, **arguments)


def test_errors_of_single_solvers():
    x, dictionary = problem()
    with pytest.raises(ValueError, match="threshold is 'firm'"):
        lca(x, dictionary, l1=0.1, threshold="firm")
    with pytest.raises(ValueError, match="step is 0"):
        lca(x, dictionary, l1=0.1, step=0)
    with pytest.raises(ValueError, match="relaxation is 2"):
        admm(x, dictionary, l1=0.1, relaxation=2)
    with pytest.raises(ValueError, match="max_iterations is -1"):
        ista(x, dictionary, l1=0.1, max_iterations=-1)
