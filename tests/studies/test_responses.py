"""Sparsity across channels and signal-to-noise ratios: the recorded case, by hand, and of a network's blocks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.studies.hebbian.responses import channel_ratio, signal_to_noise
from tests.golden import load
from tests.models.test_hebbian_vgg import SMALL

ratio = jax.jit(channel_ratio)


@pytest.mark.optimized
def test_the_ratio_is_the_recorded_one():
    case = load("hah_hoyer_seed002")
    y = jnp.asarray(case["act"].transpose(0, 2, 3, 1))
    there = case["ratio"] > 0
    expected = (case["ratio"][there].mean() - 1) / (np.sqrt(16) - 1)
    np.testing.assert_allclose(ratio(y), expected, rtol=1e-5)
    if there.all():
        np.testing.assert_allclose(ratio(y), case["norm_affine"], rtol=1e-5)


def test_the_ends_of_the_ratio_and_silence():
    one = np.zeros((2, 3, 3, 9), np.float32)
    assert ratio(one) == 0
    one[1, ..., 4] = 2.0
    assert ratio(one) == pytest.approx(0, abs=1e-6), "silent positions do not count"
    one[0, ..., 4] = 2.0
    assert ratio(one) == pytest.approx(0, abs=1e-6)
    assert ratio(np.full((2, 3, 3, 9), 0.3, np.float32)) == pytest.approx(1, abs=1e-6)
    with pytest.raises(ValueError, match="two channels"):
        channel_ratio(jnp.ones((1, 2, 2, 1)))


def test_a_signal_ten_times_its_noise_has_20_db():
    clean = {"here": np.ones((4, 5, 2), np.float32), "there": np.ones((4, 3), np.float32)}
    noisy = {"here": clean["here"] + np.float32(0.1), "there": clean["there"] - 1}
    ratios = jax.jit(signal_to_noise)(clean, noisy)
    assert ratios["here"] == pytest.approx(20, abs=1e-3) and ratios["there"] == pytest.approx(0, abs=1e-3)


def test_blocks_see_the_image_and_then_each_other():
    rng = np.random.default_rng(0)
    x, noise = rng.standard_normal((2, 2, 8, 8, 3)).astype(np.float32)
    variables, inputs = jax.jit(SMALL.init)(jax.random.key(0), x), jax.jit(SMALL.block_inputs)
    seen = inputs(variables, x)
    assert {name: f.shape for name, f in seen.items()} == {
        "conv1": (2, 8, 8, 3), "conv2": (2, 4, 4, 12), "conv3": (2, 2, 2, 14)
    }  # fmt: skip
    np.testing.assert_array_equal(seen["conv1"], x)
    ratios = jax.jit(signal_to_noise)(seen, inputs(variables, x + np.float32(0.1) * noise))
    assert ratios["conv1"] == pytest.approx(20, abs=1.5) and all(np.isfinite(value) for value in ratios.values())
