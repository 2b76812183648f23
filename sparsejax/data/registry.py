"""The registry of data sets: what each is, how it is read, and its locations in search order."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from sparsejax import terminal
from sparsejax.data.arrays import from_arrays, read_arrays, read_path
from sparsejax.data.dataset import Dataset
from sparsejax.data.download import Download, download, is_whole
from sparsejax.data.folders import data_root, download_folder, tfds_folder, user_cache
from sparsejax.data.tfds_source import is_prepared, read_tfds
from sparsejax.errors import ConfigError, DataMissingError, blame
from sparsejax.registry import Registered

Say = Callable[[str], None]
Kind = Literal["images", "vectors", "tokens", "clips"]
F = TypeVar("F", bound=Callable[..., Any])

LOCATIONS = ("files", "tfds", "download", "digits")
"""Sources of data, in addition to user functions; "digits" are those that scikit-learn ships."""


def find_itself(path: Path) -> dict[str, Path | None]:
    """Finds a data set that is one file, or a folder of any files."""
    return {path.name: path if path.exists() else None}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A data set: read from disk, or returned by a function.

    Args:
      name: its `data.name`.
      title: its name in messages.
      kind: kind of its examples.
      read: `(path, source=...) -> Dataset`; or without a place, `() -> Dataset`, or the arguments of `from_arrays`. Its
        other arguments receive the fields of `DataConfig` of the same name.
      place: file or folder in $SPARSEJAX_DATA and in the user's cache; "" if a function returns it.
      files: its files, by name; None for each missing one.
      elsewhere: other locations.
      tfds: its name in TFDS.
      download: where it can be downloaded.
      substitute: use scikit-learn's digits if it is not found, with a notice.
      how: a sentence on how to get it.
      location: the location of generated data.
    """

    name: str
    title: str
    kind: Kind
    read: Callable[..., Any]
    place: str = ""
    files: Callable[[Path], Mapping[str, Path | None]] = find_itself
    elsewhere: tuple[Path, ...] = ()
    tfds: str = ""
    download: Download | None = None
    substitute: bool = False
    how: str = ""
    location: str = "function"

    @property
    def locations(self) -> tuple[str, ...]:
        """Its locations, in the order in which "auto" tries them."""
        if not self.place:
            return (self.location,)
        has = (True, bool(self.tfds), self.download is not None, self.substitute)
        return tuple(location for location, there in zip(LOCATIONS, has, strict=True) if there)

    @property
    def options(self) -> tuple[str, ...]:
        """The fields of `DataConfig` that its reader takes."""
        return tuple(name for name in inspect.signature(self.read).parameters if name not in ("name", "path", "source"))

    def places(self) -> list[tuple[str, Path]]:
        """Returns the paths that "auto" searches, with the `source` of data found there."""
        if not self.place:
            return []
        root, cached = data_root(), "download" if self.download else "files"
        return [*([("files", root / self.place)] if root else []), (cached, user_cache() / self.place),
                *(("files", path) for path in self.elsewhere)]  # fmt: skip

    def is_whole(self, path: Path) -> bool:
        """Returns whether a path has all of its files."""
        return None not in self.files(path).values()

    def find(self) -> Path | None:
        """Returns the first path that has all of its files."""
        return next((path for _, path in self.places() if self.is_whole(path)), None)

    def add(self, place: float) -> None:
        """Registers a data set of this package."""
        DATA.add(self.name, self, module="sparsejax.data", place=place)


DATA: Registered[Entry] = Registered("data set", "sparsejax.data")


def register(name: str, *, kind: Kind, title: str = "") -> Callable[[F], F]:
    """Register your own data set: `--data.name NAME` then calls the decorated function.

    Args:
      name: its `data.name`.
      kind: kind of its examples: "images", "vectors", "tokens" or "clips".
      title: its name in messages.

    Returns:
      A decorator of a function that returns a `Dataset`, or arrays `(x_train, y_train, x_test, y_test)` as
      `from_arrays` takes them. A parameter with the name of a field of `DataConfig`, such as `length`, receives its
      value.

    Raises:
      ConfigError: the name is already registered, or the kind is unknown.

    Examples:
      >>> import numpy as np
      >>> @register("stripes", kind="vectors")
      ... def stripes():
      ...     x = np.eye(6, dtype=np.float32)
      ...     return x, [0, 0, 0, 1, 1, 1], x, [0, 0, 0, 1, 1, 1]
      >>> load("stripes").classes
      2
    """
    if kind not in Kind.__args__ or name.startswith("tfds/"):
        raise ConfigError(f"The data set {name!r} is of the kind {kind!r}; expected one of {', '.join(Kind.__args__)}, "
                          "and a name that does not begin with tfds/.")  # fmt: skip

    def decorate(function: F) -> F:
        DATA.add(name, Entry(name=name, title=title or name, kind=kind, read=function), module=function.__module__)
        return function

    return decorate


