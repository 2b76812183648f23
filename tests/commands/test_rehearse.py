"""Compilation for a TPU without one; most tests need libtpu, which `pip install '.[tpu]'` installs."""

import importlib.util

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import SingleDeviceSharding

from sparsejax import configs
from sparsejax.commands import rehearse as rehearse_module
from sparsejax.commands.rehearse import _chips, lines_of, rehearse
from sparsejax.configuration import replace
from sparsejax.errors import ConfigError
from sparsejax.experiment import Experiment
from sparsejax.functional import winners
from tests.command import SMALL, here, launch

INSTALLED = importlib.util.find_spec("libtpu") is not None
compiled = pytest.mark.skipif(not INSTALLED, reason="libtpu is not installed (pip install '.[tpu]')")


def experiment(networks=1, **changes):
    fields = {name.replace("__", "."): value for name, value in changes.items()}
    small = {"data.train_examples": 200, "data.test_examples": 60, **fields}
    config = replace(configs.get("digits_mlp"), small)
    members = tuple(replace(config, {"training.seed": seed}) for seed in range(networks))
    return Experiment("digits_mlp", members, ({},) * networks)


def test_without_the_compiler_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(rehearse_module, "version_of", lambda package: None)
    refused = here(*SMALL, "--rehearse", "v5e:2x2")
    assert refused.returncode == 2
    assert "pip install 'sparsejax[tpu]'" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"data__streaming": True}, "data.streaming True"), ({"devices__transform": "pmap"}, "devices.transform pmap")],
)
def test_what_cannot_be_rehearsed_is_refused(changes, named):
    with pytest.raises(ConfigError, match=named):
        rehearse(experiment(**changes), "v5e:2x2")


@compiled
@pytest.mark.slow
@pytest.mark.optimized
def test_a_batch_over_four_chips_takes_one_all_reduce():
    one = experiment(training__batch_size=64)
    found = rehearse(one, "v5e:2x2")
    assert (found.placement.member_devices, found.placement.shards) == (1, 4)
    assert found.collectives == {"all-reduce": 1}
    weights = 4 * (784 * 256 + 256 + 256 * 10 + 10)
    assert found.held_bytes > 2 * weights + 260 * 784, "the network, the best so far, and the digits"
    assert found.flops > 16 * 2 * 784 * 256, "at least the forward products of a chip's 16 examples"
    assert found.moved_bytes > weights
    text = "\n".join(lines_of(found, one, "v5e:2x2"))
    assert "1 network over 1, each batch over 4 chips" in text
    assert "1 all-reduce" in text


@compiled
@pytest.mark.optimized
def test_networks_of_a_grid_do_not_communicate():
    # On three of four chips, which are no rectangle.
    found = rehearse(experiment(3, training__order_seed=0, devices__data=1), "v5e:2x2")
    assert (found.placement.member_devices, found.placement.shards) == (3, 1)
    assert found.collectives == {}


@compiled
def test_what_a_chip_cannot_hold_is_said():
    with pytest.raises(ConfigError, match=r"does not fit a chip of v5e:2x2 \(Ran out of memory.*15\.\d+G"):
        rehearse(experiment(model__hidden=(4_000_000,), model__density=None), "v5e:2x2")


@compiled
@pytest.mark.slow
def test_the_command_says_it_in_three_lines():
    process = launch(*SMALL, "--rehearse", "v5e:2x2", "--seeds", "2")
    assert process.returncode == 0, process.stderr
    lines = process.stdout.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith(
        "digits_mlp on v5e:2x2: 2 networks over 2, each batch over 2 chips, shard_map; compiled in"
    )
    assert "a step fits" in lines[1]


@compiled
def test_an_unknown_topology_is_refused():
    with pytest.raises(ConfigError, match=r"v99:2x2 is not a TPU known to libtpu"):
        rehearse(experiment(), "v99:2x2")


def text_of_winners(monkeypatch, chip, rows, n, dtype, ties, *, kernels):
    """Returns the text of the search for the winners of rows, compiled for a chip, with kernels or without."""
    monkeypatch.setenv("SPARSEJAX_TPU_KERNELS", str(int(kernels)))
    where = SingleDeviceSharding(_chips(chip)[0])
    shapes = [((rows, n), dtype), ((1, n), dtype), ((), jnp.int32)]
    arguments = [jax.ShapeDtypeStruct(*shape, sharding=where) for shape in shapes]
    jax.clear_caches()  # the search is a program of its own, kept whatever the environment says then
    compiled = jax.jit(lambda x, factor, k: winners(x * factor, k, ties=ties)).lower(*arguments).compile()
    jax.clear_caches()
    return compiled.as_text()


@compiled
@pytest.mark.slow
@pytest.mark.optimized
@pytest.mark.parametrize(
    ("rows", "n", "dtype"), [(128, 1000, jnp.float32), (4096, 10_000, jnp.bfloat16), (7, 2**17, jnp.float32)]
)
@pytest.mark.parametrize("chip", ["v4:2x2x1", "v5e:2x2", "v6e:2x2"])
def test_winners_are_searched_by_one_kernel_and_boosted_in_it(monkeypatch, chip, rows, n, dtype):
    for ties, kernels in (("all", 1), ("first", 2)):  # "first" has one more, which runs only where there are ties
        text = text_of_winners(monkeypatch, chip, rows, n, dtype, ties, kernels=True)
        assert " while(" not in text, "its passes are inside the kernel"
        assert text.count("tpu_custom_call") == text.count("kind=kCustom") == kernels, "with what makes the keys"
        assert text.count(" conditional(") == kernels - 1


@compiled
@pytest.mark.optimized
def test_winners_are_searched_without_a_kernel_where_none_is_asked_for(monkeypatch):
    text = text_of_winners(monkeypatch, "v5e:2x2", 128, 1000, jnp.float32, "first", kernels=False)
    assert " while(" in text
    assert "tpu_custom_call" not in text
