"""What may befall a run: it is asked to stop, another one is in its folder, disks fill up, losses diverge."""

import asyncio
import gc
import json
import resource
import shutil
import signal
import subprocess
import sys
import time

import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax import configs
from sparsejax.commands.train import main
from sparsejax.configuration import replaced
from sparsejax.errors import CheckpointError, Interrupted, RunFolderError
from sparsejax.experiment import Experiment, run
from sparsejax.training import checkpoints, step
from sparsejax.training.run_folder import RunFolder
from tests.command import ROOT, environment, launch, started
from tests.kill_campaign import RUN, assert_same_run


@pytest.mark.slow
def test_asked_to_stop_it_saves_ends_well_and_goes_on(uninterrupted, tmp_path):
    folder = tmp_path / "run"
    process = started(*RUN, "--out", folder)
    while not (folder / "metrics.jsonl").exists() or (folder / "metrics.jsonl").read_text().count("\n") < 45:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert "Asked to stop, and saved after step" in said and not (folder / "result.json").exists()
    final = launch(*RUN, "--out", folder)
    assert final.returncode == 0 and "going on from the checkpoint of step" in final.stdout
    assert_same_run(folder, uninterrupted)


def test_a_folder_takes_one_run_at_a_time(tmp_path):
    folder = RunFolder(tmp_path / "run")
    with folder.held():
        refused = launch(*RUN, "--out", folder.path)
        assert refused.returncode == 1 and "is in use by another run (process" in refused.stderr
        assert sorted(path.name for path in folder.path.iterdir()) == [".lock"]
        with pytest.raises(RunFolderError, match="in use"), folder.held():
            pass
    with folder.held():
        pass


def _files(folder, step):
    return sorted((path for path in (folder / "checkpoints" / str(step) / "tree").rglob("*") if path.is_file()),
                  key=lambda path: path.stat().st_size)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["truncated", "missing", "empty"])
