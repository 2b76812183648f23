"""Harvest: sites of a GPT and of any function, replaced sites, and a run on what was harvested."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sparsejax as sj
from sparsejax.errors import ConfigError
from sparsejax.models import GPT, SparseAutoencoder
from sparsejax.training.restore import TrainedNetwork
from tests.command import without_figures

MODEL = GPT(vocabulary=30, context=8, blocks=2, width=8, heads=2, mlp_factor=2)
TOKENS = np.random.default_rng(0).integers(0, 30, (40, 8)).astype(np.int32)


@pytest.fixture(scope="module")
def variables():
    return jax.jit(MODEL.init)(jax.random.key(0), TOKENS[:1])


def test_sites_of_a_gpt_add_up(variables):
    sites = MODEL.read_sites(variables, TOKENS)
    first = ("residual1_before", "attention1", "residual1_middle", "mlp1_input", "mlp1", "mlp1_output")
    assert tuple(sites)[:7] == (*first, "residual1_after")
    for i in (1, 2):
        middle = sites[f"residual{i}_before"] + sites[f"attention{i}"]
        np.testing.assert_allclose(sites[f"residual{i}_middle"], middle, rtol=1e-6)
        np.testing.assert_allclose(sites[f"residual{i}_after"], middle + sites[f"mlp{i}_output"], rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(sites["residual2_before"], sites["residual1_after"])


def test_a_site_can_be_replaced(variables):
    plain = MODEL.apply(variables, TOKENS).prediction
    same = MODEL.apply(variables, TOKENS, visit=lambda name, h: h).prediction
    np.testing.assert_array_equal(plain, same)
    without = MODEL.apply(variables, TOKENS, visit=lambda name, h: 0 * h if name == "mlp2_output" else h).prediction
    sites = MODEL.read_sites(variables, TOKENS)
    last = sites["residual2_middle"]
    norm = variables.params["norm"]
    centred = last - last.mean(-1, keepdims=True)
    scaled = centred / jnp.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    expected = (scaled * norm["scale"][None, None] + norm["bias"][None, None]) @ variables.params["output"]["kernel"]
    np.testing.assert_allclose(without, expected, rtol=1e-4, atol=1e-5)


def test_memory_and_shards_hold_the_same(variables, tmp_path):
    network = TrainedNetwork(MODEL, variables, (0.0,), (1.0,), (8,))
    sites = ["residual1_after", "mlp1"]
    memory = sj.harvest(network, (TOKENS[:30], TOKENS[30:]), sites=sites, batch_size=7)
    assert memory.train.images.shape == (30 * 8, 8 + 16)
    expected = MODEL.read_sites(variables, TOKENS)
    joined = np.concatenate([np.asarray(expected[site]).reshape(320, -1) for site in sites], axis=1)
    np.testing.assert_allclose(np.concatenate([memory.train.images, memory.test.images]), joined, rtol=1e-4, atol=1e-6)
    shards = sj.harvest(network, (TOKENS[:30], TOKENS[30:]), sites=sites, out=tmp_path / "x", stored="float32")
    np.testing.assert_allclose(np.asarray(shards.train.images), memory.train.images, rtol=1e-5, atol=1e-6)
    first = sj.harvest(network, (TOKENS[:30], TOKENS[30:]), sites="mlp1", skip_positions=3)
    assert first.train.images.shape == (30 * 5, 16)


def test_layers_of_a_vision_network_are_its_sites():
    config = sj.configs.get("digits_mlp")
    x = np.random.default_rng(0).random((9, 28, 28, 1)).astype(np.float32)
    network = TrainedNetwork(config.model, config.model.init(jax.random.key(0), x[:1]), (0.1,), (0.3,), (28, 28, 1))
    found = sj.harvest(network, (x[:6], x[6:]))
    layers = network.activations(x)
    width = sum(h[0].size for h in layers.values())
    assert found.train.images.shape == (6, width)
    np.testing.assert_allclose(found.test.images[:, : layers["layer1"][0].size] if "layer1" in layers else
                               found.test.images, np.concatenate([h.reshape(9, -1) for h in layers.values()], 1)[6:][
                                   :, : found.test.images.shape[1]], rtol=1e-5, atol=1e-6)  # fmt: skip


def test_wrong_sites_and_shapes_are_refused():
    x = np.zeros((4, 3), np.float32)
    with pytest.raises(ConfigError, match="has no site 'c'; its sites are a, b"):
        sj.harvest(lambda x: {"a": x, "b": x}, (x, x), sites=["c"])
    with pytest.raises(ConfigError, match=r"expected \[batch, ..., width\]"):
        sj.harvest(lambda x: {"a": x[:, 0]}, (x, x))


def test_a_run_on_shards_is_one_in_memory_and_resumes(tmp_path, monkeypatch):
    pytest.importorskip("grain")
    rng = np.random.default_rng(0)
    x = (rng.random((330, 12)) < 0.2) @ rng.normal(size=(12, 6)).astype(np.float32)
    folder = tmp_path / "x"
    memory = sj.harvest(lambda x: {"x": x}, (x[:300], x[300:]))
    shards = sj.harvest(lambda x: {"x": x}, (x[:300], x[300:]), out=folder, stored="float32")
    model = SparseAutoencoder(hidden=24, k=3, dead_after=100)
    settings = {"epochs": 2, "batch_size": 50, "optimizer": "adam", "learning_rate": 1e-2, "schedule": "linear",
                "data.streaming": True, "evaluation.measures": ("accuracy", "latents"),
                "evaluation.track": ("latents",)}  # fmt: skip
    with jax.numpy_dtype_promotion("standard"), without_figures():
        runs = [sj.train(model, data=given, out=tmp_path / name, **settings)
                for name, given in (("memory", memory), ("shards", shards))]  # fmt: skip
        blocks = {**settings, "data.shuffle_block": 64}
        whole = sj.train(model, data=shards, out=tmp_path / "whole", **blocks)
        sj.train(model, data=shards, out=tmp_path / "parts", **{**blocks, "epochs": 1, "schedule": "constant"})
    results = [run.result["members"][0] for run in runs]
    for name in ("test_loss", "fvu", "l0"):
        np.testing.assert_allclose(results[0][name], results[1][name], rtol=1e-4)
    assert results[0]["fvu"] < 0.7 and results[0]["l0"] <= 3
    assert whole.history["test_fvu"][-1] < whole.history["test_fvu"][0]
