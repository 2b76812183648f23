"""The step on many devices equals the step on one; a grid equals its networks alone."""

import dataclasses
import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.configuration import stack
from sparsejax.data.dataset import Dataset, Split
from sparsejax.data.resident import example_of, make_resident
from sparsejax.errors import ConfigError
from sparsejax.evaluation.measure import chosen_measures, setting_of
from sparsejax.evaluation.split import make_evaluation
from sparsejax.models import ConvMixer, SparseCNN
from sparsejax.training.config import Config, DevicesConfig, EvaluationConfig, TrainingConfig
from sparsejax.training.devices import gather_members, place, put_members, put_shared, share_of_cores, transform
from sparsejax.training.prepare import start
from sparsejax.training.state import init_state
from sparsejax.training.step import chunk

EXAMPLES, BATCH, STEPS = 64, 16, 4
MODEL = SparseCNN(channels=(4,), conv_k=(24,), hidden=40, hidden_k=10, density=0.4, batch_norm=True, dropout=0.2)
# Plain SGD: Adam would hide a gradient of the wrong scale.
TRAINING = TrainingConfig(epochs=2, batch_size=BATCH, learning_rate=0.1)
GRID = tuple(
    Config(
        dataclasses.replace(MODEL, boost_strength=boost, hidden_k=k),
        training=dataclasses.replace(TRAINING, seed=seed, learning_rate=rate),
    )
    for boost, k, seed, rate in ((0.0, 5, 1, 0.1), (1.5, 10, 2, 0.05), (3.0, 20, 3, 0.2), (1.5, 10, 4, 0.1))
)
MIXERS = (Config(ConvMixer(width=6, depth=1, kernel=3, patch=2, classes=10), training=TRAINING),)
ONE = DevicesConfig("jit")


@functools.cache
def dataset() -> Dataset:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (EXAMPLES, 12, 12, 1), np.uint8)
    labels = rng.integers(0, 10, EXAMPLES).astype(np.int32)
    return Dataset("random", "test", Split(images, labels), Split(images[:50], labels[:50]), 10, (0.5,), (0.3,))


