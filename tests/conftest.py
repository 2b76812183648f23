"""Settings of every test: eight CPU devices, no silent promotion, quick compilation, one cache of compiled programs."""

import itertools
import os
import tempfile
from pathlib import Path

import hypothesis
import pytest

# JAX reads its environment when it is imported. Workers and commands inherit it, and so share one cache; the process
# that made the folder removes it as it exits.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _CACHE = tempfile.TemporaryDirectory(prefix="sparsejax-tests-", ignore_cleanup_errors=True)
    os.environ |= {
        "JAX_COMPILATION_CACHE_DIR": _CACHE.name,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }

import jax
import jaxtyping
from jax._src import compiler

# Calls of these packages are checked against their annotations. The option of jaxtyping's plugin splits a checker with
# arguments at a wrong comma; `is_pep484_tower` accepts an int for a float, like Python's typing.
jaxtyping.install_import_hook(
    ["sparsejax.functional", "sparsejax.coding"], "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
)

from tests.command import quick_options  # noqa: E402

# Before anything uses JAX: devices cannot be added once a backend has started.
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

# Compiling takes longer than hypothesis' deadline; shapes are fixed, so each property compiles once.
hypothesis.settings.register_profile("sparsejax", deadline=None, max_examples=40, derandomize=True)
hypothesis.settings.load_profile("sparsejax")


_compile_options = compiler.get_compile_options


def _quick_compile_options(*args, env_options_overrides=None, **kwargs):
    """Adds options that halve the time of a quick compilation; they are part of the persistent cache's key."""
    quick = quick_options() if jax.config.read("jax_disable_most_optimizations") else {}
    return _compile_options(*args, env_options_overrides={**quick, **(env_options_overrides or {})}, **kwargs)


compiler.get_compile_options = _quick_compile_options


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="run the slow tests, too")


def pytest_xdist_auto_num_workers(config):
    """Starts one worker for each core that this process may use; xdist counts the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def pytest_collection_modifyitems(config, items):
    """Skips slow tests unless --slow is given or a test is selected by its identifier."""
    if config.getoption("--slow") or any("::" in argument for argument in config.args):
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    config.hook.pytest_deselected(items=slow)
    items[:] = [item for item in items if item not in set(slow)]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Compiles without most optimisations, before any fixture runs, unless the test is marked `optimized`.

    The setting is not part of the key of JAX's in-memory caches, so these are cleared when it changes. Annotations are
    not checked in a test marked `wrong_types`.
    """
    jaxtyping.config.update("jaxtyping_disable", item.get_closest_marker("wrong_types") is not None)
    quick = item.get_closest_marker("optimized") is None
    if quick != jax.config.read("jax_disable_most_optimizations"):
        jax.clear_caches()
        jax.config.update("jax_disable_most_optimizations", quick)


@pytest.fixture(scope="module", autouse=True)
def release_programs():
    """Clears compiled programs regularly: Linux allows a process 65,530 mapped regions."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > 20_000:
        jax.clear_caches()


@pytest.fixture
def fresh_key():
    """Returns a function that returns a new PRNG key at every call, the same sequence in every run."""
    seeds = itertools.count(1234)
    return lambda: jax.random.key(next(seeds))


@pytest.fixture(scope="session")
def for_all(tmp_path_factory):
    """Returns a folder that all workers share."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def small_run(for_all):
    """Returns a folder with the folder `run` of a small run, and its output in `said.txt`; do not change them."""
    from tests.command import SMALL, run_for_all

    return run_for_all(for_all / "small", SMALL, optimized=False)


@pytest.fixture(scope="session")
def uninterrupted(for_all):
    """Returns the folder of an uninterrupted run, for comparisons; its users are `optimized`."""
    from tests.command import run_for_all
    from tests.kill_campaign import SHORT

    return run_for_all(for_all / "whole", SHORT, optimized=True) / "run"
