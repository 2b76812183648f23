"""Tests of sparsejax.data.tfds_source, without TensorFlow."""

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sparsejax.data import Dataset, prepare_tfds, read_digits, read_tfds
from sparsejax.errors import ConfigError, DataDamagedError, DataMissingError

VERSION = "3.0.1"  # TFDS's own of mnist and of fashion_mnist


@pytest.fixture(scope="module")
def given() -> Dataset:
    """Returns 200 + 40 real digits under the name of MNIST."""
    return dataclasses.replace(read_digits().limit(200, 40), name="mnist")


@pytest.fixture(scope="module")
def prepared(given: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a TFDS folder with those digits."""
    folder = tmp_path_factory.mktemp("tfds")
    assert prepare_tfds(given, folder) == folder / "mnist" / VERSION
    return folder


@pytest.fixture
def copied(prepared: Path, tmp_path: Path) -> Path:
    """Returns a copy of that folder which a test may spoil."""
    import shutil

    return Path(shutil.copytree(prepared, tmp_path / "copied"))


def pairs(images: np.ndarray, labels: np.ndarray) -> list[tuple[bytes, int]]:
    """Returns images and labels in an order that forgets theirs."""
    return sorted((image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True))


def test_read_back_equal(given: Dataset, prepared: Path):
    back = read_tfds("mnist", prepared)
    assert (back.name, back.source, back.classes) == ("mnist", "tfds", 10)
    assert (back.mean, back.std) == ((0.1307,), (0.3081,))
    assert back.train.images.shape == (200, 28, 28, 1) and back.test.images.shape == (40, 28, 28, 1)
    assert pairs(*back.train) == pairs(*given.train) and pairs(*back.test) == pairs(*given.test)
    assert back.train.labels.tolist() != given.train.labels.tolist()  # TFDS shuffles by key as it prepares
    assert back.fingerprint == read_tfds("mnist", prepared).fingerprint


def test_tfds_reads_the_same_in_the_same_order_and_no_tensorflow(prepared: Path):
    code = (
        "import sys, tensorflow_datasets as tfds; from sparsejax.data import read_tfds\n"
        f"theirs = tfds.data_source('mnist', split='train', data_dir={str(prepared)!r}, download=False)\n"
        f"ours = read_tfds('mnist', {str(prepared)!r}).train\n"
        "assert [record['label'] for record in theirs] == ours.labels.tolist()\n"
        "pairs = zip(theirs, ours.images, strict=True)\n"
        "assert all((record['image'] == image).all() for record, image in pairs)\n"
        "print([name for name in ('tensorflow', 'jax') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_folder_is_the_official_one(prepared: Path):
    info = json.loads((prepared / "mnist" / VERSION / "dataset_info.json").read_text())
    assert (info["name"], info["version"], info["fileFormat"]) == ("mnist", VERSION, "array_record")
    assert {split["name"]: split["shardLengths"] for split in info["splits"]} == {
        "train": ["200"],
        "test": ["40"],
    }


def test_prepared_once(given: Dataset, prepared: Path):
    stamps = {path: path.stat().st_mtime_ns for path in (prepared / "mnist").rglob("*")}
    assert prepare_tfds(given.limit(10, 10), prepared) == prepared / "mnist" / VERSION
    assert stamps == {path: path.stat().st_mtime_ns for path in (prepared / "mnist").rglob("*")}


def test_fashion_mnist(given: Dataset, tmp_path: Path):
    fashion = dataclasses.replace(given.limit(30, 10), name="fashion_mnist")
    assert prepare_tfds(fashion, tmp_path) == tmp_path / "fashion_mnist" / VERSION
    back = read_tfds("fashion_mnist", tmp_path)
    assert back.name == "fashion_mnist" and pairs(*back.test) == pairs(*fashion.test)
    assert back.mean == pytest.approx(((fashion.train.images / 255).mean(),))


def test_unprepared_data_is_reported_immediately(tmp_path: Path):
    start = time.monotonic()
    with pytest.raises(DataMissingError, match=f"prepare-tfds --data-dir {tmp_path}"):
        read_tfds("mnist", tmp_path)
    (tmp_path / "mnist" / "1.0.0").mkdir(parents=True)  # another version, and no dataset_info.json
    with pytest.raises(DataMissingError):
        read_tfds("mnist", tmp_path)
    (tmp_path / "mnist" / "1.0.0" / "dataset_info.json").write_text("{}")
    with pytest.raises(DataMissingError):
        read_tfds("mnist", tmp_path)
    assert time.monotonic() - start < 4


def test_folder_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def looked_in() -> str:
        with pytest.raises(DataMissingError) as caught:
            read_tfds("mnist")
        return str(caught.value)

    assert f"{tmp_path}/home/tensorflow_datasets" in looked_in()
    monkeypatch.setenv("SPARSEJAX_DATA", str(tmp_path))
    assert f"in {tmp_path}/tfds" in looked_in()
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "elsewhere"))
    assert f"in {tmp_path}/elsewhere" in looked_in()


SHARD = f"mnist/{VERSION}/mnist-train.array_record-00000-of-00001"
INFO = f"mnist/{VERSION}/dataset_info.json"


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda folder: (folder / SHARD).unlink(), id="shard missing"),
        pytest.param(lambda folder: (folder / SHARD).write_bytes(b""), id="shard empty"),
        pytest.param(lambda folder: os.truncate(folder / SHARD, 70000), id="shard cut"),
        pytest.param(lambda folder: (folder / INFO).write_text("{"), id="info cut"),
    ],
)
def test_damaged_folder_is_named(copied: Path, spoil: Callable[[Path], object]):
    spoil(copied)
    with pytest.raises(DataDamagedError, match="Delete that folder and prepare it again") as caught:
        read_tfds("mnist", copied)
    assert str(copied / "mnist") in str(caught.value)


def test_other_format_is_missing(copied: Path):
    (copied / INFO).write_text((copied / INFO).read_text().replace("array_record", "tfrecord"))
    with pytest.raises(DataMissingError, match="another format than array_record"):
        read_tfds("mnist", copied)


def test_what_has_no_builder(given: Dataset, tmp_path: Path):
    with pytest.raises(ConfigError, match=r"'digits' cannot be written for TFDS.*mnist, fashion_mnist"):
        prepare_tfds(dataclasses.replace(given, name="digits"), tmp_path)
    with pytest.raises(DataMissingError, match="'cifar11'.*prepared are: none"):
        read_tfds("cifar11", tmp_path)
    small = given.train._replace(images=given.train.images[:, :14])
    with pytest.raises(ConfigError, match=r"\[28, 28, 1\].*\[14, 28, 1\]"):
        prepare_tfds(dataclasses.replace(given, train=small), tmp_path)


def test_nothing_is_printed_and_settings_come_back(given: Dataset, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    import logging

    level = logging.getLogger("absl").level
    prepare_tfds(given.limit(20, 10), tmp_path)
    read_tfds("mnist", tmp_path)
    assert capfd.readouterr() == ("", "") and logging.getLogger("absl").level == level
