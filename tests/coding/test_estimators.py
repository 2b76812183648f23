"""DictionaryLearner and SparseCoder: what they learn, return, warn of and refuse."""

import pickle
import re
import subprocess
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sparsejax import coding
from sparsejax.coding import DictionaryLearner, SparseCoder, admm, lasso_objective, orthogonal_matching_pursuit
from tests.coding.problems import problem
from tests.command import environment

SMALL = {"atoms": 8, "l1": 0.3, "epochs": 2, "batch_size": 60}


def test_fit_transform_and_back():
    x, _ = problem(examples=60)
    learner = DictionaryLearner(atoms=24, l1=0.05, epochs=5, batch_size=20, tolerance=1e-4)
    code = learner.fit_transform(x)
    assert code.shape == (60, 24) and code.dtype == np.float32
    assert learner.components_.shape == (24, 16) and learner.n_steps_ == 15 and learner.n_iter_ == 5
    error = np.linalg.norm(learner.inverse_transform(code) - x) / np.linalg.norm(x)
    assert error < 0.4
    again = clone(learner).fit(x)
    np.testing.assert_array_equal(again.components_, learner.components_)
    greedy = learner.set_params(k=3).transform(x)
    assert np.count_nonzero(greedy, axis=1).max() <= 3
    before = learner.components_
    learner.partial_fit(x[:20])
    assert learner.n_steps_ == 16 and np.any(learner.components_ != before)
    assert list(learner.get_feature_names_out()[:2]) == ["dictionarylearner0", "dictionarylearner1"]


def test_the_error_of_an_epoch_is_the_mean_objective():
    x, _ = problem(examples=40)
    learner = DictionaryLearner(atoms=8, l1=0.1, epochs=4, batch_size=40, tolerance=1e-5, max_iterations=1000).fit(x)
    one = clone(learner).set_params(epochs=1).fit(x)
    dictionary = one.state_.dictionary
    expected = lasso_objective(x, dictionary, admm(x, dictionary, l1=0.1).code, l1=0.1).mean()
    assert learner.error_.shape == (4,) and learner.error_[1] == pytest.approx(float(expected), rel=1e-3)
    assert (np.diff(learner.error_) < 0).all()


