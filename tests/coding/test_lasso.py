"""Solvers of the lasso, and LCA with the soft threshold, which solves it too."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsejax.coding import admm, duality_gap, fista, ista, kkt_violation, lasso_objective, lca, soft_threshold
from sparsejax.coding.quadratic import largest_eigenvalue
from tests.coding.problems import objective, problem, worst_violation

# Every limit and every shape needs a compilation, so most tests share these.
LIMIT = 100_000
SOLVERS = {
    solve.__name__: functools.wraps(solve)(functools.partial(solve, max_iterations=LIMIT))
    for solve in (ista, fista, admm, lca)
}
each_solver = pytest.mark.parametrize("solve", SOLVERS.values(), ids=SOLVERS)
two_solvers = pytest.mark.parametrize("solve", [SOLVERS["fista"], SOLVERS["admm"]], ids=["fista", "admm"])


def assert_scikit_learns(result, x, dictionary, l1):
    """Compares the objective of codes with that of scikit-learn's solver."""
    linear_model = pytest.importorskip("sklearn.linear_model")
    model = linear_model.Lasso(alpha=l1 / x.shape[1], fit_intercept=False, tol=1e-12, max_iter=100_000)
    expected = [model.fit(dictionary.astype(np.float64), one.astype(np.float64)).coef_ for one in x]
    least, _ = objective(x, dictionary, np.stack(expected), l1)
    ours, _ = objective(x, dictionary, result.code, l1)
    assert np.all(ours <= least * (1 + 1.1e-4)) and np.all(ours >= least * (1 - 1e-6))
    assert float(result.gap.max()) <= 1e-4
    assert worst_violation(x, dictionary, result.code, l1) < 1e-4


@each_solver
@pytest.mark.parametrize("shape", [(16, 24), (8, 40)])
def test_every_solver_finds_scikit_learns_code(solve, shape):
    for unit in (True, False):
        x, dictionary = problem(inputs=shape[0], atoms=shape[1], unit=unit)
        assert_scikit_learns(solve(x, dictionary, l1=0.1), x, dictionary, 0.1)


def test_every_solver_agrees_with_fewer_atoms_than_inputs():
    x, dictionary = problem(inputs=16, atoms=10)
    assert_scikit_learns(SOLVERS["ista"](x, dictionary, l1=0.1), x, dictionary, 0.1)


@each_solver
def test_a_violation_limit_controls_small_coefficients(solve):
    x, dictionary = problem()
    x *= 30  # the objective is large, so that a small coefficient's error is nothing to the gap
    loose = solve(x, dictionary, l1=1.0, tolerance=1e-3, violation=None)
    assert worst_violation(x, dictionary, loose.code, 1.0) > 1e-3
    result = solve(x, dictionary, l1=1.0, tolerance=1e-3)
    assert worst_violation(x, dictionary, result.code, 1.0) < 1e-3
    assert float(result.gap.max()) <= 1e-3 and np.all(result.iterations >= loose.iterations)


@two_solvers
def test_violations_below_rounding_do_not_delay_convergence(solve):
    x, dictionary = problem()
    result = solve(100 * x, dictionary, l1=1.0, tolerance=1e-4, violation=1e-9)
    assert int(result.iterations.max()) < LIMIT
    assert worst_violation(100 * x, dictionary, result.code, 1.0) < 4e-6 * np.abs(100 * x @ dictionary).max()


@each_solver
def test_batch_axes_jit_and_vmap_change_nothing(solve):
    x, dictionary = problem()
    plain = solve(x, dictionary, l1=0.1)
    folded = solve(x.reshape(3, 4, 16), dictionary, l1=0.1)
    assert folded.code.shape == (3, 4, 24) and folded.iterations.shape == folded.gap.shape == (3, 4)
    np.testing.assert_array_equal(folded.code.reshape(12, 24), plain.code)
    np.testing.assert_array_equal(folded.iterations.reshape(12), plain.iterations)
    mapped = jax.jit(jax.vmap(lambda one, l1: solve(one, dictionary, l1=l1), in_axes=(0, None)))(x, 0.1)
    np.testing.assert_allclose(mapped.code, plain.code, atol=1e-5)
    np.testing.assert_array_equal(mapped.iterations, plain.iterations)


def test_a_grid_of_weights_is_one_program():
    (x, dictionary), solve = problem(), SOLVERS["admm"]
    weights = np.array([0.05, 0.1, 0.2], np.float32)
    many = np.asarray(jax.jit(jax.vmap(lambda l1: solve(x, dictionary, l1=l1).code))(weights))
    for l1, code in zip(weights, many, strict=True):
        np.testing.assert_allclose(code, solve(x, dictionary, l1=float(l1)).code, atol=1e-5)
    assert np.all(np.diff(np.count_nonzero(many, axis=(1, 2))) < 0)


