"""References of spectra and augmentation."""

import numpy as np

from sparsejax import functional
from tests.references.reference import finite, need, reference


def mel_weights(a, n_fft):
    return np.asarray(functional.mel_filters(sample_rate=a.sample_rate, n_fft=n_fft, bands=a.bands), np.float64)


def power_of(x, n_fft, hop, mode):
    padded = np.pad(x, [(0, 0)] * (x.ndim - 1) + [(n_fft // 2, n_fft // 2)], mode=mode)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
    starts = range(0, (1 + x.shape[-1] // hop) * hop, hop)
    return np.abs(np.stack([np.fft.rfft(padded[..., i : i + n_fft] * window) for i in starts], -2)) ** 2


def half_is_too_coarse(d, a):
    """Makes waveforms float32: XLA has no transform of half precision."""
    return {key: np.asarray(value).astype(np.float32) if np.ndim(value) else value for key, value in a.items()}


@reference("stft_power", half_is_too_coarse)
def _(a, y):
    finite(a.waveform)
    return power_of(a.waveform, a.n_fft, a.hop, a.pad_mode)


@reference("mel_filters")
def _(a, y):
    assert y.shape == (a.bands, 1 + a.n_fft // 2) and (y >= 0).all() and (y.sum(1) > 0).all()


@reference("mel_power")
def _(a, y):
    finite(a.power)
    return np.swapaxes(a.power @ mel_weights(a, 2 * (a.power.shape[-1] - 1)).T, -1, -2)


@reference("power_to_db")
def _(a, y):
    finite(a.power)
    need(a.power.size, a.amin >= 1e-10)
    level = 10 * np.log10(np.maximum(a.power, a.amin))
    level = level - level.max((-2, -1), keepdims=True)
    level = level if a.top_db is None else np.maximum(level, -a.top_db)
    np.testing.assert_allclose(y, level, atol=0.5, rtol=0.02)


@reference("mel_spectrogram", lambda d, a: half_is_too_coarse(d, a) | {"pad_mode": "constant"})
def _(a, y):
    finite(a.waveform)
    need(a.waveform.size)
    power = power_of(a.waveform, a.n_fft, a.hop, a.pad_mode) @ mel_weights(a, a.n_fft).T
    level = 10 * np.log10(np.maximum(power, 1e-10))
    level = np.maximum(level - level.max((-2, -1), keepdims=True), -80)
    np.testing.assert_allclose(y, np.swapaxes(level, -1, -2), atol=0.2)


@reference("crop_and_flip")
def _(a, y):
    assert y.shape == a.images.shape
    values = set(np.nan_to_num(a.images, nan=1234.5).ravel().tolist()) | {0.0}
    assert set(np.nan_to_num(y, nan=1234.5).ravel().tolist()) <= values
    if a.pad == 0 and not np.isnan(a.images).any():
        for image, new in zip(a.images, y, strict=True):
            assert (new == image).all() or (new == image[:, ::-1]).all()


@reference("augmentation.amplitude")
def _(a, y):
    finite(a.waveform)
    need(a.waveform.size, 0 <= a.probability <= 1, np.isfinite(a.low) and np.isfinite(a.high), abs(a.high) < 1e3)
    for before, after in zip(a.waveform, y, strict=True):
        at = np.argmax(np.abs(before))
        if before[at]:
            factor = after[at] / before[at]
            assert a.low - 0.02 <= factor <= a.high + 0.02 or abs(factor - 1) < 0.02
            np.testing.assert_allclose(after, factor * before, atol=0.02 * np.abs(before).max())


def same_or_within(a, before, y):
    """Asserts the shape, the range, and, with probability 0, that nothing changes."""
    finite(before)
    need(before.size, 0 <= a.probability <= 1)
    assert y.min() >= min(0, before.min()) - 0.05 * np.abs(before).max()
    assert y.max() <= max(0, before.max()) + 0.05 * np.abs(before).max()
    if a.probability == 0:
        np.testing.assert_allclose(y[:, : before.shape[1]], before[:, : y.shape[1]], atol=0.02 * np.abs(before).max())


@reference("augmentation.speed")
def _(a, y):
    assert y.shape == a.waveform.shape
    same_or_within(a, a.waveform, y)


@reference("augmentation.stretch")
def _(a, y):
    frames = a.power.shape[1] if a.frames is None else a.frames
    assert y.shape == (len(a.power), frames, a.power.shape[2])
    need(frames, (a.power >= 0).all())
    same_or_within(a, a.power, y)


@reference("augmentation.shift")
def _(a, y):
    assert y.shape == a.power.shape
    same_or_within(a, a.power, y)
    for before, after in zip(a.power, y, strict=True):
        silence = np.zeros_like(before)
        padded, n = np.concatenate([silence, before, silence]), len(before)
        moves = range(-min(n, a.frames), min(n, a.frames) + 1)
        assert any((after == padded[n - move : 2 * n - move]).all() for move in moves)
