"""Tests of sparsejax.data.pickle_limits: few bytes that would nest, repeat or allocate without end."""

import pickle
import time
from pathlib import Path

import numpy as np
import pytest

from sparsejax.data.cifar import CIFAR10_FILES, read_cifar10_folder, read_cifar_batch
from sparsejax.data.pickle_limits import check_limits
from sparsejax.errors import DataDamagedError
from tests.data.test_cifar import KEYS, LABELS_AS, array, batch, malicious, pixels, whole

HEAD, DATA = b"\x80\x04", array(pixels(0))
DOUBLED = b"2\x86"  # DUP, TUPLE2
MEGABYTE = b"X" + (2**20).to_bytes(4, "little") + b"a" * 2**20
SHARED = b"q\x05" + b"".join(b"](h%ch%ceq%c" % (i, i, i + 1) for i in range(5, 40))
BOMBS = {
    "nested tuples": (HEAD + b")" + b"\x85" * 300_000 + b".", "nests more than 20"),
    "nested lists": (HEAD + b"]" * 1500 + b"a" * 1499 + b".", "nests more than 20"),
    "nested as a key": (HEAD + b"})" + b"\x85" * 300_000 + b"K\0s.", "nests more than 20"),
    "nested dictionaries": (HEAD + b"}K\0" * 1500 + b"N" + b"s" * 1500 + b".", "nests more than 20"),
    "nested labels": (batch(DATA, b"]" * 1500 + b"a" * 1499), "nests more than 20"),
    "a shared key": (HEAD + b"})" + DOUBLED * 150 + b"K\0s.", "repeats is larger|nests more"),
    "shared labels": (batch(DATA, b"](]" + SHARED + b"e"), "repeats is larger"),
    "marks": (HEAD + b"(" * 300_000 + b"t" * 300_000 + b".", "nests more than 20"),
    "copies of a copy": (HEAD + b")" + DOUBLED * 150 + b".", "repeats is larger|nests more"),
    "copies of a copy, flat": (HEAD + b"]\x94" + b"(" + b"h\0" * 200 + b"e.", "changes a value|larger than the file"),
    "copies of the memo": (
        HEAD + b")\x94" + b"".join(b"h%ch%c\x86\x94" % (i, i) for i in range(18)) + b".", "repeats is larger"),
    "a list in itself": (HEAD + b"]\x94h\0a.", "changes a value that it has repeated"),
    "a dictionary in itself": (HEAD + b"}\x94K\0h\0s.", "changes a value that it has repeated"),
    "bytes of a text, again and again": (
        HEAD + b"c_codecs\nencode\n\x94" + MEGABYTE + b"\x94]" + b"h\0h\x01\x85Ra" * 2000 + b".", "repeats is larger"),
    "a distant place of the memo": (HEAD + b"Nr\xff\xff\xff\x0f.", "memo has 268,435,455 entries after 2"),
    "a distant place in words": (HEAD + b"Np99999999999\n.", "memo has 99,999,999,999 entries"),
    "a number of any size": (HEAD + b"\x8b" + (100_000).to_bytes(4, "little") + b"\x7f" * 100_000 + b".", "64 bits"),
    "bytes of any size": (HEAD + b"\x8e" + (2**42).to_bytes(8, "little") + b".", "expected 43980"),
    "an array of bytes of any size": (HEAD + b"\x96" + (2**42).to_bytes(8, "little") + b".", "expected 43980"),
    "a long name": (malicious("a" * 2**20, "b"), "it calls a+ [.]{3} a+[.]b"),
    "long keys": (HEAD + b"}" + MEGABYTE + b"Ns.", "it holds .'a+ [.]{3} a+'. where"),
    "arrays as labels": (batch(DATA, b"](" + DATA + b"e"), "labels are not a list"),
    "labels in labels": (batch(DATA, b"](](K\0ee"), "labels are not a list"),
    "an empty stack": (HEAD + b"0.", "takes a value that is not there"),
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_at_once(tmp_path: Path, name: str):
    content, said = BOMBS[name]
    path = tmp_path / "batch"
    path.write_bytes(content)
    began = time.perf_counter()
    with pytest.raises(DataDamagedError, match=said) as caught:
        read_cifar_batch(path)
    assert time.perf_counter() - began < 2 and len(str(caught.value)) < 1000


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("labels", LABELS_AS)
def test_what_writers_make_is_within_the_limits(protocol: int, labels: str):
    names = ["image.png"] * 6
    for key in KEYS.values():
        check_limits(
            pickle.dumps({key("labels"): LABELS_AS[labels](), key("data"): pixels(1), "names": names}, protocol)
        )
    many = {"data": np.zeros((500, 3072), np.uint8), "labels": [*np.arange(500) % 10], "names": ["a"] * 500}
    check_limits(pickle.dumps(many, protocol))
    check_limits(whole())


def test_a_file_that_is_not_the_published_one_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in CIFAR10_FILES:
        (tmp_path / name).write_bytes(BOMBS["nested tuples"][0])
    monkeypatch.setattr("sparsejax.data.cifar.read_plain", lambda _: pytest.fail("it is read"))
    with pytest.raises(DataDamagedError, match="not the published file"):
        read_cifar10_folder(tmp_path)
