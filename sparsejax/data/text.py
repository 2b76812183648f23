"""Texts as token ids: words or characters, and the shuffled windows that training takes from them."""

import dataclasses
import functools
import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PRNGKeyArray

from sparsejax.data.dataset import Dataset, Split
from sparsejax.data.folders import data_root, user_cache
from sparsejax.data.resident import epoch_order
from sparsejax.errors import ConfigError, DataDamagedError, DataMissingError

Unit = Literal["words", "characters"]

UNKNOWN, END_OF_LINE = "<unk>", "<eos>"

_WIKITEXT = ("{}.txt", "wiki.{}.tokens")
_HOW = (
    "Its word-level form {}-v1 is published at https://huggingface.co/datasets/Salesforce/wikitext; write the lines of "
    "its splits there as train.txt, valid.txt and test.txt."
)


class _Published(NamedTuple):
    """Where a text is: one file, or one for each part under either name; and how to get it."""

    place: str
    names: tuple[str, ...]
    how: str


TEXTS = {
    "wikitext-2": _Published("wikitext-2", _WIKITEXT, _HOW.format("wikitext-2")),
    "wikitext-103": _Published("wikitext-103", _WIKITEXT, _HOW.format("wikitext-103")),
    "tinyshakespeare": _Published(
        "tinyshakespeare.txt",
        (),
        "Download https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt (1.1 MB) "
        "and put it there under that name.",
    ),
}


@dataclass(frozen=True, eq=False)
class Text:
    """A text in memory as token ids, with where it came from.

    Args:
      name: what the text is ("wikitext-2", "wikitext-103", "tinyshakespeare", or a name of your own).
      source: how it was reached ("files").
      unit: what a token is: "words" or "characters".
      train: token ids int32 [n] of the training part.
      validation: likewise.
      test: likewise.
      vocabulary: what each id stands for; entry 0 is "<unk>", the others come by falling frequency.

    Raises:
      ValueError: a part is not int32 [n], is empty, or has an id outside the vocabulary.
    """

    name: str
    source: str
    unit: Unit
    train: np.ndarray = dataclasses.field(repr=False)
    validation: np.ndarray = dataclasses.field(repr=False)
    test: np.ndarray = dataclasses.field(repr=False)
    vocabulary: tuple[str, ...] = dataclasses.field(repr=False)

    def __post_init__(self) -> None:
        for word in ("train", "validation", "test"):
            ids, last = getattr(self, word), len(self.vocabulary) - 1
            if ids.dtype != np.int32 or ids.ndim != 1 or not ids.size:
                problem = f"it is {ids.dtype} {list(ids.shape)} where int32 [n], not empty, is expected"
            elif ids.min() < 0 or ids.max() > last:
                problem = f"its ids run from {ids.min()} to {ids.max()} where 0 to {last} is expected"
            else:
                continue
            raise ValueError(f"The {word} part of {self.name!r} cannot be used: {problem}.")

    @functools.cached_property
    def fingerprint(self) -> str:
        """Names the tokens by the SHA-256 of the vocabulary and of all arrays' shapes and bytes (64 hex digits)."""
        digest = hashlib.sha256("\0".join((self.unit, *self.vocabulary)).encode())
        for ids in (self.train, self.validation, self.test):
            digest.update(f"<i4{ids.shape}".encode())
            digest.update(np.ascontiguousarray(ids, "<i4").data)
        return digest.hexdigest()

    def written(self, ids: Iterable[int]) -> str:
        """Returns token ids as a text to read."""
        return (" " if self.unit == "words" else "").join(self.vocabulary[index] for index in ids)


