"""Training of sparse autoencoders: several devices, a sweep in one program, resume, and codes without enough slots."""

import jax
import numpy as np
import pytest

import sparsejax as sj
from sparsejax.data.activations import make_activations
from sparsejax.errors import DivergedError
from sparsejax.models import SparseAutoencoder
from tests.command import without_figures

RNG = np.random.default_rng(0)
X = ((RNG.random((400, 30)) < 0.1) * RNG.random((400, 30))) @ RNG.normal(size=(30, 12))
DATA = make_activations({"x": X[:320].astype(np.float32)}, {"x": X[320:].astype(np.float32)})
SGD = {"epochs": 2, "batch_size": 32, "optimizer": "sgd", "learning_rate": 0.05, "schedule": "constant",
       "evaluation.measures": ("accuracy", "latents")}  # fmt: skip


@pytest.fixture(autouse=True)
def plain():
    with jax.numpy_dtype_promotion("standard"), without_figures():
        yield


@pytest.mark.slow
@pytest.mark.parametrize("fields", [
    {"activation": "top_k", "k": 3, "dead_after": 100}, {"activation": "batch_top_k", "k": 3.0, "boost": 1.0},
    {"activation": "jump_relu", "k": None, "l0": 0.1, "bandwidth": 0.5, "most_k": 8, "initial_threshold": 4.0},
])  # fmt: skip
def test_several_devices_train_what_one_does(fields, tmp_path):
    # 256 latents: few enough are active that the codes hold only these.
    model = SparseAutoencoder(hidden=256, **fields)
    runs = [sj.train(model, data=DATA, out=tmp_path / str(devices), **SGD,
                     **{"devices.data": devices, "devices.transform": "shard_map" if devices > 1 else "jit"})
            for devices in (1, 4, 8)]  # fmt: skip
    first, *others = ([np.asarray(leaf) for leaf in jax.tree.leaves(run.network().variables)] for run in runs)
    for other in others:
        for mine, theirs in zip(first, other, strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)


def test_a_sweep_of_k_is_one_program(tmp_path):
    model, settings = SparseAutoencoder(hidden=64, k=2), {**SGD, "optimizer": "adam", "learning_rate": 1e-2}
    run = sj.train(model, data=DATA, out=tmp_path / "sweep", sweep={"model.k": [1, 2, 5]}, **settings)
    assert [member["l0"] for member in run.result["members"]] == [1, 2, 5]
    assert run.result["config"]["model"]["most_k"] == 5
    alone = sj.train(SparseAutoencoder(hidden=64, k=5), data=DATA, out=tmp_path / "alone", **settings)
    np.testing.assert_allclose(run.result["members"][2]["fvu"], alone.result["members"][0]["fvu"], rtol=1e-4)
    assert run.result["members"][2]["fvu"] < run.result["members"][0]["fvu"]


def test_a_resumed_run_is_bit_for_bit_an_uninterrupted_one(tmp_path):
    model = SparseAutoencoder(hidden=64, activation="batch_top_k", k=2.0, boost=1.0, boost_hold=100.0)
    settings = {**SGD, "optimizer": "adam", "learning_rate": 1e-3}
    whole = sj.train(model, data=DATA, out=tmp_path / "whole", **settings)
    for epochs in (1, 2):
        parts = sj.train(model, data=DATA, out=tmp_path / "parts", **{**settings, "epochs": epochs})
    for mine, theirs in zip(*(jax.tree.leaves(run.network().variables) for run in (whole, parts)), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_more_active_latents_than_slots_stop_the_run(tmp_path):
    model = SparseAutoencoder(hidden=256, activation="jump_relu", k=None, l0=0.1, most_k=2, initial_threshold=0.01)
    with pytest.raises(DivergedError, match="more latents were active than the code has slots for"):
        sj.train(model, data=DATA, out=tmp_path / "run", **SGD)
