"""GloVe vectors of frequent English words."""

from pathlib import Path

import numpy as np

from sparsejax.data.activations import make_activations
from sparsejax.data.dataset import Dataset
from sparsejax.data.folders import load_npz
from sparsejax.data.registry import DATA, Entry
from sparsejax.errors import DataDamagedError, DataMissingError, shorten

GLOVE_FILE = Path("glove", "glove_6b_50d_60k.npz")
_EVERY = 10
"""Every tenth word is a test example."""
_HOW = (
    "Put an .npz there that holds `vectors` [words, features], floats of any precision, and `words`, one text with a "
    "word in each line."
)


def read_glove(path: Path, *, source: str = "files") -> Dataset:
    """Reads word vectors; every tenth word is in the test set.

    Raises:
      DataMissingError: the file cannot be opened.
      DataDamagedError: it is damaged, or holds other arrays.
    """
    vectors, _ = read_words(path)
    test = np.arange(len(vectors)) % _EVERY == _EVERY - 1
    return make_activations({"word": vectors[~test]}, {"word": vectors[test]}, name="glove", source=source)


def read_words(path: Path | None = None) -> tuple[np.ndarray, list[str]]:
    """Returns all vectors, float32 `[words, features]`, and their words.

    Args:
      path: of the file; None to find it as `data.load("glove")` does.

    Raises:
      DataMissingError, DataDamagedError: as `read_glove`.
    """
    path = DATA["glove"].find() if path is None else path
    try:
        file = load_npz(path if path is not None else GLOVE_FILE)
        vectors, words = np.asarray(file["vectors"], np.float32), str(file["words"]).split("\n")
    except OSError as error:
        raise DataMissingError(f"The word vectors {path} cannot be read: {error.strerror or error}. {_HOW}") from error
    except Exception as error:  # for damaged files NumPy and zipfile raise various errors
        raise DataDamagedError(f"{path} is damaged ({shorten(repr(error))}). {_HOW}") from error
    words = words[:-1] if len(words) == len(vectors) + 1 and not words[-1] else words
    if vectors.ndim != 2 or len(words) != len(vectors):
        raise DataDamagedError(f"{path} holds {list(vectors.shape)} vectors and {len(words)} words. {_HOW}")
    return vectors, words


Entry(name="glove", title="GloVe's word vectors", kind="vectors", place=str(GLOVE_FILE), read=read_glove, how=_HOW).add(
    13
)
