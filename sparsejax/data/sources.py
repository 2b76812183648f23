"""Which data set comes from where: the one door, load(name, source)."""

import difflib
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from sparsejax.data.arrays import read_arrays
from sparsejax.data.cifar import CIFAR10_FILES, CIFAR10_FOLDER, HOW_TO_GET, found_batches, read_cifar10_folder
from sparsejax.data.dataset import Dataset
from sparsejax.data.digits import read_digits
from sparsejax.data.download import download_mnist
from sparsejax.data.folders import data_root, download_folder, subfolder, tfds_folder, user_cache
from sparsejax.data.idx import MNIST_FILES, found_files, read_mnist_folder
from sparsejax.data.latents import HOW_TO_MAKE, LATENTS_FILE, read_latents
from sparsejax.data.speech import SPEECH, load_speech
from sparsejax.data.tfds_source import is_prepared, read_tfds
from sparsejax.errors import ConfigError, DataMissingError

Say = Callable[[str], None]

# The sources that each data set has, besides "auto".
SOURCES = {
    "mnist": ("files", "download", "tfds", "digits"),
    "fashion_mnist": ("files", "tfds"),
    "digits": ("digits",),
    "cifar10": ("files",),
    "cifar10_latents": ("files",),
    "speech_commands": ("files",),
    "spoken_digits": ("files",),
    "arrays": ("files",),
}
DEBIAN_FASHION = Path("/usr/share/datasets/fashion-mnist")

_DIGITS = (
    "these are the 1,797 handwritten digits that scikit-learn ships, enlarged to 28 × 28; figures are not "
    "comparable with MNIST's"
)


def load(name: str, source: str = "auto", *, say: Say = print, **speech: Any) -> Dataset:
    """Returns a data set, from the source named or from the first that has it.

    "auto" looks for MNIST in $SPARSEJAX_DATA/mnist, in the user's cache, in a prepared TFDS folder, then
    downloads it; when the network does not answer within 5 s it returns scikit-learn's digits, whose name,
    source and notice say so. A damaged file is an error wherever it is found.

    Args:
      name: "mnist", "fashion_mnist", "digits", "cifar10", "cifar10_latents", "arrays" (one's own), or of speech (all
        the words there are, and silence) "speech_commands" or "spoken_digits".
      source: "auto", "files" ($SPARSEJAX_DATA/NAME, for CIFAR-10 its own cifar-10-batches-py), "download" (cached),
        "tfds" or "digits".
      say: takes what a person should read: a download, a substitute's notice.
      speech: of spoken words, what `load_speech` takes besides the name.

    Raises:
      ConfigError: an unknown name or source, or a source that this data set does not have.
      DataMissingError: the source has no such data, or $SPARSEJAX_DATA names no folder.
      DataDamagedError: a file is damaged.
    """
    check_choice(name, source)
    if name == "digits" or source == "digits":
        dataset = read_digits(notice="" if name == "digits" else f"As asked for by data.source digits, {_DIGITS}.")
    elif source == "tfds":
        dataset = read_tfds(name)
    elif name == "fashion_mnist":
        dataset = _fashion_mnist(source)
    elif name in SPEECH:
        dataset = load_speech(name, **speech)
    elif name == "cifar10":
        dataset = _cifar10(source, say)
    elif name == "cifar10_latents":
        dataset = _cifar10_latents(source)
    elif name == "arrays":
        dataset = read_arrays(subfolder("arrays"))
    elif source == "files":
        dataset = read_mnist_folder(subfolder("mnist"))
    elif source == "download":
        dataset = _downloaded(say)
    else:
        dataset = _mnist_from_anywhere(say)
    if dataset.notice:
        say(dataset.notice)
    return dataset


def load_mnist(*, say: Say = print) -> Dataset:
    """Returns MNIST's four files as a Dataset: those there are, else downloaded; never a substitute.

    Raises:
      DataMissingError: they are nowhere and cannot be downloaded.
      DataDamagedError: a file is damaged.
    """
    return _mnist_at_hand(say) or _downloaded(say)


def check_choice(name: str, source: str = "auto") -> None:
    """Refuses an unknown data set or source, before anything is read.

    Raises:
      ConfigError: with the closest valid word and the list of them.
    """
    if name not in SOURCES:
        raise ConfigError(f"There is no data set {name!r}{_closest(name, SOURCES)}; there are {', '.join(SOURCES)}.")
    every = ("auto", *dict.fromkeys(word for words in SOURCES.values() for word in words))
    if source not in every:
        raise ConfigError(f"There is no data source {source!r}{_closest(source, every)}; there are {', '.join(every)}.")
    if source not in ("auto", *SOURCES[name]):
        raise ConfigError(
            f"The data set {name!r} cannot come from the source {source!r}; its sources are auto, "
            f"{', '.join(SOURCES[name])}."
        )


def _mnist_from_anywhere(say: Say) -> Dataset:
    """Returns MNIST from the first place that has it, or scikit-learn's digits with a notice that says so."""
    dataset = _mnist_at_hand(say)
    if dataset is not None:
        return dataset
    folder = tfds_folder()
    try:
        if is_prepared("mnist", folder):
            return read_tfds("mnist", folder)
    except DataMissingError as error:  # another format, or TFDS is not installed
        say(str(error))
    try:
        return _downloaded(say)
    except DataMissingError as error:
        return read_digits(notice=f"MNIST was not found and could not be downloaded: {_DIGITS}. The reason: {error}")


