"""Changes of amplitude, speed, length and time against NumPy, and white noise: keyed only by example."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.functional import augmentation, example_keys, stft_power, white_noise_blend

amplitude, speed = jax.jit(augmentation.amplitude), jax.jit(augmentation.speed)
stretch, shift = (jax.jit(f, static_argnames="frames") for f in (augmentation.stretch, augmentation.shift))
blend = jax.jit(white_noise_blend)
drawn_keys = jax.jit(example_keys)


def keys_of(seed, count):
    return drawn_keys(jax.random.key(seed), np.arange(count))


KEYS = keys_of(0, 40)
RANDOM = np.random.default_rng(0)
WAVES = jnp.asarray(RANDOM.normal(size=(40, 300)), jnp.float32)
POWER = jnp.asarray(RANDOM.uniform(0.1, 1, size=(40, 16, 5)), jnp.float32)
CHANGES = [(amplitude, WAVES), (speed, WAVES), (stretch, POWER), (shift, POWER)]


@pytest.mark.parametrize(("change", "x"), CHANGES)
def test_half_are_changed_and_each_by_its_own_key_alone(change, x):
    y = np.asarray(change(KEYS, x, probability=0.5))
    assert y.shape == x.shape
    unchanged = np.array([np.allclose(a, b, rtol=1e-5) for a, b in zip(y, x, strict=True)])
    assert 10 <= unchanged.sum() <= 30
    np.testing.assert_allclose(change(KEYS[7:9], x[7:9]), y[7:9], rtol=1e-5, atol=1e-6)  # a half by default
    np.testing.assert_allclose(change(KEYS, x, probability=0.0), x, rtol=1e-5)
    always = np.asarray(change(KEYS, x, probability=1.0))
    assert sum(np.allclose(a, b) for a, b in zip(always, x, strict=True)) <= 6  # a shift may be by 0
    with pytest.raises(ValueError, match=r"probability is 1.5"):
        change.__wrapped__(KEYS, x, probability=1.5)


def test_amplitudes_are_uniform():
    factor = np.asarray(amplitude(keys_of(1, 2000), np.ones((2000, 2), np.float32), probability=1.0))[:, 0]
    assert 0.7 <= factor.min() < 0.71 and 1.09 < factor.max() <= 1.1
    assert factor.mean() == pytest.approx(0.9, abs=0.01)


def lengths(change, x):
    """The step between samples that each example was read at, found from a ramp."""
    return np.asarray(change(KEYS, x, probability=1.0))


def test_speed_is_numpys_interpolation():
    ramp = np.tile(np.arange(1, 301, dtype=np.float32)[None], (40, 1))
    steps = lengths(speed, ramp)[:, 1] - 1
    assert steps.min() < 0.9 and steps.max() > 1.15
    np.testing.assert_array_less(1 / 1.2 - 1e-5, steps)
    np.testing.assert_array_less(steps, 1 / 0.8 + 1e-5)
    played = np.asarray(speed(KEYS, WAVES, probability=1.0))
    for x, y, step in zip(np.asarray(WAVES, float), played, steps, strict=True):
        at = np.arange(300) * float(step)
        expected = np.where(at < 300, np.interp(at, np.arange(300), x), 0)
        near_end = np.abs(at - 300) > 0.01  # where rounding decides whether there is one more sample
        np.testing.assert_allclose(y[near_end], expected[near_end], atol=1e-3)


def vocoded(stft, rate):
    """Magnitudes of a phase vocoder: the frames before and after each time, two silent ones following the last."""
    padded = np.pad(np.abs(stft), ((0, 2), (0, 0)))
    times = np.arange(0, len(stft), rate)
    left = times.astype(int)
    part = (times - left)[:, None]
    return (1 - part) * padded[left] + part * padded[left + 1]


def test_stretching_and_shifting_are_those_of_a_phase_vocoder_and_of_padding():
    ramp = np.tile(np.arange(1, 17, dtype=np.float32)[None, :, None] ** 2, (40, 1, 5))
    rates = lengths(stretch, ramp)[:, 1, 0] ** 0.5 - 1
    assert rates.min() < 0.9 and rates.max() > 1.1 and (np.abs(rates - 1) <= 0.2001).all()
    longer = np.asarray(stretch(KEYS, POWER, frames=24, probability=1.0))
    moves, marks = keys_of(5, 40), np.zeros((40, 33, 1), np.float32)
    moved = np.asarray(shift(moves, longer, frames=8, probability=1.0))[:, :16]
    marks[:, 16] = 1
    places = np.asarray(shift(moves, marks, frames=8, probability=1.0))[..., 0].argmax(1) - 16
    assert places.min() < -5 and places.max() > 5 and np.abs(places).max() <= 8
    for x, y, z, rate, place in zip(np.asarray(POWER, float), longer, moved, rates, places, strict=True):
        expected = vocoded(np.sqrt(x), float(rate)) ** 2
        if abs(16 / rate - np.rint(16 / rate)) > 1e-4:
            padded = np.pad(expected, ((0, 24 - len(expected)), (0, 0)))
            np.testing.assert_allclose(y, padded, atol=1e-4)
        rolled = np.pad(y, ((max(place, 0), max(-place, 0)), (0, 0)))[max(-place, 0) :][:16]
        np.testing.assert_array_equal(z, rolled)


def test_every_shift_comes_equally_often():
    marks = np.zeros((3400, 33, 1), np.float32)
    marks[:, 16] = 1
    places = np.asarray(shift(keys_of(2, 3400), marks, probability=1.0))[..., 0].argmax(1) - 16
    counts = np.bincount(places + 8, minlength=17)
    assert len(counts) == 17 and counts.min() > 130 and counts.max() < 280


def test_silence_stays_silence_and_gradients_pass():
    @jax.jit
    def heard(keys, waveform):
        power = stft_power(augmentation.speed(keys, waveform), n_fft=512, hop=128)
        return augmentation.shift(keys, augmentation.stretch(keys, power))

    assert not np.asarray(heard(KEYS, np.zeros((40, 4000), np.float32))).any()
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(augmentation.speed(KEYS, x) ** 2)))(WAVES)
    assert np.isfinite(gradient).all() and np.abs(gradient).sum() > 0


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: augmentation.speed(KEYS, WAVES, scale=1.0), "scale is 1.0"),
        (lambda: augmentation.stretch(KEYS, POWER, scale=-0.1), "scale is -0.1"),
        (lambda: augmentation.shift(KEYS, POWER, frames=-1), "frames is -1"),
        (lambda: augmentation.amplitude(KEYS, WAVES, low=2.0, high=1.0), "smallest amount is 2.0"),
        (lambda: white_noise_blend(KEYS, WAVES, level=1.1), "level is 1.1"),
    ],
)
def test_what_cannot_be_is_refused(call, said):
    with pytest.raises(ValueError, match=said):
        call()


def test_white_noise_is_uniform_and_blended():
    waves = np.full((40, 5000), 0.5, np.float32)
    noisy = np.asarray(blend(KEYS, waves, level=0.3))
    noise = (noisy - 0.7 * 0.5) / 0.3
    assert -1.0001 <= noise.min() < -0.999 and 0.999 < noise.max() <= 1.0001
    assert noise.mean() == pytest.approx(0, abs=0.01) and noise.var() == pytest.approx(1 / 3, abs=0.01)
    assert np.abs(np.corrcoef(noise[:3])[np.triu_indices(3, 1)]).max() < 0.06
    np.testing.assert_array_equal(blend(KEYS, waves, level=0.0), waves)
    np.testing.assert_allclose(blend(KEYS[3:5], waves[3:5], level=0.3), noisy[3:5], rtol=1e-5, atol=1e-7)
