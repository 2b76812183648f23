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
_ABOUT = """\
# Speed

Medians in milliseconds, alternating between ours and the peer's in one run; the ratio is the peer's time over ours,
above 1 where we are faster. `python -m benchmarks --list` lists the groups; `python -m benchmarks.page` writes this
page from their results in `benchmarks/results/`.
"""


def page() -> str:
    """Returns the page, group by group."""
    lines = [_ABOUT]
    for path, result in _results():
        rows = result["rows"]
        lines += [f"## {path.stem.replace('_', ' ')}\n", f"{result['device']}; `{result['command']}`\n"]
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
    return "\n".join(lines)


def _both(details: dict[str, float], name: str) -> str:
    values = [details.get(f"{whose}_{name}") for whose in ("ours", "peer")]
    ratio = f" ({details[f'{name}_ratio']:.4g})" if f"{name}_ratio" in details else ""
    return "" if values[0] is None else ", ".join("-" if value is None else f"{value:.3g}" for value in values) + ratio


def pictures() -> dict[str, bytes]:
    """Draws cost against size for groups that vary a size: file name -> PNG."""
    return {f"{path.stem}.png": style.png(_drawn(curves)) for path, result in _results()
            if (curves := _curves(result["rows"]))}  # fmt: skip


def _results() -> list[tuple[Path, dict[str, Any]]]:
    paths = sorted((ROOT / "benchmarks" / "results").glob("*.json"))
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
