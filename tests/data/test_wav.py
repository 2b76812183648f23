"""WAV files of every coding, damaged ones by name, and rates changed as SciPy changes them."""

import struct
import wave

import numpy as np
import pytest

from sparsejax.data.wav import read_clip, read_wav, resample
from sparsejax.errors import ConfigError, DataDamagedError, DataMissingError


def wav_bytes(data: bytes, *, channels=1, rate=16_000, bits=16, coding=1, extra=b"", form=None) -> bytes:
    """Writes a WAV file by the format's description; `extra` chunks come before the data."""
    frame = channels * bits // 8
    form = form or struct.pack("<HHIIHH", coding, channels, rate, rate * frame, frame, bits)
    chunks = b"fmt " + struct.pack("<I", len(form)) + form + extra + b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


@pytest.fixture
def clip(tmp_path):
    """Returns a function that writes bytes to a file and names it."""

    def write(content: bytes):
        path = tmp_path / "clip.wav"
        path.write_bytes(content)
        return path

    return write


VALUES = np.array([0, 0.5, -0.5, 0.25, -1, 1 - 2**-7])


@pytest.mark.parametrize(
    ("bits", "coding", "data"),
    [
        (8, 1, (VALUES * 128 + 128).astype("u1").tobytes()),
        (16, 1, (VALUES * 2**15).astype("<i2").tobytes()),
        (24, 1, b"".join(int(v * 2**23).to_bytes(3, "little", signed=True) for v in VALUES)),
        (32, 1, (VALUES * 2**31).astype("<i4").tobytes()),
        (32, 3, VALUES.astype("<f4").tobytes()),
        (64, 3, VALUES.astype("<f8").tobytes()),
    ],
)
def test_every_coding_is_read_exactly(clip, bits, coding, data):
    sound = read_wav(clip(wav_bytes(data, bits=bits, coding=coding, rate=11_025)))
    assert sound.rate == 11_025
    np.testing.assert_array_equal(sound.samples, VALUES[:, None])
    np.testing.assert_array_equal(
        read_clip(clip(wav_bytes(data, bits=bits, coding=coding)), rate=16_000), VALUES * 2**15
    )


def test_other_chunks_padding_and_the_extensible_form(clip):
    extra = b"LIST" + struct.pack("<I", 3) + b"abc\0"
    form = struct.pack("<HHIIHHHHIH", 0xFFFE, 2, 8000, 32_000, 4, 16, 22, 16, 3, 1) + b"\0" * 14
    data = np.arange(-4, 4, dtype="<i2").tobytes()
    sound = read_wav(clip(wav_bytes(data, extra=extra, form=form)))
    np.testing.assert_array_equal(sound.samples * 2**15, np.arange(-4, 4).reshape(4, 2))


def test_files_of_pythons_writer_are_read(tmp_path):
    samples = np.random.default_rng(0).integers(-(2**15), 2**15, 1000, dtype=np.int16)
    with wave.open(str(tmp_path / "clip.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(samples.astype("<i2").tobytes())
    np.testing.assert_array_equal(read_clip(tmp_path / "clip.wav", rate=16_000), samples)


WHOLE = wav_bytes(b"\1\0" * 50)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the file is empty"),
        (b"ID3" + WHOLE, "does not start like a WAV file"),
        (WHOLE[:100], "truncated, with 56 of 100 bytes of its chunk 'data'"),
        (WHOLE[:36], "no chunk 'data'"),
        (WHOLE[:12] + WHOLE[36:], "no chunk 'fmt '"),
        (wav_bytes(b""), "holds 0 samples"),
        (wav_bytes(b"\1\0\2"), "end within a sample"),
        (wav_bytes(b"\1\0" * 3, channels=2), "3 samples for 2 channels"),
        (wav_bytes(b"\1\0", channels=0), "0 channels"),
        (wav_bytes(b"\1" * 8, coding=7, bits=8), "coding is 7"),
        (wav_bytes(b"\1" * 8, form=b"\1\0"), "format chunk has 2 bytes"),
        (wav_bytes(np.array([0, np.nan], "<f4").tobytes(), coding=3, bits=32), "not numbers"),
    ],
)
def test_a_damaged_clip_is_named(clip, content, said):
    path = clip(content)
    with pytest.raises(DataDamagedError, match=said) as error:
        read_wav(path)
    assert str(path) in str(error.value)


