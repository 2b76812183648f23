"""What data is there: the table that python -m sparsejax.data list prints."""

import importlib.util
from pathlib import Path
from typing import NamedTuple

from sparsejax.data.cifar import CIFAR10_FILES, CIFAR10_FOLDER, found_batches
from sparsejax.data.folders import data_root, download_folder, tfds_folder, user_cache
from sparsejax.data.idx import MNIST_FILES, found_files
from sparsejax.data.latents import LATENTS_FILE
from sparsejax.data.sources import DEBIAN_FASHION, cifar10_cache, latents_cache
from sparsejax.data.speech import SPEECH
from sparsejax.data.tfds_source import BUILDERS


class Place(NamedTuple):
    """One place where a data set may be: what was found there ("" when nothing), and its bytes."""

    name: str
    source: str
    path: Path | None
    found: str
    size: int


def survey() -> list[Place]:
    """Looks at every place that load() reads, at names and sizes only.

    Raises:
      DataMissingError: $SPARSEJAX_DATA names no folder.
    """
    root = data_root()
    places = [
        _idx_place("mnist", "files", root and root / "mnist"),
        _idx_place("mnist", "download", user_cache()),
        _idx_place("fashion_mnist", "files", root and root / "fashion_mnist"),
        _idx_place("fashion_mnist", "files", DEBIAN_FASHION),
        *(_tfds_place(name, tfds_folder()) for name in BUILDERS),
        _cifar_place(root and root / CIFAR10_FOLDER),
        _cifar_place(cifar10_cache()),
        _latents_place(root and root / LATENTS_FILE),
        _latents_place(latents_cache()),
        *(
            _speech_place(name, folder)
            for name in SPEECH
            for folder in (root and root / name, user_cache().parent / name)
        ),
        _digits_place(),
    ]
    return sorted(places, key=lambda place: place.name != "mnist")  # mnist first, else as listed


def table(places: list[Place]) -> str:
    """Writes places as lines in columns, and where a download would go."""
    rows = [("data set", "source", "state", "size", "path")]
    for place in places:
        size = f"{place.size / 1e6:.1f} MB" if place.found else ""
        where = str(place.path) if place.path else "$SPARSEJAX_DATA is not set"
        rows.append((place.name, place.source, place.found or "not there", size, where))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    where = f"MNIST would be downloaded to {download_folder()} (python -m sparsejax.data download)."
    return "\n".join([*lines, where])


def _idx_place(name: str, source: str, folder: Path | None) -> Place:
    """Looks for the four idx files."""
    return _files_place(name, source, folder, found_files(folder) if folder else {}, len(MNIST_FILES))


def _cifar_place(folder: Path | None) -> Place:
    """Looks for the six pickles."""
    return _files_place("cifar10", "files", folder, found_batches(folder) if folder else {}, len(CIFAR10_FILES))


def _latents_place(path: Path | None) -> Place:
    """Looks for the file of CIFAR-10's latents."""
    files = {path.name: path} if path and path.is_file() else {}
    return _files_place("cifar10_latents", "files", path, files, 1)


def _speech_place(name: str, folder: Path | None) -> Place:
    """Counts the clips."""
    clips = [*folder.glob("*.wav"), *folder.glob("[!_.]*/*.wav")] if folder else []
    found = f"{len(clips):,} clips" if clips else ""
    return Place(name, "files", folder, found, sum(path.stat().st_size for path in clips))


def _files_place(name: str, source: str, folder: Path | None, files: dict[str, Path], count: int) -> Place:
    """Says how many of a data set's files there are, and their bytes."""
    partly = f"{len(files)} of {count} files" if files else ""
    found = "there" if len(files) == count else partly
    return Place(name, source, folder, found, sum(path.stat().st_size for path in files.values()))


def _tfds_place(name: str, folder: Path) -> Place:
    """Looks for a prepared TFDS folder, without importing TFDS."""
    infos = sorted((folder / name).glob("*/dataset_info.json"))
    path = infos[-1].parent if infos else folder / name
    size = sum(file.stat().st_size for file in path.iterdir()) if infos else 0
    return Place(name, "tfds", path, "there" if infos else "", size)


def _digits_place() -> Place:
    """Looks for scikit-learn's digits, without importing it."""
    spec = importlib.util.find_spec("sklearn")
    if spec is None or spec.origin is None:
        return Place("digits", "digits", Path("scikit-learn (not installed)"), "", 0)
    path = Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz"
    size = path.stat().st_size if path.is_file() else 0
    return Place("digits", "digits", path, "there" if size else "", size)
