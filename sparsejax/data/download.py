"""Downloads published files from public mirrors and verifies their published checksums."""

import contextlib
import hashlib
import logging
import os
import shutil
import sys
import tarfile
import threading
import time
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from urllib.parse import urlsplit

from sparsejax import terminal
from sparsejax.data.folders import offline
from sparsejax.errors import DataDamagedError, DataMissingError, SparsejaxError, shorten

PATIENCE = 5.0  # timeout in seconds for the first answer

_TRIES = 3  # per mirror, if transfers break off
_SILENCE = 15.0  # timeout in seconds for a stalled transfer
_SLOWEST = 5_000  # bytes per second, on average over that time
_ARCHIVES = (".tar.gz", ".zip")


class Download(NamedTuple):
    """Where a data set is published.

    Archives are unpacked to the data set's place; a single plain file is the place; several files are inside it.

    Args:
      mirrors: addresses that end in a slash, tried in this order.
      files: names of the files there, with their MD5 or SHA-256.
      size: total size, as "170 MB" or "1.5 GB"; a transfer of more is broken off.
      proof: a file that only the complete published data set has, if its other files do not show it.
    """

    mirrors: tuple[str, ...]
    files: Mapping[str, str]
    size: str
    proof: str = ""

    @property
    def packed(self) -> bool:
        """Says whether it is an archive."""
        return any(name.endswith(_ARCHIVES) for name in self.files)

    @property
    def most(self) -> int:
        """Size in bytes that no file exceeds; `size` is rounded."""
        number, unit = self.size.split()
        return int(1.1 * float(number) * {"MB": 1e6, "GB": 1e9}[unit])

    def is_proven(self, place: Path) -> bool:
        """Says whether a place has the proof, if there is one."""
        return not self.proof or (place / self.proof).is_file()


def download(
    wanted: Download,
    place: Path,
    *,
    title: str,
    subject: str = "",
    how: str = "",
    patience: float = PATIENCE,
    say: Callable[[str], None] = terminal.say,
) -> Path:
    """Downloads the files of a data set that are missing or damaged, and returns the place.

    A file appears under its name only when it is complete. A mirror whose transfer breaks off is retried after the
    others; one that lacks a file, or sends a different one, is skipped.

    Args:
      wanted: where it is published.
      place: where to put it.
      title: of the data set.
      subject: begins the sentence "… cannot be downloaded"; by default the title.
      how: a sentence on how else to get it.
      patience: seconds for the first answer, over all mirrors.
      say: prints messages to the user.

    Raises:
      DataMissingError: no mirror answers or none has the file, $SPARSEJAX_OFFLINE forbids the network, or the place
        cannot be written.
      DataDamagedError: the mirrors sent different files than published.
    """
    targets = {name: _target(wanted, name, place) for name in wanted.files}
    lacking = [name for name, path in targets.items() if not is_whole(path, wanted.files[name])]
    subject = subject or title
    way_out = f"or {how[:1].lower()}{how[1:]}" if how else "or put its files there yourself."
    if lacking and offline():
        raise DataMissingError(f"{subject} cannot be downloaded because $SPARSEJAX_OFFLINE is set; unset that "
                               f"variable, {way_out}")  # fmt: skip
    if lacking:
        try:
            mirrors = answering_mirrors(wanted.mirrors, lacking[0], patience)
            say(f"Downloading {title} ({wanted.size}) from {_host(mirrors[0])} to {place}")
            _fetch_all({name: (targets[name], wanted.files[name]) for name in lacking}, mirrors, wanted.most, say)
        except (DataMissingError, DataDamagedError) as error:
            raise type(error)(f"{subject} cannot be downloaded: {error}, {way_out}") from error
    for path in targets.values():
        if path.name.endswith(_ARCHIVES):
            _unpack(path, place)
    return place


def answering_mirrors(mirrors: Sequence[str], name: str, patience: float = PATIENCE) -> list[str]:
    """Returns the mirrors that answer a request for a file's header in time, in the order given.

    All are queried in parallel, in threads that are abandoned on timeout: a name look-up cannot be interrupted.

    Raises:
      DataMissingError: none answers.
    """
    import requests

    outcome: dict[str, str] = {}

    def ask(mirror: str) -> None:
        try:
            requests.head(mirror + name, timeout=patience).close()
            outcome[mirror] = ""
        except requests.RequestException as error:
            outcome[mirror] = type(error).__name__

    threads = [threading.Thread(target=ask, args=(mirror,), daemon=True) for mirror in mirrors]
    deadline = time.monotonic() + patience
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    answering = [mirror for mirror in mirrors if outcome.get(mirror) == ""]
    if not answering:
        tried = ", ".join(f"{_host(mirror)} ({outcome.get(mirror, 'silent')})" for mirror in mirrors)
        raise DataMissingError(f"no answer within {patience:g} s from {tried or 'an empty list of mirrors'}; connect "
                               "to the network")  # fmt: skip
    return answering


