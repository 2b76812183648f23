"""Settings of every test: eight CPU devices, and no silent broadcasting or promotion of types."""

import itertools
from pathlib import Path

import hypothesis
import jax
import pytest

# Before anything uses JAX: devices cannot be added once a backend has started.
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

# Compiling takes longer than hypothesis' deadline; shapes are fixed, so each property compiles once.
hypothesis.settings.register_profile("sparsejax", deadline=None, max_examples=40, derandomize=True)
hypothesis.settings.load_profile("sparsejax")


@pytest.fixture(scope="module", autouse=True)
def programs_are_let_go():
    """Lets go of compiled programs while they are still few: Linux allows a process 65,530 mapped regions."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > 20_000:
        jax.clear_caches()


@pytest.fixture
def fresh_key():
    """Returns a function that gives another PRNG key at every call, the same ones in every run."""
    seeds = itertools.count(1234)
    return lambda: jax.random.key(next(seeds))


@pytest.fixture
def quick_compile():
    """Compiles without most optimisations, for tests that compile far more than they run."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory):
    """Returns the folder of a run that nothing befell, which those that something did are compared with."""
    from tests.command import launch
    from tests.kill_campaign import RUN

    folder = tmp_path_factory.mktemp("runs") / "whole"
    process = launch(*RUN, "--out", folder)
    assert process.returncode == 0, process.stderr
    return folder
