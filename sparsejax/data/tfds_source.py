"""Data sets prepared by TensorFlow Datasets, read and written without TensorFlow."""

import contextlib
import dataclasses
import importlib
import io
import json
import logging
import os
import re
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sparsejax.data.arrays import from_arrays
from sparsejax.data.dataset import MNIST_MEAN, MNIST_STD, Dataset, Split
from sparsejax.data.folders import expansion_problem, tfds_folder
from sparsejax.errors import ConfigError, DataDamagedError, DataMissingError, shorten

# TFDS's classes of the data sets that can be written, all with image and label.
BUILDERS = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}
_BATCH = 4096  # records read at once


def read_tfds(
    name: str = "mnist", data_dir: str | os.PathLike[str] | None = None, *, test_fraction: float | None = None
) -> Dataset:
    """Reads any data set of images and labels that is prepared in the array_record format, in the order of its records.

    The test set is the split "test", else "validation".

    Args:
      name: TFDS's name of the data set, "mnist" or "emnist/letters"; the newest of several versions is read.
      data_dir: TFDS's folder; None is $TFDS_DATA_DIR, else $SPARSEJAX_DATA/tfds, else ~/tensorflow_datasets.
      test_fraction: the fraction of the training split to hold out if there is no test set.

    Raises:
      ConfigError: it has no images, no labels, images of several sizes, or no test set.
      DataMissingError: it is not prepared there, or in another format.
      DataDamagedError: its files cannot be read.
    """
    folder = tfds_folder(data_dir)
    if not is_prepared(name, folder):  # first, because TFDS would try to download for minutes
        there = ", ".join(prepared_names(folder)) or "none"
        raise DataMissingError(
            f"TFDS's data set {name!r} is not prepared in {folder} (no {name}/VERSION/dataset_info.json there; "
            f"prepared are: {there}). {_how_to_prepare(name, folder)}"
        )
    with _quiet():
        try:
            builder = _tfds().builder_from_directory(str(_version(name, folder)))
            image, label = _features(name, builder.info)
            words = ["train", *[word for word in ("test", "validation") if word in builder.info.splits][:1]]
            if "train" not in builder.info.splits or (len(words) == 1) == (test_fraction is None):
                raise ConfigError(
                    f"TFDS's data set {name!r} has the splits {', '.join(builder.info.splits)}, and data.test_fraction "
                    f"is {test_fraction}; expected train and test, or train and a part of it to hold out: "
                    "--data.test-fraction 0.2."
                )
            splits = [array for word in words for array in _read_split(builder, word, image, label)]
            names = tuple(builder.info.features[label].names)
        except (ImportError, DataMissingError, ConfigError):
            raise
        except Exception as error:  # array_record, protobuf, PIL and TFDS each raise their own
            raise _damage_error(name, folder, error) from error
    dataset = from_arrays(*splits, test_fraction=test_fraction, name=name, source="tfds", class_names=names)
    return dataclasses.replace(dataset, mean=MNIST_MEAN, std=MNIST_STD) if name == "mnist" else dataset


def prepare_tfds(dataset: Dataset, data_dir: str | os.PathLike[str] | None = None) -> Path:
    """Writes a data set as TFDS's own builder would prepare it, and returns the folder (…/mnist/3.0.1).

    TFDS's class generates it, given PNG bytes in place of its download: the name, version, order of records
    and pixels are the official ones, and tfds.data_source(name, data_dir=...) reads it. An already prepared data set is
    left unchanged.

    Raises:
      ConfigError: TFDS has no class here for the data set's name, or its images have another shape.
      DataMissingError: the folder cannot be written.
    """
    if dataset.name not in BUILDERS:
        raise ConfigError(f"{dataset.name!r} cannot be written for TFDS; available: {', '.join(BUILDERS)}.")
    folder = tfds_folder(data_dir)
    with _quiet():
        builder = _array_builder(dataset, folder)
        shape = tuple(builder.info.features["image"].shape)
        if dataset.train.images.shape[1:] != shape:
            raise ConfigError(
                f"TFDS's data set {dataset.name!r} has images of shape {list(shape)}, but got "
                f"{list(dataset.train.images.shape[1:])}; pass the images of that data set."
            )
        try:
            builder.download_and_prepare()  # nothing is downloaded; does nothing when prepared
        except OSError as error:
            raise DataMissingError(
                f"TFDS's data set {dataset.name!r} cannot be written to {folder}: {error}. Name another "
                f"folder with --data-dir or $TFDS_DATA_DIR."
            ) from error
    return Path(builder.data_dir)


def is_prepared(name: str, folder: Path) -> bool:
    """Returns whether a TFDS folder holds a data set of this name, without importing TFDS.

    Raises:
      DataMissingError: it is in another format than array_record, the only one that is read without TensorFlow.
      DataDamagedError: its dataset_info.json is damaged.
    """
    version = _version(name, folder)
    if version is None:
        return False
    try:
        written = json.loads((version / "dataset_info.json").read_text(encoding="utf-8")).get("fileFormat")
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise _damage_error(name, folder, error) from error
    if written != "array_record":
        raise DataMissingError(
            f"TFDS's data set {name!r} in {folder} is prepared in another format than array_record, which "
            f"can only be read with TensorFlow. Use another folder. {_how_to_prepare(name, folder)}"
        )
    return True


def prepared_names(folder: Path) -> list[str]:
    """Returns the names of the data sets in a TFDS folder."""
    infos = [path for depth in ("*/*", "*/*/*") for path in folder.glob(f"{depth}/dataset_info.json")]
    return sorted({str(path.parent.parent.relative_to(folder)) for path in infos})