def _mnist_at_hand(say: Say) -> Dataset | None:
    """Returns MNIST from $SPARSEJAX_DATA or from the user's cache, None when neither has all four files."""
    root = data_root()
    dataset = _mnist_if_whole(root / "mnist", "files", say) if root else None
    return dataset or _mnist_if_whole(user_cache(), "download", say)


def _mnist_if_whole(folder: Path, source: str, say: Say) -> Dataset | None:
    """Returns MNIST from a folder, None when one of its files is not there."""
    files = found_files(folder)
    if len(files) == len(MNIST_FILES):
        return read_mnist_folder(folder, source=source)
    if files:
        missing = ", ".join(file for file in MNIST_FILES if file not in files)
        say(f"Only {len(files)} of MNIST's {len(MNIST_FILES)} files are in {folder} ({missing} not): looking on.")
    return None


def _downloaded(say: Say) -> Dataset:
    """Returns MNIST from the download folder, after downloading what it lacks."""
    for folder in (download_folder(), user_cache()):
        if len(found_files(folder)) == len(MNIST_FILES):
            return read_mnist_folder(folder, source="download")
    return read_mnist_folder(download_mnist(say=say), source="download")


def _fashion_mnist(source: str) -> Dataset:
    """Returns Fashion-MNIST from $SPARSEJAX_DATA/fashion_mnist, Debian's package, or (auto) TFDS."""
    root = data_root()
    places = [*([root / "fashion_mnist"] if root else []), DEBIAN_FASHION]
    for folder in places:
        if found_files(folder):
            return read_mnist_folder(folder, name="fashion_mnist", check_md5=False)
    if source == "auto" and is_prepared("fashion_mnist", tfds_folder()):
        return read_tfds("fashion_mnist")
    raise DataMissingError(
        f"Fashion-MNIST was looked for in $SPARSEJAX_DATA/fashion_mnist and {DEBIAN_FASHION}, and is in "
        f"neither. Install Debian's package (apt install dataset-fashion-mnist), or put its four idx files "
        f"in $SPARSEJAX_DATA/fashion_mnist (https://github.com/zalandoresearch/fashion-mnist)."
    )


def _cifar10(source: str, say: Say) -> Dataset:
    """Returns CIFAR-10 from $SPARSEJAX_DATA/cifar-10-batches-py or (auto) from the user's cache."""
    if source == "files":
        return read_cifar10_folder(subfolder(CIFAR10_FOLDER))
    root = data_root()
    for folder in [*([root / CIFAR10_FOLDER] if root else []), cifar10_cache()]:
        files = found_batches(folder)
        if len(files) == len(CIFAR10_FILES):
            return read_cifar10_folder(folder)
        if files:
            missing = ", ".join(file for file in CIFAR10_FILES if file not in files)
            say(f"Only {len(files)} of CIFAR-10's {len(CIFAR10_FILES)} files are in {folder} ({missing} not).")
    raise DataMissingError(
        f"CIFAR-10 was looked for in $SPARSEJAX_DATA/{CIFAR10_FOLDER} and {cifar10_cache()}, and is in neither. "
        f"{HOW_TO_GET}"
    )


def cifar10_cache() -> Path:
    """Returns where CIFAR-10 may be besides $SPARSEJAX_DATA, there or not."""
    return user_cache().parent / CIFAR10_FOLDER


def _cifar10_latents(source: str) -> Dataset:
    """Returns CIFAR-10's latents from $SPARSEJAX_DATA or (auto) from the user's cache."""
    if source == "files":
        return read_latents(subfolder(LATENTS_FILE.parent.name) / LATENTS_FILE.name)
    path = found_latents()
    if path is None:
        raise DataMissingError(
            f"CIFAR-10's latents were looked for in $SPARSEJAX_DATA/{LATENTS_FILE} and {latents_cache()}, and are in "
            f"neither. {HOW_TO_MAKE}"
        )
    return read_latents(path)


def found_latents() -> Path | None:
    """Returns the file of CIFAR-10's latents in $SPARSEJAX_DATA or in the user's cache, None when there is none."""
    root = data_root()
    places = [*([root / LATENTS_FILE] if root else []), latents_cache()]
    return next((path for path in places if path.is_file()), None)


def latents_cache() -> Path:
    """Returns where CIFAR-10's latents may be besides $SPARSEJAX_DATA, there or not."""
    return user_cache().parent / LATENTS_FILE


def latents_destination() -> Path:
    """Returns where CIFAR-10's latents are written to: in $SPARSEJAX_DATA if that is writable, else in the cache."""
    root = data_root()
    if root is not None:
        path = root / LATENTS_FILE
        if os.access(path.parent if path.parent.exists() else root, os.W_OK):
            return path
    return latents_cache()


def _closest(word: str, valid: Iterable[str]) -> str:
    """Returns a question after the closest valid word, "" when none is close."""
    close = difflib.get_close_matches(word.lower(), list(valid), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""
