"""Spoken words: Google Speech Commands, the Free Spoken Digit Dataset, and any folder of one-second clips by word."""

import functools
import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from sparsejax.data.dataset import Dataset, Split
from sparsejax.data.download import Download
from sparsejax.data.folders import read_bytes
from sparsejax.data.registry import Entry
from sparsejax.data.wav import read_clip
from sparsejax.errors import ConfigError, DataDamagedError, DataMissingError, shorten

RATE = SAMPLES = 16_000
"""Samples a second, and of a clip: it lasts one second."""
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

Part = Literal["train", "validation", "test"]
Parts = dict[Part, list[tuple[Path, str]]]  # part -> (file, word) of its clips


_HOW_COMMANDS = (
    "Download http://download.tensorflow.org/data/speech_commands_v0.01.tar.gz (1.5 GB) and unpack it to "
    "$SPARSEJAX_DATA/speech_commands."
)
_HOW_DIGITS = (
    "Copy the recordings of https://github.com/Jakobovski/free-spoken-digit-dataset to $SPARSEJAX_DATA/spoken_digits."
)


def read_speech(
    folder: str | os.PathLike[str],
    *,
    name: str = "speech_commands",
    words: Sequence[str] | None = None,
    silence: float = 0.1,
    held_out: Literal["validation", "test"] = "test",
    convert: bool | None = None,
    source: str = "files",
) -> Dataset:
    """Reads a folder of clips as waveforms of one second at 16 kHz, padded with zeros or truncated.

    Speech Commands, or any folder that has one folder of WAV files for each word, is split by testing_list.txt and
    validation_list.txt if they are next to the words' folders, otherwise by the rule behind those lists (`part_of`).
    The Free Spoken Digit Dataset is one folder of files DIGIT_SPEAKER_NUMBER.wav, its test part those numbered 0 to 4.

    Args:
      folder: contains the words' folders, or the files.
      name: the data set's name in reports.
      words: the classes, in the order of their labels; None for all available words, the digits first.
      silence: silent clips to add to the training part, as a fraction of its size; they form an additional last class.
      held_out: the part for evaluation; if the test part is empty, the validation part, with a notice.
      convert: mix and resample clips of several channels or another rate; None to do so only for spoken digits, which
        have another rate.
      source: the Dataset's `source`.

    Raises:
      ConfigError: silence is negative, or a clip needs conversion.
      DataMissingError: the folder, a word's folder, or a part is missing.
      DataDamagedError: a clip or a list is damaged.

    References:
      Warden, Speech Commands: A Dataset for Limited-Vocabulary Speech Recognition, 2018; Ahmad & Scheinkman, How Can We
      Be So Dense?, 2019, section 4.2: its code adds 10 % of silence (zeros) in training and none to the test.
    """
    if not silence >= 0:
        raise ConfigError(f"The fraction of silence is {silence}; expected 0 or more.")
    folder = Path(folder)
    digits = next(folder.glob("*.wav"), None) is not None
    find, how = (_spoken_digits, _HOW_DIGITS) if digits else (_word_folders, _HOW_COMMANDS)
    parts = find(folder, words)
    present = {word for clips in parts.values() for _, word in clips}
    classes = tuple(words) if words else (*(w for w in DIGITS if w in present), *sorted(present - {*DIGITS}))
    convert = digits if convert is None else convert
    substitute = held_out == "test" and not parts["test"]
    evaluated: Part = "validation" if substitute else held_out
    for part in ("train", evaluated):
        if not parts[part]:
            raise DataMissingError(f"{folder} has no clips for the {part} part of {name}. {how}")
    train, test = (_read(parts[part], classes, convert) for part in ("train", evaluated))
    quiet = round(silence * len(train.labels))
    if quiet:
        train = Split(
            np.concatenate([train.images, np.zeros((quiet, SAMPLES), np.int16)]),
            np.concatenate([train.labels, np.full(quiet, len(classes), np.int32)]),
        )
    count = len(classes) + bool(quiet)
    notice = _notice(classes, train, test, substitute) if set(classes) != set(DIGITS) or substitute else ""
    named = (*classes, "silence")[:count]
    return Dataset(name, source, train, test, count, (0.0,), (1.0,), notice, named)


def part_of(file: str) -> Part:
    """Returns the part of a clip by its name: 80 % train, 10 % validate, 10 % test; each speaker is in one part only.

    References:
      Warden, 2018, section 6: the SHA-1 of the name without "_nohash_" and what follows, modulo 2^27, in per cent.
    """
    speaker = re.sub(r"_nohash_.*$", "", Path(file).name)
    most = 2**27 - 1
    percent = int(hashlib.sha1(speaker.encode()).hexdigest(), 16) % (most + 1) * (100 / most)
    return "validation" if percent < 10 else "test" if percent < 20 else "train"


