"""The command line as a user runs it: a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import jax

ROOT = Path(__file__).parent.parent

# Seconds on two cores: a hidden layer of k-winners on a few bundled digits.
SMALL = ["--config", "digits_mlp", "--training.epochs", "2", "--data.train-examples", "200",
         "--data.test-examples", "60"]  # fmt: skip


def environment(**variables: str) -> dict[str, str]:
    """Returns an environment without data and without a network probe, plus the given variables.

    Of JAX's settings it has the cache of compiled programs, and whether to compile quickly, from the calling test.
    """
    kept = {
        name: value for name, value in os.environ.items()
        if not name.startswith(("SPARSEJAX_", "JAX_", "XLA_")) or name.startswith(("JAX_COMPILATION_CACHE", "JAX_PERSISTENT_CACHE"))
    }  # fmt: skip
    quick = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"} if jax.config.read("jax_disable_most_optimizations") else {}
    return {**kept, **quick, "PYTHONPATH": str(ROOT), "SPARSEJAX_OFFLINE": "1", "COLUMNS": "200", **variables}


def launch(*arguments: object, cwd: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs `python -m sparsejax.launch` to its end."""
    return subprocess.run(
        [sys.executable, "-m", "sparsejax.launch", *map(str, arguments)],
        capture_output=True, text=True, env=environment(**variables), cwd=cwd or ROOT, timeout=500,
    )  # fmt: skip


def started(*arguments: object, **variables: str) -> subprocess.Popen[str]:
    """Starts `python -m sparsejax.launch` and returns at once."""
    return subprocess.Popen(
        [sys.executable, "-m", "sparsejax.launch", *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment(**variables), cwd=ROOT,
    )  # fmt: skip
