"""The run folder: its lock, what it takes for its own, and a deletion that is completed after a kill."""

import contextlib
import json
import os
import shutil
import threading
import time

import pytest

from sparsejax.errors import ConfigError, RunFolderError
from sparsejax.files import incomplete, write_whole
from sparsejax.training.environment import find_changes, usable_cores
from sparsejax.training.run_folder import RunFolder

DESCRIPTION = {"config": {}, "seeds": [0], "points": [], "data": {}}


def with_everything(folder: RunFolder) -> None:
    """Writes something to every path of a run."""
    folder.path.mkdir(exist_ok=True)
    for path in (folder.checkpoints, folder.tensorboard, folder.figures, folder.arrays):
        (path / "deeper").mkdir(parents=True)
        (path / "deeper" / "file").write_text("old")
    for path in (folder.config, folder.metrics, folder.result, folder.units, folder.detail, folder.report):
        path.write_text("old")


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_lock_that_is_a_link_is_refused_and_its_file_stays(tmp_path, link):
    (tmp_path / "mine").write_text("mine")
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    link(tmp_path / "mine", folder.lock)
    with pytest.raises(RunFolderError, match=r"\.lock is a (symbolic|hard) link"), folder.hold():
        pass
    assert (tmp_path / "mine").read_text() == "mine"


def test_files_are_not_written_through_links(tmp_path):
    (tmp_path / "mine").write_text("mine")
    for name in (f".config.json.{os.getpid()}", "config.json"):
        (tmp_path / name).symlink_to(tmp_path / "mine")
    assert write_whole(tmp_path / "config.json", b"new").read_bytes() == b"new"
    assert (tmp_path / "mine").read_text() == "mine" and not (tmp_path / "config.json").is_symlink()


def test_a_folder_of_something_else_is_left_as_it_was(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    (tmp_path / ".thesis.tex.123").write_text("x")
    refused = pytest.raises(RunFolderError, match="is not a run folder: it has .thesis.tex.123, thesis.tex")
    with refused, RunFolder(tmp_path).hold():
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == [".thesis.tex.123", "thesis.tex"]


def test_a_killed_start_leaves_a_folder_to_start_in(tmp_path):
    folder = RunFolder(tmp_path)
    (tmp_path / ".config.json.123").write_text('{"conf')
    folder.lock.touch()
    with folder.hold():
        assert folder.claim(DESCRIPTION) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "config.json"]


def test_fresh_refuses_other_files_before_it_deletes(tmp_path):
    folder = RunFolder(tmp_path)
    with_everything(folder)
    (tmp_path / "notes.txt").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    with folder.hold(), pytest.raises(RunFolderError, match=r"has notes\.txt, which --fresh does not delete"):
        folder.discard()
    assert sorted(tmp_path.rglob("*")) == sorted([*before, folder.lock])


class Killing:
    """Raises KeyboardInterrupt in place of the first call after some, and of all others from then on."""

    def __init__(self, after: int):
        self.left = after

    def __call__(self, call):
        def called(*arguments, **options):
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
            return call(*arguments, **options)

        return called


def test_a_deletion_that_was_killed_is_completed(tmp_path, monkeypatch):
    folder = RunFolder(tmp_path / "run")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "file").write_text("mine")
    after, killing = -1, Killing(-1)
    while killing.left < 0:  # until it is not killed
        after, killing = after + 1, Killing(after + 1)
        with_everything(folder)
        shutil.rmtree(folder.figures)
        folder.figures.symlink_to(tmp_path / "elsewhere")
        with monkeypatch.context() as patch:
            for name in ("unlink", "rmdir", "replace"):
                patch.setattr(os, name, killing(getattr(os, name)))
            with folder.hold(), contextlib.suppress(KeyboardInterrupt):
                folder.discard()
        with folder.hold():
            if after == 0:
                assert folder.config.read_text() == "old"
                folder.discard()
            folder.claim(DESCRIPTION)
        assert sorted(path.name for path in folder.path.iterdir()) == [".lock", "config.json"]
        assert json.loads(folder.config.read_text()) == DESCRIPTION
    assert after > 10 and (tmp_path / "elsewhere" / "file").read_text() == "mine"


def test_of_many_starts_at_once_one_has_the_folder(tmp_path):
    def start():
        barrier.wait()
        try:
            with folder.hold():
                folder.claim(DESCRIPTION)
                ended.append("claimed")
                while len(ended) < len(threads):
                    time.sleep(0.001)
        except RunFolderError as error:
            ended.append(str(error))

    for round_number in range(10):
        folder, ended = RunFolder(tmp_path / str(round_number)), []
        barrier, threads = threading.Barrier(20), [threading.Thread(target=start, daemon=True) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
        refused = [said for said in ended if said != "claimed"]
        assert len(refused) == 19 and all("is in use by another run" in said for said in refused), refused


def test_the_machine_is_recorded_and_its_changes_are_named():
    assert usable_cores() == len(os.sched_getaffinity(0))
    before = {"device": {"kind": "cpu", "platform": "cpu", "count": 1, "cores": 2}, "versions": {"jax": "0.10.2"}}
    now = {"device": before["device"] | {"cores": 1}, "versions": {"jax": "0.11.0"}}
    assert find_changes(before, before) == []
    assert find_changes(before, now) == ["usable cores (was 2, now 1)", "jax (was 0.10.2, now 0.11.0)"]


def test_names_of_incomplete_files():
    names = {".config.json.12": "config.json", "config.json": None, ".lock": None, ".a.b": None, ".76.9": "76"}
    assert {name: incomplete(name) for name in names} == names


@pytest.mark.parametrize("path", ["", "a\0b"])
def test_a_folder_without_a_name_is_refused(path):
    with pytest.raises(ConfigError, match="The run folder is .*; expected its path, such as 'runs/NAME'"):
        RunFolder(path)


def test_folders_with_the_names_of_incomplete_files_stay(tmp_path):
    folder = RunFolder(tmp_path / "run")
    with folder.hold():
        folder.write(folder.config, {})
    (folder.path / ".config.json.12").mkdir()
    (folder.path / ".metrics.jsonl.12").write_text("")
    with folder.hold():
        assert {path.name for path in folder.path.iterdir()} == {".config.json.12", ".lock", "config.json"}
