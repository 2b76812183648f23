"""The step on many devices equals the step on one; a grid equals its networks alone."""

import dataclasses
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sparsejax.hyper import hyper_of, stack_hyper

from sparsejax.data.dataset import Dataset, Split
from sparsejax.data.resident import resident
from sparsejax.errors import ConfigError
from sparsejax.evaluation.accuracy import make_evaluation, make_noise_evaluation
from sparsejax.models import SparseCNN, SparseMLP
from sparsejax.training.config import Config, DevicesConfig, TrainingConfig
from sparsejax.training.devices import carry, place, put_members, put_shared, share_of_cores
from sparsejax.training.loop import Job, start
from sparsejax.training.objectives import cross_entropy
from sparsejax.training.step import make_chunk

MODEL = SparseCNN(channels=(4, 6), conv_k=(60, 24), hidden=40, hidden_k=10, density=0.4, batch_norm=True, dropout=0.2)
# Plain SGD: Adam would hide a gradient of the wrong scale.
CONFIG = Config(MODEL, training=TrainingConfig(epochs=2, batch_size=16, learning_rate=0.1))
EXAMPLES, STEPS = 64, 4


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (EXAMPLES, 28, 28, 1), np.uint8)
    labels = rng.integers(0, 10, EXAMPLES).astype(np.int32)
    return Dataset("random", "test", Split(images, labels), Split(images[:50], labels[:50]), 10, (0.5,), (0.3,))


def trainer(dataset, devices: DevicesConfig, members=1):
    """Returns a function that trains networks of CONFIG's shape for two epochs, compiled once."""
    placement = place(devices, members, {16})
    data = put_shared(resident(dataset, dataset.train), placement)
    chunk = carry(
        make_chunk(
            MODEL, cross_entropy, CONFIG.training, examples=EXAMPLES, batch_size=16, length=STEPS,
            axis_name=placement.axis_name, shards=placement.shards,
        ),
        placement,
    )  # fmt: skip

    def train(configs):
        hyper = put_members(stack_hyper(configs), placement)
        job = Job(MODEL, cross_entropy, CONFIG.training, placement, hyper, data)
        state = start(job, [config.training.seed for config in configs]).state
        for _ in range(2):
            state, metrics = chunk(state, hyper, data)
        return jax.tree.map(np.asarray, ((state.variables, state.opt_state), metrics))

    return train


def chunk_text(dataset, model, devices: DevicesConfig) -> str:
    """Returns the compiled text of a chunk."""
    config = dataclasses.replace(CONFIG, model=model)
    placement = place(devices, 1, {16})
    hyper = put_members(stack_hyper([config]), placement)
    data = put_shared(resident(dataset, dataset.train), placement)
    job = Job(model, cross_entropy, config.training, placement, hyper, data)
    function = make_chunk(
        model, cross_entropy, config.training, examples=EXAMPLES, batch_size=16, length=STEPS,
        axis_name=placement.axis_name, shards=placement.shards,
    )  # fmt: skip
    return carry(function, placement).lower(start(job, [0]).state, hyper, data).compile().as_text()


def assert_close(actual, expected, rtol=2e-4, atol=2e-6):
    chex.assert_trees_all_close(actual, expected, rtol=rtol, atol=atol)


@pytest.fixture(scope="module")
def train_on_one(dataset):
    return trainer(dataset, DevicesConfig("jit"))


@pytest.mark.slow
@pytest.mark.parametrize(("transform", "count"), [("shard_map", 8), ("pmap", 8), ("shard_map", 2)])
def test_many_devices_train_the_network_that_one_trains(dataset, train_on_one, transform, count):
    networks, metrics = trainer(dataset, DevicesConfig(transform, data=count))([CONFIG])
    expected_networks, expected_metrics = train_on_one([CONFIG])
    assert_close(networks, expected_networks)
    assert_close(metrics, expected_metrics)
    assert expected_metrics["grad_norm"][0] > 0.1


@pytest.mark.slow
def test_training_moves_the_network_and_its_duty_cycles(dataset, train_on_one):
    (variables, _), _ = train_on_one([CONFIG])
    before = MODEL.init(jax.random.fold_in(jax.random.key(CONFIG.training.seed), 0), jnp.zeros((1, 28, 28, 1)))
    assert np.abs(variables.params["conv1"]["kernel"][0] - before.params["conv1"]["kernel"]).max() > 1e-3
    boost = variables.state["hidden"]["boost"]
    assert boost.samples[0] == 2 * EXAMPLES
    np.testing.assert_allclose(boost.duty_cycle[0].mean(), 10 / 40, atol=0.05)


def test_networks_are_spread_first_and_their_batches_over_the_rest():
    def shape(members, batches=frozenset({16}), **fields):
        placement = place(DevicesConfig(**fields), members, set(batches))
        return placement.transform, None if placement.mesh is None else tuple(placement.mesh.shape.values())

    assert shape(1) == ("shard_map", (1, 8)) and shape(2) == ("shard_map", (2, 4))
    assert shape(64) == ("shard_map", (8, 1)) and shape(3) == ("shard_map", (3, 2))
    assert shape(64, data=4) == ("shard_map", (2, 4)) and shape(5, member=1) == ("shard_map", (1, 8))
    assert shape(4, transform="pmap", data=8) == ("pmap", (1, 8)) and shape(4, transform="jit") == ("jit", None)
    assert shape(1, {15}) == ("shard_map", (1, 5)) and shape(1, {7 * 9 * 11}) == ("shard_map", (1, 7))


