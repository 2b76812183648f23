"""Several processes: the same networks as one process, for any number, and no hang if one fails."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils

from sparsejax.data import load
from sparsejax.training.config import CLEAN_MEASURES
from sparsejax.training.processes import termination
from tests.command import ONE, ROOT, environment, here, launch, without_figures
from tests.kill_campaign import last_networks

# Plain SGD: Adam would hide a gradient of the wrong scale. Noise shows whether its keys depend on the devices.
RUN = ["--config", "digits_mlp", "--data.train-examples", "400", "--data.test-examples", "60",
       "--training.batch-size", "40", "--training.first-epoch-batch-size", "None",
       "--model.dropout", "0.2", "--model.sigma", "0.1", "--evaluation.measures", *CLEAN_MEASURES]  # fmt: skip
LOCAL = [sys.executable, str(ROOT / "launch/local_processes.py")]


def several(processes: int, devices: int, *arguments: object) -> "subprocess.Popen[str]":
    """Starts processes on this machine, with the given number of devices each."""
    words = [str(processes), "--devices", str(devices), "--", *map(str, arguments)]
    return subprocess.Popen([*LOCAL, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                            env=environment(), cwd=ROOT)  # fmt: skip


def finished(process: "subprocess.Popen[str]", status: int = 0) -> str:
    """Waits for the processes' end and returns what they said."""
    said, _ = process.communicate(timeout=300)
    assert process.returncode == status, said
    return said


def children(process: "subprocess.Popen[str]") -> list[int]:
    """Returns the numbers of the processes that were started by this one."""
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True)
    return [int(word) for word in listed.stdout.split()]


def wait_for_lines(folder: Path, lines: int, process: "subprocess.Popen[str]") -> None:
    metrics = folder / "metrics.jsonl"
    while not (metrics.exists() and metrics.read_text().count("\n") >= lines):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)


def assert_close(folder: Path, expected: Path) -> None:
    networks, others = last_networks(folder), last_networks(expected)
    assert networks.keys() == others.keys()
    for name, leaf in networks.items():
        np.testing.assert_allclose(leaf, others[name], rtol=2e-4, atol=2e-5, err_msg=name)
    accuracies = [json.loads((where / "result.json").read_text())["test_accuracy"] for where in (folder, expected)]
    assert accuracies[0] == pytest.approx(accuracies[1], abs=0.02)


def alone(*arguments: object) -> "subprocess.CompletedProcess[str]":
    """Runs the same in this process, on one device."""
    with without_figures():
        done = here(*arguments, *ONE)
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.slow
def test_two_processes_then_more_devices_then_one_are_one_run(tmp_path):
    run = [*RUN, "--training.epochs", 20]  # 220 lines of metrics
    alone(*run, "--out", tmp_path / "one")
    folder = tmp_path / "parts"
    for devices, asked in ((2, "both"), (4, "one")):
        done = (folder / "metrics.jsonl").read_text().count("\n") if folder.exists() else 0
        process = several(2, devices, *run, "--out", folder)
        wait_for_lines(folder, done + 40, process)
        if asked == "both":
            process.send_signal(signal.SIGTERM)
        else:
            os.kill(children(process)[-1], signal.SIGTERM)
        said = finished(process)
        assert "Received SIGTERM and saved a checkpoint after step" in said and f"{2 * devices} cpu devices" in said
    assert "resuming from the checkpoint of step" in alone(*run, "--out", folder).stdout
    assert_close(folder, tmp_path / "one")


def test_a_signal_to_another_process_persists(monkeypatch):
    """The loop may not be able to stop at that call, for example at the end of an epoch."""
    others = iter([0, 0, 1, 0, 0])
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(multihost_utils, "process_allgather", lambda own: np.stack([own, np.int32(next(others))]))
    with termination() as asked_to_stop:
        assert [asked_to_stop() for _ in range(5)] == [False, False, True, True, True]


def test_a_signal_unknown_to_other_processes_does_not_stop_yet(monkeypatch):
    """A process that stops alone would deadlock with the others."""

    def gather(own: np.int32) -> np.ndarray:
        os.kill(os.getpid(), signal.SIGTERM)
        return np.stack([own, np.int32(0)])

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(multihost_utils, "process_allgather", gather)
    with termination() as asked_to_stop:
        assert [asked_to_stop() for _ in range(3)] == [0, signal.SIGTERM, signal.SIGTERM]


@pytest.mark.slow
def test_a_grid_over_processes_is_the_grid_of_one(tmp_path):
    run = [*RUN, "--training.epochs", 3, "--seeds", 3]
    said = finished(several(2, 1, *run, "--out", tmp_path / "two"))
    assert "3 networks on digits" in said and said.count("figures and report") == 1, "one of them speaks and writes"
    alone(*run, "--out", tmp_path / "one")
    assert_close(tmp_path / "two", tmp_path / "one")


