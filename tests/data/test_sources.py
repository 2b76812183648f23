"""Tests of sparsejax.data.registry: the order of auto, and the message of every source without data."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparsejax.data import load, prepare_tfds, read_digits
from sparsejax.errors import ConfigError, DataDamagedError, DataMissingError

Files = dict[str, bytes]
Start = Callable[[Files], Any]
Change = Callable[..., None]


def unheard(message: str) -> None:
    """Ignores messages."""


def put(files: Files, folder: Path) -> Path:
    """Writes files into a folder."""
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def test_auto_takes_the_first_that_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_files: Files, start_mirror: Start, changed_entry: Change
):
    mirror = start_mirror(small_files)
    said: list[str] = []
    changed_entry("mnist", {"mirrors": (mirror.url,)})
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("SPARSEJAX_DATA", str(tmp_path / "data"))

    # Nothing anywhere: downloaded, into $SPARSEJAX_DATA/mnist.
    dataset = load("mnist", say=said.append)
    assert (dataset.name, dataset.source, len(mirror.asked), len(said)) == ("mnist", "download", 4, 1)
    assert len(list((tmp_path / "data" / "mnist").iterdir())) == 4

    # The downloaded files are now read like any others; no request is sent.
    dataset = load("mnist", say=said.append)
    assert (dataset.source, len(mirror.asked), len(said)) == ("files", 4, 1)

    # Without them a prepared TFDS folder comes before the network.
    (tmp_path / "data" / "mnist").rename(tmp_path / "away")
    digits = dataclasses.replace(read_digits().limit(30, 20), name="mnist")
    prepare_tfds(digits, tmp_path / "data" / "tfds")
    dataset = load("mnist", say=said.append)
    assert (dataset.source, len(dataset.train.labels), len(mirror.asked)) == ("tfds", 30, 4)

    # And the user's cache before that.
    put(small_files, tmp_path / "cache" / "sparsejax" / "mnist")
    dataset = load("mnist", say=said.append)
    assert (dataset.source, len(dataset.train.labels), len(mirror.asked), len(said)) == ("download", 40, 4, 1)


def test_auto_falls_back_to_the_digits_and_says_so():
    said: list[str] = []
    dataset = load("mnist", say=said.append)
    assert (dataset.name, dataset.source) == ("digits", "digits")
    assert said == [dataset.notice] and "\n" not in dataset.notice
    assert dataset.notice.startswith("MNIST was not found and could not be downloaded: these are the 1,797 hand")
    assert "not comparable with MNIST's" in dataset.notice and "SPARSEJAX_OFFLINE" in dataset.notice
    assert dataset.fingerprint == read_digits().fingerprint


def test_auto_without_any_folder_downloads_to_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_files: Files, start_mirror: Start, changed_entry: Change
):
    changed_entry("mnist", {"mirrors": (start_mirror(small_files).url,)})
    assert load("mnist", say=unheard).source == "download"
    monkeypatch.setenv("SPARSEJAX_OFFLINE", "1")
    assert load("mnist", say=unheard).source == "download"
    assert len(list((tmp_path / "cache" / "sparsejax" / "mnist").iterdir())) == 4


@pytest.mark.parametrize("source", ["auto", "files", "download"])
def test_a_damaged_file_is_an_error(small_folder: Path, monkeypatch: pytest.MonkeyPatch, source: str):
    monkeypatch.setenv("SPARSEJAX_DATA", str(small_folder.parent))
    path = small_folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataDamagedError, match=f"{path} is truncated"):
        load("mnist", source)


@pytest.mark.parametrize("place", ["data", "cache", "debian"])
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
@pytest.mark.parametrize("missing", [["t10k-labels"], ["train-images", "t10k-images"]])
def test_auto_refuses_a_part_of_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_files: Files, changed_entry: Change, place: str, name: str,
    missing: list[str],
):  # fmt: skip
    kept = {file: content for file, content in small_files.items() if not file.startswith(tuple(missing))}
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("SPARSEJAX_DATA", str(tmp_path / "data"))
    folder = {"data": tmp_path / "data" / name, "cache": tmp_path / "cache" / "sparsejax" / name,
              "debian": tmp_path / "debian"}[place]  # fmt: skip
    changed_entry(name, elsewhere=(tmp_path / "debian",))
    put(kept, folder)
    put(small_files, tmp_path / "data" / "tfds" / name / "3.0.1")  # not even a look elsewhere
    title = {"mnist": "MNIST", "fashion_mnist": "Fashion-MNIST"}[name]
    lacking = ", ".join(sorted(small_files.keys() - kept.keys(), key=[*small_files].index))
    with pytest.raises(DataMissingError) as caught:
        load(name, say=unheard)
    assert f"Only {len(kept)} of {title}'s 4 files are in {folder} ({lacking} missing)" in str(caught.value)
    for file in kept:
        (folder / file).unlink()
    assert name != "mnist" or load(name, say=unheard).source == "digits", "nothing of it: the digits"


def test_an_interrupted_download_is_completed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_files: Files, start_mirror: Start, changed_entry: Change
):
    mirror = start_mirror(small_files)
    changed_entry("mnist", {"mirrors": (mirror.url,)})
    folder = tmp_path / "cache" / "sparsejax" / "mnist"
    first, *others = small_files
    put({first: small_files[first]}, folder)
    monkeypatch.setenv("SPARSEJAX_OFFLINE", "1")
    with pytest.raises(DataMissingError, match="Only 1 of MNIST's 4 files .* and the rest cannot be downloaded"):
        load("mnist", say=unheard)
    monkeypatch.delenv("SPARSEJAX_OFFLINE")
    assert load("mnist", say=unheard).source == "download" and sorted(mirror.asked) == sorted(others)
    # A file of the user's own is not mixed with published ones.
    (folder / others[0]).unlink()
    (folder / first).write_bytes(b"mine")
    with pytest.raises(DataMissingError, match=r"Only 3 of .*; other data are not used in their place. To complete"):
        load("mnist", say=unheard)


def test_data_in_an_unreadable_format_are_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    info = tmp_path / "tfds" / "mnist" / "3.0.1" / "dataset_info.json"
    info.parent.mkdir(parents=True)
    info.write_text('{"fileFormat": "tfrecord"}')
    monkeypatch.setenv("SPARSEJAX_DATA", str(tmp_path))
    said: list[str] = []
    with pytest.raises(DataMissingError, match="cannot be downloaded"):
        load("mnist", say=said.append)
    assert "another format than array_record" in said[0]


def test_auto_does_not_hide_a_corrupt_mirror(small_files: Files, start_mirror: Start, changed_entry: Change):
    mirror = start_mirror(dict.fromkeys(small_files, b"<html>please log in</html>"))
    changed_entry("mnist", {"mirrors": (mirror.url,)})
    with pytest.raises(DataDamagedError, match="sends a different file"):
        load("mnist", say=unheard)


def test_named_sources(small_folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SPARSEJAX_DATA", str(small_folder.parent))
    said: list[str] = []
    assert load("mnist", "files", say=said.append).source == "files"
    assert load("mnist", "download", say=said.append).source == "download"
    assert load("digits", say=said.append).notice == "" and said == []
    dataset = load("mnist", "digits", say=said.append)
    assert dataset.name == "digits" and said == [dataset.notice] and "not comparable" in dataset.notice


@pytest.mark.parametrize(
    ("name", "source", "said"),
    [
        ("mnist", "files", "SPARSEJAX_DATA is not set"),
        ("mnist", "download", "SPARSEJAX_OFFLINE is set"),
        ("mnist", "tfds", "prepare-tfds"),
        ("fashion_mnist", "tfds", "prepare_tfds"),
        ("fashion_mnist", "auto", "dataset-fashion-mnist"),
        ("fashion_mnist", "files", "dataset-fashion-mnist"),
    ],
)
def test_a_named_source_that_is_missing(changed_entry: Change, name: str, source: str, said: str):
    changed_entry("fashion_mnist", elsewhere=(Path("/nowhere"),))
    with pytest.raises(DataMissingError, match=said):
        load(name, source)


def test_folder_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("SPARSEJAX_DATA", str(tmp_path / "nowhere"))
    for source in ("auto", "files", "download", "tfds"):
        with pytest.raises(DataMissingError, match=f"SPARSEJAX_DATA is '{tmp_path}/nowhere', which is not a folder"):
            load("mnist", source)
    assert load("digits").source == "digits"  # needs no folder


def test_files_source_lists_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("SPARSEJAX_DATA", str(tmp_path))
    with pytest.raises(DataMissingError, match=f"looked for in {tmp_path}/mnist, but train-images.* are missing"):
        load("mnist", "files")


@pytest.mark.parametrize(
    ("name", "source", "said"),
    [
        ("minst", "auto", r"'minst'; did you mean mnist.*Available: mnist, fashion_mnist, digits"),
        ("Digits", "auto", r"did you mean .*digits"),
        ("imagenet", "auto", r"'imagenet'.*Available"),
        ("mnist", "fils", r"'mnist' cannot come from the source 'fils'.* are auto, files, tfds, download, digits"),
        ("mnist", "", r"cannot come from the source ''"),
        ("digits", "tfds", r"'digits' cannot come from the source 'tfds'; its sources are auto, digits"),
        ("fashion_mnist", "digits", r"its sources are auto, files, tfds, download"),
    ],
)
def test_unknown_words(name: str, source: str, said: str):
    with pytest.raises(ConfigError, match=said):
        load(name, source)


@pytest.mark.parametrize("place", ["data", "debian"])
def test_fashion_mnist_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_files: Files, changed_entry: Change, place: str
):
    if place == "data":
        put(small_files, tmp_path / "data" / "fashion_mnist")
        monkeypatch.setenv("SPARSEJAX_DATA", str(tmp_path / "data"))
    else:
        changed_entry("fashion_mnist", elsewhere=(put(small_files, tmp_path / "debian"),))
    dataset = load("fashion_mnist")
    assert (dataset.name, dataset.source, len(dataset.train.labels)) == ("fashion_mnist", "files", 40)
    assert dataset.mean[0] == pytest.approx(0.5, abs=0.01)


def test_real_mnist(real_data: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SPARSEJAX_DATA", str(real_data))
    dataset = load("mnist")
    assert (dataset.source, dataset.notice) == ("files", "")
    assert len(dataset.train.labels) == 60000 and len(dataset.test.labels) == 10000
    assert dataset.train.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert np.isclose(dataset.train.images.mean() / 255, dataset.mean[0], atol=5e-5)
