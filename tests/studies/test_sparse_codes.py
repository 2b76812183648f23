"""The study of Sparsenet, end to end on a few small patches."""

import numpy as np
import pytest

from sparsejax.studies.thesis import sparsenet as sparse_codes
from tests.studies.making import made


@pytest.mark.slow
def test_sparsenet_leaves_its_functions_a_picture_and_the_fraction_of_good_fits(monkeypatch, tmp_path):
    monkeypatch.setattr(
        sparse_codes, "SETTINGS", {"small": sparse_codes.Settings(atoms=12, size=8, patches=500, batch=50, steps=60)}
    )
    monkeypatch.delenv("SPARSEJAX_DATA", raising=False)
    numbers = made("thesis/sparsenet", tmp_path)["ours"]
    with np.load(tmp_path / "thesis/sparsenet/small/basis_functions.npz") as file:
        atoms, r2 = file["atoms"], file["r2"]
    assert atoms.shape == (12, 8, 8) and np.all(np.abs(atoms).max((1, 2)) > 1e-3)
    assert numbers["good_gabor_fits"] == np.mean(r2 > sparse_codes.GOOD)
    assert "china" in numbers["images"] and 0 < numbers["error_left"] < 1


def test_images_mat_is_used_if_available(monkeypatch, tmp_path):
    from scipy.io import savemat

    pictures = np.random.default_rng(0).standard_normal((40, 40, 3)) * 0.3
    savemat(tmp_path / "IMAGES.mat", {"IMAGES": pictures})
    monkeypatch.setenv("SPARSEJAX_DATA", str(tmp_path))
    found, source = sparse_codes.images()
    assert source == "IMAGES.mat" and len(found) == 3
    np.testing.assert_allclose([image.std() for image in found], 1, rtol=1e-5)
    np.testing.assert_allclose(found[1], pictures[:, :, 1] / pictures[:, :, 1].std(), rtol=1e-4, atol=1e-5)
