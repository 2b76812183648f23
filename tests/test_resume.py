"""A run that is stopped at any point and resumed ends as if it had never stopped."""

import functools
import json
import os
import random
import shutil
import signal
import subprocess
from pathlib import Path
from unittest import mock

import jax
import numpy as np
import pytest

from sparsejax.configuration import stack
from sparsejax.data.resident import Resident
from sparsejax.errors import CheckpointError
from sparsejax.evaluation.evaluator import Evaluator
from sparsejax.models import SparseMLP
from sparsejax.training import checkpoints, loop
from sparsejax.training.checkpoints import Checkpoints
from sparsejax.training.config import CLEAN_MEASURES, Config, DataConfig, DevicesConfig, TrainingConfig
from sparsejax.training.devices import place
from sparsejax.training.log import MetricsLog
from sparsejax.training.prepare import Job
from tests.command import EIGHT, ONE, here, without_figures
from tests.kill_campaign import SHORT, assert_same_run, killed

pytestmark = pytest.mark.optimized


# Leaves of equal shape abound: weights, mask and momentum; biases, duty cycles; and all those of the best network.
SMALL = ["--config", "digits_mlp", "--model.hidden", "20", "--model.k", "5", "--model.dropout", "0.1",
         "--training.momentum", "0.5", "--training.epochs", "3", "--training.batch-size", "10",
         "--training.first-epoch-batch-size", "None", "--data.train-examples", "120", "--data.test-examples", "40",
         "--training.checkpoint-every", "5", "--evaluation.measures", *CLEAN_MEASURES, *ONE]  # fmt: skip