@two_solvers
def test_an_example_does_not_depend_on_its_neighbours(solve):
    x, dictionary = problem(examples=200)  # enough for the batch to be halved
    x *= np.logspace(-0.5, 0.5, 200, dtype=np.float32)[:, None]
    result = solve(x, dictionary, l1=0.1)
    assert float(result.gap.max()) <= 1e-4 and len(np.unique(result.iterations)) > 2
    some = np.linspace(0, 199, 12).astype(int)
    alone = solve(x[some], dictionary, l1=0.1)  # too few to be halved
    more = np.asarray(alone.iterations) - np.asarray(result.iterations)[some]
    assert np.count_nonzero(more) <= 1 and np.abs(more).max() <= 10, "rounding may cost one of them a measure"
    off = np.abs(alone.code - np.asarray(result.code)[some]).max(1)
    assert np.all(off <= 1e-4 * np.logspace(-0.5, 0.5, 200)[some])


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
    result = solve(x, dictionary, l1=0.1, tolerance=None, max_iterations=20)
    np.testing.assert_array_equal(result.iterations, 20)
    primal, gap = objective(x, dictionary, np.zeros((12, 24)), 0.1)
    best = np.asarray(solve(x, dictionary, l1=0.1).gap)
    assert np.all(gap / primal >= np.asarray(result.gap)) and np.all(result.gap + 1e-6 >= best)
    if solve.__name__ == "ista":
        nothing = solve(x, dictionary, l1=0.1, tolerance=None, max_iterations=0)
        assert not nothing.code.any() and not nothing.iterations.any()
        np.testing.assert_allclose(nothing.gap, gap / primal, rtol=1e-5)


def test_steps_of_fista_are_the_papers_and_take_it_further_than_ista():
    """Equations 4.1 to 4.3 of Beck and Teboulle; the momentum of an example restarts where it points uphill."""
    x, dictionary = problem()
    settings = {"l1": 0.1, "tolerance": None, "max_iterations": 20}
    result, plain = (SOLVERS[name](x, dictionary, **settings) for name in ("fista", "ista"))
    step = 1 / float(largest_eigenvalue(jnp.asarray(dictionary)))
    code = ahead = np.zeros((12, 24))
    t, restarts = np.ones((12, 1)), 0
    for _ in range(20):
        reached = ahead + step * (x - ahead @ dictionary.T) @ dictionary
        new = np.sign(reached) * np.maximum(np.abs(reached) - step * 0.1, 0)
        uphill = np.sum((ahead - new) * (new - code), axis=1, keepdims=True) > 0
        restarts += np.count_nonzero(uphill & (t > 1))
        t = np.where(uphill, 1, t)
        after = (1 + np.sqrt(1 + 4 * t**2)) / 2
        code, ahead, t = new, new + (t - 1) / after * (new - code), after
    assert restarts > 0, "some example restarts"
    np.testing.assert_allclose(result.code, code, atol=1e-4)
    assert np.median(result.gap / plain.gap) < 0.5


@pytest.mark.parametrize(("solve", "examples"), [(fista, 5), (ista, 200)], ids=["fista", "ista"])
def test_rounds_that_do_not_fit_the_limit_end_at_it(solve, examples):
    """Few examples are solved in parallel, many in turns; 13 is two rounds of five and a remainder."""
    x, dictionary = problem(examples)
    settings = {"l1": 0.1, "check_every": 5, "max_iterations": 13}
    limited = solve(x, dictionary, tolerance=1e-9, **settings)
    assert set(np.asarray(limited.iterations)) == {13}
    exactly = solve(x, dictionary, tolerance=None, **settings)
    np.testing.assert_allclose(limited.code, exactly.code, atol=1e-6)
    np.testing.assert_allclose(limited.gap, exactly.gap, rtol=1e-3, atol=1e-6)


def test_unrolled_ista_is_differentiable():
    x, dictionary = problem()

    @jax.jit
    @jax.value_and_grad
    def loss(l1):
        return jnp.sum(ista(x, dictionary, l1=l1, tolerance=None, max_iterations=50).code ** 2)

    step = 1e-2
    expected = (loss(0.2 + step)[0] - loss(0.2 - step)[0]) / (2 * step)
    np.testing.assert_allclose(loss(0.2)[1], expected, rtol=0.05)


@jax.jit
def measures(x, dictionary, code, l1):
    arguments = x, dictionary, code
    gaps = tuple(duality_gap(*arguments, l1=l1, relative=relative) for relative in (False, True))
    return *gaps, lasso_objective(*arguments, l1=l1), kkt_violation(*arguments, l1=l1)


