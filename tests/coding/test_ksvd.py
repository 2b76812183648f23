"""K-SVD and MOD: the error never rises, planted atoms are found, and unused atoms are replaced."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.coding import init_dictionary, ksvd_step, mod_step, orthogonal_matching_pursuit, sparse_set
from tests.coding.problems import problem

STEPS = {"ksvd": ksvd_step, "mod": mod_step}
each_method = pytest.mark.parametrize("method", STEPS)
jitted = {
    "ksvd": jax.jit(ksvd_step, static_argnames=("k", "sweeps")),
    "mod": jax.jit(mod_step, static_argnames="k"),
}


def swept(x, dictionary, code):
    """One sweep of the approximate K-SVD in NumPy, atom by atom."""
    dictionary, code = dictionary.copy(), code.copy()
    for j in range(dictionary.shape[1]):
        users = np.flatnonzero(code[:, j])
        if not len(users):
            continue
        g = code[users, j]
        error = (x[users] - code[users] @ dictionary.T + np.outer(g, dictionary[:, j])).T
        dictionary[:, j] = error @ g / np.linalg.norm(error @ g)
        code[users, j] = error.T @ dictionary[:, j]
    return dictionary, code


def problem_of(examples, seed=0):
    x, dictionary = problem(examples=examples, seed=seed)
    return jnp.asarray(x), jnp.asarray(dictionary)


@pytest.mark.parametrize("setting", [{"k": 3}, {"l0": 0.05}])
def test_a_sweep_is_that_of_numpy(setting):
    x, dictionary = problem_of(300)  # more examples than one part of an atom's list
    code = orthogonal_matching_pursuit if "k" in setting else sparse_set
    code = np.array(code(x, dictionary, **setting).code, np.float64)
    expected = swept(np.asarray(x, np.float64), np.asarray(dictionary, np.float64), code)
    new, fit = ksvd_step(dictionary, x, **setting)
    np.testing.assert_allclose(new, expected[0], atol=1e-4)
    np.testing.assert_allclose(fit.code, expected[1], atol=1e-4)
    wide = np.asarray(x, np.float64)
    before, after = (np.sum((wide - c @ d.T) ** 2) / 300 for d, c in ((np.asarray(dictionary), code), expected))
    np.testing.assert_allclose([fit.coding_error, fit.error], [before, after], rtol=1e-3)


def test_mod_is_the_least_squares_dictionary():
    x, dictionary = problem_of(300)
    code = np.asarray(orthogonal_matching_pursuit(x, dictionary, k=3).code, np.float64)
    best = np.linalg.lstsq(code, np.asarray(x, np.float64), rcond=None)[0].T
    new, fit = mod_step(dictionary, x, k=3)
    lengths = np.linalg.norm(best, axis=0)
    np.testing.assert_allclose(new, best / lengths, atol=1e-3)
    np.testing.assert_allclose(fit.code, code * lengths, atol=1e-3)


@each_method
def test_the_error_never_rises_after_the_coding(method):
    x, dictionary = problem_of(120, seed=1)
    sweeps = {"sweeps": 2} if method == "ksvd" else {}
    for _ in range(6):
        dictionary, fit = jitted[method](dictionary, x, k=2, **sweeps)
        assert float(fit.error) <= float(fit.coding_error) * (1 + 1e-6)
        assert np.count_nonzero(fit.code, axis=1).max() <= 2
        np.testing.assert_allclose(np.linalg.norm(dictionary, axis=0), 1, rtol=1e-5)


@pytest.mark.parametrize(("method", "setting"), [("ksvd", {"k": 2}), ("mod", {"k": 2}), ("ksvd", {"l0": 0.02})])
def test_the_atoms_that_made_the_data_are_found(method, setting):
    rng = np.random.default_rng(3)
    truth = rng.standard_normal((16, 24)).astype(np.float32)
    truth /= np.linalg.norm(truth, axis=0)
    code = np.zeros((1500, 24), np.float32)
    np.put_along_axis(code, rng.permuted(np.tile(np.arange(24), (1500, 1)), axis=1)[:, :2],
                      rng.standard_normal((1500, 2)).astype(np.float32), 1)  # fmt: skip
    x = jnp.asarray(code @ truth.T + 0.01 * rng.standard_normal((1500, 16)), jnp.float32)
    dictionary = init_dictionary(jax.random.key(0), x, atoms=24).dictionary
    if "l0" in setting:  # single coefficients change at a time, so that more starts end in other minima
        dictionary = jnp.asarray(truth + 0.2 * rng.standard_normal(truth.shape), jnp.float32)
    for _ in range(40):
        dictionary, _ = jitted[method](dictionary, x, **setting)
    found = np.abs(truth.T @ np.asarray(dictionary)).max(1)
    assert np.mean(found > 0.99) >= 0.9, np.sort(found)


@each_method
def test_unused_atoms_become_the_worst_examples(method):
    x, dictionary = problem_of(60)
    dictionary = dictionary.at[:, jnp.array([2, 7])].set(0)
    new, fit = jitted[method](dictionary, x, k=2)
    directions = x / np.linalg.norm(x, axis=1, keepdims=True)
    found = np.asarray(directions @ new[:, np.array([2, 7])])
    assert (found.max(0) > 0.9999).all() and len(set(found.argmax(0))) == 2
    unused = int(np.sum(~np.any(np.asarray(fit.code) != 0, axis=0)))
    assert int(fit.replaced) == unused >= 2


@each_method
def test_examples_that_are_not_finite_are_left_out(method):
    x, dictionary = problem_of(60)
    spoilt = x.at[3, 2].set(jnp.nan).at[11, 0].set(jnp.inf)
    others = jnp.asarray(np.delete(np.asarray(x), (3, 11), axis=0))
    (new, fit), (expected, clean) = (jitted[method](dictionary, batch, k=2) for batch in (spoilt, others))
    np.testing.assert_allclose(new, expected, atol=1e-4)
    np.testing.assert_allclose(fit.error, clean.error, rtol=1e-4)
    assert int(fit.left_out) == 2 and np.isnan(np.asarray(fit.code)[[3, 11]]).all()
    nothing, fit = jitted[method](dictionary, jnp.full_like(x, jnp.nan), k=2)
    np.testing.assert_allclose(nothing, dictionary, rtol=1e-6)
    assert int(fit.left_out) == 60 and float(fit.error) == 0


@each_method
def test_empty_batches_both_precisions_and_numpy(method):
    x, dictionary = problem(examples=30)
    step = functools.partial(STEPS[method], k=np.int64(2))
    same, fit = step(dictionary, x[:0])
    np.testing.assert_array_equal(same, dictionary)
    assert fit.code.shape == (0, 24)
    narrow = step(dictionary, x)[0]
    with jax.enable_x64(True):
        wide = step(dictionary.astype(np.float64), x.astype(np.float64))[0]
        assert wide.dtype == jnp.float64
        assert step(dictionary, x)[1].code.dtype == jnp.float32
    np.testing.assert_allclose(narrow, wide, atol=1e-3)


@pytest.mark.wrong_types
def test_errors_say_what_was_expected():
    x, dictionary = problem()
    for step in STEPS.values():
        with pytest.raises(ValueError, match="neither is given; expected either k"):
            step(dictionary, x)
        with pytest.raises(ValueError, match=r"k=2 and l0=0\.1 is given"):
            step(dictionary, x, k=2, l0=0.1)
        with pytest.raises(ValueError, match="k is 0; expected 1 or more"):
            step(dictionary, x, k=0)
        with pytest.raises(ValueError, match="l0 is -1"):
            step(dictionary, x, l0=-1)
        with pytest.raises(ValueError, match="pass its transpose"):
            step(dictionary.T, x, k=2)
    with pytest.raises(ValueError, match="sweeps is 0"):
        ksvd_step(dictionary, x, k=2, sweeps=0)