def _version(name: str, folder: Path) -> Path | None:
    """Returns the folder of the newest version that is prepared."""
    versions = [path.parent for path in (folder / name).glob("*/dataset_info.json")]
    return max(versions, key=lambda path: [int(n) for n in re.findall(r"\d+", path.name)], default=None)


def _features(name: str, info: Any) -> tuple[str, str]:
    """Returns the names of the image and of the label."""
    features, kinds = info.features, (_tfds().features.Image, _tfds().features.ClassLabel)
    of = [[key for key, feature in features.items() if isinstance(feature, kind)] for kind in kinds]
    supervised = info.supervised_keys or ("image", "label")
    chosen = [
        key if key in keys else keys[0] if len(keys) == 1 else "" for key, keys in zip(supervised, of, strict=True)
    ]
    if not all(chosen) or np.dtype(features[chosen[0]].np_dtype) != np.uint8:
        raise ConfigError(
            f"TFDS's data set {name!r} has {', '.join(f'{key} ({type(f).__name__})' for key, f in features.items())}; "
            "expected one image of bytes and one class label."
        )
    return chosen[0], chosen[1]


def _read_split(builder: Any, word: str, image: str, label: str) -> Split:
    """Reads one split; TFDS leaves the images encoded, because PIL decodes them in two thirds of its time."""
    from PIL import Image

    packed = {key: _tfds().decode.SkipDecoding() for key in builder.info.features if key != label}
    records = builder.as_data_source(split=word, decoders=packed)
    images, labels = np.empty(0, np.uint8), np.empty(len(records), np.int64)
    for start in range(0, len(records), _BATCH):
        rows = range(start, min(start + _BATCH, len(records)))
        for row, record in zip(rows, records.__getitems__(list(rows)), strict=True):
            with Image.open(io.BytesIO(record[image])) as unpacked:
                pixels = np.asarray(unpacked)
            pixels = pixels[..., None] if pixels.ndim == 2 else pixels
            if row == 0:
                packed = sum(file.stat().st_size for file in Path(builder.data_dir).iterdir())
                if problem := expansion_problem(len(records) * pixels.size, packed):
                    raise ValueError(problem)
                images = np.empty((len(records), *pixels.shape), np.uint8)
            if pixels.shape != images.shape[1:]:
                raise ConfigError(
                    f"TFDS's data set {builder.info.name!r} has images of several sizes, {list(images.shape[1:])} and "
                    f"{list(pixels.shape)}; expected one size."
                )
            images[row], labels[row] = pixels, record[label]
    return Split(images, labels)


def _array_builder(dataset: Dataset, folder: Path) -> Any:
    """Returns TFDS's own builder of a data set, with its download replaced by arrays."""
    official: Any = getattr(_tfds().image_classification, BUILDERS[dataset.name])

    def split_generators(self: object, dl_manager: object) -> dict[str, Iterator[Any]]:
        return {"train": _records(dataset.train), "test": _records(dataset.test)}

    # pkg_dir_path: this file is not in a TFDS package.
    body = {"name": dataset.name, "pkg_dir_path": None, "_split_generators": split_generators}
    from_arrays = types.new_class(
        official.__name__, (official,), {"skip_registration": True}, lambda namespace: namespace.update(body)
    )
    return from_arrays(data_dir=str(folder), file_format="array_record")


def _records(split: Split) -> Iterator[tuple[int, dict[str, object]]]:
    """Yields TFDS's records: a key (the index, which it shuffles by), PNG bytes and the label."""
    from PIL import Image

    for index, (image, label) in enumerate(zip(*split, strict=True)):
        png = io.BytesIO()
        Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(png, "PNG")
        yield index, {"image": png.getvalue(), "label": int(label)}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences TFDS, which reports downloads that do not happen and recommends OpenCV."""
    tqdm_utils = _tfds().core.utils.tqdm_utils
    logger, level, bars = logging.getLogger("absl"), logging.getLogger("absl").level, tqdm_utils._active
    logger.setLevel(logging.ERROR)
    tqdm_utils.display_progress_bar(False)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        tqdm_utils.display_progress_bar(bars)
        logger.setLevel(level)


def _tfds() -> Any:
    """Imports TFDS, which imports TensorFlow only on use."""
    try:
        return importlib.import_module("tensorflow_datasets")
    except ImportError as error:
        raise DataMissingError(
            f"TFDS cannot be imported ({error}); pip install tensorflow-datasets importlib_resources, or "
            f"use another data.source."
        ) from error


def _how_to_prepare(name: str, folder: Path) -> str:
    """Returns how to prepare a folder without TensorFlow."""
    if name == "mnist":
        return f"To prepare it: python -m sparsejax.data prepare-tfds --data-dir {folder}"
    if name in BUILDERS:
        return f"To prepare it: sparsejax.data.prepare_tfds(dataset, {str(folder)!r})"
    return f"To prepare it: tfds build {name} --file_format=array_record --data_dir {folder}"


def _damage_error(name: str, folder: Path, error: Exception) -> DataDamagedError:
    """Returns an error with the first line of TFDS's message."""
    reason = shorten((str(error).splitlines() or [type(error).__name__])[0].rstrip("."))
    return DataDamagedError(
        f"TFDS's data set {name!r} in {folder / name} cannot be read: {reason}. Delete that folder and "
        f"prepare it again. {_how_to_prepare(name, folder)}"
    )
