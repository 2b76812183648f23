"""Spoken words, from a folder of clips to the run folder and the study of the paper's Table 2."""

import json

import numpy as np
import pytest

from sparsejax import configs
from sparsejax.commands.reproduce import main
from sparsejax.configuration import replace
from sparsejax.studies.dense import speech as dense_speech
from tests.command import ONE, here, without_figures
from tests.data.test_speech import write_clip


@pytest.fixture
def library(tmp_path):
    """Returns a $SPARSEJAX_DATA whose three words are tones of different pitch, over a faint noise."""
    random = np.random.default_rng(0)
    for word, pitch in (("low", 200), ("middle", 900), ("high", 4000)):
        for i in range(45):
            t = np.arange(12_000) / 16_000
            tone = np.sin(2 * np.pi * pitch * (1 + 0.02 * random.normal()) * t) * np.hanning(12_000)
            samples = 8000 * tone + 20 * random.normal(size=len(t))
            write_clip(tmp_path / "library" / "speech_commands" / word / f"{i:08x}_nohash_0.wav", np.rint(samples))
    return tmp_path / "library"


SMALL = {"model.channels": (4, 4), "model.hidden": 20, "training.epochs": 3, "training.batch_size": 8}
RUN = ["--config", "speech_sparse_cnn2", "--model.channels", 4, 4, "--model.conv-k", 100, 20, "--model.hidden", 20,
       "--model.hidden-k", 5, "--training.epochs", 3, "--training.batch-size", 8, *ONE]  # fmt: skip


@pytest.mark.slow
def test_words_are_classified_and_scored_under_noise(tmp_path, library):
    folder = tmp_path / "run"
    done = here(*RUN, "--out", folder, SPARSEJAX_DATA=str(library))
    assert done.returncode == 0, done.stderr
    assert "test clips" in done.stdout and "NOTE: these are the words high, low, middle" in done.stdout
    result = json.loads((folder / "result.json").read_text())
    assert (result["dataset"], result["source"]) == ("speech_commands", "files")
    assert "high, low, middle" in result["notice"]
    assert result["test_accuracy"] > 0.9
    assert result["noise_score_max"] == 11 * result["data"]["test"]
    assert result["noise_accuracy"][0] == pytest.approx(result["test_accuracy"])
    assert 0 < result["noise_score"] < result["noise_score_max"]
    assert "blended with white noise" in (folder / "report.html").read_text()
    bad = library / "speech_commands" / "low" / "0000000a_nohash_0.wav"
    bad.write_bytes(bad.read_bytes()[:500])
    damaged = here(*RUN, "--out", tmp_path / "other", SPARSEJAX_DATA=str(library))
    assert damaged.returncode == 1 and str(bad) in damaged.stderr and "truncated" in damaged.stderr


@pytest.mark.parametrize(
    ("options", "status", "said"),
    [
        (["--data.name", "digits"], 2, "A SpeechCNN reads clips, but digits has images"),
        (["--data.words", "low", "loud"], 1, "no folder for loud"),
        (["--data.silence", -1], 2, "silence is -1"),
        (["--data.name", "spoken_digits"], 1, "The Free Spoken Digit Dataset was looked for"),
        (["--model.classes", 2], 2, "--model.classes 4"),
        (["--data.source", "tfds"], 2, "cannot come from the source 'tfds'"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, library, options, status, said):
    folders = {"SPARSEJAX_DATA": library, "HOME": tmp_path, "XDG_CACHE_HOME": tmp_path}
    refused = here(*RUN, *options, "--out", tmp_path / "run", **{name: str(path) for name, path in folders.items()})
    assert refused.returncode == status
    assert said in refused.stderr


@pytest.mark.slow
def test_table_2_has_the_papers_numbers_next_to_ours(tmp_path, library, monkeypatch):
    def networks(scale):
        rows = {}
        for label, (name, *_) in dense_speech.TABLE2.items():
            config = configs.get(f"speech_{name}")
            # The winners first, as fewer of them always fit.
            winners = {"model.conv_k": (100, 20), "model.hidden_k": 5} if config.model.hidden_k is not None else {}
            rows[label] = replace(config, {**winners, **SMALL, "devices.transform": "jit"})
        return rows

    monkeypatch.setattr(dense_speech, "networks", networks)
    monkeypatch.setenv("SPARSEJAX_DATA", str(library))
    with without_figures():
        assert main(["dense/table2", "--seeds", "1", "--out", str(tmp_path / "out")]) == 0
    numbers = json.loads((tmp_path / "out" / "dense" / "table2.json").read_text())
    assert numbers["paper"]["Sparse CNN-2"]["noise_score_best"] == [11_233, 1_013]
    for label in dense_speech.TABLE2:
        ours = numbers["ours"][label]
        assert 50 < ours["test_accuracy_best"][0] <= 100 and 0 < ours["noise_score_percent_best"][0] < 100
        levels = np.asarray(numbers["ours"][f"{label}, accuracy"])
        clips = numbers["ours"]["data"]["test"]
        assert ours["noise_score_best"][0] == pytest.approx(levels.sum() * clips, rel=1e-3)
    assert numbers["ours"]["data"]["name"] == "speech_commands" and numbers["seeds"] == [42]
    assert (tmp_path / "out" / "dense" / "table2.png").stat().st_size > 5000
