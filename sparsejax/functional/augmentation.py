"""Random changes of images and clips of sound that preserve their class, with one key per example.

Each change of clips draws an amount for every example and, with probability 1 - `probability`, leaves the example
unchanged. They follow the preprocessing of Ahmad & Scheinkman (How Can We Be So Dense?, 2019, section 4.2):
`amplitude` and `speed` change the waveform, `stretch` and `shift` its STFT.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, Num

from sparsejax.functional.arguments import checked
from sparsejax.functional.shards import on_shards

Probability = float | Float[Array, ""]


@checked
def amplitude(
    keys: Key[Array, "batch"],
    waveform: Float[Array, "batch samples"],
    *,
    low: float = 0.7,
    high: float = 1.1,
    probability: Probability = 0.5,
) -> Float[Array, "batch samples"]:
    """Multiplies each waveform by a factor drawn from U(low, high).

    It has no effect on features relative to their maximum, such as those of `mel_spectrogram`.

    Args:
      keys: one PRNG key per example `[batch]`.
      waveform: `[batch, samples]`.
      low: smallest factor.
      high: largest factor.
      probability: of a change; may be traced.

    Returns:
      Array like waveform.

    Raises:
      ValueError: probability is a Python number outside [0, 1], or low exceeds high.

    References:
      Ahmad & Scheinkman, How Can We Be So Dense?, 2019, section 4.2; the range is that of the authors' code.
    """
    factor = _draw_amounts(keys, low, high, 1.0, probability)
    return waveform * factor[:, None].astype(waveform.dtype)


@checked
def speed(
    keys: Key[Array, "batch"],
    waveform: Float[Array, "batch samples"],
    *,
    scale: float = 0.2,
    probability: Probability = 0.5,
) -> Float[Array, "batch samples"]:
    """Plays each waveform slower or faster (and lower or higher): 1 + U(-scale, scale) times as long.

    The new samples are interpolated linearly. A longer waveform is truncated, a shorter one padded with zeros.

    Args:
      keys: one PRNG key per example `[batch]`.
      waveform: `[batch, samples]`.
      scale: largest change of the length, in [0, 1).
      probability: of a change; may be traced.

    Returns:
      Array like waveform.

    Raises:
      ValueError: probability is a Python number outside [0, 1], or scale is outside [0, 1).

    References:
      Ahmad & Scheinkman, How Can We Be So Dense?, 2019, section 4.2; the range is that of the authors' code.
    """
    _check_scale(scale)
    step = 1 / (1 + _draw_amounts(keys, -scale, scale, 0.0, probability))
    return _sample_at(waveform[..., None], step, waveform.shape[1], silent_end=False)[..., 0]


@checked
def stretch(
    keys: Key[Array, "batch"],
    power: Float[Array, "batch frames bins"],
    *,
    scale: float = 0.2,
    frames: int | None = None,
    probability: Probability = 0.5,
) -> Float[Array, "batch asked bins"]:
    """Plays each STFT faster or slower by a factor of 1 + U(-scale, scale), at the same pitch.

    Magnitudes are interpolated linearly between frames, as in a phase vocoder, whose phases do not affect the power.

    Args:
      keys: one PRNG key per example `[batch]`.
      power: of the STFT `[batch, frames, bins]`, as of `stft_power`.
      scale: largest change of the rate, in [0, 1).
      frames: frames to return, zeros after the end; None for as many as in power. A `shift` to the left needs more.
      probability: of a change; may be traced.

    Returns:
      `[batch, frames, bins]` with that many frames.

    Raises:
      ValueError: probability is a Python number outside [0, 1], or scale is outside [0, 1).

    References:
      Flanagan & Golden, Phase Vocoder, 1966; librosa's documentation of `phase_vocoder`.
    """
    _check_scale(scale)
    rate = 1 + _draw_amounts(keys, -scale, scale, 0.0, probability)
    magnitude = jnp.sqrt(power)
    return _sample_at(magnitude, rate, power.shape[1] if frames is None else frames, silent_end=True) ** 2


@checked
def shift(
    keys: Key[Array, "batch"],
    power: Float[Array, "batch frames bins"],
    *,
    frames: int = 8,
    probability: Probability = 0.5,
) -> Float[Array, "batch frames bins"]:
    """Shifts each STFT by an integer number of frames drawn from -frames to frames, filling with silence.

    Args:
      keys: one PRNG key per example `[batch]`.
      power: of the STFT `[batch, frames, bins]`, as of `stft_power`.
      frames: largest shift, 0 or more.
      probability: of a change; may be traced.

    Returns:
      Array like power.

    Raises:
      ValueError: probability is a Python number outside [0, 1], or frames is negative.

    References:
      Ahmad & Scheinkman, How Can We Be So Dense?, 2019, section 4.2; the 8 frames are those of the authors' code.
    """
    if frames < 0:
        raise ValueError(f"frames is {frames}; expected 0 or more.")
    # The floor of U(-frames, frames + 1) is uniform over these integers.
    moves = jnp.floor(_draw_amounts(keys, -frames, frames + 1, 0.0, probability)).astype(jnp.int32)
    places = jnp.arange(power.shape[1], dtype=jnp.int32)[None] - moves[:, None]
    return _frames_at(power, places)


def _draw_amounts(
    keys: Key[Array, "batch"], low: float, high: float, neutral: float, probability: Probability
) -> Float[Array, "batch"]:
    """Draws each example's amount from U(low, high), or uses the neutral one."""
    if isinstance(probability, (int, float)) and not 0 <= probability <= 1:
        raise ValueError(f"probability is {probability}; expected a number in [0, 1].")
    if not low <= high:
        raise ValueError(f"The smallest amount is {low} and the largest {high}; expected them in order.")
    draws = jax.vmap(lambda key: jax.random.uniform(key, (2,), jnp.float32))(keys)
    amount = jnp.float32(low) + (jnp.float32(high) - jnp.float32(low)) * draws[:, 0]
    return jnp.where(draws[:, 1] < jnp.asarray(probability, jnp.float32), amount, jnp.float32(neutral))


