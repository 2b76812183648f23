"""Tests of sparsejax.data.cifar. Pickles are written by hand here, as Python 2 wrote the original ones."""

import hashlib
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparsejax.data import load
from sparsejax.data.cifar import (
    CIFAR10_FILES,
    CIFAR10_FOLDER,
    read_cifar10_folder,
    read_cifar100_folder,
    read_cifar_batch,
)
from sparsejax.data.inventory import survey
from sparsejax.errors import ConfigError, DataDamagedError, DataMissingError

ROWS = 6


def text(word: str) -> bytes:
    return b"U" + bytes([len(word)]) + word.encode()


def number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def array(data: np.ndarray, code: str = "u1", module: str = "numpy.core.multiarray") -> bytes:
    """Writes an array as numpy of Python 2 did: made empty, then given shape, type and bytes."""
    made = f"c{module}\n_reconstruct\n".encode() + b"cnumpy\nndarray\n" + number(0) + b"\x85" + text("b") + b"\x87R"
    kind = b"cnumpy\ndtype\n" + text(code) + number(0) + number(1) + b"\x87R"
    kind += b"(" + number(3) + text("|") + b"NNN" + number(-1) + number(-1) + number(0) + b"tb"
    shape = b"(" + b"".join(number(size) for size in data.shape) + b"t"
    raw = b"T" + struct.pack("<i", data.nbytes) + data.tobytes()
    return made + b"(" + number(1) + shape + kind + b"\x89" + raw + b"tb"


def listed(labels: list[int]) -> bytes:
    return b"](" + b"".join(number(label) for label in labels) + b"e"


def batch(data: bytes, labels: bytes) -> bytes:
    items = text("batch_label") + text("one of one") + text("labels") + labels + text("data") + data
    return b"\x80\x02}(" + items + b"u."


def pixels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (ROWS, 3072), dtype=np.uint8)


def whole(seed: int = 0) -> bytes:
    return batch(array(pixels(seed)), listed([(seed + row) % 10 for row in range(ROWS)]))


