"""Activations of a network as a data set: vectors of one or more sites, in memory or in a folder of shards.

A folder holds `activations.json` and its shards, files .npy of `[rows, features]` in float32, float16 or bfloat16. The
features of an example are those of its sites, one after another. The JSON is written last: a folder without it is
unfinished.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np

from sparsejax.data.dataset import Dataset, Split
from sparsejax.data.shards import Shard, ShardedRows, Stored, as_float32, to_stored
from sparsejax.errors import ConfigError, DataDamagedError, shorten
from sparsejax.files import make_folder, replace_file

MANIFEST = "activations.json"
_SCHEMA = 1
_SHARD = 2**16
"""Rows of a shard."""


class _Moments:
    """Sums from which a data set's mean, and the scale of each site, are computed."""

    def __init__(self, widths: Sequence[int]):
        self.widths, self.rows = tuple(widths), 0
        self.sums, self.squares = np.zeros(sum(widths)), np.zeros(sum(widths))

    def add(self, x: np.ndarray) -> None:
        """Adds rows."""
        self.rows += len(x)
        self.sums += x.sum(axis=0, dtype=np.float64)
        self.squares += np.einsum("ij,ij->j", x, x, dtype=np.float64)

    def mean(self) -> tuple[float, ...]:
        """Returns the mean of each feature."""
        return tuple(map(float, self.sums / max(1, self.rows)))

    def scale(self) -> tuple[float, ...]:
        """Returns for each feature the root mean square of its site: divided by it, the mean of |x|² is the width."""
        ends = np.cumsum(self.widths)[:-1]
        each = [np.sqrt(part.mean() / max(1, self.rows)) for part in np.split(self.squares, ends)]
        return tuple(float(size) for size, width in zip(each, self.widths, strict=True) for _ in range(width))


def make_activations(
    train: Mapping[str, Any], test: Mapping[str, Any], *, name: str = "activations", source: str = "python"
) -> Dataset:
    """Return activations in memory as a data set.

    Its moments centre every feature, and scale each site so that the mean of |x|² (before centring) is its width.

    Args:
      train: site -> activations `[n, width]`; all sites have the same examples in the same order.
      test: the same for the test set.
      name: of the data set.
      source: origin of the activations.

    Raises:
      ConfigError: an array has another shape, is not finite, or the two splits have other sites.
    """
    if list(train) != list(test):
        raise ConfigError(f"The training set has the sites {', '.join(train)}, but the test set {', '.join(test)}; "
                          "expected the same in the same order.")  # fmt: skip
    x, held_out = (_join(split, word) for split, word in ((train, "training"), (test, "test")))
    moments = _Moments([np.shape(part)[1] for part in train.values()])
    moments.add(x)
    return _dataset(name, source, x, held_out, moments.mean(), moments.scale())


def write_activations(
    folder: str | Path,
    train: Iterable[Mapping[str, Any]],
    test: Iterable[Mapping[str, Any]],
    *,
    stored: Stored = "float16",
    shard_rows: int = _SHARD,
    origin: Mapping[str, Any] | None = None,
) -> Path:
    """Write batches of activations into a folder of shards, and return its path.

    Args:
      folder: a new or empty folder.
      train: batches, each site -> activations `[n, width]`.
      test: the same for the test set.
      stored: type of the numbers in the files.
      shard_rows: rows of a file.
      origin: what they are, for the manifest.

    Raises:
      ConfigError: the folder is not empty, a batch has other sites or shapes, or a number is not finite or too large
        for the type.
    """
    folder = Path(folder)
    if stored not in get_args(Stored):
        raise ConfigError(f"stored is {stored!r}; expected {', '.join(get_args(Stored))}.")
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty; choose a new folder, or delete it first.")
    make_folder(folder)
    written: dict[str, Any] = {}
    moments, sites, digest = None, None, hashlib.sha256()
    for split, batches in (("train", train), ("test", test)):
        shards, waiting, held = [], [], 0
        for batch in batches:
            found = {site: np.shape(part)[-1] for site, part in batch.items()}
            sites = found if sites is None else sites
            if found != sites or list(found) != list(sites):
                raise ConfigError(f"A batch of the {split} set has the sites {found}; expected {sites}, as before.")
            moments = _Moments(list(sites.values())) if moments is None else moments
            bits = to_stored(_join(batch, split), stored)
            x = as_float32(bits, stored)
            if not np.isfinite(x).all():
                raise ConfigError(f"Activations of the {split} set are too large for {stored}; store float32.")
            if split == "train":
                moments.add(x)
            waiting.append(bits)
            held += len(bits)
            while held >= shard_rows:
                joined = np.concatenate(waiting)
                _write_shard(folder, split, shards, joined[:shard_rows], digest)
                waiting, held = [joined[shard_rows:]], held - shard_rows
        if held:
            _write_shard(folder, split, shards, np.concatenate(waiting), digest)
        if not shards:
            raise ConfigError(f"The {split} set has no activations; expected at least one batch.")
        written[split] = shards
    assert moments is not None and sites is not None
    manifest = {"schema": _SCHEMA, "sites": sites, "stored": stored, **written, "mean": moments.mean(),
                "scale": moments.scale(), "sha256": digest.hexdigest(), "origin": dict(origin or {})}  # fmt: skip
    replace_file(folder / MANIFEST, json.dumps(manifest, indent=1, allow_nan=False).encode())
    return folder


