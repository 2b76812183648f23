"""The file of CIFAR-10's latents: features of the images from a trained network, with their labels."""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sparsejax.data.dataset import Dataset, Split, split_problem
from sparsejax.data.folders import load_npz
from sparsejax.data.registry import Entry
from sparsejax.errors import DataDamagedError, DataMissingError, shorten

LATENTS_FILE = Path("cifar10-latents", "latents.npz")
"""Its path in $SPARSEJAX_DATA or in the user's cache."""
HOW_TO_MAKE = (
    "To compute them: python -m sparsejax.launch --config cifar_conv_mixer_small --out runs/conv_mixer (minutes on two "
    "cores; cifar_conv_mixer on an accelerator), then sparsejax embed --run runs/conv_mixer"
)


def latents_bytes(train: Split, test: Split, provenance: Mapping[str, Any]) -> bytes:
    """Writes latents as .npz.

    Args:
      train: vectors float32 [n, features] and labels int32 [n] of the training set.
      test: the same for the test set.
      provenance: their origin, as JSON: at least `data` with its `name`, and `classes`.
    """
    buffer, told = io.BytesIO(), np.array(json.dumps(provenance, allow_nan=False))
    np.savez(
        buffer, train=train.images, train_labels=train.labels, test=test.images, test_labels=test.labels,
        provenance=told,
    )  # fmt: skip
    return buffer.getvalue()


def read_latents(path: Path, *, source: str = "files") -> Dataset:
    """Reads the output of `latents_bytes`, as a data set named NAME_latents after the original one.

    Raises:
      DataMissingError: there is no such file, or it cannot be opened.
      DataDamagedError: it is truncated, damaged, or holds other data.
    """
    try:
        file = load_npz(path)
        train, test = (Split(file[part], file[f"{part}_labels"]) for part in ("train", "test"))
        provenance = json.loads(str(file["provenance"]))
        name, classes = f"{provenance['data']['name']}_latents", int(provenance["classes"])
    except OSError as error:
        raise DataMissingError(
            f"The latents {path} cannot be read: {error.strerror or error}. {HOW_TO_MAKE}"
        ) from error
    except Exception as error:  # for damaged files NumPy and zipfile raise various errors
        raise _damage_error(path, f"{type(error).__name__}: {shorten(str(error))}") from error
    for word, split in (("train", train), ("test", test)):
        images = split.images
        problem = f"vectors are {images.dtype} {list(images.shape)} where float32 [n, features] is expected"
        if images.dtype == np.float32 and images.ndim == 2 and images.shape[1:] == train.images.shape[1:]:
            problem = split_problem(split, classes)
        if problem:
            raise _damage_error(path, f"the {word} split cannot be used: {problem}")
    return Dataset(name, source, train, test, classes, (0.0,), (1.0,))


def _damage_error(path: Path, problem: str) -> DataDamagedError:
    return DataDamagedError(
        f"The file {path} holds no latents, or is truncated or damaged: {problem}. Delete it. {HOW_TO_MAKE}"
    )


Entry(
    name="cifar10_latents",
    title="CIFAR-10's latents",
    kind="vectors",
    place=str(LATENTS_FILE),
    read=read_latents,
    how=HOW_TO_MAKE,
).add(6)
