"""Readers of data sets: load("mnist") and what it is made of. Nothing but resident.py and text.py imports JAX."""

from sparsejax.data.dataset import Dataset, Split, pixel_moments
from sparsejax.data.digits import read_digits
from sparsejax.data.download import download_mnist
from sparsejax.data.idx import read_idx, read_mnist_folder
from sparsejax.data.sources import SOURCES, check_choice, load, load_mnist
from sparsejax.data.tfds_source import prepare_tfds, read_tfds

__all__ = [
    "SOURCES",
    "Dataset",
    "Split",
    "check_choice",
    "download_mnist",
    "load",
    "load_mnist",
    "pixel_moments",
    "prepare_tfds",
    "read_digits",
    "read_idx",
    "read_mnist_folder",
    "read_tfds",
]
