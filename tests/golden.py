"""Reference cases recorded from the original implementations, stored outside the repository."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

_DEFAULT = Path(__file__).resolve().parents[2] / "shared" / "golden"


def folder() -> Path:
    """Returns the folder of the cases; the test is skipped where there is none."""
    path = Path(os.environ.get("SPARSEJAX_GOLDEN", _DEFAULT))
    if not path.is_dir():
        pytest.skip(f"no golden cases at {path}; set SPARSEJAX_GOLDEN to the folder that holds them")
    return path


def load(name: str) -> dict[str, np.ndarray]:
    """Returns the arrays of a case, `kwinners_04_ties` for one; the test is skipped where the folder is absent."""
    path = folder() / f"{name}.npz"
    if not path.is_file():
        pytest.skip(f"no golden case {path}")
    with np.load(path) as arrays:
        return dict(arrays)


def params(name: str, index: str = "kwinners_index.json") -> dict:
    """Returns the parameters with which a case was recorded."""
    cases = json.loads((folder() / index).read_text())["cases"]
    return next(case["params"] for case in cases if case["file"] == f"{name}.npz")