def entry(name: str, source: str = "auto") -> Entry:
    """Returns a data set's entry, before anything is read; `tfds/NAME` is the entry of a prepared TFDS data set.

    Raises:
      ConfigError: there is no data set or source of that name, or this data set is not available from that source.
    """
    if name.startswith("tfds/"):
        name = name.removeprefix("tfds/")

        def make(test_fraction: float | None = None) -> Dataset:
            return read_tfds(name, test_fraction=test_fraction)

        found = Entry(name=f"tfds/{name}", title=name, kind="images", read=make, location="tfds")
    else:
        found = DATA[name]
    if source not in ("auto", *found.locations):
        raise ConfigError(f"The data set {found.name!r} cannot come from the source {source!r}; its sources are auto, "
                          f"{', '.join(found.locations)}.")  # fmt: skip
    return found


def title(name: str, source: str = "") -> str:
    """Returns the name of a data set in messages, registered or not."""
    if name in DATA and (not source or source in ("auto", *DATA[name].locations, "download")):
        return DATA[name].title
    return f"{name} from {source}" if source else name


def load(
    name: str = "mnist",
    source: str = "auto",
    *,
    path: str | Path | None = None,
    say: Say = terminal.say,
    **options: Any,
) -> Dataset:
    """Returns a data set, from the source named or from the first location that has it.

    "auto" searches $SPARSEJAX_DATA, the user's cache and a prepared TFDS folder, then downloads. If MNIST is not
    available, it returns scikit-learn's digits, with corresponding name, source and notice. A folder with some of the
    files only, and a damaged file, are always errors; an interrupted download is completed.

    Args:
      name: a registered data set (see `python -m sparsejax.data list`); or "tfds/NAME", any TFDS data set of
        images and labels that is prepared.
      source: "auto", "files" ($SPARSEJAX_DATA), "tfds", "download" (cached) or "digits".
      path: your own file or folder to read instead, see `read_path`.
      say: prints messages to the user: downloads, notices of substitutes.
      **options: other options of its reader: `length`, `vocabulary` and `unit` of a text; `words`, `silence` and
        `held_out` of speech; `test_fraction` of a path or of TFDS.

    Raises:
      ConfigError: an unknown name or source, or a source that this data set does not have.
      DataMissingError: the source has no such data, or not all of its files, or $SPARSEJAX_DATA is not a folder.
      DataDamagedError: a file is damaged.
    """
    if path is not None:
        return read_path(path, **options)
    found = entry(name, source)
    dataset = obtain(found, found.read, source, say, options) if found.place else generate(found, options)
    if dataset.notice:
        say(dataset.notice)
    return dataset


def options_of(name: str, path: str | Path | None = None) -> tuple[str, ...]:
    """Returns the options of `load` that a data set takes."""
    return ("test_fraction",) if path is not None else entry(name).options


def generate(found: Entry, options: Mapping[str, Any]) -> Dataset:
    """Returns the result of an entry's function as a data set."""
    with blame(f"The function of the data set {found.name!r}"):
        dataset = found.read(**options)
        if not isinstance(dataset, Dataset):
            dataset = from_arrays(*dataset, name=found.name, source=found.location)
    if dataset.kind != found.kind:
        raise ConfigError(f"The data set {found.name!r} is registered as {found.kind}, but its function returned "
                          f"{dataset.kind}; register it as this kind.")  # fmt: skip
    return dataset