@functools.cache
def program(devices: DevicesConfig, members: int, structure: jax.tree_util.PyTreeDef):
    """Returns the placement of so many networks of a structure, and a chunk of training on it, compiled once."""
    placement = place(devices, members, {BATCH})
    shared = {"axis_name": placement.axis_name, "shards": placement.shards}
    part = functools.partial(chunk, examples=EXAMPLES, batch_size=BATCH, length=STEPS // 2, **shared)
    return placement, transform(part, placement)


@functools.cache
def untrained(configs):
    placement = place(ONE, len(configs), {BATCH})
    return start(stack(configs), placement, example_of(dataset().train)).state


@functools.cache
def trained(devices: DevicesConfig, member: int | None = None, configs=GRID):
    """Returns one or all networks of a grid after two epochs, and the metrics of the last chunk."""
    chosen = configs if member is None else configs[member : member + 1]
    placement, run_chunk = program(devices, len(chosen), jax.tree.structure(chosen[0]))
    state = untrained(configs) if member is None else alone(untrained(configs), member)
    state, stacked = (put_members(tree, placement) for tree in (state, stack(chosen)))
    data = put_shared(make_resident(dataset(), dataset().train), placement)
    for _ in range(4):
        state, metrics = run_chunk(state, stacked, data)
    assert np.all(np.asarray(state.epoch) == 2) and np.all(np.asarray(state.position) == 0)
    return gather_members(((state.variables, state.opt_state), metrics), len(chosen))


def alone(tree, member: int):
    """Returns one network of several, as a grid of one."""
    return jax.tree.map(lambda leaf: leaf[member : member + 1], tree)


def assert_close(actual, expected, rtol=2e-4, atol=2e-6):
    chex.assert_trees_all_close(actual, expected, rtol=rtol, atol=atol)


@pytest.mark.parametrize("transform", ["shard_map", pytest.param("pmap", marks=pytest.mark.slow)])
def test_many_devices_train_the_network_that_one_trains(transform):
    expected = trained(ONE, 1)
    assert_close(trained(DevicesConfig(transform, data=8), 1), expected)
    assert expected[1]["grad_norm"][0] > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("transform", ["shard_map", "pmap"])
def test_many_devices_normalise_and_spread_gelu_as_one_does(transform):
    expected = trained(ONE, configs=MIXERS)
    assert_close(trained(DevicesConfig(transform, data=2), configs=MIXERS), expected)
    assert expected[1]["grad_norm"].min() > 0.1


def test_training_moves_the_network_and_its_duty_cycles():
    (variables, _), _ = trained(ONE, 1)
    before = untrained(GRID).variables
    assert np.abs(variables.params["conv1"]["kernel"][0] - before.params["conv1"]["kernel"][1]).max() > 1e-3
    boost = variables.state["hidden"]["boost"]
    assert boost.samples[0] == 2 * EXAMPLES
    np.testing.assert_allclose(boost.duty_cycle[0].mean(), 10 / 40, atol=0.05)


def test_one_program_serves_every_chunk_of_a_batch_shape():
    for member in (1, 2):
        trained.__wrapped__(ONE, member)  # compile again: changed compiler options clear the caches
    assert program(ONE, 1, jax.tree.structure(GRID[0]))[1]._cache_size() == 1


def test_networks_are_sharded_first_and_their_batches_over_the_rest():
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


def test_the_configuration_determines_the_number_of_devices():
    def wanted(**fields):
        return DevicesConfig(**fields).devices_for(3)

    assert wanted() == wanted(data=1) == wanted(transform="shard_map") == wanted(members_at_once=1) == 3
    assert wanted(member=1) == wanted(transform="jit") == wanted(transform="pmap") == 1
    assert wanted(data=2) == 6 and wanted(member=2, data=2) == 4 and wanted(transform="pmap", data=4) == 4


@pytest.mark.slow
@pytest.mark.parametrize(
    "devices",
    [DevicesConfig("jit", members_at_once=4), DevicesConfig("jit", members_at_once=1),
     DevicesConfig("shard_map", member=3, data=2), DevicesConfig(member=4, data=1)],
    ids=["side by side", "one after another", "in unequal parts of a mesh of members and data", "one each"],
)  # fmt: skip
def test_a_grid_trains_each_network_as_if_alone(devices):
    together, _ = trained(devices)
    for member in range(len(GRID)):
        assert_close(alone(together, member), trained(ONE, member)[0], rtol=1e-3, atol=1e-5)


@functools.cache
def counted(devices: DevicesConfig):
    """Returns the sums of an evaluation's measures, also under noise."""
    placement = place(devices, 1, {BATCH})
    config = dataclasses.replace(GRID[0], evaluation=EvaluationConfig(noise_seed=3))
    measures = [measure.bind(setting_of(config, dataset())) for measure in chosen_measures(config, dataset())]
    test = put_shared(make_resident(dataset(), dataset().test), placement)
    spread = {"axis_name": placement.axis_name, "shards": placement.shards}
    evaluate = transform(make_evaluation(measures, examples=50, batch_size=20, **spread), placement)
    counts = evaluate(alone(untrained(GRID).variables, 0), stack([config]), jnp.ones(1), test)
    return jax.tree.map(np.asarray, counts)


@pytest.mark.slow
@pytest.mark.parametrize("transform", ["shard_map", "pmap"])
def test_evaluation_on_many_devices_counts_the_same(transform):
    expected = counted(ONE)
    assert_close(counted(DevicesConfig(transform, data=8)), expected)
    assert expected["activity"].active["conv1"].max() > 0
    assert expected["noise_score"].shape == (1, 11)


def test_bad_placements_are_refused_before_anything_is_compiled():
    with pytest.raises(ConfigError, match="16 does not divide among devices.data 5"):
        place(DevicesConfig("shard_map", data=5), 1, {16})
    with pytest.raises(ConfigError, match="there are 8"):
        place(DevicesConfig("shard_map", data=9), 1, {9})
    with pytest.raises(ConfigError, match="pmap only shards batches"):
        DevicesConfig("pmap", member=2)


def test_leaves_of_a_model_are_its_traced_fields():
    names = {path[0].name for path, _ in jax.tree.leaves_with_path(dataclasses.replace(MODEL, sigma=0.1))}
    assert names == {
        "conv_k", "hidden_k", "boost_strength", "boost_decay", "k_inference_factor", "sigma", "dropout", "density",
        "k_start", "k_epochs",
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.optimized
def test_sharded_step_has_one_all_reduce_and_no_all_gather():
    model = dataclasses.replace(MODEL, batch_norm=False, dropout=None)
    config, data = stack([Config(model, training=TRAINING)]), make_resident(dataset(), dataset().train)
    _, run_chunk = program(DevicesConfig("shard_map", data=8), 1, jax.tree.structure(config))
    state = jax.eval_shape(jax.vmap(lambda config: init_state(config, example_of(data))), config)
    text = run_chunk.lower(state, config, data).compile().as_text()
    assert len(re.findall(r"all-reduce(?:-start)?\(", text)) == 1
    assert "all-gather" not in text
    assert "collective-permute" not in text
