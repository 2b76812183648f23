"""Tests of every data set that is free to download, against a server on 127.0.0.1."""

import gzip
import hashlib
import io
import pickle
import re
import socket
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparsejax.data import DATA, Dataset, load
from sparsejax.data import cifar as cifar_module
from sparsejax.data import download as module
from sparsejax.data.__main__ import main
from sparsejax.data.folders import download_folder
from sparsejax.errors import DataDamagedError, DataMissingError
from tests.data.conftest import idx_bytes
from tests.data.test_wav import wav_bytes

Start = Callable[[dict[str, bytes]], Any]
Change = Callable[..., None]
NAMES = [name for name, entry in DATA.items() if entry.download]
TEXT = "the cat saw the dog .\n" * 300


def tar(files: dict[str, bytes]) -> bytes:
    """Packs files as .tar.gz."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def zipped(files: dict[str, bytes]) -> bytes:
    """Packs files as .zip."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


def cifar(files: dict[str, str], labels: str, classes: int) -> dict[str, bytes]:
    """Returns small pickles in the layout of CIFAR's."""
    rng = np.random.default_rng(0)
    return {
        name: pickle.dumps(
            {"data": rng.integers(0, 256, (4, 3072), dtype=np.uint8), labels: [classes - 1, 0, 1, 2], "batch_label": ""}
            | ({"coarse_labels": [19, 0, 1, 2]} if classes == 100 else {}),
            3,
        )
        for name in files
    }


def published(name: str) -> dict[str, bytes]:
    """Returns a small data set as its mirrors send it: the same names of files, packed alike."""
    files = DATA[name].download.files
    match name:
        case "mnist" | "fashion_mnist":
            arrays = {"images": np.zeros((6, 28, 28), np.uint8), "labels": np.arange(6).astype(np.uint8)}
            return {file: gzip.compress(idx_bytes(arrays[file.split("-")[1]]), mtime=0) for file in files}
        case "cifar10" | "cifar100":
            ten = name == "cifar10"
            pickles = cifar(cifar_module.CIFAR10_FILES, "labels", 10) if ten else cifar(
                cifar_module.CIFAR100_FILES, "fine_labels", 100)  # fmt: skip
            return {file: tar({f"{DATA[name].place}/{part}": raw for part, raw in pickles.items()}) for file in files}
        case "wikitext-2" | "wikitext-103":
            parts = {f"{name}/wiki.{part}.tokens": TEXT.encode() for part in ("train", "valid", "test")}
            return {file: zipped(parts) for file in files}
        case "tinyshakespeare":
            return {file: TEXT.encode() for file in files}
        case "speech_commands":
            clips = {
                f"./{word}/{i:08x}_nohash_0.wav": wav_bytes(bytes(64)) for word in ("yes", "one") for i in range(4)
            }
            lists = {f"./{part}_list.txt": f"yes/{i:08x}_nohash_0.wav\n".encode()
                     for i, part in enumerate(("testing", "validation"))}  # fmt: skip
            return {file: tar(clips | lists) for file in files}
    raise AssertionError(f"{name} is not tested")