def load_text(name: str, *, unit: Unit = "words", vocabulary: int | None = None) -> Text:
    """Returns a text from $SPARSEJAX_DATA or, where that does not have it, from the user's cache.

    WikiText is in the folder of its name, as train.txt, valid.txt and test.txt or as wiki.train.tokens and so on.
    Tiny Shakespeare is one file, tinyshakespeare.txt: its first 90 % of characters are the training part, 5 % each the
    validation and the test part, as in TFDS.

    Args:
      name: "wikitext-2", "wikitext-103" or "tinyshakespeare".
      unit: see `tokenised`.
      vocabulary: see `tokenised`.

    Raises:
      ConfigError: an unknown name or unit, or a vocabulary below 2.
      DataMissingError: the text, or a part of it, is not there, or $SPARSEJAX_DATA names no folder.
      DataDamagedError: a file is empty or is not UTF-8.

    References:
      Merity et al., Pointer Sentinel Mixture Models, 2016; Karpathy, The Unreasonable Effectiveness of Recurrent
      Neural Networks, 2015.
    """
    if name not in TEXTS:
        raise ConfigError(f"There is no text {name!r}; there are {', '.join(TEXTS)}.")
    _check(unit, vocabulary)
    text = TEXTS[name]
    root = data_root()
    places = [folder / text.place for folder in ([root] if root else []) + [user_cache().parent]]
    place = next((place for place in places if place.exists()), None)
    if place is None:
        raise DataMissingError(
            f"{name} was looked for in $SPARSEJAX_DATA/{text.place} and {places[-1]}, and is in neither. {text.how}"
        )
    if text.names:
        train, validation, test = (_content(_part(name, place, part)) for part in ("train", "valid", "test"))
    else:
        content = _content(place)
        start = int(len(content) * 0.9)
        middle = start + (len(content) - start) // 2
        train, validation, test = content[:start], content[start:middle], content[middle:]
    return tokenised(train, validation, test, name=name, unit=unit, vocabulary=vocabulary)


def tokenised(
    train: str,
    validation: str,
    test: str,
    *,
    name: str,
    source: str = "files",
    unit: Unit = "words",
    vocabulary: int | None = None,
) -> Text:
    """Turns three texts into token ids of one vocabulary, which is made from the training part alone.

    Args:
      train: the training part.
      validation: the validation part.
      test: the test part.
      name: of the text.
      source: the word the Text carries.
      unit: "words", which white space separates, with the token "<eos>" at the end of every line; or "characters".
      vocabulary: size of the vocabulary. It holds "<unk>" and the most frequent tokens, of equally frequent ones those
        that sort first; every other token becomes "<unk>". None keeps all tokens of the training part.

    Raises:
      ConfigError: an unknown unit, or a vocabulary below 2.
      ValueError: a part is empty.
    """
    _check(unit, vocabulary)
    if unit == "words":
        counts = Counter(_words(train))
    else:
        points, numbers = np.unique(_code_points(train), return_counts=True)
        counts = {chr(point): int(number) for point, number in zip(points, numbers, strict=True)}
    known = sorted(counts.keys() - {UNKNOWN}, key=lambda token: (-counts[token], token))
    entries = (UNKNOWN, *known[: None if vocabulary is None else vocabulary - 1])
    index = {token: position for position, token in enumerate(entries)}
    ids = _word_ids if unit == "words" else _character_ids
    return Text(name, source, unit, ids(train, index), ids(validation, index), ids(test, index), entries)


def windows(text: Text, length: int) -> Dataset:
    """Cuts a text into windows that do not overlap, for training, and its validation part likewise, as the test split.

    Args:
      text: tokens.
      length: of a window; what is left over at the end is dropped.

    Returns:
      A Dataset whose images are token ids int32 [n, length].

    Raises:
      ConfigError: a part is shorter than a window, or the length is below 2.
    """

    def cut(tokens: np.ndarray, word: str) -> Split:
        count = len(tokens) // length
        if count < 1:
            raise ConfigError(
                f"data.length is {length}, but the {word} part of {text.name} has {len(tokens)} tokens; take fewer."
            )
        return Split(tokens[: count * length].reshape(count, length), np.arange(count, dtype=np.int32))

    if length < 2:
        raise ConfigError(f"data.length is {length}; expected 2 tokens or more, for there must be a next one.")
    parts = cut(text.train, "training"), cut(text.validation, "validation")
    return Dataset(text.name, text.source, *parts, classes=len(text.vocabulary), mean=(0.0,), std=(1.0,))


