"""Examples of the README and the site run: every block of Python, and every command is valid."""

import contextlib
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from benchmarks import page as speed
from sparsejax import configs, errors, experiment, studies
from sparsejax.commands import cli
from sparsejax.commands import rehearse as rehearsal
from sparsejax.commands import train as launch
from tests.command import ROOT, without_figures

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def commands(page: Path) -> list[list[str]]:
    """Returns the words of every command line, comments left out, also of those within a sentence."""
    text = page.read_text(encoding="utf-8")
    lines = [line for block in blocks(page, "sh") for line in block.replace("\\\n", "").splitlines()]
    lines += re.findall(r"`((?:python -m|sparsejax) [^`]+)`", text.replace("\n", " "))
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def files_of(page: Path) -> dict[str, str]:
    """Returns the files that a page names before a block, and `my_experiment.py`: its first block and its `config`."""
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"`(\w+\.py)`[^`]*:\n\n```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    line = re.search(r"`(config = [^`]+)`", text)
    return dict(named) | ({"my_experiment.py": f"{blocks(page, 'python')[0]}\n\n{line[1]}\n"} if line else {})


def write_files(page: Path) -> None:
    for name, text in files_of(page).items():
        Path(name).write_text(text, encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.stem)
def test_python_blocks_run(page, small_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_files(page)
    if page.stem == "equinox":
        pytest.importorskip("equinox")
    if page.stem == "resume":
        shutil.copytree(small_run / "run", tmp_path / "runs/digits_mlp")
    import jax

    space, modules = {}, {text: Path(name).stem for name, text in files_of(page).items()}
    # As in a user's program, without the settings of the tests.
    figures = contextlib.nullcontext() if page.stem == "model" else without_figures()
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"), figures:
        for block in blocks(page, "python"):
            space["__name__"] = modules.get(block, "__main__")
            exec(compile(block, str(page), "exec"), space)
    if page.stem == "model":
        assert "hidden" in Path("runs/net/report.html").read_text(encoding="utf-8")
        assert 0 <= space["report"]["linf"]["fgsm"] < space["report"]["clean"] and space["accuracy"] > 0.5


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_are_valid(page, tmp_path, monkeypatch, capsys):
    def begun(*_, **__):
        raise errors.RunFolderError("understood")

    monkeypatch.setattr(experiment, "run", begun)
    monkeypatch.setattr(rehearsal, "rehearse", begun)
    monkeypatch.chdir(tmp_path)
    write_files(page)
    for words in commands(page):
        arguments = [word for word in words if "=" not in word or word.startswith("-")]
        if "sparsejax.launch" in words:
            given = words[words.index("sparsejax.launch") + 1 :]
            if "NAME" in given or "--coordinator" in given or "--config" not in given:
                continue
            assert launch.main(given) in (0, 1), (words, capsys.readouterr().err)
        elif "sparsejax.reproduce" in words:
            name = arguments[-1] if arguments[-1] in studies.STUDIES else words[words.index("sparsejax.reproduce") + 1]
            assert name in (*studies.STUDIES, "NAME", "--list"), words
        elif words[0] == "sparsejax":
            assert words[1] in cli._ABOUT, words
    assert configs.CONFIGS


def test_the_performance_page_matches_the_results():
    page = speed.page()
    assert speed.PAGE.read_text(encoding="utf-8") == page, "python -m benchmarks.page"
    assert {path.name for path in speed.PICTURES.glob("*")} == set(re.findall(r"\(performance/(\w+\.png)\)", page))


def test_the_readmes_table_matches_the_results():
    def result(name):
        found = json.loads((ROOT / f"results/{name}.json").read_text(encoding="utf-8"))
        return found["ours"], f"({len(found['seeds'])} seeds)"

    def row(start, ours):
        assert any(line.startswith(f"| {start}") and f"| {ours} |" in line for line in lines), (start, ours)

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = text.splitlines()
    (sparse, seeds), (dense, few) = result("dense/sparse_cnn2"), result("dense/table1")
    network, twin = sparse["Sparse CNN-2"], dense["Dense CNN-2"]
    row("k-winners on MNIST", "{:.2f} ± {:.2f} % ".format(*network["test_accuracy_best"]) + seeds)
    row("the same network's noise score", "{:,.0f} ± {:,.0f} ".format(*network["noise_score_best"]) + seeds)
    row("its dense network's noise score", "{:,.0f} ± {:,.0f} ".format(*twin["noise_score_best"]) + few)
    last = (
        "{:.2f} ± {:.2f} %".format(*network["test_accuracy_last"]),
        "{:,.0f} ± {:,.0f}.".format(*network["noise_score_last"]),
    )
    assert all(number in text for number in last), last
    noisy, _ = result("noise/fig2")
    active = dict(zip(noisy["sigma"], noisy["active_fraction"], strict=True))
    row("active units of a noisy", ", ".join(f"{active[s]:.2f}" for s in (0, 0.3, 1.5)) + " (1,000 units, not 10,000)")
    penalised, seeds = result("thesis/fig3_2")
    inactive = penalised["inactive without a penalty, 256 units (%)"]
    row("inactive units of a ReLU layer", f"{inactive:.0f} % {seeds}")


def test_links_are_valid():
    generated = {"papers", "reference"}
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
            if not target.startswith("http") and not generated & set(Path(target).parts):
                assert (page.parent / target).exists(), (page, target)
