"""Writes docs/performance.md and its figures from benchmarks/results/: `python -m benchmarks.page`."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from sparsejax.figures import style

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "performance.md"
PICTURES = ROOT / "docs" / "performance"
_RATES = {"gflop_per_s": "GFLOP/s", "gbyte_per_s": "GB/s"}
"""Rates of ours, by XLA's cost analysis, which counts one iteration of a loop."""
_FOUND = {"robust": "part that stands, ours and theirs", "median": "median distance, ours and theirs (ratio by image)"}
_ORDER = (
    *(
        "kwinners",
        "kwinners_step",
        "ensemble",
        "sae_step",
        "sae_decode",
        "inference",
        "convolution",
        "codes",
        "dictionaries",
        "attacks",
    ),
    *("selection", "explain_away", "autoencoder", "data", "scaling"),
)
"""Groups in the order of the page: first what users choose the library for."""
_NAMES = {
    "kwinners": "k-winners against alternatives", "kwinners_step": "The training step of Sparse CNN-2",
    "ensemble": "A grid of networks", "sae_decode": "Decoding by the winners' rows",
    "sae_step": "Training steps of sparse autoencoders",
    "inference": "Inference by the winners' rows", "convolution": "Convolution on a CPU", "codes": "Sparse codes",
    "dictionaries": "Learning dictionaries, and convolutional codes",
    "attacks": "Adversarial attacks", "selection": "Selection of winners", "explain_away": "The explain-away loop",
    "autoencoder": "A noisy autoencoder", "data": "Batches of data", "scaling": "Several devices on the same cores",
    "accelerator": "On an accelerator",
}  # fmt: skip
_BEHIND = 0.95
_CAUSES: dict[str, tuple[tuple[str, str], ...]] = {
    "kwinners": (("lax.top_k", "one row waits for each of some fifteen passes to start"),
                 ("ReLU", "the search itself, beside a step that has none")),
    "kwinners_step": (("dense", "the selection of winners, and the mask"),
                      ("without k-winners", "the selection of winners"),
                      ("PyTorch", "the first convolution: patches of one channel, and their gradient")),
    "sae_decode": (("PyTorch", "its loop over the winners' rows is written by hand; XLA gathers row after row"),
                   ("dense product", "beyond the density up to which rows are taken")),
    "inference": (("dense product", "near or beyond the density up to which rows are taken"),
                  ("PyTorch", "XLA's convolutions of few images"),
                  ("apply", "the same convolutions: freezing only saves the masks"),
                  ("dense network", "the selection of winners")),
    "convolution": (("as in 0.1", "the same form, or noise"),
                    ("PyTorch", "few channels, or few images: patches and transforms are written out and read again")),
    "codes": (("SPAMS lasso", "LARS takes as many steps as a code has entries; ours repeat products of many patches"),
              ("SPAMS omp", "its loop is written by hand for one signal at a time")),
    "attacks": (("", "the network's convolutions, forward and backward"),),
    "selection": (("", "equal values: no pass ends the search early, and the last winner is searched once more"),),
    "autoencoder": (("PyTorch", "both wait for the same product and for Adam's memory"),),
    "scaling": (("1 device", "the devices share the machine's cores, and the batch grows with them"),),
}  # fmt: skip
"""Group -> parts of a row's case or peer, and why such rows are behind."""
_ABOUT = """\
# Speed

Medians in milliseconds, alternating between ours and the peer's in one run; the ratio is the peer's time over ours,
above 1 where we are faster. `python -m benchmarks --list` lists the groups; `python -m benchmarks.page` writes this
page from their results in `benchmarks/results/`. The last section lists the rows in which a peer is faster, and why.
"""


