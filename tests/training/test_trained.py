"""From a run's folder to predictions: the loaded network is the one that the run measured."""

import dataclasses
import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax import configs
from sparsejax.configuration import replace, stack
from sparsejax.data.resident import make_resident, normalize
from sparsejax.errors import ConfigError, RunFolderError
from sparsejax.models import SparseNetwork, freeze, predict
from sparsejax.training import checkpoints
from sparsejax.training.checks import load_data
from sparsejax.training.prepare import shapes_of
from sparsejax.training.restore import load_network, read_record
from sparsejax.training.run_folder import RunFolder, describe
from tests.command import ONE, SMALL, here, without_figures

BASE = replace(configs.get("digits_mlp"), {"model.k": (5,), "model.hidden": (20,), "training.epochs": 2})
POINTS = tuple({"model.boost_strength": boost} for boost in (0.0, 2.0))
BLANK = {
    "name": "blank",
    "source": "none",
    "fingerprint": "0",
    "shape": (6, 6, 1),
    "dtype": "uint8",
    "mean": (0.1,),
    "std": (0.3,),
}


def anything(seed, leaf):
    """Returns an array like a leaf of a checkpoint, each with different contents."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.split(jax.random.key(seed), leaf.shape)
    return np.random.default_rng(seed).uniform(0, 100, leaf.shape).astype(leaf.dtype)


@pytest.fixture(scope="module")
def made_up(tmp_path_factory):
    """Returns a run folder without training, and the contents of its checkpoint."""
    folder = RunFolder(tmp_path_factory.mktemp("made-up"))
    folder.claim(describe(BASE, name="digits_mlp", seeds=[0, 0], points=POINTS, data=BLANK))
    networks = stack([replace(BASE, point) for point in POINTS])
    like = shapes_of(networks, np.zeros((1, 6, 6, 1), np.float32))
    leaves, structure = jax.tree.flatten(like)
    progress = jax.tree.unflatten(structure, list(map(anything, range(len(leaves)), leaves)))
    progress = progress._replace(state=progress.state._replace(epoch=np.asarray([2, 2], np.int32)))
    with checkpoints.open_checkpoints(folder.checkpoints, keep=1) as saved:
        saved.save(7, progress, score=0.0)
    return folder, progress.state


@pytest.mark.parametrize("member", [0, 1])
def test_every_array_of_a_network_is_restored_from_a_checkpoint(made_up, member):
    folder, state = made_up
    network = load_network(folder, member)
    chex.assert_trees_all_equal(network.variables, jax.tree.map(lambda leaf: leaf[member], state.variables))
    assert network.model.boost_strength == pytest.approx(2.0 * member * 0.85**2)
    assert (network.example_shape, network.mean, network.std) == ((6, 6, 1), (0.1,), (0.3,))


def test_batches_share_a_program(made_up):
    network, traced = dataclasses.replace(load_network(made_up[0]), batch_size=2), []
    x = np.random.default_rng(0).integers(0, 256, (7, 6, 6, 1), np.uint8)

    def prediction(output):
        traced.append(output.prediction.shape[0])
        return output.prediction

    for _ in range(2):
        np.testing.assert_array_equal(network.run(x, prediction), network.predict(x))
    assert traced == [2, 1] and network.epoch == 2


def test_pixels_of_every_type_are_the_same_image_or_refused(made_up):
    network = load_network(made_up[0])
    x = np.random.default_rng(0).integers(0, 256, (3, 6, 6, 1), np.uint8)
    expected = network.predict(x)
    np.testing.assert_array_equal(network.predict(x.astype(int)), expected)
    np.testing.assert_allclose(network.predict(x.astype(np.float32) / 255), expected, rtol=1e-5)
    for wrong in (x.astype(np.float32), x.astype(int) - 1, x / np.nan, x.astype(int) + 255):
        with pytest.raises(ConfigError, match=r"Images of .* hold values from .*; expected integers from 0"):
            network.predict(wrong)
    assert network.predict(x[:0]).shape == (0, 10)


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
    network, dataset = load_network(folder, member), load_data(read_record(folder).configs[member])
    assert network.model.boost_strength == pytest.approx(2.0 * member * 0.85**2)
    assert isinstance(network.model, SparseNetwork)
    frozen = freeze(network.model, network.variables, network.example_shape)
    data = make_resident(dataset, dataset.test)
    answers = jax.jit(predict)(frozen, normalize(data, data.images))
    accuracy = float(jnp.mean(jnp.argmax(answers, -1) == data.labels))
    result = json.loads(folder.result.read_text(encoding="utf-8"))["members"][member]
    assert accuracy == pytest.approx(result["test_accuracy"], abs=0.6 / len(data.labels))
    by_apply = network.model.apply(network.variables, normalize(data, data.images))
    np.testing.assert_allclose(answers, by_apply.prediction, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(answers, network.predict(dataset.test.images), rtol=1e-3, atol=1e-4)


def test_missing_networks_are_refused(made_up, tmp_path):
    with pytest.raises(ConfigError, match="member is 2; expected a number from 0 to 1"):
        load_network(made_up[0], 2)
    with pytest.raises(RunFolderError, match="is not a run folder"):
        load_network(RunFolder(tmp_path))
