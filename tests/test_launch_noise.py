"""An autoencoder under noise, from the command line to the run folder."""

import json
import shutil

import numpy as np
import pytest

from tests.command import ONE, here, without_figures
from tests.kill_campaign import assert_same_run

RUN = ["--config", "mnist_noise", "--data.name", "digits", "--data.train-examples", 400, "--data.test-examples", 100,
       "--model.hidden", 50, "--training.batch-size", 50, *ONE]  # fmt: skip


@pytest.mark.slow
def test_a_grid_of_noise_levels_ends_with_losses_activity_and_arrays(tmp_path):
    folder = tmp_path / "run"
    sweep = ["--sweep", "model.sigma=0,2", "--seeds", 2, "--training.epochs", 3]
    track = ["--evaluation.track", "activity", "weights", "implicit_terms", "--evaluation.implicit-examples", 20]
    done = here(*RUN, *sweep, *track, "--out", folder)
    assert done.returncode == 0, done.stderr
    assert "test loss" in done.stdout and "active/hidden" in done.stdout
    result = json.loads((folder / "result.json").read_text())
    assert "test_accuracy" not in result and "noise_score" not in result
    assert [member["model.sigma"] for member in result["members"]] == [0, 0, 2, 2]
    losses = [member["test_loss"] for member in result["members"]]
    assert max(losses[:2]) < min(losses[2:]), "noise at evaluation makes the input harder to tell"
    for member in result["members"]:
        layer = member["layers"]["hidden"]
        assert layer["units"] == 50 and 0 < layer["active_fraction"] < 1
        assert member["best"]["test_loss"] <= member["test_loss"] + 1e-7
        assert layer["bias_spread"] > 0 and layer["key_norm"] > 0
    with np.load(folder / "units.npz") as units:
        assert units["hidden.active"].shape == (4, 50)
        assert units["hidden.k"].shape == (4, 51)
        np.testing.assert_array_equal(units["hidden.k"].sum(1), [100] * 4)
        np.testing.assert_array_equal((units["hidden.k"] * np.arange(51)).sum(1), units["hidden.active"].sum(1))
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").open()]
    tracked = [line for line in lines if "active_fraction/hidden" in line]
    assert len(tracked) == 3
    assert tracked[0].keys() >= {"dead_units/hidden", "bias_spread/hidden", "key_norm_spread/hidden", "test_loss"}
    second = [line["implicit/second_moment"] for line in tracked]
    assert len(second) == 3 and all(line[:2] == [0, 0] and min(line[2:]) > 0 for line in second)
    assert tracked[0].keys() >= {"implicit/mean_shift", "implicit/co_fluctuation"}
    page = (folder / "report.html").read_text()
    assert "test loss" in page.lower() and ">nan" not in page.lower()


@pytest.mark.slow
@pytest.mark.optimized
def test_a_learned_k_is_logged_and_resumes_bit_equal(tmp_path):
    options = ["--model.competition", "sampled_k", "--model.sampled-log-k", 3, "--training.epochs", 2,
               "--training.checkpoint-every", 1, "--training.keep-checkpoints", 9]  # fmt: skip
    whole, again = tmp_path / "whole", tmp_path / "again"
    with without_figures():
        assert here(*RUN, *options, "--out", whole).returncode == 0
        shutil.copytree(whole, again)
        resumed = here(*RUN, *options, "--out", again, "--resume-step", 11)
    assert resumed.returncode == 0 and "checkpoint of step 11" in resumed.stdout
    assert_same_run(again, whole)
    lines = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").open()]
    ks = [line["k"][0] for line in lines if "k" in line]
    assert ks[0] == pytest.approx(np.exp(3), rel=0.1) and ks[0] != ks[-1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--objective.kind", "classification"], "use --objective.kind reconstruction, or --model.classes 10"),
        (["--model.classes", "10"], "objective.kind is reconstruction"),
        (["--objective.l1", "-1"], "objective.l1 is -1"),
        (["--model.noise", "poisson"], "poisson"),
        (["--evaluation.implicit-examples", "0"], "evaluation.implicit_examples is 0"),
        (["--evaluation.track", "implicit_terms", "--model.noise", "laplace"], "known in closed form for a plain ReLU"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, options, message):
    refused = here(*RUN, *options, "--out", tmp_path / "run")
    assert refused.returncode == 2
    assert message in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not (tmp_path / "run").exists()
