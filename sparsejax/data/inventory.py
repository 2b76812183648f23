"""The table of available data that python -m sparsejax.data list prints."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from sparsejax.data.folders import data_root, tfds_folder
from sparsejax.data.registry import DATA, Entry
from sparsejax.data.tfds_source import prepared_names


class Place(NamedTuple):
    """One possible location of a data set: what was found there ("" if nothing), and its size in bytes."""

    name: str
    source: str
    path: Path | None
    found: str
    size: int


def survey() -> list[Place]:
    """Checks every location that load() reads, by names and sizes only.

    Raises:
      DataMissingError: $SPARSEJAX_DATA is not a folder.
    """
    places = [place for entry in DATA.values() for place in _places(entry)]
    others = sorted(set(prepared_names(tfds_folder())) - {entry.tfds for entry in DATA.values()})
    return [*places, *(_tfds_place(f"tfds/{name}", name) for name in others)]


def table(places: list[Place]) -> str:
    """Formats locations as a table, followed by the available downloads."""
    rows = [("data set", "source", "state", "size", "path")]
    for place in places:
        size = f"{place.size / 1e6:.1f} MB" if place.size else ""
        where = str(place.path) if place.path else "$SPARSEJAX_DATA is not set"
        rows.append((place.name, place.source, place.found or "not there", size, where))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    sizes = ", ".join(f"{name} ({entry.download.size})" for name, entry in DATA.items() if entry.download)
    return "\n".join([*lines, f"To download one: python -m sparsejax.data download NAME, of {sizes}."])


def _places(entry: Entry) -> Iterator[Place]:
    if not entry.place:
        yield _generated_place(entry)
        return
    if data_root() is None:
        yield Place(entry.name, "files", None, "", 0)
    for source, path in entry.places():
        files = entry.files(path)
        there = [file for file in files.values() if file is not None]
        inside = [file for part in there for file in ([part] if part.is_file() else part.rglob("*")) if file.is_file()]
        found = "there" if len(there) == len(files) else f"{len(there)} of {len(files)} files" if there else ""
        if entry.kind == "clips" and found:
            found = f"{sum(file.suffix == '.wav' and file.parent.name[:1] not in '_.' for file in inside):,} clips"
        yield Place(entry.name, source, path, found, sum(file.stat().st_size for file in inside))
    if entry.tfds:
        yield _tfds_place(entry.name, entry.tfds)


def _tfds_place(name: str, prepared: str) -> Place:
    """Looks for a prepared TFDS folder, without importing TFDS."""
    infos = sorted((tfds_folder() / prepared).glob("*/dataset_info.json"))
    path = infos[-1].parent if infos else tfds_folder() / prepared
    size = sum(file.stat().st_size for file in path.iterdir()) if infos else 0
    return Place(name, "tfds", path, "there" if infos else "", size)


def _generated_place(entry: Entry) -> Place:
    """Looks for the file of generated data: scikit-learn's digits, without importing it, or the user's own."""
    if entry.location != "digits":
        return Place(entry.name, entry.location, Path(entry.read.__code__.co_filename), "there", 0)
    spec = importlib.util.find_spec("sklearn")
    if spec is None or spec.origin is None:
        return Place(entry.name, "digits", Path("scikit-learn (not installed)"), "", 0)
    path = Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz"
    size = path.stat().st_size if path.is_file() else 0
    return Place(entry.name, "digits", path, "there" if size else "", size)