def page() -> str:
    """Returns the page, group by group."""
    lines = [_ABOUT]
    for path, result in _results():
        rows = result["rows"]
        lines += [f"## {_NAMES[_group(path)]}\n", f"{result['device']}; `{result['command']}`\n"]
        if _curves(rows):
            lines.append(f"![{path.stem.replace('_', ' ')} on logarithmic axes](performance/{path.stem}.png)\n")
        if most := result.get("ceilings"):
            lines.append(f"At most {most['gflop_per_s']:,.0f} GFLOP/s (a large matrix product) and "
                         f"{most['gbyte_per_s']:,.0f} GB/s (a large copy) in the same run.\n")  # fmt: skip
        rates = [name for name in _RATES if any(name in row.get("details", {}) for row in rows)]
        found = [name for name in _FOUND if any(f"ours_{name}" in row.get("details", {}) for row in rows)]
        head = ["case", "ours (ms)", "peer", "peer (ms)", "ratio", "goal", *(_RATES[name] for name in rates),
                *(_FOUND[name] for name in found)]  # fmt: skip
        lines += [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
        for row in rows:
            cells = [row["case"], row["ours_ms"], row["peer"], row["peer_ms"], row["ratio"], row.get("target"),
                     *(row.get("details", {}).get(name) for name in rates),
                     *(_both(row.get("details", {}), name) for name in found)]  # fmt: skip
            lines.append(f"| {' | '.join(map(_cell, cells))} |")
        lines += ["", *(f"- {_cell(remark)}" for remark in result["remarks"]), ""]
    return "\n".join([*lines, *_behind()])


def _behind() -> list[str]:
    """Returns the section of the rows in which a peer is faster by more than a twentieth."""
    rows = [(path, row) for path, result in _results() for row in result["rows"] if row["ratio"] is not None]
    slower = [(path, row) for path, row in rows if row["ratio"] < _BEHIND]
    lines = ["## Where a peer is faster\n",
             f"By more than a twentieth, in {len(slower)} of {len(rows)} rows.\n",
             "| group | case | peer | ratio | cause |", "|---|---|---|---|---|"]  # fmt: skip
    for path, row in slower:
        cells = [_NAMES[_group(path)], row["case"], row["peer"], row["ratio"], _cause(_group(path), row)]
        lines.append(f"| {' | '.join(map(_cell, cells))} |")
    return [*lines, ""]


def _cause(group: str, row: dict[str, Any]) -> str:
    """Returns why a row is behind: the first cause whose part is in its peer or case."""
    causes = _CAUSES.get(group, ())
    return next((cause for part, cause in causes if part in row["peer"] or part in row["case"]), "not known")


def _group(path: Path) -> str:
    """Returns the group of a result file, `DEVICE_GROUP.json`."""
    return path.stem.split("_", 1)[1]


def _both(details: dict[str, float], name: str) -> str:
    values = [details.get(f"{whose}_{name}") for whose in ("ours", "peer")]
    ratio = f" ({details[f'{name}_ratio']:.4g})" if f"{name}_ratio" in details else ""
    return "" if values[0] is None else ", ".join("-" if value is None else f"{value:.3g}" for value in values) + ratio


def pictures() -> dict[str, bytes]:
    """Draws cost against size for groups that vary a size: file name -> PNG."""
    return {f"{path.stem}.png": style.png(_drawn(curves)) for path, result in _results()
            if (curves := _curves(result["rows"]))}  # fmt: skip


def _results() -> list[tuple[Path, dict[str, Any]]]:
    paths = list((ROOT / "benchmarks" / "results").glob("*.json"))
    paths.sort(key=lambda path: (_ORDER.index(_group(path)) if _group(path) in _ORDER else -1, path.stem))
    return [(path, json.loads(path.read_text(encoding="utf-8"))) for path in paths]


def _curves(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Collects rows that vary one size: the size -> whose -> (size, milliseconds). Their `along` names the size."""
    found: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for row in rows:
        for name in (key.removeprefix("along ") for key in row.get("details", {}) if key.startswith("along ")):
            size, panel = row["details"][f"along {name}"], found.setdefault(name, {})
            for whose, value in (("ours", row["ours_ms"]), (row["peer"], row["peer_ms"])):
                if value is not None and (size, value) not in panel.setdefault(whose, []):
                    panel[whose].append((size, value))
    return found


@style.styled
def _drawn(panels: dict[str, dict[str, list[tuple[float, float]]]]) -> Figure:
    figure, axes = style.panels(len(panels), width="page", height=2.4, columns=len(panels))
    for axis, (name, lines) in zip(axes, panels.items(), strict=True):
        for (whose, points), colour, marker in zip(lines.items(), style.PALETTE, style.MARKERS, strict=False):
            xs, ys = zip(*sorted(points), strict=True)
            axis.plot(
                xs, ys, color=colour, marker=marker, markersize=3, label=whose, zorder=3 if whose == "ours" else 2
            )
        axis.set(xscale="log", yscale="log", xlabel=name)
        axis.yaxis.set_minor_formatter(NullFormatter())
    axes[0].set_ylabel("milliseconds")
    axes[-1].legend(loc="best", frameon=False)
    return figure


def _cell(value: str | float | None) -> str:
    if value is None or isinstance(value, str):
        return re.sub(r"([\[\]|])", r"\\\1", value or "")  # brackets would be links
    return f"{value:,.0f}" if abs(value) >= 10_000 else re.sub(r"\.0$", "", f"{value:.4g}")


def main() -> None:
    """Writes the page and its pictures."""
    PAGE.write_text(page(), encoding="utf-8")
    drawn = pictures()
    if drawn:
        PICTURES.mkdir(exist_ok=True)
    for name, png in drawn.items():
        (PICTURES / name).write_bytes(png)


if __name__ == "__main__":
    main()
