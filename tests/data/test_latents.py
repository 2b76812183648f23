"""Tests of sparsejax.data.latents: the data set that a trained network makes of another."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sparsejax.data import Dataset, Split, entry, load
from sparsejax.data.folders import download_folder
from sparsejax.data.inventory import survey
from sparsejax.data.latents import LATENTS_FILE, latents_bytes, read_latents
from sparsejax.data.resident import make_resident, normalize
from sparsejax.errors import ConfigError, DataDamagedError, DataMissingError


def some_split(count: int, features: int = 6, seed: int = 0) -> Split:
    random = np.random.default_rng(seed)
    vectors = random.standard_normal((count, features)).astype(np.float32)
    return Split(vectors, (np.arange(count) % 4).astype(np.int32))


PROVENANCE = {"classes": 4, "data": {"name": "cifar10"}}
TRAIN, TEST = some_split(20), some_split(8, seed=1)


@pytest.fixture
def latents_file(tmp_path: Path) -> Path:
    """Returns DATA/cifar10-latents/latents.npz; DATA can be SPARSEJAX_DATA."""
    path = tmp_path / "data" / LATENTS_FILE
    path.parent.mkdir(parents=True)
    path.write_bytes(latents_bytes(TRAIN, TEST, PROVENANCE))
    return path


def test_what_is_written_is_read(latents_file: Path):
    dataset = read_latents(latents_file)
    assert (dataset.name, dataset.source, dataset.classes, dataset.kind) == ("cifar10_latents", "files", 4, "vectors")
    for split, expected in ((dataset.train, TRAIN), (dataset.test, TEST)):
        np.testing.assert_array_equal(split.images, expected.images)
        np.testing.assert_array_equal(split.labels, expected.labels)
        assert (split.images.dtype, split.labels.dtype) == (np.float32, np.int32)


def test_the_name_is_that_of_what_they_are_made_of(latents_file: Path):
    latents_file.write_bytes(latents_bytes(TRAIN, TEST, {**PROVENANCE, "data": {"name": "digits"}}))
    assert read_latents(latents_file).name == "digits_latents"


@pytest.mark.parametrize("normalise", [True, False])
def test_vectors_reach_the_network_as_they_are(latents_file: Path, normalise: bool):
    dataset = read_latents(latents_file)
    data = make_resident(dataset, dataset.train, normalise=normalise)
    np.testing.assert_array_equal(normalize(data, data.images[3:5]), TRAIN.images[3:5])


def test_the_fingerprint_sees_every_bit_of_a_number():
    def fingerprint(train: Split) -> str:
        return Dataset("some", "files", train, TEST, 4, (0.0,), (1.0,)).fingerprint

    nudged = TRAIN.images.copy()
    nudged[7, 2] = np.nextafter(nudged[7, 2], np.float32(9))
    others = (TRAIN._replace(images=nudged), TRAIN._replace(images=-TRAIN.images))
    prints = {fingerprint(split) for split in (TRAIN, *others)}
    assert len(prints) == 3
    assert fingerprint(TRAIN) == fingerprint(TRAIN._replace(images=np.asfortranarray(TRAIN.images)))


def test_load_looks_in_the_folder_and_in_the_cache(latents_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert entry("cifar10_latents").find() is None
    commands = r"launch --config cifar_conv_mixer_small --out (\S+) .*embed --run \1"
    with pytest.raises(DataMissingError, match=f"in neither.*{commands}"):
        load("cifar10_latents")
    with pytest.raises(DataMissingError, match="SPARSEJAX_DATA is not set"):
        load("cifar10_latents", "files")
    with pytest.raises(ConfigError, match="its sources are auto, files"):
        load("cifar10_latents", "tfds")
    cached = tmp_path / "cache" / "sparsejax" / LATENTS_FILE
    assert download_folder(LATENTS_FILE) == cached
    monkeypatch.setenv("SPARSEJAX_DATA", str(latents_file.parents[1]))
    assert entry("cifar10_latents").find() == download_folder(LATENTS_FILE) == latents_file
    assert load("cifar10_latents").fingerprint == load("cifar10_latents", "files").fingerprint
    cached.parent.mkdir(parents=True)
    latents_file.rename(cached)
    assert load("cifar10_latents").name == "cifar10_latents"
    with pytest.raises(DataMissingError, match=f"{re.escape(str(latents_file))} cannot be read: No such file"):
        load("cifar10_latents", "files")


def altered(**arrays: np.ndarray) -> Callable[[Path], None]:
    """Returns a function that replaces arrays of a file, and leaves those out that are None."""

    def alter(path: Path) -> None:
        with np.load(path) as file:
            kept = {name: file[name] for name in file.files} | arrays
        np.savez(path, **{name: array for name, array in kept.items() if array is not None})

    return alter


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-200]), "BadZipFile"),
        (lambda path: path.write_bytes(b""), "No data left"),
        (lambda path: path.write_bytes(b"a,b\n1,2\n"), "truncated or damaged"),
        (lambda path: path.write_bytes(path.read_bytes().replace(TRAIN.images.tobytes(), bytes(480))), "CRC"),
        (altered(test=None), "test"),
        (altered(provenance=np.array("{")), "JSONDecodeError"),
        (altered(provenance=np.array('{"data": "mnist"}')), "TypeError"),
        (altered(train=TRAIN.images.astype(np.float64)), "vectors are float64"),
        (altered(train=np.zeros((20, 2, 2, 1), np.uint8)), "vectors are uint8"),
        (altered(test=np.zeros((8, 5), np.float32)), r"test split.*float32 \[8, 5\]"),
        (altered(train=np.full((20, 6), np.nan, np.float32)), "20 of its vectors hold numbers that are not finite"),
        (altered(train_labels=np.full(20, 4, np.int32)), "labels run from 4 to 4"),
        (altered(train_labels=np.zeros(20)), "labels are float64"),
        (altered(test_labels=np.zeros(3, np.int32)), "8 vectors and 3 labels"),
        (altered(train=np.array([object()])), "ValueError"),
    ],
)
def test_a_broken_file_is_refused_and_says_what_to_do(latents_file: Path, spoil: Callable[[Path], object], said: str):
    spoil(latents_file)
    with pytest.raises(DataDamagedError, match=said) as caught:
        read_latents(latents_file)
    assert str(latents_file) in str(caught.value) and "sparsejax embed" in str(caught.value)


def test_survey(latents_file: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SPARSEJAX_DATA", str(latents_file.parents[1]))
    here, cache = (place for place in survey() if place.name == "cifar10_latents")
    assert (here.path, here.found, here.size) == (latents_file, "there", latents_file.stat().st_size)
    assert (cache.found, cache.size) == ("", 0)
    monkeypatch.delenv("SPARSEJAX_DATA")
    assert next(place for place in survey() if place.name == "cifar10_latents").path is None
