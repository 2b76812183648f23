"""The studies of noise: made of small networks and few digits here, so only the parts are tested."""

import dataclasses
import json

import numpy as np
import pytest

from sparsejax import configs, studies
from sparsejax.configuration import replace
from sparsejax.data import Split
from sparsejax.data.latents import LATENTS_FILE, latents_bytes
from sparsejax.studies.noise import activity as noise_activity
from sparsejax.studies.noise import language as noise_language
from sparsejax.studies.noise import pictures as noise_pictures
from sparsejax.studies.noise import terms as implicit_terms
from sparsejax.studies.noise.activity import has_latents
from sparsejax.studies.study import Outcome
from tests.studies.making import DIGITS, made

_FEW = {**DIGITS, "data.train_examples": 300, "data.test_examples": 100, "training.epochs": 3,
        "training.batch_size": 50}  # fmt: skip


@pytest.fixture
def tiny(monkeypatch):
    """Makes the studies train small networks on few of the bundled digits, over three noise levels."""
    whole = noise_activity.base

    def base(scale, **settings):
        return replace(whole(scale, **settings | {"hidden": min(settings.get("hidden", 40), 40)}), _FEW)

    for module in (noise_activity, noise_pictures, implicit_terms):
        monkeypatch.setattr(module, "base", base)
    monkeypatch.setattr(noise_activity, "grid", quickly_annealed(noise_activity.grid))
    monkeypatch.setattr(noise_activity, "SIGMAS", (0.0, 0.8, 3.0))
    monkeypatch.setattr(noise_activity, "has_latents", lambda: False)
    monkeypatch.setattr(
        noise_activity, "PAPER", {"MNIST": (0.96, 0.088, 0.03), "latents": (0.8, 0.1, 0.03), "GELU": (0.9, 0.3, 0.1)}
    )
    monkeypatch.setattr(noise_pictures, "STAGES", {"small": (1, 2), "paper": (3, 4)})
    drawn = implicit_terms._monte_carlo
    monkeypatch.setattr(implicit_terms, "_UNITS", 20)
    monkeypatch.setattr(implicit_terms, "_SIGMAS", (0.1, 0.8))
    monkeypatch.setattr(implicit_terms, "_monte_carlo", lambda *given: drawn(*given, draws=5))


