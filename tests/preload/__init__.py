"""Libraries to preload, which replace calls of the system."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

needs_preload = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("cc") is None, reason="needs Linux and a C compiler"
)


def compiled(name: str, folder: Path) -> Path:
    """Compiles a library of this folder into another; returns its path for LD_PRELOAD."""
    source, library = Path(__file__).with_name(f"{name}.c"), folder / f"{name}.so"
    subprocess.run(["cc", "-O1", "-Wall", "-shared", "-fPIC", "-o", library, source, "-ldl", "-lpthread"], check=True)
    return library