def token_batches(
    key: PRNGKeyArray, epoch: Int[Array, ""], tokens: int, *, length: int, batch_size: int
) -> Int[Array, "steps batch"]:
    """Returns where each window of every batch of an epoch starts, shuffled by the key and the epoch's number.

    A text is cut into windows that do not overlap; less than a window at its end is left out. Every window comes once,
    and the last batch is filled up with the first windows of the same order. `token_windows` takes a row of the
    result; `key` and `epoch` may be traced.

    Args:
      key: one PRNG key.
      epoch: number of the epoch.
      tokens: number of tokens in the text.
      length: tokens of a window.
      batch_size: windows at a time.

    Raises:
      ConfigError: the length is below 1, or there are fewer windows than a batch takes.
    """
    windows = tokens // length if length >= 1 else 0
    if not 1 <= batch_size <= windows:
        raise ConfigError(
            f"The window length is {length} and the batch size {batch_size}, but {tokens} tokens make {windows} such "
            f"windows; expected positive numbers whose product is {tokens} or less. Take shorter windows, smaller "
            f"batches or more text."
        )
    return epoch_order(key, epoch, windows, batch_size) * length


def token_windows(
    tokens: Int[Array, "tokens"], starts: Int[Array, "batch"], *, length: int
) -> Int[Array, "batch length"]:
    """Returns the windows of a text that start at the given places.

    Args:
      tokens: the text on the device `[tokens]`, passed to a compiled function as an argument.
      starts: places `[batch]`, a row of `token_batches`.
      length: tokens of a window.
    """
    return tokens[starts[:, None] + jnp.arange(length, dtype=starts.dtype)[None]]


def _check(unit: str, vocabulary: int | None) -> None:
    """Refuses an unknown unit and a vocabulary that would hold nothing but "<unk>"."""
    if unit not in ("words", "characters"):
        raise ConfigError(f"The unit of the text is {unit!r}; expected 'words' or 'characters'.")
    if vocabulary is not None and vocabulary < 2:
        raise ConfigError(f"The vocabulary is {vocabulary}; expected 2 or more ({UNKNOWN} is one), or None for all.")


def _part(name: str, folder: Path, part: str) -> Path:
    """Returns the file of one part."""
    candidates = [folder / pattern.format(part) for pattern in TEXTS[name].names]
    for path in candidates:
        if path.is_file():
            return path
    said = " nor ".join(path.name for path in candidates)
    other = " The text wikitext-2 is smaller, and written alike." if name == "wikitext-103" else ""
    raise DataMissingError(f"{name} is in {folder}, but neither {said} is there. {TEXTS[name].how}{other}")


def _content(path: str | os.PathLike[str]) -> str:
    """Reads a UTF-8 file."""
    try:
        content = Path(path).read_bytes().decode()
    except OSError as error:
        raise DataMissingError(
            f"The text {path} cannot be read: {error.strerror}. Put it there or name another folder."
        ) from error
    except UnicodeDecodeError as error:
        raise DataDamagedError(
            f"The text {path} is not UTF-8: {error.reason} at byte {error.start}. Fetch it again, or convert it."
        ) from error
    if not content.strip():
        raise DataDamagedError(f"The text {path} is empty. Fetch it again.")
    return content


def _words(text: str) -> Iterator[str]:
    """Yields the words of a text and the end of every line; nothing follows the last line break."""
    lines = text.split("\n")
    for line in lines if lines[-1] else lines[:-1]:
        yield from line.split()
        yield END_OF_LINE


def _word_ids(text: str, index: dict[str, int]) -> np.ndarray:
    """Returns the id of every word [n]."""
    return np.fromiter((index.get(word, 0) for word in _words(text)), np.int32)


def _code_points(text: str) -> np.ndarray:
    """Returns every character's number [n]."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


def _character_ids(text: str, index: dict[str, int]) -> np.ndarray:
    """Returns the id of every character [n]."""
    ids = np.zeros(0x110000, np.int32)
    for token, position in index.items():
        if token != UNKNOWN:
            ids[ord(token)] = position
    return ids[_code_points(text)]
