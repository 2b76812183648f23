"""A small GPT on a user's text, from the command line to the run folder."""

import json
import math

import numpy as np
import pytest

from tests.command import ONE, here, without_figures


@pytest.fixture
def library(tmp_path):
    """Returns a $SPARSEJAX_DATA with a text in which each word foretells the next."""
    folder = tmp_path / "library" / "wikitext-2"
    folder.mkdir(parents=True)
    for part, sentences in (("train", 400), ("valid", 60), ("test", 60)):
        (folder / f"{part}.txt").write_text("one two three four five six\n" * sentences)
    return folder.parent


RUN = ["--config", "wikitext_gpt_small", "--data.train-examples", "None", "--data.test-examples", "None",
       "--data.vocabulary", "10", "--data.length", 16, "--model.vocabulary", "10", "--model.context", 16,
       "--model.width", 32, "--model.blocks", 2, "--training.epochs", 8, *ONE]  # fmt: skip


@pytest.mark.slow
def test_it_learns_a_text_and_reports_its_perplexity_and_activity(tmp_path, library):
    folder = tmp_path / "run"
    words = [*RUN, "--sweep", "model.sigma=0,3", "--out", folder]
    done = here(*words, SPARSEJAX_DATA=str(library))
    assert done.returncode == 0, done.stderr
    assert "test windows" in done.stdout and "perplexity" in done.stdout
    result = json.loads((folder / "result.json").read_text())
    assert (result["dataset"], result["source"]) == ("wikitext-2", "files")
    silent, noisy = result["members"]
    assert silent["test_perplexity"] == pytest.approx(math.exp(silent["test_loss"]))
    assert silent["test_perplexity"] < 1.5, "after the first word all others follow"
    assert set(silent["layers"]) == {"mlp1", "mlp2"}
    fractions = [[member["layers"][name]["active_fraction"] for name in ("mlp1", "mlp2")] for member in (silent, noisy)]
    assert np.mean(fractions[1]) < np.mean(fractions[0])
    with without_figures():
        again = here(*words, SPARSEJAX_DATA=str(library))
    assert again.returncode == 0, again.stderr
    assert json.loads((folder / "result.json").read_text())["members"] == result["members"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model.vocabulary", "5"], "has 5 outputs, but wikitext-2 has 8 tokens; use --model.vocabulary 8"),
        (["--data.length", "900"], "data.length is 900"),
        (["--data.name", "digits"], "A GPT reads tokens, but digits has images"),
        (["--objective.kind", "reconstruction"], "use --objective.kind next_token"),
        (["--data.length", "32"], "tokens (model.context)"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, library, options, message):
    refused = here(*RUN, *options, "--out", tmp_path / "run", SPARSEJAX_DATA=str(library))
    assert refused.returncode == 2, refused.stderr
    assert message in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_missing_text_says_how_to_get_it(tmp_path):
    refused = here(*RUN, "--out", tmp_path / "run", SPARSEJAX_DATA=str(tmp_path), HOME=str(tmp_path))
    assert refused.returncode == 1
    assert "WikiText-2 was looked for" in refused.stderr and "write the lines of" in refused.stderr
