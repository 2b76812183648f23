"""`python -m sparsejax.launch`: its files, its output, and its errors."""

import contextlib
import gzip
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from sparsejax import configs, experiment
from sparsejax.commands.train import _parse_sweep, main
from sparsejax.configs import CONFIGS
from sparsejax.errors import ConfigError
from sparsejax.models import SparseCNN
from sparsejax.training import checkpoints
from sparsejax.training.config import CLEAN_MEASURES
from tests.command import ONE, SMALL, environment, here, launch, without_figures


@pytest.fixture
def finished(small_run):
    """Returns the folder of a small run, and what it printed."""
    return small_run / "run", (small_run / "said.txt").read_text()


@pytest.fixture
def copy(finished, tmp_path):
    """Returns a copy of that folder, which may be changed."""
    return shutil.copytree(finished[0], tmp_path / "copy")


def test_a_run_writes_its_result(finished):
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


def test_a_run_writes_its_folder(finished):
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


def test_the_output_without_a_terminal_is_readable(finished):
    _, output = finished
    assert "\x1b" not in output
    assert "\r" not in output
    assert "digits_mlp: 1 network on digits" in output
    assert "epoch 2/2  loss " in output
    assert "examples/s" in output
    assert "noise score" in output
    assert "32 winners (48 at inference)" in output
    assert "× fewer" in output
    assert "report.html" in output


def test_the_same_command_again_prints_the_same_and_trains_nothing(finished, copy):
    with without_figures():
        again = here(*SMALL, *ONE, "--out", copy)
    assert again.returncode == 0, again.stderr
    assert "epoch 1/2" not in again.stdout and "resuming from the checkpoint of step 63" in again.stdout
    for start in ("test accuracy", "noise score", "hidden1"):
        said = [[line for line in text.splitlines() if line.startswith(start)] for text in (again.stdout, finished[1])]
        assert said[0] == said[1] != []
    results = [json.loads((folder / "result.json").read_text())["members"] for folder in (copy, finished[0])]
    assert results[0] == results[1]


def test_another_configuration_is_refused_and_its_fields_are_named(finished):
    refused = here(*SMALL, *ONE, "--training.learning-rate", "0.5", "--out", finished[0])
    assert refused.returncode == 1
    assert "training.learning_rate (was 0.1, now 0.5)" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert "--fresh" in refused.stderr


def stopped(*_, **__):
    raise KeyboardInterrupt


def test_fresh_replaces_a_run(copy, monkeypatch):
    monkeypatch.setattr(experiment, "start", stopped)
    begun = here(*SMALL, *ONE, "--training.epochs", "1", "--out", copy, "--fresh")
    assert begun.returncode == 130, begun.stderr
    assert json.loads((copy / "config.json").read_text())["config"]["training"]["epochs"] == 1
    assert {path.name for path in copy.iterdir()} == {".lock", "config.json", "checkpoints"}
    assert not list((copy / "checkpoints").iterdir())


def test_seeds_and_a_sweep_make_a_grid(monkeypatch):
    given = []
    monkeypatch.setattr(experiment, "run", lambda grid, *_, **__: given.append(grid) or stopped())
    assert here(*SMALL, "--sweep", "training.seed=1,2,3").returncode == 130
    assert given.pop().seeds == [1, 2, 3]
    sweeps = ["--sweep", "model.boost_strength=0,1.5", "--sweep", "training.learning-rate=0.01:0.03:0.02"]
    assert here(*SMALL, "--seeds", 2, *sweeps).returncode == 130
    points = [(boost, rate, seed) for boost in (0.0, 1.5) for rate in (0.01, 0.03) for seed in (42, 43)]
    assert [(p["model.boost_strength"], p["training.learning_rate"], s) for p, s in zip(
        given[0].points, given[0].seeds, strict=True)] == points  # fmt: skip
    assert [(config.model.boost_strength, config.training.learning_rate, config.training.seed)
            for config in given[0].configs] == points  # fmt: skip


@pytest.mark.slow
def test_a_run_in_64_bit_mode_is_the_same(finished, tmp_path):
    process = launch(*SMALL, *ONE, "--out", tmp_path / "wide", JAX_ENABLE_X64="1")
    assert process.returncode == 0, process.stderr
    wide, usual = (json.loads((folder / "result.json").read_text()) for folder in (tmp_path / "wide", finished[0]))
    assert wide["test_accuracy"] == pytest.approx(usual["test_accuracy"], abs=0.02)
    assert wide["test_loss"] == pytest.approx(usual["test_loss"], rel=1e-2)
    assert wide["layers"]["hidden1"]["k_inference"] == 48