def test_no_example_is_dropped():
    from sparsejax.coding.estimators.learner import _epochs

    for examples, size, epochs in [(10, 4, 3), (7, 7, 2), (5, 2, 1), (9, 4, 4)]:
        batches = list(_epochs(np.random.default_rng(0), examples, size, epochs))
        assert len(batches) == epochs and all(len(rows) == size for epoch in batches for rows in epoch)
        seen = np.bincount(np.concatenate([rows for epoch in batches for rows in epoch]), minlength=examples)
        assert set(seen) <= {epochs, epochs + 1}
        assert sum(map(len, batches)) == -(-examples * epochs // size)
    x, _ = problem(examples=50)
    assert DictionaryLearner(**SMALL | {"batch_size": 20}).fit(x).n_steps_ == 5


def test_fit_stops_when_the_objective_stays():
    x, _ = problem(examples=60)
    many = SMALL | {"epochs": 30}
    learner = DictionaryLearner(**many, stop_tolerance=0.05, patience=2).fit(x)
    best = np.minimum.accumulate(learner.error_)
    assert 3 <= learner.n_iter_ < 30 and len(learner.error_) == learner.n_iter_
    assert (learner.error_[-2:] >= best[-3] * 0.95).all()
    assert DictionaryLearner(**many | {"epochs": 12}).fit(x).n_iter_ == 12


def test_progress_is_printed_to_stderr(capsys):
    x, _ = problem(examples=60)
    DictionaryLearner(**SMALL).fit(x)
    assert capsys.readouterr() == ("", "")
    DictionaryLearner(**SMALL, verbose=True).fit(x)
    lines = capsys.readouterr().err.splitlines()
    assert [line[:34] for line in lines] == [f"DictionaryLearner: epoch {i} of 2, o" for i in (1, 2)]
    assert re.search(r"objective [\d.]+ \(-[\d.]+%\), 100% of the codes converged", lines[1])


def test_learning_under_a_limit_of_atoms():
    x, _ = problem(examples=200, seed=3)
    settings = {"atoms": 24, "k": 3, "epochs": 8, "batch_size": 100}
    pursued = DictionaryLearner(**settings, learn_with="pursuit").fit(x)
    code = pursued.transform(x)
    assert (np.count_nonzero(code, axis=1) <= 3).all()
    assert pursued.error_[-1] < 0.8 * pursued.error_[0]
    assert np.linalg.norm(pursued.components_, axis=1).max() <= 1 + 1e-5
    lasso = DictionaryLearner(**settings, l1=0.1).fit(x)

    def error(learner):
        return np.sum((learner.inverse_transform(learner.transform(x)) - x) ** 2)

    assert error(pursued) < error(lasso)


def test_a_pursuit_ends_at_its_tolerance():
    x, dictionary = problem()
    loose = SparseCoder(dictionary.T, k=8, omp_tolerance=0.2).fit(x)
    code = loose.transform(x)
    np.testing.assert_allclose(code, orthogonal_matching_pursuit(x, dictionary, k=8, tolerance=0.2).code, atol=1e-5)
    left = np.sum((loose.inverse_transform(code) - x) ** 2, 1) / np.sum(x**2, 1)
    assert (left <= 0.2).all() and np.count_nonzero(code, axis=1).max() < 8


def test_a_pursuit_without_k_ends_at_its_error():
    x, dictionary = problem()
    coder = SparseCoder(dictionary.T, omp_error=0.01)
    assert (np.sum((coder.inverse_transform(coder.transform(x)) - x) ** 2, 1) <= 0.01).all()
    with pytest.warns(
        ConvergenceWarning, match=r"^omp_tolerance=0\.01, omp_error=None was not reached .* by \d+ of the 12"
    ):
        SparseCoder(dictionary.T[:3], omp_tolerance=0.01).transform(x)


def test_codes_of_the_elastic_net_and_non_negative_codes():
    x, dictionary = problem(examples=60)
    settings = {"l1": 0.1, "l2": 0.5, "nonnegative": True}
    code = SparseCoder(dictionary.T, **settings).transform(x)
    np.testing.assert_allclose(code, admm(x, dictionary, **settings, tolerance=1e-3).code, atol=1e-5)
    assert code.min() >= 0 and np.abs(code - SparseCoder(dictionary.T, l1=0.1).transform(x)).max() > 0.1
    learner = DictionaryLearner(**SMALL | settings | {"nonnegative_atoms": True}).fit(np.abs(x))
    assert learner.transform(np.abs(x)).min() >= 0 and learner.components_.min() >= 0
    pulled = DictionaryLearner(**SMALL | {"l2": 5.0}).fit(x)
    assert pulled.error_[0] > DictionaryLearner(**SMALL).fit(x).error_[0]


def test_atoms_can_be_given_and_be_non_negative():
    x, dictionary = problem(examples=60)
    start = np.abs(dictionary.T[:8])
    settings = SMALL | {"epochs": 1, "nonnegative_atoms": True}
    learner = DictionaryLearner(**settings, dict_init=2 * start).fit(x)
    assert learner.components_.min() >= 0 and learner.n_steps_ == 1
    other = DictionaryLearner(**settings).fit(x)
    assert other.components_.min() >= 0 and np.abs(other.components_ - learner.components_).max() > 0.1
    first = DictionaryLearner(**settings, dict_init=start)
    np.testing.assert_allclose(first.fit(x).components_, learner.components_, atol=1e-5)
    np.testing.assert_allclose(first.partial_fit(x).components_.shape, (8, 16))


def test_a_given_dictionary_codes_without_fit():
    x, dictionary = problem()
    coder = SparseCoder(dictionary.T, l1=0.1)
    code = coder.transform(x)
    np.testing.assert_allclose(code, admm(x, dictionary, l1=0.1, tolerance=1e-3).code, atol=1e-5)
    np.testing.assert_array_equal(coder.fit_transform(x), code)
    np.testing.assert_allclose(coder.inverse_transform(code), code @ dictionary.T, atol=1e-5)
    assert coder.get_feature_names_out()[-1] == "sparsecoder23"


def test_codes_keep_their_precision():
    x, dictionary = problem()
    wide = np.float64 if jax.config.read("jax_enable_x64") else np.float32
    for kind, expected in ((np.float32, np.float32), (np.float64, wide), (np.float16, wide), (np.int32, wide)):
        given = (4 * x).astype(kind)
        assert SparseCoder(dictionary.T, l1=0.3).transform(given).dtype == expected
        learner = DictionaryLearner(**SMALL).fit(given)
        assert learner.components_.dtype == expected
        assert learner.inverse_transform(learner.transform(given)).dtype == expected
    assert SparseCoder(dictionary.T).transform(jnp.asarray(x)).dtype == np.float32


def test_rows_do_not_affect_each_other():
    x, dictionary = problem(examples=37)
    coder = SparseCoder(dictionary.T, l1=0.1)
    whole = coder.transform(x)
    for few in (1, 8, 20):
        np.testing.assert_allclose(coder.transform(x[:few]), whole[:few], atol=1e-5)


def test_codes_that_have_not_converged_are_reported():
    x, dictionary = problem(examples=60)
    hard = {"l1": 1e-4, "tolerance": 1e-6, "max_iterations": 5}
    said = r"^tolerance=1e-06 was not reached within {1} iterations by \d+ of the 60 codes {0}; the worst .* gap is \d"
    with pytest.warns(ConvergenceWarning, match=said.format("of SparseCoder.transform", 5)):
        SparseCoder(dictionary.T, **hard).transform(x)
    learner = DictionaryLearner(**SMALL | hard)
    with pytest.warns(ConvergenceWarning, match=said.format("in the last epoch of DictionaryLearner.fit", 5)):
        learner.fit(x)
    with pytest.warns(ConvergenceWarning, match=said.format("of DictionaryLearner.transform", 25)):
        learner.transform(x)
    with pytest.warns(ConvergenceWarning, match=said.format("of DictionaryLearner.partial_fit", 5)):
        learner.partial_fit(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        DictionaryLearner(**SMALL).fit_transform(x)
        learner.set_params(k=3).transform(x)


@pytest.mark.parametrize("columns", ["pandas", "default"])
def test_tables_in_and_out(columns):
    pandas = pytest.importorskip("pandas")
    x, _ = problem(examples=60)
    table = pandas.DataFrame(x, columns=[f"pixel{i}" for i in range(16)], index=np.arange(60) + 100)
    learner = DictionaryLearner(**SMALL).set_output(transform=columns).fit(table)
    assert list(learner.feature_names_in_) == list(table.columns)
    code = learner.transform(table)
    if columns == "pandas":
        assert list(code.columns) == [f"dictionarylearner{i}" for i in range(8)] and code.index[0] == 100
    np.testing.assert_array_equal(code, DictionaryLearner(**SMALL).fit_transform(x))
    for estimator in (learner, SparseCoder(np.eye(16)).fit(table)):
        with pytest.raises(ValueError, match="feature names should match"):
            estimator.transform(table[table.columns[::-1]])


def test_copies_are_the_same():
    x, dictionary = problem(examples=60)
    for estimator in (DictionaryLearner(**SMALL), SparseCoder(dictionary.T, k=2)):
        expected = estimator.fit_transform(x)
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(estimator)).transform(x), expected)
        copy = clone(estimator)
        assert copy is not estimator and repr(copy) == repr(estimator)
        assert type(estimator).__name__ in estimator._repr_html_()


@pytest.mark.slow
@pytest.mark.wrong_types
def test_a_grid_over_integers_of_numpy_in_two_processes():
    x, _ = problem(examples=120)
    y = (x[:, 0] > 0).astype(int)
    model = make_pipeline(StandardScaler(), DictionaryLearner(**SMALL), LogisticRegression())
    assert model.fit(x[:60], y[:60]).score(x[:60], y[:60]) > 0.6
    grid = GridSearchCV(model, {"dictionarylearner__k": np.arange(2, 4)}, cv=2, n_jobs=2, error_score="raise")
    grid.fit(x, y)
    assert grid.best_params_["dictionarylearner__k"] in (2, 3) and np.isfinite(grid.best_score_)
    assert grid.predict(x).shape == (120,)


def test_the_functions_need_no_scikit_learn():
    code = (
        "import sys, sparsejax.coding as coding\n"
        "coding.admm, coding.dictionary_step\n"
        "assert not any(name.split('.')[0] == 'sklearn' for name in sys.modules)\n"
        "assert coding.DictionaryLearner.__module__.startswith('sparsejax') and 'sklearn' in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        getattr(coding, "nothing")  # noqa: B009
