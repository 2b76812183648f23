"""From images to a network on their latents: launch, embed, launch again."""

import json
import shutil

import jax
import numpy as np
import pytest

from sparsejax.commands.embed import main
from sparsejax.data import read_digits
from sparsejax.data.latents import LATENTS_FILE, read_latents
from sparsejax.training import checks
from sparsejax.training.checks import load_data
from sparsejax.training.config import CLEAN_MEASURES, DEFAULT_MEASURES
from sparsejax.training.restore import load_network, read_record
from sparsejax.training.run_folder import RunFolder
from tests.command import ONE, here, without_figures

GRID = ["--data.name", "digits", "--data.train-examples", "120", "--data.test-examples", "45", "--training.epochs", "1",
        "--training.batch-size", "20", "--evaluation.batch-size", "20", "--evaluation.measures", *CLEAN_MEASURES, *ONE,
        "--sweep", "training.learning_rate=0.001,0.03"]  # fmt: skip
MLP = ["--config", "digits_mlp", "--training.first-epoch-batch-size", "None"]
MIXER = ["--config", "cifar_conv_mixer_small", "--model.width", "12", "--model.depth", "1", "--model.patch", "7"]
HIDDEN = ["--layer", "hidden1"]


def networks_on_digits(network, folder):
    """Trains two small networks on few digits; returns the folder of their run."""
    with without_figures():
        done = here(*network, *GRID, "--out", folder)
    assert done.returncode == 0, done.stderr
    return folder


