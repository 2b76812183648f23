"""Folders of images by class: the folder names are the class names."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from sparsejax.data.folders import expansion_problem
from sparsejax.errors import DataDamagedError, DataMissingError, shorten

_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")  # others may run programs, as EPS does
_GREY, _COLOUR = {"1", "L", "LA"}, {"P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"}
_EXPECTED = "expected CLASS/*.png (or .jpg and so on), or train/CLASS/*.png and test/CLASS/*.png"


def read_image_folder(folder: Path) -> dict[str, Any]:
    """Reads a folder of images, in folders by class, in train/ and test/ if both exist.

    Returns:
      The arrays as `from_arrays` takes them, and `class_names`. Images are grey where all of them are; each part is
      shuffled once, so that its first examples are from all classes.

    Raises:
      DataMissingError: there are no folders of classes, a class has no images, or one of train/ and test/ is missing.
      DataDamagedError: an image cannot be read, or differs in size from the others.
    """
    split = [part for part in ("train", "test") if (folder / part).is_dir()]
    if len(split) == 1:
        other = "test" if split == ["train"] else "train"
        raise DataMissingError(f"{folder} has {split[0]}/, but no {other}/; {_EXPECTED}.")
    files = {part: _images_by_class(folder / part) for part in split} or {"train": _images_by_class(folder)}
    names = sorted(files["train"])
    unknown = sorted(files.get("test", {}).keys() - files["train"].keys())
    if unknown:
        raise DataMissingError(f"{folder / 'test'} has the class {unknown[0]}, which train/ has not; {_EXPECTED}.")
    read = _reader([path for classes in files.values() for paths in classes.values() for path in paths])
    arrays: dict[str, Any] = {"class_names": tuple(names)}
    for part, classes in files.items():
        pairs = [(path, names.index(name)) for name, paths in classes.items() for path in paths]
        order = np.random.default_rng(0).permutation(len(pairs))
        arrays[f"x_{part}"] = np.stack([read(pairs[i][0]) for i in order])
        arrays[f"y_{part}"] = np.array([pairs[i][1] for i in order], np.int32)
    return arrays


def _images_by_class(folder: Path) -> dict[str, list[Path]]:
    classes = {
        path.name: sorted(file for file in path.iterdir() if file.suffix.lower() in _SUFFIXES)
        for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith((".", "_"))
    }  # fmt: skip
    empty = [name for name, files in classes.items() if not files]
    if not classes or empty:
        lacks = f"the folder {empty[0]}, which has no images" if empty else "no folders of classes"
        raise DataMissingError(f"{folder} has {lacks}; {_EXPECTED}.")
    return classes


def _reader(files: list[Path]) -> Any:
    """Returns a function that reads one of these images, after checking that all have one size."""
    from PIL import Image

    def open_image(path: Path) -> Any:
        try:
            return Image.open(path, formats=_FORMATS)
        except Exception as error:  # a damaged image can fail in any way
            raise DataDamagedError(f"{path} is not a readable image ({shorten(str(error))}); remove it.") from None

    modes, size, packed = set(), None, 0
    for path in files:
        with open_image(path) as image:
            if image.mode not in _GREY | _COLOUR:
                raise DataDamagedError(f"{path} has pixels of mode {image.mode}; convert it to 8 bits.")
            if size not in (None, image.size):
                raise DataDamagedError(
                    f"{path} is {image.size[0]} x {image.size[1]} pixels, but {files[0]} {size[0]} x {size[1]}; "
                    "expected images of one size: resize or crop them."
                )
            modes.add(image.mode)
            size = image.size
            packed += path.stat().st_size
    mode = "L" if modes <= _GREY else "RGB"
    if size and (problem := expansion_problem(len(files) * math.prod(size) * len(mode), packed)):
        raise DataDamagedError(
            f"The images such as {files[0]} are {size[0]} x {size[1]} pixels and cannot be unpacked: {problem}. Remove "
            "what is no photograph or drawing."
        )

    def read(path: Path) -> np.ndarray:
        with open_image(path) as image:
            try:
                pixels = np.asarray(image.convert(mode))
            except Exception as error:
                raise DataDamagedError(f"{path} is truncated or damaged ({shorten(str(error))}); remove it.") from None
        return pixels.reshape(*pixels.shape[:2], -1)

    return read
