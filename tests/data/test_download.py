"""Tests of sparsejax.data.download, against servers on 127.0.0.1."""

import contextlib
import gzip
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from sparsejax.data import DATA, load, read_mnist_folder
from sparsejax.data import download as module
from sparsejax.data.folders import download_folder
from sparsejax.errors import DataDamagedError, DataMissingError

Files = dict[str, bytes]
Start = Callable[[Files], Any]
LABELS = "train-labels-idx1-ubyte.gz"


def unheard(message: str) -> None:
    """Ignores messages."""


def download_mnist(folder: Path, *, mirrors: Sequence[str] = (), **options: Any) -> Path:
    """Downloads MNIST to a folder."""
    return module.download(DATA["mnist"].download._replace(mirrors=mirrors), folder, title="MNIST", **options)


@pytest.fixture
def closed_port() -> str:
    """Returns an address that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}/"


@pytest.fixture
def silent_port() -> Iterator[str]:
    """Returns an address that takes a connection and never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/"


def held(folder: Path) -> list[str]:
    """Lists all that a folder holds, temporary files too."""
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_success(tmp_path: Path, start_mirror: Start, small_files: Files):
    mirror = start_mirror(small_files)
    said: list[str] = []
    folder = download_mnist(tmp_path / "deep" / "mnist", mirrors=[mirror.url], say=said.append)
    assert folder == tmp_path / "deep" / "mnist" and held(folder) == sorted(small_files)
    assert all((folder / name).read_bytes() == content for name, content in small_files.items())
    assert os.stat(folder / LABELS).st_mode & 0o777 == 0o644
    assert len(said) == 1 and str(folder) in said[0] and "127.0.0.1" in said[0]
    assert len(read_mnist_folder(folder).train.labels) == 40

    download_mnist(folder, mirrors=["http://127.0.0.1:9/"], say=said.append)  # complete: no request is sent
    assert len(said) == 1 and len(mirror.asked) == 4


def test_only_the_damaged_and_missing_are_fetched(small_folder: Path, start_mirror: Start, small_files: Files):
    (small_folder / LABELS).write_bytes(b"damaged")
    (small_folder / "t10k-images-idx3-ubyte.gz").unlink()
    mirror = start_mirror(small_files)
    download_mnist(small_folder, mirrors=[mirror.url], say=unheard)
    assert mirror.asked == [LABELS, "t10k-images-idx3-ubyte.gz"]
    assert (small_folder / LABELS).read_bytes() == small_files[LABELS]


def test_wrong_checksum_leaves_nothing(tmp_path: Path, start_mirror: Start, small_files: Files):
    mirror = start_mirror({**small_files, LABELS: small_files[LABELS][:-1] + b"\1"})
    with pytest.raises(DataDamagedError, match=f"{mirror.url}{LABELS} sends a different file.*MD5"):
        download_mnist(tmp_path / "mnist", mirrors=[mirror.url], say=unheard)
    assert held(tmp_path / "mnist") == ["train-images-idx3-ubyte.gz"]  # the one before it was whole


def test_damaged_file_stays_until_the_new_one_is_whole(small_folder: Path, start_mirror: Start, small_files: Files):
    (small_folder / LABELS).write_bytes(b"damaged")
    mirror = start_mirror({LABELS: b"also damaged"})
    with pytest.raises(DataDamagedError):
        download_mnist(small_folder, mirrors=[mirror.url], say=unheard)
    assert (small_folder / LABELS).read_bytes() == b"damaged" and held(small_folder) == sorted(small_files)


def test_truncated_transfer(tmp_path: Path, start_mirror: Start, small_files: Files):
    mirror = start_mirror(small_files)
    mirror.cut.add("train-images-idx3-ubyte.gz")
    with pytest.raises(DataMissingError, match=r"train-images-idx3-ubyte.gz broke off"):
        download_mnist(tmp_path / "mnist", mirrors=[mirror.url], say=unheard)
    assert held(tmp_path / "mnist") == []