def test_networks_share_cores_evenly():
    assert [share_of_cores(*of) for of in ((1, 2), (2, 2), (3, 2), (10, 2), (21, 2))] == [1, 2, 1, 2, 2]
    assert [share_of_cores(*of) for of in ((10, 16), (17, 16), (24, 16), (300, 16))] == [10, 9, 12, 16]


def test_what_is_asked_for_says_how_many_devices_are_wanted():
    def wanted(**fields):
        return DevicesConfig(**fields).wanted(3)

    assert wanted() == wanted(data=1) == wanted(transform="shard_map") == wanted(members_at_once=1) == 3
    assert wanted(member=1) == wanted(transform="jit") == wanted(transform="pmap") == 1
    assert wanted(data=2) == 6 and wanted(member=2, data=2) == 4 and wanted(transform="pmap", data=4) == 4


@pytest.mark.slow
def test_sharded_step_has_one_all_reduce_and_no_all_gather(dataset):
    model = dataclasses.replace(MODEL, batch_norm=False, dropout=None)
    text = chunk_text(dataset, model, DevicesConfig("shard_map", data=8))
    assert len(re.findall(r"all-reduce(?:-start)?\(", text)) == 1
    assert "all-gather" not in text
    assert "collective-permute" not in text


GRID = [
    dataclasses.replace(
        CONFIG,
        model=dataclasses.replace(MODEL, boost_strength=boost, hidden_k=k),
        training=dataclasses.replace(CONFIG.training, seed=seed, learning_rate=rate),
    )
    for boost, k, seed, rate in ((0.0, 5, 1, 0.1), (1.5, 10, 2, 0.05), (3.0, 20, 3, 0.2), (1.5, 10, 4, 0.1))
]


@pytest.mark.slow
@pytest.mark.parametrize(
    "devices",
    [DevicesConfig("jit", members_at_once=4), DevicesConfig("jit", members_at_once=1),
     DevicesConfig("shard_map", member=4, data=2), DevicesConfig("shard_map", member=3, data=2),
     DevicesConfig(member=4, data=1)],
    ids=["side by side", "one after another", "over a mesh of members and data", "in unequal parts", "one each"],
)  # fmt: skip
def test_a_grid_trains_each_network_as_if_alone(dataset, train_on_one, devices):
    together, _ = trainer(dataset, devices, members=4)(GRID)
    for i, config in enumerate(GRID):
        alone, _ = train_on_one([config])
        assert_close(jax.tree.map(lambda leaf, i=i: leaf[i : i + 1], together), alone, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("transform", ["shard_map", "pmap"])
def test_evaluation_on_many_devices_counts_the_same(dataset, transform):
    hyper = stack_hyper([CONFIG])
    variables = jax.tree.map(lambda leaf: leaf[None], MODEL.init(jax.random.key(0), jnp.zeros((1, 28, 28, 1))))
    epoch = jnp.ones(1)
    counts = []
    for devices in (DevicesConfig("jit"), DevicesConfig(transform, data=8)):
        placement = place(devices, 1, {16})
        test = put_shared(resident(dataset, dataset.test), placement)
        spread = {"axis_name": placement.axis_name, "shards": placement.shards, "examples": 50, "batch_size": 20}
        evaluate = carry(make_evaluation(MODEL, cross_entropy, units=True, **spread), placement)
        noise = carry(make_noise_evaluation(MODEL, seed=3, **spread), placement)
        counts.append(jax.tree.map(np.asarray, (evaluate(variables, hyper, epoch, test),
                                                noise(variables, hyper, epoch, test))))  # fmt: skip
    assert_close(counts[1], counts[0])
    assert counts[0][0].active["conv1"].max() > 0
    assert counts[0][1].shape == (1, 11)


def test_one_program_serves_every_chunk_of_a_batch_shape(dataset):
    model = SparseMLP(hidden=(20,), k=(5,))
    config = Config(model, training=CONFIG.training)
    placement = place(DevicesConfig("jit"), 1, {16})
    hyper = put_members(stack_hyper([config]), placement)
    job = Job(model, cross_entropy, config.training, placement, hyper, resident(dataset, dataset.train))
    state = start(job, [0]).state
    chunk = carry(
        make_chunk(model, cross_entropy, config.training, examples=EXAMPLES, batch_size=16, length=1), placement
    )
    for _ in range(6):
        state, _ = chunk(state, hyper, job.data)
    assert chunk._cache_size() == 1
    assert int(state.epoch[0]) == 1
    assert int(state.position[0]) == 2


def test_bad_placements_are_refused_before_anything_is_compiled():
    with pytest.raises(ConfigError, match="16 does not divide among devices.data 5"):
        place(DevicesConfig("shard_map", data=5), 1, {16})
    with pytest.raises(ConfigError, match="there are 8"):
        place(DevicesConfig("shard_map", data=9), 1, {9})
    with pytest.raises(ConfigError, match="pmap spreads batches only"):
        DevicesConfig("pmap", member=2)


def test_hyper_of_a_model_names_only_its_traced_fields():
    assert set(hyper_of(MODEL)) == {
        "conv_k", "hidden_k", "boost_strength", "boost_decay", "k_inference_factor", "sigma", "dropout", "density",
        "k_start", "k_epochs",
    }  # fmt: skip
