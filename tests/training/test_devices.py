"""The step on many devices equals the step on one; a grid equals its networks alone."""

import dataclasses
import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.data.dataset import Dataset, Split
from sparsejax.data.resident import resident
from sparsejax.errors import ConfigError
from sparsejax.evaluation.accuracy import make_evaluation, make_noise_evaluation
from sparsejax.hyper import hyper_of, stack_hyper
from sparsejax.models import ConvMixer, SparseCNN, SparseMLP
from sparsejax.training.config import Config, DevicesConfig, TrainingConfig
from sparsejax.training.devices import carry, gathered_members, place, put_members, put_shared, share_of_cores
from sparsejax.training.loop import Job, start
from sparsejax.training.objectives import cross_entropy
from sparsejax.training.state import init_state
from sparsejax.training.step import make_chunk

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
MLPS = (Config(SparseMLP(hidden=(40,), k=(10,), density=1.0, batch_norm=True, dropout=0.2), training=TRAINING),)
MIXERS = (Config(ConvMixer(width=6, depth=1, kernel=3, patch=2, classes=10), training=TRAINING),)
ONE = DevicesConfig("jit")


@functools.cache
def dataset() -> Dataset:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (EXAMPLES, 12, 12, 1), np.uint8)
    labels = rng.integers(0, 10, EXAMPLES).astype(np.int32)
    return Dataset("random", "test", Split(images, labels), Split(images[:50], labels[:50]), 10, (0.5,), (0.3,))


@functools.cache
def program(devices: DevicesConfig, members: int, model):
    """Returns the placement of so many networks, and a chunk of training on it, compiled once."""
    placement = place(devices, members, {BATCH})
    shared = {"axis_name": placement.axis_name, "shards": placement.shards}
    chunk = make_chunk(
        model, cross_entropy, TRAINING, examples=EXAMPLES, batch_size=BATCH, length=STEPS // 2, **shared
    )  # fmt: skip
    return placement, carry(chunk, placement)


@functools.cache
def untrained(configs):
    placement = place(ONE, len(configs), {BATCH})
    data = resident(dataset(), dataset().train)
    job = Job(configs[0].model, cross_entropy, TRAINING, placement, stack_hyper(configs), data)
    return start(job, [config.training.seed for config in configs]).state


@functools.cache
def trained(devices: DevicesConfig, configs, member: int | None = None):
    """Returns one or all networks of a grid after two epochs, and the metrics of the last chunk."""
    chosen = configs if member is None else configs[member : member + 1]
    placement, chunk = program(devices, len(chosen), configs[0].model)
    state = untrained(configs) if member is None else alone(untrained(configs), member)
    state, hyper = (put_members(tree, placement) for tree in (state, stack_hyper(chosen)))
    data = put_shared(resident(dataset(), dataset().train), placement)
    for _ in range(4):
        state, metrics = chunk(state, hyper, data)
    assert np.all(np.asarray(state.epoch) == 2) and np.all(np.asarray(state.position) == 0)
    return gathered_members(((state.variables, state.opt_state), metrics), len(chosen))


def alone(tree, member: int):
    """Returns one network of several, as a grid of one."""
    return jax.tree.map(lambda leaf: leaf[member : member + 1], tree)


def assert_close(actual, expected, rtol=2e-4, atol=2e-6):
    chex.assert_trees_all_close(actual, expected, rtol=rtol, atol=atol)


def erf_can_be_spread() -> bool:
    """JAX 0.12.0 cannot differentiate its error function, and so GELU, under shard_map; others can."""
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    of_batches = {"in_specs": jax.P("data"), "out_specs": jax.P("data")}
    spread = jax.shard_map(jax.grad(lambda x: jax.lax.erf(x).sum()), mesh=mesh, **of_batches)
    try:
        jax.eval_shape(spread, jnp.zeros(2))
    except ValueError as error:
        return "varying manual axes" not in str(error)
    return True


def same_on_many_devices(devices: DevicesConfig, configs, member=None):
    expected = trained(ONE, configs, member)
    assert_close(trained(devices, configs, member), expected)
    assert expected[1]["grad_norm"].min() > 0.1


def test_many_devices_train_the_network_that_one_trains():
    same_on_many_devices(DevicesConfig("shard_map", data=8), MLPS)


@pytest.mark.slow
@pytest.mark.parametrize("carrier", ["shard_map", "pmap"])
def test_many_devices_train_the_convolutional_network_that_one_trains(carrier):
    same_on_many_devices(DevicesConfig(carrier, data=8), GRID, 1)


@pytest.mark.slow
def test_many_devices_train_the_mixer_that_one_trains():
    if not erf_can_be_spread():
        pytest.skip("this JAX cannot differentiate erf under shard_map")
    same_on_many_devices(DevicesConfig("shard_map", data=2), MIXERS)


