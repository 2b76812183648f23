"""Tests of sparsejax.data.text: tokens, and the windows for training."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from sparsejax.data.text import Text, load_text, tokenize, windows
from sparsejax.errors import ConfigError, DataDamagedError, DataMissingError

TRAIN = " = The cat = \n \n the cat saw the <unk> dog .\n the dog saw a cat .\n"
VALIDATION, TEST = " the cow saw the dog .\n", "a cat\u2028and a dog"


def put(folder: Path, files: dict[str, str]) -> Path:
    """Writes texts into a folder."""
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content.encode())
    return folder


PARTS = {"train.txt": TRAIN, "valid.txt": VALIDATION, "test.txt": TEST}


def test_words():
    text = tokenize(TRAIN, VALIDATION, TEST, name="tale")
    # By falling frequency, then as they sort; <unk> first although it occurs once, <eos> once a line.
    counts = {"<eos>": 4, "cat": 3, "the": 3, ".": 2, "=": 2, "dog": 2, "saw": 2, "The": 1, "a": 1}
    assert text.vocabulary == ("<unk>", *counts)
    assert text.decode(text.train[:7]) == "= The cat = <eos> <eos> the"
    assert np.bincount(text.train).tolist() == [1, *counts.values()]
    assert text.decode(text.validation) == "the <unk> saw the dog . <eos>"
    # A line separator is no line break of the file; a last line without a break ends as well.
    assert text.decode(text.test) == "a cat <unk> a dog <eos>"
    assert (text.name, text.source, text.unit, text.train.dtype) == ("tale", "files", "words", np.int32)


@pytest.mark.parametrize(("size", "kept"), [(2, ["<eos>"]), (4, ["<eos>", "cat", "the"]), (100, None)])
def test_rare_words_become_unknown(size: int, kept: list[str] | None):
    every = tokenize(TRAIN, VALIDATION, TEST, name="tale")
    text = tokenize(TRAIN, VALIDATION, TEST, name="tale", vocabulary=size)
    assert text.vocabulary == ("<unk>", *kept) if kept else every.vocabulary
    for ids, all_ids in ((text.train, every.train), (text.validation, every.validation), (text.test, every.test)):
        np.testing.assert_array_equal(ids, np.where(all_ids < size, all_ids, 0))


def test_characters():
    text = tokenize("abba, 日本\n", "cab\n", "\U0001f600b", name="tale", unit="characters")
    assert text.vocabulary == ("<unk>", "a", "b", "\n", " ", ",", "日", "本")
    assert text.train.tolist() == [1, 2, 2, 1, 5, 4, 6, 7, 3] and text.decode(text.train) == "abba, 日本\n"
    assert text.validation.tolist() == [0, 1, 2, 3] and text.test.tolist() == [0, 2]
    assert tokenize("abba", "c", "a", name="tale", unit="characters", vocabulary=2).train.tolist() == [1, 0, 0, 1]


def test_the_vocabulary_is_made_from_the_training_part_alone():
    texts = [tokenize(TRAIN, other, other, name="tale", vocabulary=5) for other in ("zebra " * 9, "gnu")]
    assert texts[0].vocabulary == texts[1].vocabulary
    np.testing.assert_array_equal(texts[0].train, texts[1].train)


def test_a_part_must_hold_something():
    with pytest.raises(ValueError, match=r"The validation part of 'tale' cannot be used: it is int32 \[0\]"):
        tokenize(TRAIN, "", TEST, name="tale", unit="characters")
    with pytest.raises(ValueError, match="its ids run from 0 to 3 where 0 to 1 is expected"):
        ids = np.arange(4, dtype=np.int32)
        Text("tale", "files", "words", ids, ids, ids, ("<unk>", "a"))


@pytest.mark.parametrize("left", [0, 3])
def test_every_token_is_in_one_window_except_the_remainder(left: int):
    train, validation = np.arange(60 + left, dtype=np.int32), np.arange(7, dtype=np.int32)
    dataset = windows(Text("tale", "files", "words", train, validation, validation, ("<unk>",) * 63), 4)
    np.testing.assert_array_equal(dataset.train.images, np.arange(60).reshape(15, 4))
    np.testing.assert_array_equal(dataset.test.images, [[0, 1, 2, 3]])
    assert (dataset.classes, dataset.train.images.dtype) == (63, np.int32)


@pytest.mark.parametrize(
    ("length", "said"),
    [
        (1, "data.length is 1; expected 2 tokens or more"),
        (8, "data.length is 8, but the validation part of tale has 7 tokens; use fewer"),
    ],
)
def test_windows_that_no_text_fills_are_refused(length: int, said: str):
    ids = np.arange(60, dtype=np.int32)
    with pytest.raises(ConfigError, match=said):
        windows(Text("tale", "files", "words", ids, ids[:7], ids, ("<unk>",) * 60), length)


@pytest.mark.parametrize("pattern", ["{}.txt", "wiki.{}.tokens"])
@pytest.mark.parametrize("place", ["data", "cache/sparsejax"])
def test_wikitext_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str, place: str):
    files = {pattern.format(name.removesuffix(".txt")): content for name, content in PARTS.items()}
    put(tmp_path / place / "wikitext-2", files)
    if place == "data":
        monkeypatch.setenv("SPARSEJAX_DATA", str(tmp_path / "data"))
    text = load_text("wikitext-2")
    expected = tokenize(TRAIN, VALIDATION, TEST, name="wikitext-2", source=text.source)
    for field, value in vars(expected).items():
        np.testing.assert_array_equal(getattr(text, field), value)


def test_tiny_shakespeare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    put(tmp_path / "data", {"tinyshakespeare.txt": "abcdefghij" * 9 + "xxxyyyyzzz"})
    monkeypatch.setenv("SPARSEJAX_DATA", str(tmp_path / "data"))
    text = load_text("tinyshakespeare", unit="characters")
    assert [len(part) for part in (text.train, text.validation, text.test)] == [90, 5, 5]
    assert text.vocabulary == ("<unk>", *"abcdefghij") and text.validation.tolist() == [0] * 5


def test_missing_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    said = r"WikiText-2 was looked for in .* is in neither, and .* or download its word-level"
    with pytest.raises(DataMissingError, match=said):
        load_text("wikitext-2")
    with pytest.raises(DataMissingError, match=r"raw\.githubusercontent\.com/karpathy"):
        load_text("tinyshakespeare")
    monkeypatch.setenv("SPARSEJAX_DATA", str(tmp_path / "data"))
    put(tmp_path / "data" / "wikitext-103", {"wiki.valid.tokens": VALIDATION, "wiki.test.tokens": TEST})
    missing = r"Only 2 of WikiText-103's 3 files are in .* \(train.txt or wiki.train.tokens missing\)"
    with pytest.raises(DataMissingError, match=missing):
        load_text("wikitext-103")
    with pytest.raises(DataMissingError, match=r"neither train\.txt nor wiki\.train\.tokens is there"):
        load_text("wikitext-103", source="files")


@pytest.mark.parametrize(("content", "said"), [(b"", "is empty"), (b" \n\n", "is empty"), (b"caf\xe9 x", "at byte 3")])
def test_damaged_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, said: str):
    folder = put(tmp_path / "data" / "wikitext-2", PARTS)
    (folder / "valid.txt").write_bytes(content)
    monkeypatch.setenv("SPARSEJAX_DATA", str(tmp_path / "data"))
    with pytest.raises(DataDamagedError, match=said) as caught:
        load_text("wikitext-2")
    assert str(folder / "valid.txt") in str(caught.value)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"name": "wikitext"}, "no data set 'wikitext'; did you mean wikitext"),
        ({"name": "wikitext-2", "unit": "bytes"}, "unit of the text is 'bytes'; expected 'words' or 'characters'"),
        ({"name": "wikitext-2", "vocabulary": 1}, "vocabulary is 1; expected 2 or more"),
    ],
)
def test_refused_words(words, said: str):
    with pytest.raises(ConfigError, match=said):
        load_text(**words)


def test_real_wikitext_2(real_data: Path, monkeypatch: pytest.MonkeyPatch):
    if not (real_data / "wikitext-2").is_dir():
        pytest.skip(f"put WikiText-2's three files in {real_data / 'wikitext-2'} to run the test on the real text")
    monkeypatch.setenv("SPARSEJAX_DATA", str(real_data))
    text = load_text("wikitext-2")
    # The published sizes.
    assert [len(part) for part in (text.train, text.validation, text.test)] == [2_088_628, 217_646, 245_569]
    assert len(text.vocabulary) == 33_278 and text.vocabulary[:4] == ("<unk>", "the", ",", ".")
    digest = hashlib.sha256("\0".join((text.unit, *text.vocabulary)).encode())
    for ids in (text.train, text.validation, text.test):
        digest.update(f"<i4{ids.shape}".encode() + ids.astype("<i4").tobytes())
    assert digest.hexdigest() == "b73c8826ca8b0faba7ae38f51fe0a17f0423e7dc732c24a687e309bee6c93078"


def test_real_tiny_shakespeare(real_data: Path, monkeypatch: pytest.MonkeyPatch):
    if not (real_data / "tinyshakespeare.txt").is_file():
        pytest.skip(f"put tinyshakespeare.txt in {real_data} to run the test on the real text")
    monkeypatch.setenv("SPARSEJAX_DATA", str(real_data))
    text = load_text("tinyshakespeare", unit="characters")
    assert [len(part) for part in (text.train, text.validation, text.test)] == [1_003_854, 55_770, 55_770]
    assert len(text.vocabulary) == 66  # its 65 characters, and <unk>
    assert text.decode(text.train[:14]) == "First Citizen:" and 0 not in text.validation and 0 not in text.test