def trained(folder: Path, *options: object) -> subprocess.CompletedProcess[str]:
    """Starts or resumes the small training; an epoch has 12 steps.

    The first epoch is made the best; otherwise the best network would be the last one.
    """
    measured = Evaluator.after_epoch

    def worse_each_time(self, variables, epoch):
        return measured(self, variables, epoch) | {"test_accuracy": 1 / epoch}

    with without_figures(), mock.patch.object(Evaluator, "after_epoch", worse_each_time):
        return here(*SMALL, "--out", folder, *options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Returns the folder of an uninterrupted small run."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    assert trained(folder).returncode == 0
    assert json.loads((folder / "result.json").read_text())["best"]["epoch"] == 1
    return folder


def once_done(call, when, what):
    """Returns a function that does the same and, when it was called with such arguments, something else."""

    def called(*arguments, **options):
        call(*arguments, **options)
        if when(*arguments, **options):
            what()

    return called


def interrupt():
    raise KeyboardInterrupt


def test_stopped_after_an_epoch_and_within_one_it_ends_as_if_never_stopped(whole, tmp_path, monkeypatch):
    folder = tmp_path / "parts"
    with monkeypatch.context() as patched:
        save = once_done(Checkpoints.save, lambda self, step, *_, **__: step == 12, interrupt)
        patched.setattr(Checkpoints, "save", save)
        stopped = trained(folder)
        assert stopped.returncode == 130 and "resume from the last checkpoint" in stopped.stderr
    with monkeypatch.context() as patched:
        terminate = functools.partial(os.kill, os.getpid(), signal.SIGTERM)
        patched.setattr(MetricsLog, "write", once_done(MetricsLog.write, lambda self, step, *_: step == 19, terminate))
        stopped = trained(folder)
        assert stopped.returncode == 0 and "resuming from the checkpoint of step 12" in stopped.stdout
        assert "Received SIGTERM and saved a checkpoint after step 19" in stopped.stderr
        assert not (folder / "result.json").exists()
    resumed = trained(folder)
    assert resumed.returncode == 0 and "resuming from the checkpoint of step 19" in resumed.stdout
    assert_same_run(folder, whole)


@pytest.mark.parametrize("streaming", [False, True], ids=["resident", "streamed"])
def test_batches_of_one_order_resume_where_they_stopped(streaming):
    """Shared batches are not drawn by position in the compiled step, but sliced from the order before it."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (60, 4, 4, 1), np.uint8), rng.integers(0, 3, 60, np.int32)
    data = Resident(images, labels, *np.float32([[[[[0.5]]]], [[[[0.2]]]]]))
    config = Config(SparseMLP(), DataConfig(streaming=streaming), TrainingConfig(batch_size=6, order_seed=3))
    job = Job(stack([config]), place(DevicesConfig("jit"), 1, {6}), data)
    if streaming:
        pytest.importorskip("grain")

    def batches(done):
        chunks = loop._chunks_of_data(job, jax.random.key(1), 2, 6, done, 2)
        return [np.asarray(chunk.images if streaming else chunk.batches) for chunk in chunks]

    whole = np.concatenate(batches(0))
    assert len(whole) == 10
    np.testing.assert_array_equal(np.concatenate(batches(4)), whole[4:])


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "a bit flipped": flipped,
    "truncated": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "emptied": lambda path: path.write_bytes(b""),
    "gone": Path.unlink,
}


def largest_file(checkpoint: Path) -> Path:
    files = [path for path in (checkpoint / "tree").rglob("*") if path.is_file()]
    return max(files, key=lambda path: path.stat().st_size)


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_checkpoint_is_refused_by_name(tmp_path, damage):
    tree = {"w": np.random.default_rng(0).standard_normal((100, 100)).astype(np.float32)}
    with checkpoints.open_checkpoints(tmp_path / "c", keep=2) as saved:
        for step in (1, 2):
            saved.save(step, tree, score=1.0)
    damage(largest_file(tmp_path / "c" / "2"))
    with checkpoints.open_checkpoints(tmp_path / "c", keep=2) as saved:
        with pytest.raises(CheckpointError, match=r"checkpoint of step 2 .* is damaged: .*--resume-step 1"):
            saved.restore(tree)
        np.testing.assert_array_equal(saved.restore(tree, 1).tree["w"], tree["w"])


def test_a_run_resumes_from_an_earlier_checkpoint_if_requested(whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "run")
    flipped(largest_file(folder / "checkpoints" / "36"))
    refused = trained(folder)
    assert refused.returncode == 1 and "Traceback" not in refused.stderr
    assert "checkpoint of step 36" in refused.stderr and "is damaged" in refused.stderr
    assert "--resume-step 34" in refused.stderr
    resumed = trained(folder, "--resume-step", 34)
    assert resumed.returncode == 0 and "resuming from the checkpoint of step 34" in resumed.stdout
    assert_same_run(folder, whole)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_killed_at_random_moments_it_ends_bit_equal(uninterrupted, tmp_path, seed):
    rng, folder = random.Random(seed), tmp_path / "run"
    assert sum(killed(folder, rng, lines=36, run=SHORT, **EIGHT) for _ in range(3)) >= 1
    with without_figures():
        final = here(*SHORT, "--training.checkpoint-every", 10, "--out", folder)
    assert final.returncode == 0, final.stderr
    assert "resuming from the checkpoint of step" in final.stdout
    assert_same_run(folder, uninterrupted)


def test_checkpoints_keep_keys_and_types_and_refuse_other_networks(tmp_path):
    alike = [np.full((2, 3), i, np.float32) for i in range(12)]
    tree = {"key": jax.random.key(3), "w": alike, "n": np.int32(4)}
    with checkpoints.open_checkpoints(tmp_path / "c", keep=2) as saved:
        assert saved.restore(tree) is None
        for step in (1, 2, 3, 4):
            saved.save(step, tree | {"n": np.int32(step)}, score=1.0 if step == 1 else 0.5)
    with checkpoints.open_checkpoints(tmp_path / "c", keep=2) as saved:
        assert saved.steps() == [1, 3, 4], "the two latest and the best"
        restored = saved.restore(tree)
        assert restored.step == 4
        assert restored.tree["n"] == 4
        np.testing.assert_array_equal(restored.tree["w"], alike)
        assert jax.random.key_data(restored.tree["key"]).tolist() == jax.random.key_data(tree["key"]).tolist()
        with pytest.raises(CheckpointError, match="belongs to another network"):
            saved.restore(tree | {"w": [*alike[:-1], np.zeros((3, 2), np.float32)]})
        with pytest.raises(CheckpointError, match=r"no checkpoint of step 2 .* available: \[1, 3, 4\]"):
            saved.restore(tree, 2)
        assert saved.restore(tree, 3).tree["n"] == 3
        assert saved.steps() == [1, 3]


def test_reads_after_a_failed_one_print_nothing(tmp_path, capfd):
    tree = {f"w{i}": np.random.default_rng(i).standard_normal((100, 100)).astype(np.float32) for i in range(20)}
    with checkpoints.open_checkpoints(tmp_path / "c", keep=2) as saved:
        saved.save(1, tree, score=1.0)
    with checkpoints.open_checkpoints(tmp_path / "c", keep=2) as saved:
        assert saved.restore(tree).step == 1
    for path in (tmp_path / "c/1/tree/ocdbt.process_0/d").iterdir():
        path.write_bytes(bytes(byte ^ 255 for byte in path.read_bytes()))
    with checkpoints.open_checkpoints(tmp_path / "c", keep=2) as saved, pytest.raises(CheckpointError):
        saved.restore(tree)
    assert "Traceback" not in capfd.readouterr().err
