"""Fixtures of the tests of studies: settings of users' programs, and runs without figures."""

import jax
import pytest

from sparsejax import experiment
from sparsejax.studies import networks
from tests.command import without_figures

_FINISHED = {}


@pytest.fixture(autouse=True)
def as_in_a_program():
    """Promotes types as in users' programs, which Optax's Adam needs; omits the figures of every run."""
    with jax.numpy_dtype_promotion("standard"), without_figures():
        yield


@pytest.fixture
def opened_once(monkeypatch):
    """Caches every run of a study, which would otherwise be opened and measured again."""

    def run(of, folder):
        key = (folder.path, repr(of))
        if key not in _FINISHED:
            _FINISHED[key] = experiment.run(of, folder)
        return _FINISHED[key]

    monkeypatch.setattr(networks, "run", run)


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """Returns the folder that the studies of a module share, where they find each other's networks."""
    return tmp_path_factory.mktemp("reproduced")