def latents_of(run, folder, *layer):
    """Writes the latents of the second network of a run, and returns their file."""
    assert main(["--run", str(run), "--member", "1", *layer, "--out", str(folder / LATENTS_FILE)]) == 0
    return folder / LATENTS_FILE


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Returns the folder of a run of two networks with the hidden layer `hidden1`."""
    return networks_on_digits(MLP, tmp_path_factory.mktemp("mlp") / "run")


def assert_latents_are_those(file, run, layer):
    """Compares latents with the activations of the second network of the run."""
    latents, folder, network = read_latents(file), RunFolder(run), load_network(RunFolder(run), 1)
    description, configs = read_record(folder)
    assert [config.training.learning_rate for config in configs] == [0.001, 0.03]
    dataset, variables = load_data(configs[1]), network.variables
    for split, made in ((dataset.train, latents.train), (dataset.test, latents.test)):
        activations = network.activations(split.images)
        np.testing.assert_allclose(made.images, activations[layer], rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(made.labels, split.labels)
    head, result = jax.tree.map(np.asarray, variables.params["output"]), json.loads(folder.result.read_text())
    guesses = (latents.test.images @ head["kernel"] + head["bias"][None]).argmax(axis=-1)
    other, accuracy = (member["test_accuracy"] for member in result["members"])
    assert (guesses == latents.test.labels).mean() == pytest.approx(accuracy) != pytest.approx(other)
    with np.load(file) as arrays:
        provenance = json.loads(str(arrays["provenance"]))
    assert provenance["result"]["test_accuracy"] == accuracy
    assert provenance["data"]["fingerprint"] == dataset.fingerprint == description["data"]["fingerprint"]
    assert (provenance["layer"], provenance["epoch"], provenance["classes"]) == (layer, 1, 10)
    assert "jax" in provenance["versions"] and provenance["command"].startswith("sparsejax embed")
    assert provenance["trained"]["command"] == result["command"]


def test_latents_are_the_networks_own_and_say_where_they_come_from(run, tmp_path):
    assert_latents_are_those(latents_of(run, tmp_path, *HIDDEN), run, "hidden1")


@pytest.mark.slow
def test_latents_of_a_conv_mixer_are_its_own(tmp_path):
    run = networks_on_digits(MIXER, tmp_path / "run")
    assert_latents_are_those(latents_of(run, tmp_path), run, "latent")


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [["--config", "mnist_noise"], ["--config", "mnist_noise_classifier", "--evaluation.measures", *DEFAULT_MEASURES]],
    ids=["reconstruction", "classification"],
)
def test_a_noisy_network_trains_on_them_and_its_report_has_no_pictures_of_weights(run, tmp_path, options):
    latents_of(run, tmp_path, *HIDDEN)
    folder = tmp_path / "noisy"
    network = ["--model.hidden", "30", "--training.epochs", "2", "--training.batch-size", "20"]
    words = [*options, *network, *ONE, "--data.name", "cifar10_latents", "--out", folder]
    done = here(*words, SPARSEJAX_DATA=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "120 training, 45 test vectors" in done.stdout
    result = json.loads((folder / "result.json").read_text())
    assert (result["dataset"], result["data"]["kind"]) == ("digits_latents", "vectors")
    assert 0 < result["layers"]["hidden"]["active_fraction"] < 1
    assert "noise_score" not in result, "there are no pixels to replace"
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").open()]
    losses = [line["test_loss"][0] for line in lines if "test_loss" in line]
    assert losses[1] < losses[0]
    assert "120 training and 45 test vectors of digits_latents" in (folder / "report.html").read_text()
    assert (folder / "figures" / "training.png").exists()
    assert not (folder / "figures" / "filters.png").exists(), "a square number of features is no image"


def test_latents_of_cifar_are_written_to_their_location(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(checks.data, "load", lambda *_, **__: read_digits())
    monkeypatch.setenv("SPARSEJAX_DATA", str(tmp_path))
    copy = changed(run, tmp_path / "run", lambda told: told["config"]["data"].update(name="cifar10"))
    assert main(["--run", str(copy), *HIDDEN]) == 0
    assert str(tmp_path / LATENTS_FILE) in capsys.readouterr().out
    assert len(read_latents(tmp_path / LATENTS_FILE).train.labels) == 120


def changed(run, folder, change=lambda told: None):
    """Returns a copy of the run with a changed config.json."""
    shutil.copytree(run, folder)
    told = json.loads((folder / "config.json").read_text())
    change(told)
    (folder / "config.json").write_text(json.dumps(told))
    return folder


@pytest.mark.parametrize(
    ("options", "status", "said"),
    [
        (["--run", "RUN"], 2, "was trained on digits, not cifar10; name the file to write with --out"),
        (["--run", "RUN", "--out", "OUT", "--layer", "hidden"], 2, "no layer 'hidden'; it has hidden1"),
        (["--run", "RUN", "--out", "OUT", "--member", "2"], 2, "member is 2; expected a number from 0 to 1"),
        (["--run", "RUN", "--out", "OUT", "--member", "-1"], 2, "member is -1"),
        (["--run", "RUN/nowhere", "--out", "OUT"], 1, "is not a run folder: it has no config.json"),
        (["--run", "RUN", "--out", "OUT"], 2, "no layer 'latent'; it has hidden1"),
        (["--run", "RUN", *HIDDEN, "--out", "RUN/config.json/x.npz"], 1, "cannot be written: "),
        ([], 2, "required: --run"),
    ],
)
def test_invalid_options_are_reported(run, tmp_path, capsys, options, status, said):
    words = [word.replace("RUN", str(run)).replace("OUT", str(tmp_path / "latents.npz")) for word in options]
    assert main(words) == status
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error
    assert not (tmp_path / "latents.npz").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda told: told["data"].update(fingerprint="0"),
            "but other data is found now: the digits that scikit-learn ships",
        ),
        (lambda told: told["config"]["model"].update(more=1), "model.more is not a field of SparseMLP in this version"),
        (lambda told: told["seeds"].pop(), "it has 1 seeds, but 2 points of a sweep"),
    ],
)
def test_a_run_of_something_else_is_refused(run, tmp_path, capsys, change, said):
    copy = changed(run, tmp_path / "run", change)
    assert main(["--run", str(copy), *HIDDEN, "--out", str(tmp_path / "latents.npz")]) == 1
    assert said in capsys.readouterr().err


def test_a_run_without_checkpoints_is_refused(run, tmp_path, capsys):
    copy = changed(run, tmp_path / "run")
    shutil.rmtree(copy / "checkpoints")
    assert main(["--run", str(copy), *HIDDEN, "--out", str(tmp_path / "latents.npz")]) == 1
    assert "There is no checkpoint in" in capsys.readouterr().err
    assert not (copy / "checkpoints").exists()