def read_activations(folder: Path) -> Dataset:
    """Reads a folder of shards as a data set, whose rows are read from the disk when they are used.

    Raises:
      DataDamagedError: the manifest cannot be read, or a shard is missing.
    """
    again = f"Delete {folder}, and harvest the activations again."
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        sites, stored = manifest["sites"], manifest["stored"]
        features = sum(map(int, sites.values()))
        splits = []
        for split in ("train", "test"):
            shards = [Shard(folder / str(name), int(rows)) for name, rows in manifest[split]]
            splits.append(ShardedRows(shards, features, stored))
        mean, scale, digest = tuple(manifest["mean"]), tuple(manifest["scale"]), str(manifest["sha256"])
        known = manifest["schema"] == _SCHEMA and stored in get_args(Stored)
        missing = [shard.path for rows in splits for shard in rows.shards if not shard.path.is_file()]
    except Exception as error:  # a damaged file may hold anything
        raise DataDamagedError(f"{folder / MANIFEST} is damaged ({shorten(repr(error))}). {again}") from None
    if not known or missing:
        problem = f"{missing[0]} is missing" if missing else f"{folder / MANIFEST} has an unknown schema or type"
        raise DataDamagedError(f"{problem}. {again}")
    train, test = splits
    return _dataset(folder.name, str(folder), train, test, mean, scale, digest=digest)


def read_sites(folder: str | Path) -> dict[str, int]:
    """Return the sites of a folder of activations, and their widths."""
    return dict(json.loads((Path(folder) / MANIFEST).read_text())["sites"])


def _dataset(name: str, source: str, train: Any, test: Any, mean: Any, scale: Any, digest: str = "") -> Dataset:
    training, held_out = (Split(x, np.zeros(len(x), np.int32)) for x in (train, test))
    return Dataset(name, source, training, held_out, classes=0, mean=mean, std=scale, digest=digest)


def _write_shard(folder: Path, split: str, shards: list[Any], rows: np.ndarray, digest: Any) -> None:
    name = f"{split}-{len(shards):05}.npy"
    replace_file(folder / name, lambda file: np.save(file, rows))
    digest.update(np.ascontiguousarray(rows).data)
    shards.append((name, len(rows)))


def _join(sites: Mapping[str, Any], word: str) -> np.ndarray:
    """Returns the activations of all sites side by side, float32 `[n, features]`."""
    parts = [np.asarray(part, np.float32) for part in sites.values()]
    shapes = {site: list(part.shape) for site, part in zip(sites, parts, strict=True)}
    if not parts or any(part.ndim != 2 for part in parts) or len({len(part) for part in parts}) > 1:
        raise ConfigError(f"The {word} set has the sites {shapes}; expected arrays [n, width] with the same n.")
    x = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
    if not np.isfinite(x).all():
        raise ConfigError(f"{int((~np.isfinite(x)).any(axis=1).sum())} of {len(x)} examples of the {word} set hold "
                          "numbers that are not finite; leave them out.")  # fmt: skip
    return x