def quickly_annealed(whole):
    """Returns `noise_activity.grid` with epochs that count for 20 or 60 if the noise is annealed."""

    def grid(config, *given):
        if config.model.anneal_after is None:
            return whole(config, *given)
        factor = {60: 20, 300: 60}[config.training.epochs]
        names = ("training.epochs", "model.anneal_after", "model.anneal_epochs")
        times = (config.training.epochs, config.model.anneal_after, config.model.anneal_epochs)
        short = {name: type(time)(time // factor) for name, time in zip(names, times, strict=True)}
        trained = whole(replace(config, short), *given)
        curves = {name: curve._replace(epochs=factor * curve.epochs) for name, curve in trained.curves.items()}
        return trained._replace(curves=curves)

    return grid


# Of other data, or as another; the language model has a test of its own.
_NAMES = [name for name in studies.STUDIES if name.startswith(("noise/", "emergence/"))
          and name not in ("noise/fig7b", "noise/gpt")]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", _NAMES)
def test_a_study_writes_a_figure_and_numbers(tiny, opened_once, out, capsys, name):
    assert made(name, out)["source"] in capsys.readouterr().out


@pytest.mark.slow
def test_the_same_command_resumes_and_gives_the_same_numbers(tiny, out, capsys):
    results = [made("noise/fig2", out)["ours"] for _ in range(2)]
    assert results[0] == results[1]
    assert "resuming from the checkpoint" in capsys.readouterr().out


@pytest.mark.slow
def test_the_language_model_is_reported_before_and_after_its_noise_is_removed(monkeypatch, tmp_path):
    folder = tmp_path / "library" / "wikitext-2"
    folder.mkdir(parents=True)
    for part, sentences in (("train", 400), ("valid", 60), ("test", 60)):
        (folder / f"{part}.txt").write_text("one two three four five six\n" * sentences)
    monkeypatch.setenv("SPARSEJAX_DATA", str(folder.parent))
    small = {"data.vocabulary": 10, "data.length": 16, "data.train_examples": 160, "data.test_examples": 20,
             "model.vocabulary": 10, "model.context": 16, "model.width": 16, "training.epochs": 2,
             "model.noise_off_step": 10, "devices.transform": "jit"}  # fmt: skip
    whole = noise_language.base
    monkeypatch.setattr(noise_language, "base", lambda scale: replace(whole(scale), small))
    monkeypatch.setattr(noise_language, "SIGMAS", (0.0, 3.0))
    monkeypatch.setattr(noise_language, "PAPER", (0.17, 0.059))
    ours = made("noise/gpt", tmp_path)["ours"]
    rows = [json.loads(line) for line in (tmp_path / "noise/gpt/small/runs/sigma/metrics.jsonl").open()]
    tracked = [row for row in rows if "active_fraction/mlp1" in row]
    for name, row in (("active_fraction_while_noisy", tracked[0]), ("active_fraction", tracked[-1])):
        mean = np.mean([row[f"active_fraction/mlp{block}"] for block in (1, 2, 3)], axis=0)
        np.testing.assert_allclose(ours[name], mean, rtol=1e-5)
    assert tracked[0]["step"] == 10 and ours["perplexity_relative_to_none"][0] == 1


def test_the_paper_scale_is_the_papers():
    config = noise_activity.base("paper")
    assert (config.data.name, config.model.hidden, config.training.batch_size) == ("cifar10", 10_000, 1024)
    assert (config.training.learning_rate, config.training.clip_norm) == (1e-4, 1.0)
    annealed = noise_activity.base("paper", anneal_after=800.0, anneal_epochs=800.0)
    assert dataclasses.replace(annealed.model, anneal_after=None, anneal_epochs=0.0) == config.model


def test_ablations_are_of_the_latents_at_the_papers_scale():
    assert noise_activity.ablation_base("small", hidden=100) == noise_activity.base("small", hidden=100)
    config = noise_activity.ablation_base("paper", name="mnist_noise_classifier", hidden=100)
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
            studies.get(name).make("paper", tmp_path)
    assert asked == [configs.get("latent_noise")] * 2


def test_noise_is_annealed_on_the_latents_at_the_papers_scale(monkeypatch, tmp_path):
    asked = []

    def stopped(config, *_):
        asked.append(config)
        raise InterruptedError

    monkeypatch.setattr(noise_activity, "grid", stopped)
    for name in ("noise/fig6", "noise/fig6b", "noise/fig12", "noise/fig13"):
        with pytest.raises(InterruptedError):
            studies.get(name).make("paper", tmp_path)
    for config in asked:
        assert (config.data.name, config.model.hidden) == ("cifar10_latents", 10_000)
        assert (config.model.anneal_after, config.model.anneal_epochs, config.training.epochs) == (800, 800, 2000)
    kinds = [config.objective.kind for config in asked]
    assert kinds == ["reconstruction", "classification", "reconstruction", "classification"]


@pytest.mark.slow
def test_distributions_are_shown_on_latents_if_available(tiny, monkeypatch, tmp_path):
    random = np.random.default_rng(0)
    vectors = (random.standard_normal((size, 8)).astype(np.float32) for size in (90, 60))
    splits = [Split(split, np.arange(len(split), dtype=np.int32) % 4) for split in vectors]
    path = tmp_path / "library" / LATENTS_FILE
    path.parent.mkdir(parents=True)
    path.write_bytes(latents_bytes(*splits, {"classes": 4, "data": {"name": "cifar10"}}))
    monkeypatch.setenv("SPARSEJAX_DATA", str(tmp_path / "library"))
    monkeypatch.setattr(noise_activity, "has_latents", has_latents)
    whole = noise_activity.latent_base
    assert (whole().data.name, whole().training.learning_rate) == ("cifar10_latents", 3e-4)
    few = {"data.train_examples": None, "data.test_examples": None}
    monkeypatch.setattr(noise_activity, "latent_base", lambda *some, **model: replace(whole(*some, **model), few))
    ours = made("noise/fig3", tmp_path)["ours"]
    assert ours["data"] == "cifar10_latents" and "left_out" not in ours
    assert ours["sigma"] == list(noise_activity.GATHERED)
    for name in ("relative_spread_of_biases", "relative_spread_of_key_norms", "dead_units", "mean_bias"):
        assert len(ours[name]) == len(ours["sigma"]) and np.isfinite(ours[name]).all()
    result = json.loads((tmp_path / "noise/networks/small/runs/embedded/result.json").read_text())
    assert [member["model.sigma"] for member in result["members"]] == ours["sigma"]
    assert [member["layers"]["hidden"]["dead_units"] for member in result["members"]] == ours["dead_units"]
    ours = made("noise/fig6", tmp_path)["ours"]
    assert ours["data"] == "cifar10_latents" and "left_out" not in ours
    assert len(ours["active_fraction_after"]) == len(ours["sigma"]) == 6
    dead = zip(ours["sigma"], ours["dead_units_after"], strict=True)
    assert ours["sigma_with_dead_units"] == [sigma for sigma, units in dead if units > 0]


@pytest.mark.parametrize("scale", ["small", "paper"])
def test_latents_are_compared_if_available_and_otherwise_reported_as_omitted(monkeypatch, tmp_path, scale):
    asked = []

    def compared(variants, *_):
        asked.append(variants)
        return {}, Outcome(None, {"sigma": []}, {}, [])

    monkeypatch.setattr(noise_activity, "_compare", compared)
    for found in (False, True):
        monkeypatch.setattr(noise_activity, "has_latents", lambda found=found: found)
        ours = studies.get("noise/fig7b").make(scale, tmp_path).ours
        assert ("left_out" in ours) == (not found)
        if not found:
            assert "sparsejax embed --run" in ours["left_out"]["latents"]
    assert [list(variants) for variants in asked] == [["MNIST", "CIFAR-10"], ["MNIST", "CIFAR-10", "latents"]]
    latents = asked[1]["latents"]
    assert latents.data.name == "cifar10_latents"
    assert latents.model.hidden == (1000 if scale == "small" else 10_000)
    assert latents.training.epochs == (noise_activity.base("small").training.epochs if scale == "small" else 800)
