"""Tests of tfds/NAME: any TFDS data set of images and labels, prepared here from small arrays, without TensorFlow."""

import io
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sparsejax.data import load, read_tfds
from sparsejax.data.inventory import survey
from sparsejax.errors import ConfigError, DataMissingError

tfds = pytest.importorskip("tensorflow_datasets")
Examples = list[tuple[np.ndarray, Any]]


def packed(image: np.ndarray) -> bytes:
    """Returns an image as PNG: TFDS needs TensorFlow to pack arrays, and takes bytes as they are."""
    stream = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(stream, "PNG")
    return stream.getvalue()


def prepare(
    folder: Path, name: str, splits: dict[str, Examples], *, keys: tuple[str, str] = ("image", "label"),
    more: dict[str, Any] | None = None, version: str = "1.0.0", supervised: bool = True, **label: Any,
) -> None:  # fmt: skip
    """Prepares a data set as the author of a TFDS builder would."""
    shape = (None, None, next(iter(splits.values()))[0][0].shape[-1])
    features = {keys[0]: tfds.features.Image(shape=shape), keys[1]: tfds.features.ClassLabel(**label), **(more or {})}

    def info(self: Any) -> Any:
        given = {"builder": self, "features": tfds.features.FeaturesDict(features)}
        return tfds.core.DatasetInfo(**given, supervised_keys=keys if supervised else None)

    def generators(self: Any, manager: object) -> dict[str, Iterator[Any]]:
        return {split: records(examples) for split, examples in splits.items()}

    def records(examples: Examples) -> Iterator[tuple[int, dict[str, Any]]]:
        for i, (image, value) in enumerate(examples):
            yield i, {keys[0]: packed(image), keys[1]: value, **dict.fromkeys(more or {}, 1)}

    body = {"name": name, "pkg_dir_path": None, "VERSION": tfds.core.Version(version), "_info": info,
            "_split_generators": generators, "_generate_examples": lambda self: None}  # fmt: skip
    builder = types.new_class(
        name.title(), (tfds.core.GeneratorBasedBuilder,), {"skip_registration": True}, lambda space: space.update(body)
    )
    builder(data_dir=str(folder), file_format="array_record").download_and_prepare()


def examples(count: int, shape: tuple[int, ...], classes: int, seed: int = 0) -> Examples:
    """Returns images of noise with labels in turn."""
    rng = np.random.default_rng(seed)
    return [(rng.integers(0, 256, shape, dtype=np.uint8), i % classes) for i in range(count)]


def pairs(images: np.ndarray, labels: np.ndarray) -> list[tuple[bytes, int]]:
    """Returns images and labels in an order that forgets theirs: TFDS shuffles."""
    return sorted((image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    return tmp_path / "tfds"


@pytest.mark.parametrize(("name", "shape", "classes"), [("grey_ten", (9, 7, 1), 10), ("rgb_three", (8, 8, 3), 3),
                                                        ("rgb_many", (5, 6, 3), 37)])  # fmt: skip
def test_any_data_set_of_images_and_labels(folder: Path, name: str, shape: tuple[int, ...], classes: int):
    train, test = examples(80, shape, classes), examples(40, shape, classes, seed=1)
    prepare(folder, name, {"train": train, "test": test}, num_classes=classes)
    dataset = load(f"tfds/{name}")
    assert (dataset.name, dataset.source, dataset.kind, dataset.classes) == (name, "tfds", "images", classes)
    assert pairs(*dataset.train) == pairs(*map(np.array, zip(*train, strict=True)))
    assert pairs(*dataset.test) == pairs(*map(np.array, zip(*test, strict=True)))
    pixels = np.stack([image for image, _ in train]) / 255
    assert dataset.mean == pytest.approx(tuple(pixels.mean((0, 1, 2))))
    assert load(f"tfds/{name}", "tfds").fingerprint == dataset.fingerprint
    assert (f"tfds/{name}", "there") in {(place.name, place.found) for place in survey()}


def test_names_of_classes_other_keys_and_the_newest_version(folder: Path):
    named = [(image, ("ant", "bee")[label]) for image, label in examples(6, (4, 4, 1), 2)]
    splits = {"train": named, "validation": named[:4]}
    prepare(folder, "bugs", splits, names=["ant", "bee"], keys=("picture", "kind"))
    prepare(folder, "bugs", {"train": named, "test": named[:2]}, names=["ant", "bee"], version="10.0.0",
            more={"age": tfds.features.Scalar(np.int64)}, supervised=False)  # fmt: skip
    dataset = load("tfds/bugs")
    assert dataset.class_names == ("ant", "bee") and len(dataset.test.labels) == 2
    import shutil

    shutil.rmtree(folder / "bugs" / "10.0.0")
    assert len(load("tfds/bugs").test.labels) == 4, "validation where there is no test"


def test_a_fraction_where_there_is_one_split(folder: Path):
    prepare(folder, "single", {"train": examples(20, (4, 4, 1), 2)}, num_classes=2)
    with pytest.raises(ConfigError, match=r"'single' has the splits train, .* --data\.test-fraction 0\.2"):
        load("tfds/single")
    assert np.bincount(load("tfds/single", test_fraction=0.2).test.labels).tolist() == [2, 2]


def test_missing_and_unsuitable_data_sets(folder: Path):
    with pytest.raises(
        DataMissingError, match=r"'flowers' is not prepared in .*prepared are: none.*tfds build flowers"
    ):
        load("tfds/flowers")
    uneven = examples(3, (4, 4, 1), 2) + examples(3, (5, 4, 1), 2)
    prepare(folder, "sizes", {"train": uneven, "test": uneven}, num_classes=2)
    with pytest.raises(ConfigError, match=r"images of several sizes, \[\d, 4, 1\] and \[\d, 4, 1\]"):
        load("tfds/sizes")
    with pytest.raises(DataMissingError, match="prepared are: sizes"):
        read_tfds("flower")
    prepare(folder, "two", {"train": examples(3, (4, 4, 1), 2), "test": examples(3, (4, 4, 1), 2)}, num_classes=2,
            keys=("left", "label"), supervised=False,
            more={"right": tfds.features.ClassLabel(num_classes=2)})  # fmt: skip
    assert load("tfds/two").classes == 2, "of two labels the one called label"
    with pytest.raises(
        ConfigError, match=r"'tfds/two' cannot come from the source 'files'; its sources are auto, tfds"
    ):
        load("tfds/two", "files")
