"""A sparsifier, a measure, a data set and an attack: each is a single file, of the user or in the package."""

import json
import re
import shutil
import subprocess
import sys

import pytest

from tests.command import ROOT, environment
from tests.test_docs import files_of

PAGES = {"sparsifier": "configs", "measure": "evaluation/measures", "data": "data", "attack": "evaluation/attacks"}
ATTACKED = """
import jax
import jax.numpy as jnp
import sparsejax as sj
MORE
run = sj.load("run")
network, digits = run.network(), sj.data.load("rows").test
images, labels = jnp.asarray(digits.images[:20] / 255, jnp.float32), jnp.asarray(digits.labels[:20])
mean, std = (jnp.asarray(moment, jnp.float32) for moment in (network.mean, network.std))
answer = lambda x: network.model.apply(network.variables, (x - mean) / std).prediction
report = sj.evaluation.robustness_report(
    answer, images, labels, key=jax.random.key(2), balls={"linf": 32 / 255}, attacks=("random_search",))
assert 0 <= report["linf"]["random_search"] <= report["clean"], report
print(type(network.model).__module__)
"""
OPTIONS = ["--data.name", "rows", "--training.epochs", "2", "--evaluation.measures", "accuracy", "activity", "margin"]


def written():
    """Returns the one file that each page has, with the folder of the package that it would stand in."""
    for page, folder in PAGES.items():
        ((name, text),) = files_of(ROOT / f"docs/howto/{page}.md").items()
        yield name, folder, text


def run(folder, *words, **variables):
    process = subprocess.run(
        [sys.executable, *map(str, words)], cwd=folder, env=environment(**variables), capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


def check_run(folder, said):
    """The measure is in the result, among the closing lines, on the page and in its figures; the data are ours."""
    result, page = json.loads((folder / "result.json").read_text()), (folder / "report.html").read_text()
    assert 0 < result["margin"] < 50 and result["dataset"] == "rows"
    assert result["layers"]["hidden"]["active_fraction"] == 0.25
    assert "margin of the logits" in said and "margin of the logits" in page
    assert (folder / "figures/margin.png").stat().st_size > 5000


@pytest.mark.slow
def test_all_four_work_from_a_folder_of_the_users(tmp_path):
    imports = []
    for name, _, text in written():
        (tmp_path / name).write_text(text)
        imports += ["--import", name]
    said = run(tmp_path, "-m", "sparsejax.launch", "--config", "local_winners.py", *imports, *OPTIONS, "--out", "run")
    check_run(tmp_path / "run", said)
    (tmp_path / "run/figures/margin.png").unlink()
    assert "margin.png" in run(tmp_path, "-m", "sparsejax.commands.cli", "report", "run", *imports)
    run(tmp_path, "-c", ATTACKED.replace("MORE", "import local_winners, rows, random_search"))


@pytest.mark.slow
def test_all_four_work_as_one_new_file_each_in_the_package(tmp_path):
    shutil.copytree(ROOT / "sparsejax", tmp_path / "sparsejax", ignore=shutil.ignore_patterns("__pycache__"))
    for name, folder, text in written():
        new = tmp_path / "sparsejax" / folder / name
        assert not new.exists()
        new.write_text(text)
    path = {"PYTHONPATH": str(tmp_path)}
    listed = run(tmp_path, "-m", "sparsejax.launch", "--list", **path)
    assert re.search(r"^digits_local_winners +Local winner-take-all on", listed, re.MULTILINE)
    assert "rows" in run(tmp_path, "-m", "sparsejax.data", "list", **path)
    said = run(tmp_path, "-m", "sparsejax.launch", "--config", "digits_local_winners", *OPTIONS, "--out", "run", **path)
    check_run(tmp_path / "run", said)
    (tmp_path / "run/figures/margin.png").unlink()
    assert "margin.png" in run(tmp_path, "-m", "sparsejax.commands.cli", "report", "run", **path)
    module = run(tmp_path, "-c", ATTACKED.replace("MORE", ""), **path)
    assert module.strip() == "sparsejax.configs.local_winners"
