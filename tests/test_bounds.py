"""Sizes that no machine has are refused before anything of that size is made."""

import dataclasses
import time

import numpy as np
import pytest

from sparsejax import configs
from sparsejax.configuration import replace, stack
from sparsejax.data import load
from sparsejax.data.arrays import from_arrays
from sparsejax.errors import ConfigError
from sparsejax.training import checks
from sparsejax.training.config import TrainingConfig
from sparsejax.training.loop import examples_done
from sparsejax.training.prepare import prepare
from sparsejax.training.processes import join
from tests.command import here

DIGITS = ["--config", "digits_mlp", "--data.name", "digits"]
MIXER = ["--config", "cifar_conv_mixer_small", "--data.name", "digits"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([*DIGITS, "--training.epochs", "2000000000"], "training.epochs is 2000000000; expected 1,000,000 or fewer"),
        ([*DIGITS, "--seeds", "3000000"], "make 3,000,000 networks; expected 10,000 at most"),
        ([*DIGITS, "--sweep", "training.seed=1:900000000:1"], "has 900,000,000 values; expected 10,000 at most"),
        ([*DIGITS, "--sweep", "training.seed=0:29999:1", "--sweep", "model.boost_strength=0:29999:1"], "at most"),
        ([*DIGITS, "--model.hidden", "1000000000"], "which take 6,360 GB and more in training, but there are"),
        ([*DIGITS, "--model.hidden", "1000000000000"], "expected a tuple"),
        ([*DIGITS, "--model.period", "1" + "0" * 30], "expected an integer of 32 bits"),
        ([*DIGITS, "--training.batch-size", "2147483647"], "The batch size is 2147483647, but the training set has"),
        ([*MIXER, "--model.depth", "2147483647"], "model.depth is 2147483647; expected 256 blocks or fewer"),
        ([*DIGITS, "--processes", "9" * 30], "expected a number from 1 to 100,000"),
        ([*DIGITS, "--processes", "9" * 5000], "is not a whole number"),
    ],
)  # fmt: skip
def test_a_size_that_no_machine_has_is_refused(tmp_path, words, said):
    began = time.perf_counter()
    refused = here(*words, "--out", tmp_path / "run")
    assert refused.returncode == 2 and said in refused.stderr, refused.stderr
    assert time.perf_counter() - began < 10 and not (tmp_path / "run").exists()


@pytest.mark.parametrize("number", ["²", "١", "1" * 5000, "-1", "", "1.0"])
def test_numbers_of_processes_are_digits(monkeypatch, number):
    monkeypatch.setenv("JAX_NUM_PROCESSES", number)
    with pytest.raises(ConfigError, match="JAX_NUM_PROCESSES is .*; expected an integer"):
        join()


@pytest.mark.parametrize("value", ["~nosuchuser", "~nosuchuser/data", "/nonexistent", "a" * 5000, "/dev/null"])
@pytest.mark.parametrize("variable", ["SPARSEJAX_DATA", "TFDS_DATA_DIR"])
def test_a_folder_of_data_that_cannot_exist_is_named(tmp_path, variable, value):
    words = ["--config", "mnist_kwinners", "--data.source", "files" if variable == "SPARSEJAX_DATA" else "tfds"]
    refused = here(*words, "--out", tmp_path / "run", **{variable: value})
    assert refused.returncode == 1 and refused.stderr.startswith("error: ") and refused.stderr.count("\n") == 1


def test_steps_are_counted_in_32_bits():
    config = replace(configs.get("digits_mlp"), {"training.epochs": 10**6, "training.batch_size": 1})
    dataset = from_arrays(np.zeros((3000, 4)), np.arange(3000) % 2, test_fraction=0.1)
    with pytest.raises(ConfigError, match="of 2,700 steps each; expected fewer than 2³¹ steps in all"):
        checks.check_data(config, dataset)


def test_many_networks_are_checked_in_seconds():
    config = replace(configs.get("digits_mlp"), {"data.name": "digits"})
    members = [replace(config, {"training.seed": seed}) for seed in range(1000)]
    stack(members[:2])  # JAX's start is not timed
    began = time.perf_counter()
    prepare(members, load("digits"))
    assert time.perf_counter() - began < 10


def test_memory_counts_all_networks():
    config, digits = configs.get("digits_mlp"), load("digits")
    needed = 8 * checks.count_parameters(config, digits) * 3
    checks.check_data(config, digits, 3, memory=needed)
    with pytest.raises(ConfigError, match=r"The 3 networks have .* parameters each, which take"):
        checks.check_data(config, digits, 3, memory=needed - 1)


@pytest.mark.parametrize("first", [None, 4])
def test_examples_are_counted_without_a_list_of_epochs(first):
    config = dataclasses.replace(TrainingConfig(), batch_size=10, first_epoch_batch_size=first)
    sizes = [4 if first else 10, 10, 10, 10]
    for epoch in range(4):
        done = sum(-(-23 // size) * size for size in sizes[:epoch])
        assert examples_done(config, 23, epoch, 2) == done + 2 * sizes[epoch]
