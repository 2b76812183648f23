"""GloVe's word vectors: both splits, their words, and damaged files."""

import numpy as np
import pytest

from sparsejax import data
from sparsejax.data.word_vectors import read_glove, read_words
from sparsejax.errors import DataDamagedError, DataMissingError

VECTORS = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float16)
WORDS = "\n".join(f"word{i}" for i in range(30))


def test_every_tenth_word_is_a_test_example(tmp_path):
    np.savez(tmp_path / "v.npz", vectors=VECTORS, words=np.array(WORDS))
    dataset = read_glove(tmp_path / "v.npz")
    np.testing.assert_array_equal(dataset.test.images, VECTORS[9::10].astype(np.float32))
    assert len(dataset.train.labels) == 27
    vectors, words = read_words(tmp_path / "v.npz")
    np.testing.assert_array_equal(vectors, VECTORS)
    assert words[9] == "word9"


def test_damaged_files_are_refused(tmp_path):
    with pytest.raises(DataMissingError, match="cannot be read"):
        read_glove(tmp_path / "none.npz")
    np.savez(tmp_path / "v.npz", vectors=VECTORS, words=np.array("one\ntwo"))
    with pytest.raises(DataDamagedError, match="30, 4. vectors and 2 words"):
        read_glove(tmp_path / "v.npz")
    (tmp_path / "v.npz").write_bytes(b"PK")
    with pytest.raises(DataDamagedError, match="is damaged"):
        read_glove(tmp_path / "v.npz")


def test_the_real_vectors():
    try:
        dataset = data.load("glove", "files")
    except DataMissingError as error:
        pytest.skip(str(error))
    assert dataset.train.images.shape == (54_000, 50)
    vectors, words = read_words()
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    near = np.argsort(-(unit @ unit[words.index("king")]))[1:11]
    assert "queen" in [words[i] for i in near]