def _check_scale(scale: float) -> None:
    if not 0 <= scale < 1:
        raise ValueError(f"scale is {scale}; expected a number in [0, 1).")


def _sample_at(
    x: Float[Array, "batch n *rest"], step: Float[Array, "batch"], count: int, *, silent_end: bool
) -> Float[Array, "batch count *rest"]:
    """Interpolates linearly at 0, step, 2 step, ...; zeros from n on, and between n - 1 and n the last value, which
    fades to zero with `silent_end`.
    """
    n = x.shape[1]
    at = jnp.arange(count, dtype=jnp.float32)[None] * step[:, None]
    left = jnp.floor(at)
    part = (at - left).reshape(*at.shape, *(1,) * (x.ndim - 2)).astype(x.dtype)
    left = left.astype(jnp.int32)
    right = left + 1 if silent_end else jnp.where(left == n - 1, left, left + 1)
    return (1 - part) * _frames_at(x, left) + part * _frames_at(x, right) * (left < n).reshape(part.shape).astype(
        x.dtype
    )


def _frames_at(
    x: Float[Array, "batch n *rest"], places: Int[Array, "batch count"]
) -> Float[Array, "batch count *rest"]:
    """Takes entries along the second axis, zeros outside its range."""
    there = (places >= 0) & (places < x.shape[1])
    taken = jax.vmap(lambda row, place: row[place])(x, jnp.clip(places, 0, x.shape[1] - 1))
    return jnp.where(there.reshape(*there.shape, *(1,) * (x.ndim - 2)), taken, jnp.zeros((), x.dtype))


@checked
def crop_and_flip(
    keys: Key[Array, "batch"], images: Num[Array, "batch height width channels"], *, pad: int = 4
) -> Num[Array, "batch height width channels"]:
    """Shifts each image by up to `pad` pixels along either axis, filling with zeros, and mirrors half of them.

    All shifts by whole pixels are equally likely; an image is mirrored left to right with probability 1/2.

    Args:
      keys: one PRNG key per example `[batch]`.
      images: `[batch, height, width, channels]` of any number type.
      pad: largest shift in pixels, 0 or more.

    Returns:
      Array like images.

    Raises:
      ValueError: images is not a batch of images, or pad is negative.

    References:
      He et al., Deep Residual Learning for Image Recognition, 2016, section 4.2 (the standard one for CIFAR-10).
    """
    if pad < 0:
        raise ValueError(f"pad is {pad}; expected a number of pixels, 0 or more.")
    return on_shards(_crop_and_flip, lead=1, rows={"keys": keys, "images": images}, shared={"pad": pad})


def _crop_and_flip(keys: Array, images: Array, pad: int) -> Array:
    padded = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    height, width = images.shape[1:3]

    def pixels(key: Array) -> tuple[Array, Array]:
        where, mirror = jax.random.split(key)
        row, column = jax.random.randint(where, (2,), 0, 2 * pad + 1, jnp.int32)
        columns = jnp.arange(width, dtype=jnp.int32)
        return row + jnp.arange(height, dtype=jnp.int32), column + jnp.where(
            jax.random.bernoulli(mirror), columns[::-1], columns
        )

    # Gather pixels from the whole batch: slicing each image takes a CPU nine times as long.
    rows, columns = jax.vmap(pixels)(keys)
    return padded[jnp.arange(len(images))[:, None, None], rows[:, :, None], columns[:, None]]
