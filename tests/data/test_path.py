"""Tests of user data: arrays in Python, files and folders of arrays, and folders of images by class."""

import dataclasses
import errno
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import sparsejax as sj
from sparsejax.data import Split, from_arrays, load
from sparsejax.data.arrays import hold_out
from sparsejax.data.resident import make_resident, normalize, standardize
from sparsejax.errors import ConfigError, DataDamagedError, DataMissingError
from sparsejax.training.config import DataConfig
from tests.command import without_figures

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (30, 6, 5, 3), dtype=np.uint8)
LABELS = np.arange(30) % 3
PAIRS = (PIXELS[:20], LABELS[:20], PIXELS[20:], LABELS[20:])


def test_images_of_bytes_are_kept_as_they_are():
    dataset = from_arrays(*PAIRS)
    assert (dataset.name, dataset.source, dataset.kind, dataset.classes) == ("arrays", "python", "images", 3)
    assert dataset.train.images.base is PIXELS and dataset.test.labels.dtype == np.int32
    assert dataset.mean == pytest.approx(tuple((PIXELS[:20] / 255).mean((0, 1, 2))))
    grey = from_arrays(PIXELS[:20, ..., 0], LABELS[:20, None], PIXELS[20:, ..., 0], LABELS[20:, None])
    assert grey.train.images.shape == (20, 6, 5, 1) and grey.classes == 3, "a channel is added; labels may be a column"


