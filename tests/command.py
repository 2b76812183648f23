"""The command line as a user runs it, in a separate process; or in this process, in a tenth of the time."""

import contextlib
import fcntl
import io
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import jax

from sparsejax.commands.train import main

ROOT = Path(__file__).parent.parent

# Seconds on two cores: a hidden layer of k-winners on a few bundled digits.
SMALL = ["--config", "digits_mlp", "--training.epochs", "2", "--data.train-examples", "200",
         "--data.test-examples", "60", "--model.k-inference-factor", "1.5"]  # fmt: skip

# JAX has eight devices here; a run with ONE uses one, as in a separate process. A process with EIGHT shares the
# compilation cache with the others.
ONE = ["--devices.transform", "jit"]
EIGHT = {"JAX_NUM_CPU_DEVICES": "8"}


def quick_options() -> dict[str, Any]:
    """Returns XLA's options for a CPU that halve the time of compiling; JAX 0.10 knows them, later ones may not."""
    if jax.__version_info__ >= (0, 11):
        return {}
    return {"xla_cpu_use_fusion_emitters": False, "xla_cpu_parallel_codegen_split_count": 1}


def environment(**variables: str) -> dict[str, str]:
    """Returns an environment without data and without a network probe, plus the given variables.

    Of JAX's settings it has the cache of compiled programs, and whether to compile quickly, from the calling test. Of
    PYTHONPATH it keeps what is there, such as a compiler's folder, behind this project.
    """
    cache = ("JAX_COMPILATION_CACHE", "JAX_PERSISTENT_CACHE")
    kept = {
        name: value for name, value in os.environ.items()
        if not name.startswith(("SPARSEJAX_", "JAX_", "XLA_")) or name.startswith(cache)
    }  # fmt: skip
    quick = {}
    if jax.config.read("jax_disable_most_optimizations"):
        flags = " ".join(f"--{name}={str(value).lower()}" for name, value in quick_options().items())
        quick = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "XLA_FLAGS": flags}
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return {**kept, **quick, "PYTHONPATH": path, "SPARSEJAX_OFFLINE": "1", "COLUMNS": "200", **variables}


def launch(*arguments: object, cwd: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs `python -m sparsejax.launch` to its end."""
    return subprocess.run(
        [sys.executable, "-m", "sparsejax.launch", *map(str, arguments)],
        capture_output=True, text=True, env=environment(**variables), cwd=cwd or ROOT, timeout=500,
    )  # fmt: skip


def started(*arguments: object, **variables: str) -> subprocess.Popen[str]:
    """Starts `python -m sparsejax.launch` and returns immediately."""
    return subprocess.Popen(
        [sys.executable, "-m", "sparsejax.launch", *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment(**variables), cwd=ROOT,
    )  # fmt: skip


def here(*arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs the same command in this process, with its devices and settings of JAX, and an environment as above."""
    said, complained = io.StringIO(), io.StringIO()
    with (
        mock.patch.dict(os.environ, environment(**variables), clear=True),
        jax.numpy_dtype_promotion("standard"),  # as users have it: Optax's Adam relies on it
        contextlib.redirect_stdout(said),
        contextlib.redirect_stderr(complained),
    ):
        status = main([str(word) for word in arguments])
    return subprocess.CompletedProcess(arguments, status, said.getvalue(), complained.getvalue())


@contextlib.contextmanager
def without_figures() -> Iterator[None]:
    """Lets runs in this process end without figures and report, which take longer than a small run itself."""
    with mock.patch("sparsejax.experiment.write_figures"):
        yield


@contextlib.contextmanager
def share_programs() -> Iterator[None]:
    """Lets this process and the commands that it starts use one cache of compiled programs."""
    with tempfile.TemporaryDirectory() as folder:
        settings = {"compilation_cache_dir": folder, "persistent_cache_min_compile_time_secs": 0,
                    "persistent_cache_min_entry_size_bytes": -1}  # fmt: skip
        for name, value in settings.items():
            jax.config.update(f"jax_{name}", value)
        with mock.patch.dict(os.environ, {f"JAX_{name.upper()}": str(value) for name, value in settings.items()}):
            yield


def run_for_all(folder: Path, words: Sequence[object], *, optimized: bool) -> Path:
    """Returns a folder with a finished run and its output, which the first worker creates for all."""
    settings = {**EIGHT, "JAX_DISABLE_MOST_OPTIMIZATIONS": str(int(not optimized))}
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "said.txt").exists():
            process = launch(*words, *ONE, "--out", folder / "run", **settings)
            assert process.returncode == 0, process.stderr
            (folder / "said.txt").write_text(process.stdout)
    return folder
