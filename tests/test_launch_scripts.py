"""The job scripts: their commands and their errors."""

import os
import shutil
import subprocess
import time

import pytest

from tests.command import ROOT

SCRIPTS = sorted((ROOT / "launch").glob("*.sh"))


def script(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(ROOT / "launch" / name), *arguments], capture_output=True, text=True, timeout=60)


def test_a_tpu_is_made_set_up_trained_on_and_deleted_by_these_commands():
    where = ["--name", "mine", "--zone", "us-west4-a", "--project", "p", "--dry-run"]
    said = {name: script("tpu_vm.sh", name, *where).stdout for name in ("create", "setup", "logs", "stop", "delete")}
    said["run"] = script("tpu_vm.sh", "run", *where, "--", "--config", "mnist_kwinners", "--out", "/a b").stdout
    assert all("gcloud compute tpus tpu-vm" in text and "--project p" in text for text in said.values())
    assert "tpu-vm create mine --zone us-west4-a" in said["create"] and "v5litepod-8" in said["create"]
    assert "scp" in said["setup"] and "--worker=all" in said["setup"] and "jax" in said["setup"]
    command = subprocess.run(["bash", "-c", f"printf '%s\\n' {said['run']}"], capture_output=True, text=True).stdout
    assert "-m sparsejax.launch --distributed --config mnist_kwinners --out /a\\ b" in command
    assert "TERM" in said["stop"] and "delete mine" in said["delete"]
    queued = script("tpu_vm.sh", "create", *where, "--queued", "--spot", "--type", "v5p-64").stdout
    assert "queued-resources create mine --node-id mine" in queued and "--spot" in queued and "v5p-64" in queued


def test_jobs_of_slurm_and_kubernetes_start_every_process():
    job = script("slurm.sh", "--nodes", "2", "--gpus", "4", "--partition", "gpu", "--dry-run", "--", "--config", "x")
    for line in ("#SBATCH --nodes=2", "#SBATCH --ntasks-per-node=4", "#SBATCH --partition=gpu",
                 "srun python -m sparsejax.launch --distributed --config x"):  # fmt: skip
        assert line in job.stdout
    assert subprocess.run(["bash", "-n"], input=job.stdout, text=True).returncode == 0
    words = ["--cluster", "c", "--workload", "w", "--image", "i", "--dry-run", "--", "--config", "x"]
    assert "xpk workload create --cluster c --workload w" in script("xpk.sh", *words).stdout


@pytest.mark.parametrize(("status", "requeued"), [(0, True), (143, True), (1, False), (137, False)])
def test_a_job_of_slurm_that_is_terminated_is_requeued_if_nothing_was_lost(tmp_path, status, requeued):
    job = script("slurm.sh", "--dry-run", "--", "--config", "x").stdout
    ready = "trap 'exit " + str(status) + "' TERM; touch started; while :; do sleep 0.01; done"
    for name, does in (("srun", ready), ("scontrol", 'echo "$@" > requeued')):
        (tmp_path / name).write_text(f"#!/bin/bash\n{does}\n")
        (tmp_path / name).chmod(0o755)
    settings = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "12"}
    process = subprocess.Popen(["bash", "-c", job], cwd=tmp_path, env=settings)
    while not (tmp_path / "started").exists():
        time.sleep(0.01)
    process.terminate()
    process.wait(timeout=60)
    assert (tmp_path / "requeued").exists() == requeued
    assert not requeued or (tmp_path / "requeued").read_text() == "requeue 12\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tpu_vm.sh", "fly"], "the command is 'fly'; expected create, setup, run, logs, stop or delete"),
        (["tpu_vm.sh", "create", "--zone", "z"], "--name is missing"),
        (["tpu_vm.sh", "create", "--name"], "--name needs a value"),
        (["tpu_vm.sh", "run", "--name", "a", "--zone", "z"], "run needs arguments after --"),
        (["slurm.sh", "--gpu", "3"], "'--gpu' is not a valid option"),
        (["slurm.sh", "--dry-run"], "arguments of sparsejax.launch are missing"),
        (["xpk.sh", "--cluster", "c"], "--workload is missing"),
    ],
)
def test_a_command_that_is_not_understood_is_refused(words, message):
    refused = script(*words)
    assert refused.returncode == 2 and f"error: {message}" in refused.stderr and not refused.stdout


WHOLE = {
    "slurm.sh": ([], ["--nodes", "2", "--gpus", "8", "--time", "2-12:30:00", "--partition", "gpu_a100,gpu"]),
    "tpu_vm.sh": (["run"], ["--name", "my-tpu", "--zone", "us-west4-a", "--type", "v5litepod-8", "--version",
                            "v2-alpha-tpuv5-lite", "--project", "example.com:my-project"]),
    "xpk.sh": ([], ["--cluster", "c", "--workload", "w", "--type", "v5litepod-64", "--image",
                    "eu.gcr.io/p/n:v1.0@sha256:0a", "--zone", "us-west4-a", "--project", "p", "--slices", "2"]),
}  # fmt: skip
"""Script -> its command, and all its options with values."""
LAUNCH = ["--dry-run", "--", "--config", "x"]
OPTIONS = [(name, option) for name, (_, words) in WHOLE.items() for option in words[::2]]


@pytest.mark.parametrize(("name", "option"), OPTIONS)
def test_a_value_is_never_another_line_or_another_option(name, option):
    command, words = WHOLE[name]
    assert script(name, *command, *words, *LAUNCH).returncode == 0
    given = dict(zip(words[::2], words[1::2], strict=True))
    good = given[option]
    for bad in (
        "",
        "--worker=0",
        f"{good}\n#SBATCH --exclusive",
        f"{good}\n",
        f"\n{good}",
        f"{good} x",
        f"{good};ls",
        "²",
    ):
        changed = [word for pair in (given | {option: bad}).items() for word in pair]
        refused = script(name, *command, *changed, *LAUNCH)
        assert refused.returncode == 2 and not refused.stdout, (bad, refused)
        assert refused.stderr.startswith(f"error: {option} is ") and refused.stderr.count("\n") == 1, refused.stderr


@pytest.mark.parametrize("name", WHOLE)
def test_arguments_of_the_training_reach_it_unchanged(name):
    command, words = WHOLE[name]
    odd = ["--out", "/a b/$(id)`id`;'\"\\é", "--sweep", "model.k=1,2"]
    said = script(name, *command, *words, "--dry-run", "--", *odd).stdout
    if name == "slurm.sh":
        line = next(line for line in said.splitlines() if line.startswith("srun ")).removesuffix("&")
    else:  # a command for gcloud or xpk, whose last part is one for a shell there
        outer = subprocess.run(["bash", "-c", f"printf '%s\\n' {said}"], capture_output=True, text=True).stdout
        line = next(line for line in outer.splitlines() if "--distributed" in line)
    arguments = line.partition("--distributed ")[2].partition(" > ")[0]
    again = subprocess.run(["bash", "-c", f"printf '%s\\n' {arguments}"], capture_output=True, text=True).stdout
    assert again.splitlines()[: len(odd)] == odd
    refused = script(name, *command, *words, "--dry-run", "--", "--out", "a\n#SBATCH --exclusive")
    assert refused.returncode == 2 and "has a line break" in refused.stderr and not refused.stdout


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed (pip install -e '.[dev]')")
def test_shellcheck_reports_nothing():
    said = subprocess.run(["shellcheck", *map(str, SCRIPTS)], capture_output=True, text=True)
    assert said.returncode == 0, said.stdout
