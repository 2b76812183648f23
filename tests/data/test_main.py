"""Tests of python -m sparsejax.data and of the table it prints."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sparsejax.data import DATA, load
from sparsejax.data.__main__ import main

Files = dict[str, bytes]
Start = Callable[[Files], Any]
Output = pytest.CaptureFixture[str]


def test_list(small_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output):
    monkeypatch.setenv("SPARSEJAX_DATA", str(small_folder.parent))
    assert main(["list"]) == 0
    rows = {tuple(line.split()[:2]): line for line in capsys.readouterr().out.splitlines()}
    size = sum(path.stat().st_size for path in small_folder.iterdir()) / 1e6
    assert rows["mnist", "files"].split()[2:] == ["there", f"{size:.1f}", "MB", str(small_folder)]
    assert "not there" in rows["mnist", "download"] and "not there" in rows["mnist", "tfds"]
    assert "there" in rows["digits", "digits"] and "digits.csv.gz" in rows["digits", "digits"]

    (small_folder / "t10k-labels-idx1-ubyte.gz").unlink()
    assert main(["list"]) == 0
    assert "3 of 4 files" in capsys.readouterr().out


def test_list_has_the_data_sets_of_imported_files(monkeypatch: pytest.MonkeyPatch, capsys: Output, tmp_path: Path):
    (tmp_path / "listed.py").write_text(
        "import sparsejax.data\n@sparsejax.data.register('listed_stripes', kind='vectors')\ndef stripes(): ...\n"
    )
    monkeypatch.setattr(DATA, "_entries", dict(DATA._entries))
    assert main(["list", "--import", str(tmp_path / "listed.py")]) == 0
    assert "listed_stripes" in capsys.readouterr().out
    assert main(["list", "--import", str(tmp_path / "none.py")]) == 2
    assert "There is no Python file" in capsys.readouterr().err


def test_list_without_a_folder(monkeypatch: pytest.MonkeyPatch, capsys: Output, tmp_path: Path):
    assert main(["list"]) == 0
    assert "$SPARSEJAX_DATA is not set" in capsys.readouterr().out
    monkeypatch.setenv("SPARSEJAX_DATA", str(tmp_path / "nowhere"))
    assert main(["list"]) == 1
    assert capsys.readouterr().err.startswith("error: The environment variable SPARSEJAX_DATA is")


def test_download(
    tmp_path: Path, capsys: Output, small_files: Files, start_mirror: Start, changed_entry: Callable[..., None]
):
    changed_entry("mnist", {"mirrors": (start_mirror(small_files).url,)})
    assert main(["download"]) == 0
    assert f"MNIST is in {tmp_path}/cache/sparsejax/mnist" in capsys.readouterr().out
    assert main(["download"]) == 0  # is there already


def test_download_offline(capsys: Output):
    assert main(["download"]) == 1
    assert "SPARSEJAX_OFFLINE" in capsys.readouterr().err


def test_prepare_tfds(small_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output):
    monkeypatch.setenv("SPARSEJAX_DATA", str(small_folder.parent))
    assert main(["prepare-tfds", "--data-dir", str(tmp_path / "there")]) == 0
    said = capsys.readouterr().out
    assert "Writing 60 images" in said and f"export TFDS_DATA_DIR={tmp_path}/there" in said
    assert main(["prepare-tfds", "--data-dir", str(tmp_path / "there")]) == 0
    assert "already" in capsys.readouterr().out
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "there"))
    assert len(load("mnist", "tfds").train.labels) == 40


def test_prepare_tfds_never_takes_a_substitute(tmp_path: Path, capsys: Output):
    assert main(["prepare-tfds", "--data-dir", str(tmp_path / "there")]) == 1
    assert "MNIST was looked for in" in capsys.readouterr().err and not (tmp_path / "there").exists()


@pytest.mark.parametrize(("words", "code"), [(["list"], 0), (["lst"], 2), ([], 2), (["prepare-tfds", "--dir"], 2)])
def test_exit_codes(words: list[str], code: int, tmp_path: Path):
    command = [sys.executable, "-m", "sparsejax.data", *words]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "HOME": str(tmp_path)})
    assert done.returncode == code and "Traceback" not in done.stderr
