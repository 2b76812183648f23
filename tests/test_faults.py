"""Failures of a run: SIGTERM, another run in its folder, full disks, diverging losses."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from unittest import mock

import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax import configs
from sparsejax.configuration import replace
from sparsejax.errors import CheckpointError, Interrupted, RunFolderError, SparsejaxWarning
from sparsejax.experiment import Experiment, run
from sparsejax.training import checkpoints, step
from sparsejax.training.config import CLEAN_MEASURES
from sparsejax.training.environment import usable_cores
from sparsejax.training.run_folder import RunFolder
from tests.command import EIGHT, ONE, ROOT, SMALL, environment, here, started, without_figures
from tests.kill_campaign import SHORT, assert_same_run
from tests.operation_campaign import RUN as SHORTEST


def test_a_folder_allows_one_run_at_a_time(tmp_path):
    folder = RunFolder(tmp_path / "run")
    with folder.hold():
        refused = here(*SMALL, "--out", folder.path)
        assert refused.returncode == 1 and "is in use by another run (process" in refused.stderr
        assert sorted(path.name for path in folder.path.iterdir()) == [".lock"]
        with pytest.raises(RunFolderError, match="in use"), folder.hold():
            pass
    with folder.hold():
        pass


def test_a_loss_that_is_not_finite_stops_the_run_and_says_where(tmp_path):
    stopped = here(*SMALL, *ONE, "--training.learning-rate", "1e18", "--out", tmp_path / "run")
    assert stopped.returncode == 1
    assert "not finite at step" in stopped.stderr and "epoch 1, batch" in stopped.stderr
    assert "No checkpoint was saved yet" in stopped.stderr and "--training.on-nan skip" in stopped.stderr
    assert "Traceback" not in stopped.stderr and not (tmp_path / "run" / "result.json").exists()


def test_steps_that_are_not_finite_are_skipped_if_configured(monkeypatch, tmp_path):
    whole = step.total_loss

    def total(objective, output, batch, *, axis_name=None):
        loss, (metrics, state) = whole(objective, output, batch, axis_name=axis_name)
        bad = batch.labels[0] == 3  # in some of the batches
        return jnp.where(bad, jnp.nan, loss), ({**metrics, "loss": jnp.where(bad, jnp.nan, metrics["loss"])}, state)

    monkeypatch.setattr(step, "total_loss", total)
    config = replace(configs.get("digits_mlp"), {
        "training.on_nan": "skip", "training.epochs": 3, "data.train_examples": 200, "data.test_examples": 60,
        "training.first_epoch_batch_size": None, "evaluation.measures": CLEAN_MEASURES, "devices.transform": "jit",
    })  # fmt: skip
    with without_figures():
        finished = run(Experiment("x", (config,), ({},)), RunFolder(tmp_path / "run"))
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    skipped = sum(line["not_finite"][0] for line in lines if "not_finite" in line)
    assert 0 < skipped < 15 and finished.result["test_accuracy"] > 0.5
    assert all(np.isfinite(leaf).all() for leaf in finished.variables.params["hidden1"].values())
    assert all(line["loss"][0] is not None for line in lines if "loss" in line)


@pytest.mark.parametrize(
    ("rate", "epoch"),
    [("1e18", 2), ("3e38", 1)],  # losses are not finite after the first update; its parameters are not
)
def test_an_epoch_of_skipped_steps_stops_the_run(tmp_path, rate, epoch):
    words = ["--training.learning-rate", rate, "--training.on-nan", "skip", "--out", tmp_path / "run"]
    stopped = here(*SMALL, *ONE, *words)
    assert stopped.returncode == 1 and not (tmp_path / "run" / "result.json").exists()
    assert re.match(
        rf"error: All \d+ steps of epoch {epoch} were skipped for the network, because a loss", stopped.stderr
    )


def test_a_run_ends_without_figures_that_cannot_be_written(tmp_path):
    (tmp_path / "run").mkdir()
    denied = OSError(errno.EACCES, "Permission denied")
    warned = pytest.warns(SparsejaxWarning, match="finished, but its figures or report could not be made: .*denied")
    with warned, mock.patch("sparsejax.experiment.write_figures", side_effect=denied):
        ended = here(*SHORTEST, "--out", tmp_path / "run")
    assert ended.returncode == 0 and (tmp_path / "run" / "result.json").exists()


def test_a_resume_on_other_cores_says_that_bits_may_differ(tmp_path):
    with without_figures():
        assert here(*SHORTEST, "--out", tmp_path / "run").returncode == 0
        for cores in (usable_cores(), 77):
            with mock.patch("sparsejax.training.environment.usable_cores", return_value=cores):
                resumed = here(*SHORTEST, "--out", tmp_path / "run")
            noted = f"NOTE: usable cores (was {usable_cores()}, now 77): the results may differ in their last bits"
            assert (noted in resumed.stdout) == (cores == 77) and resumed.returncode == 0


def test_changed_data_are_named(small_run, tmp_path):
    description = json.loads((small_run / "run" / "config.json").read_text())
    description["data"]["fingerprint"] = "0" * 64
    (tmp_path / "config.json").write_text(json.dumps(description))
    refused = here(*SMALL, *ONE, "--out", tmp_path)
    assert refused.returncode == 1 and "contents 00000000, now the digits" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert json.loads((tmp_path / "config.json").read_text()) == description


@pytest.mark.parametrize("where", ["file/run", "/dev/null/run"])
def test_an_unwritable_folder_is_refused_immediately(where, tmp_path):
    (tmp_path / "file").write_text("")
    refused = here(*SMALL, "--out", tmp_path / where)
    assert refused.returncode == 1 and "Traceback" not in refused.stderr
    assert f"{tmp_path / where} cannot be written: Not a directory. Choose another with --out" in refused.stderr


def test_a_failed_save_on_sigterm_is_reported(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    said = pytest.raises(CheckpointError, match="cannot be written to .*: No space left on device. Complete")
    with said, checkpoints.open_checkpoints(tmp_path / "c", keep=1) as saved:
        saved.save(3, {"w": np.zeros(2)}, score=0.0)
        raise Interrupted("after step 3")


@pytest.mark.slow
def test_a_grid_on_eight_devices_is_that_of_one(tmp_path):
    base = replace(configs.get("digits_mlp"), {
        "training.epochs": 2, "data.train_examples": 120, "data.test_examples": 60, "training.batch_size": 40,
        "training.first_epoch_batch_size": None, "model.dropout": 0.2, "model.sigma": 0.1,
        "evaluation.measures": CLEAN_MEASURES,
    })  # fmt: skip
    results = {}
    for transform in ("jit", "auto"):
        members = tuple(replace(base, {"training.seed": seed, "devices.transform": transform}) for seed in range(24))
        with without_figures():
            results[transform] = run(Experiment("grid", members, ({},) * 24), RunFolder(tmp_path / transform))
    one, eight = results["jit"].result["members"], results["auto"].result["members"]
    assert len(one) == len(eight) == 24 and [member["seed"] for member in eight] == list(range(24))
    same = sum(a["test_accuracy"] == b["test_accuracy"] for a, b in zip(one, eight, strict=True))
    assert same >= 23, "rounding may move an answer or two"
    for a, b in zip(results["jit"].variables.params["hidden1"].values(),
                    results["auto"].variables.params["hidden1"].values(), strict=True):  # fmt: skip
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


def when_lines(folder, lines, process):
    """Waits until the run in this folder has logged so much."""
    metrics = folder / "metrics.jsonl"
    while not metrics.exists() or metrics.read_text().count("\n") < lines:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.005)


@pytest.mark.slow
@pytest.mark.optimized
def test_on_sigterm_it_saves_exits_with_0_and_resumes(uninterrupted, tmp_path):
    folder = tmp_path / "run"
    process = started(*SHORT, "--out", folder, **EIGHT)
    when_lines(folder, 45, process)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert "Received SIGTERM and saved a checkpoint after step" in said and not (folder / "result.json").exists()
    with without_figures():
        final = here(*SHORT, "--out", folder)
    assert final.returncode == 0 and "resuming from the checkpoint of step" in final.stdout
    assert_same_run(folder, uninterrupted)


@pytest.mark.slow
@pytest.mark.optimized
def test_a_full_disk_is_reported_and_existing_checkpoints_stay_intact(uninterrupted, tmp_path):
    folder = tmp_path / "run"

    first = started(*SHORT, "--out", folder, **EIGHT)
    when_lines(folder, 45, first)
    first.kill()
    first.wait()
    small_files = "trap '' XFSZ; ulimit -f 60; exec \"$@\""  # as on a full disk, a write fails half-way; 60 kB
    full = subprocess.run(
        ["bash", "-c", small_files, "-", sys.executable, "-m", "sparsejax.launch", *SHORT, "--out", str(folder)],
        capture_output=True, text=True, cwd=ROOT, env=environment(**EIGHT), timeout=200,
    )  # fmt: skip
    assert full.returncode == 1, full.stderr
    assert "cannot be written" in full.stderr and "Traceback" not in full.stderr
    with without_figures():
        final = here(*SHORT, "--out", folder)
    assert final.returncode == 0, final.stderr
    assert "resuming from the checkpoint of step" in final.stdout
    assert_same_run(folder, uninterrupted)
