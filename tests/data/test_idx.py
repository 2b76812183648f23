"""Tests of sparsejax.data.idx."""

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sparsejax.data import read_idx, read_mnist_folder
from sparsejax.data.idx import MNIST_FILES
from sparsejax.errors import DataDamagedError, DataMissingError

AsIdx = Callable[[np.ndarray], bytes]

# Two 2 × 3 images, written out by hand: 00 00, type 08, 3 dimensions, sizes 2 2 3, twelve bytes.
WHOLE = bytes.fromhex("00000803 00000002 00000002 00000003 000102030405 060708090aff")


@given(
    array=st.sampled_from(["u1", "i1", "i2", "i4", "f4", "f8"]).flatmap(
        lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
    ),
    packed=st.booleans(),
)
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, as_idx: AsIdx, array: np.ndarray, packed: bool):
    path = tmp_path_factory.getbasetemp() / "round-trip"  # no suffix: the first bytes tell
    path.write_bytes(gzip.compress(as_idx(array)) if packed else as_idx(array))
    back = read_idx(path)
    assert back.dtype == array.dtype and back.dtype.isnative and back.flags.writeable
    np.testing.assert_array_equal(back, array)


def test_hand_written_bytes(tmp_path: Path):
    path = tmp_path / "images.gz"  # the suffix says gzip, the bytes do not
    path.write_bytes(WHOLE)
    assert read_idx(path).tolist() == [[[0, 1, 2], [3, 4, 5]], [[6, 7, 8], [9, 10, 255]]]
    path.write_bytes(bytes.fromhex("00000B01 00000002 0102 FFFE"))
    assert read_idx(path).tolist() == [258, -2]
    path.write_bytes(bytes.fromhex("00000D01 00000001 3FC00000"))
    assert read_idx(path).tolist() == [1.5]


BOMB = gzip.compress(b"\0\0\x08\x01\xff\xff\xff\0" + bytes(2**27))
PACKED = gzip.compress(bytes(range(256)) * 20)
BIG = gzip.compress(b"\0\0\x08\x01" + struct.pack(">I", 5120) + np.random.default_rng(0).bytes(5120))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        pytest.param(b"", "empty", id="empty"),
        pytest.param(b"\0\0", "not an IDX file", id="two bytes"),
        pytest.param(b"\0\0\x07\x01" + WHOLE[4:], "not an IDX file.*00 00 07 01", id="unknown type"),
        pytest.param(b"\x08\x03\0\0" + WHOLE[4:], "not an IDX file.*08 03", id="little-endian magic"),
        pytest.param(b"<html>404</html>", "not an IDX file", id="a web page"),
        pytest.param(WHOLE[:10], "truncated.*16 bytes, and 10", id="cut in the header"),
        pytest.param(WHOLE[:-1], "truncated.*2 × 2 × 3.*12 bytes in all, and 11", id="cut in the payload"),
        pytest.param(WHOLE + b"!", "has extra bytes.*12 bytes in all, and 13", id="trailing bytes"),
        pytest.param(gzip.compress(WHOLE + b"!!"), "12 bytes in all, and 13 or more", id="trailing bytes, packed"),
        pytest.param(BOMB, "is damaged: it announces 4,294,967,040 bytes, more than 100 times its size", id="a bomb"),
        pytest.param(gzip.compress(WHOLE + bytes(2**27)), "12 bytes in all, and 13 or more", id="another bomb"),
        pytest.param(WHOLE[:4] + b"\xff" * 12, "announces 79,228,162", id="a giant"),
        pytest.param(gzip.compress(WHOLE) + b"junk", "gzip stream is damaged", id="junk after gzip"),
        pytest.param(gzip.compress(WHOLE)[:-9], "gzip stream ends early", id="gzip without its end"),
        pytest.param(gzip.compress(WHOLE)[:12], "gzip stream ends early", id="gzip of 12 bytes"),
        pytest.param(BIG[:2600], "truncated.*5120 bytes in all, and .*ends early", id="gzip cut in the middle"),
        pytest.param(gzip.compress(WHOLE)[:-8] + b"\0" * 8, "is damaged.*CRC", id="gzip with a wrong CRC"),
        pytest.param(PACKED[:40] + b"\xff" * 40 + PACKED[80:], "damaged", id="gzip overwritten"),
        pytest.param(gzip.compress(b""), "not an IDX file", id="gzip of nothing"),
        pytest.param(b"\0\0\x08\x41" + b"\0\0\0\1" * 65 + b"x", "no array", id="65 dimensions"),
        pytest.param(b"\0\0\x08\x04" + b"\xff" * 12 + b"\0" * 4, "no array", id="an empty giant"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, content: bytes, said: str):
    path = tmp_path / "some-images-idx3-ubyte.gz"
    path.write_bytes(content)
    with pytest.raises(DataDamagedError, match=said) as caught:
        read_idx(path)
    assert str(path) in str(caught.value) and "download it again" in str(caught.value)


def test_no_file_is_missing_not_damaged(tmp_path: Path):
    with pytest.raises(DataMissingError, match="nowhere-idx1"):
        read_idx(tmp_path / "nowhere-idx1")
    with pytest.raises(DataMissingError, match="Is a directory"):
        read_idx(tmp_path)


