"""Sparsenet, mini-batch dictionary learning, and the scikit-learn interface."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.coding import (
    DictionaryLearner,
    DictionaryState,
    SparsenetState,
    admm,
    dictionary,
    dictionary_step,
    init_dictionary,
    init_sparsenet,
    lasso_objective,
    sparsenet_code,
    sparsenet_objective,
    sparsenet_step,
)
from tests.coding.problems import problem

each_cost = pytest.mark.parametrize("sparseness", ["cauchy", "l1", "gaussian"])
begun = jax.jit(init_dictionary, static_argnames="atoms")
dictionary_stepped = jax.jit(dictionary_step, static_argnames="sweeps")
coded = jax.jit(sparsenet_code, static_argnames=("sparseness", "max_iterations"))
sparsenet_value = jax.jit(sparsenet_objective, static_argnames="sparseness")


@each_cost
def test_inference_never_rises_and_ends_at_a_stationary_point(sparseness):
    x, dictionary = problem()
    settings = {"sparseness": sparseness, "penalty": 0.05, "scale": 0.5}
    codes = [coded(x, dictionary, max_iterations=n, **settings) for n in (0, 5, 400)]
    means = [float(sparsenet_value(x, dictionary, result.code, **settings).mean()) for result in codes]
    assert means == sorted(means, reverse=True) and means[0] > means[-1]
    result = codes[-1]
    if sparseness == "l1":
        expected = admm(x, dictionary, l1=0.05 / 0.5, tolerance=1e-6, max_iterations=100_000).code
        np.testing.assert_allclose(result.code, expected, atol=2e-3)
        return
    slope = jax.jit(jax.grad(lambda code: jnp.sum(sparsenet_objective(x, dictionary, code, **settings))))(result.code)
    np.testing.assert_allclose(slope, 0, atol=2e-3)
    assert float(result.gap.max()) < 1e-5
    warm = coded(x, dictionary, initial=result.code, max_iterations=1, **settings)
    np.testing.assert_allclose(warm.code, result.code, atol=2e-3)


def test_the_three_costs_by_hand():
    x, dictionary, code = np.zeros((1, 1), np.float32), np.ones((1, 1), np.float32), np.full((1, 1), 0.6, np.float32)
    expected = {"cauchy": np.log1p(4.0), "l1": 2.0, "gaussian": 1 - np.exp(-4.0)}
    for sparseness, cost in expected.items():
        value = sparsenet_value(x, dictionary, code, sparseness=sparseness, penalty=0.1, scale=0.3)
        np.testing.assert_allclose(value, 0.18 + 0.1 * cost, rtol=1e-6)


@pytest.mark.parametrize(
    "sparseness", ["cauchy", *(pytest.param(s, marks=pytest.mark.slow) for s in ("l1", "gaussian"))]
)
def test_sparsenet_learns_the_atoms_that_made_the_data(sparseness):
    rng = np.random.default_rng(0)
    truth = np.linalg.qr(rng.standard_normal((16, 16)))[0].astype(np.float32)
    code = rng.laplace(size=(2000, 16)) * (rng.random((2000, 16)) < 0.15)
    x = jnp.asarray(code @ truth.T, jnp.float32)
    settings = {"sparseness": sparseness, "penalty": 0.1, "variance_goal": 0.3}

    @jax.jit
    def learn(state):
        return jax.lax.scan(
            lambda state, i: sparsenet_step(state, x[jnp.arange(100) + 100 * (i % 20)], **settings),
            state,
            jnp.arange(700),
        )

    state, metrics = learn(init_sparsenet(jax.random.key(1), 16, 16, variance_goal=0.3))
    lengths = np.linalg.norm(state.dictionary, axis=0)
    found = np.abs(truth.T @ (np.asarray(state.dictionary) / lengths)).max(1)
    assert np.all(found > 0.99)
    assert metrics.error[-50:].mean() < 0.5 * metrics.error[:10].mean()
    np.testing.assert_allclose(lengths, state.gain, rtol=1e-4)


def test_an_inactive_atom_is_replaced_by_the_worst_patch():
    (x, dictionary), step = problem(), jax.jit(sparsenet_step)
    variance = np.full(24, 0.1, np.float32)
    variance[5] = 0
    state = SparsenetState(dictionary, np.ones(24, np.float32), variance)
    frozen = {"learning_rate": 0.0, "variance_rate": 0.0, "gain_exponent": 0.0}
    after, metrics = step(state, x, least_variance=0.1, **frozen)
    residual = x - np.asarray(coded(x, dictionary).code) @ dictionary.T
    np.testing.assert_allclose(metrics.error, (residual**2).sum() / (x**2).sum(), rtol=1e-4)
    worst = x[np.argmax((residual**2).sum(1))]
    np.testing.assert_allclose(after.dictionary[:, 5], worst / np.linalg.norm(worst), rtol=1e-4)
    np.testing.assert_allclose(after.dictionary[:, 6], dictionary[:, 6], rtol=1e-4)
    never, _ = step(state, x, least_variance=0.0, **frozen)
    np.testing.assert_allclose(never.dictionary[:, 5], dictionary[:, 5], rtol=1e-4)


@pytest.mark.slow
def test_dictionary_learning_lowers_the_objective_of_other_examples():
    x, _ = problem(examples=240, seed=3)
    state = begun(jax.random.key(0), x, atoms=24)
    np.testing.assert_allclose(np.linalg.norm(state.dictionary, axis=0), 1, rtol=1e-5)
    test, before = x[200:], state.dictionary
    for i in range(40):
        state = dictionary_stepped(state, x[40 * (i % 5) : 40 * (i % 5) + 40], l1=0.1)[0]

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
    after, code = dictionary_stepped(state, x, l1=0.1, forget=0.0, sweeps=2)
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
    second, code = dictionary_stepped(after, x, l1=0.1, forget=0.0, sweeps=2)
    code = np.asarray(code.code)
    np.testing.assert_allclose(second.codes, a + code.T @ code / 50, rtol=1e-3, atol=1e-5)


def test_unused_atoms_become_examples():
    x, _ = problem(examples=50)
    state = begun(jax.random.key(0), x, atoms=8)
    state = state._replace(dictionary=state.dictionary.at[:, 2].set(0.0))
    after, _ = dictionary_stepped(state, x, l1=0.1, forget=1.0, sweeps=2)
    directions = x / np.linalg.norm(x, axis=1, keepdims=True)
    assert np.max(directions @ np.asarray(after.dictionary[:, 2])) > 0.999


@pytest.mark.slow
def test_a_pipeline_accepts_the_learner():
    base, pipeline = pytest.importorskip("sklearn.base"), pytest.importorskip("sklearn.pipeline")
    selection, preprocessing = (
        pytest.importorskip("sklearn.model_selection"),
        pytest.importorskip("sklearn.preprocessing"),
    )
    linear_model = pytest.importorskip("sklearn.linear_model")
    x, _ = problem(examples=120)
    y = (x[:, 0] > 0).astype(int)
    steps = [preprocessing.StandardScaler(), DictionaryLearner(atoms=8, l1=0.3, epochs=2, batch_size=60)]
    model = pipeline.make_pipeline(*steps, linear_model.LogisticRegression())
    assert model.fit(x[:60], y[:60]).score(x[:60], y[:60]) > 0.6
    assert model[:-1].transform(x[60:]).shape == (60, 8)
    grid = selection.GridSearchCV(model, {"dictionarylearner__l1": [0.2, 0.4]}, cv=2, refit=False)
    grid.fit(x, y)
    assert grid.best_params_["dictionarylearner__l1"] in (0.2, 0.4) and np.isfinite(grid.best_score_)
    learner = DictionaryLearner(atoms=5, l1=0.7, k=2)
    copy = base.clone(learner)
    assert copy is not learner and copy.get_params() == learner.get_params()
    assert "atoms=5" in repr(copy)


def test_fit_transform_and_back():
    x, _ = problem(examples=60)
    learner = DictionaryLearner(atoms=24, l1=0.05, epochs=5, batch_size=20, tolerance=1e-4)
    code = learner.fit_transform(x)
    assert code.shape == (60, 24) and code.dtype == np.float32
    assert learner.components_.shape == (24, 16) and learner.n_steps_ == 15
    error = np.linalg.norm(learner.inverse_transform(code) - x) / np.linalg.norm(x)
    assert error < 0.4
    again = DictionaryLearner(atoms=24, l1=0.05, epochs=5, batch_size=20, tolerance=1e-4).fit(x)
    np.testing.assert_array_equal(again.components_, learner.components_)
    greedy = learner.set_params(k=3).transform(x)
    assert np.count_nonzero(greedy, axis=1).max() <= 3
    before = learner.components_
    learner.partial_fit(x[:20])
    assert learner.n_steps_ == 16 and np.any(learner.components_ != before)
    assert list(learner.get_feature_names_out()[:2]) == ["dictionarylearner0", "dictionarylearner1"]


@pytest.mark.wrong_types
def test_errors_say_what_was_expected():
    x, dictionary = problem()
    learner = DictionaryLearner(atoms=4)
    with pytest.raises(ValueError, match="no dictionary yet"):
        learner.transform(x)
    with pytest.raises(ValueError, match="no setting 'alpha'"):
        learner.set_params(alpha=1)
    with pytest.raises(ValueError, match="not finite"):
        learner.fit(np.full((3, 4), np.nan))
    with pytest.raises(ValueError, match=r"X has shape \(16,\)"):
        learner.fit(x[0])
    with pytest.raises(ValueError, match="atoms is 0"):
        DictionaryLearner(atoms=0).fit(x)
    with pytest.raises(ValueError, match="l1 is -1"):
        DictionaryLearner(l1=-1).fit(x)
    state = DictionaryState(dictionary, np.zeros((24, 24), np.float32), np.zeros_like(dictionary), np.int32(0))
    with pytest.raises(ValueError, match="X has 5 columns"):
        learner._store(state).transform(x[:, :5])
    with pytest.raises(ValueError, match="sparseness is 'log'"):
        sparsenet_code(x, dictionary, sparseness="log")
    with pytest.raises(ValueError, match="scale is 0"):
        sparsenet_code(x, dictionary, scale=0)
    with pytest.raises(ValueError, match="inputs is 0 and atoms 4"):
        init_sparsenet(jax.random.key(0), 0, 4)
    with pytest.raises(ValueError, match=r"expected \[examples, inputs\]"):
        sparsenet_step(SparsenetState(dictionary, np.ones(24), np.ones(24)), x[0])
    with pytest.raises(ValueError, match=r"expected \[examples, inputs\]"):
        dictionary_step(state, x[0], l1=0.1)
    with pytest.raises(ValueError, match="atoms is 0"):
        init_dictionary(jax.random.key(0), x, atoms=0)
