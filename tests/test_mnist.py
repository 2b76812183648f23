"""The main job on the real digits: the paper's Sparse CNN-2 after one epoch."""

import json
import os

import pytest

from tests.command import launch

DATA = os.environ.get("SPARSEJAX_DATA", "")


@pytest.mark.slow
@pytest.mark.skipif(not os.path.isdir(os.path.join(DATA, "mnist")), reason="MNIST is not in $SPARSEJAX_DATA/mnist")
def test_one_epoch_of_the_sparse_network_learns_digits_and_withstands_noise(tmp_path):
    process = launch(
        "--config", "mnist_kwinners", "--training.epochs", 1, "--out", tmp_path / "run", SPARSEJAX_DATA=DATA
    )
    assert process.returncode == 0, process.stderr
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (result["dataset"], result["source"], result["notice"]) == ("mnist", "files", "")
    assert result["test_accuracy"] >= 0.97
    assert result["noise_score"] >= 100_000
    layers = result["layers"]
    assert [layers[name]["units"] for name in ("conv1", "conv2", "hidden")] == [4608, 1024, 700]
    assert [layers[name]["k_inference"] for name in ("conv1", "conv2", "hidden")] == [600, 450, 150]
    for layer in layers.values():
        assert layer["active_fraction"] <= layer["k_inference"] / layer["units"] + 1e-6
        assert layer["duty_entropy"] > 0.6 * layer["max_entropy"], "boosting keeps most units in use"