def _word_folders(folder: Path, words: Sequence[str] | None) -> Parts:
    """Finds the clips of Speech Commands."""
    if not folder.is_dir():
        raise DataMissingError(f"There is no folder {folder}. {_HOW_COMMANDS}")
    there = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(("_", ".")))
    missing = [word for word in words or () if word not in there]
    if missing or not there:
        raise DataMissingError(
            f"{folder} has no folder for {', '.join(missing) or 'any word'}; it has {', '.join(there) or 'none'}. Use "
            f"available words (--data.words), or all of them (--data.words None). "
            f"{_HOW_COMMANDS}"
        )
    clips = {
        f"{word}/{path.name}": (path, word) for word in words or there for path in sorted((folder / word).glob("*.wav"))
    }
    lists = {part: folder / f"{short}_list.txt" for part, short in (("validation", "validation"), ("test", "testing"))}
    if not any(path.is_file() for path in lists.values()):
        return _group((part_of(name), clip) for name, clip in clips.items())
    listed = {}
    for part, path in lists.items():
        if not path.is_file():
            raise DataDamagedError(f"{path} is missing, but the other list exists. Download it, or remove both.")
        listed |= dict.fromkeys(read_bytes(path, "list").decode(errors="replace").split(), part)
    lost = [name for name in listed if name not in clips and name.partition("/")[0] in (words or there)]
    if lost:
        raise DataDamagedError(
            f"{folder} lacks {len(lost)} clips that its lists name, such as {shorten(lost[0])}. Unpack the data set "
            "again."
        )
    return _group((listed.get(name, "train"), clip) for name, clip in clips.items())


def _spoken_digits(folder: Path, words: Sequence[str] | None) -> Parts:
    """Finds the clips of the Free Spoken Digit Dataset."""
    clips = []
    for path in sorted(folder.glob("*.wav")):
        found = re.fullmatch(r"([0-9])_[^_]+_([0-9]+)", path.stem)
        if not found:
            raise DataDamagedError(f"{path} is not named DIGIT_SPEAKER_NUMBER.wav. Rename or remove it.")
        word = DIGITS[int(found[1])]
        if words is None or word in words:
            clips.append(("test" if int(found[2]) < 5 else "train", (path, word)))
    missing = set(words or ()) - {word for _, (_, word) in clips}
    if missing or not clips:
        raise DataMissingError(f"{folder} has no clips of {', '.join(sorted(missing)) or 'any digit'}. {_HOW_DIGITS}")
    return _group(clips)


def _group(clips) -> Parts:
    parts: Parts = {"train": [], "validation": [], "test": []}
    for part, clip in clips:
        parts[part].append(clip)
    return parts


def _read(clips: Sequence[tuple[Path, str]], classes: Sequence[str], convert: bool) -> Split:
    """Reads clips, each truncated or padded with zeros to one second."""
    waveforms = np.zeros((len(clips), SAMPLES), np.int16)
    for row, (path, _) in zip(waveforms, clips, strict=True):
        clip = read_clip(path, rate=RATE, convert=convert)[:SAMPLES]
        row[: len(clip)] = clip
    labels = [classes.index(word) for _, word in clips]
    # Shuffled once, so that the first examples (--data.train-examples) are from all words.
    order = np.random.default_rng(0).permutation(len(clips))
    return Split(waveforms[order], np.asarray(labels, np.int32)[order])


def _notice(classes: Sequence[str], train: Split, test: Split, substitute: bool) -> str:
    """Returns a description of the clips, unless they are the ten digits with the test part."""
    spoken = int((train.labels < len(classes)).sum())
    part = "and, from the validation part because the test part is empty," if substitute else "and"
    return (
        f"these are the words {', '.join(classes)}: {spoken:,} clips to train on {part} {len(test.labels):,} to "
        "evaluate; figures are not comparable with those of the data set's ten digits and test part."
    )


Entry(
    name="speech_commands",
    title="Speech Commands",
    kind="clips",
    place="speech_commands",
    read=functools.partial(read_speech, name="speech_commands"),
    download=Download(
        (
            "https://storage.googleapis.com/download.tensorflow.org/data/",
            "http://download.tensorflow.org/data/",
        ),
        {"speech_commands_v0.01.tar.gz": "743935421bb51cccdb6bdd152e04c5c70274e935c82119ad7faeec31780d811d"},
        "1.5 GB",
        proof="testing_list.txt",
    ),
    how=_HOW_COMMANDS,
).add(10)
Entry(
    name="spoken_digits",
    title="the Free Spoken Digit Dataset",
    kind="clips",
    place="spoken_digits",
    read=functools.partial(read_speech, name="spoken_digits"),
    how=_HOW_DIGITS,
).add(11)
