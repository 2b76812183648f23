"""Patches of images and their overlap-add reconstruction, compared with scikit-learn's."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.feature_extraction.image import extract_patches_2d, reconstruct_from_patches_2d

from sparsejax.coding import extract_patches, psnr, reconstruct_from_patches

extracted = jax.jit(extract_patches, static_argnums=1, static_argnames=("stride", "channels"))
reconstructed = jax.jit(reconstruct_from_patches, static_argnums=(1, 2), static_argnames="stride")
RNG = np.random.default_rng(0)
GRAY, COLOR = RNG.random((13, 17)).astype(np.float32), RNG.random((9, 11, 3)).astype(np.float32)


@pytest.mark.parametrize(("image", "size"), [(GRAY, (4, 3)), (GRAY, (1, 17)), (COLOR, (3, 2)), (COLOR, (9, 11))])
def test_both_ways_agree_with_scikit_learn(image, size):
    expected = extract_patches_2d(image, size)
    patches = extract_patches(image, size, channels=image.ndim == 3)
    np.testing.assert_array_equal(patches, expected.reshape(len(expected), -1))
    noisy = expected + RNG.standard_normal(expected.shape).astype(np.float32)
    ours = reconstruct_from_patches(noisy.reshape(len(noisy), -1), image.shape, size)
    np.testing.assert_allclose(ours, reconstruct_from_patches_2d(noisy, image.shape), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "size", "stride"),
    [((5, 9), 3, 2), ((4, 7), (4, 1), (3, 1)), ((2, 6, 5, 2), (3, 2), (3, 1)), ((2, 1, 4, 4), 2, 1)],
)
@given(data=st.data())
def test_extraction_is_inverted(shape, size, stride, data):
    axes = 3 if shape[-1] == 2 else 2
    numbers = st.floats(-100, 100, width=32)
    images = np.float32(data.draw(st.lists(numbers, min_size=(n := math.prod(shape)), max_size=n))).reshape(shape)
    patches = extracted(images, size, stride=stride, channels=axes == 3)
    assert patches.shape[:-2] == shape[:-axes]
    weights = data.draw(st.sampled_from((None, 0.5, 3.0)))
    weights = None if weights is None else np.full(patches.shape[:-1], weights, np.float32)
    again = reconstructed(patches, shape[-axes:], size, stride=stride, weights=weights)
    np.testing.assert_allclose(again, images, rtol=1e-5, atol=1e-4)


def test_the_sum_of_patches_is_the_transpose_of_their_extraction():
    ones = jnp.ones((13, 17), jnp.float32)
    extract = lambda image: extract_patches(image, (4, 5), stride=(3, 2))  # noqa: E731
    patches = jnp.asarray(RNG.standard_normal(extract(ones).shape), jnp.float32)
    transpose = jax.linear_transpose(extract, ones)
    expected = transpose(patches)[0] / transpose(extract(ones))[0]
    np.testing.assert_allclose(
        reconstruct_from_patches(patches, (13, 17), (4, 5), stride=(3, 2)), expected, rtol=1e-4, atol=1e-6
    )


def test_weights_choose_patches():
    patches = np.stack([np.zeros((3, 4)), np.ones((3, 4))]).astype(np.float32)[
        :, :2
    ]  # two images, two patches of 2 x 2
    weights = np.array([[1, 0], [1, 3]], np.float32)
    images = reconstruct_from_patches(patches * [[[1], [5]]], (2, 3), 2, weights=weights)
    np.testing.assert_allclose(images[1], [[1, 4, 5]] * 2)
    alone = reconstruct_from_patches(patches[1], (2, 3), 2, weights=np.array([1, 0], np.float32))
    np.testing.assert_array_equal(alone, [[1, 1, 0]] * 2)


def test_in_a_compiled_program_and_both_precisions():
    @jax.jit
    def around(image):
        return reconstruct_from_patches(extract_patches(image, np.int64(4)), image.shape, np.int64(4))

    np.testing.assert_allclose(around(GRAY), GRAY, rtol=1e-6)
    with jax.enable_x64(True):
        wide = around(GRAY.astype(np.float64))
        assert wide.dtype == jnp.float64
        np.testing.assert_allclose(wide, GRAY, rtol=1e-14)
        assert around(GRAY).dtype == jnp.float32
    assert extract_patches(np.zeros((0, 5, 5), np.float32), 2).shape == (0, 16, 4)
    assert extract_patches(GRAY.astype(jnp.bfloat16), 4).dtype == jnp.bfloat16


def test_psnr_by_hand():
    assert float(psnr(GRAY + 0.1, GRAY)) == pytest.approx(20, abs=1e-4)
    assert float(psnr(np.full((2, 2), 3, np.uint8), np.full((2, 2), 8, np.uint8), peak=255)) == pytest.approx(
        34.151, abs=1e-3
    )
    assert float(psnr(GRAY, GRAY)) == np.inf


@pytest.mark.wrong_types
def test_errors_say_what_was_expected():
    with pytest.raises(ValueError, match=r"no patch of 5 x 5; height and width"):
        extract_patches(COLOR, 5)  # without `channels`, images of 11 x 3
    with pytest.raises(ValueError, match=r"expected \[..., height, width, channels\]"):
        extract_patches(GRAY, 3, channels=True)
    with pytest.raises(ValueError, match="size is 0 and stride 1"):
        extract_patches(GRAY, 0)
    with pytest.raises(ValueError, match=r"size is 2\.5; expected an integer"):
        extract_patches(GRAY, 2.5)
    with pytest.raises(ValueError, match=r"size is .*; expected 2 numbers"):
        extract_patches(GRAY, (2, 2, 2))
    patches = extract_patches(GRAY, 4, stride=2)
    with pytest.raises(ValueError, match=r"for a height of 13; .* or crop the image to 12"):
        reconstruct_from_patches(patches, (13, 17), 4, stride=2)
    with pytest.raises(ValueError, match=r"expected \[..., 140, 16\]"):
        reconstruct_from_patches(patches, (13, 17), 4)
    with pytest.raises(ValueError, match="expected one for each patch"):
        reconstruct_from_patches(patches, (12, 16), 4, stride=2, weights=np.ones(3, np.float32))
    with pytest.raises(ValueError, match=r"shape is \(12,\)"):
        reconstruct_from_patches(patches, (12,), 4)
    with pytest.raises(ValueError, match="expected the same shape"):
        psnr(GRAY, COLOR)
    with pytest.raises(ValueError, match="peak is 0"):
        psnr(GRAY, GRAY, peak=0)
