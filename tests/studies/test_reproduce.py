"""`python -m sparsejax.reproduce` makes every study it lists: on few digits here, so only the parts are tested."""

import dataclasses
import json

import jax
import matplotlib.image
import numpy as np
import pytest

from sparsejax import configs, studies
from sparsejax.commands.reproduce import main
from sparsejax.configuration import replaced
from sparsejax.data import Split
from sparsejax.data.latents import LATENTS_FILE, latents_bytes
from sparsejax.studies.dense import grid as grid_study
from sparsejax.studies.dense import macs as products
from sparsejax.studies.dense import matching
from sparsejax.studies.dense import mnist as dense_mnist
from sparsejax.studies.noise import activity as noise_activity
from sparsejax.studies.noise import language as noise_language
from sparsejax.studies.noise import pictures as noise_pictures
from sparsejax.studies.noise import terms as implicit_terms
from sparsejax.studies.study import Outcome, spearman


@pytest.fixture
def tiny(monkeypatch):
    """Makes the studies train small networks on few of the bundled digits, over three noise levels."""
    whole = noise_activity.base

    def base(scale, **settings):
        settings["hidden"] = min(settings.get("hidden", 40), 40)
        config = replaced(
            whole(scale, **settings),
            {"data.name": "digits", "data.train_examples": 300, "data.test_examples": 100, "training.epochs": 3,
             "training.batch_size": 50, "devices.transform": "jit"},
        )  # fmt: skip
        annealed = config.model.anneal_after is not None
        return replaced(config, {"model.anneal_after": 1.0, "model.anneal_epochs": 1.0} if annealed else {})

    for module in (noise_activity, noise_pictures, implicit_terms):
        monkeypatch.setattr(module, "base", base)
    monkeypatch.setattr(noise_activity, "SIGMAS", (0.0, 0.8, 3.0))
    monkeypatch.setattr(noise_activity, "found_latents", lambda: None)
    monkeypatch.setattr(
        noise_activity, "PAPER", {"MNIST": (0.96, 0.088, 0.03), "latents": (0.8, 0.1, 0.03), "GELU": (0.9, 0.3, 0.1)}
    )
    monkeypatch.setattr(implicit_terms, "_UNITS", 20)
    monkeypatch.setattr(noise_pictures, "STAGES", {"small": (1, 2), "paper": (3, 4)})
    short = {"data.name": "digits", "training.epochs": 2, "data.train_examples": 200, "data.test_examples": 100}
    monkeypatch.setattr(dense_mnist, "_SHORT", short | {"devices.transform": "jit"})
    table = {name: dense_mnist.TABLE1[name] for name in ("Sparse CNN-2", "Dense CNN-1")}
    monkeypatch.setattr(dense_mnist, "TABLE1", table)
    monkeypatch.setattr(dense_mnist, "_FIG5", tuple(table))
    monkeypatch.setattr(grid_study, "base", lambda scale: _few_digits(configs.get("digits_kwinners")))
    for name, values in (("WINNERS", (5, 20)), ("DENSITIES", (0.1, 0.5)), ("BOOSTS", (0.0, 1.5))):
        monkeypatch.setattr(grid_study, name, {"small": values})
    monkeypatch.setattr(products, "EXAMPLES", {"small": 4, "paper": 4})
    monkeypatch.setattr(matching, "TRIALS", {"small": 10_000, "paper": 10_000})
    with jax.numpy_dtype_promotion("standard"):  # Optax's Adam relies on it
        yield


def _few_digits(config):
    """Makes Sparse CNN-2 small."""
    return replaced(
        config,
        {"data.train_examples": 100, "data.test_examples": 30, "training.epochs": 1, "training.batch_size": 25,
         "training.first_epoch_batch_size": None, "devices.transform": "jit", "model.conv_k": (20, 10),
         "model.channels": (2, 3), "model.hidden_k": 10, "model.hidden": 40},
    )  # fmt: skip


# Others have tests of their own; `tiny` does not make them small.
_MADE_TINY = [name for name in studies.STUDIES if name.startswith(("noise/", "emergence/", "dense/"))]


