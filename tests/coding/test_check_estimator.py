"""scikit-learn's own checks of the estimators: none may fail."""

import re

import numpy as np
import pytest
from sklearn.utils.estimator_checks import check_estimator, estimator_checks_generator

from sparsejax.coding import DictionaryLearner, SparseCoder

pytestmark = [pytest.mark.slow, pytest.mark.wrong_types]


def failures(estimator):
    """Returns name -> exception of the checks that fail, and the names of those that pass."""
    results = check_estimator(estimator, on_fail=None, on_skip=None)
    failed = {one["check_name"]: one["exception"] for one in results if one["status"] == "failed"}
    return failed, {one["check_name"] for one in results if one["status"] == "passed"}


@pytest.mark.parametrize("settings", [{}, {"k": 2}], ids=["lasso", "pursuit"])
@pytest.mark.filterwarnings("ignore")
def test_a_learner_passes_all_checks(settings):
    failed, passed = failures(DictionaryLearner(atoms=5, epochs=2, **settings))
    assert not failed and len(passed) >= 40


@pytest.mark.filterwarnings("ignore")
def test_a_coder_passes_all_checks_with_a_dictionary_of_the_width_of_the_data():
    """A check is repeated with the width of its data, which scikit-learn keeps in a table for its own SparseCoder."""

    def coder(width):
        return SparseCoder(np.random.default_rng(0).standard_normal((5, width)), l1=0.1)

    failed, passed = failures(coder(3))
    for _ in range(3):
        again = {}
        for name, error in failed.items():
            found = re.search(r"X has (\d+) columns, but the atoms", "\n".join(map(str, chain(error))))
            if found is None:
                again[name] = error
                continue
            width = int(found[1])
            checks = {name_of(check): (one, check) for one, check in estimator_checks_generator(coder(width))}
            one, check = checks[name]
            try:
                check(one)
                passed.add(name)
            except Exception as other:
                again[name] = other
        failed = again
    assert not failed and len(passed) >= 40


def chain(error):
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def name_of(check):
    return getattr(check, "func", check).__name__
