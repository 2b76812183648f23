"""The run folder: what is in it, whose it is, and whether a command may go on in it."""

import io
import json
import math
import os
import platform
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np

from sparsejax import __version__
from sparsejax.data import title
from sparsejax.data.dataset import counted_as
from sparsejax.errors import ConfigError, RunFolderError
from sparsejax.files import write_whole
from sparsejax.training.config import Config
from sparsejax.training.schema import VERSION, from_json, to_json

try:
    import fcntl
except ImportError:  # not on Windows, where nothing keeps two runs apart
    fcntl = None

# Where a run computes and how often it saves changes no result, so these may differ when it is resumed.
_FREE_FIELDS = ("devices.", "training.checkpoint_every", "training.keep_checkpoints", "data.source")
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


class RunFolder:
    """Paths and files of one run; nothing of a run is written outside its folder."""

    def __init__(self, path: Path):
        self.path = path.absolute()
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
        """Makes the folder this run's; returns whether an earlier run of the same configuration is there.

        Args:
          description: the resolved configuration and all else that `config.json` holds.

        Raises:
          RunFolderError: it cannot be written, holds something else, or a run of another configuration.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunFolderError(
                f"The run folder {self.path} cannot be written: {error.strerror or error}. Name another with --out."
            ) from None
        if self.config.exists():
            if self._compare(description):
                self.write(self.config, description)
            return True
        self._refuse_other_things()
        self.write(self.config, description)
        return False

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keeps other runs out of the folder; the system lets go of it when the process ends, however it ends.

        Raises:
          RunFolderError: another run is at work in it, it cannot be written, or holds something else.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._refuse_other_things()
            file = self.lock.open("a+", encoding="utf-8")
        except OSError as error:
            raise RunFolderError(
                f"The run folder {self.path} cannot be written: {error.strerror or error}. Name another with --out."
            ) from None
        with file:
            try:
                if fcntl is not None:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                raise RunFolderError(
                    f"{self.path} is in use by another run ({file.read() or 'unknown process'}); wait for its end, or "
                    "name another folder with --out."
                ) from None
            with suppress(OSError):  # who holds it is good to know, no more
                file.truncate(0)
                file.write(f"process {os.getpid()} on {platform.node() or 'this machine'}")
                file.flush()
            yield

    def discard(self) -> None:
        """Deletes what an earlier run left; other files in the folder stay, and then `claim` refuses it."""
        for path in (self.checkpoints, self.tensorboard, self.figures, self.arrays):
            shutil.rmtree(path, ignore_errors=True)
        for path in (self.config, self.metrics, self.result, self.units, self.detail, self.report):
            path.unlink(missing_ok=True)

    def write(self, path: Path, content: Mapping[str, Any]) -> None:
        """Writes a JSON file whole or not at all.

        Raises:
          RunFolderError: the folder cannot be written.
        """
        text = json.dumps(finite(content), indent=2, allow_nan=False) + "\n"
        write_whole(path, text.encode("utf-8"))

    def write_arrays(self, path: Path, arrays: Mapping[str, np.ndarray]) -> None:
        """Writes named arrays as .npz, whole or not at all; errors as in `write`."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, allow_pickle=False, **arrays)
        write_whole(path, buffer.getvalue())

    def _refuse_other_things(self) -> None:
        foreign = sorted(entry.name for entry in self.path.iterdir() if entry != self.lock)
        if foreign and not self.config.exists():
            raise RunFolderError(
                f"{self.path} is not a run folder: it holds {', '.join(foreign[:5])} but no config.json. Name an empty "
                "or new folder with --out."
            )

    def _compare(self, description: Mapping[str, Any]) -> bool:
        """Refuses a run of another configuration; returns whether this one has more epochs than that one."""
        try:
            earlier = json.loads(self.config.read_text(encoding="utf-8"))
            before = from_json(earlier)
            before, now = (_flat(json.loads(json.dumps(finite(fields))))
                           for fields in (to_json(before), description["config"]))  # fmt: skip
            before |= {"seeds": earlier["seeds"], "points": earlier["points"]}
            data = {"was": earlier["data"], "now": description["data"]}
            same_data = data["was"]["fingerprint"] == data["now"]["fingerprint"]
        except (OSError, ValueError, KeyError, TypeError, ConfigError) as error:
            raise RunFolderError(
                f"{self.config} cannot be read ({error!r}), so it is unknown what run {self.path} holds. Name a new "
                "folder with --out."
            ) from None
        now |= {
            "seeds": description["seeds"],
            "points": json.loads(json.dumps(description["points"])),
        }
        longer = now["training.epochs"] > before["training.epochs"]
        if longer:
            before["training.epochs"] = now["training.epochs"]
        differing = [
            f"{name} (was {before.get(name)}, now {now.get(name)})"
            for name in sorted(before.keys() | now.keys())
            if before.get(name) != now.get(name) and not name.startswith(_FREE_FIELDS)
        ]
        if not same_data:
            differing.append(f"data (was {_in_words(data['was'])}, now {_in_words(data['now'])})")
        if differing:
            raise RunFolderError(
                f"{self.path} holds a run of another configuration; these differ: {'; '.join(differing)}. Give the "
                "same options to resume it, another --out for a new run, or --fresh to replace it."
            )
        return longer


def describe(
    config: Config, *, name: str, seeds: list[int], points: Sequence[dict[str, Any]], data: dict[str, Any]
) -> dict[str, Any]:
    """Returns what `config.json` records of a run."""
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
    """Returns the command, the versions and the device that made a figure.

    Args:
      program: what was run, where this process does not tell: it was not started as a command of sparsejax.
    """
    return {
        "command": shlex.join([*_program(program), *sys.argv[1:]]),
        "versions": {
            "python": platform.python_version(),
            "sparsejax": __version__,
            **{name: _version(name) for name in _PACKAGES},
        },
        "device": {
            "kind": jax.devices()[0].device_kind,
            "platform": jax.default_backend(),
            "count": jax.device_count(),
            "cores": os.cpu_count(),
        },
    }


def _program(otherwise: str) -> list[str]:
    """Returns how this process was started: a study, too, trains networks, whose folders say `sparsejax.reproduce`."""
    script = Path(sys.argv[0]).name
    if script in ("sparsejax", "sparsejax-reproduce"):
        return [script]
    module = getattr(getattr(sys.modules["__main__"], "__spec__", None), "name", "")
    return ["python", "-m", module] if module.startswith("sparsejax.") else otherwise.split()


def finite(value: Any) -> Any:
    """Replaces numbers that JSON does not know (NaN, infinities) by null, and tuples by lists."""
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _in_words(data: Mapping[str, Any]) -> str:
    """Returns what data are, for a person to tell them from others."""
    kind = counted_as(data.get("kind", "examples"))
    counts = f"{data.get('train', '?')} training and {data.get('test', '?')} test {kind}"
    return f"{title(data.get('name', '?'), data.get('source', '?'))}, {counts}, contents {data['fingerprint'][:8]}"


def _version(package: str) -> str | None:
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
