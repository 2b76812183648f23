"""The command `sparsejax`: the modules' commands under one name, and what only it can do."""

import subprocess
from pathlib import Path

import matplotlib.image
import pytest

from sparsejax import configs, studies
from sparsejax.commands import cli, reproduce
from sparsejax.commands import train as launch
from tests.command import SMALL


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Trains a network, and two of another kind for an epoch more."""
    folder = tmp_path_factory.mktemp("runs")
    base = [*SMALL, "--devices.transform", "jit"]
    assert cli.main(["train", *base, "--out", str(folder / "one")]) == 0
    more = ["--training.epochs", "3", "--seeds", "2", "--objective.l1", "0.001", "--evaluation.no-noise"]
    assert cli.main([*base, *more, "--out", str(folder / "two")]) == 0, "train may be left out"
    return folder


@pytest.mark.slow
def test_runs_are_put_into_one_table_and_picture(runs, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    assert cli.main(["compare", str(runs / "one"), str(runs / "two"), "--out", str(tmp_path / "both.png")]) == 0
    said = capsys.readouterr().out
    rows = {line.split("│")[1].strip(): line for line in said.splitlines() if line.count("│") > 3}
    assert [cell.strip() for cell in rows["networks"].split("│")[2:4]] == ["1", "2"] and rows["accuracy (%)"].count(
        "±"
    ) == 1
    assert "noise score (%)" in rows and rows["fewer products"].count(" × ") == 2 and "both.png" in said
    assert matplotlib.image.imread(tmp_path / "both.png").shape[1] > 600
    assert cli.main(["compare", str(runs / "one")]) == 0


def test_a_report_is_drawn_again_as_it_was(runs, capsys):
    report, picture = runs / "one" / "report.html", next((runs / "one" / "figures").glob("*.png"))
    before, image = report.read_text(), picture.read_bytes()
    report.unlink()
    picture.unlink()
    assert cli.main(["report", str(runs / "one")]) == 0
    assert str(report) in capsys.readouterr().out
    assert report.read_text() == before and picture.read_bytes() == image


def test_everything_is_listed(capsys):
    assert cli.main(["list"]) == 0
    said = capsys.readouterr().out
    assert all(f"  {name} " in said for name in (*configs.CONFIGS, *studies.STUDIES))
    assert cli.main([]) == 0 and "compare" in capsys.readouterr().out


@pytest.mark.parametrize("module", [launch, reproduce], ids=["train", "reproduce"])
def test_commands_are_passed_on(module, monkeypatch):
    name, given = ("train" if module is launch else "reproduce"), []
    monkeypatch.setattr(module, "main", lambda words: given.append(words) or 7)
    assert cli.main([name, "--list", "x"]) == 7 and given == [["--list", "x"]]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_commands_experiments_and_studies(shell, capsys):
    assert cli.main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "compare" in script and "mnist_kwinners" in script and "dense/table1" in script
    if shell == "bash":
        asked = 'COMP_WORDS=(sparsejax train --config mnist_kw) COMP_CWORD=3; _sparsejax; echo "${COMPREPLY[@]}"'
        said = subprocess.run(["bash", "-c", script + asked], capture_output=True, text=True, check=True)
        assert said.stdout.strip() == "mnist_kwinners"


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["fly"], 2, "There is no command 'fly'; there are train, reproduce"),
        (["compare", "/nowhere"], 1, "/nowhere holds no result.json"),
        (["report", "/nowhere"], 1, "/nowhere is not a run folder"),
        (["completion", "tcsh"], 2, "invalid choice"),
    ],
)
def test_mistakes_are_told(words, status, message, capsys):
    assert cli.main(words) == status
    assert message in capsys.readouterr().err


def test_folders_of_one_name_are_told_apart():
    paths = [Path("a/run"), Path("b/run"), Path("c")]
    assert [cli._name(path, paths) for path in paths] == ["a/run", "b/run", "c"]
