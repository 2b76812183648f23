"""Runs on file systems that lack locks, fsync or mapping, as some of FUSE, Lustre and NFS do."""

import errno
import fcntl
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from sparsejax.errors import RunFolderError, SparsejaxWarning
from sparsejax.files import find_lacking, write_whole
from sparsejax.training import log
from sparsejax.training.checkpoints import open_checkpoints, tensorstore_utils
from sparsejax.training.log import MetricsLog, read_metrics
from sparsejax.training.run_folder import RunFolder
from tests.command import ONE, ROOT, SMALL, environment

LACKING = ["ENOSYS", "EOPNOTSUPP", "ENOTSUP", "ENOLCK", "EINVAL"]
NO_LOCKS = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
int flock(int file, int operation) { errno = ENOSYS; return -1; }
int fsync(int file) { errno = ENOSYS; return -1; }
int fcntl(int file, int command, ...) {
    va_list rest;
    va_start(rest, command);
    void *argument = va_arg(rest, void *);
    va_end(rest);
    int locks[] = {F_SETLK, F_SETLKW, F_OFD_SETLK, F_OFD_SETLKW};
    for (int i = 0; i < 4; i++) if (command == locks[i]) { errno = ENOSYS; return -1; }
    return ((int (*)(int, int, ...)) dlsym(RTLD_NEXT, "fcntl"))(file, command, argument);
}
int fcntl64(int file, int command, ...) {
    va_list rest;
    va_start(rest, command);
    void *argument = va_arg(rest, void *);
    va_end(rest);
    return fcntl(file, command, argument);
}
"""
"""A library that replaces the system's calls for locks and fsync, also in TensorStore."""


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
    assert find_lacking(tmp_path) == () and find_lacking(tmp_path / "none") == ()


@pytest.mark.parametrize("name", LACKING)
def test_files_are_written_without_fsync(tmp_path, monkeypatch, name):
    monkeypatch.setattr(os, "fsync", failing(getattr(errno, name)))
    assert write_whole(tmp_path / "a", b"content").read_bytes() == b"content" and find_lacking(tmp_path) == ("fsync",)
    monkeypatch.setattr(os, "fsync", failing(errno.EIO))
    with pytest.raises(RunFolderError, match="cannot be written: Input/output error"):
        write_whole(tmp_path / "b", b"content")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_metrics_are_logged_without_tensorboard_where_it_cannot_write(tmp_path, monkeypatch):
    monkeypatch.setattr(log, "find_lacking", lambda folder: ("fsync",))
    with pytest.warns(SparsejaxWarning, match="no events for TensorBoard"):
        written = MetricsLog(tmp_path / "metrics.jsonl", tmp_path / "tensorboard", resumed_step=0)
    written.write(1, 0.5, {"loss": [1.0, 2.0]})
    written.close()
    assert read_metrics(tmp_path / "metrics.jsonl")[0]["loss"] == [1, 2] and not (tmp_path / "tensorboard").exists()


def test_checkpoints_are_written_without_locks_and_fsync(tmp_path, monkeypatch):
    context, tree = tensorstore_utils._DEFAULT_OCDBT_TS_CONTEXT, {"w": np.arange(3, dtype=np.float32)}
    usual = dict(context)
    monkeypatch.setattr(fcntl, "lockf", failing(errno.ENOLCK))
    monkeypatch.setattr(os, "fsync", failing(errno.EINVAL))
    for _ in range(2):
        with open_checkpoints(tmp_path / "c", keep=1) as saved:
            assert context == usual | {"file_io_locking": {"mode": "none"}, "file_io_sync": False}
            assert saved.steps() in ([], [1])
            saved.save(1 + len(saved.steps()), tree, score=0.0)
        assert context == usual
    monkeypatch.undo()
    with open_checkpoints(tmp_path / "c", keep=1) as saved:
        np.testing.assert_array_equal(saved.restore(tree).tree["w"], tree["w"])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux" or shutil.which("cc") is None, reason="needs Linux and a C compiler")
def test_a_run_where_the_system_has_neither(tmp_path: Path):
    (tmp_path / "no_locks.c").write_text(NO_LOCKS)
    library = tmp_path / "no_locks.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, tmp_path / "no_locks.c", "-ldl"], check=True)
    words = [sys.executable, "-m", "sparsejax.launch", *SMALL, *ONE, "--out", str(tmp_path / "run")]
    for epochs in ("2", "3"):  # and resumed
        done = subprocess.run([*words, "--training.epochs", epochs], env=environment(LD_PRELOAD=str(library)), cwd=ROOT,
                              capture_output=True, text=True)  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("has no locks") == 1 and "Traceback" not in done.stderr
    assert "resuming from the checkpoint" in done.stdout and (tmp_path / "run" / "report.html").exists()
