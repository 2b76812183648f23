"""Files of a run of other forms: one sentence from everything that reads them."""

import json
import shutil

import pytest

from sparsejax.api import compare, load
from sparsejax.commands import cli, embed
from sparsejax.errors import RunFolderError
from sparsejax.training.log import read_metrics
from sparsejax.training.records import NUMBER, check_form, parse_json, parse_line
from sparsejax.training.run_folder import RunFolder

DEEP = "[" * 100_000 + "]" * 100_000
ODD = ["", "[]", "{}", "null", "0", '"text"', "[" * 100_000, DEEP, '{"seeds": NaN}', "1" * 5000, "\udcff", "{'a': 1}"]


@pytest.fixture
def run(small_run, tmp_path):
    """Returns a copy of a small run, without its checkpoints."""
    shutil.copytree(small_run / "run", tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints", "figures"))
    return tmp_path / "run"


def of(run, name):
    """Returns a file of a run and its content."""
    return run / name, json.loads((run / name).read_text())


def refused(capsys, main, *words):
    status = main([str(word) for word in words])
    said = capsys.readouterr().err
    assert status == 1 and said.startswith("error: ") and said.count("\n") == 1, said
    return said


@pytest.mark.parametrize("text", ODD)
@pytest.mark.parametrize("name", ["config.json", "result.json"])
def test_other_json_is_refused_by_all_that_read_it(run, capsys, name, text):
    (run / name).write_text(text, errors="surrogateescape")
    for words in (["report", run], ["compare", run, run]) if name == "result.json" else (["report", run],):
        assert name in refused(capsys, cli.main, *words)
    if name == "config.json":
        assert name in refused(capsys, embed.main, "--run", run)
        with pytest.raises(RunFolderError, match="cannot be read"):
            load(run)
        with pytest.raises(RunFolderError, match="cannot be read"):
            RunFolder(run).claim({"config": {}})
    else:
        assert "cannot be read" in repr(load(run))
        with pytest.raises(RunFolderError, match="cannot be read"):
            compare(run)


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("config.json", {"seeds": []}, "it has 0 networks"),
        ("config.json", {"seeds": [1] * 20_000, "points": [{}] * 20_000}, "it has 20,000 networks"),
        ("config.json", {"seeds": ["1"]}, "seeds[0] is '1'; expected an integer"),
        ("config.json", {"points": [[]]}, "points[0] is []; expected an object"),
        ("config.json", {"config": {"model": []}}, "config['model'] is []; expected an object"),
        ("config.json", {"config": {}}, "KeyError: 'model'"),
        ("config.json", {"data": None}, "data is None; expected an object"),
        ("config.json", {"schema": "2"}, "schema is '2'; expected an integer"),
        ("config.json", {"data": {"name": "x", "source": "x", "fingerprint": "x", "shape": [2**40]}}, "has no dtype"),
        ("result.json", {"members": []}, "it has 0 networks"),
        ("result.json", {"members": [3]}, "members[0] is 3; expected an object"),
        ("result.json", {"members": [{"seed": True, "test_loss": 1}]}, "['seed'] is True; expected an integer"),
        ("result.json", {"layers": [1]}, "layers is [1]; expected an object"),
        ("result.json", {"layers": {"a": 0}}, "layers['a'] is 0; expected an object"),
        ("result.json", {"test_loss": "low"}, "test_loss is 'low'; expected an integer or a number or null"),
        ("result.json", {"training_seconds": 10**30}, "of more than 64 bits"),
        ("result.json", {"best": {}}, "KeyError: 'test_accuracy'"),
    ],
)
def test_another_form_is_named(run, capsys, name, change, said):
    path, content = of(run, name)
    path.write_text(json.dumps(content | change))
    words = ["report", run] if name == "config.json" else ["compare", run]
    assert said in refused(capsys, cli.main, *words)


def test_lines_of_metrics_of_another_form_are_left_out(run):
    path = run / "metrics.jsonl"
    good = path.read_text()
    line = {"step": 1, "epoch": 0.5, "loss": [0.5]}
    for other in ({"loss": [1, 2]}, {"epoch": 1e12}, {"epoch": None}, {"step": -1}, {"loss": ["1"]}, {"a": [1, 2]},
                  {"loss": {}}, {"time": [1, 2, 3]}, {"loss": [10**400]}):  # fmt: skip
        path.write_text(json.dumps(line) + "\n" + json.dumps(line | other) + "\n")
        assert {len(found["loss"]) for found in read_metrics(path, 1)} == {1}, other
        assert load(run).history["loss"].shape == (1, 1)
    for other in ODD:
        path.write_text(f"{json.dumps(line)}\n{other}\n", errors="surrogateescape")
        assert read_metrics(path, 1) == [line]
    path.write_text(json.dumps(line | {"loss": [1, 2]}) + "\n" + good)
    assert [found["loss"] for found in read_metrics(path) if "loss" in found] == [
        found["loss"] for found in map(json.loads, good.splitlines()) if "loss" in found]  # fmt: skip
    path.unlink()
    path.mkdir()
    with pytest.raises(RunFolderError, match=r"metrics.jsonl cannot be read: Is a directory"):
        read_metrics(path)


def test_forms():
    form = {"a": int, "b?": [NUMBER], "c?": {str: (str, None)}}
    check_form({"a": 1, "b": [1, 2.5], "c": {"x": None, "y": "z"}, "other": []}, form)
    for value in ([], {}, {"a": True}, {"a": 1.0}, {"a": 1, "b": [None]}, {"a": 1, "b": 1}, {"a": 1, "c": {"x": 1}}):
        with pytest.raises(ValueError, match=r"it|expected"):
            check_form(value, form)
    for text in ("NaN", "-Infinity", "1e999", str(2**63), "[" * 40 + "]" * 40, DEEP):
        with pytest.raises(ValueError, match="it "):
            parse_json(text, object)
    assert parse_json(str(-(2**63)), int) == -(2**63)
    assert parse_line('{"step": 1, "epoch": 1, "a": [null, 2]}')["a"] == [None, 2]
