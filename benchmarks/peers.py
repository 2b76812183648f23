"""PyTorch as a peer: the twin runs in a separate process, under the interpreter of another environment."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.timing import Run

VARIABLE = "SPARSEJAX_TORCH_PYTHON"
HOW_TO_GET_IT = (
    "PyTorch was not measured. Install it in a separate environment: `python -m venv torch-env && "
    "torch-env/bin/pip install torch==2.13.0 numpy` (on Linux, --index-url https://download.pytorch.org/whl/cpu "
    f"saves the CUDA libraries), then --torch-python torch-env/bin/python or {VARIABLE}=torch-env/bin/python."
)
_REST = 0.3  # seconds for PyTorch's threads to sleep before ours run


class Twin:
    """A running `torch_twin.py --serve`; `forms` describes how each case is computed, `python` is its interpreter."""

    def __init__(self, process: subprocess.Popen[str], python: str):
        self._process = process
        self.python = python
        self.forms: dict[str, str] = {}
        self.version = ""

    def run(self, case: str, *, steps: int, **make: Any) -> Run:
        """Prepares a case and returns a run that times one of `steps` steps."""
        print(f"preparing {case}", file=sys.stderr, flush=True)
        answer = self._ask({"id": case, "make": make})
        self.forms[case], self.version = answer["form"], answer["torch"]

        def run() -> float:
            milliseconds = self._ask({"id": case, "steps": steps})["ms"]
            time.sleep(_REST)
            return milliseconds

        return run

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        print(json.dumps(request), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"torch_twin.py ended with status {self._process.wait()}; see its output above.")
        return json.loads(answer)


@contextmanager
def twin(python: str | None) -> Iterator[Twin | None]:
    """Starts the twin under another interpreter; without one there is no twin."""
    if python is None:
        yield None
        return
    script = Path(__file__).with_name("torch_twin.py")
    process = subprocess.Popen(
        [python, str(script), "--serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield Twin(process, python)
    finally:
        process.stdin.close()
        process.wait(timeout=30)


def torch_python(given: str | None) -> str | None:
    """Returns the interpreter that has PyTorch: as given, or from the environment, or None."""
    return given or os.environ.get(VARIABLE)
