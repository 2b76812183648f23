"""Data sets prepared by TensorFlow Datasets, read and written without TensorFlow."""

import contextlib
import importlib
import io
import logging
import os
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sparsejax.data.dataset import MNIST_MEAN, MNIST_STD, Dataset, Split, pixel_moments
from sparsejax.data.folders import tfds_folder
from sparsejax.errors import ConfigError, DataDamagedError, DataMissingError

# TFDS's own classes of the data sets that are read and written here, all with image and label.
BUILDERS = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}
_BATCH = 4096  # records read at once


def read_tfds(name: str = "mnist", data_dir: str | os.PathLike[str] | None = None) -> Dataset:
    """Reads a data set that was prepared in the array_record format, in the order of its records.

    Args:
      name: TFDS's name of the data set, one of BUILDERS.
      data_dir: TFDS's folder; None is $TFDS_DATA_DIR, else $SPARSEJAX_DATA/tfds, else ~/tensorflow_datasets.

    Raises:
      ConfigError: another name.
      DataMissingError: it is not prepared there, or in another format.
      DataDamagedError: its files cannot be read.
    """
    _check_name(name)
    folder = tfds_folder(data_dir)
    if not is_prepared(name, folder):  # asked first, because TFDS would try to download for minutes
        raise DataMissingError(
            f"TFDS's data set {name!r} is not prepared in {folder} (no {name}/VERSION/dataset_info.json "
            f"there). {_how_to_prepare(name, folder)}"
        )
    with _quiet():
        try:
            builder = _builder(name, folder)
            splits = {word: _read_split(builder, word) for word in ("train", "test")}
            classes = int(builder.info.features["label"].num_classes)
        except (ImportError, MemoryError, DataMissingError):
            raise
        except Exception as error:  # array_record, protobuf, PIL and TFDS each raise their own
            raise _damaged(name, folder, error) from error
    mean, std = (MNIST_MEAN, MNIST_STD) if name == "mnist" else pixel_moments(splits["train"].images)
    return Dataset(name, "tfds", splits["train"], splits["test"], classes, mean, std)


def prepare_tfds(dataset: Dataset, data_dir: str | os.PathLike[str] | None = None) -> Path:
    """Writes a data set as TFDS's own builder would prepare it, and returns the folder (…/mnist/3.0.1).

    TFDS's class generates it, given PNG bytes in place of its download: the name, version, order of records
    and pixels are the official ones, and tfds.data_source(name, data_dir=...) reads it. A data set that is
    prepared already is left as it is.

    Raises:
      ConfigError: TFDS has no class here for the data set's name, or its images have another shape.
      DataMissingError: the folder cannot be written.
    """
    _check_name(dataset.name)
    folder = tfds_folder(data_dir)
    with _quiet():
        builder = _array_builder(dataset, folder)
        shape = tuple(builder.info.features["image"].shape)
        if dataset.train.images.shape[1:] != shape:
            raise ConfigError(
                f"TFDS's data set {dataset.name!r} has images of shape {list(shape)}, but the ones given are "
                f"{list(dataset.train.images.shape[1:])}; give the images of that data set."
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
    """Says whether a TFDS folder holds a data set of this name, without a look at the network."""
    if not any((folder / name).glob("*/dataset_info.json")):
        return False  # spares the import of TFDS, up to a second
    with _quiet():
        try:
            return bool(_builder(name, folder).is_prepared())
        except (ImportError, DataMissingError):
            raise
        except Exception as error:  # a damaged dataset_info.json
            raise _damaged(name, folder, error) from error


def _builder(name: str, folder: Path) -> Any:
    """Returns TFDS's builder for the array_record format, the only one that is read without TensorFlow."""
    try:
        return _tfds().builder(name, data_dir=str(folder), file_format="array_record")
    except ValueError as error:
        if "File format is already set" not in str(error):
            raise
        raise DataMissingError(
            f"TFDS's data set {name!r} in {folder} is prepared in another format than array_record, which "
            f"can only be read with TensorFlow. Take another folder. {_how_to_prepare(name, folder)}"
        ) from error


def _read_split(builder: Any, word: str) -> Split:
    """Reads one split; TFDS leaves the images packed, PIL unpacks them here in two thirds of its time."""
    from PIL import Image

    records = builder.as_data_source(split=word, decoders={"image": _tfds().decode.SkipDecoding()})
    images = np.empty((len(records), *builder.info.features["image"].shape), np.uint8)
    labels = np.empty(len(records), np.int32)
    for start in range(0, len(records), _BATCH):
        rows = range(start, min(start + _BATCH, len(records)))
        for row, record in zip(rows, records.__getitems__(list(rows)), strict=True):
            with Image.open(io.BytesIO(record["image"])) as image:
                images[row] = np.asarray(image).reshape(images.shape[1:])
            labels[row] = record["label"]
    return Split(images, labels)


def _array_builder(dataset: Dataset, folder: Path) -> Any:
    """Returns TFDS's own builder of a data set, with its download replaced by arrays."""
    official: Any = getattr(_tfds().image_classification, BUILDERS[dataset.name])

    def split_generators(self: object, dl_manager: object) -> dict[str, Iterator[Any]]:
        return {"train": _records(dataset.train), "test": _records(dataset.test)}

    # pkg_dir_path: there is no package of TFDS's around this file.
    body = {"name": dataset.name, "pkg_dir_path": None, "_split_generators": split_generators}
    from_arrays = types.new_class(
        official.__name__, (official,), {"skip_registration": True}, lambda namespace: namespace.update(body)
    )
    return from_arrays(data_dir=str(folder), file_format="array_record")


def _records(split: Split) -> Iterator[tuple[int, dict[str, object]]]:
    """Yields what TFDS stores: a key (the index, by which it shuffles), PNG bytes and the label."""
    from PIL import Image

    for index, (image, label) in enumerate(zip(*split, strict=True)):
        png = io.BytesIO()
        Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(png, "PNG")
        yield index, {"image": png.getvalue(), "label": int(label)}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences TFDS, which says "Downloading" of what it does not download and recommends OpenCV."""
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
    """Imports TFDS, which imports TensorFlow only where that is used."""
    try:
        return importlib.import_module("tensorflow_datasets")
    except ImportError as error:
        raise DataMissingError(
            f"TFDS cannot be imported ({error}); pip install tensorflow-datasets importlib_resources, or "
            f"take another data.source."
        ) from error


def _check_name(name: str) -> None:
    """Refuses a data set that has no builder here."""
    if name not in BUILDERS:
        raise ConfigError(f"{name!r} is not read through TFDS; these are: {', '.join(BUILDERS)}.")


def _how_to_prepare(name: str, folder: Path) -> str:
    """Says how to get a prepared folder without TensorFlow."""
    if name == "mnist":
        return f"To prepare it: python -m sparsejax.data prepare-tfds --data-dir {folder}"
    return f"To prepare it: sparsejax.data.prepare_tfds(dataset, {str(folder)!r})"


def _damaged(name: str, folder: Path, error: Exception) -> DataDamagedError:
    """Returns the error that says what TFDS found wrong, in the first line of its own words."""
    reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
    return DataDamagedError(
        f"TFDS's data set {name!r} in {folder / name} cannot be read: {reason}. Delete that folder and "
        f"prepare it again. {_how_to_prepare(name, folder)}"
    )
