"""Folders, idx files and mirrors for the tests of sparsejax.data. No test accesses the network."""

import dataclasses
import gzip
import hashlib
import http.server
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from sparsejax.data import DATA
from sparsejax.data.idx import MNIST_FILES

_CODES = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}
_REAL = os.environ.get("SPARSEJAX_DATA", "")


def idx_bytes(array: np.ndarray) -> bytes:
    """Writes an array as IDX, by the format's description and not by the reader's code."""
    header = bytes([0, 0, _CODES[array.dtype.str[1:]], array.ndim])
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return header + sizes + array.astype(array.dtype.newbyteorder(">")).tobytes()


@pytest.fixture(autouse=True)
def hermetic(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Disables the user's folders and the network; a test enables what it needs."""
    for name in ("SPARSEJAX_DATA", "TFDS_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("SPARSEJAX_OFFLINE", "1")
    monkeypatch.setenv("NO_PROXY", "*")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Returns the folder with the real data, which SPARSEJAX_DATA named when the tests began."""
    if not (Path(_REAL) / "mnist" / "train-images-idx3-ubyte.gz").is_file():
        pytest.skip("set SPARSEJAX_DATA to a folder with mnist/*.gz to run the tests on the real MNIST")
    return Path(_REAL)


@pytest.fixture(scope="session")
def as_idx() -> Callable[[np.ndarray], bytes]:
    """Returns the writer of IDX bytes."""
    return idx_bytes


@pytest.fixture(scope="session")
def small_arrays() -> dict[str, np.ndarray]:
    """Returns the arrays of a small MNIST by file name: 40 + 20 images of noise, labels 0 to 9."""
    random = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}
    for word, count in (("train", 40), ("t10k", 20)):
        arrays[f"{word}-images-idx3-ubyte.gz"] = random.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        arrays[f"{word}-labels-idx1-ubyte.gz"] = (np.arange(count) % 10).astype(np.uint8)
    return arrays


@pytest.fixture
def small_files(small_arrays: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Returns the small MNIST as gzip files, and has its MD5s count as the published ones."""
    files = {name: gzip.compress(idx_bytes(array), mtime=0) for name, array in small_arrays.items()}
    for name, content in files.items():
        monkeypatch.setitem(MNIST_FILES, name, hashlib.md5(content).hexdigest())
    return files


@pytest.fixture
def small_folder(small_files: dict[str, bytes], tmp_path: Path) -> Path:
    """Returns DATA/mnist with the small MNIST; its parent can be SPARSEJAX_DATA."""
    folder = tmp_path / "data" / "mnist"
    folder.mkdir(parents=True)
    for name, content in small_files.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def changed_entry(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Returns a function that changes fields of a registered data set, and of its download, until the test ends."""

    def change(name: str, download: dict[str, object] | None = None, **fields: object) -> None:
        entry = DATA[name]
        if download:
            fields["download"] = entry.download._replace(**download)
        place, module, _ = DATA._entries[name]
        monkeypatch.setitem(DATA._entries, name, (place, module, dataclasses.replace(entry, **fields)))

    return change


class Mirror:
    """A web server on 127.0.0.1 that sends files; a file's content may be cut or missing."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = dict(files)
        self.cut: set[str] = set()  # these announce their whole size and send half
        self.asked: list[str] = []
        mirror = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.answer()

            def do_GET(self) -> None:
                name, content = self.answer()
                mirror.asked.append(name)
                self.wfile.write(content[: len(content) // 2] if name in mirror.cut else content)

            def answer(self) -> tuple[str, bytes]:
                name = self.path.rsplit("/", 1)[-1]
                content = mirror.files.get(name, b"")
                self.send_response(200 if name in mirror.files else 404)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                return name, content

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/mnist/"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        """Stops the server."""
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def start_mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[dict[str, bytes]], Mirror]]:
    """Returns a function that starts a mirror with files, and allows the network."""
    monkeypatch.delenv("SPARSEJAX_OFFLINE")
    mirrors: list[Mirror] = []

    def start(files: dict[str, bytes]) -> Mirror:
        mirrors.append(Mirror(files))
        return mirrors[-1]

    yield start
    for mirror in mirrors:
        mirror.close()
