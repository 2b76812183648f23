"""The run folder: its contents, its lock, and whether a command may resume the run in it."""

import io
import json
import math
import os
import platform
import shlex
import shutil
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np

from sparsejax import __version__
from sparsejax.data import title
from sparsejax.data.dataset import examples_noun
from sparsejax.errors import ConfigError, RunFolderError, SparsejaxWarning, shorten
from sparsejax.files import lock, write_whole
from sparsejax.terminal import encodable
from sparsejax.training.config import Config
from sparsejax.training.records import read_description, read_result, reading
from sparsejax.training.schema import VERSION, from_json, to_json

# Devices and the frequency of checkpoints do not change the result, so these may differ on resuming.
_FREE_FIELDS = ("devices.", "training.checkpoint_every", "training.keep_checkpoints", "data.source")
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


class RunFolder:
    """Paths and files of one run; nothing of a run is written outside its folder."""

    def __init__(self, path: str | Path):
        if not isinstance(path, (str, Path)):
            raise ConfigError(f"The run folder is {path!r}; expected its path, such as 'runs/NAME'.")
        self.path = Path(path).absolute()
        if encodable(str(self.path), "utf-8") != str(self.path):
            raise ConfigError(
                f"The run folder {str(path)!a} is not text in this locale, so TensorStore cannot write checkpoints to "
                "it; choose another name with --out, or set LC_ALL=C.UTF-8."
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

    def claim(self, description: Mapping[str, Any]) -> bool:
        """Claims the folder for this run; returns whether it has an earlier run of the same configuration.

        Args:
          description: the contents of `config.json`.

        Raises:
          RunFolderError: it cannot be written, has other contents, or a run of another configuration.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunFolderError(
                f"The run folder {self.path} cannot be written: {error.strerror or error}. Choose another with --out."
            ) from None
        if self.config.exists():
            if self._compare(description):
                self.write(self.config, description)
            return True
        self._refuse_other_things()
        self.write(self.config, description)
        return False

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Locks the folder; the system releases the lock when the process ends.

        Without locks in the file system, or on Windows, it warns and goes on.

        Raises:
          RunFolderError: another run uses it, it cannot be written or locked, or it has other contents.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._refuse_other_things()
            file = self.lock.open("a+", encoding="utf-8")
        except OSError as error:
            raise RunFolderError(
                f"The run folder {self.path} cannot be written: {error.strerror or error}. Choose another with --out."
            ) from None
        with file:
            try:
                locked = lock(file)
            except BlockingIOError:
                file.seek(0)
                raise RunFolderError(
                    f"{self.path} is in use by another run ({file.read() or 'unknown process'}); wait for its end, or "
                    "choose another folder with --out."
                ) from None
            except OSError as error:
                raise RunFolderError(
                    f"The run folder {self.path} cannot be locked: {error.strerror or error}. Choose another with "
                    "--out."
                ) from None
            if not locked:
                no_locks = f"The file system of {self.path} has no locks: make sure that no other run uses this folder."
                warnings.warn(no_locks, SparsejaxWarning, stacklevel=2)
            with suppress(OSError):  # the owner is only informative
                file.truncate(0)
                file.write(f"process {os.getpid()} on {platform.node() or 'this machine'}")
                file.flush()
            yield

    def discard(self) -> None:
        """Deletes an earlier run; other files in the folder stay, and `claim` then raises an error."""
        for path in (self.checkpoints, self.tensorboard, self.figures, self.arrays):
            shutil.rmtree(path, ignore_errors=True)
        for path in (self.config, self.metrics, self.result, self.units, self.detail, self.report):
            path.unlink(missing_ok=True)

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
        foreign = sorted(entry.name for entry in self.path.iterdir() if entry != self.lock)
        if foreign and not self.config.exists():
            raise RunFolderError(
                f"{self.path} is not a run folder: it has {', '.join(foreign[:5])} but no config.json. Choose an empty "
                "or new folder with --out."
            )

    def _compare(self, description: Mapping[str, Any]) -> bool:
        """Checks that the run in the folder has the same configuration; returns whether this one has more epochs."""
        try:
            earlier = read_description(self.config)
            before = from_json(earlier)
            before, now = (_flat(json.loads(json.dumps(finite(fields))))
                           for fields in (to_json(before), description["config"]))  # fmt: skip
            before |= {"seeds": earlier["seeds"], "points": earlier["points"]}
            data = {"was": earlier["data"], "now": description["data"]}
            same_data = data["was"]["fingerprint"] == data["now"]["fingerprint"]
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
        return longer


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


def environment(program: str = "python -m sparsejax.launch") -> dict[str, Any]:
    """Returns the command, the versions and the device of a result.

    Args:
      program: name of the command, if this process was not started as a command of sparsejax.
    """
    return {
        "command": shlex.join([*_program(program), *sys.argv[1:]]),
        "versions": {
            "python": platform.python_version(),
            "sparsejax": __version__,
            **{name: version_of(name) for name in _PACKAGES},
        },
        "device": {
            "kind": jax.devices()[0].device_kind,
            "platform": jax.default_backend(),
            "count": jax.device_count(),
            "cores": os.cpu_count(),
        },
    }


def _program(otherwise: str) -> list[str]:
    """Returns how this process was started, which is `sparsejax.reproduce` for networks of a study."""
    script = Path(sys.argv[0]).name
    if script in ("sparsejax", "sparsejax-reproduce"):
        return [script]
    module = getattr(getattr(sys.modules["__main__"], "__spec__", None), "name", "")
    return ["python", "-m", module] if module.startswith("sparsejax.") else otherwise.split()


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


def version_of(package: str) -> str | None:
    """Returns the version of an installed package, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
