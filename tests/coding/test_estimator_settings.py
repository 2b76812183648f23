"""Settings and input that DictionaryLearner and SparseCoder refuse, and numbers of NumPy, which they take."""

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError

from sparsejax.coding import DictionaryLearner, SparseCoder
from tests.coding.problems import problem

SMALL = {"atoms": 8, "l1": 0.3, "epochs": 2, "batch_size": 60}


@pytest.mark.wrong_types
def test_numbers_of_numpy_are_numbers():
    x, _ = problem(examples=60)
    counts = {"atoms": 8, "k": 3, "batch_size": 60, "epochs": 2, "patience": 1, "max_iterations": 100, "seed": 1}
    rates = {"l1": 0.25, "l2": 0.5, "forget": 0.5, "tolerance": 0.125, "omp_tolerance": 0.125, "omp_error": 0.25}
    rates |= {"stop_tolerance": 0.125}
    expected = DictionaryLearner(**counts, **rates).fit(x)
    numbers = {name: np.int64(value) for name, value in counts.items()}
    numbers |= {name: np.float32(value) for name, value in rates.items()}
    ours = DictionaryLearner(**numbers).fit(x)
    np.testing.assert_array_equal(ours.components_, expected.components_)
    np.testing.assert_array_equal(ours.transform(x), expected.transform(x))
    for name in counts:
        with pytest.raises(ValueError, match=f"^{name} is -1; expected an integer"):
            DictionaryLearner(**{name: np.int64(-1)}).fit(x)
    for name in rates:
        with pytest.raises(ValueError, match=f"^{name} is -1.0; expected a finite number"):
            DictionaryLearner(**{name: np.float32(-1)}).fit(x)


REFUSED = [
    ({"atoms": 0}, "atoms is 0; expected an integer, 1 or more"),
    ({"atoms": 2.0}, "atoms is 2.0; expected an integer"),
    ({"k": -1}, "k is -1"),
    ({"k": True}, "k is True"),
    ({"forget": -1}, "forget is -1; expected a finite number, 0 or more"),
    ({"tolerance": -1}, "tolerance is -1"),
    ({"tolerance": None}, "tolerance is None"),
    ({"omp_tolerance": -0.1}, "omp_tolerance is -0.1"),
    ({"stop_tolerance": "a"}, "stop_tolerance is 'a'"),
    ({"patience": 0}, "patience is 0"),
    ({"seed": None}, "seed is None; expected an integer"),
    ({"l1": "a"}, "l1 is 'a'; expected a finite number above 0"),
    ({"l1": 0}, "l1 is 0; expected a finite number above 0"),
    ({"l1": np.inf}, "l1 is inf"),
    ({"verbose": 1}, "verbose is 1; expected True or False"),
    ({"nonnegative_atoms": "yes"}, "nonnegative_atoms is 'yes'"),
    ({"learn_with": "omp"}, "learn_with is 'omp'; expected 'lasso' or 'pursuit'"),
    ({"learn_with": "pursuit"}, "k, omp_tolerance and omp_error are None, but codes are to be pursued"),
    ({"l2": -0.5}, "l2 is -0.5; expected a finite number, 0 or more"),
    ({"omp_error": np.nan}, "omp_error is nan"),
    ({"nonnegative": 2}, "nonnegative is 2; expected True or False"),
    ({"nonnegative": True, "k": 2}, "nonnegative is True, but a pursuit's codes are of either sign"),
    ({"dict_init": np.ones((3, 16))}, "dict_init has 3 rows; expected one for each of the 8 atoms"),
    ({"dict_init": np.ones((8, 3))}, "X has 16 columns, but the atoms have 3 inputs"),
    ({"dict_init": -np.ones((8, 16)), "nonnegative_atoms": True}, "dict_init has an entry -1"),
    ({"dict_init": np.full((8, 16), np.nan)}, "Input dict_init contains NaN"),
]


@pytest.mark.wrong_types
@pytest.mark.parametrize(("settings", "said"), REFUSED, ids=[said.split(";")[0] for _, said in REFUSED])
def test_settings_are_checked_in_fit(settings, said):
    x, _ = problem()
    learner = DictionaryLearner(**{"atoms": 8, **settings})
    for fit in (learner.fit, learner.partial_fit):
        with pytest.raises(ValueError, match=said):
            fit(x)


@pytest.mark.wrong_types
def test_errors_say_what_was_expected():
    x, _ = problem()
    with pytest.raises(NotFittedError, match="not fitted yet"):
        DictionaryLearner().transform(x)
    with pytest.raises(ValueError, match="Invalid parameter 'alpha'"):
        DictionaryLearner().set_params(alpha=1)
    learner = DictionaryLearner(**SMALL).fit(x)
    with pytest.raises(ValueError, match="X has 5 features, but DictionaryLearner is expecting 16"):
        learner.transform(x[:, :5])
    with pytest.raises(ValueError, match="X has 5 columns; expected one for each of the 8 atoms"):
        learner.inverse_transform(x[:, :5])
    with pytest.raises(ValueError, match="Complex data not supported"):
        learner.fit(x + 1j)
    with pytest.raises(ValueError, match="contains NaN"):
        learner.fit(np.where(x > 0, np.nan, x))
    with pytest.raises(ValueError, match="k is -2"):
        learner.set_params(k=-2).transform(x)
    with pytest.raises(ValueError, match="X has 16 columns, but the atoms have 3 inputs"):
        SparseCoder(np.eye(3)).transform(x)
    with pytest.raises(ValueError, match="Input dictionary contains NaN"):
        SparseCoder(np.full((3, 16), np.nan)).fit(x)
