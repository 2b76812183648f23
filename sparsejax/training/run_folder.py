"""The run folder: its contents, its lock, and whether a command may resume the run in it."""

import io
import json
import math
import os
import platform
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from sparsejax.data import title
from sparsejax.data.dataset import examples_noun
from sparsejax.errors import ConfigError, RunFolderError, SparsejaxWarning, shorten
from sparsejax.files import (
    incomplete,
    lock,
    make_folder,
    open_lock,
    remove,
    remove_incomplete,
    sync_folder,
    write_whole,
)
from sparsejax.terminal import encodable
from sparsejax.training.config import Config
from sparsejax.training.environment import environment, find_changes
from sparsejax.training.records import read_description, read_result, reading
from sparsejax.training.schema import VERSION, from_json, to_json

# Devices and the frequency of checkpoints do not change the result, so these may differ on resuming.
_FREE_FIELDS = ("devices.", "training.checkpoint_every", "training.keep_checkpoints", "data.source")


class RunFolder:
    """Paths and files of one run; nothing of a run is written outside its folder."""

    def __init__(self, path: str | Path):
        if not isinstance(path, (str, Path)):
            raise ConfigError(f"The run folder is {path!r}; expected its path, such as 'runs/NAME'.")
        if not str(path) or "\0" in str(path):
            raise ConfigError(f"The run folder is {str(path)!r}; expected its path, such as 'runs/NAME'.")
        self.path = Path(path).absolute()
        if encodable(str(self.path), "utf-8") != str(self.path):
            raise ConfigError(
                f"The run folder {str(path)!a} is not text in this locale; choose another name with "
                "--out, or set LC_ALL=C.UTF-8."
            )
        self.config = self.path / "config.json"
        self.metrics = self.path / "metrics.jsonl"
        self.result = self.path / "result.json"
        self.units = self.path / "units.npz"
        self.detail = self.path / "detail.npz"
        self.arrays = self.path / "arrays"
        self.checkpoints = self.path / "checkpoints"
        self.tensorboard = self.path / "tensorboard"
        self.figures = self.path / "figures"
        self.report = self.path / "report.html"
        self.lock = self.path / ".lock"
        self.discarded = self.path / ".discarded"
        """The `config.json` of a run that is being deleted; it is the last of its files."""

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Locks the folder, and completes what a killed run has begun in it; the system releases the lock at the end.

        Without locks in the file system, or on Windows, it warns and goes on.

        Raises:
          RunFolderError: another run uses it, it cannot be written or locked, or it has other contents.
        """
        with self._translate_errors("written"):
            make_folder(self.path)
            existed = self.lock.exists()
            file = open_lock(self.lock)
        with file:
            try:
                with self._translate_errors("locked"):
                    locked = lock(file)
            except BlockingIOError:
                raise RunFolderError(
                    f"{self.path} is in use by another run ({file.read() or 'unknown process'}); wait for its end, or "
                    "choose another folder with --out."
                ) from None
            if not locked:
                no_locks = f"The file system of {self.path} has no locks: make sure that no other run uses this folder."
                warnings.warn(no_locks, SparsejaxWarning, stacklevel=2)
            with self._translate_errors("written"):
                try:
                    self._refuse_other_things()
                except RunFolderError:
                    if not existed:  # leave a folder of something else as it was
                        self.lock.unlink()
                    raise
                self._complete()
            with suppress(OSError):  # the owner is only informative
                file.truncate(0)
                file.write(f"process {os.getpid()} on {platform.node() or 'this machine'}")
                file.flush()
            yield

    def claim(self, description: Mapping[str, Any]) -> list[str]:
        """Claims the folder for this run, or for resuming an earlier one of the same configuration.

        Args:
          description: the contents of `config.json`.

        Returns:
          Changes of the machine since the start of an earlier run, for which its results may differ by rounding.

        Raises:
          RunFolderError: it cannot be written, has other contents, or a run of another configuration.
        """
        if self.config.exists():
            changes, longer = self._compare(description)
            if longer:
                self.write(self.config, description)
            return changes
        with self._translate_errors("written"):
            make_folder(self.path)
        self._refuse_other_things()
        self.write(self.config, description)
        return []

    def discard(self) -> None:
        """Deletes an earlier run; a process that is killed here leaves a folder in which `hold` deletes the rest.

        Raises:
          RunFolderError: it has files that are not of a run, and nothing was deleted; or it cannot be written.
        """
        if not self.config.exists():
            return
        if foreign := sorted({path.name for path in self.path.iterdir()} - self._own()):
            raise RunFolderError(
                f"{self.path} has {', '.join(foreign[:5])}, which --fresh does not delete. Move it elsewhere, or "
                "choose another folder with --out."
            )
        with self._translate_errors("written"):
            self.config.replace(self.discarded)
            self._complete()

    def _complete(self) -> None:
        """Removes the incomplete files of killed processes, and the rest of a run that one has begun to delete."""
        for name in self._own():
            if incomplete(name) is not None and not (self.path / name).is_dir():
                (self.path / name).unlink()
        for folder in (self.figures, self.arrays):
            remove_incomplete(folder)
        if not self.discarded.exists():
            return
        sync_folder(self.path)
        for path in self._paths() - {self.lock, self.discarded}:
            remove(path)
        sync_folder(self.path)
        self.discarded.unlink()

    def _paths(self) -> set[Path]:
        """Returns the paths of everything that a run may write, apart from the arrays of a user's measures."""
        return {path for path in vars(self).values() if path != self.path}

    def _own(self) -> set[str]:
        """Returns the names of these, and those of incomplete ones in the folder."""
        names = {path.name for path in self._paths()}
        return names | {path.name for path in self.path.iterdir() if incomplete(path.name) in names}

    @contextmanager
    def _translate_errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except BlockingIOError:
            raise
        except OSError as error:
            where = f" ({error.filename})" if error.filename and Path(error.filename) != self.path else ""
            raise RunFolderError(
                f"The run folder {self.path} cannot be {what}: {error.strerror or error}{where}. Choose another with "
                "--out."
            ) from None

    def write(self, path: Path, content: Mapping[str, Any]) -> None:
        """Writes a JSON file atomically.

        Raises:
          RunFolderError: the folder cannot be written.
        """
        text = json.dumps(finite(content), indent=2, allow_nan=False) + "\n"
        write_whole(path, text.encode("utf-8"))

    def read_result(self) -> dict[str, Any]:
        """Returns the contents of `result.json`.

        Raises:
          RunFolderError: the run is not finished, or the file is damaged.
        """
        with reading(self.result):
            try:
                return read_result(self.result)
            except FileNotFoundError:
                raise RunFolderError(
                    f"{self.path} has no result.json: it is not a run folder, or its run is not finished. Pass a "
                    "finished run, or resume this one with the command or the call that started it."
                ) from None

    def write_arrays(self, path: Path, arrays: Mapping[str, np.ndarray]) -> None:
        """Writes named arrays atomically as .npz; errors as in `write`."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, allow_pickle=False, **arrays)
        write_whole(path, buffer.getvalue())

    def _refuse_other_things(self) -> None:
        if self.config.exists() or self.discarded.exists():
            return
        unfinished = {name for name in self._own() if incomplete(name) == self.config.name}
        if foreign := sorted({path.name for path in self.path.iterdir()} - {self.lock.name} - unfinished):
            raise RunFolderError(
                f"{self.path} is not a run folder: it has {', '.join(foreign[:5])} but no config.json. Choose an empty "
                "or new folder with --out."
            )

    def _compare(self, description: Mapping[str, Any]) -> tuple[list[str], bool]:
        """Checks that the run in the folder has the same configuration.

        Returns:
          Changes of the machine since its start, and whether this one has more epochs.
        """
        try:
            earlier = read_description(self.config)
            before = from_json(earlier)
            before, now = (_flat(json.loads(json.dumps(finite(fields))))
                           for fields in (to_json(before), description["config"]))  # fmt: skip
            before |= {"seeds": earlier["seeds"], "points": earlier["points"]}
            data = {"was": earlier["data"], "now": description["data"]}
            same_data = data["was"]["fingerprint"] == data["now"]["fingerprint"]
            changes = find_changes(earlier, description)
        except Exception as error:  # what is missing, or of another type, can fail anywhere
            raise RunFolderError(
                f"{self.config} cannot be read ({shorten(repr(error))}), so the run in {self.path} is unknown. Choose "
                "a new folder with --out."
            ) from None
        now |= {
            "seeds": description["seeds"],
            "points": json.loads(json.dumps(description["points"])),
        }
        longer = now["training.epochs"] > before["training.epochs"]
        if longer:
            before["training.epochs"] = now["training.epochs"]
        differing = [
            f"{name} (was {shorten(str(before.get(name)))}, now {shorten(str(now.get(name)))})"
            for name in sorted(before.keys() | now.keys())
            if before.get(name) != now.get(name) and not name.startswith(_FREE_FIELDS)
        ]
        if not same_data:
            differing.append(f"data (was {_describe_data(data['was'])}, now {_describe_data(data['now'])})")
        if differing:
            raise RunFolderError(
                f"{self.path} has a run of another configuration; these differ: {'; '.join(differing)}. Pass the "
                "same options to resume it, another --out for a new run, or --fresh to replace it."
            )
        return changes, longer


def describe(
    config: Config, *, name: str, seeds: list[int], points: Sequence[dict[str, Any]], data: dict[str, Any]
) -> dict[str, Any]:
    """Returns the contents of `config.json` for a run."""
    return {
        "schema": VERSION,
        "name": name,
        "module": type(config.model).__module__,
        "config": to_json(config),
        "seeds": seeds,
        "points": list(points),
        "data": data,
        **environment(),
    }


def finite(value: Any) -> Any:
    """Replaces numbers that JSON does not support (NaN, infinities) by null, and tuples by lists."""
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _describe_data(data: Mapping[str, Any]) -> str:
    """Returns a short description of data."""
    kind = examples_noun(data.get("kind", "examples"))
    counts = f"{data.get('train', '?')} training and {data.get('test', '?')} test {kind}"
    return f"{title(data.get('name', '?'), data.get('source', '?'))}, {counts}, contents {data['fingerprint'][:8]}"


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