@pytest.mark.slow
def test_a_network_of_a_grid_is_the_network_alone(finished, tmp_path):
    process = launch(*SMALL, "--out", tmp_path / "grid", "--seeds", 2, "--sweep", "training.learning-rate=0.1,0.01")
    assert process.returncode == 0, process.stderr
    result = json.loads((tmp_path / "grid" / "result.json").read_text())
    assert result["device"]["count"] == min(2, len(os.sched_getaffinity(0)))  # one core each, while cores last
    assert [(member["training.learning_rate"], member["seed"]) for member in result["members"]] == [
        (0.1, 42), (0.1, 43), (0.01, 42), (0.01, 43)
    ]  # fmt: skip
    assert result["seeds"] == [42, 43] * 2
    accuracies = [member["test_accuracy"] for member in result["members"]]
    assert len(set(accuracies)) > 1
    assert result["test_accuracy"] == pytest.approx(np.mean(accuracies))
    assert result["test_accuracy_std"] == pytest.approx(np.std(accuracies))
    alone, first = json.loads((finished[0] / "result.json").read_text()), result["members"][0]
    assert first["test_accuracy"] == pytest.approx(alone["test_accuracy"], abs=0.02)
    assert first["test_loss"] == pytest.approx(alone["test_loss"], rel=1e-2)


def test_without_data_and_network_mnist_falls_back_to_digits_with_a_notice(tmp_path):
    caches = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    few = ["--data.name", "mnist", "--training.epochs", 1, "--evaluation.measures", *CLEAN_MEASURES]
    with without_figures():
        process = here(*SMALL, *ONE, *few, "--out", tmp_path / "run", **caches)
    assert process.returncode == 0, process.stderr
    assert process.stdout.count("scikit-learn") >= 2
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["dataset"] == "digits"
    assert "scikit-learn" in result["notice"]
    assert "scikit-learn" in json.loads((tmp_path / "run" / "config.json").read_text())["data"]["notice"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--config", "mnist_kwiners"], "did you mean mnist_kwinners"),
        (["--config", "digits_mlp", "--training.epoch", "3"], "--training.epochs"),
        (["--config", "digits_mlp", "--training.epochs", "ten"], "ten"),
        (["--config", "digits_mlp", "--training.epochs", "0"], "training.epochs is 0; expected more than 0"),
        (["--config", "digits_mlp", "--model.k", "300"], "model.k[0] is 300; expected None or a number of winners"),
        (["--config", "digits_mlp", "--model.density", "0"], "model.density is 0.0; expected None or a fraction"),
        (["--config", "digits_kwinners", "--model.conv-k", "5000", "300"], "from 1 to 4608"),
        (["--config", "digits_mlp", "--training.batch-size", "5000"], "the training set has 1437 examples"),
        (["--config", "digits_mlp", "--model.classes", "3"], "has 10 classes"),
        (["--config", "digits_mlp", "--data.train-examples", "99999"], "99999"),
        (["--config", "digits_mlp", "--sweep", "model.boost_strength"], "expected FIELD=a,b,c"),
        (["--config", "digits_mlp", "--sweep", "model.bost_strength=1,2"], "--model.boost-strength"),
        (["--config", "digits_mlp", "--sweep", "training.batch_size=8,16"], "training.batch_size changes the shape"),
        (["--config", "digits_mlp", "--sweep", "training.seed=1", "--sweep", "training.seed=3"], "training.seed twice"),
        (["--config", "digits_mlp", "--sweep", "model.boost_strength=0:inf:1"], "has a range of no finite length"),
        (["--config", "digits_mlp", "--sweep", "model.boost_strength=0:1:1e-9"], "has 1,000,000,000 values; expected"),
        (["--config", "digits_mlp", "--sweep", "model.boost_strength=0:99:1", "--sweep", "training.seed=0:999:1"],
         "make 100,000 networks; expected 10,000 at most"),
        (["--config", "digits_mlp", "--sweep", "training.seed=1,2", "--seeds", "6000"], "make 12,000 networks"),
        (["--config", "digits_mlp", "--seeds", "1000000000"], "make 1,000,000,000 networks"),
        (["--config", "digits_mlp", "--resume-step", "-1"], "--resume-step is -1; expected the step of a checkpoint"),
        (["--config", "digits_mlp", "--resume-step", "7", "--fresh"], "which --fresh deletes; omit one of them"),
        (["--config", "digits_mlp", "--devices.carrier", "jit"], "it is now --devices.transform"),
        (["--config", "digits_mlp", "--model.duty_period=100"], "it is now --model.period"),
        (["--config", "digits_mlp", "--seeds", "0"], "--seeds is 0"),
        (["--config", "digits_mlp", "--seeds", "x"], "x"),
        (["--training.epochs", "3"], "Pass a configuration with --config"),
        (["--config", "digits_mlp", "--devices.data", "64", "--devices.transform", "shard_map",
          "--training.batch-size", "64"], "use fewer"),
    ],
)  # fmt: skip
def test_invalid_commands_are_refused_with_a_fix(arguments, expected, tmp_path):
    refused = here(*arguments, "--out", tmp_path / "run")
    assert refused.returncode == 2
    assert expected in " ".join(refused.stderr.split())
    assert "Traceback" not in refused.stderr
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
    said = here("--config", "mnist_kwinners", "--help")
    assert said.returncode == 0
    for word in ("--training.learning-rate", "--model.boost-strength", "--data.source", "--devices.transform",
                 "Fraction of non-zero weights", "default: 0.3", "--seeds", "--sweep"):  # fmt: skip
        assert word in said.stdout
    assert "--config NAME" in here("--help").stdout


