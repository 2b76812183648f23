"""Sparsenet, mini-batch dictionary learning, and the scikit-learn interface."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.coding import (
    DictionaryLearner,
    admm,
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


@each_cost
def test_inference_never_rises_and_ends_at_a_stationary_point(sparseness):
    x, dictionary = problem()
    settings = {"sparseness": sparseness, "penalty": 0.05, "scale": 0.5}
    values = [
        sparsenet_objective(x, dictionary, sparsenet_code(x, dictionary, max_iterations=n, **settings).code, **settings)
        for n in (0, 5, 20, 200)
    ]
    means = [float(value.mean()) for value in values]
    assert means == sorted(means, reverse=True) and means[0] > means[-1]
    result = sparsenet_code(x, dictionary, max_iterations=400, **settings)
    if sparseness == "l1":
        expected = admm(x, dictionary, l1=0.05 / 0.5, tolerance=1e-6).code
        np.testing.assert_allclose(result.code, expected, atol=2e-3)
        return
    slope = jax.grad(lambda code: jnp.sum(sparsenet_objective(x, dictionary, code, **settings)))(result.code)
    np.testing.assert_allclose(slope, 0, atol=2e-3)
    assert float(result.gap.max()) < 1e-5
    warm = sparsenet_code(x, dictionary, initial=result.code, max_iterations=1, **settings)
    np.testing.assert_allclose(warm.code, result.code, atol=2e-3)


def test_the_three_costs_by_hand():
    x, dictionary, code = jnp.zeros((1, 1)), jnp.ones((1, 1)), jnp.full((1, 1), 0.6)
    expected = {"cauchy": np.log1p(4.0), "l1": 2.0, "gaussian": 1 - np.exp(-4.0)}
    for sparseness, cost in expected.items():
        value = sparsenet_objective(x, dictionary, code, sparseness=sparseness, penalty=0.1, scale=0.3)
        np.testing.assert_allclose(value, 0.18 + 0.1 * cost, rtol=1e-6)


@each_cost
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
            jnp.arange(1500),
        )

    state, metrics = learn(init_sparsenet(jax.random.key(1), 16, 16, variance_goal=0.3))
    directions = state.dictionary / jnp.linalg.norm(state.dictionary, axis=0)[None, :]
    found = np.abs(truth.T @ np.asarray(directions)).max(1)
    assert np.all(found > 0.99)
    assert metrics.error[-50:].mean() < 0.5 * metrics.error[:10].mean()
    np.testing.assert_allclose(jnp.linalg.norm(state.dictionary, axis=0), state.gain, rtol=1e-4)


def test_a_silent_atom_starts_again_from_the_worst_patch():
    x, dictionary = problem()
    state = init_sparsenet(jax.random.key(0), 16, 24)
    state = state._replace(dictionary=jnp.asarray(dictionary), variance=state.variance.at[5].set(0.0))
    frozen = {"learning_rate": 0.0, "variance_rate": 0.0, "gain_exponent": 0.0}
    after, _ = sparsenet_step(state, x, **frozen)
    residual = x - sparsenet_code(x, dictionary).code @ dictionary.T
    worst = x[np.argmax((residual**2).sum(1))]
    np.testing.assert_allclose(after.dictionary[:, 5], worst / np.linalg.norm(worst), rtol=1e-4)
    np.testing.assert_allclose(after.dictionary[:, 6], dictionary[:, 6], rtol=1e-4)
    never, _ = sparsenet_step(state, x, least_variance=0.0, **frozen)
    np.testing.assert_allclose(never.dictionary[:, 5], dictionary[:, 5], rtol=1e-4)


@pytest.mark.slow
def test_dictionary_learning_lowers_the_objective_of_other_examples():
    x, _ = problem(examples=600, seed=3)
    state = init_dictionary(jax.random.key(0), x, atoms=24)
    np.testing.assert_allclose(jnp.linalg.norm(state.dictionary, axis=0), 1, rtol=1e-5)
    step = jax.jit(lambda state, x: dictionary_step(state, x, l1=0.1)[0])
    test, before = x[500:], state.dictionary
    for i in range(40):
        state = step(state, x[100 * (i % 5) : 100 * (i % 5) + 100])

    def value(dictionary):
        code = admm(test, dictionary, l1=0.1).code
        return float(lasso_objective(test, dictionary, code, l1=0.1).mean())

    assert value(state.dictionary) < 0.8 * value(before)
    assert float(jnp.linalg.norm(state.dictionary, axis=0).max()) <= 1 + 1e-5
    assert int(state.steps) == 40


@pytest.mark.slow
def test_a_dictionary_step_minimises_the_surrogate_atom_by_atom():
    x, _ = problem(examples=50)
    state = init_dictionary(jax.random.key(0), x, atoms=8)
    after, code = dictionary_step(state, x, l1=0.1, forget=0.0, sweeps=50)
    a, b = code.code.T @ code.code / 50, x.T @ code.code / 50
    np.testing.assert_allclose(after.codes, a, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(after.products, b, rtol=1e-4, atol=1e-6)
    # At the minimum the gradient is 0 or, of an atom of length 1, points outwards.
    learnt = np.asarray(after.dictionary)
    slope = np.asarray(b) - learnt @ np.asarray(a)
    outward, lengths = (slope * learnt).sum(0), np.linalg.norm(learnt, axis=0)
    assert np.all(outward[lengths > 0.999] > -1e-5)
    np.testing.assert_allclose(slope - np.where(lengths > 0.999, outward, 0) * learnt, 0, atol=1e-4)
    twice, second = dictionary_step(after, x, l1=0.1, forget=0.0)
    np.testing.assert_allclose(twice.codes, a + second.code.T @ second.code / 50, rtol=1e-3, atol=1e-5)


def test_unused_atoms_become_examples():
    x, _ = problem(examples=50)
    state = init_dictionary(jax.random.key(0), x, atoms=6)
    state = state._replace(dictionary=state.dictionary.at[:, 2].set(0.0))
    after, _ = dictionary_step(state, x, l1=0.1)
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
    steps = [preprocessing.StandardScaler(), DictionaryLearner(atoms=8, l1=0.3, epochs=2, batch_size=50)]
    model = pipeline.make_pipeline(*steps, linear_model.LogisticRegression())
    assert model.fit(x, y).score(x, y) > 0.6
    assert model[:-1].transform(x).shape == (120, 8)
    grid = selection.GridSearchCV(model, {"dictionarylearner__l1": [0.2, 0.4]}, cv=2)
    assert grid.fit(x, y).best_params_["dictionarylearner__l1"] in (0.2, 0.4)
    learner = DictionaryLearner(atoms=5, l1=0.7, k=2)
    copy = base.clone(learner)
    assert copy is not learner and copy.get_params() == learner.get_params()
    assert "atoms=5" in repr(copy)


@pytest.mark.slow
def test_fit_transform_and_back():
    x, _ = problem(examples=300)
    learner = DictionaryLearner(atoms=24, l1=0.05, epochs=5, batch_size=100, tolerance=1e-4)
    code = learner.fit_transform(x)
    assert code.shape == (300, 24) and code.dtype == np.float32
    assert learner.components_.shape == (24, 16) and learner.n_steps_ == 15
    error = np.linalg.norm(learner.inverse_transform(code) - x) / np.linalg.norm(x)
    assert error < 0.4
    again = DictionaryLearner(atoms=24, l1=0.05, epochs=5, batch_size=100, tolerance=1e-4).fit(x)
    np.testing.assert_array_equal(again.components_, learner.components_)
    greedy = learner.set_params(k=3).transform(x)
    assert np.count_nonzero(greedy, axis=1).max() <= 3
    before = learner.components_
    learner.partial_fit(x[:50])
    assert learner.n_steps_ == 16 and np.any(learner.components_ != before)
    assert list(learner.get_feature_names_out()[:2]) == ["dictionarylearner0", "dictionarylearner1"]


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
    with pytest.raises(ValueError, match="X has 5 columns"):
        learner.partial_fit(x).transform(x[:, :5])
    with pytest.raises(ValueError, match="sparseness is 'log'"):
        sparsenet_code(x, dictionary, sparseness="log")
    with pytest.raises(ValueError, match="scale is 0"):
        sparsenet_code(x, dictionary, scale=0)
    with pytest.raises(ValueError, match="one batch"):
        sparsenet_step(init_sparsenet(jax.random.key(0), 16, 4), x[0])
    with pytest.raises(ValueError, match="one batch"):
        dictionary_step(init_dictionary(jax.random.key(0), x, atoms=4), x[0], l1=0.1)
    with pytest.raises(ValueError, match="atoms is 0"):
        init_dictionary(jax.random.key(0), x, atoms=0)
