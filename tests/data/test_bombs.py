"""Small files that announce, or unpack to, more than the memory holds: refused before they are unpacked."""

import io
import resource
import struct
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sparsejax.data.arrays import read_path
from sparsejax.data.latents import read_latents
from sparsejax.data.natural_images import read_images_mat
from sparsejax.data.wav import read_clip
from sparsejax.errors import DataDamagedError
from tests.data.test_wav import wav_bytes


def npy_header(shape: str, descr: str = "|u1") -> bytes:
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text) + 1) + text + b"\n"


def zipped(content: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x_train.npy", content)
    return stream.getvalue()


def mat(size: int, zeros: int) -> bytes:
    matrix = struct.pack("<II", 14, size) + bytes(zeros)
    packed = zlib.compress(matrix)
    return b"MATLAB 5.0".ljust(124) + b"\0\1IM" + struct.pack("<II", 15, len(packed)) + packed


def png(width: int, height: int) -> bytes:
    stream = io.BytesIO()
    Image.new("P", (width, height)).save(stream, "PNG")
    return stream.getvalue()


def read_image(path: Path) -> object:
    return read_path(path.parent.parent, 0.5)


def read_part(path: Path) -> object:
    return read_path(path, 0.5)


def read_sound(path: Path) -> np.ndarray:
    return read_clip(path, rate=16_000, convert=True)


ANNOUNCED = "announces .* bytes, more than 100 times its size"
BOMBS: dict[str, tuple[str, Callable[[], bytes], Callable[[Path], object], str]] = {
    "npz": ("x.npz", lambda: zipped(npy_header("(300_000_000,)") + bytes(300_000_000)), read_path, ANNOUNCED),
    "latents": ("x.npz", lambda: zipped(npy_header("(300_000_000,)") + bytes(300_000_000)), read_latents, ANNOUNCED),
    "npz, header": ("x.npz", lambda: zipped(npy_header(f"({2**50},)")), read_path, "not a readable array"),
    "npy": ("x.npy", lambda: npy_header(f"({2**50},)") + bytes(100), read_part, "not a readable"),
    "npy of nothing": ("x.npy", lambda: npy_header(f"({2**50},)", "<U0"), read_part, "elements of 0"),
    "mat": ("x.mat", lambda: mat(2**32 - 8, 2**20), read_images_mat, ANNOUNCED),
    "mat, more than announced": ("x.mat", lambda: mat(64, 2**28), read_images_mat, "cannot be read as a MATLAB file"),
    "image": ("class/x.png", lambda: png(9500, 9500), read_image, "cannot be unpacked.*more than 100 times"),
    "larger image": ("class/x.png", lambda: png(14_000, 14_000), read_image, "exceeds limit of 178956970 pixels"),
    "program": ("class/x.png", lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%EOF", read_image, "not a readable"),
    "wav": ("x.wav", lambda: wav_bytes(bytes(2000), rate=767_999), read_sound, "cannot be resampled from 767,999 Hz"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_not_unpacked(tmp_path: Path, name: str):
    file, make, read, said = BOMBS[name]
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(make())
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataDamagedError, match=said):
        read(path)
    assert time.perf_counter() - began < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**18, "it took more than 256 MB"
