"""Mel spectrograms agree with SciPy's STFT and filters written out, on real clips and on tones."""

import functools
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.data.wav import read_clip
from sparsejax.functional import mel_filters, mel_power, mel_spectrogram, power_to_db, stft_power

signal = pytest.importorskip("scipy.signal")
powers = jax.jit(stft_power, static_argnames=("n_fft", "hop", "pad_mode"))
spectrograms = jax.jit(mel_spectrogram)
_REAL = Path(os.environ.get("SPARSEJAX_DATA", "/nowhere")) / "speech_commands"


def mel_edges(bands, top):
    """Slaney's scale by its definition: 3 mel in 200 Hz up to 1,000 Hz, then 27 mel for a factor of 6.4."""

    def to_mel(f):
        return 3 * f / 200 if f < 1000 else 15 + np.log(f / 1000) / (np.log(6.4) / 27)

    def to_hertz(m):
        return 200 * m / 3 if m < 15 else 1000 * np.exp((np.log(6.4) / 27) * (m - 15))

    return np.array([to_hertz(m) for m in np.linspace(0, to_mel(top), bands + 2)])


def reference_filters(rate=16_000, n_fft=2048, bands=32):
    edges, frequencies = mel_edges(bands, rate / 2), np.arange(n_fft // 2 + 1) * rate / n_fft
    rows = [np.interp(frequencies, edges[i : i + 3], [0, 1, 0], 0, 0) * 2 / (edges[i + 2] - edges[i])
            for i in range(bands)]  # fmt: skip
    return np.array(rows)


def reference_power(x, n_fft=2048, hop=512, mode="reflect"):
    x = np.pad(np.asarray(x, np.float64), n_fft // 2, mode=mode)
    window = signal.get_window("hann", n_fft)
    _, _, spectrum = signal.stft(
        x, window=window, nperseg=n_fft, noverlap=n_fft - hop, boundary=None, padded=False, scaling="spectrum"
    )
    return np.abs(spectrum * window.sum()).T ** 2


def reference_mel(x):
    mel = reference_filters() @ reference_power(x).T
    level = 10 * np.log10(np.maximum(mel, 1e-10))
    return np.maximum(level - level.max(), -80)


@functools.cache
def clips():
    """Returns some real clips, or noises and chirps where there are none."""
    files = sorted(_REAL.glob("*/*.wav"))[::67] if _REAL.is_dir() else []
    waves = np.zeros((max(len(files), 8), 16_000))
    for row, file in zip(waves, files, strict=False):
        clip = read_clip(file, rate=16_000) / 32768
        row[: len(clip)] = clip
    if not files:
        random, t = np.random.default_rng(0), np.arange(16_000) / 16_000
        for i, row in enumerate(waves):
            row[:] = 0.3 * signal.chirp(t, 100 + 200 * i, 1, 6000) * np.hanning(16_000) + 1e-3 * random.normal(
                size=16_000
            )
    return waves.astype(np.float32)


def test_features_agree_with_scipy_to_a_thousandth_of_a_decibel():
    waves = clips()
    ours = np.asarray(spectrograms(waves))
    assert ours.shape == (len(waves), 32, 32) and ours.dtype == np.float32
    expected = np.stack([reference_mel(x) for x in waves])
    np.testing.assert_allclose(ours, expected, atol=1e-3)
    assert expected.std() > 10, "the clips are not silent"
    np.testing.assert_array_equal(ours.max((1, 2)), 0)
    eager = np.asarray(mel_spectrogram(jnp.asarray(waves[0])))
    np.testing.assert_allclose(eager, expected[0], atol=1e-3)


@pytest.mark.parametrize(("n_fft", "hop", "samples"), [(64, 16, 200), (64, 24, 201), (32, 32, 96)])
@pytest.mark.parametrize("mode", ["reflect", "constant"])
def test_powers_of_other_sizes_agree_with_scipy(n_fft, hop, samples, mode):
    x = np.random.default_rng(1).normal(size=(2, 3, samples)).astype(np.float32)
    ours = np.asarray(powers(x, n_fft=n_fft, hop=hop, pad_mode=mode))
    assert ours.shape == (2, 3, 1 + samples // hop, 1 + n_fft // 2)
    expected = reference_power(x[1, 2], n_fft, hop, mode)
    np.testing.assert_allclose(ours[1, 2], expected[: ours.shape[2]], rtol=1e-4, atol=1e-3)


def test_filters_are_slaneys():
    ours = mel_filters()
    np.testing.assert_allclose(ours, reference_filters(), atol=1e-7)
    # A filter's height is 2 over its width, so its area in Hz is 1, as far as the bins sample it.
    areas = mel_filters(n_fft=2**15).sum(1) * 16_000 / 2**15
    np.testing.assert_allclose(areas, 1, atol=1e-3)
    assert not ours.flags.writeable
    with pytest.raises(ValueError, match="use fewer bands or a longer n_fft"):
        mel_filters(n_fft=64, bands=60)


def test_a_tone_is_loudest_in_its_band():
    t = np.arange(16_000) / 16_000
    edges, bands = mel_edges(32, 8000), [3, 12, 25]
    tones = np.stack([np.sin(2 * np.pi * edges[band + 1] * t) for band in bands])
    images = np.asarray(spectrograms(tones.astype(np.float32)))
    np.testing.assert_array_equal(images.mean(axis=2).argmax(axis=1), bands)


def test_decibels():
    power = np.array([[1.0, 0.1], [1e-3, 0.0]], np.float32)
    decibels = jax.jit(power_to_db, static_argnames=("amin", "top_db"))
    np.testing.assert_allclose(decibels(power), [[0, -10], [-30, -80]], atol=1e-5)
    np.testing.assert_allclose(decibels(power, top_db=None), [[0, -10], [-30, -100]], atol=1e-5)
    np.testing.assert_array_equal(decibels(np.zeros((2, 2, 3), np.float32)), 0)
    both = decibels(np.stack([power, 7 * power]), amin=1e-30)
    np.testing.assert_allclose(both[0], both[1], atol=1e-4)
    with pytest.raises(ValueError, match="amin is 0"):
        decibels(power, amin=0)


def test_gradients_are_finite_and_what_does_not_fit_is_refused():
    x, slope = jnp.asarray(clips()[0]), jax.jit(jax.grad(lambda x: jnp.mean(mel_spectrogram(x))))
    gradient = slope(x)
    assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0
    assert np.isfinite(slope(np.zeros(16_000, np.float32))).all()
    with pytest.raises(ValueError, match=r"The waveform has 1000 samples; .* 1025 or more"):
        stft_power(jnp.zeros(1000))
    with pytest.raises(ValueError, match="pad_mode is 'wrap'"):
        stft_power(x, pad_mode="wrap")
    with pytest.raises(ValueError, match="n_fft is 63"):
        stft_power(x, n_fft=63)
    assert mel_power(jnp.ones((3, 1025))).shape == (32, 3)
