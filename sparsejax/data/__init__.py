"""Readers of data sets: load("mnist") and its parts. Importing this package imports neither JAX nor any data."""

from sparsejax.data.arrays import from_arrays, read_path
from sparsejax.data.dataset import Dataset, Split, pixel_moments
from sparsejax.data.digits import read_digits
from sparsejax.data.download import Download
from sparsejax.data.idx import read_idx, read_mnist_folder
from sparsejax.data.registry import DATA, Entry, entry, load, options_of, register, title
from sparsejax.data.tfds_source import prepare_tfds, read_tfds

__all__ = [
    "DATA",
    "Dataset",
    "Download",
    "Entry",
    "Split",
    "entry",
    "from_arrays",
    "load",
    "options_of",
    "pixel_moments",
    "prepare_tfds",
    "read_digits",
    "read_idx",
    "read_mnist_folder",
    "read_path",
    "read_tfds",
    "register",
    "title",
]