def resized(content: bytes, riff: int | None = None, data: int | None = None) -> bytes:
    """Writes other sizes into the header of a file, as a program does that cannot know them yet."""
    content, place = bytearray(content), content.index(b"data") + 4
    if riff is not None:
        struct.pack_into("<I", content, 4, riff)
    if data is not None:
        struct.pack_into("<I", content, place, data)
    return bytes(content)


@pytest.mark.parametrize("riff", [None, 0, 36, 0xFFFF_FFFF, 0x7FFF_F024])
@pytest.mark.parametrize("data", [0, 0xFFFF_FFFF, 0x7FFF_F000, 0x7FFF_FFFF, 0x8000_0000])
@pytest.mark.parametrize("samples", [np.zeros(50, "<i2"), np.arange(-25, 25, dtype="<i2")], ids=["silence", "ramp"])
def test_a_clip_written_to_a_pipe_ends_with_its_file(clip, riff, data, samples):
    extra = b"LIST" + struct.pack("<I", 4) + b"INFO"
    content = resized(wav_bytes(samples.tobytes(), extra=extra), riff, data)
    np.testing.assert_array_equal(read_clip(clip(content), rate=16_000), samples)
    with pytest.raises(DataDamagedError, match="end within a sample"):
        read_wav(clip(content[:-1]))


def test_sizes_that_are_known_are_kept(clip):
    tags = b"id3 " + struct.pack("<I", 3) + b"abc\0"
    for content in (wav_bytes(b""), wav_bytes(b"") + tags, resized(wav_bytes(b""), 0, 0)):
        with pytest.raises(DataDamagedError, match="holds 0 samples"):
            read_wav(clip(content))
    for size in (101, 0x7FFF_EFFF, 0xFFFF_FFFE):
        with pytest.raises(DataDamagedError, match=f"truncated, with 100 of {size:,} bytes of its chunk 'data'"):
            read_wav(clip(resized(WHOLE, None, size)))
    for size in (0, 0xFFFF_FFFF):  # only the RIFF size is wrong, and tags follow the samples
        np.testing.assert_array_equal(read_clip(clip(resized(WHOLE + tags, size)), rate=16_000), np.ones(50))


def test_a_missing_clip_is_named(tmp_path):
    with pytest.raises(DataMissingError, match="nowhere.wav"):
        read_wav(tmp_path / "nowhere.wav")


def test_channels_and_rates_are_converted_only_when_asked(clip):
    stereo = wav_bytes(np.array([[100, 300], [-4, -8]], "<i2").tobytes(), channels=2)
    with pytest.raises(ConfigError, match=r"clip.wav has 2 channels at 16000 Hz .*convert=True"):
        read_clip(clip(stereo), rate=16_000)
    np.testing.assert_array_equal(read_clip(clip(stereo), rate=16_000, convert=True), [200, -6])

    tone = np.sin(2 * np.pi * 440 * np.arange(8000) / 8000)
    slow = wav_bytes((tone * 20_000).astype("<i2").tobytes(), rate=8000)
    with pytest.raises(ConfigError, match="1 channel at 8000 Hz where one at 16000 Hz"):
        read_clip(clip(slow), rate=16_000)
    fast = read_clip(clip(slow), rate=16_000, convert=True)
    assert fast.dtype == np.int16 and len(fast) == 16_000
    expected = 20_000 * np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)
    np.testing.assert_allclose(fast[200:-200], expected[200:-200], atol=40)


def test_samples_beyond_16_bits_are_clipped(clip):
    loud = wav_bytes(np.array([2.0, -2.0], "<f4").tobytes(), coding=3, bits=32)
    np.testing.assert_array_equal(read_clip(clip(loud), rate=16_000), [32767, -32768])


@pytest.mark.parametrize("rates", [(8000, 16_000), (16_000, 8000), (44_100, 16_000), (48_000, 16_000), (7, 5)])
@pytest.mark.parametrize("count", [1, 3, 400])
def test_rates_are_changed_as_scipy_changes_them(rates, count):
    signal = pytest.importorskip("scipy.signal")
    x = np.random.default_rng(count).normal(size=count)
    divisor = np.gcd(*rates)
    expected = signal.resample_poly(x, rates[1] // divisor, rates[0] // divisor)
    np.testing.assert_allclose(resample(x, *rates), expected, atol=1e-10)