@pytest.fixture
def mirrored(start_mirror: Start, changed_entry: Change, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Returns a function that starts a mirror with a small data set whose checksums count as the published ones."""

    def start(name: str, **more: Any) -> Any:
        files = published(name)
        mirror = start_mirror(files)
        known = {"md5": hashlib.md5, "sha256": hashlib.sha256}
        checksums = {
            file: known[module._algorithm(checksum)](files[file]).hexdigest()
            for file, checksum in DATA[name].download.files.items()
        }
        changed_entry(name, {"mirrors": (mirror.url,), "files": checksums, **more})
        for file, checksum in checksums.items():
            if name == "mnist":
                monkeypatch.setitem(DATA["mnist"].read.__globals__["MNIST_FILES"], file, checksum)
        for family in (cifar_module._TEN, cifar_module._HUNDRED):
            for file, raw in cifar(family.files, family.labels, family.classes).items():
                if family.name == name:
                    monkeypatch.setitem(family.files, file, hashlib.md5(raw).hexdigest())
        return mirror

    return start


def loaded(name: str, source: str = "auto") -> tuple[Dataset, list[str]]:
    """Loads a data set, with windows of 16 tokens of a text; returns it and what was said."""
    said: list[str] = []
    options = {"length": 16} if DATA[name].kind == "tokens" else {}
    return load(name, source, say=said.append, **options), said


@pytest.mark.parametrize("name", NAMES)
def test_downloaded_read_and_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mirrored: Callable[..., Any], name: str
):
    mirror = mirrored(name)
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("SPARSEJAX_DATA", str(tmp_path / "data"))
    first, said = loaded(name)
    place, entry = tmp_path / "data" / DATA[name].place, DATA[name]
    assert (first.name, first.source, first.kind) == (name, "download", entry.kind)
    assert said[0].startswith(f"Downloading {entry.title} ({entry.download.size}) from 127.0.0.1:")
    assert said[0].endswith(f" to {place}")
    assert sorted(mirror.asked) == sorted(entry.download.files)
    assert entry.is_whole(place) and [path.name for path in (tmp_path / "data").iterdir()] == [place.name], "no archive"
    again, _ = loaded(name)
    assert (again.source, again.fingerprint) == ("files", first.fingerprint)
    assert loaded(name, "download")[0].fingerprint == first.fingerprint
    assert len(mirror.asked) == len(entry.download.files), "no file is requested again"
    if name == "cifar100":
        assert first.classes == 100 and first.test.labels.tolist() == [99, 0, 1, 2], "the fine labels"


@pytest.mark.parametrize("name", NAMES)
def test_refused_in_one_sentence_within_5_s(
    start_mirror: Start, changed_entry: Change, monkeypatch: pytest.MonkeyPatch, name: str
):
    changed_entry("fashion_mnist", elsewhere=())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}/"
    changed_entry(name, {"mirrors": (nobody,)}, substitute=False)
    start = time.monotonic()
    for source in ("auto", "download"):
        with pytest.raises(DataMissingError) as caught:
            loaded(name, source)
        said = str(caught.value)
        assert DATA[name].title in said and "no answer within 5 s from 127.0.0.1" in said and " or " in said
        assert not re.search(r"[.!?] [A-Z]", said), "one sentence"
    assert time.monotonic() - start < 5
    monkeypatch.setenv("SPARSEJAX_OFFLINE", "1")
    with pytest.raises(DataMissingError, match=r"SPARSEJAX_OFFLINE is set; unset that variable, or") as caught:
        loaded(name)
    assert not re.search(r"[.!?] [A-Z]", str(caught.value))


@pytest.mark.parametrize("name", ["cifar10", "wikitext-2", "tinyshakespeare", "speech_commands"])
def test_files_that_differ_from_the_published_ones_are_not_kept(
    mirrored: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    mirror = mirrored(name)
    monkeypatch.setenv("SPARSEJAX_DATA", str(tmp_path))
    mirror.files = dict.fromkeys(mirror.files, b"<html>please log in</html>")
    with pytest.raises(DataDamagedError, match=r"sends a different file than the published one \((MD5|SHA256)"):
        loaded(name)
    assert not download_folder(DATA[name].place).exists()


def test_a_transfer_that_breaks_off_is_tried_again(mirrored: Callable[..., Any], monkeypatch: pytest.MonkeyPatch):
    mirror = mirrored("tinyshakespeare")
    mirror.cut.add("input.txt")
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 2:
            mirror.cut.clear()

    monkeypatch.setattr(module.time, "sleep", pause)
    dataset, said = loaded("tinyshakespeare")
    assert dataset.source == "download" and mirror.asked == ["input.txt"] * 3 and pauses == [0.5, 1.0]
    assert sum("broke off" in line for line in said) == 2


def test_an_incomplete_folder_is_completed_and_other_files_stay(
    mirrored: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    mirror = mirrored("speech_commands")
    monkeypatch.setenv("SPARSEJAX_DATA", str(tmp_path))
    word = tmp_path / "speech_commands" / "yes"
    word.mkdir(parents=True)
    for i in (1, *range(50, 80)):
        (word / f"{i:08x}_nohash_0.wav").write_bytes(wav_bytes(bytes(20)))
    assert loaded("speech_commands")[0].source == "files" and not mirror.asked, "existing files are used"
    dataset, _ = loaded("speech_commands", "download")
    assert mirror.asked == ["speech_commands_v0.01.tar.gz"] and set(dataset.class_names) >= {"one", "yes"}
    assert (word / f"{70:08x}_nohash_0.wav").exists() and not list(tmp_path.glob(".*"))


def test_an_archive_that_was_not_unpacked_is(mirrored: Callable[..., Any], tmp_path: Path):
    mirror = mirrored("wikitext-2")
    folder = tmp_path / "cache" / "sparsejax"
    folder.mkdir(parents=True)
    (folder / "wikitext-2-v1.zip").write_bytes(mirror.files["wikitext-2-v1.zip"])
    assert loaded("wikitext-2")[0].source == "download" and not mirror.asked
    assert [path.name for path in folder.iterdir()] == ["wikitext-2"]


def test_nothing_leaves_the_folder(tmp_path: Path, start_mirror: Start):
    raw = tar({"../outside.txt": b"x"})
    mirror = start_mirror({"bad.tar.gz": raw})
    wanted = module.Download((mirror.url,), {"bad.tar.gz": hashlib.md5(raw).hexdigest()}, "1 MB")
    with pytest.raises(DataMissingError, match="outside"):
        module.download(wanted, tmp_path / "in" / "bad", title="Bad", say=lambda line: None)
    assert not list(tmp_path.rglob("outside.txt"))


def test_the_command(mirrored: Callable[..., Any], capsys: pytest.CaptureFixture[str], tmp_path: Path):
    mirror = mirrored("cifar100")
    for _ in range(2):
        assert main(["download", "cifar100"]) == 0
        assert f"CIFAR-100 is in {tmp_path}/cache/sparsejax/cifar-100-python." in capsys.readouterr().out
    assert len(mirror.asked) == 1
    assert main(["download", "digits"]) == 2
    assert "cannot come from the source 'download'" in capsys.readouterr().err
    assert main(["list"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in DATA) and "cifar100 (169 MB)" in said
