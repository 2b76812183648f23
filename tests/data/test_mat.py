"""MATLAB files as SciPy writes them, and what is refused of others."""

import numpy as np
import pytest
from scipy.io import savemat

from sparsejax.data.mat import read_arrays_of


@pytest.mark.parametrize("compressed", [False, True])
def test_arrays_of_any_number_type_are_those_that_were_saved(tmp_path, compressed):
    rng = np.random.default_rng(0)
    arrays = {name: (100 * rng.normal(size=shape)).astype(dtype) for name, shape, dtype in (
        ("IMAGES", (5, 4, 3), "f8"), ("a", (2, 2), "f4"), ("whole", (3, 1), "i2"), ("b", (1, 1), "u1"),
        ("long_name_of_an_array", (2, 3, 2), "i8"), ("none", (0, 3), "f8"))}  # fmt: skip
    path = tmp_path / "x.mat"
    savemat(path, arrays | {"text": "left out", "cell": np.array([1, "a"], object)}, do_compression=compressed)
    read = read_arrays_of(path.read_bytes())
    assert read.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(read[name], array, err_msg=name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: b"no matrices here" * 20, "its header"),
        (lambda raw: raw[:300], "truncated"),
        (lambda raw: b"\x89HDF" + raw, "version 7.3"),
        (lambda raw: raw[:128] + b"\x09" + raw[129:], "of type 9 where a matrix is expected"),
        (lambda raw: raw[:160] + b"\x07" + raw[161:], r"an array in it of 7x4x3 numbers has 480 bytes"),
    ],
)
def test_damaged_files_are_refused(tmp_path, change, message):
    savemat(tmp_path / "x.mat", {"IMAGES": np.ones((5, 4, 3))})
    with pytest.raises(ValueError, match=message):
        read_arrays_of(change((tmp_path / "x.mat").read_bytes()))
