"""Generates pages from results/ and docstrings when the site is built."""

import importlib
import json
import re
from html import unescape
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from sparsejax.studies import STUDIES

_FORMULA = re.compile(r'<(?:span|div) class="arithmatex">\\([\[(])(.*?)\\[\])]</(?:span|div)>', re.DOTALL)
ROOT = Path(__file__).parent.parent
PAPERS = {
    "noise": "Noise Transforms Feed-Forward Networks into Sparse Coding Networks (Bricken et al., 2022)",
    "emergence": "Emergence of Sparse Representations from Noise (Bricken et al., 2023)",
    "thesis": "Sparse Coding in Deep Neural Networks and the Visual System",
    "dense": "How Can We Be So Dense? (Ahmad & Scheinkman, 2019)",
    "hah": "Neuro-Inspired Deep Neural Networks with Sparse, Strong Activations (Cekic et al., 2022)",
}
_BOARD_TITLE = "All methods compared"
REFERENCE = {
    "functional": (
        "Functions",
        ["sparsejax.functional", "sparsejax.functional.penalties", "sparsejax.functional.measures"],
    ),
    "coding": ("Linear codes", ["sparsejax.coding"]),
    "layers": ("Flax layers", ["sparsejax.linen", "sparsejax.nnx"]),
    "trained": ("Trained networks", ["sparsejax.models.inference", "sparsejax.training.restore", "sparsejax.interop"]),
    "measures": ("Measures", ["sparsejax.evaluation.measure"]),
    "robustness": ("Robustness", ["sparsejax.evaluation.robustness", "sparsejax.evaluation.attacks"]),
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds a page for each paper, with the figures of its results, and the pages of the reference."""
    for paper, title in PAPERS.items():
        results = sorted((ROOT / "results" / paper).glob("*.json"), key=_order)
        content = [f"# {title}\n", _ABOUT, *(_section(f"{paper}/{path.stem}", path, files, config) for path in results)]
        content.append(_not_run(paper, {path.stem for path in results}))
        files.append(File.generated(config, f"papers/{paper}.md", content="\n".join(content)))
    board = ROOT / "results" / "scoreboard.json"
    if board.exists():
        content = f"# {_BOARD_TITLE}\n{_section('scoreboard', board, files, config)}"
        files.append(File.generated(config, "papers/scoreboard.md", content=content))
    for page, (title, modules) in REFERENCE.items():
        files.append(File.generated(config, f"reference/{page}.md", content=_reference(title, modules)))
    return files


_ABOUT = (
    "Small scale takes minutes on two cores and should show the same effect (the rows say where it does not); "
    "paper scale is the published size. The numbers are those of the committed results.\n"
)


def _not_run(paper: str, run: set[str]) -> str:
    """Lists the studies of a paper that have no committed result."""
    missing = [name for name in STUDIES if name.startswith(f"{paper}/") and name.removeprefix(f"{paper}/") not in run]
    if not missing:
        return ""
    summaries = {name: STUDIES[name].replace("; --seeds N", "") for name in missing}
    rows = [f"| {_title(name)} | {said} | `python -m sparsejax.reproduce {name}` |" for name, said in summaries.items()]
    return "\n".join(["\n## Not run yet\n", "| | | |", "|---|---|---|", *rows, ""])


def _title(name: str) -> str:
    return name.split("/")[-1].replace("_", ".")


def _order(path: Path) -> tuple[str, int, str]:
    """Sorts fig2 before fig10, and 3_2 before 3_10."""
    letters = path.stem.rstrip("0123456789_abcd")
    digits = "".join(part.zfill(3) for part in path.stem[len(letters) :].strip("abcd").split("_"))
    return letters, int(digits or 0), path.stem


def _section(name: str, path: Path, files: Files, config: MkDocsConfig) -> str:
    result = json.loads(path.read_text(encoding="utf-8"))
    summary = STUDIES[name].replace("; --seeds N", "") if name in STUDIES else "many networks, one command"
    lines = [f"\n## {_title(name)}: {summary}\n"]
    picture = path.with_suffix(".png")
    if picture.exists():
        uri = f"papers/{name.replace('/', '_')}.png"
        files.append(File.generated(config, uri, abs_src_path=str(picture)))
        lines.append(f"![{summary}]({Path(uri).name})\n")
    theirs, ours = result.get("paper", {}), result.get("ours", {})
    if isinstance(ours, list):  # a grid: a row for each of its points
        head = list(ours[0])
        lines += [f"| {' | '.join(key.replace('_', ' ') for key in head)} |", f"|{'---|' * len(head)}"]
        lines += [f"| {' | '.join(_cell(row[key]) for key in head)} |" for row in ours]
        ours = {}
    if columns := ours.get("columns"):  # a separate table, with the paper's numbers in brackets
        lines += [f"| in brackets the paper's | {' | '.join(columns)} |", f"|{'---|' * (len(columns) + 1)}"]
        for key in theirs:
            pairs = [f"{_cell(a)} ({_cell(b)})" for a, b in zip(ours[key], theirs[key], strict=True)]
            lines.append(f"| {key} | {' | '.join(pairs)} |")
        ours = {key: value for key, value in ours.items() if key not in theirs and key != "columns"}
        theirs = {}
    rows = [(key, theirs[key], ours.get(key, "")) for key in theirs]
    if rows:
        lines += ["| | paper | ours |", "|---|---|---|"]
        lines += [f"| {_cell(key)} | {_cell(paper_)} | {_cell(our)} |" for key, paper_, our in rows]
    only = {key: value for key, value in ours.items() if key not in theirs and len(_cell(value)) < 160}
    if only:
        lines += ["", "| | ours |", "|---|---|", *(f"| {_cell(key)} | {_cell(value)} |" for key, value in only.items())]
    seeds = result.get("seeds")
    said = [f"scale {result['scale']}"] if result.get("scale") else []
    said += [f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''}"] if seeds else []
    said += [result.get("device", {}).get("kind", "")] if isinstance(result.get("device"), dict) else []
    # A call only trains missing networks, so a call without training has no meaningful time.
    said += [f"last call {seconds / 60:,.0f} minutes"] if (seconds := result.get("seconds", 0)) >= 60 else []
    lines.append(f"\n{', '.join(filter(None, said))}; `{result.get('command', '')}`\n")
    return "\n".join(lines)


def _cell(value: Any) -> str:
    """Formats a number, list or dictionary as a cell."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        return f"{value:,.0f}" if abs(value) >= 10_000 or isinstance(value, int) else f"{value:.4g}"
    if isinstance(value, list):
        return " ".join(map(_cell, value))
    if isinstance(value, dict):
        return "; ".join(f"{key.replace('_', ' ')} {_mean_and_spread(key, item)}" for key, item in value.items())
    return str(value).replace("|", "\\|").replace("\n", " ")


def _mean_and_spread(key: str, value: Any) -> str:
    pair = isinstance(value, list) and len(value) == 2 and key.startswith(("test_", "noise_score"))
    return f"{_cell(value[0])} ± {_cell(value[1])}" if pair else _cell(value)


def on_page_content(html: str, **_: Any) -> str:
    """Converts formulas to MathML, which browsers render without external scripts."""
    return _FORMULA.sub(
        lambda found: convert(unescape(found[2]), display="block" if found[1] == "[" else "inline"), html
    )


def _reference(title: str, modules: list[str]) -> str:
    """Lists the exports of modules, with their docstrings."""
    lines = [f"# {title}\n"]
    for module in modules:
        loaded = importlib.import_module(module)
        lines.append(f"## `{module}`\n\n{(loaded.__doc__ or '').strip().splitlines()[0]}\n")
        names = getattr(loaded, "__all__", None) or [
            name for name, item in vars(loaded).items()
            if not name.startswith("_") and getattr(item, "__module__", None) == module and callable(item)
        ]  # fmt: skip
        for name in names:
            item = getattr(loaded, name)
            if callable(item) and getattr(item, "__doc__", None):
                lines.append(f"::: {item.__module__}.{getattr(item, '__name__', name)}\n")
    return "\n".join(lines)