def test_folder_of_the_small_mnist(small_folder: Path, small_arrays: dict[str, np.ndarray]):
    dataset = read_mnist_folder(small_folder)
    assert (dataset.name, dataset.source, dataset.classes, dataset.notice) == ("mnist", "files", 10, "")
    assert (dataset.mean, dataset.std) == ((0.1307,), (0.3081,))
    np.testing.assert_array_equal(dataset.test.images[..., 0], small_arrays["t10k-images-idx3-ubyte.gz"])
    assert dataset.train.labels.dtype == np.int32 and dataset.train.labels[:12].tolist() == [*range(10), 0, 1]


@pytest.mark.parametrize("rename", ["plain", "dotted", "dotted gzip"])
def test_other_names_are_found(small_folder: Path, rename: str):
    before = read_mnist_folder(small_folder).fingerprint
    for name in MNIST_FILES:
        path = small_folder / name
        content = path.read_bytes()
        path.unlink()
        to = name if rename == "plain" else name.replace("-idx", ".idx")
        if rename == "dotted gzip":
            (small_folder / to).write_bytes(content)
        else:
            (small_folder / to.removesuffix(".gz")).write_bytes(gzip.decompress(content))
    assert read_mnist_folder(small_folder).fingerprint == before


def test_missing_files_are_listed(small_folder: Path, tmp_path: Path):
    (small_folder / "train-labels-idx1-ubyte.gz").unlink()
    (small_folder / "t10k-images-idx3-ubyte.gz").unlink()
    with pytest.raises(DataMissingError) as caught:
        read_mnist_folder(small_folder)
    said = str(caught.value)
    assert "train-labels-idx1-ubyte.gz and t10k-images-idx3-ubyte.gz are missing" in said
    assert str(small_folder) in said and "t10k-labels" not in said and "sparsejax.data download" in said
    with pytest.raises(DataMissingError, match="nowhere"):
        read_mnist_folder(tmp_path / "nowhere")


def test_checksum_of_gzip_only(small_folder: Path, monkeypatch: pytest.MonkeyPatch):
    name = "t10k-labels-idx1-ubyte.gz"
    monkeypatch.setitem(MNIST_FILES, name, "ec29112dd5afa0611ce80d1b7f02629c")
    with pytest.raises(DataDamagedError, match=f"{name} is not the published.*ec29112d.*gunzip"):
        read_mnist_folder(small_folder)
    assert len(read_mnist_folder(small_folder, check_md5=False).test.labels) == 20
    plain = gzip.decompress((small_folder / name).read_bytes())
    (small_folder / name).unlink()
    (small_folder / name.removesuffix(".gz")).write_bytes(plain)
    assert len(read_mnist_folder(small_folder).test.labels) == 20


@pytest.mark.parametrize(
    ("name", "array", "said"),
    [
        ("t10k-labels", np.zeros(19, np.uint8), "20 images and 19 labels"),
        ("t10k-labels", np.full(20, 10, np.uint8), "labels run from 10 to 10"),
        ("t10k-labels", np.zeros((20, 28, 28), np.uint8), "labels are int32"),
        ("train-images", np.zeros(40, np.uint8), "uint8 \\[40\\] where"),
        ("train-images", np.zeros((40, 28, 28), np.float32), "float32"),
        ("train-images", np.zeros((40, 0, 28), np.uint8), "empty"),
        ("train-images", np.zeros((40, 14, 14), np.uint8), "14 × 14 pixels and the test images 28 × 28"),
    ],
)
def test_files_that_do_not_fit(small_folder: Path, as_idx: AsIdx, name: str, array: np.ndarray, said: str):
    file = next(file for file in MNIST_FILES if file.startswith(name))
    (small_folder / file).write_bytes(gzip.compress(as_idx(array)))
    with pytest.raises(DataDamagedError, match=said):
        read_mnist_folder(small_folder, check_md5=False)


def test_other_data_computes_its_moments(small_folder: Path, small_arrays: dict[str, np.ndarray]):
    dataset = read_mnist_folder(small_folder, name="fashion_mnist", check_md5=False)
    pixels = small_arrays["train-images-idx3-ubyte.gz"] / 255
    assert dataset.mean == pytest.approx((pixels.mean(),)) and dataset.std == pytest.approx((pixels.std(),))


def test_real_mnist(real_data: Path):
    dataset = read_mnist_folder(real_data / "mnist")
    assert dataset.train.images.shape == (60000, 28, 28, 1) and dataset.test.images.shape == (
        10000,
        28,
        28,
        1,
    )
    assert dataset.train.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert dataset.test.labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert np.bincount(dataset.test.labels).tolist() == [
        980,
        1135,
        1032,
        1010,
        982,
        892,
        958,
        1028,
        974,
        1009,
    ]
    assert round(float(dataset.train.images.mean() / 255), 4) == 0.1307
    assert dataset.fingerprint == "14d9c3d643efeecdc6449d86469a514a2a0bbb9a8c8cc6c45ef299881f0fc72d"