@pytest.fixture
def small_cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns DATA/cifar-10-batches-py with six small batches, whose MD5s count as the published ones."""
    folder = tmp_path / "data" / CIFAR10_FOLDER
    folder.mkdir(parents=True)
    for seed, name in enumerate(CIFAR10_FILES):
        (folder / name).write_bytes(whole(seed))
        monkeypatch.setitem(CIFAR10_FILES, name, hashlib.md5(whole(seed)).hexdigest())
    return folder


def test_folder(small_cifar: Path):
    dataset = read_cifar10_folder(small_cifar)
    assert (dataset.name, dataset.source, dataset.classes, dataset.notice) == ("cifar10", "files", 10, "")
    assert (dataset.mean, dataset.std) == ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616))
    assert dataset.train.images.shape == (5 * ROWS, 32, 32, 3) and dataset.train.images.flags.c_contiguous
    assert dataset.train.labels.dtype == np.int32 and dataset.train.labels[:8].tolist() == [0, 1, 2, 3, 4, 5, 1, 2]
    assert dataset.test.labels.tolist() == [5, 6, 7, 8, 9, 0]
    # The file holds all the red rows of an image, then the green ones, then the blue ones.
    second, image = pixels(1)[2], dataset.train.images[ROWS + 2]
    for channel in range(3):
        for row, column in ((0, 0), (0, 1), (3, 0), (31, 31)):
            assert image[row, column, channel] == second[1024 * channel + 32 * row + column]


def test_python_3_and_columns_first_read_alike(tmp_path: Path):
    path, data, labels = tmp_path / "batch", pixels(3), [3, 1, 4, 1, 5, 9]
    path.write_bytes(batch(array(data, module="numpy._core.multiarray"), listed(labels)))
    expected = read_cifar_batch(path)
    columns_first = array(np.ascontiguousarray(data.T).reshape(ROWS, 3072)).replace(b"\x89T", b"\x88T", 1)
    path.write_bytes(batch(columns_first, listed(labels)))
    np.testing.assert_array_equal(read_cifar_batch(path).images, expected.images)
    path.write_bytes(pickle.dumps({"data": np.asarray(data), "labels": labels}, protocol=4))
    np.testing.assert_array_equal(read_cifar_batch(path).images, expected.images)


CLASSES = [3, 1, 4, 1, 5, 9]
LABELS_AS = {
    "list": lambda: CLASSES,
    "array": lambda: np.array(CLASSES),
    "bytes": lambda: np.array(CLASSES, np.uint8),
    "big-endian": lambda: np.array(CLASSES, ">i2"),
    "numbers": lambda: [*np.array(CLASSES)],
}
KEYS = {"text": str, "bytes": str.encode}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("keys", KEYS)
@pytest.mark.parametrize("labels", LABELS_AS)
@pytest.mark.parametrize("order", "CF")
def test_every_protocol_is_read(tmp_path: Path, protocol: int, keys: str, labels: str, order: str):
    path, data, key = tmp_path / "batch", np.array(pixels(3), order=order), KEYS[keys]
    batch = {key("batch_label"): key("training"), key("labels"): LABELS_AS[labels](), key("data"): data}
    for module in (b"numpy._core.", b"numpy.core."):  # NumPy 1 has the other name
        content = pickle.dumps(batch, protocol=protocol)
        path.write_bytes(content if protocol > 3 else content.replace(b"numpy._core.", module))
        split = read_cifar_batch(path)
        assert split.labels.tolist() == CLASSES and split.labels.dtype == np.int32
        assert split.images.flags.c_contiguous and split.images.flags.writeable
        np.testing.assert_array_equal(split.images, pixels(3).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_cifar_100_is_read_by_its_fine_labels(tmp_path: Path, protocol: int):
    for file in ("train", "test"):
        content = {b"fine_labels": [99, *range(ROWS - 1)], b"coarse_labels": [19] * ROWS, b"data": pixels(0)}
        (tmp_path / file).write_bytes(pickle.dumps(content, protocol=protocol))
    dataset = read_cifar100_folder(tmp_path, check_md5=False)
    assert dataset.train.labels.tolist() == [99, 0, 1, 2, 3, 4] and dataset.classes == 100


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"labels": [0] * (ROWS - 1) + [2**32]}, "labels run from 0 to 4294967296 where 0 to 9"),
        ({"labels": np.array([0] * (ROWS - 1) + [-(2**40)])}, "labels run from -1099511627776 to 0"),
        ({"labels": np.zeros((ROWS, 1), int)}, "not a list of integers"),
        ({"labels": np.zeros(ROWS)}, "of type 'f8', not of bytes"),
        ({"labels": [0.5] * ROWS}, "not a list of integers"),
        ({"data": np.zeros((ROWS, 3072), np.int16)}, r"its data is int16 \[6, 3072\] where bytes"),
        ({"data": bytearray(ROWS * 3072)}, "its data is bytes where bytes|its data is bytearray"),
        ({"data": range(3)}, "range, which no file of CIFAR-10 does"),
    ],
)
def test_every_protocol_is_checked(tmp_path: Path, protocol: int, change: dict[str, Any], said: str):
    path = tmp_path / "batch"
    path.write_bytes(pickle.dumps({"data": pixels(0), "labels": [0] * ROWS} | change, protocol=protocol))
    with pytest.raises(DataDamagedError, match=said):
        read_cifar_batch(path)


def malicious(module: str, name: str, *arguments: str) -> bytes:
    """A pickle that calls something while it is read."""
    call = f"c{module}\n{name}\n".encode() + b"(" + b"".join(text(word) for word in arguments) + b"tR"
    return batch(call, listed([0]))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        pytest.param(malicious("os", "system", "touch BAD"), "it calls os.system", id="a command"),
        pytest.param(malicious("posix", "system", "touch BAD"), "posix.system", id="the same, its other name"),
        pytest.param(malicious("builtins", "eval", "open('BAD', 'w')"), "builtins.eval", id="eval"),
        pytest.param(malicious("__builtin__", "eval", "open('BAD', 'w')"), "__builtin__.eval", id="eval in Python 2"),
        pytest.param(malicious("numpy", "fromfile", "BAD"), "numpy.fromfile", id="another word of numpy"),
        pytest.param(malicious("numpy", "ndarray.tofile", "BAD"), "numpy.ndarray.tofile", id="a dotted word"),
        pytest.param(b"(" + text("touch BAD") + b"ios\nsystem\n.", "os.system", id="by the oldest opcode"),
        pytest.param(pickle.dumps(Path("BAD"), protocol=4), "pathlib", id="a class"),
        pytest.param(b"\x80\x02cnumpy\nndarray\n)\x81.", "damaged", id="an array with no function"),
        pytest.param(b"\x80\x02\x82\x01.", "damaged", id="the extension registry"),
        pytest.param(b"\x80\x02" + text("x") + b"Q.", "damaged", id="a persistent id"),
        pytest.param(batch(array(pixels(0), "O8"), listed([0])), "type 'O8', not of bytes", id="an array of objects"),
        pytest.param(malicious("_codecs", "encode", "zip", "hex"), "str where bytes", id="another encoding"),
        pytest.param(malicious("_codecs", "lookup", "latin1"), "calls _codecs.lookup", id="another word of codecs"),
        pytest.param(batch(b"cbuiltins\nbytes\n" + number(2**30) + b"\x85R", listed([0])), "int where", id="a bomb"),
        pytest.param(malicious("numpy.core.os", "system", "touch BAD"), "numpy.core.os.system", id="inside numpy"),
    ],
)
def test_nothing_in_a_pickle_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, said: str):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "data_batch_1"
    path.write_bytes(content)
    with pytest.raises(DataDamagedError, match=said) as caught:
        read_cifar_batch(path)
    assert str(path) in str(caught.value) and os.listdir(tmp_path) == ["data_batch_1"]


SHORT = array(pixels(0)[:, :3000])
GOOD, LABELS = array(pixels(0)), list(range(ROWS))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        pytest.param(b"", "0 bytes", id="empty"),
        pytest.param(b"<html>404</html>", "truncated or damaged", id="a web page"),
        pytest.param(whole()[:100], "truncated or damaged", id="cut in the labels"),
        pytest.param(whole()[:9000], "truncated", id="cut in the pixels"),
        pytest.param(whole()[:-1], "truncated or damaged", id="cut before the last byte"),
        pytest.param(whole() + b"!", "bytes follow its end", id="trailing bytes"),
        pytest.param(b"\x80\x02" + listed(LABELS) + b".", "holds list where data and labels", id="a list"),
        pytest.param(
            b"\x80\x02}(" + text("fine_labels") + listed([1]) + b"u.", "holds .'fine_labels'.", id="CIFAR-100"
        ),
        pytest.param(batch(listed(LABELS), listed(LABELS)), "its data is list", id="data that is no array"),
        pytest.param(batch(SHORT, listed(LABELS)), r"\[6, 3000\] where bytes \[n, 3072\]", id="too few pixels"),
        pytest.param(batch(array(pixels(0)[0]), listed(LABELS)), r"\[3072\] where", id="one dimension"),
        pytest.param(batch(GOOD.replace(number(ROWS), number(7)), listed(LABELS)), "reshape", id="rows announced"),
        pytest.param(batch(GOOD, listed(LABELS[:-1])), "6 images and 5 labels", id="a label too few"),
        pytest.param(batch(GOOD, listed([*LABELS[:-1], 10])), "labels run from 0 to 10", id="a label too large"),
        pytest.param(batch(GOOD, listed([*LABELS[:-1], -1])), "labels run from -1", id="a negative label"),
        pytest.param(batch(GOOD, text("labels")), "not a list of integers", id="labels of text"),
        pytest.param(batch(array(pixels(0)[:0]), listed([])), "empty", id="no images"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, content: bytes, said: str):
    path = tmp_path / "data_batch_3"
    path.write_bytes(content)
    with pytest.raises(DataDamagedError, match=said) as caught:
        read_cifar_batch(path)
    assert str(path) in str(caught.value) and "cifar-10-python.tar.gz" in str(caught.value)


def test_checksum(small_cifar: Path):
    path = small_cifar / "data_batch_2"
    path.write_bytes(whole(7))
    with pytest.raises(DataDamagedError, match=f"{path} .18,656 bytes. is not the published file of CIFAR-10, or"):
        read_cifar10_folder(small_cifar)
    assert len(read_cifar10_folder(small_cifar, check_md5=False).train.labels) == 5 * ROWS


def test_missing_files(small_cifar: Path, tmp_path: Path):
    (small_cifar / "data_batch_4").unlink()
    (small_cifar / "test_batch").unlink()
    with pytest.raises(DataMissingError, match=r"data_batch_4, test_batch are missing there\. Download https://"):
        read_cifar10_folder(small_cifar)
    with pytest.raises(DataMissingError, match="nowhere"):
        read_cifar_batch(tmp_path / "nowhere")


def test_load(small_cifar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    said: list[str] = []
    with pytest.raises(DataMissingError, match=r"is in neither, and cannot .* or download https.*tar -xzf"):
        load("cifar10", say=said.append)
    with pytest.raises(DataMissingError, match="SPARSEJAX_DATA is not set"):
        load("cifar10", "files", say=said.append)
    with pytest.raises(
        ConfigError, match=r"'cifar10' cannot come from the source 'digits'; its sources are auto, files"
    ):
        load("cifar10", "digits")
    monkeypatch.setenv("SPARSEJAX_DATA", str(small_cifar.parent))
    assert load("cifar10", say=said.append).fingerprint == load("cifar10", "files", say=said.append).fingerprint
    # Partly there: not looked for elsewhere.
    (small_cifar / "test_batch").rename(tmp_path / "test_batch")
    with pytest.raises(DataMissingError, match=f"5 of CIFAR-10's 6 files are in {small_cifar} .test_batch missing"):
        load("cifar10", say=said.append)
    assert said == []
    (tmp_path / "test_batch").rename(small_cifar / "test_batch")
    (tmp_path / "cache" / "sparsejax").mkdir(parents=True)
    small_cifar.rename(tmp_path / "cache" / "sparsejax" / CIFAR10_FOLDER)
    assert load("cifar10", say=said.append).source == "download"


def test_survey(small_cifar: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SPARSEJAX_DATA", str(small_cifar.parent))
    (small_cifar / "test_batch").unlink()
    here, cache, _ = (place for place in survey() if place.name == "cifar10")
    size = sum(path.stat().st_size for path in small_cifar.iterdir())
    assert (here.source, here.path, here.found, here.size) == ("files", small_cifar, "5 of 6 files", size)
    assert (cache.found, cache.size) == ("", 0)
    monkeypatch.delenv("SPARSEJAX_DATA")
    assert next(place for place in survey() if place.name == "cifar10").path is None


def test_real_cifar10(real_data: Path):
    folder = real_data / CIFAR10_FOLDER
    if not folder.is_dir():
        pytest.skip(f"put CIFAR-10's six files in {folder} to run the test on the real data")
    dataset = read_cifar10_folder(folder)
    assert dataset.train.images.shape == (50000, 32, 32, 3) and dataset.test.images.shape == (10000, 32, 32, 3)
    assert np.bincount(dataset.train.labels).tolist() == [5000] * 10
    assert np.bincount(dataset.test.labels).tolist() == [1000] * 10
    assert dataset.train.labels[:5].tolist() == [6, 9, 9, 4, 1] and dataset.test.labels[:5].tolist() == [3, 8, 8, 0, 6]
    by_place = dataset.train.images.reshape(50000, -1).sum(0, dtype=np.uint32)  # all at once takes half a second
    means = by_place.reshape(-1, 3).mean(0) / 50000 / 255
    np.testing.assert_allclose(means, dataset.mean, atol=5e-5)
    assert dataset.fingerprint == "b0a767cc8b192ce5fe9f08ce37046ed75078208c2446a67521b22a0281a6679e"