@contextlib.contextmanager
def hostile(part: bytes, seconds: float, header: bytes) -> Iterator[str]:
    """Serves on 127.0.0.1: it answers a request for the header at once, and sends a file in parts without end."""
    over = threading.Event()

    def answer(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            head = connection.recv(1 << 16).startswith(b"HEAD")
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n" if head else header)
            while not head and not over.wait(seconds):
                connection.sendall(part)

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=answer, args=(server.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/"
        over.set()


OK = b"HTTP/1.1 200 OK\r\n"
TOO_MUCH = (DataDamagedError, "sends more than the 1,100,000 bytes of the published file")
TOO_SLOW = (DataMissingError, "sends less than 5,000 bytes per second")
HOSTILE = {
    "endless": ((b"x" * 2**16, 0, OK + b"\r\n"), TOO_MUCH),
    "a bomb": ((gzip.compress(bytes(2**26)), 0, OK + b"Content-Encoding: gzip\r\n\r\n"), TOO_MUCH),
    "single bytes": ((b"x", 0.05, OK + b"\r\n"), TOO_SLOW),
    "an endless header": ((b"X: y\r\n", 0.05, OK), TOO_SLOW),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_transfer_has_a_limited_size_and_duration(tmp_path: Path, monkeypatch, start_mirror: Start, name: str):
    monkeypatch.setattr(module, "_SILENCE", 0.3)
    monkeypatch.setattr(module, "_TRIES", 2)
    server, (kind, said) = HOSTILE[name]
    began = time.monotonic()
    with hostile(*server) as url, pytest.raises(kind, match=said):
        wanted = module.Download((url,), {"file": "0" * 32}, "1 MB")
        module.download(wanted, tmp_path / "place", title="It", say=unheard)
    assert time.monotonic() - began < 8 and held(tmp_path / "place") == []


def test_not_found(tmp_path: Path, start_mirror: Start):
    mirror = start_mirror({})
    with pytest.raises(DataMissingError, match=f"404.*{mirror.url}train-images"):
        download_mnist(tmp_path / "mnist", mirrors=[mirror.url], say=unheard)
    assert held(tmp_path / "mnist") == []


@pytest.mark.parametrize("trouble", ["404", "corrupt", "cut"])
def test_second_mirror_takes_over(tmp_path: Path, start_mirror: Start, small_files: Files, trouble: str):
    first, second = start_mirror(small_files), start_mirror(small_files)
    said: list[str] = []
    if trouble == "404":
        del first.files[LABELS]
    elif trouble == "corrupt":
        first.files[LABELS] = b"x" * 100
    else:
        first.cut.add(LABELS)
    folder = download_mnist(tmp_path / "mnist", mirrors=[first.url, second.url], say=said.append)
    assert held(folder) == sorted(small_files)
    assert first.asked == ["train-images-idx3-ubyte.gz", LABELS] and len(second.asked) == 3
    assert len(said) == 2 and "trying 127.0.0.1" in said[1]


def test_first_mirror_down(tmp_path: Path, start_mirror: Start, small_files: Files, closed_port: str, silent_port: str):
    second = start_mirror(small_files)
    mirrors = [closed_port, silent_port, second.url]
    folder = download_mnist(tmp_path / "mnist", mirrors=mirrors, patience=0.5, say=unheard)
    assert held(folder) == sorted(small_files) and len(second.asked) == 4


def test_no_server_at_all(tmp_path: Path, start_mirror: Start, closed_port: str):
    start = time.monotonic()
    with pytest.raises(DataMissingError, match=r"no answer within 5 s from 127.0.0.1:\d+ \(ConnectionError\)"):
        download_mnist(tmp_path / "mnist", mirrors=[closed_port], say=unheard)
    assert time.monotonic() - start < 2
    assert not (tmp_path / "mnist").exists()


def test_silent_servers_share_one_patience(start_mirror: Start, tmp_path: Path, silent_port: str):
    start = time.monotonic()
    with pytest.raises(DataMissingError, match=r"no answer within 0.5 s"):
        download_mnist(tmp_path, mirrors=[silent_port, f"{silent_port}a/", f"{silent_port}b/"], patience=0.5)
    assert 0.4 < time.monotonic() - start < 1.5


@pytest.mark.slow
def test_hanging_name_look_up_falls_back_within_5_s(start_mirror: Start, monkeypatch: pytest.MonkeyPatch):
    load("digits")  # so that importing scikit-learn, seconds on a cold disk, is not timed
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: time.sleep(60) or [])
    start = time.monotonic()
    dataset = load("mnist", say=unheard)
    assert 4.5 < time.monotonic() - start < 6
    assert dataset.source == "digits" and "no answer within 5 s" in dataset.notice


def test_offline_asks_nobody(tmp_path: Path, start_mirror: Start, monkeypatch: pytest.MonkeyPatch):
    mirror = start_mirror({})
    monkeypatch.setenv("SPARSEJAX_OFFLINE", "1")
    monkeypatch.setattr(module, "answering_mirrors", lambda *args: pytest.fail("a request was sent"))
    with pytest.raises(DataMissingError, match="SPARSEJAX_OFFLINE"):
        download_mnist(tmp_path, mirrors=[mirror.url])


def test_folder_that_cannot_be_written(tmp_path: Path, start_mirror: Start, small_files: Files):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataMissingError, match="cannot be written"):
        download_mnist(tmp_path / "file" / "mnist", mirrors=[start_mirror(small_files).url], say=unheard)


def test_progress_is_silent_without_a_terminal(
    tmp_path: Path, start_mirror: Start, small_files: Files, capfd: pytest.CaptureFixture[str]
):
    download_mnist(tmp_path / "mnist", mirrors=[start_mirror(small_files).url], say=unheard)
    assert capfd.readouterr() == ("", "")


def test_real_files_have_the_published_md5s(real_data: Path):
    assert download_mnist(real_data / "mnist") == real_data / "mnist"  # offline: whole or an error


def test_folder_of_a_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert download_folder("mnist") == tmp_path / "cache" / "sparsejax" / "mnist"
    monkeypatch.setenv("SPARSEJAX_DATA", str(tmp_path))
    assert download_folder("mnist") == tmp_path / "mnist"
    locked = tmp_path  # as another user's folder; root may write anywhere, hence not chmod
    monkeypatch.setattr(os, "access", lambda path, mode: not (Path(path) == locked and mode & os.W_OK))
    assert download_folder("mnist") == tmp_path / "cache" / "sparsejax" / "mnist"
    locked = tmp_path / "mnist"
    locked.mkdir()
    assert download_folder("mnist") == tmp_path / "cache" / "sparsejax" / "mnist"
