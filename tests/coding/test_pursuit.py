"""Matching pursuits, and codes under the l0 penalty."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsejax.coding import matching_pursuit, orthogonal_matching_pursuit, sparse_set
from sparsejax.coding.largest import first_largest
from tests.coding.problems import problem

each_pursuit = pytest.mark.parametrize("pursue", [matching_pursuit, orthogonal_matching_pursuit], ids=["mp", "omp"])


@pytest.mark.parametrize("atoms", [1, 5, 16, 17, 31, 100])
def test_the_first_largest_is_the_argmax(atoms):
    rng = np.random.default_rng(atoms)
    for scores in (rng.standard_normal((40, atoms)), rng.integers(-2, 2, (40, atoms))):
        scores = scores.astype(np.float32)
        np.testing.assert_array_equal(first_largest(jnp.asarray(scores)), scores.argmax(1))
        scores[np.arange(40), rng.integers(0, atoms, 40)] = np.nan
        np.testing.assert_array_equal(first_largest(jnp.asarray(scores)), scores.argmax(1))


@pytest.mark.parametrize(("inputs", "atoms", "k"), [(16, 24, 5), (8, 40, 5), (40, 50, 20), (40, 100, 9)])
def test_orthogonal_matching_pursuit_is_scikit_learns(inputs, atoms, k):
    linear_model = pytest.importorskip("sklearn.linear_model")
    x, dictionary = (array.astype(np.float64) for array in problem(inputs=inputs, atoms=atoms))
    dictionary /= np.linalg.norm(dictionary, axis=0)
    expected = linear_model.orthogonal_mp(dictionary, x.T, n_nonzero_coefs=k).T
    ours = orthogonal_matching_pursuit(x.astype(np.float32), dictionary.astype(np.float32), k=k).code
    np.testing.assert_allclose(ours, expected, atol=1e-4)
    with jax.enable_x64(True):
        ours = np.asarray(orthogonal_matching_pursuit(x, dictionary, k=k).code)
    np.testing.assert_array_equal(ours != 0, expected != 0)
    np.testing.assert_allclose(ours, expected, atol=1e-12)


@each_pursuit
def test_the_norm_of_atoms_changes_only_the_coefficients(pursue):
    x, dictionary = problem()
    norms = np.random.default_rng(1).uniform(0.01, 100, dictionary.shape[1]).astype(np.float32)
    result, other = pursue(x, dictionary, k=6), pursue(x, dictionary * norms, k=6)
    np.testing.assert_allclose(np.asarray(other.code) * norms, result.code, atol=1e-5)
    np.testing.assert_allclose(other.gap, result.gap, atol=1e-6)


def test_an_atom_chosen_again_accumulates():
    # Two atoms at 45 degrees: the residual of either correlates with the other, so they are chosen alternately.
    dictionary = np.array([[1.0, 0.5**0.5], [0.0, 0.5**0.5]], np.float32)
    x = np.array([1.0, 0.3], np.float32)
    first, second = 1.0, 0.0
    residual = np.array([0.0, 0.3])
    codes = [(1.0, 0.0)]
    for step in range(1, 5):
        change = residual @ dictionary[:, step % 2]
        first, second = (first + change, second) if step % 2 == 0 else (first, second + change)
        residual = residual - change * dictionary[:, step % 2]
        codes.append((first, second))
    for k, code in enumerate(codes, 1):
        np.testing.assert_allclose(matching_pursuit(x, dictionary, k=k).code, code, atol=1e-6)
    far = np.asarray(matching_pursuit(x, dictionary, k=100).code)
    np.testing.assert_allclose(far @ dictionary.T, x, atol=1e-6)


@given(st.integers(0, 2**31))
def test_the_residual_is_orthogonal_to_the_chosen_atoms(seed):
    x, dictionary = problem(seed=seed, unit=False)
    result = orthogonal_matching_pursuit(x, dictionary, k=6)
    code = np.asarray(result.code)
    correlations, on = (x - code @ dictionary.T) @ dictionary, code != 0
    assert np.all(on.sum(1) <= 6)
    np.testing.assert_allclose(np.where(on, correlations, 0), 0, atol=2e-4)
    greedy = matching_pursuit(x, dictionary, k=6)
    assert result.gap.mean() <= greedy.gap.mean() + 1e-5


def bound(pursue, most):
    """Returns the options with which k may be traced."""
    return {} if pursue is matching_pursuit else {"at_most": most}


@each_pursuit
def test_the_error_falls_with_k_and_k_may_be_traced(pursue):
    x, dictionary = problem()
    traced = jax.jit(lambda k: pursue(x, dictionary, k=k, **bound(pursue, 10)))
    results = {k: traced(k) for k in (0, 1, 4, 10)}
    for k, result in results.items():
        assert np.all((np.asarray(result.code) != 0).sum(1) <= k)
    gaps = np.stack([result.gap for result in results.values()])
    np.testing.assert_allclose(gaps[0], 1, atol=1e-6)  # energy over energy, each rounded by its own program
    assert np.all(np.diff(gaps, axis=0) < 1e-6) and np.all(gaps[1] < 1)
    for k in (1, 10):
        np.testing.assert_allclose(pursue(x, dictionary, k=k).code, results[k].code, atol=1e-5)


@each_pursuit
def test_a_tolerance_stops_each_example_by_itself(pursue):
    x, dictionary = problem(examples=40)
    stopped = jax.jit(lambda x, k, tolerance: pursue(x, dictionary, k=k, tolerance=tolerance, **bound(pursue, 14)))
    result = stopped(x, 14, 0.05)
    done = np.asarray(result.iterations) < 14
    assert np.all(np.asarray(result.gap)[done] <= 0.05) and done.sum() > 2
    assert len(np.unique(result.iterations)) > 2
    for i in (0, 20):
        assert stopped(x[i], int(result.iterations[i]) - 1, 0.05).gap > 0.05
        np.testing.assert_allclose(stopped(x[i], 14, 0.05).code, result.code[i], atol=1e-4)


@each_pursuit
def test_equal_and_empty_atoms_and_batch_axes(pursue):
    x, dictionary = problem(inputs=8, atoms=6)
    dictionary[:, 4], dictionary[:, 5] = dictionary[:, 0], 0
    result = pursue(x.reshape(3, 4, 8), dictionary, k=6)
    assert result.code.shape == (3, 4, 6) and result.gap.shape == (3, 4)
    code = np.asarray(result.code).reshape(12, 6)
    assert np.all(np.isfinite(code))
    np.testing.assert_array_equal(code[:, 4:], 0)
    best = np.linalg.lstsq(dictionary[:, :4], x.T, rcond=None)[0].T
    if pursue is orthogonal_matching_pursuit:
        np.testing.assert_allclose(code[:, :4], best, atol=1e-4)
    np.testing.assert_array_equal(pursue(0 * x, dictionary, k=6).code, 0)


def test_more_steps_than_inputs_end_at_no_error():
    x, dictionary = problem(inputs=8, atoms=20)
    result = orthogonal_matching_pursuit(x, dictionary, k=20)
    np.testing.assert_allclose(result.gap, 0, atol=1e-8)
    assert np.all((np.asarray(result.code) != 0).sum(1) <= 8)


def test_dependent_atoms_end_at_the_least_squares_solution():
    # Six independent atoms, their multiples and sums; examples meet the dependent ones at different steps.
    x, dictionary = problem(examples=40, inputs=16, atoms=6)
    dictionary = np.concatenate([dictionary, -2 * dictionary, dictionary + dictionary[:, ::-1]], 1)
    result = orthogonal_matching_pursuit(x, dictionary, k=16)
    code = np.asarray(result.code)
    assert np.all((code != 0).sum(1) <= 6)
    best = np.linalg.lstsq(dictionary, x.T, rcond=1e-5)[0].T
    np.testing.assert_allclose(code @ dictionary.T, best @ dictionary.T, atol=1e-4)


@each_pursuit
def test_nan_stays_in_its_example(pursue):
    x, dictionary = problem()
    clean = pursue(x, dictionary, k=4)
    x[3, 2] = np.nan
    result = pursue(x, dictionary, k=4)
    assert np.isnan(result.code[3]).any() and np.isnan(result.gap[3])
    others = np.arange(len(x)) != 3
    np.testing.assert_array_equal(result.code[others], clean.code[others])
    dictionary[1, 7] = np.nan
    assert np.isnan(pursue(x, dictionary, k=4).code).any(1).all()


@each_pursuit
def test_a_vmap_is_a_batch_and_the_code_is_linear_on_its_atoms(pursue):
    x, dictionary = problem()

    def of(x):
        return pursue(x, dictionary, k=10).code

    code, tangent = jax.jvp(of, (x,), (x,))
    np.testing.assert_allclose(tangent, code, atol=1e-4)
    np.testing.assert_allclose(jax.vmap(of)(x), code, atol=1e-5)


def test_large_and_sharded_batches_give_the_codes_of_small_ones():
    x, dictionary = problem(examples=2048)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    by_examples = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    sharded = orthogonal_matching_pursuit(jax.device_put(x, by_examples), dictionary, k=3)
    assert sharded.code.sharding.is_equivalent_to(by_examples, 2)
    small = [orthogonal_matching_pursuit(part, dictionary, k=3) for part in np.split(x, 8)]
    odd = orthogonal_matching_pursuit(x[:2041], dictionary, k=3)
    for whole, most, *parts in zip(sharded, odd, *small, strict=True):
        np.testing.assert_allclose(whole, np.concatenate(parts), atol=1e-5)
        np.testing.assert_allclose(most, whole[:2041], atol=1e-5)


@pytest.mark.optimized
def test_orthogonal_matching_pursuit_copies_no_rows_of_the_gram_matrix():
    x, dictionary = jax.ShapeDtypeStruct((256, 32), jnp.float32), jax.ShapeDtypeStruct((32, 512), jnp.float32)
    program = jax.jit(lambda x, dictionary: orthogonal_matching_pursuit(x, dictionary, k=32)).lower(x, dictionary)
    memory = program.compile().memory_analysis()
    eight_rows_each = 4 * 8 * 256 * 512
    assert memory.temp_size_in_bytes < 1.5 * eight_rows_each


def test_matching_pursuit_continues_from_a_code():
    x, dictionary = problem()
    half = matching_pursuit(x, dictionary, k=3)
    whole = matching_pursuit(x, dictionary, k=3, initial=half.code)
    np.testing.assert_allclose(whole.code, matching_pursuit(x, dictionary, k=6).code, atol=1e-5)


def _l0_objective(x, dictionary, code, l0):
    return ((x - code @ dictionary.T) ** 2).sum(-1) / 2 + l0 * (code != 0).sum(-1)


def test_sparse_set_never_rises_and_ends_at_a_coordinatewise_minimum():
    x, dictionary = problem()
    codes = [np.zeros((12, 24), np.float32)]
    for _ in range(40):
        step = sparse_set(x, dictionary, l0=0.05, initial=codes[-1], tolerance=None, max_iterations=1)
        codes.append(np.asarray(step.code))
        assert np.all((codes[-1] != codes[-2]).sum(1) <= 1) and np.all(step.iterations == 1)
    values = np.stack([_l0_objective(x, dictionary, code, 0.05) for code in codes])
    assert np.all(np.diff(values, axis=0) <= 1e-6) and np.all(values[-1] < values[0])
    result = sparse_set(x, dictionary, l0=0.05, tolerance=1e-6)
    least = _l0_objective(x, dictionary, np.asarray(result.code), 0.05)
    np.testing.assert_allclose(least, values[-1], rtol=1e-4)
    for atom, value in itertools.product(range(0, 24, 3), np.linspace(-1, 1, 21)):
        other = np.array(result.code)
        other[:, atom] = value
        assert np.all(_l0_objective(x, dictionary, other, 0.05) >= least - 1e-5)


def test_sparse_set_finds_the_best_of_all_sets_on_small_problems():
    # Not guaranteed, but for incoherent atoms it should almost always be close.
    x, dictionary = problem(examples=10, inputs=12, atoms=8)
    ours = _l0_objective(x, dictionary, np.asarray(sparse_set(x, dictionary, l0=0.05).code), 0.05)
    best = (x**2).sum(1) / 2
    for size in range(1, 9):
        for chosen in itertools.combinations(range(8), size):
            part = dictionary[:, chosen]
            code = np.linalg.lstsq(part, x.T, rcond=None)[0].T
            best = np.minimum(best, ((x - code @ part.T) ** 2).sum(1) / 2 + 0.05 * size)
    assert np.all(ours >= best - 1e-5)
    assert np.mean(ours <= best * 1.02 + 1e-5) >= 0.8


def test_sparse_set_removes_atoms_and_starts_warm():
    x, dictionary = problem()
    full = np.linalg.lstsq(dictionary, x.T, rcond=None)[0].T.astype(np.float32)
    result = sparse_set(x, dictionary, l0=0.05, initial=full)
    assert np.count_nonzero(result.code) < 0.5 * full.size
    again = sparse_set(x, dictionary, l0=0.05, initial=result.code)
    assert int(again.iterations.max()) == 0


@pytest.mark.wrong_types
def test_errors_say_what_was_expected():
    x, dictionary = problem()
    with pytest.raises(ValueError, match="k is -1"):
        matching_pursuit(x, dictionary, k=-1)
    with pytest.raises(ValueError, match="pass its transpose"):
        orthogonal_matching_pursuit(x, dictionary.T, k=2)
    with pytest.raises(ValueError, match="static upper bound"):
        orthogonal_matching_pursuit(x, dictionary, k=jnp.int32(3))
    with pytest.raises(ValueError, match="at_most is 0"):
        orthogonal_matching_pursuit(x, dictionary, k=jnp.int32(3), at_most=0)
    with pytest.raises(ValueError, match="l0 is 0"):
        sparse_set(x, dictionary, l0=0)
