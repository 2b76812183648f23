import functools

import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.studies.thesis.gabor import fit_gabors


def _gabor(row, column, along, across, frequency, angle, phase):
    rows, columns = np.mgrid[:16, :16]
    y, x = rows - row, columns - column
    u, v = x * np.cos(angle) + y * np.sin(angle), -x * np.sin(angle) + y * np.cos(angle)
    return np.exp(-((u / along) ** 2 + (v / across) ** 2) / 2) * np.cos(2 * np.pi * frequency * u + phase)


TRUE = [
    (7.0, 8.0, 2.0, 3.0, 0.15, 0.5, 0.3),
    (4.0, 11.0, 1.5, 2.5, 0.25, 2.2, 1.6),
    (9.0, 5.0, 3.0, 3.0, 0.2, 1.5, -1.0),
]


@functools.cache
def fitted():
    """Returns pictures, and what is fitted to them: Gabor functions, the same under noise, noise alone, and nothing."""
    rng = np.random.default_rng(0)
    clean = np.stack([_gabor(*true) for true in TRUE])
    noisy = clean + 0.2 * clean.std((1, 2), keepdims=True) * rng.standard_normal(clean.shape)
    noise = rng.standard_normal((20, 16, 16))
    pictures = np.concatenate([3 * clean + 0.5, noisy, noise, np.ones((1, 16, 16))])
    return pictures, fit_gabors(jnp.asarray(pictures, jnp.float32))


def test_gabor_functions_are_found_again_and_noise_is_not():
    pictures, fit = fitted()
    np.testing.assert_array_less(0.99, fit.r2[:3])
    for i, (row, column, along, across, frequency, angle, _) in enumerate(TRUE):
        np.testing.assert_allclose(fit.centre[i], [row, column], atol=0.2)
        np.testing.assert_allclose(fit.width[i], [along, across], rtol=0.1)
        np.testing.assert_allclose(fit.frequency[i], frequency, rtol=0.05)
        turned = (float(fit.orientation[i]) - angle + np.pi / 2) % np.pi - np.pi / 2
        assert abs(turned) < 0.05
    assert np.all(fit.r2[6:-1] < 0.3) and fit.r2[-1] == 0
    explained = 1 - ((pictures - fit.fitted) ** 2).sum((1, 2)) / (pictures.var((1, 2)) * 256).clip(1e-9)
    np.testing.assert_allclose(explained[:-1], fit.r2[:-1], atol=1e-3)


def test_a_gabor_function_under_noise_is_still_good():
    _, fit = fitted()
    assert np.all((fit.r2[3:6] > 0.9) & (fit.r2[3:6] < 0.99))


def test_errors_say_what_was_expected():
    with pytest.raises(ValueError, match=r"\(2, 8, 9\)"):
        fit_gabors(jnp.zeros((2, 8, 9)))
