"""From images to a network on their latents: launch, embed, launch again."""

import json
import shutil

import jax
import numpy as np
import pytest

from sparsejax import data
from sparsejax.commands import train as launch
from sparsejax.commands.embed import main
from sparsejax.data import read_digits
from sparsejax.data.latents import LATENTS_FILE, read_latents
from sparsejax.data.resident import normalised, resident
from sparsejax.training.checks import load_data
from sparsejax.training.restore import recorded, trained
from sparsejax.training.run_folder import RunFolder

MIXER = ["--config", "cifar_conv_mixer_small", "--data.name", "digits", "--data.train-examples", "120",
         "--data.test-examples", "45", "--model.width", "12", "--model.depth", "1", "--model.patch", "7",
         "--training.epochs", "1", "--training.batch-size", "20", "--evaluation.batch-size", "20",
         "--evaluation.track", "--devices.transform", "jit"]  # fmt: skip


@pytest.fixture(autouse=True)
def as_for_users():
    with jax.numpy_dtype_promotion("standard"):  # Optax's Adam relies on it
        yield


@pytest.fixture(scope="module")
def mixer(tmp_path_factory):
    """Returns the folder of a run of two small ConvMixers on few digits."""
    folder = tmp_path_factory.mktemp("mixer") / "run"
    with jax.numpy_dtype_promotion("standard"):
        assert launch.main([*MIXER, "--sweep", "training.learning_rate=0.001,0.03", "--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def library(mixer, tmp_path_factory):
    """Returns a folder for $SPARSEJAX_DATA with the latents of the second network."""
    folder = tmp_path_factory.mktemp("library")
    assert main(["--run", str(mixer), "--member", "1", "--out", str(folder / LATENTS_FILE)]) == 0
    return folder


@pytest.mark.slow
def test_latents_are_the_networks_own_and_say_where_they_come_from(mixer, library):
    latents, folder = read_latents(library / LATENTS_FILE), RunFolder(mixer)
    description, networks = recorded(folder)
    assert [network.training.learning_rate for network in networks] == [0.001, 0.03]
    dataset = load_data(networks[1])
    state = jax.tree.map(lambda leaf: leaf[1], trained(folder, networks, dataset))
    for split, made in ((dataset.train, latents.train), (dataset.test, latents.test)):
        images = resident(dataset, split)
        output = networks[1].model.apply(state.variables, normalised(images, images.images))
        np.testing.assert_allclose(made.images, output.activations["latent"], rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(made.labels, split.labels)
    head, result = state.variables.params["output"], json.loads(folder.result.read_text())
    guesses = (latents.test.images @ head["kernel"] + head["bias"][None]).argmax(axis=-1)
    accuracy = result["members"][1]["test_accuracy"]
    assert (guesses == latents.test.labels).mean() == pytest.approx(accuracy)
    with np.load(library / LATENTS_FILE) as file:
        provenance = json.loads(str(file["provenance"]))
    assert provenance["result"]["test_accuracy"] == accuracy
    assert provenance["data"]["fingerprint"] == dataset.fingerprint == description["data"]["fingerprint"]
    assert (provenance["layer"], provenance["epoch"], provenance["classes"]) == ("latent", 1, 10)
    assert "jax" in provenance["versions"] and provenance["command"].startswith("python -m sparsejax.commands.embed")
    assert provenance["trained"]["command"] == result["command"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [["--config", "mnist_noise"], ["--config", "mnist_noise_classifier", "--evaluation.noise"]],
    ids=["reconstruction", "classification"],
)
def test_a_noisy_network_trains_on_them_and_its_report_has_no_pictures_of_weights(
    library, tmp_path, monkeypatch, options, capsys
):
    folder = tmp_path / "noisy"
    monkeypatch.setenv("SPARSEJAX_DATA", str(library))
    network = ["--model.hidden", "30", "--training.epochs", "2", "--training.batch-size", "20"]
    devices = ["--devices.transform", "jit", "--data.name", "cifar10_latents", "--out", str(folder)]
    assert launch.main([*options, *network, *devices]) == 0
    assert "120 training, 45 test vectors" in capsys.readouterr().out
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


@pytest.mark.slow
def test_latents_of_cifar_go_where_they_are_looked_for(mixer, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(data, "load", lambda *_: read_digits())
    monkeypatch.setenv("SPARSEJAX_DATA", str(tmp_path))
    run = changed(mixer, tmp_path / "run", lambda told: told["config"]["data"].update(name="cifar10"))
    assert main(["--run", str(run)]) == 0
    assert str(tmp_path / LATENTS_FILE) in capsys.readouterr().out
    assert len(read_latents(tmp_path / LATENTS_FILE).train.labels) == 120


def changed(mixer, folder, change=None):
    """Returns a copy of the run whose config.json says something else."""
    shutil.copytree(mixer, folder)
    told = json.loads((folder / "config.json").read_text())
    if change:
        change(told)
    (folder / "config.json").write_text(json.dumps(told))
    return folder


@pytest.mark.parametrize(
    ("options", "status", "said"),
    [
        (["--run", "RUN"], 2, "is of digits, not of cifar10; name the file to write with --out"),
        (["--run", "RUN", "--out", "OUT", "--layer", "hidden"], 2, "no layer 'hidden'; it has latent"),
        (["--run", "RUN", "--out", "OUT", "--member", "2"], 2, "member is 2; expected a number from 0 to 1"),
        (["--run", "RUN", "--out", "OUT", "--member", "-1"], 2, "member is -1"),
        (["--run", "RUN/nowhere", "--out", "OUT"], 1, "is not a run folder: it holds no config.json"),
        (["--run", "RUN", "--out", "RUN/config.json/x.npz"], 1, "cannot be written: "),
        ([], 2, "required: --run"),
    ],
)
def test_what_cannot_be_done_is_said(mixer, tmp_path, capsys, options, status, said):
    words = [word.replace("RUN", str(mixer)).replace("OUT", str(tmp_path / "latents.npz")) for word in options]
    assert main(words) == status
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error
    assert not (tmp_path / "latents.npz").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda told: told["data"].update(fingerprint="0"), "but other data is found now: the digits that scikit-learn ships"),
        (lambda told: told["config"]["model"].update(more=1), "of another version of sparsejax"),
        (lambda told: told["seeds"].pop(), "of another version of sparsejax"),
    ],
)
def test_a_run_of_something_else_is_refused(mixer, tmp_path, capsys, change, said):
    assert main(["--run", str(changed(mixer, tmp_path / "run", change)), "--out", str(tmp_path / "latents.npz")]) == 1
    assert said in capsys.readouterr().err


def test_a_run_without_checkpoints_is_refused(mixer, tmp_path, capsys):
    run = changed(mixer, tmp_path / "run")
    shutil.rmtree(run / "checkpoints")
    assert main(["--run", str(run), "--out", str(tmp_path / "latents.npz")]) == 1
    assert "There is no checkpoint in" in capsys.readouterr().err
    assert not (run / "checkpoints").exists()