@pytest.mark.parametrize("name", CONFIGS)
def test_every_named_configuration_is_valid_and_described(name):
    config = configs.get(name)
    assert config.training.seed in (42, 10, 0, 2022), "the first seed of its paper"
    assert CONFIGS[name][1]
    if type(config.model) is SparseCNN and config.training.optimizer == "sgd":
        assert config.training.lr_decay == (0.8 if "mnist" in name else 0.9)
        winners = any(k is not None for k in (*config.model.conv_k, config.model.hidden_k))
        assert config.model.k_inference_factor == (1.5 if winners else 1)


def test_a_folder_with_other_contents_is_refused_and_unchanged(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    for extra in ([], ["--fresh"]):
        refused = here(*SMALL, "--out", tmp_path, *extra)
        assert refused.returncode == 1
        assert "is not a run folder: it has thesis.tex" in refused.stderr
    assert os.listdir(tmp_path) == ["thesis.tex"]


def test_missing_and_damaged_data_is_named(tmp_path):
    base = ["--config", "mnist_kwinners", "--data.source", "files", "--out", tmp_path / "run"]
    process = here(*base, SPARSEJAX_DATA=str(tmp_path))
    assert process.returncode == 1
    assert "train-images-idx3-ubyte" in process.stderr
    assert "Traceback" not in process.stderr
    folder = tmp_path / "mnist"
    folder.mkdir()
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        with gzip.open(folder / f"{name}-ubyte.gz", "wb") as file:
            file.write(b"\0\0\x08\x03\0\0")
    process = here(*base, SPARSEJAX_DATA=str(tmp_path))
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
    for wrong in ("0:inf:1", "inf:inf:1", "-inf:0:1", "0:nan:1", "nan:1:1", "0:1:nan", "-1e308:1e308:1", "0:1:-1"):
        with pytest.raises(ConfigError, match=f"'a={wrong}' (has a range of no finite length|is an empty)"):
            _parse_sweep(f"a={wrong}")
    assert len(_parse_sweep("a=1:10000:1")[1]) == 10_000 and _parse_sweep("a=1:-1:-1")[1] == ["1", "0", "-1"]
    with pytest.raises(ConfigError, match="has 10,001 values; expected 10,000 at most"):
        _parse_sweep("a=0:10000:1")


@pytest.mark.parametrize("names", [[], ["4", "12", "20.orbax-checkpoint-tmp", ".20.123", "notes"]])
def test_a_step_without_a_checkpoint_is_refused_before_anything_else(tmp_path, monkeypatch, names):
    for name in names:
        (tmp_path / "run" / "checkpoints" / name / "tree").mkdir(parents=True)
    for first in ("jax.jit", "jax.eval_shape", "sparsejax.experiment.load_data", "sparsejax.experiment.prepare"):
        monkeypatch.setattr(first, lambda *args, **options: pytest.fail("data were loaded, or a program was traced"))
    monkeypatch.setattr(checkpoints, "open_checkpoints", lambda *args, **options: pytest.fail("the folder was opened"))
    before = sorted(tmp_path.rglob("*"))
    refused = here("--config", "digits_mlp", "--resume-step", "7", "--out", tmp_path / "run")
    available = "[4, 12]" if names else "none"
    assert refused.returncode == 1 and sorted(tmp_path.rglob("*")) == before, "nothing is made or deleted"
    assert refused.stderr.endswith(f"no checkpoint of step 7 in {tmp_path}/run/checkpoints; available: {available}.\n")


@contextlib.contextmanager
def nobody_reads():
    """Yields the end to write to of a pipe whose other end is closed."""
    read, write = os.pipe()
    os.close(read)
    yield write
    os.close(write)


@pytest.mark.parametrize("options", [[], ["-u"]], ids=["all at once", "line by line"])
def test_a_closed_pipe_is_not_an_error(options):
    command = [sys.executable, *options, "-m", "sparsejax.launch", "--list"]
    with nobody_reads() as pipe:
        process = subprocess.run(command, stdout=pipe, stderr=subprocess.PIPE, text=True, env=environment())
    assert (process.returncode, process.stderr) == (141, "")


def test_a_closed_pipe_of_help_is_not_an_error(capfd):
    with nobody_reads() as pipe, open(pipe, "w", closefd=False) as file, contextlib.redirect_stdout(file):
        assert main(["--config", "digits_mlp", "--help"]) == 141
    assert not capfd.readouterr().err