def test_training_moves_the_network_and_its_duty_cycles():
    (variables, _), _ = trained(ONE, MLPS)
    before = jax.tree.map(np.asarray, untrained(MLPS).variables)
    assert np.abs(variables.params["hidden1"]["kernel"] - before.params["hidden1"]["kernel"]).max() > 1e-3
    boost = variables.state["hidden1"]["boost"]
    assert boost.samples[0] == 2 * EXAMPLES
    np.testing.assert_allclose(boost.duty_cycle[0].mean(), 10 / 40, atol=0.05)


def test_one_program_serves_every_chunk_of_a_batch_shape():
    trained(ONE, MLPS)
    assert program(ONE, 1, MLPS[0].model)[1]._cache_size() == 1


def test_networks_are_spread_first_and_their_batches_over_the_rest():
    def shape(members, batches=frozenset({16}), **fields):
        placement = place(DevicesConfig(**fields), members, set(batches))
        return placement.carrier, None if placement.mesh is None else tuple(placement.mesh.shape.values())

    assert shape(1) == ("shard_map", (1, 8)) and shape(2) == ("shard_map", (2, 4))
    assert shape(64) == ("shard_map", (8, 1)) and shape(3) == ("shard_map", (3, 2))
    assert shape(64, data=4) == ("shard_map", (2, 4)) and shape(5, member=1) == ("shard_map", (1, 8))
    assert shape(4, carrier="pmap", data=8) == ("pmap", (1, 8)) and shape(4, carrier="jit") == ("jit", None)
    assert shape(1, {15}) == ("shard_map", (1, 5)) and shape(1, {7 * 9 * 11}) == ("shard_map", (1, 7))


def test_networks_share_cores_evenly():
    assert [share_of_cores(*of) for of in ((1, 2), (2, 2), (3, 2), (10, 2), (21, 2))] == [1, 2, 1, 2, 2]
    assert [share_of_cores(*of) for of in ((10, 16), (17, 16), (24, 16), (300, 16))] == [10, 9, 12, 16]


def test_what_is_asked_for_says_how_many_devices_are_wanted():
    def wanted(**fields):
        return DevicesConfig(**fields).wanted(3)

    assert wanted() == wanted(data=1) == wanted(carrier="shard_map") == wanted(members_at_once=1) == 3
    assert wanted(member=1) == wanted(carrier="jit") == wanted(carrier="pmap") == 1
    assert wanted(data=2) == 6 and wanted(member=2, data=2) == 4 and wanted(carrier="pmap", data=4) == 4


@pytest.mark.slow
@pytest.mark.parametrize(
    "devices",
    [DevicesConfig("jit", members_at_once=4), DevicesConfig("jit", members_at_once=1),
     DevicesConfig("shard_map", member=3, data=2), DevicesConfig(member=4, data=1)],
    ids=["side by side", "one after another", "in unequal parts of a mesh of members and data", "one each"],
)  # fmt: skip
def test_a_grid_trains_each_network_as_if_alone(devices):
    together, _ = trained(devices, GRID)
    for member in range(len(GRID)):
        assert_close(alone(together, member), trained(ONE, GRID, member)[0], rtol=1e-3, atol=1e-5)


@functools.cache
def counted(devices: DevicesConfig):
    """Returns what an evaluation counts of a network, and of it under noise."""
    placement = place(devices, 1, {BATCH})
    hyper, variables = stack_hyper(GRID[:1]), alone(untrained(GRID).variables, 0)
    test = put_shared(resident(dataset(), dataset().test), placement)
    spread = {"axis_name": placement.axis_name, "shards": placement.shards, "examples": 50, "batch_size": 20}
    evaluate = carry(make_evaluation(MODEL, cross_entropy, units=True, **spread), placement)
    noise = carry(make_noise_evaluation(MODEL, seed=3, **spread), placement)
    return jax.tree.map(np.asarray, tuple(run(variables, hyper, jnp.ones(1), test) for run in (evaluate, noise)))


@pytest.mark.slow
@pytest.mark.parametrize("carrier", ["shard_map", "pmap"])
def test_evaluation_on_many_devices_counts_the_same(carrier):
    expected = counted(ONE)
    assert_close(counted(DevicesConfig(carrier, data=8)), expected)
    assert expected[0].active["conv1"].max() > 0
    assert expected[1].shape == (1, 11)


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


@pytest.mark.slow
@pytest.mark.optimized
def test_sharded_step_has_one_all_reduce_and_no_all_gather():
    model = dataclasses.replace(MODEL, batch_norm=False, dropout=None)
    _, chunk = program(DevicesConfig("shard_map", data=8), 1, model)
    hyper, data = stack_hyper([Config(model, training=TRAINING)]), resident(dataset(), dataset().train)
    first = functools.partial(init_state, model, TRAINING, example=np.zeros((1, 12, 12, 1), np.float32))
    state = jax.eval_shape(jax.vmap(lambda hyper, seed: first(hyper, seed)), hyper, jnp.zeros(1, jnp.int32))
    text = chunk.lower(state, hyper, data).compile().as_text()
    assert len(re.findall(r"all-reduce(?:-start)?\(", text)) == 1
    assert "all-gather" not in text
    assert "collective-permute" not in text
