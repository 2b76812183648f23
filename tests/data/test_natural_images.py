import numpy as np
import pytest

from sparsejax.data.natural_images import gray, halve, patches, photographs, read_images_mat, whiten
from sparsejax.errors import DataDamagedError, DataMissingError


def test_photographs_are_grey_and_whitening_flattens_their_spectrum():
    found = photographs()
    assert {"china", "flower"} <= found.keys()
    image = found["china"]
    assert image.shape == (427, 640) and 0 <= image.min() < image.max() <= 1
    white = whiten(image)
    assert white.shape == image.shape and white.std() == pytest.approx(1, rel=1e-4)

    def power(image, low, high):
        spectrum = np.abs(np.fft.fft2(image)) ** 2
        frequency = np.hypot(np.fft.fftfreq(427)[:, None], np.fft.fftfreq(640)[None])
        return spectrum[(frequency > low) & (frequency < high)].mean()

    assert power(image, 0.02, 0.04) > 20 * power(image, 0.15, 0.2)
    assert 0.2 < power(white, 0.02, 0.04) / power(white, 0.15, 0.2) < 5
    assert power(white, 0.55, 0.7) < 0.05 * power(white, 0.15, 0.2)


def test_the_filter_passes_a_wave_as_its_formula_says():
    x = np.arange(64)
    waves = [np.cos(2 * np.pi * cycles * x / 64) for cycles in (8, 16)]
    image = np.broadcast_to(waves[0] + waves[1], (64, 64))
    spectrum = np.abs(np.fft.fft(whiten(image, cutoff=0.2)[0]))
    expected = [f * np.exp(-((f / 0.2) ** 4)) for f in (8 / 64, 16 / 64)]
    assert spectrum[16] / spectrum[8] == pytest.approx(expected[1] / expected[0], rel=1e-4)


def test_patches_are_cut_from_the_images_by_seed():
    image = np.arange(40 * 50, dtype=np.float32).reshape(40, 50)
    cut = patches([image, image + 5000], 200, size=8, seed=3, border=4)
    assert cut.shape == (200, 64) and cut.dtype == np.float32
    np.testing.assert_array_equal(cut, patches([image, image + 5000], 200, size=8, seed=3, border=4))
    assert np.any(cut != patches([image, image + 5000], 200, size=8, seed=4, border=4))
    for patch in cut[:20].reshape(-1, 8, 8):
        row, column = divmod(int(patch[0, 0]) % 5000, 50)
        assert 4 <= row <= 28 and 4 <= column <= 38
        np.testing.assert_array_equal(patch % 5000, image[row : row + 8, column : column + 8])
    assert 60 < (cut[:, 0] >= 5000).sum() < 140
    centred = patches([image], 5, size=8, remove_mean=True)
    np.testing.assert_allclose(centred.mean(1), 0, atol=1e-3)
    np.testing.assert_array_equal(halve(image)[0, :2], [25.5, 27.5])


def test_images_mat_is_read_and_what_is_none_is_named(tmp_path):
    io = pytest.importorskip("scipy.io")
    images = np.random.default_rng(0).standard_normal((6, 7, 3))
    io.savemat(tmp_path / "IMAGES.mat", {"IMAGES": images})
    read = read_images_mat(tmp_path / "IMAGES.mat")
    assert read.dtype == np.float32
    np.testing.assert_allclose(read, images.transpose(2, 0, 1), rtol=1e-6)
    with pytest.raises(DataMissingError, match=r"rctn\.org"):
        read_images_mat(tmp_path / "none.mat")
    (tmp_path / "text.mat").write_text("no matrices here" * 20)
    with pytest.raises(DataDamagedError, match=r"text\.mat cannot be read"):
        read_images_mat(tmp_path / "text.mat")
    (tmp_path / "cut.mat").write_bytes((tmp_path / "IMAGES.mat").read_bytes()[:300])
    with pytest.raises(DataDamagedError):
        read_images_mat(tmp_path / "cut.mat")
    io.savemat(tmp_path / "other.mat", {"faces": images})
    with pytest.raises(DataDamagedError, match="holds faces"):
        read_images_mat(tmp_path / "other.mat")


def test_errors_say_what_was_expected():
    with pytest.raises(ValueError, match="too small"):
        patches([np.zeros((10, 10))], 1, size=8)
    with pytest.raises(ValueError, match="0 images"):
        patches([], 1)
    for value in (0.5, 1e9):  # the rounding of a filtered constant grows with it
        with pytest.raises(ValueError, match="constant"):
            whiten(np.full((64, 48), value))
    with pytest.raises(ValueError, match="constant"):
        whiten(np.ones((8, 8)))
    with pytest.raises(ValueError, match="cutoff is 0"):
        whiten(np.eye(8), cutoff=0)
    with pytest.raises(ValueError, match=r"\(2, 2, 2\)"):
        gray(np.zeros((2, 2, 2)))