def is_whole(path: Path, checksum: str) -> bool:
    """Says whether a file is there with the published MD5 or SHA-256."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, _algorithm(checksum)).hexdigest() == checksum


class _BrokenOffError(DataMissingError):
    """A transfer that may succeed if retried."""


def _fetch_all(
    files: Mapping[str, tuple[Path, str]], mirrors: Sequence[str], most: int, say: Callable[[str], None]
) -> None:
    """Downloads files one after the other, each from the first mirror that has not failed yet."""
    left, broken, failures = list(mirrors), Counter[str](), {}
    for name, (path, checksum) in files.items():
        while left:
            try:
                _fetch(left[0] + name, path, checksum, most)
                break
            except (DataDamagedError, DataMissingError) as error:
                failures[str(error)] = error
                failed = left.pop(0)
                broken[failed] += 1
                if isinstance(error, _BrokenOffError) and broken[failed] < _TRIES:
                    left.append(failed)
                if left:
                    say(f"{error}; trying {_host(left[0])}")
                    time.sleep(0.5 * broken[left[0]])
        else:
            damaged = any(isinstance(error, DataDamagedError) for error in failures.values())
            kind = DataDamagedError if damaged else DataMissingError
            raise kind(f"{'; '.join(failures)}; no file was saved; try again later")


class _Sink:
    """A file that takes a number of bytes, until it is closed."""

    def __init__(self, file: BinaryIO, most: int, url: str):
        self.size, self.closed = 0, False
        self._file, self._most, self._url = file, most, url

    def write(self, chunk: bytes) -> None:
        """Writes a part, or raises an error that ends the transfer."""
        self.size += len(chunk)
        if self.closed or self.size > self._most:
            raise DataDamagedError(f"{self._url} sends more than the {self._most:,} bytes of the published file")
        self._file.write(chunk)

    def flush(self) -> None:
        """Does nothing: the file is read only when it is complete."""


def _transfer(fetch: Callable[..., Any], url: str, path: str, most: int) -> None:
    """Runs a transfer of limited size and duration, in a thread that is abandoned if it is too slow.

    A server that sends single bytes is never silent, and the read of a part cannot be interrupted.
    """
    errors: list[Exception] = []
    with open(path, "wb") as file:
        sink = _Sink(file, most, url)

        def run() -> None:
            try:
                fetch(url, sink, None)
            except Exception as error:
                errors.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            while thread.is_alive():
                before = sink.size
                thread.join(_SILENCE)
                if thread.is_alive() and sink.size - before < _SLOWEST * _SILENCE:
                    raise _BrokenOffError(f"{url} sends less than {_SLOWEST:,} bytes per second")
        finally:
            sink.closed = True
    if errors:
        raise errors[0]


def _fetch(url: str, path: Path, checksum: str, most: int) -> None:
    """Downloads one file to its final name, or raises an error that names the file's address."""
    import pooch
    import requests

    # An existing file is damaged here. pooch replaces it once the new one is complete.
    bar = sys.stderr.isatty()
    fetcher: Any = pooch.HTTPDownloader(progressbar=bar, chunk_size=1 << 14, timeout=_SILENCE)
    pooch.get_logger().setLevel(logging.WARNING)
    algorithm = _algorithm(checksum)
    limited: Any = lambda url, file, _: _transfer(fetcher, url, file, most)  # noqa: E731
    try:
        pooch.retrieve(url, f"{algorithm}:{checksum}", fname=path.name, path=path.parent, downloader=limited)
        with contextlib.suppress(OSError):  # not every file system has permissions
            path.chmod(0o644)  # pooch's temporary file is for its owner only
    except SparsejaxError:
        raise
    except requests.HTTPError as error:
        raise DataMissingError(str(error)) from error  # 404 Client Error: … for url: …
    except requests.RequestException as error:  # before OSError and ValueError, which it may subclass
        raise _BrokenOffError(f"{url} broke off ({type(error).__name__})") from error
    except ValueError as error:
        raise DataDamagedError(
            f"{url} sends a different file than the published one ({algorithm.upper()} {checksum})"
        ) from error
    except OSError as error:
        raise DataMissingError(f"{path} cannot be written ({error.strerror or error})") from error


def _target(wanted: Download, name: str, place: Path) -> Path:
    """Returns the path of a downloaded file: an archive lies next to the place until it is unpacked."""
    if name.endswith(_ARCHIVES):
        return place.parent / name
    return place if len(wanted.files) == 1 else place / name


def _unpack(archive: Path, place: Path) -> None:
    """Unpacks an archive and deletes it; a folder in it of the place's name is the place. Other files stay."""
    temporary = place.with_name(f".{place.name}.{os.getpid()}")
    safely: dict[str, Any] = {"filter": "data"} if archive.name.endswith(".tar.gz") else {}
    try:
        shutil.unpack_archive(archive, temporary, **safely)
        content = temporary / place.name if (temporary / place.name).is_dir() else temporary
        if not place.exists():
            content.rename(place)
        else:
            for file in [file for file in content.rglob("*") if file.is_file()]:
                target = place / file.relative_to(content)
                target.parent.mkdir(parents=True, exist_ok=True)
                file.replace(target)
        archive.unlink()
    except (OSError, EOFError, zlib.error, tarfile.TarError, zipfile.BadZipFile) as error:
        reason = getattr(error, "strerror", None) or shorten(str(error))
        raise DataMissingError(
            f"{archive} cannot be unpacked to {place} ({reason}); unpack it there yourself."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            shutil.rmtree(temporary)


def _algorithm(checksum: str) -> str:
    return "md5" if len(checksum) == 32 else "sha256"


def _host(mirror: str) -> str:
    """Returns the host name of an address."""
    return urlsplit(mirror).netloc or mirror