def test_images_of_floats():
    scaled = from_arrays(PIXELS[:20] / 255, LABELS[:20], PIXELS[20:] / 255, LABELS[20:])
    assert scaled.train.images.dtype == np.uint8 and scaled.fingerprint == from_arrays(*PAIRS).fingerprint
    smooth = RNG.random((30, 4, 4, 2))
    dataset = from_arrays(smooth[:20], None, smooth[20:])
    assert dataset.kind == "images" and dataset.train.images.dtype == np.float32 and dataset.classes == 0
    split = make_resident(dataset, dataset.train)
    shown = jax.jit(normalize)(split, split.images)
    np.testing.assert_allclose(shown.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(shown.std((0, 1, 2)), 1, atol=1e-5)
    plain = make_resident(dataset, dataset.train, normalise=False)
    np.testing.assert_array_equal(normalize(plain, plain.images), dataset.train.images)


@pytest.mark.parametrize("value", [0, 100, 255, 0.3])
def test_a_constant_channel_becomes_0(value: float):
    def images(seed: int) -> Any:
        found = np.random.default_rng(seed).integers(0, 256, (20, 6, 5, 2), dtype=np.uint8)
        floats = found.astype(np.float32) / 256
        return np.concatenate([found if value in (0, 100, 255) else floats, np.full_like(
            found if value in (0, 100, 255) else floats, value)], axis=-1)  # fmt: skip

    dataset = from_arrays(images(0), LABELS[:20], images(1) // 2 if value == 255 else images(1), LABELS[:20])
    assert dataset.std[2:] == (0, 0), "also with the rounding of a mean of floats"
    split = make_resident(dataset, dataset.train)
    for images_of in (dataset.train.images, dataset.test.images):  # another value in the test set is 0, too
        shown = jax.jit(normalize)(split, images_of)
        assert np.isfinite(shown).all() and not np.asarray(shown[..., 2:]).any() and np.asarray(shown[..., :2]).any()
    slope = jax.grad(lambda x: standardize(split, x).sum())(jnp.ones((1, 6, 5, 4)))
    assert np.isfinite(slope).all() and not np.asarray(slope[..., 2:]).any()


@pytest.mark.slow
def test_a_run_on_images_with_an_opaque_alpha_channel(tmp_path: Path):
    images = np.concatenate([PIXELS, np.full_like(PIXELS[..., :1], 255)], axis=-1)
    model = sj.models.SparseMLP(hidden=(8,), k=(3,), classes=3)
    with without_figures(), jax.numpy_dtype_promotion("standard"):
        run = sj.train(model, data=(images, LABELS, images, LABELS), epochs=1, batch_size=10, out=tmp_path / "run")
    network = run.network()
    assert network.std[3] == float("inf") and np.isfinite(network.predict(images)).all()
    assert np.isfinite(run.result["test_loss"]) and run.result["noise_score"] > 0
    np.testing.assert_array_equal(network.predict(images), network.predict(np.where([1, 1, 1, 0], images, 7)))


@pytest.mark.parametrize("other", [np.zeros((4, 6, 4, 3), np.uint8), np.zeros((4, 6, 5, 3), np.float32)])
def test_a_run_refuses_a_data_set_whose_parts_differ(tmp_path: Path, other: np.ndarray):
    dataset = from_arrays(*PAIRS)
    dataset = dataclasses.replace(dataset, test=Split(other, np.zeros(4, np.int32)))
    model = sj.models.SparseMLP(hidden=(8,), k=(3,), classes=3)
    with pytest.raises(ConfigError, match=r"examples of arrays are uint8 \[6, 5, 3\], but the test examples"):
        sj.train(model, data=dataset, epochs=1, out=tmp_path / "run")


def test_vectors_tokens_and_clips():
    vectors = from_arrays(jnp.ones((4, 3)), ["b", "a", "b", "c"], np.zeros((2, 3)), ["c", "a"])
    assert (vectors.kind, vectors.classes, vectors.class_names) == ("vectors", 3, ("a", "b", "c"))
    assert vectors.train.labels.tolist() == [1, 0, 1, 2] and vectors.test.labels.tolist() == [2, 0]
    tokens = from_arrays(np.arange(12).reshape(3, 4), None, np.arange(4)[None])
    assert (tokens.kind, tokens.classes, tokens.train.images.dtype) == ("tokens", 12, np.int32)
    assert tokens.train.labels.tolist() == [0, 1, 2]
    assert from_arrays(np.uint16([[1, 65535]]), None, np.uint16([[1, 2]])).classes == 65536
    clips = from_arrays(
        np.zeros((3, 9), np.int16), [0, 1, 0], np.ones((2, 9), np.int16), [1, 0], class_names=("x", "y")
    )
    assert (clips.kind, clips.class_names) == ("clips", ("x", "y"))
    part = from_arrays(PIXELS, LABELS, test_fraction=0.1)
    assert np.bincount(part.test.labels).tolist() == [1, 1, 1] and len(part.train.labels) == 27


@pytest.mark.parametrize(
    ("arrays", "more", "said"),
    [
        (PAIRS[:2], {}, "no test set; pass x_test, or a fraction of x_train to hold out: --data.test-fraction 0.2"),
        (PAIRS, {"test_fraction": 0.5}, "a test set and test_fraction 0.5"),
        (
            (PIXELS.astype(int), LABELS, PIXELS, LABELS),
            {},
            r"x_train holds int64 \[30, 6, 5, 3\]; expected images uint8",
        ),
        (
            (PIXELS / 100, LABELS, PIXELS, LABELS),
            {},
            r"x_train holds floats from 0 to 2.55; expected pixels in \[0, 1\]",
        ),
        (
            (PIXELS, LABELS, PIXELS[:, :4], LABELS),
            {},
            r"x_train are uint8 \[6, 5, 3\], but those of x_test uint8 \[4, 5",
        ),
        ((PIXELS, LABELS, PIXELS, None), {}, "y_test holds object"),
        ((PIXELS, LABELS + 2**31, PIXELS, LABELS), {}, "y_train holds labels up to 21474836.*below 2³¹"),
        ((PIXELS, LABELS, PIXELS, LABELS - 2**32), {}, "y_test holds labels down to -42949672.*from 0, below 2³¹"),
        ((PIXELS, LABELS.astype(np.uint64) + 2**63, PIXELS, LABELS), {}, "y_train holds labels up to 9223372036854775"),
        ((np.full((3, 2), 2**32), None, np.ones((3, 2), int)), {}, "x_train holds tokens up to 4294967296"),
        ((PIXELS, np.eye(30), PIXELS, LABELS), {}, r"y_train holds float64 \[30, 30\].* one-hot labels take argmax"),
        ((PIXELS, np.eye(30, dtype=int), PIXELS, LABELS), {}, r"y_train holds int64 \[30, 30\].*argmax\(1\)"),
        ((PIXELS, LABELS > 0, PIXELS, LABELS), {}, "y_train holds bool"),
        ((PIXELS, [[1], [1, 2]], PIXELS, LABELS), {}, "y_train is no array .*expected examples or labels of one shape"),
        (([[1], [1, 2]], None, PIXELS), {}, "x_train is no array"),
        ((PIXELS, LABELS, PIXELS[..., 0], LABELS), {}, r"uint8 \[6, 5, 3\], but those of x_test uint8 \[6, 5, 1\]"),
        ((np.ones((3, 8)), None, np.ones((3, 9))), {}, r"x_train are float32 \[8\], but those of x_test float32 \[9\]"),
        ((PIXELS, LABELS / 2, PIXELS, LABELS), {}, "y_train holds float64"),
        ((PIXELS, LABELS, PIXELS, LABELS.astype(str)), {}, "y_train and y_test hold both names and numbers"),
        ((PIXELS, LABELS[:7], PIXELS, LABELS), {}, "30 images and 7 labels"),
        ((PIXELS, LABELS - 1, PIXELS, LABELS), {}, "labels run from -1"),
        ((np.ones((3, 2), int), [0, 1, 1], np.ones((3, 2), int), [0, 1, 1]), {}, "omit y_train"),
        ((np.full((3, 2), np.nan), [0, 1, 1], np.ones((3, 2)), [0, 1, 1]), {}, "3 of its vectors hold numbers"),
        ((PIXELS, LABELS[:7]), {"test_fraction": 0.1}, "x_train holds 30 examples and y_train 7 labels"),
        ((PIXELS[:7], LABELS), {"test_fraction": 0.1}, "x_train holds 7 examples and y_train 30 labels"),
        ((PIXELS[:3], LABELS[:3]), {"test_fraction": 0.1}, "data.test_fraction is 0.1, of 3 examples"),
    ],
)
def test_arrays_that_do_not_fit(arrays: Any, more: dict[str, Any], said: str):
    with pytest.raises(ConfigError, match=said):
        from_arrays(*arrays, **more)


def test_holding_out_divides_every_class_alike():
    labels = np.repeat([2, 0, 1], [50, 30, 20])
    train, test = hold_out(labels, 0.2)
    assert np.bincount(labels[test]).tolist() == [6, 4, 10]
    assert sorted([*train, *test]) == list(range(100)) and (np.diff(train) < 0).any(), "shuffled"
    assert np.array_equal(hold_out(labels, 0.2)[1], test), "the same each time"


@pytest.mark.parametrize("names", [("x_train", "y_train", "x_test", "y_test"),
                                   ("train_images", "train_labels", "test_images", "test_labels")])  # fmt: skip
def test_files_of_arrays(tmp_path: Path, names: tuple[str, ...]):
    named = dict(zip(names, PAIRS, strict=True))
    np.savez(tmp_path / "mine.npz", **named)
    dataset = load(path=tmp_path / "mine.npz")
    assert (dataset.name, dataset.source) == ("mine", str(tmp_path / "mine.npz"))
    assert dataset.fingerprint == from_arrays(*PAIRS).fingerprint
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, array in named.items():
        np.save(folder / f"{name}.npy", array)
    mapped = load(path=str(folder))
    assert isinstance(mapped.train.images, np.memmap) and mapped.fingerprint == dataset.fingerprint
    (folder / f"{names[3]}.npy").unlink()
    with pytest.raises(DataMissingError, match=f"In {folder} {names[3]}.npy is missing; expected x_train"):
        load(path=folder)
    (folder / f"{names[1]}.npy").rename(folder / f"{names[3]}.npy")
    with pytest.raises(DataMissingError, match=f"In {folder} {names[1]}.npy is missing; expected x_train"):
        load(path=folder)
    (folder / f"{names[3]}.npy").rename(folder / f"{names[1]}.npy")
    (folder / f"{names[2]}.npy").unlink()
    with pytest.raises(
        DataMissingError, match=f"In {folder} {names[2]}.npy is missing; expected x_train.*fraction 0.2"
    ):
        load(path=folder)
    assert len(load(path=folder, test_fraction=0.25).test.labels) == 5


def test_one_array_without_labels(tmp_path: Path):
    np.save(tmp_path / "codes.npy", RNG.random((40, 7)))
    dataset = load(path=tmp_path / "codes.npy", test_fraction=0.25)
    assert (len(dataset.train.labels), len(dataset.test.labels), dataset.classes) == (30, 10, 0)
    with pytest.raises(DataMissingError, match="x_test is missing"):
        load(path=tmp_path / "codes.npy")


def test_arrays_are_read_where_files_cannot_be_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    np.save(tmp_path / "codes.npy", RNG.random((40, 7)))
    mapped = load(path=tmp_path / "codes.npy", test_fraction=0.25)

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENODEV, "No such device")

    monkeypatch.setattr(np.lib.format, "open_memmap", refuse)
    monkeypatch.setattr(np.memmap, "__new__", refuse)
    assert load(path=tmp_path / "codes.npy", test_fraction=0.25).fingerprint == mapped.fingerprint


def test_files_that_cannot_be_used(tmp_path: Path):
    with pytest.raises(DataMissingError, match=f"data.path is {tmp_path}/gone, which does not exist"):
        load(path=tmp_path / "gone")
    (tmp_path / "data.csv").write_text("1,2")
    with pytest.raises(ConfigError, match=r"data\.csv; expected a file \.npz or \.npy"):
        load(path=tmp_path / "data.csv")
    (tmp_path / "cut.npz").write_bytes(b"PK\3\4 no archive")
    with pytest.raises(DataDamagedError, match=r"cut\.npz is not a readable array"):
        load(path=tmp_path / "cut.npz")
    np.savez(tmp_path / "other.npz", a=LABELS, b=LABELS)
    with pytest.raises(DataMissingError, match=r"other\.npz holds a, b; expected x_train"):
        load(path=tmp_path / "other.npz")
    np.savez(tmp_path / "odd.npz", x_train=PIXELS, y_train=LABELS[:4], x_test=PIXELS, y_test=LABELS)
    with pytest.raises(DataDamagedError, match=r"30 images and 4 labels.*It is in .*odd\.npz; expected"):
        load(path=tmp_path / "odd.npz")
    np.savez(tmp_path / "both.npz", x_train=PIXELS, y_train=LABELS, x_test=PIXELS, y_test=LABELS)
    with pytest.raises(ConfigError, match=r"x_test exists, but data\.test_fraction is 0\.2"):
        load(path=tmp_path / "both.npz", test_fraction=0.2)
    with pytest.raises(ConfigError, match=r"data\.test_fraction is 1\.5; expected a number between 0 and 1"):
        DataConfig(test_fraction=1.5)


def test_the_configuration_names_a_path(tmp_path: Path):
    from sparsejax import configs
    from sparsejax.configuration import replace
    from sparsejax.training.checks import load_data

    np.save(tmp_path / "codes.npy", RNG.random((40, 7)))
    config = replace(configs.get("digits_mlp"), {"data.path": str(tmp_path / "codes.npy"), "data.test_fraction": 0.25})
    assert load_data(replace(config, {"data.train_examples": 20})).train.images.shape == (20, 7)
    with pytest.raises(ConfigError, match=r"data\.test_fraction is 0\.25, but digits has its own test set"):
        load_data(replace(config, {"data.path": None}))


def put(folder: Path, classes: dict[str, int], *, mode: str = "RGB", size: tuple[int, int] = (6, 4)) -> Path:
    """Writes so many images of each class, the i-th of one colour i."""
    for name, count in classes.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            colour = (i, 2 * i, 3 * i) if mode == "RGB" else i
            Image.new(mode, size, colour).save(folder / name / f"{i:02}.png")
    return folder


def test_images_by_class_in_train_and_test(tmp_path: Path):
    put(tmp_path / "pets" / "train", {"dog": 6, "cat": 4})
    put(tmp_path / "pets" / "test", {"dog": 2})
    (tmp_path / "pets" / "train" / ".cache").mkdir()
    (tmp_path / "pets" / "train" / "dog" / "notes.txt").write_text("no image")
    dataset = load(path=tmp_path / "pets")
    assert (dataset.name, dataset.classes, dataset.class_names) == ("pets", 2, ("cat", "dog"))
    assert dataset.train.images.shape == (10, 4, 6, 3) and dataset.test.labels.tolist() == [1, 1]
    shown = sorted((int(label), *map(int, image[0, 0])) for image, label in zip(*dataset.train, strict=True))
    assert shown == sorted((label, i, 2 * i, 3 * i) for label, n in ((0, 4), (1, 6)) for i in range(n))
    assert (np.diff(dataset.train.labels) < 0).any(), "classes are mixed"
    assert load(path=tmp_path / "pets").fingerprint == dataset.fingerprint
    with pytest.raises(ConfigError, match="x_test exists, but data.test_fraction"):
        load(path=tmp_path / "pets", test_fraction=0.5)


def test_images_by_class_divided_by_a_fraction(tmp_path: Path):
    put(tmp_path / "pets", {"cat": 10, "dog": 20}, mode="L")
    dataset = load(path=tmp_path / "pets", test_fraction=0.1)
    assert dataset.train.images.shape == (27, 4, 6, 1) and np.bincount(dataset.test.labels).tolist() == [1, 2]
    with pytest.raises(DataMissingError, match=r"x_test is missing.*--data\.test-fraction 0\.2"):
        load(path=tmp_path / "pets")
    put(tmp_path / "pets" / "more", {"bird": 1}, mode="RGB")
    (tmp_path / "pets" / "more" / "bird").rename(tmp_path / "pets" / "bird")
    (tmp_path / "pets" / "more").rmdir()
    assert load(path=tmp_path / "pets", test_fraction=0.1).train.images.shape[-1] == 3, "one in colour: all are"


def test_folders_that_cannot_be_used(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataMissingError, match=r"empty has no folders of classes; expected CLASS/\*\.png"):
        load(path=tmp_path / "empty")
    put(tmp_path / "half" / "train", {"cat": 2})
    with pytest.raises(DataMissingError, match="half has train/, but no test/"):
        load(path=tmp_path / "half")
    put(tmp_path / "half" / "test", {"cow": 1})
    with pytest.raises(DataMissingError, match="has the class cow, which train/ has not"):
        load(path=tmp_path / "half")
    put(tmp_path / "bare", {"cat": 2, "dog": 0})
    with pytest.raises(DataMissingError, match="bare has the folder dog, which has no images"):
        load(path=tmp_path / "bare", test_fraction=0.5)
    put(tmp_path / "sizes", {"cat": 2})
    put(tmp_path / "sizes", {"dog": 2}, size=(8, 4))
    with pytest.raises(
        DataDamagedError, match=r"dog/00\.png is 8 x 4 pixels, but .*cat/00\.png 6 x 4; expected images"
    ):
        load(path=tmp_path / "sizes", test_fraction=0.5)
    damaged = put(tmp_path / "damaged", {"cat": 2}) / "cat" / "01.png"
    whole = damaged.read_bytes()
    for content, said in ((b"text", "not a readable image"), (whole[:50], "truncated or damaged")):
        damaged.write_bytes(content)
        with pytest.raises(DataDamagedError, match=f"{damaged} is {said}"):
            load(path=tmp_path / "damaged", test_fraction=0.5)
    Image.fromarray(np.zeros((4, 6), np.uint16)).save(damaged)
    with pytest.raises(DataDamagedError, match="convert it to 8 bits"):
        load(path=tmp_path / "damaged", test_fraction=0.5)


@pytest.mark.slow
def test_a_run_trains_on_a_folder_of_images(tmp_path: Path):
    from sparsejax.commands.train import main

    for part, count in (("train", 20), ("test", 4)):
        for name, colour in (("dark", 20), ("light", 200)):
            folder = tmp_path / "shades" / part / name
            folder.mkdir(parents=True)
            for i in range(count):
                noise = RNG.integers(-20, 20, (8, 8)) + colour
                Image.fromarray(noise.astype(np.uint8)).save(folder / f"{i}.png")
    words = ["--config", "digits_mlp", "--data.path", str(tmp_path / "shades"), "--model.classes", "2",
             "--training.epochs", "3", "--training.batch-size", "10", "--training.first-epoch-batch-size", "None",
             "--out", str(tmp_path / "run")]  # fmt: skip
    assert main(words) == 0
    import json

    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["dataset"] == "shades" and result["test_accuracy"] == 1
