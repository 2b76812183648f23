"""Clips of sound: uncompressed RIFF files as arrays, with the requested rate and channels."""

import math
import os
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sparsejax.data.folders import read_bytes
from sparsejax.errors import ConfigError, DataDamagedError

# The format codes of a "fmt " chunk; the extensible format refers to one of the others later in the chunk.
_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_UNKNOWN = {0, 0x7FFF_F000, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF}
"""Sizes that programs write to a pipe, where they cannot correct them at the end."""
_FINEST = 100_000
"""The larger part of the ratio of two rates at most; the filter has 20 weights for each."""
_CODINGS = {(_PCM, 8): "u1", (_PCM, 16): "<i2", (_PCM, 32): "<i4", (_FLOAT, 32): "<f4", (_FLOAT, 64): "<f8"}


class Sound(NamedTuple):
    """Samples float64 [n, channels] in [-1, 1] (of float files as they are), and their rate per second."""

    samples: np.ndarray
    rate: int


def read_wav(path: str | os.PathLike[str]) -> Sound:
    """Reads a WAV file: PCM of 8, 16, 24 or 32 bits, or floats of 32 or 64.

    Raises:
      DataMissingError: the file cannot be read.
      DataDamagedError: it is not a WAV file, is truncated or compressed, or has no samples or some that are not
        numbers.
    """
    content = read_bytes(Path(path), "clip")
    try:
        form, data = _chunks(content)
        if len(form) < 16:
            raise ValueError(f"its format chunk has {len(form)} bytes where 16 are expected")
        coding, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", form)
        if coding == _EXTENSIBLE and len(form) >= 26:
            coding = struct.unpack_from("<H", form, 24)[0]
        if not channels or not 1_000 <= rate <= 768_000:  # resampling other rates may take any amount of memory
            raise ValueError(f"it has {channels} channels at {rate:,} Hz; expected 1 or more at 1,000 to 768,000 Hz")
        samples = _decode(data, coding, bits)
        if not samples.size or samples.size % channels:
            raise ValueError(f"it holds {samples.size} samples for {channels} channels; expected one each or more")
        if not np.isfinite(samples).all():
            raise ValueError("it has samples that are not numbers")
    except ValueError as error:
        raise DataDamagedError(f"The clip {path} cannot be used: {error}. Download it again, or remove it.") from None
    return Sound(samples.reshape(-1, channels), rate)


def read_clip(path: str | os.PathLike[str], *, rate: int, convert: bool = False) -> np.ndarray:
    """Reads a WAV file as one channel of 16-bit samples.

    Args:
      path: the file.
      rate: expected samples per second.
      convert: average several channels and resample another rate, instead of raising an error.

    Returns:
      int16 [n].

    Raises:
      ConfigError: the file has several channels or another rate, and convert is False.
      DataMissingError, DataDamagedError: as `read_wav`.
    """
    samples, found = read_wav(path)
    ratio = max(found, rate) // math.gcd(found, rate)
    if convert and ratio > _FINEST:
        raise DataDamagedError(
            f"The clip {path} cannot be resampled from {found:,} Hz to {rate:,} Hz: the filter for this ratio has "
            f"{20 * ratio:,} weights. Convert the file, or remove it."
        )
    if not convert and (samples.shape[1] != 1 or found != rate):
        raise ConfigError(
            f"The clip {path} has {samples.shape[1]} channel{'s' if samples.shape[1] > 1 else ''} at {found} Hz where "
            f"one at {rate} Hz is expected; pass convert=True, or convert the file."
        )
    mono = resample(samples.mean(axis=1), found, rate)
    return np.clip(np.rint(mono * 32768), -32768, 32767).astype(np.int16)