def test_a_checkpoint_whose_files_are_damaged_is_refused_and_the_one_before_serves(uninterrupted, tmp_path, fault):
    folder = tmp_path / "run"
    shutil.copytree(uninterrupted, folder)
    steps = sorted(int(path.name) for path in (folder / "checkpoints").iterdir() if path.name.isdigit())
    largest = _files(folder, steps[-1])[-1]
    if fault == "missing":
        largest.unlink()
    else:
        largest.write_bytes(b"" if fault == "empty" else largest.read_bytes()[: largest.stat().st_size // 2])
    assert main([*RUN, "--devices.transform", "jit", "--out", str(folder)]) == 1
    assert main([*RUN, "--devices.transform", "jit", "--out", str(folder), "--resume-step", str(steps[-2])]) == 0
    assert_same_run(folder, uninterrupted)


@pytest.mark.slow
def test_a_full_disk_is_said_and_nothing_that_was_there_is_lost(uninterrupted, tmp_path):
    folder = tmp_path / "run"

    def small_files():  # as a full disk, a write fails half-way
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    first = started(*RUN, "--out", folder)
    while not (folder / "metrics.jsonl").exists() or (folder / "metrics.jsonl").read_text().count("\n") < 45:
        assert first.poll() is None
        time.sleep(0.005)
    first.kill()
    first.wait()
    full = subprocess.run(
        [sys.executable, "-m", "sparsejax.launch", *RUN, "--out", str(folder)], preexec_fn=small_files,
        capture_output=True, text=True, cwd=ROOT, env=environment(), timeout=200,
    )  # fmt: skip
    assert full.returncode == 1, full.stderr
    assert "cannot be written" in full.stderr and "Traceback" not in full.stderr
    final = launch(*RUN, "--out", folder)
    assert final.returncode == 0, final.stderr
    assert "going on from the checkpoint of step" in final.stdout
    assert_same_run(folder, uninterrupted)


def test_what_fails_in_orbax_besides_is_not_printed_and_what_fails_elsewhere_is(tmp_path, caplog):
    async def both():
        tasks = []
        for folder in ("orbax", "else"):
            scope = {}
            source = "async def write():\n    raise ValueError('full')"
            exec(compile(source, f"/lib/{folder}/handlers.py", "exec"), scope)
            tasks.append(asyncio.ensure_future(scope["write"]()))
        await asyncio.sleep(0.01)
        del tasks  # nobody asks what became of them
        gc.collect()

    with checkpoints.opened(tmp_path, keep=1):
        asyncio.run(both())
    (told,) = [record.getMessage() for record in caplog.records if record.name == "asyncio" and record.exc_info]
    assert "never retrieved" in told and "/lib/else/" in told


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_the_run_and_says_where(tmp_path, capsys):
    rate = ["--training.learning-rate", "1e18", "--training.optimizer", "sgd", "--devices.transform", "jit"]
    few = ["--config", "digits_mlp", "--data.train-examples", "200", "--data.test-examples", "60", "--training.epochs",
           "3", "--out", str(tmp_path / "run")]  # fmt: skip
    assert main([*few, *rate]) == 1
    said = capsys.readouterr().err
    assert "no finite number at step" in said and "epoch 1, batch" in said and "No checkpoint was saved yet" in said
    assert "--training.on-nan skip" in said and "Traceback" not in said
    assert not (tmp_path / "run" / "result.json").exists()


@pytest.mark.slow
def test_steps_that_are_not_finite_are_left_out_if_asked(monkeypatch, tmp_path):
    whole = step.total_loss

    def total(objective, output, batch, hyper, *, axis_name=None):
        loss, (metrics, state) = whole(objective, output, batch, hyper, axis_name=axis_name)
        bad = batch.labels[0] == 3  # in some of the batches
        return jnp.where(bad, jnp.nan, loss), ({**metrics, "loss": jnp.where(bad, jnp.nan, metrics["loss"])}, state)

    monkeypatch.setattr(step, "total_loss", total)
    config = replaced(configs.get("digits_mlp"), {
        "training.on_nan": "skip", "training.epochs": 3, "data.train_examples": 200, "data.test_examples": 60,
        "devices.transform": "jit",
    })  # fmt: skip
    finished = run(Experiment("x", (config,), ({},)), RunFolder(tmp_path / "run"))
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    skipped = sum(line["not_finite"][0] for line in lines if "not_finite" in line)
    assert 0 < skipped < 30 and finished.result["test_accuracy"] > 0.5
    assert all(np.isfinite(leaf).all() for leaf in finished.variables.params["hidden1"].values())
    assert all(line["loss"][0] is not None for line in lines if "loss" in line)


@pytest.mark.slow
def test_a_grid_on_eight_devices_is_that_of_one(tmp_path):
    base = replaced(configs.get("digits_mlp"), {
        "training.epochs": 2, "data.train_examples": 120, "data.test_examples": 60, "training.batch_size": 40,
        "model.dropout": 0.2, "model.sigma": 0.1, "evaluation.noise": False,
    })  # fmt: skip
    results = {}
    for transform in ("jit", "auto"):
        members = tuple(replaced(base, {"training.seed": seed, "devices.transform": transform}) for seed in range(64))
        results[transform] = run(Experiment("grid", members, ({},) * 64), RunFolder(tmp_path / transform))
    one, eight = results["jit"].result["members"], results["auto"].result["members"]
    assert len(one) == len(eight) == 64 and [member["seed"] for member in eight] == list(range(64))
    same = sum(a["test_accuracy"] == b["test_accuracy"] for a, b in zip(one, eight, strict=True))
    assert same >= 61, "rounding may move an answer or two"
    for a, b in zip(results["jit"].variables.params["hidden1"].values(),
                    results["auto"].variables.params["hidden1"].values(), strict=True):  # fmt: skip
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


def test_data_that_changed_since_are_named(uninterrupted, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(uninterrupted, folder)
    description = json.loads((folder / "config.json").read_text())
    description["data"]["fingerprint"] = "0" * 64
    (folder / "config.json").write_text(json.dumps(description))
    refused = launch(*RUN, "--out", folder)
    assert refused.returncode == 1 and f"data (was {'0' * 64}, now " in refused.stderr
    assert "Traceback" not in refused.stderr and (folder / "result.json").exists()


def test_a_folder_that_cannot_be_written_is_refused_at_once(capsys):
    assert main([*RUN, "--out", "/dev/null/run"]) == 1
    assert "/dev/null/run cannot be written: Not a directory. Name another with --out" in capsys.readouterr().err


def test_what_is_said_to_be_saved_on_a_stop_is_saved(tmp_path, monkeypatch):
    def full(self):
        raise OSError("No space left on device")

    monkeypatch.setattr(checkpoints.ocp.CheckpointManager, "close", full)
    said = pytest.raises(CheckpointError, match="No space left on device")
    with said, checkpoints.opened(tmp_path / "c", keep=1):
        raise Interrupted("after step 3")
