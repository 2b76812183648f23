"""The original MNIST files, fetched from a public mirror and checked by their published MD5s."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sparsejax.data.folders import download_folder, offline
from sparsejax.data.idx import MNIST_FILES, md5_of
from sparsejax.errors import DataDamagedError, DataMissingError

MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
PATIENCE = 5.0  # seconds until a network that does not answer counts as none

_SILENCE = 15.0  # seconds that a transfer may stand still


def download_mnist(
    folder: Path | None = None,
    *,
    mirrors: Sequence[str] | None = None,
    patience: float = PATIENCE,
    say: Callable[[str], None] = print,
) -> Path:
    """Fetches those of MNIST's four files that a folder lacks or has damaged, and returns the folder.

    A file appears under its name only when it is whole. A mirror that fails is left for the next.

    Args:
      folder: where to put them; None is $SPARSEJAX_DATA/mnist, or the user's cache folder.
      mirrors: addresses that end in a slash, tried in this order; None is MIRRORS.
      patience: seconds for the first answer, over all mirrors.
      say: takes what a person should read.

    Raises:
      DataMissingError: no mirror answers or none has the file, $SPARSEJAX_OFFLINE forbids the network, or
        the folder cannot be written.
      DataDamagedError: what the mirrors sent is not MNIST.
    """
    folder = folder or download_folder()
    wanted = [name for name, md5 in MNIST_FILES.items() if not _is_whole(folder / name, md5)]
    if not wanted:
        return folder
    if offline():
        raise DataMissingError(
            f"MNIST is not in {folder}, and $SPARSEJAX_OFFLINE forbids to download it; unset that variable, "
            f"or put the four files of MNIST there."
        )
    answering = answering_mirrors(MIRRORS if mirrors is None else mirrors, wanted[0], patience)
    say(f"Downloading MNIST (11.6 MB) from {_host(answering[0])} to {folder}")
    _fetch_all(wanted, folder, answering, say)
    return folder


def answering_mirrors(mirrors: Sequence[str], name: str, patience: float = PATIENCE) -> list[str]:
    """Returns the mirrors that answer a request for a file's header in time, in the order given.

    All are asked at once in threads that are abandoned when time is up: a name look-up cannot be interrupted.

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
        raise DataMissingError(
            f"MNIST cannot be downloaded: no answer within {patience:g} s from "
            f"{tried or 'an empty list of mirrors'}. Connect to the network, or put the four files of MNIST "
            f"in $SPARSEJAX_DATA/mnist."
        )
    return answering


def _fetch_all(names: Sequence[str], folder: Path, mirrors: Sequence[str], say: Callable[[str], None]) -> None:
    """Fetches files one after the other, each from the first mirror that has not failed yet."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    failures: list[str] = []
    corrupt = False
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        for name in names:
            while mirrors:
                try:
                    _fetch(mirrors[0] + name, folder / name, MNIST_FILES[name], _Bar(progress, name))
                    break
                except (DataDamagedError, DataMissingError) as error:
                    corrupt |= isinstance(error, DataDamagedError)
                    failures.append(str(error))
                    mirrors = mirrors[1:]
                    if mirrors:
                        say(f"{error}; trying {_host(mirrors[0])}")
            else:
                kind = DataDamagedError if corrupt else DataMissingError
                raise kind(
                    f"MNIST cannot be downloaded: {'; '.join(failures)}. Nothing was kept of it. Try again "
                    f"later, or put the four files of MNIST in $SPARSEJAX_DATA/mnist."
                )


def _fetch(url: str, path: Path, md5: str, bar: Any) -> None:
    """Fetches one file to its final name, or raises half a sentence that names the file's address."""
    import pooch
    import requests

    # An existing file gets here only when it is damaged. pooch replaces it once the new one is whole.
    fetcher: Any = pooch.HTTPDownloader(progressbar=bar, chunk_size=1 << 16, timeout=_SILENCE)
    pooch.get_logger().setLevel(logging.WARNING)
    try:
        pooch.retrieve(url, f"md5:{md5}", fname=path.name, path=path.parent, downloader=fetcher)
        path.chmod(0o644)  # pooch's temporary file is for its owner only
    except requests.HTTPError as error:
        raise DataMissingError(str(error)) from error  # 404 Client Error: … for url: …
    except requests.RequestException as error:  # before OSError and ValueError, of which some are
        raise DataMissingError(f"{url} broke off ({type(error).__name__})") from error
    except ValueError as error:
        raise DataDamagedError(f"{url} sends something else than the published file (MD5 {md5})") from error
    except OSError as error:
        raise DataMissingError(f"{path} cannot be written ({error.strerror or error})") from error


class _Bar:
    """The four words pooch knows of a progress bar, said to one of rich's."""

    def __init__(self, progress: Any, name: str) -> None:
        self._progress, self._task = progress, progress.add_task(name, total=None)

    @property
    def total(self) -> int:
        return self._progress.tasks[self._task].total

    @total.setter
    def total(self, size: int) -> None:
        self._progress.update(self._task, total=size)

    def update(self, size: int) -> None:
        self._progress.advance(self._task, size)

    def reset(self) -> None:
        self._progress.update(self._task, completed=0)

    def close(self) -> None:
        self._progress.stop_task(self._task)


def _is_whole(path: Path, md5: str) -> bool:
    """Says whether a file is there with the published MD5."""
    return path.is_file() and md5_of(path.read_bytes()) == md5


def _host(mirror: str) -> str:
    """Returns the part of an address that people know it by."""
    return urlsplit(mirror).netloc or mirror
