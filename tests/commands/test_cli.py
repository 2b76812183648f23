"""The command `sparsejax`: all commands under one name, and its own features."""

import json
import shutil
import subprocess
from pathlib import Path

import matplotlib.image
import pytest

from sparsejax import configs, studies
from sparsejax.commands import cli, embed, reproduce
from sparsejax.commands import train as launch
from sparsejax.evaluation.report import summary
from sparsejax.training.log import read_metrics


def a_grid_like(run: Path, folder: Path) -> Path:
    """Writes the inputs of `compare` for a run of two such networks, with one more epoch and no noise score."""
    result = json.loads((run / "result.json").read_text())
    one = {name: value for name, value in result["members"][0].items() if not name.startswith("noise")}
    members = [one, one | {"test_accuracy": one["test_accuracy"] - 0.1}]
    result = {name: value for name, value in result.items() if not name.startswith("noise")}
    result["measures"].remove("noise_score")
    lines = [{name: 2 * value if isinstance(value, list) else value for name, value in line.items()}
             for line in read_metrics(run / "metrics.jsonl")]  # fmt: skip
    lines.append(lines[-1] | {"step": lines[-1]["step"] + 13, "epoch": 3})
    folder.mkdir()
    (folder / "result.json").write_text(json.dumps(result | summary(members) | {"members": members}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_runs_are_compared_in_one_table_and_figure(small_run, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    one = small_run / "run"
    two = a_grid_like(one, tmp_path / "two")
    assert cli.main(["compare", str(one), str(two), "--out", str(tmp_path / "both.png")]) == 0
    said = capsys.readouterr().out
    rows = {line.split("│")[1].strip(): [cell.strip() for cell in line.split("│")[2:4]]
            for line in said.splitlines() if line.count("│") > 3}  # fmt: skip
    accuracy = 100 * json.loads((one / "result.json").read_text())["test_accuracy"]
    assert rows["networks"] == ["1", "2"]
    assert rows["accuracy (%)"] == [f"{accuracy:.2f}", f"{accuracy - 5:.2f} ± 5.00"]
    assert rows["noise score (%)"][0] and not rows["noise score (%)"][1]
    assert all("," in cell for cell in rows["non-zero products"]) and "both.png" in said
    assert matplotlib.image.imread(tmp_path / "both.png").shape[1] > 600
    assert cli.main(["compare", str(one)]) == 0
    (tmp_path / "mine.py").write_text("print('imported')")
    assert cli.main(["compare", str(one), "--import", str(tmp_path / "mine.py")]) == 0
    assert "imported" in capsys.readouterr().out


def pages(run: Path) -> dict[str, bytes]:
    """Returns the figures and the report of a run."""
    return {str(path.relative_to(run)): path.read_bytes() for path in (*run.glob("figures/*.png"), run / "report.html")}


def test_a_redrawn_report_is_identical(small_run, capsys, tmp_path):
    run = shutil.copytree(small_run / "run", tmp_path / "run")
    shutil.rmtree(run / "figures")
    (run / "report.html").write_text("lost")
    assert cli.main(["report", str(run)]) == 0
    before, again = pages(small_run / "run"), pages(run)
    assert set(capsys.readouterr().out.split()) == {str(run / name) for name in before}
    assert [name for name in before.keys() | again.keys() if before.get(name) != again.get(name)] == []


def test_everything_is_listed(capsys):
    assert cli.main(["list"]) == 0
    said = capsys.readouterr().out
    assert all(f"  {name} " in said for name in (*configs.CONFIGS, *studies.STUDIES))
    assert cli.main([]) == 0 and "compare" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "module"),
    [(["train"], launch), (["reproduce"], reproduce), (["embed"], embed), ([], launch)],
    ids=["train", "reproduce", "embed", "train may be omitted"],
)
def test_commands_are_passed_on(words, module, monkeypatch):
    given = []
    monkeypatch.setattr(module, "main", lambda words: given.append(words) or 7)
    assert cli.main([*words, "--list", "x"]) == 7 and given == [["--list", "x"]]


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
        (["compare", "/nowhere"], 1, "/nowhere has no result.json"),
        (["report", "/nowhere"], 1, "/nowhere is not a run folder"),
        (["completion", "tcsh"], 2, "invalid choice"),
    ],
)
def test_errors_are_reported(words, status, message, capsys):
    assert cli.main(words) == status
    assert message in capsys.readouterr().err


def test_folders_of_the_same_name_are_distinguished():
    paths = [Path("a/run"), Path("b/run"), Path("c")]
    assert [cli._name(path, paths) for path in paths] == ["a/run", "b/run", "c"]