@pytest.mark.slow
@pytest.mark.parametrize("name", _MADE_TINY)
def test_a_study_leaves_a_picture_and_numbers(tiny, tmp_path, capsys, name):
    other = ("noise/fig7b", "noise/gpt", "dense/fig5a", "dense/dropout", "dense/table2")
    if name in other:
        pytest.skip("it needs other data, or is as another")
    assert main([name, "--out", str(tmp_path)]) == 0
    numbers = json.loads((tmp_path / f"{name}.json").read_text())
    assert numbers.keys() >= {"paper", "ours", "scale", "seeds", "device", "command", "versions", "source"}
    assert numbers["scale"] == "small" and numbers["seeds"] and numbers["seconds"] >= 0
    assert numbers["ours"]
    picture = matplotlib.image.imread(tmp_path / f"{name}.png")
    assert min(picture.shape[:2]) > 40
    assert len(np.unique(picture.reshape(-1, picture.shape[-1]), axis=0)) > 10
    said = capsys.readouterr().out
    assert numbers["source"] in said


@pytest.mark.slow
def test_the_language_model_is_told_before_and_after_its_noise_is_removed(monkeypatch, tmp_path):
    folder = tmp_path / "library" / "wikitext-2"
    folder.mkdir(parents=True)
    for part, sentences in (("train", 400), ("valid", 60), ("test", 60)):
        (folder / f"{part}.txt").write_text("one two three four five six\n" * sentences)
    monkeypatch.setenv("SPARSEJAX_DATA", str(folder.parent))
    small = {"data.vocabulary": 10, "data.length": 16, "data.train_examples": 160, "data.test_examples": 20,
             "model.vocabulary": 10, "model.context": 16, "model.width": 16, "training.epochs": 2,
             "model.noise_off_step": 10, "devices.transform": "jit"}  # fmt: skip
    whole = noise_language.base
    monkeypatch.setattr(noise_language, "base", lambda scale: replaced(whole(scale), small))
    monkeypatch.setattr(noise_language, "SIGMAS", (0.0, 3.0))
    monkeypatch.setattr(noise_language, "PAPER", (0.17, 0.059))
    with jax.numpy_dtype_promotion("standard"):
        assert main(["noise/gpt", "--out", str(tmp_path)]) == 0
    ours = json.loads((tmp_path / "noise/gpt.json").read_text())["ours"]
    rows = [json.loads(line) for line in (tmp_path / "noise/gpt/small/runs/sigma/metrics.jsonl").open()]
    tracked = [row for row in rows if "active_fraction/mlp1" in row]
    for name, row in (("active_fraction_while_noisy", tracked[0]), ("active_fraction", tracked[-1])):
        mean = np.mean([row[f"active_fraction/mlp{block}"] for block in (1, 2, 3)], axis=0)
        np.testing.assert_allclose(ours[name], mean, rtol=1e-5)
    assert tracked[0]["step"] == 10 and ours["perplexity_relative_to_none"][0] == 1


@pytest.mark.slow
def test_the_same_command_goes_on_and_gives_the_same_numbers(tiny, tmp_path, capsys):
    results = []
    for _ in range(2):
        assert main(["noise/fig2", "--out", str(tmp_path)]) == 0
        results.append(json.loads((tmp_path / "noise/fig2.json").read_text())["ours"])
    assert results[0] == results[1]
    assert "going on from the checkpoint" in capsys.readouterr().out


