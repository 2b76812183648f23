"""Reads checkpoints of versions up to 0.2.0, which Orbax wrote: folders with a tree and its checksums."""

import json
import re
import zlib
from pathlib import Path

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

    leaves = ocp.Checkpointer(ocp.StandardCheckpointHandler()).restore(folder / "tree")
    expected = json.loads((folder / "checksums" / "metadata").read_text(encoding="utf-8"))
    found = {name: zlib.crc32(np.ascontiguousarray(leaf).tobytes()) for name, leaf in leaves.items()}
    wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if wrong:
        raise ValueError(f"the checksum of {', '.join(wrong)} is wrong")
    return {_ORDER.sub("", name): np.asarray(leaf) for name, leaf in leaves.items()}
