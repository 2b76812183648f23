"""Texts as token ids: words or characters, and the windows that training takes from them."""

import dataclasses
import functools
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from sparsejax import terminal
from sparsejax.data.dataset import Dataset, Split
from sparsejax.data.download import Download
from sparsejax.data.folders import read_bytes
from sparsejax.data.registry import Entry, Say, entry, obtain
from sparsejax.errors import ConfigError, DataDamagedError, DataMissingError

Unit = Literal["words", "characters"]

UNKNOWN, END_OF_LINE = "<unk>", "<eos>"

_FILES = ("{}.txt", "wiki.{}.tokens")
_HOW = (
    "Download its word-level form {0}-v1 (https://huggingface.co/datasets/Salesforce/wikitext) and write the lines of "
    "its splits to train.txt, valid.txt and test.txt in $SPARSEJAX_DATA/{0}."
)


@dataclass(frozen=True, eq=False)
class Text:
    """A text in memory as token ids, with where it came from.

    Args:
      name: of the text ("wikitext-2", "wikitext-103", "tinyshakespeare", or your own name).
      source: where it came from ("files").
      unit: what a token is: "words" or "characters".
      train: token ids int32 [n] of the training part.
      validation: the same for the validation part.
      test: the same for the test part.
      vocabulary: token of each id; entry 0 is "<unk>", the others are sorted by decreasing frequency.

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

    def decode(self, ids: Iterable[int]) -> str:
        """Returns token ids as readable text."""
        return (" " if self.unit == "words" else "").join(self.vocabulary[index] for index in ids)


def load_text(
    name: str, *, source: str = "auto", unit: Unit = "words", vocabulary: int | None = None, say: Say = terminal.say
) -> Text:
    """Returns a text, from the source named or from the first location that has it.

    Args:
      name: "wikitext-2", "wikitext-103" or "tinyshakespeare".
      source: as `sparsejax.data.load`.
      unit: see `tokenize`.
      vocabulary: see `tokenize`.
      say: prints messages to the user.

    Raises:
      ConfigError: an unknown name or unit, or a vocabulary below 2.
      DataMissingError: the text, or a part of it, is missing, or $SPARSEJAX_DATA is not a folder.
      DataDamagedError: a file is empty or is not UTF-8.
    """
    found = entry(name, source)
    if found.kind != "tokens" or not found.place:
        raise ConfigError(f"The data set {name!r} is not a text, but {found.kind}. Read it with sparsejax.data.load.")
    _check(unit, vocabulary)
    return obtain(found, read_text, source, say, {"name": name, "unit": unit, "vocabulary": vocabulary})


def read_text(
    path: Path, *, name: str, source: str = "files", unit: Unit = "words", vocabulary: int | None = None
) -> Text:
    """Reads a folder with train.txt, valid.txt and test.txt, or wiki.train.tokens and so on; or one file.

    Of one file, the first 90 % of characters are the training part, 5 % each the validation and the test part, as in
    TFDS.

    Args:
      path: the folder or file.
      name: of the text.
      source: the Text's `source`.
      unit: see `tokenize`.
      vocabulary: see `tokenize`.

    Raises:
      ConfigError: an unknown unit, or a vocabulary below 2.
      DataMissingError: a file is not there.
      DataDamagedError: a file is empty or is not UTF-8.

    References:
      Merity et al., Pointer Sentinel Mixture Models, 2016; Karpathy, The Unreasonable Effectiveness of Recurrent
      Neural Networks, 2015.
    """
    _check(unit, vocabulary)
    if path.is_dir():
        files = [file for file in _parts(path).values() if file is not None]
        missing = [names for names, file in _parts(path).items() if file is None]
        if missing:
            raise DataMissingError(
                f"{name} is in {path}, but neither {missing[0].replace(' or ', ' nor ')} is there. {_HOW.format(name)}"
            )
        train, validation, test = map(_content, files)
    else:
        content = _content(path)
        start = int(len(content) * 0.9)
        middle = start + (len(content) - start) // 2
        train, validation, test = content[:start], content[start:middle], content[middle:]
    return tokenize(train, validation, test, name=name, source=source, unit=unit, vocabulary=vocabulary)


def read_windows(
    path: Path,
    *,
    name: str,
    source: str = "files",
    unit: Unit = "words",
    vocabulary: int | None = None,
    length: int = 128,
) -> Dataset:
    """Reads a text as windows of tokens; see `read_text` and `windows`."""
    return windows(read_text(path, name=name, source=source, unit=unit, vocabulary=vocabulary), length)


def tokenize(
    train: str,
    validation: str,
    test: str,
    *,
    name: str,
    source: str = "files",
    unit: Unit = "words",
    vocabulary: int | None = None,
) -> Text:
    """Turns three texts into token ids of one vocabulary, which is built from the training part only.

    Args:
      train: the training part.
      validation: the validation part.
      test: the test part.
      name: of the text.
      source: the Text's `source`.
      unit: "words", which white space separates, with the token "<eos>" at the end of every line; or "characters".
      vocabulary: size of the vocabulary. It contains "<unk>" and the most frequent tokens (ties in sorted order); every
        other token becomes "<unk>". None keeps all tokens of the training part.

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
    """Cuts a text into windows that do not overlap. Its validation part becomes the test split.

    Args:
      text: tokens.
      length: of a window; a remainder at the end is dropped.

    Returns:
      A Dataset whose images are token ids int32 [n, length].

    Raises:
      ConfigError: a part is shorter than a window, or the length is below 2.
    """

    def cut(tokens: np.ndarray, word: str) -> Split:
        count = len(tokens) // length
        if count < 1:
            raise ConfigError(
                f"data.length is {length}, but the {word} part of {text.name} has {len(tokens)} tokens; use fewer."
            )
        return Split(tokens[: count * length].reshape(count, length), np.arange(count, dtype=np.int32))

    if length < 2:
        raise ConfigError(f"data.length is {length}; expected 2 tokens or more, one to predict the next from.")
    parts = cut(text.train, "training"), cut(text.validation, "validation")
    return Dataset(text.name, text.source, *parts, classes=len(text.vocabulary), mean=(0.0,), std=(1.0,))