def test_what_is_not_understood_is_answered_with_what_there_is(capsys):
    assert main(["noise/fig22"]) == 2
    assert "noise/fig2" in capsys.readouterr().err
    assert main([]) == 2
    assert main(["--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(studies.STUDIES)
    assert main(["noise/fig2", "--scale", "huge"]) == 2


def test_spearman_is_the_correlation_of_ranks():
    scipy = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    for _ in range(5):
        x, y = rng.integers(0, 6, (2, 20))
        assert spearman(x, y) == pytest.approx(scipy.spearmanr(x, y)[0])


def test_the_paper_scale_is_the_papers():
    config = noise_activity.base("paper")
    assert (config.data.name, config.model.hidden, config.training.batch_size) == ("cifar10", 10_000, 1024)
    assert (config.training.learning_rate, config.training.clip_norm) == (1e-4, 1.0)
    annealed = noise_activity.base("paper", anneal_after=800.0, anneal_epochs=800.0)
    assert dataclasses.replace(annealed.model, anneal_after=None, anneal_epochs=0.0) == config.model


def test_ablations_are_of_the_latents_at_the_papers_scale():
    assert noise_activity.ablated("small", hidden=100) == noise_activity.base("small", hidden=100)
    config = noise_activity.ablated("paper", name="mnist_noise_classifier", hidden=100)
    assert (config.data.name, config.model.hidden, config.model.classes) == ("cifar10_latents", 100, 10)
    assert config.objective.kind == "classification"


def test_the_first_curves_are_of_the_latents_at_the_papers_scale(monkeypatch, tmp_path):
    asked = []

    def stopped(config, *_):
        asked.append(config)
        raise InterruptedError

    monkeypatch.setattr(noise_activity, "grid", stopped)
    for name in ("noise/fig2", "noise/fig3"):
        with pytest.raises(InterruptedError):
            noise_activity.STUDIES[name].make("paper", tmp_path)
    assert asked == [configs.get("latent_noise")] * 2


def test_noise_is_annealed_on_the_latents_at_the_papers_scale(monkeypatch, tmp_path):
    asked = []

    def stopped(config, *_):
        asked.append(config)
        raise InterruptedError

    monkeypatch.setattr(noise_activity, "grid", stopped)
    for name in ("noise/fig6", "noise/fig6b", "noise/fig12", "noise/fig13"):
        with pytest.raises(InterruptedError):
            noise_activity.STUDIES[name].make("paper", tmp_path)
    for config in asked:
        assert (config.data.name, config.model.hidden) == ("cifar10_latents", 10_000)
        assert (config.model.anneal_after, config.model.anneal_epochs, config.training.epochs) == (800, 800, 2000)
    kinds = [config.objective.kind for config in asked]
    assert kinds == ["reconstruction", "classification", "reconstruction", "classification"]


@pytest.mark.slow
def test_what_gathers_is_shown_on_latents_where_there_are_some(tiny, monkeypatch, tmp_path):
    random = np.random.default_rng(0)
    vectors = (random.standard_normal((size, 8)).astype(np.float32) for size in (90, 60))
    splits = [Split(split, np.arange(len(split), dtype=np.int32) % 4) for split in vectors]
    path = tmp_path / "library" / LATENTS_FILE
    path.parent.mkdir(parents=True)
    path.write_bytes(latents_bytes(*splits, {"classes": 4, "data": {"name": "cifar10"}}))
    monkeypatch.setenv("SPARSEJAX_DATA", str(tmp_path / "library"))
    monkeypatch.setattr(noise_activity, "found_latents", lambda: path)
    whole = noise_activity.embedded
    assert (whole().data.name, whole().training.learning_rate) == ("cifar10_latents", 3e-4)
    few = {"data.train_examples": None, "data.test_examples": None}
    monkeypatch.setattr(noise_activity, "embedded", lambda *some, **model: replaced(whole(*some, **model), few))
    assert main(["noise/fig3", "--out", str(tmp_path)]) == 0
    ours = json.loads((tmp_path / "noise/fig3.json").read_text())["ours"]
    assert ours["data"] == "cifar10_latents" and "left_out" not in ours
    assert ours["sigma"] == list(noise_activity.GATHERED)
    for name in ("relative_spread_of_biases", "relative_spread_of_key_norms", "dead_units", "mean_bias"):
        assert len(ours[name]) == len(ours["sigma"]) and np.isfinite(ours[name]).all()
    result = json.loads((tmp_path / "noise/networks/small/runs/embedded/result.json").read_text())
    assert [member["model.sigma"] for member in result["members"]] == ours["sigma"]
    assert [member["layers"]["hidden"]["dead_units"] for member in result["members"]] == ours["dead_units"]
    assert main(["noise/fig6", "--out", str(tmp_path)]) == 0
    ours = json.loads((tmp_path / "noise/fig6.json").read_text())["ours"]
    assert ours["data"] == "cifar10_latents" and "left_out" not in ours
    assert len(ours["active_fraction_after"]) == len(ours["sigma"]) == 6
    dead = zip(ours["sigma"], ours["dead_units_after"], strict=True)
    assert ours["sigma_with_dead_units"] == [sigma for sigma, units in dead if units > 0]


@pytest.mark.slow
def test_a_row_of_the_table_is_made_by_itself(monkeypatch, tmp_path):
    short = {"data.name": "digits", "training.epochs": 1, "data.train_examples": 200, "data.test_examples": 100}
    monkeypatch.setattr(dense_mnist, "_SHORT", short | {"devices.transform": "jit"})
    assert main(["dense/sparse_cnn2", "--out", str(tmp_path)]) == 0
    numbers = json.loads((tmp_path / "dense/sparse_cnn2.json").read_text())
    assert list(numbers["paper"]) == list(numbers["ours"]) == ["Sparse CNN-2"]
    assert numbers["seeds"] == [42]
    trained = [path.parent.parent.name for path in tmp_path.glob("dense/mnist/small/runs/*/*/result.json")]
    assert trained == ["Sparse_CNN-2"], "where the table finds it"


@pytest.mark.slow
def test_more_seeds_are_added_to_those_that_are_there(tiny, tmp_path, capsys):
    assert main(["dense/fig5", "--out", str(tmp_path)]) == 0
    one = json.loads((tmp_path / "dense/fig5.json").read_text())
    trained = {path: path.stat().st_mtime_ns for path in tmp_path.glob("dense/mnist/small/runs/*/*/result.json")}
    assert one["seeds"] == [42] and len(trained) == 2
    assert main(["dense/fig5", "--out", str(tmp_path), "--seeds", "2"]) == 0
    two = json.loads((tmp_path / "dense/fig5.json").read_text())
    assert two["seeds"] == [42, 43] and len(list(tmp_path.glob("dense/mnist/small/runs/*/*/result.json"))) == 4
    assert all(path.stat().st_mtime_ns == when for path, when in trained.items()), "what was done is not done again"
    first = [
        np.mean(two["ours"]["Sparse CNN-2"]["noise_score_best"][:1]),
        one["ours"]["Sparse CNN-2"]["noise_score_best"][0],
    ]
    assert first[0] != first[1], "the second network counts"
    capsys.readouterr()
    assert main(["dense/fig5", "--seeds", "11"]) == 2 and "from 1 to 10" in capsys.readouterr().err
    assert main(["noise/fig2", "--seeds", "2"]) == 2 and "leave the option out" in capsys.readouterr().err


@pytest.mark.parametrize("scale", ["small", "paper"])
def test_latents_are_compared_when_they_are_there_and_said_to_be_left_out_when_not(monkeypatch, tmp_path, scale):
    asked = []

    def compared(variants, *_):
        asked.append(variants)
        return {}, Outcome(None, {"sigma": []}, {}, [])

    monkeypatch.setattr(noise_activity, "_compared", compared)
    for found in (None, tmp_path):
        monkeypatch.setattr(noise_activity, "found_latents", lambda found=found: found)
        ours = noise_activity.STUDIES["noise/fig7b"].make(scale, tmp_path).ours
        assert ("left_out" in ours) == (found is None)
        if found is None:
            assert "python -m sparsejax.commands.embed" in ours["left_out"]["latents"]
    assert [list(variants) for variants in asked] == [["MNIST", "CIFAR-10"], ["MNIST", "CIFAR-10", "latents"]]
    latents = asked[1]["latents"]
    assert latents.data.name == "cifar10_latents"
    assert latents.model.hidden == (1000 if scale == "small" else 10_000)
    assert latents.training.epochs == (noise_activity.base("small").training.epochs if scale == "small" else 800)