def obtain(found: Entry, read: Callable[..., Any], source: str, say: Say, options: Mapping[str, Any]) -> Any:
    """Reads a data set from disk or after a download; errors as `load`."""
    if source == "digits":
        return _substitute(f"As requested by data.source digits, {_DIGITS.format(found.title)}.")
    if source == "tfds":
        return read_tfds(found.tfds)
    if source == "files":
        return read(_files_path(found), source="files", **options)
    if source == "download" and found.download:
        subject = f"{found.title} is not in {download_folder(found.place)} and"
        return read(_download(found, found.download, say, subject), source="download", **options)
    for location, path in found.places():
        files = found.files(path)
        missing = [name for name, file in files.items() if file is None]
        if not missing:
            return read(path, source=location, **options)
        if len(missing) < len(files):
            return read(_complete(found, path, missing, say), source=location, **options)
    unreadable = ""
    try:
        if found.tfds and is_prepared(found.tfds, tfds_folder()):
            return read_tfds(found.tfds)
    except DataMissingError as error:  # another format, or TFDS is not installed
        unreadable = str(error)
        say(unreadable)
    if found.download is None:
        raise DataMissingError(f"{_not_found_message(found)}. {found.how}")
    try:
        path = _download(found, found.download, say, f"{_not_found_message(found, last='')}, and")
    except DataMissingError as error:
        if not found.substitute or unreadable:
            raise
        return _substitute(f"{found.title} was not found and could not be downloaded: {_DIGITS.format(found.title)}. "
                           f"The reason: {error}")  # fmt: skip
    return read(path, source="download", **options)


def _complete(found: Entry, path: Path, missing: list[str], say: Say) -> Path:
    """Completes a partial download; other partial data are an error, because others in their place are a mistake.

    Raises:
      DataMissingError: files are missing, and cannot be downloaded.
    """
    files, wanted = found.files(path), found.download
    verdict = (
        f"Only {len(files) - len(missing)} of {found.title}'s {len(files)} files are in {path} "
        f"({', '.join(missing)} missing)"
    )
    there = [(file, wanted.files.get(name, "")) for name, file in files.items() if file is not None] if wanted else []
    if wanted and path == download_folder(found.place) and all(is_whole(*pair) for pair in there):
        download(wanted, path, title=found.title, subject=f"{verdict}, and the rest", how=found.how, say=say)
        return path
    command = f"run python -m sparsejax.data download {found.name}, or " if wanted else ""
    raise DataMissingError(f"{verdict}; other data are not used in their place. To complete the folder, {command}"
                           f"put the missing files there; or move it away. {found.how}")  # fmt: skip


_DIGITS = (
    "these are the 1,797 handwritten digits that scikit-learn ships, enlarged to 28 × 28; figures are not "
    "comparable with {}'s"
)


def _substitute(notice: str) -> Dataset:
    return DATA["digits"].read(notice=notice)


def _files_path(found: Entry) -> Path:
    """Returns the path in $SPARSEJAX_DATA, or another one, so that its reader reports what is missing."""
    root = data_root()
    places = [*([root / found.place] if root else []), *found.elsewhere]
    whole = next((path for path in places if found.is_whole(path)), None)
    if whole is None and root is None:
        raise DataMissingError(
            f"The source 'files' reads {found.name} in $SPARSEJAX_DATA/{found.place}, but the environment variable "
            f"SPARSEJAX_DATA is not set; set it, or use the source 'auto'. {found.how}"
        )
    return whole or places[0]


def _download(found: Entry, wanted: Download, say: Say, subject: str) -> Path:
    """Returns a path with the complete data set, after downloading missing files."""
    folder = download_folder(found.place)
    for path in (folder, user_cache() / found.place):
        if found.is_whole(path) and wanted.is_proven(path):
            return path
    download(wanted, folder, title=found.title, subject=subject, how=found.how, say=say)
    return folder


def _not_found_message(found: Entry, last: str = "and ") -> str:
    """Returns the beginning of the message for a data set that is in none of its locations."""
    places = [f"$SPARSEJAX_DATA/{found.place}", str(user_cache() / found.place), *map(str, found.elsewhere)]
    where = f"{', '.join(places[:-1])} and {places[-1]}"
    verdict = "neither" if len(places) == 2 else "none of them"
    return f"{found.title[0].upper()}{found.title[1:]} was looked for in {where}, {last}is in {verdict}"


Entry(
    name="arrays",
    title="your own arrays",
    kind="images",
    place="arrays",
    read=read_arrays,
    how="Or pass any file or folder with --data.path.",
).add(12)