def _check(unit: str, vocabulary: int | None) -> None:
    """Checks the unit, and that the vocabulary has more than "<unk>"."""
    if unit not in ("words", "characters"):
        raise ConfigError(f"The unit of the text is {unit!r}; expected 'words' or 'characters'.")
    if vocabulary is not None and vocabulary < 2:
        raise ConfigError(f"The vocabulary is {vocabulary}; expected 2 or more ({UNKNOWN} is one), or None for all.")


def _parts(folder: Path) -> dict[str, Path | None]:
    """Returns where a folder holds each part, by its possible names."""
    names = [[form.format(part) for form in _FILES] for part in ("train", "valid", "test")]
    return {" or ".join(some): next((folder / name for name in some if (folder / name).is_file()), None)
            for some in names}  # fmt: skip


def _content(path: str | os.PathLike[str]) -> str:
    try:
        content = read_bytes(Path(path), "text").decode()
    except UnicodeDecodeError as error:
        raise DataDamagedError(
            f"The text {path} is not UTF-8: {error.reason} at byte {error.start}. Download it again, or convert it."
        ) from error
    if not content.strip():
        raise DataDamagedError(f"The text {path} is empty. Download it again.")
    return content


def _words(text: str) -> Iterator[str]:
    """Yields the words of a text and the end of every line; nothing follows the last line break."""
    lines = text.split("\n")
    for line in lines if lines[-1] else lines[:-1]:
        yield from line.split()
        yield END_OF_LINE


def _word_ids(text: str, index: dict[str, int]) -> np.ndarray:
    return np.fromiter((index.get(word, 0) for word in _words(text)), np.int32)


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


def _character_ids(text: str, index: dict[str, int]) -> np.ndarray:
    ids = np.zeros(0x110000, np.int32)
    for token, position in index.items():
        if token != UNKNOWN:
            ids[ord(token)] = position
    return ids[_code_points(text)]


for _place, (_name, _title, _md5, _size) in enumerate(
    (
        ("wikitext-2", "WikiText-2", "542ccefacc6c27f945fb54453812b3cd", "4.5 MB"),
        ("wikitext-103", "WikiText-103", "9ddaacaf6af0710eda8c456decff7832", "190 MB"),
    )
):
    Entry(
        name=_name,
        title=_title,
        kind="tokens",
        place=_name,
        read=functools.partial(read_windows, name=_name),
        files=_parts,
        download=Download(
            ("https://wikitext.smerity.com/", "https://s3.amazonaws.com/research.metamind.io/wikitext/"),
            {f"{_name}-v1.zip": _md5},
            _size,
        ),
        how=_HOW.format(_name),
    ).add(7 + _place)
Entry(
    name="tinyshakespeare",
    title="Tiny Shakespeare",
    kind="tokens",
    place="tinyshakespeare.txt",
    read=functools.partial(read_windows, name="tinyshakespeare"),
    download=Download(
        ("https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/",),
        {"input.txt": "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"},
        "1.1 MB",
    ),
    how="Download https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt and "
    "put it at $SPARSEJAX_DATA/tinyshakespeare.txt.",
).add(9)
