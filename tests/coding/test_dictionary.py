"""Mini-batch dictionary learning: one step, what it leaves out, and its precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.coding import (
    DictionaryState,
    admm,
    dictionary,
    dictionary_step,
    init_dictionary,
    lasso_objective,
    sparse_set,
    update_dictionary,
)
from tests.coding.problems import problem

begun = jax.jit(init_dictionary, static_argnames=("atoms", "nonnegative_atoms"))
stepped = jax.jit(dictionary_step, static_argnames=("sweeps", "k", "nonnegative", "nonnegative_atoms"))
updated = jax.jit(update_dictionary, static_argnames=("sweeps", "nonnegative_atoms"))


@pytest.mark.slow
def test_dictionary_learning_lowers_the_objective_of_other_examples():
    x, _ = problem(examples=240, seed=3)
    state = begun(jax.random.key(0), x, atoms=24)
    np.testing.assert_allclose(np.linalg.norm(state.dictionary, axis=0), 1, rtol=1e-5)
    test, before = x[200:], state.dictionary
    for i in range(40):
        state = stepped(state, x[40 * (i % 5) : 40 * (i % 5) + 40], l1=0.1)[0]

    @jax.jit
    def value(dictionary):
        code = admm(test, dictionary, l1=0.1).code
        return lasso_objective(test, dictionary, code, l1=0.1).mean()

    assert float(value(state.dictionary)) < 0.8 * float(value(before))
    assert float(np.linalg.norm(state.dictionary, axis=0).max()) <= 1 + 1e-5
    assert int(state.steps) == 40


def test_a_dictionary_step_minimises_the_surrogate_atom_by_atom():
    x, _ = problem(examples=50)
    state = begun(jax.random.key(0), x, atoms=8)
    after, code = stepped(state, x, l1=0.1, forget=0.0, sweeps=2)
    code = np.asarray(code.code)
    a, b = code.T @ code / 50, x.T @ code / 50
    np.testing.assert_allclose(after.codes, a, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(after.products, b, rtol=1e-4, atol=1e-6)
    learnt = [state.dictionary]  # of a step with so many sweeps over the atoms
    for _ in range(50):
        learnt.append(dictionary._sweep(learnt[-1], after.codes, after.products))
    np.testing.assert_allclose(after.dictionary, learnt[2], atol=1e-5)
    # At the minimum the gradient is 0 or, of an atom of length 1, points outwards.
    least = np.asarray(learnt[-1])
    slope = b - least @ a
    outward, lengths = (slope * least).sum(0), np.linalg.norm(least, axis=0)
    assert np.all(outward[lengths > 0.999] > -1e-5)
    np.testing.assert_allclose(slope - np.where(lengths > 0.999, outward, 0) * least, 0, atol=1e-4)
    second, code = stepped(after, x, l1=0.1, forget=0.0, sweeps=2)
    code = np.asarray(code.code)
    np.testing.assert_allclose(second.codes, a + code.T @ code / 50, rtol=1e-3, atol=1e-5)


def test_unused_atoms_become_examples():
    x, _ = problem(examples=50)
    state = begun(jax.random.key(0), x, atoms=8)
    state = state._replace(dictionary=state.dictionary.at[:, 2].set(0.0))
    after, _ = stepped(state, x, l1=0.1, forget=1.0, sweeps=2)
    directions = x / np.linalg.norm(x, axis=1, keepdims=True)
    assert np.max(directions @ np.asarray(after.dictionary[:, 2])) > 0.999


def test_a_zero_atom_with_statistics_is_replaced_and_begins_anew():
    x, _ = problem(examples=50)
    state = stepped(begun(jax.random.key(0), x, atoms=8), x, l1=0.1)[0]
    state = state._replace(
        dictionary=state.dictionary.at[:, 2].set(0.0),
        products=state.products.at[:, 2].set(0.0),
        codes=state.codes.at[:, 2].set(0.0).at[2].set(0.0).at[2, 2].set(1.0),
    )
    after, _ = stepped(state, x, l1=0.1)
    np.testing.assert_allclose(np.linalg.norm(after.dictionary[:, 2]), 1, rtol=1e-5)
    assert not np.any(after.codes[2]) and not np.any(after.products[:, 2])


@pytest.mark.parametrize("by", [{"l1": 0.1}, {"k": 3}], ids=["lasso", "pursuit"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
def test_examples_that_are_not_finite_are_left_out_and_counted(by, bad):
    x, _ = problem(examples=20)
    state = begun(jax.random.key(0), x, atoms=8)
    clean, _ = stepped(state, x[2:], **by)
    broken = x.copy()
    broken[:2, 1] = bad
    after, code = stepped(state, broken, **by)
    assert after.skipped == 2 and clean.skipped == 0 and after.steps == 1
    for ours, expected in zip(after[:3], clean[:3], strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-4)
    assert bad == 1e30 or (np.isnan(code.code[:2]).all() and np.isnan(code.gap[:2]).all())
    assert np.isfinite(code.code[2:]).all() and np.isfinite(code.gap[2:]).all()
    nothing, _ = stepped(after, np.full_like(x, bad), **by)
    assert nothing.skipped == 22
    jax.tree.map(np.testing.assert_array_equal, nothing._replace(skipped=after.skipped), after)


def test_codes_that_are_not_finite_are_left_out():
    x, _ = problem(examples=20)
    state = begun(jax.random.key(0), x, atoms=8)
    code = np.array(admm(x, state.dictionary, l1=0.1).code)
    expected = updated(state, x[1:], code[1:])
    code[0, 3] = np.nan
    after = updated(state, x, code)
    assert after.skipped == 1
    np.testing.assert_allclose(after.dictionary, expected.dictionary, atol=1e-5)


def test_a_dictionary_begins_with_usable_examples():
    x = np.zeros((6, 4), np.float32)
    x[0], x[1], x[2] = np.nan, np.inf, 3.0
    state = begun(jax.random.key(0), x, atoms=6)
    np.testing.assert_allclose(np.linalg.norm(state.dictionary, axis=0), 1, rtol=1e-5)
    assert np.isclose(state.dictionary, 0.5).all(0).any()


@pytest.mark.parametrize("by", [{"l1": 0.05}, {"k": 2}], ids=["lasso", "pursuit"])
def test_atoms_without_negative_entries(by):
    rng = np.random.default_rng(0)
    truth = np.abs(rng.standard_normal((16, 6)))
    x = (np.abs(rng.laplace(size=(300, 6))) * (rng.random((300, 6)) < 0.3) @ truth.T).astype(np.float32)
    state = begun(jax.random.key(0), x - 0.1, atoms=6, nonnegative_atoms=True)
    assert state.dictionary.min() >= 0
    for _ in range(5):
        state, _ = stepped(state, x, nonnegative_atoms=True, **by)
        assert state.dictionary.min() >= 0 and np.linalg.norm(state.dictionary, axis=0).max() <= 1 + 1e-5
    assert np.linalg.norm(state.dictionary, axis=0).min() > 0
    free, _ = stepped(state, x - 0.5, **by)
    assert free.dictionary.min() < 0


def test_learning_from_codes_of_0_or_more_and_of_the_elastic_net():
    x, _ = problem(examples=50)
    state = begun(jax.random.key(0), x, atoms=8)
    after, code = stepped(state, x, l1=0.1, l2=0.5, nonnegative=True)
    assert code.code.min() >= 0 and code.converged.all()
    np.testing.assert_allclose(code.code, admm(x, state.dictionary, l1=0.1, l2=0.5, nonnegative=True).code, atol=2e-2)
    np.testing.assert_allclose(after.codes, code.code.T @ code.code / 50, rtol=1e-4, atol=1e-6)


def test_learning_from_pursuits_lowers_the_error():
    x, _ = problem(examples=200, seed=3)
    state, errors = begun(jax.random.key(0), x, atoms=24), []
    for _ in range(10):
        state, code = stepped(state, x, k=3)
        assert (np.count_nonzero(code.code, axis=1) <= 3).all()
        errors.append(float(code.gap.mean()))
    assert errors[-1] < 0.7 * errors[0]


def test_codes_of_any_solver_can_be_learned_from():
    x, _ = problem(examples=40)
    state = begun(jax.random.key(0), x, atoms=8)
    code = sparse_set(x, state.dictionary, l0=0.05).code
    after = updated(state, x, code)
    np.testing.assert_allclose(after.codes, code.T @ code / 40, rtol=1e-4, atol=1e-6)
    assert np.any(after.dictionary != state.dictionary)


@pytest.mark.parametrize("given", [np.float32, np.float64])
@pytest.mark.parametrize("kept", [np.float32, np.float64])
def test_a_state_keeps_its_precision_in_a_loop(given, kept):
    if np.float64 in (given, kept) and not jax.config.read("jax_enable_x64"):
        pytest.skip("needs 64-bit mode")
    x, _ = problem(examples=30)
    state = begun(jax.random.key(0), x.astype(kept), atoms=8)
    batches = jnp.asarray(x.reshape(3, 10, 16), given)
    after, codes = jax.lax.scan(lambda state, x: dictionary_step(state, x, l1=0.1), state, batches)
    assert [leaf.dtype for leaf in after] == [leaf.dtype for leaf in state] and after.dictionary.dtype == kept
    assert after.steps == 3 and codes.code.shape == (3, 10, 8)


@pytest.mark.wrong_types
@pytest.mark.parametrize("number", [int, np.int64, np.int32, np.uint8])
def test_integers_of_numpy_are_integers(number):
    x, _ = problem()
    state = init_dictionary(jax.random.key(0), x, atoms=number(5))
    after, code = dictionary_step(state, x, k=number(2), sweeps=number(1), max_iterations=number(10))
    assert after.dictionary.shape == (16, 5) and (np.count_nonzero(code.code, axis=1) <= 2).all()
    with pytest.raises(ValueError, match="atoms is 0"):
        init_dictionary(jax.random.key(0), x, atoms=number(0))
    with pytest.raises(ValueError, match="sweeps is 0"):
        dictionary_step(state, x, l1=0.1, sweeps=number(0))


@pytest.mark.wrong_types
def test_errors_say_what_was_expected():
    x, atoms = problem()
    empty = np.zeros((24, 24), np.float32), np.zeros_like(atoms), np.int32(0), np.int32(0)
    state = DictionaryState(atoms, *empty)
    with pytest.raises(ValueError, match=r"expected \[examples, inputs\]"):
        dictionary_step(state, x[0], l1=0.1)
    with pytest.raises(ValueError, match="atoms is 0"):
        init_dictionary(jax.random.key(0), x, atoms=0)
    with pytest.raises(ValueError, match="l1 is None and k is None; expected one"):
        dictionary_step(state, x)
    with pytest.raises(ValueError, match=r"l1 is 0\.1 and k is 2; expected one"):
        dictionary_step(state, x, l1=0.1, k=2)
    for wrong in (-1, np.float32(-1), np.nan):
        with pytest.raises(ValueError, match="forget is (-1|nan)"):
            dictionary_step(state, x, l1=0.1, forget=wrong)
    with pytest.raises(ValueError, match=r"x has shape \(12, 16\) and code \(12, 5\); expected"):
        update_dictionary(state, x, np.zeros((12, 5), np.float32))
    with pytest.raises(ValueError, match="12 of x and 3 of code"):
        update_dictionary(state, x, np.zeros((3, 24), np.float32))