def resample(samples: np.ndarray, rate: int, to: int) -> np.ndarray:
    """Changes the rate of samples float64 [n] by a low-pass filter of 20 zero crossings in a Kaiser window (beta 5).

    Returns:
      float64 [ceil(n * to / rate)]; the clip is padded with zeros.

    References:
      Crochiere & Rabiner, Multirate Digital Signal Processing, 1983; the filter is SciPy's, of `resample_poly`.
    """
    if rate == to:
        return samples
    divisor = np.gcd(rate, to)
    up, down = to // divisor, rate // divisor
    half = 10 * max(up, down)
    steps = np.arange(-half, half + 1)
    kernel = np.sinc(steps / max(up, down)) * np.kaiser(len(steps), 5.0)
    kernel *= up / kernel.sum()
    taps, count = len(steps) // up + 1, -(-len(samples) * up // down)
    last = (count - 1) * down // up
    padded = np.pad(samples, (taps, max(0, last - len(samples)) + 2 * taps))
    windows, result = np.lib.stride_tricks.sliding_window_view(padded, taps), np.empty(count)
    for phase in range(min(up, count)):  # outputs `up` apart have the same phase, and share their weights
        first = -((half - phase * down) // up)  # the first sample within reach
        places = phase * down - (first + np.arange(taps)) * up + half
        weights = np.where(places >= 0, kernel[np.maximum(places, 0)], 0.0)
        reach = windows[first + taps :: down][: -(-(count - phase) // up)]
        result[phase::up] = reach @ weights
    return result


def _chunks(content: bytes) -> tuple[bytes, bytes]:
    """Returns the chunks "fmt " and "data" of a RIFF file; data of unknown size end with the file.

    Raises:
      ValueError: the file is not a WAV file, or they are incomplete.
    """
    if content[:4] != b"RIFF" or content[8:12] != b"WAVE":
        raise ValueError("it does not start like a WAV file" if content else "the file is empty")
    found: dict[bytes, bytes] = {}
    place = 12
    while place + 8 <= len(content) and not found.keys() >= {b"fmt ", b"data"}:
        name, size = content[place : place + 4], struct.unpack_from("<I", content, place + 4)[0]
        if name == b"data" and size in _UNKNOWN and not _is_followed_by_chunks(content, place + 8 + size):
            size = len(content) - place - 8
        chunk = content[place + 8 : place + 8 + size]
        if name in (b"fmt ", b"data") and len(chunk) < size:
            raise ValueError(f"it is truncated, with {len(chunk):,} of {size:,} bytes of its chunk {name.decode()!r}")
        found.setdefault(name, chunk)
        place += 8 + size + size % 2
    for name in (b"fmt ", b"data"):
        if name not in found:
            raise ValueError(f"it has no chunk {name.decode()!r}")
    return found[b"fmt "], found[b"data"]


def _is_followed_by_chunks(content: bytes, place: int) -> bool:
    """Returns whether whole chunks fill a file from an offset to its end, so that the chunk before it has its size."""
    while place + 8 <= len(content) and all(32 <= letter < 127 for letter in content[place : place + 4]):
        size = struct.unpack_from("<I", content, place + 4)[0]
        place += 8 + size + size % 2
    return place == len(content)


def _decode(data: bytes, coding: int, bits: int) -> np.ndarray:
    """Returns the samples as float64 [n], integers scaled to [-1, 1).

    Raises:
      ValueError: the coding is unknown, or a sample is incomplete.
    """
    if (coding, bits) not in _CODINGS and (coding, bits) != (_PCM, 24):
        raise ValueError(
            f"its coding is {coding} with {bits} bits where PCM (1) of 8, 16, 24 or 32 bits or floats (3) are expected"
        )
    if len(data) % (bits // 8):
        raise ValueError(f"its {len(data):,} bytes of data end within a sample of {bits} bits")
    if bits == 24:
        wide = np.zeros((len(data) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        return wide.view("<i4")[:, 0] / 2.0**31
    values = np.frombuffer(data, _CODINGS[coding, bits]).astype(np.float64)
    if coding == _FLOAT:
        return values
    return (values - 128) / 128 if bits == 8 else values / 2.0 ** (bits - 1)
