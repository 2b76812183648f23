"""From a run's folder to answers: the network that comes back is the one that the run measured."""

import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax import configs, experiment, trained
from sparsejax.data.dataset import Dataset, Split
from sparsejax.data.resident import normalised, resident
from sparsejax.errors import ConfigError, RunFolderError
from sparsejax.hyper import stack_hyper
from sparsejax.models import SparseNetwork, freeze, predict
from sparsejax.training import checkpoints, loop
from sparsejax.training.config import DevicesConfig, replaced
from sparsejax.training.devices import place
from sparsejax.training.objectives import cross_entropy
from sparsejax.training.run_folder import RunFolder, describe

BOOSTS = (0.0, 2.0)
POINTS = tuple({"model.boost_strength": boost} for boost in BOOSTS)
SMALL = {"training.epochs": 2, "devices.carrier": "jit", "data.train_examples": 400, "data.test_examples": 100}
TINY = {"model.k": (5,), "model.hidden": (20,), "training.epochs": 2}


def networks(fields):
    return tuple(replaced(configs.get("digits_mlp"), fields | point) for point in POINTS)


@pytest.fixture(scope="module")
def dataset():
    split = Split(np.zeros((1, 6, 6, 1), np.uint8), np.zeros(1, np.int32))
    return Dataset("blank", "test", split, split, 10, (0.0,), (1.0,))


def anything(seed, leaf):
    """Returns an array like a leaf of a checkpoint, each with contents of its own."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.split(jax.random.key(seed), leaf.shape)
    return np.random.default_rng(seed).uniform(0, 100, leaf.shape).astype(leaf.dtype)


@pytest.fixture(scope="module")
def made_up(tmp_path_factory, dataset):
    """Returns a run folder that nobody trained, and what is in its checkpoint."""
    path, members = tmp_path_factory.mktemp("made-up"), networks(TINY)
    folder, data = RunFolder(path), {"name": "blank", "source": "test", "fingerprint": dataset.fingerprint}
    folder.claim(describe(members[0], name="digits_mlp", seeds=[0, 0], points=POINTS, data=data))
    placement = place(DevicesConfig("jit"), 2, set())
    job = loop.Job(members[0].model, cross_entropy, members[0].training, placement, stack_hyper(members),
                   resident(dataset, dataset.train))  # fmt: skip
    leaves, structure = jax.tree.flatten(jax.eval_shape(lambda: loop.start(job, [0, 0])))
    progress = jax.tree.unflatten(structure, list(map(anything, range(len(leaves)), leaves)))
    progress = progress._replace(state=progress.state._replace(epoch=np.asarray([2, 2], np.int32)))
    with checkpoints.opened(folder.checkpoints, keep=1) as saved:
        saved.save(7, progress, score=0.0)
    return path, progress.state


def test_a_network_comes_back_from_a_checkpoint(made_up, dataset, monkeypatch):
    monkeypatch.setattr(trained, "load_data", lambda config: dataset)
    path, state = made_up
    network = trained.load_network(path, 1)
    chex.assert_trees_all_equal(network.variables, jax.tree.map(lambda leaf: leaf[1], state.variables))
    assert network.model == networks(TINY)[1].model and network.example_shape == (6, 6, 1)
    assert network.hyper["boost_strength"] == pytest.approx(BOOSTS[1] * 0.85**2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Returns the folder of a run of two networks, without figures."""
    path = tmp_path_factory.mktemp("trained") / "run"
    with pytest.MonkeyPatch.context() as patch, jax.numpy_dtype_promotion("standard"):
        patch.setattr(experiment, "write_figures", lambda *_: None)
        experiment.run(experiment.Experiment("digits_mlp", networks(SMALL), POINTS), RunFolder(path))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("member", [0, 1])
def test_a_frozen_network_is_as_accurate_as_its_run_says(folder, member):
    network = trained.load_network(folder, member)
    assert network.hyper["boost_strength"] == pytest.approx(BOOSTS[member] * 0.85**2)
    assert isinstance(network.model, SparseNetwork)
    frozen = freeze(network.model, network.variables, network.example_shape, hyper=network.hyper)
    data = resident(network.dataset, network.dataset.test)
    images = normalised(data, data.images)
    answers = jax.jit(predict)(frozen, images)
    accuracy = np.mean(np.argmax(answers, -1) == np.asarray(data.labels))
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))["members"][member]
    assert accuracy == pytest.approx(result["test_accuracy"], abs=0.6 / len(data.labels))
    by_apply = jax.jit(network.model.apply)(network.variables, images, hyper=network.hyper)
    np.testing.assert_allclose(answers, by_apply.prediction, rtol=1e-3, atol=1e-4)


def test_what_is_not_there_is_refused(made_up, tmp_path):
    with pytest.raises(ConfigError, match="member is 2; expected a number from 0 to 1"):
        trained.load_network(made_up[0], 2)
    with pytest.raises(RunFolderError, match="is not a run folder"):
        trained.load_network(tmp_path)