# Smaller coefficients may be subnormal, which XLA takes for 0 and NumPy does not.
@given(st.integers(0, 2**31), st.floats(0.05, 2.0), st.just(0.0) | st.floats(1e-3, 3.0))
def test_the_gap_is_positive_and_above_the_distance_from_the_minimum(seed, l1, size):
    x, dictionary = problem(seed=seed)
    code = (size * np.random.default_rng(seed).standard_normal((12, 24))).astype(np.float32)
    primal, gap = objective(x, dictionary, code, l1)
    ours, relative, value, violation = map(np.asarray, measures(x, dictionary, code, l1))
    np.testing.assert_allclose(ours, gap, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(relative, ours / value, rtol=1e-5)
    np.testing.assert_allclose(value, primal, rtol=1e-5)
    np.testing.assert_allclose(violation.max(), worst_violation(x, dictionary, code, l1), rtol=1e-4, atol=1e-5)
    best, _ = objective(x, dictionary, SOLVERS["admm"](x, dictionary, l1=l1, tolerance=1e-5).code, l1)
    assert np.all(ours >= 0) and np.all(primal - best <= ours * 1.01 + 1e-5 * primal)


def test_float32_resolves_small_gaps():
    # The difference of the objectives is lost in float32 here; the sum of what is not negative is not.
    x, dictionary = problem()
    code = SOLVERS["admm"](100 * x, dictionary, l1=10.0, tolerance=1e-5).code
    primal, exact = objective(100 * x, dictionary, code, 10.0)
    ours = np.asarray(measures(100 * x, dictionary, code, 10.0)[1])
    np.testing.assert_allclose(ours, exact / primal, atol=5e-6)
    assert np.all(ours >= 0) and np.max(ours) < 2e-5


def test_the_first_step_of_lca_and_of_ista_by_hand():
    dictionary, x = np.eye(2, dtype=np.float32), np.array([1.0, -0.3], np.float32)
    # u = 0: du = b, step 0.5; the threshold then takes 0.2.
    code = lca(x, dictionary, l1=0.2, step=0.5, tolerance=None, max_iterations=1).code
    np.testing.assert_allclose(code, [0.3, 0.0], atol=1e-6)
    # The second: u = 0.5 + 0.5 (1 - 0.5 - 0) = 0.75 and -0.15 + 0.5 (-0.3 + 0.15) = -0.225.
    code = lca(x, dictionary, l1=0.2, step=0.5, tolerance=None, max_iterations=2).code
    np.testing.assert_allclose(code, [0.55, -0.025], atol=1e-6)
    np.testing.assert_allclose(soft_threshold(jnp.asarray(x), 0.2), [0.8, -0.1], atol=1e-7)


def test_hard_lca_converges_where_all_unused_atoms_are_below_the_threshold():
    (x, dictionary), solve = problem(), functools.partial(lca, threshold="hard", max_iterations=LIMIT)
    result = solve(x, dictionary, l1=0.3, tolerance=1e-4)
    assert float(result.gap.max()) <= 1e-4
    code = np.asarray(result.code)
    correlations, on = (x - code @ dictionary.T) @ dictionary, code != 0
    np.testing.assert_allclose(correlations[on], 0, atol=1e-3)  # coefficients are not shrunk
    assert np.all(np.abs(correlations[~on]) <= 0.3 + 1e-3)
    assert np.all(np.abs(code)[on] > 0.3)
    again = solve(x, dictionary, l1=0.3, initial=result.code, tolerance=1e-3)
    assert int(again.iterations.max()) == 0


@each_solver
def test_empty_inputs_and_empty_atoms(solve):
    x, dictionary = problem()
    dictionary[:, 3] = 0
    x[2] = 0
    result = solve(x, dictionary, l1=0.1)
    code = np.asarray(result.code)
    np.testing.assert_array_equal(code[:, 3], 0)
    np.testing.assert_array_equal(code[2], 0)
    assert result.iterations[2] == 0 and result.gap[2] == 0
    assert np.all(np.isfinite(code))
    x[1, 0] = np.nan
    spoilt = np.asarray(solve(x, dictionary, l1=0.1).code)
    np.testing.assert_allclose(spoilt[2:], code[2:], atol=1e-5)


@two_solvers
def test_no_examples_have_no_codes(solve):
    x, dictionary = problem()
    assert solve(x[:0], dictionary, l1=0.1).code.shape == (0, 24)


def test_half_precision_is_solved_in_single():
    x, dictionary = problem()
    result = SOLVERS["admm"](x.astype(jnp.bfloat16), dictionary.astype(jnp.bfloat16), l1=0.1)
    assert result.code.dtype == jnp.float32 and float(result.gap.max()) <= 1e-4


@pytest.mark.wrong_types
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


@pytest.mark.wrong_types
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
