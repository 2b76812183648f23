"""Runs on file systems that lack locks, fsync or mapping, as some of FUSE, Lustre and NFS do."""

import errno
import fcntl
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from orbax.checkpoint._src.serialization import tensorstore_utils

from sparsejax.errors import RunFolderError, SparsejaxWarning
from sparsejax.files import write_whole
from sparsejax.training.checkpoints import open_checkpoints, restore
from sparsejax.training.log import MetricsLog, read_metrics
from sparsejax.training.run_folder import RunFolder
from tests.command import ONE, ROOT, SMALL, environment
from tests.preload import compiled, needs_preload

LACKING = ["ENOSYS", "EOPNOTSUPP", "ENOTSUP", "ENOLCK", "EINVAL"]


def failing(code: int):
    def fail(*_):
        raise OSError(code, os.strerror(code))

    return fail


@pytest.mark.parametrize("name", LACKING)
def test_a_folder_without_locks_is_used_with_a_warning(tmp_path, monkeypatch, name):
    folder = RunFolder(tmp_path / "run")
    monkeypatch.setattr(fcntl, "flock", failing(getattr(errno, name)))
    with pytest.warns(SparsejaxWarning, match=f"The file system of {folder.path} has no locks: make"), folder.hold():
        assert folder.lock.read_text().startswith(f"process {os.getpid()}")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("EAGAIN", "is in use by another run"),
        ("EACCES", "is in use by another run"),
        ("EIO", "cannot be locked: Input"),
    ],
)
def test_other_errors_of_a_lock_refuse_the_folder(tmp_path, monkeypatch, name, said):
    monkeypatch.setattr(fcntl, "flock", failing(getattr(errno, name)))
    with pytest.raises(RunFolderError, match=said), RunFolder(tmp_path / "run").hold():
        pass


def test_a_folder_with_locks_is_used_without_a_warning(tmp_path):
    with (
        warnings.catch_warnings(action="error"),
        RunFolder(tmp_path / "run").hold(),
        pytest.raises(RunFolderError, match="in use by another run .process"),
        RunFolder(tmp_path / "run").hold(),
    ):
        pass


@pytest.mark.parametrize("name", LACKING)
def test_files_are_written_without_fsync(tmp_path, monkeypatch, name):
    monkeypatch.setattr(os, "fsync", failing(getattr(errno, name)))
    assert write_whole(tmp_path / "a", b"content").read_bytes() == b"content"
    monkeypatch.setattr(os, "fsync", failing(errno.EIO))
    with pytest.raises(RunFolderError, match="cannot be written: Input/output error"):
        write_whole(tmp_path / "b", b"content")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_metrics_and_events_are_logged_without_fsync(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", failing(errno.EINVAL))
    with warnings.catch_warnings(action="error"):
        written = MetricsLog(tmp_path / "metrics.jsonl", tmp_path / "tensorboard", resumed_step=0)
        written.write(1, 0.5, {"loss": [1.0, 2.0]})
        written.sync()
        written.close()
    (events,) = (tmp_path / "tensorboard").iterdir()
    assert read_metrics(tmp_path / "metrics.jsonl")[0]["loss"] == [1, 2] and b"loss" in events.read_bytes()


def test_checkpoints_are_written_without_locks_and_fsync(tmp_path, monkeypatch):
    tree, usual = {"w": np.arange(3, dtype=np.float32)}, dict(tensorstore_utils._DEFAULT_OCDBT_TS_CONTEXT)
    monkeypatch.setattr(fcntl, "lockf", failing(errno.ENOLCK))
    monkeypatch.setattr(os, "fsync", failing(errno.EINVAL))
    with open_checkpoints(tmp_path / "c", keep=1) as saved:
        saved.save(1, tree, score=0.0)
    assert usual == tensorstore_utils._DEFAULT_OCDBT_TS_CONTEXT
    np.testing.assert_array_equal(restore(tmp_path / "c", tree).tree["w"], tree["w"])


@pytest.mark.slow
@needs_preload
def test_a_run_where_the_system_has_neither(tmp_path: Path):
    library = compiled("no_locks", tmp_path)
    words = [sys.executable, "-m", "sparsejax.launch", *SMALL, *ONE, "--out", str(tmp_path / "run")]
    for epochs in ("2", "3"):  # and resumed
        done = subprocess.run([*words, "--training.epochs", epochs], env=environment(LD_PRELOAD=str(library)), cwd=ROOT,
                              capture_output=True, text=True)  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("has no locks") == 1 and "Traceback" not in done.stderr
    assert "resuming from the checkpoint" in done.stdout and (tmp_path / "run" / "report.html").exists()
