"""Mel spectrograms of waveforms, the inputs of speech networks."""

import functools
import math
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from sparsejax.functional.arguments import checked

PadMode = Literal["reflect", "constant"]
SAMPLE_RATE, N_FFT, HOP, BANDS = 16_000, 2048, 512, 32


def frames_of(samples: int, *, hop: int = HOP) -> int:
    """Returns the number of frames of a waveform: one around each hop-th sample, including the first."""
    return 1 + samples // hop


@checked
def stft_power(
    waveform: Float[Array, "*batch samples"], *, n_fft: int = N_FFT, hop: int = HOP, pad_mode: PadMode = "reflect"
) -> Float[Array, "*batch frames bins"]:
    """Returns the power |STFT|^2 of frames centred on every hop-th sample, under a periodic Hann window.

    Args:
      waveform: `[..., samples]`.
      n_fft: samples per frame, an even number.
      hop: samples between two frames.
      pad_mode: padding at the ends, "reflect" (librosa's default until 0.9, used by the paper's code) or "constant"
        (zeros, its default since 0.10).

    Returns:
      `[..., 1 + samples // hop, 1 + n_fft // 2]`, frequencies from 0 to half the sample rate.

    Raises:
      ValueError: a setting is out of range, or the waveform is too short for reflection.

    References:
      Allen & Rabiner, A Unified Approach to Short-Time Fourier Analysis and Synthesis, 1977.
    """
    samples = waveform.shape[-1]
    if n_fft < 2 or n_fft % 2 or hop < 1:
        raise ValueError(f"n_fft is {n_fft} and hop {hop}; expected an even number of samples and 1 or more.")
    if pad_mode == "reflect" and samples <= n_fft // 2:
        raise ValueError(
            f"The waveform has {samples} samples; with pad_mode 'reflect' and n_fft {n_fft}, {n_fft // 2 + 1} or more "
            "are expected. Use a shorter n_fft, longer waveforms or pad_mode 'constant'."
        )
    ends = [(0, 0)] * (waveform.ndim - 1) + [(n_fft // 2, n_fft // 2)]
    padded = jnp.pad(waveform, ends, mode=pad_mode)
    # Slices, because a gather of overlapping frames takes several times as long on a CPU.
    starts = range(0, frames_of(samples, hop=hop) * hop, hop)
    frames = jnp.stack([padded[..., start : start + n_fft] for start in starts], axis=-2)
    window = np.asarray(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft), frames.dtype)
    spectrum = jnp.fft.rfft(frames * window.reshape((1,) * (frames.ndim - 1) + (-1,)))
    return jnp.real(spectrum) ** 2 + jnp.imag(spectrum) ** 2


@checked
@functools.cache
def mel_filters(*, sample_rate: int = SAMPLE_RATE, n_fft: int = N_FFT, bands: int = BANDS) -> np.ndarray:
    """Returns triangular filters of equal area, evenly spaced on Slaney's mel scale from 0 to half the sample rate.

    The scale is linear below 1,000 Hz (3 mel in 200 Hz) and logarithmic above (27 mel for a factor of 6.4). Each
    triangle reaches from its left neighbour's centre to its right one's, and has a height of 2 / (its width in Hz).
    These are librosa's default scale and norm.

    Args:
      sample_rate: samples per second.
      n_fft: samples of a frame of the STFT, an even number.
      bands: number of filters, the lowest first.

    Returns:
      float32 `[bands, 1 + n_fft // 2]`; a cached NumPy array.

    Raises:
      ValueError: a setting is out of range, or a band is too narrow to contain a frequency, so it would always be 0.

    References:
      Slaney, Auditory Toolbox, Technical Report 1998-010; librosa's documentation of `filters.mel`.
    """
    if sample_rate < 1 or n_fft < 2 or n_fft % 2 or not 1 <= bands <= n_fft:
        raise ValueError(
            f"sample_rate is {sample_rate}, n_fft {n_fft} and bands {bands}; expected 1 or more, an even number of "
            "samples, and at least one band but no more than those samples."
        )
    top = sample_rate / 2
    edges = _hertz(np.linspace(0.0, _mel(top), bands + 2))
    frequencies = np.linspace(0.0, top, 1 + n_fft // 2)
    left, centre, right = (edges[i : i + bands, None] for i in range(3))
    rising, falling = (frequencies - left) / (centre - left), (right - frequencies) / (right - centre)
    filters = np.maximum(0.0, np.minimum(rising, falling)) * 2 / (right - left)
    empty = np.flatnonzero(filters.sum(axis=1) == 0)
    if empty.size:
        raise ValueError(
            f"{len(empty)} of {bands} mel bands have no frequency of an STFT with n_fft {n_fft} at {sample_rate} Hz; "
            "use fewer bands or a longer n_fft."
        )
    filters = filters.astype(np.float32)
    filters.flags.writeable = False  # shared by all callers
    return filters


@checked
def power_to_db(
    power: Float[Array, "*batch rows columns"], *, amin: float = 1e-10, top_db: float | None = 80.0
) -> Float[Array, "*batch rows columns"]:
    """Returns decibels below the maximum: 10 log10(max(power, amin) / max(largest, amin)), at least -top_db.

    Args:
      power: `[..., rows, columns]`; the maximum is taken over the last two axes.
      amin: lower bound of powers; more than 0.
      top_db: the range; None for no limit.

    Returns:
      Array like power, of values in [-top_db, 0]; all 0 for silence.

    Raises:
      ValueError: amin is not positive, or top_db is negative.

    References:
      librosa's documentation of `power_to_db`, with `ref=np.max`.
    """
    if not amin > 0 or (top_db is not None and not top_db >= 0):
        raise ValueError(f"amin is {amin} and top_db {top_db}; expected more than 0, and None or 0 or more.")
    if not power.size:
        return power
    level = 10 / math.log(10) * jnp.log(jnp.maximum(power, amin))
    level = level - jnp.max(level, axis=(-2, -1), keepdims=True)
    return level if top_db is None else jnp.maximum(level, -top_db)


@checked
def mel_power(
    power: Float[Array, "*batch frames bins"], *, sample_rate: int = SAMPLE_RATE, bands: int = BANDS
) -> Float[Array, "*batch bands frames"]:
    """Sums the power of an STFT in mel bands, with the filters of `mel_filters`.

    Args:
      power: of the STFT `[..., frames, bins]`, from `stft_power`.
      sample_rate: samples per second.
      bands: number of bands.

    Returns:
      `[..., bands, frames]`, the lowest band first.

    Raises:
      ValueError: as `mel_filters`.

    References:
      Davis & Mermelstein, Comparison of Parametric Representations for Monosyllabic Word Recognition in Continuously
      Spoken Sentences, 1980 (mel bands); librosa's documentation of `feature.melspectrogram`.
    """
    filters = mel_filters(sample_rate=sample_rate, n_fft=2 * (power.shape[-1] - 1), bands=bands)
    return jnp.swapaxes(jnp.matmul(power, filters.T.astype(power.dtype), precision=lax.Precision.HIGHEST), -1, -2)


@checked
def mel_spectrogram(
    waveform: Float[Array, "*batch samples"],
    *,
    sample_rate: int = SAMPLE_RATE,
    n_fft: int = N_FFT,
    hop: int = HOP,
    bands: int = BANDS,
    pad_mode: PadMode = "reflect",
) -> Float[Array, "*batch bands frames"]:
    """Returns the mel spectrogram in decibels below its maximum; by default 32 x 32 for a second at 16 kHz.

    Args:
      waveform: `[..., samples]`.
      sample_rate: samples per second.
      n_fft: samples per frame.
      hop: samples between two frames.
      bands: mel bands, the lowest first.
      pad_mode: as in `stft_power`.

    Returns:
      `[..., bands, 1 + samples // hop]`, in dB, of values in [-80, 0].

    Raises:
      ValueError: as `stft_power` and `mel_filters`.

    References:
      Ahmad & Scheinkman, How Can We Be So Dense?, 2019, section 4.2; sizes and defaults are those of the authors' code.
    """
    power = stft_power(waveform, n_fft=n_fft, hop=hop, pad_mode=pad_mode)
    return power_to_db(mel_power(power, sample_rate=sample_rate, bands=bands))


def _mel(hertz: float) -> float:
    return 0.015 * hertz if hertz < 1000 else 15 + 27 * math.log(hertz / 1000) / math.log(6.4)


def _hertz(mel: np.ndarray) -> np.ndarray:
    return np.where(mel < 15, mel / 0.015, 1000 * 6.4 ** ((mel - 15) / 27))
