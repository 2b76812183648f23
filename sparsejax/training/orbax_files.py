"""Reads checkpoints of versions up to 0.2.0, which Orbax wrote: folders with a tree and its checksums."""

import json
import re
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np

_ORDER = re.compile(r"^\d+")
"""The place of an array in its tree, with which its name begins."""


def read_folder(folder: Path) -> dict[str, np.ndarray]:
    """Returns the arrays of a checkpoint by name.

    Raises:
      ValueError: a checksum is wrong.
      Exception: Orbax or TensorStore cannot read it.
    """
    import orbax.checkpoint as ocp  # here, because the import is slow

    try:
        leaves = ocp.Checkpointer(ocp.StandardCheckpointHandler()).restore(folder / "tree")
    except Exception:
        _ignore_late_reads()
        raise
    expected = json.loads((folder / "checksums" / "metadata").read_text(encoding="utf-8"))
    found = {name: zlib.crc32(np.ascontiguousarray(leaf).tobytes()) for name, leaf in leaves.items()}
    wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if wrong:
        raise ValueError(f"the checksum of {', '.join(wrong)} is wrong")
    return {_ORDER.sub("", name): np.asarray(leaf) for name, leaf in leaves.items()}


def _ignore_late_reads() -> None:
    """Drops the errors of TensorStore's other reads, which end after Orbax has closed their event loop."""
    usual = sys.unraisablehook

    def hook(arguments: Any) -> None:
        if "Event loop is closed" not in str(arguments.exc_value):
            usual(arguments)

    sys.unraisablehook = hook
