import json
import os
from types import SimpleNamespace

import numpy as np
import pytest

from sparsejax.errors import RunFolderError
from sparsejax.evaluation.measure import measures_of
from sparsejax.figures import run
from sparsejax.training.run_folder import RunFolder


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path / "run")


def write_figures(folder, result, variables):
    return run.write_figures(folder, result, variables, measures_of(result))


def fill(folder, networks):
    """Writes the metrics of three short epochs."""
    folder.path.mkdir()
    lines = []
    for step in range(1, 31):
        values = [2.3 * 0.9**step * (1 + 0.1 * i) for i in range(networks)]
        lines.append({"step": step, "epoch": step / 10, "time": 0.0, "loss": values,
                      "accuracy": [1 - value / 3 for value in values]})  # fmt: skip
        if step % 10 == 0:
            lines.append({"step": step, "epoch": step // 10, "time": 0.0, "test_accuracy": [0.8] * networks,
                          "test_loss": [None] + [0.5] * (networks - 1)})  # fmt: skip
    folder.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))


def variables(networks, *, winners=True, dense=False, inputs=784):
    """Returns what a trained network holds, with a leading member axis."""
    rng = np.random.default_rng(3)
    first = (networks, inputs, 20) if dense else (networks, 5, 5, 1, 4)
    params = {
        "conv1": {"kernel": rng.normal(size=first), "bias": np.zeros((networks, 4))},
        "hidden": {"kernel": rng.normal(size=(networks, 96, 700)), "bias": np.zeros((networks, 700))},
    }
    state = {"conv1": {"mask": rng.random(first) < 0.3} if dense else {}, "hidden": {}, "output": {}}
    if winners:
        state["conv1"]["boost"] = SimpleNamespace(duty_cycle=rng.beta(2, 9, (networks, 4)))
        state["hidden"]["boost"] = SimpleNamespace(duty_cycle=rng.beta(2, 9, (networks, 700)))
    return SimpleNamespace(params=params, state=state)


ALL = ["active_fraction.png", "duty_cycles.png", "filters.png", "noise.png", "report.html", "training.png"]


@pytest.mark.parametrize("networks, sweep, dense", [(1, (), False), (2, (0.0, 1.5), True)])
def test_all_figures_are_written(folder, make_result, networks, sweep, dense):
    members = networks * max(1, len(sweep))
    fill(folder, members)
    written = write_figures(folder, make_result(networks, sweep=sweep), variables(members, dense=dense))
    assert sorted(path.name for path in written) == ALL
    assert all(path.stat().st_size > 2000 for path in written)
    assert sorted([*os.listdir(folder.figures), folder.report.name]) == ALL  # and nothing temporary
    assert sorted(os.listdir(folder.path)) == ["figures", "metrics.jsonl", "report.html"]
    assert folder.report.read_text().count("<figure>") == 5
    if networks == 1:
        first = [path.read_bytes() for path in written]
        again = write_figures(folder, make_result(), variables(1))
        assert [path.read_bytes() for path in again] == first, "drawn again, they are identical"


def test_only_available_figures_are_drawn(folder, make_result):
    folder.path.mkdir()
    result = make_result(winners=False, noise=False)
    written = write_figures(folder, result, variables(1, winners=False, dense=True, inputs=785))
    assert [path.name for path in written] == ["active_fraction.png", "report.html"]


@pytest.mark.filterwarnings("error")
def test_a_network_that_diverged_has_its_page(folder, make_result):
    folder.path.mkdir()
    line = {"step": 1, "epoch": 1, "time": 0.0, "loss": [None], "accuracy": [0.1], "test_accuracy": [None],
            "test_loss": [None]}  # fmt: skip
    folder.metrics.write_text(json.dumps(line) + "\n")
    trained = variables(1)
    trained.params["conv1"]["kernel"][:] = np.nan
    assert sorted(path.name for path in write_figures(folder, make_result(), trained)) == ALL


def test_an_unwritable_folder_is_reported(folder, make_result):
    fill(folder, 1)
    folder.figures.write_text("in the way")
    with pytest.raises(RunFolderError, match="cannot be written"):
        write_figures(folder, make_result(), variables(1))