@pytest.mark.slow
def test_if_a_process_dies_the_others_end_soon(tmp_path):
    process = several(2, 1, *RUN, "--training.epochs", 2000, "--out", tmp_path / "run")
    wait_for_lines(tmp_path / "run", 5, process)
    os.kill(children(process)[-1], signal.SIGKILL)
    began = time.monotonic()
    said, _ = process.communicate(timeout=120)
    assert process.returncode != 0 and time.monotonic() - began < 60, said
    assert "Traceback" in said or "distributed service" in said, said
    resumed = here(*RUN, "--training.epochs", 2000, "--out", tmp_path / "run", "--training.seed", 7)
    assert resumed.returncode == 1 and "training.seed" in resumed.stderr, "the folder is released"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGKILL])
def test_if_the_launcher_is_ended_its_processes_end(tmp_path, number):
    process = several(2, 1, *RUN, "--training.epochs", 2000, "--out", tmp_path / "run")
    wait_for_lines(tmp_path / "run", 5, process)
    running = children(process)
    process.send_signal(number)
    process.communicate(timeout=60)
    until = time.monotonic() + 60
    while any(Path(f"/proc/{child}").exists() for child in running) and time.monotonic() < until:
        time.sleep(0.1)
    assert len(running) == 2 and not any(Path(f"/proc/{child}").exists() for child in running)
    assert list((tmp_path / "run" / "checkpoints").iterdir())


@pytest.mark.slow
def test_processes_given_different_things_are_refused(tmp_path):
    run = [sys.executable, "-m", "sparsejax.launch", *RUN, "--processes", "2", "--coordinator", "127.0.0.1:18476",
           "--out", str(tmp_path / "run")]  # fmt: skip
    settings = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"}
    both = [
        subprocess.Popen([*run, "--process", str(i), "--training.seed", str(i)], text=True, cwd=ROOT,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment(**settings))
        for i in range(2)
    ]  # fmt: skip
    said = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [2, 2], said
    assert all("Process 1 was given another configuration than process 0" in text for text in said)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_an_error_in_one_process_ends_all(tmp_path):
    run = [sys.executable, "-m", "sparsejax.launch", *RUN, "--processes", "2", "--coordinator", "127.0.0.1:18477",
           "--data.name", "arrays", "--out", str(tmp_path / "run")]  # fmt: skip
    settings = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"}
    digits, folders = load("digits").limit(400, 60), [tmp_path / "one", tmp_path / "none"]
    for folder in folders:
        (folder / "arrays").mkdir(parents=True)
    for part in ("train", "test"):
        for name, array in getattr(digits, part)._asdict().items():
            np.save(folders[0] / "arrays" / f"{part}_{name}.npy", array)
    began = time.monotonic()
    both = [
        subprocess.Popen([*run, "--process", str(i)], text=True, cwd=ROOT, stdout=subprocess.PIPE,
                         stderr=subprocess.STDOUT, env=environment(SPARSEJAX_DATA=str(folder), **settings))
        for i, folder in enumerate(folders)
    ]  # fmt: skip
    said = [process.communicate(timeout=120)[0] for process in both]
    assert both[1].returncode == 1 and "holds nothing; expected x_train" in said[1], said[1]
    assert both[0].returncode != 0 and time.monotonic() - began < 90, said[0]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--coordinator", "here"], "--coordinator is 'here'; expected HOST:PORT"),
        (["--processes", "0"], "--processes is 0; expected a number from 1 to 100,000"),
        (["--processes", "2", "--process", "2"], "--process is 2; expected a number from 0 to 1"),
    ],
)
def test_invalid_settings_are_refused_immediately(arguments, message):
    refused = here("--config", "digits_mlp", *arguments)
    assert refused.returncode == 2 and message in refused.stderr and "Traceback" not in refused.stderr


def test_undetected_processes_are_reported():
    refused = launch("--config", "digits_mlp", "--distributed")  # JAX looks for them only before it has begun
    assert refused.returncode == 2 and "cannot be detected" in refused.stderr and "Traceback" not in refused.stderr


def test_a_dry_run_prints_the_commands():
    words = ["2", "--devices", "3", "--dry-run", "--", "--config", "digits_mlp"]
    said = subprocess.run([*LOCAL, *words], capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(said) == 2 and "JAX_PROCESS_ID=1" in said[1] and "JAX_NUM_CPU_DEVICES=3" in said[0]
    assert said[0].endswith("-m sparsejax.launch --distributed --config digits_mlp")
