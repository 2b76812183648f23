"""From a run's folder to answers: the network that comes back is the one that the run measured."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.data.resident import normalised, resident
from sparsejax.errors import ConfigError, RunFolderError
from sparsejax.models import SparseNetwork, freeze, predict
from sparsejax.training.checks import load_data
from sparsejax.training.restore import load_network, recorded
from sparsejax.training.run_folder import RunFolder
from tests.command import ONE, SMALL, here, without_figures


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("trained") / "run"
    with without_figures():
        done = here(*SMALL, *ONE, "--sweep", "model.boost_strength=0.0,2.0", "--out", path)
    assert done.returncode == 0, done.stderr
    return RunFolder(path)


@pytest.mark.slow
@pytest.mark.parametrize("member", [0, 1])
def test_a_frozen_network_is_as_accurate_as_its_run_says(folder, member):
    network, dataset = load_network(folder, member), load_data(recorded(folder).configs[member])
    assert network.model.boost_strength == pytest.approx(2.0 * member * 0.85**2)
    assert isinstance(network.model, SparseNetwork)
    frozen = freeze(network.model, network.variables, network.example_shape)
    data = resident(dataset, dataset.test)
    answers = jax.jit(predict)(frozen, normalised(data, data.images))
    accuracy = float(jnp.mean(jnp.argmax(answers, -1) == data.labels))
    result = json.loads(folder.result.read_text(encoding="utf-8"))["members"][member]
    assert accuracy == pytest.approx(result["test_accuracy"], abs=0.6 / len(data.labels))
    by_apply = network.model.apply(network.variables, normalised(data, data.images))
    np.testing.assert_allclose(answers, by_apply.prediction, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(answers, network.predict(dataset.test.images), rtol=1e-3, atol=1e-4)


def test_what_is_not_there_is_refused(folder, tmp_path):
    with pytest.raises(ConfigError, match="member is 2; expected a number from 0 to 1"):
        load_network(folder, 2)
    with pytest.raises(RunFolderError, match="is not a run folder"):
        load_network(RunFolder(tmp_path))
