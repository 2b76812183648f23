"""Runs of version 0.1 load, predict, report and resume in this version."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

import sparsejax as sj
from sparsejax.commands.cli import main
from sparsejax.data import load
from sparsejax.errors import ConfigError, RunFolderError
from tests.command import ROOT

OLD = ROOT / "tests/runs_0_1"
RUNS = sorted(path.name for path in OLD.iterdir() if path.is_dir())


@pytest.fixture(autouse=True)
def as_in_a_program():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.mark.parametrize("name", [name for name in RUNS if name not in ("gpt", "speech")])
def test_a_network_has_the_accuracy_or_loss_that_its_run_recorded(name):
    run, digits = sj.load(OLD / name), load("digits").limit(40, 20)
    for member, recorded in enumerate(run.result["members"]):
        network = run.network(member)
        prediction = network.predict(digits.test.images)
        if "test_accuracy" in recorded:
            accuracy = np.mean(prediction.argmax(-1) == digits.test.labels)
            assert accuracy == pytest.approx(recorded["test_accuracy"])
        else:
            assert prediction.shape == (20, 784) and np.isfinite(prediction).all()
        assert set(network.activations(digits.test.images)) == set(recorded["layers"])
    assert run.history["test_loss"].shape == (2, len(run.configs))


@pytest.mark.parametrize(
    ("name", "example"), [("gpt", np.zeros((2, 8), np.int32)), ("speech", np.zeros((2, 16_000), np.int16))]
)
def test_networks_load_without_data_that_are_gone(name, example, monkeypatch, tmp_path):
    monkeypatch.setenv("SPARSEJAX_DATA", str(tmp_path))
    prediction = sj.load(OLD / name).network().predict(example)
    assert len(prediction) == 2 and np.isfinite(prediction).all()
    wide = example.astype(np.int64) + 2**32  # would wrap around, or lack the scale of int16
    with pytest.raises(ConfigError, match="int64 (are no tokens; expected integers|have no known scale)"):
        sj.load(OLD / name).network().predict(wide)


def copy_of(name: str, tmp_path: Path) -> Path:
    shutil.copytree(OLD / name, tmp_path / name)
    return tmp_path / name


def test_its_report_is_drawn_again(tmp_path):
    folder = copy_of("mlp", tmp_path)
    assert main(["report", str(folder)]) == 0
    assert "Sparsity" in (folder / "report.html").read_text()


def test_it_is_extended(tmp_path):
    folder = copy_of("mlp", tmp_path)
    old = sj.load(folder)
    before = old.history["test_loss"]
    run = sj.train(old.configs[0], out=folder, epochs=4)
    assert run.result["members"][0]["epoch"] == 4 and run.history["test_loss"].shape == (4, 1)
    np.testing.assert_array_equal(run.history["test_loss"][:2], before)
    assert json.loads((folder / "config.json").read_text())["schema"] == 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda told: told["config"]["model"].update(hiden=3), "no network of sparsejax has the fields"),
        (lambda told: told["config"]["training"].update(rate=3), "training.rate is not a field of TrainingConfig"),
        (lambda told: told["config"].update(more={}), "unknown parts more"),
        (lambda told: told.update(schema=99), "schema 99, and this version of sparsejax reads up to 2"),
    ],
)
def test_an_unknown_field_is_named(tmp_path, change, said):
    folder = copy_of("mlp", tmp_path)
    told = json.loads((folder / "config.json").read_text())
    change(told)
    (folder / "config.json").write_text(json.dumps(told))
    with pytest.raises(RunFolderError, match=said):
        sj.load(folder)


def test_a_missing_field_takes_its_default(tmp_path):
    folder = copy_of("mlp", tmp_path)
    told = json.loads((folder / "config.json").read_text())
    del told["config"]["model"]["local"], told["config"]["evaluation"]
    (folder / "config.json").write_text(json.dumps(told))
    (config,) = sj.load(folder).configs
    assert config.model.local is False and config.evaluation == sj.EvaluationConfig()
