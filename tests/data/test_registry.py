"""Tests of the registry of data sets: names, sources, and user data sets."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparsejax import data
from sparsejax.data import DATA, Dataset
from sparsejax.data.registry import LOCATIONS, entry, generate
from sparsejax.errors import ConfigError
from sparsejax.training.config import Config, DataConfig

NAMES = ["mnist", "fashion_mnist", "digits", "cifar10", "cifar100", "cifar10_latents", "wikitext-2", "wikitext-103",
         "tinyshakespeare", "speech_commands", "spoken_digits", "arrays"]  # fmt: skip


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Removes a test's registrations afterwards."""
    assert len(DATA) >= len(NAMES)
    monkeypatch.setattr(DATA, "_entries", dict(DATA._entries))


def test_every_data_set_says_what_it_is_and_where_it_is_found():
    assert list(DATA)[: len(NAMES)] == NAMES
    for name in NAMES:
        found = entry(name)
        assert found.name == name and found.title and found.kind in ("images", "vectors", "tokens", "clips")
        assert set(found.locations) <= set(LOCATIONS)
        assert list(found.locations) == sorted(found.locations, key=LOCATIONS.index), "in the order of auto"
    assert entry("mnist").locations == LOCATIONS
    downloads = {name for name in NAMES if "download" in entry(name).locations}
    assert downloads == {*NAMES} - {"digits", "cifar10_latents", "spoken_digits", "arrays"}
    assert all(len(checksum) in (32, 64) for name in downloads for checksum in entry(name).download.files.values())


def test_options_are_fields_of_the_configuration():
    assert set(entry("wikitext-2").options) == {"unit", "vocabulary", "length"}
    assert {"words", "silence", "held_out"} <= set(entry("speech_commands").options)
    assert data.options_of("tfds/any") == data.options_of("mnist", "some.npz") == ("test_fraction",)


def test_data_sets_in_words():
    assert data.title("digits", "digits") == "the digits that scikit-learn ships"
    assert data.title("mnist") == data.title("mnist", "files") == data.title("mnist", "download") == "MNIST"
    assert data.title("mnist", "/home/me/mnist.npz") == "mnist from /home/me/mnist.npz"
    assert data.title("gone") == "gone"


def test_unknown_names_are_refused_before_jax_compiles(monkeypatch: pytest.MonkeyPatch):
    from sparsejax.models import SparseMLP
    from sparsejax.training.checks import load_data

    monkeypatch.setattr("jax.jit", lambda *args, **options: pytest.fail("compiled"))
    config = Config(SparseMLP(hidden=(8,), k=(2,)), DataConfig("mnits"))
    with pytest.raises(ConfigError, match=r"no data set 'mnits'; did you mean mnist.* import the file"):
        load_data(config)


def test_a_decorated_function_is_a_data_set(own: None):
    x = np.random.default_rng(0).random((12, 5))

    @data.register("mine", kind="vectors", title="my vectors")
    def mine(length: int = 3, unknown: int = 7):
        assert unknown == 7
        return x[:, :length], np.arange(12) % 3, x[:6, :length], np.arange(6) % 3

    dataset = data.load("mine", length=4)
    assert (dataset.name, dataset.source, dataset.kind, dataset.classes) == ("mine", "function", "vectors", 3)
    np.testing.assert_array_equal(dataset.train.images, x[:, :4].astype(np.float32))
    assert data.title("mine", "function") == "my vectors" and mine.__name__ == "mine"
    with pytest.raises(ConfigError, match=r"'mine' cannot come from the source 'tfds'; its sources are auto, function"):
        data.load("mine", "tfds")

    @data.register("mine", kind="images")  # the same file read again, as a notebook does
    def again() -> Dataset:
        return dataset

    with pytest.raises(ConfigError, match=r"'mine' is registered as images, but its function returned vectors"):
        data.load("mine")


def test_a_function_that_fails_is_named(own: None):
    @data.register("broken", kind="vectors")
    def broken() -> Any:
        return 1 / 0

    with pytest.raises(ConfigError, match=r"The function of the data set 'broken' raised ZeroDivisionError"):
        data.load("broken")


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("mnist", "images", "'mnist' of .* has the same name as one of sparsejax.data"),
        ("mine", "pictures", "kind 'pictures'; expected one of images, vectors, tokens, clips"),
        ("tfds/mine", "images", "does not begin with tfds/"),
    ],
)
def test_what_cannot_be_registered(own: None, name: str, kind: Any, said: str):
    with pytest.raises(ConfigError, match=said):
        data.register(name, kind=kind)(lambda: None)


def test_made_checks_the_kind_of_digits():
    assert generate(entry("digits"), {}).kind == "images"


OWN = '''
"""A user data set."""
import numpy as np
import sparsejax as sj

@sj.data.register("stripes", kind="images")
def stripes():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 300)
    images = rng.integers(0, 99, (300, 8, 8), dtype=np.uint8)
    images[labels == 1, ::2] += 100
    return images[:200], labels[:200], images[200:], labels[200:]
'''
EXPERIMENT = """
import stripes
import sparsejax as sj

config = sj.Config(sj.models.SparseMLP(hidden=(16,), k=(8,), classes=2, density=None), sj.DataConfig("stripes"),
                   sj.TrainingConfig(epochs=12, learning_rate=0.1, schedule="constant"))
"""


@pytest.mark.slow
def test_a_users_own_folder_is_enough(tmp_path: Path):
    (tmp_path / "stripes.py").write_text(OWN)
    (tmp_path / "experiment.py").write_text(EXPERIMENT)
    code = (
        "import sparsejax as sj\n"
        f"run = sj.train({str(tmp_path / 'experiment.py')!r}, out='run')\n"
        "print(run.result['test_accuracy'], run.result['dataset'])\n"
        "print(sj.load('run').network().predict(sj.data.load('stripes').test.images).shape)"
    )
    (tmp_path / "elsewhere").mkdir()
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path / "elsewhere", env={**os.environ})
    assert done.returncode == 0, done.stderr
    accuracy, name = done.stdout.splitlines()[-2].split()
    assert float(accuracy) > 0.9 and name == "stripes" and done.stdout.splitlines()[-1] == "(100, 2)"
