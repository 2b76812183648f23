"""The command, versions and devices of a result."""

import os
import platform
import shlex
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from sparsejax import __version__

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


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
            "cores": usable_cores(),
        },
    }


def _program(otherwise: str) -> list[str]:
    """Returns how this process was started, which is `sparsejax.reproduce` for networks of a study."""
    script = Path(sys.argv[0]).name
    if script in ("sparsejax", "sparsejax-reproduce"):
        return [script]
    module = getattr(getattr(sys.modules["__main__"], "__spec__", None), "name", "")
    return ["python", "-m", module] if module.startswith("sparsejax.") else otherwise.split()


def version_of(package: str) -> str | None:
    """Returns the version of an installed package, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def usable_cores() -> int | None:
    """Returns the number of cores that this process may use, over which XLA splits sums on a CPU."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def find_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Returns what differs in the device, its cores and JAX between two `environment`s, on which roundings depend."""
    pairs = {
        **{f"device {name}": ("device", name) for name in ("kind", "platform", "count")},
        "usable cores": ("device", "cores"),
        **{name: ("versions", name) for name in ("jax", "jaxlib")},
    }
    values = {what: [told.get(part, {}).get(name) for told in (before, now)] for what, (part, name) in pairs.items()}
    return [f"{what} (was {was}, now {to})" for what, (was, to) in values.items() if was != to]
