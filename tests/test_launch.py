"""`python -m sparsejax.launch`: what it leaves behind, what it says, and how it refuses."""

import gzip
import json
import os
import shutil

import numpy as np
import pytest

from sparsejax import configs
from sparsejax.commands.train import _parse_sweep, main
from sparsejax.configs import CONFIGS
from sparsejax.errors import ConfigError
from sparsejax.models import SparseCNN
from tests.command import SMALL, launch, started


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A small run, and what it printed."""
    folder = tmp_path_factory.mktemp("runs") / "small"
    process = launch(*SMALL, "--out", folder)
    assert process.returncode == 0, process.stderr
    return folder, process.stdout


def test_a_run_leaves_its_result(finished):
    folder, _ = finished
    result = json.loads((folder / "result.json").read_text())
    assert 0.5 < result["test_accuracy"] <= 1
    assert isinstance(result["noise_score"], int)
    assert 60 < result["noise_score"] <= result["noise_score_max"] == 660
    assert len(result["noise_accuracy"]) == 11
    assert result["noise_score"] == round(sum(result["noise_accuracy"]) * 60)
    assert result["noise_accuracy"][0] == pytest.approx(result["test_accuracy"])
    assert (result["dataset"], result["seed"]) == ("digits", 42)
    layer = result["layers"]["hidden1"]
    assert (layer["units"], layer["k"], layer["k_inference"]) == (256, 32, 48)
    assert layer["active_fraction"] <= 48 / 256
    assert 0 <= layer["dead_units"] < 256
    assert 0 < layer["duty_entropy"] <= layer["max_entropy"]
    assert layer["products_dense"] == 784 * 256
    assert layer["products_ratio"] == pytest.approx(784 / 235), "235 of 784 weights of every unit, and a dense image"
    assert result["products_dense"] == 784 * 256 + 256 * 10
    assert result["products"] == pytest.approx(235 * 256 + 10 * 256 * layer["active_fraction"])
    assert 1 <= result["best"]["epoch"] <= 2
    assert result["best"]["test_accuracy"] >= result["test_accuracy"]


def test_a_run_leaves_its_folder(finished):
    folder, _ = finished
    description = json.loads((folder / "config.json").read_text())
    assert description["config"]["training"]["epochs"] == 2
    assert description["data"]["name"] == "digits"
    assert len(description["data"]["fingerprint"]) == 64
    assert description["versions"]["jax"]
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["test_accuracy"] for line in lines if "test_accuracy" in line][-1][0] > 0.5
    losses = [line["loss"][0] for line in lines if "loss" in line]
    assert losses[-1] < losses[0]
    assert list((folder / "tensorboard").iterdir())
    assert (folder / "report.html").stat().st_size > 10_000
    assert {"training.png", "noise.png", "filters.png", "duty_cycles.png"} <= set(os.listdir(folder / "figures"))


def test_what_a_run_says_without_a_terminal_stays_readable(finished):
    _, output = finished
    assert "\x1b" not in output
    assert "\r" not in output
    assert "digits_mlp: 1 network on digits" in output
    assert "epoch 2/2  loss " in output
    assert "examples/s" in output
    assert "noise score" in output
    assert "32 winners (48 at inference)" in output
    assert "times fewer products" in output
    assert "report.html" in output


@pytest.mark.slow
def test_the_same_command_again_says_the_same_and_trains_nothing(finished):
    folder, output = finished
    again = launch(*SMALL, "--out", folder)
    assert again.returncode == 0
    assert "epoch 1/2" not in again.stdout
    assert [line for line in again.stdout.splitlines() if line.startswith("test accuracy")] == [
        line for line in output.splitlines() if line.startswith("test accuracy")
    ]


def test_another_configuration_is_refused_and_its_fields_are_named(finished):
    folder, _ = finished
    process = launch(*SMALL, "--training.learning-rate", "0.5", "--out", folder)
    assert process.returncode == 1
    assert "training.learning_rate (was 0.1, now 0.5)" in process.stderr
    assert "Traceback" not in process.stderr
    assert "--fresh" in process.stderr


@pytest.mark.slow
def test_fresh_replaces_a_run(finished, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(finished[0], folder)
    process = launch(*SMALL, "--training.epochs", "1", "--out", folder, "--fresh")
    assert process.returncode == 0, process.stderr
    assert json.loads((folder / "result.json").read_text())["config"]["training"]["epochs"] == 1


@pytest.mark.slow
def test_seeds_and_a_sweep_train_a_grid(tmp_path):
    process = launch(
        *SMALL, "--out", tmp_path / "grid", "--seeds", 2, "--sweep", "model.boost_strength=0,1.5",
        "--sweep", "training.learning-rate=0.01:0.03:0.02",
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    result = json.loads((tmp_path / "grid" / "result.json").read_text())
    members = result["members"]
    assert [(m["model.boost_strength"], m["training.learning_rate"], m["seed"]) for m in members] == [
        (boost, rate, seed) for boost in (0.0, 1.5) for rate in (0.01, 0.03) for seed in (42, 43)
    ]
    accuracies = [member["test_accuracy"] for member in members]
    assert len(set(accuracies)) > 1
    assert result["test_accuracy"] == pytest.approx(np.mean(accuracies))
    assert result["test_accuracy_std"] == pytest.approx(np.std(accuracies))
    assert result["seeds"] == [42, 43] * 4


@pytest.mark.slow
def test_a_network_of_a_grid_is_the_network_alone(finished, tmp_path):
    process = launch(*SMALL, "--out", tmp_path / "two", "--seeds", 2)
    assert process.returncode == 0, process.stderr
    alone = json.loads((finished[0] / "result.json").read_text())
    result = json.loads((tmp_path / "two" / "result.json").read_text())
    assert result["device"]["count"] == min(2, len(os.sched_getaffinity(0)))  # a core for each
    first = result["members"][0]
    assert first["test_accuracy"] == pytest.approx(alone["test_accuracy"], abs=0.02)
    assert first["test_loss"] == pytest.approx(alone["test_loss"], rel=1e-2)


@pytest.mark.slow
def test_without_data_and_network_mnist_falls_back_on_digits_and_says_so(tmp_path):
    process = launch(
        "--config", "mnist_sparse_cnn1", "--training.epochs", 1, "--data.train-examples", 64,
        "--data.test-examples", 32, "--training.first-epoch-batch-size", "None", "--out", tmp_path / "run",
        HOME=str(tmp_path),
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert process.stdout.count("scikit-learn") >= 2
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["dataset"] == "digits"
    assert "scikit-learn" in result["notice"]
    assert "scikit-learn" in json.loads((tmp_path / "run" / "config.json").read_text())["data"]["notice"]
    assert "scikit-learn" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--config", "mnist_kwiners"], "did you mean mnist_kwinners"),
        (["--config", "digits_mlp", "--training.epoch", "3"], "--training.epochs"),
        (["--config", "digits_mlp", "--training.epochs", "ten"], "ten"),
        (["--config", "digits_mlp", "--training.epochs", "0"], "training.epochs is 0; expected more than 0"),
        (["--config", "digits_mlp", "--model.k", "300"], "model.k[0] is 300; expected None or a number of winners"),
        (["--config", "digits_mlp", "--model.density", "0"], "model.density is 0.0; expected a fraction"),
        (["--config", "digits_kwinners", "--model.conv-k", "5000", "300"], "from 1 to 4608"),
        (["--config", "digits_mlp", "--training.batch-size", "5000"], "the training set has 1437 examples"),
        (["--config", "digits_mlp", "--model.classes", "3"], "has 10 classes"),
        (["--config", "digits_mlp", "--data.train-examples", "99999"], "99999"),
        (["--config", "digits_mlp", "--sweep", "model.boost_strength"], "expected FIELD=a,b,c"),
        (["--config", "digits_mlp", "--sweep", "model.bost_strength=1,2"], "--model.boost-strength"),
        (["--config", "digits_mlp", "--sweep", "training.batch_size=8,16"], "training.batch_size changes the shape"),
        (["--config", "digits_mlp", "--seeds", "0"], "--seeds is 0"),
        (["--config", "digits_mlp", "--seeds", "x"], "x"),
        (["--training.epochs", "3"], "Name a configuration with --config"),
        (["--config", "digits_mlp", "--devices.data", "64", "--devices.transform", "shard_map",
          "--training.batch-size", "64"], "take fewer"),
    ],
)  # fmt: skip
def test_what_cannot_be_run_is_refused_with_the_way_out(arguments, expected, tmp_path, capfd):
    if "--training.epoch" in arguments or "ten" in arguments or "x" in arguments or "model.bost" in str(arguments):
        process = launch(*arguments, "--out", tmp_path / "run")
        status, output = process.returncode, process.stdout + process.stderr
    else:
        status = main([*arguments, "--out", str(tmp_path / "run")])
        output = capfd.readouterr().err
    assert status == 2
    assert expected in " ".join(output.split())
    assert "Traceback" not in output
    assert not (tmp_path / "run").exists()


def test_an_unknown_name_is_refused_before_jax_is_imported(tmp_path):
    (tmp_path / "jax.py").write_text("raise SystemExit('jax was imported')")
    process = launch("--config", "mnist_kwiners", PYTHONPATH=f"{tmp_path}:{os.getcwd()}")
    assert process.returncode == 2
    assert "did you mean" in process.stderr
    listed = launch("--list", PYTHONPATH=f"{tmp_path}:{os.getcwd()}")
    assert listed.returncode == 0
    assert [line.split()[0] for line in listed.stdout.splitlines()] == list(CONFIGS)


def test_help_names_every_field():
    process = launch("--config", "mnist_kwinners", "--help")
    assert process.returncode == 0
    for word in ("--training.learning-rate", "--model.boost-strength", "--data.source", "--devices.transform",
                 "Fraction of non-zero weights", "default: 0.3", "--seeds", "--sweep"):  # fmt: skip
        assert word in process.stdout
    assert launch("--help").returncode == 0


@pytest.mark.parametrize("name", CONFIGS)
def test_every_named_configuration_is_valid_and_described(name):
    config = configs.get(name)
    assert config.training.seed in (42, 10, 0, 2022), "the first seed of its paper"
    assert CONFIGS[name][1]
    if type(config.model) is SparseCNN and config.training.optimizer == "sgd":
        assert config.training.lr_decay == (0.8 if "mnist" in name else 0.9)
        assert config.model.k_inference_factor == 1.5


@pytest.mark.slow
def test_a_folder_of_something_else_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    for extra in ([], ["--fresh"]):
        process = launch(*SMALL, "--out", tmp_path, *extra)
        assert process.returncode == 1
        assert "is not a run folder: it holds thesis.tex" in process.stderr
    assert os.listdir(tmp_path) == ["thesis.tex"]


@pytest.mark.slow
def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    process = launch(*SMALL, "--out", tmp_path / "file" / "run")
    assert process.returncode == 1
    assert "cannot be written" in process.stderr
    assert "Traceback" not in process.stderr


def test_missing_and_damaged_data_is_named(tmp_path):
    base = ["--config", "mnist_kwinners", "--data.source", "files", "--out", tmp_path / "run"]
    process = launch(*base, SPARSEJAX_DATA=str(tmp_path))
    assert process.returncode == 1
    assert "train-images-idx3-ubyte" in process.stderr
    assert "Traceback" not in process.stderr
    folder = tmp_path / "mnist"
    folder.mkdir()
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        with gzip.open(folder / f"{name}-ubyte.gz", "wb") as file:
            file.write(b"\0\0\x08\x03\0\0")
    process = launch(*base, SPARSEJAX_DATA=str(tmp_path))
    assert process.returncode == 1
    assert str(folder) in process.stderr
    assert "Traceback" not in process.stderr
    assert not (tmp_path / "run").exists()


def test_sweeps_are_parsed():
    assert _parse_sweep("training.learning-rate=0.1:0.3:0.1") == ("training.learning_rate", ["0.1", "0.2", "0.3"])
    assert _parse_sweep("a.b=1,2")[1] == ["1", "2"]
    for wrong in ("a=", "=1", "a=1:2", "a=2:1:1", "a=1:2:0"):
        with pytest.raises(ConfigError, match="expected FIELD"):
            _parse_sweep(wrong)


@pytest.mark.parametrize("words", [["--list"], ["--config", "digits_mlp", "--help"]])
def test_a_reader_that_leaves_early_is_no_error(words):
    process = started(*words)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(60) in (0, 141)
