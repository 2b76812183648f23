"""Results of a benchmark: rows that are printed as a table and stored as JSON."""

import dataclasses
import datetime
import json
import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import jaxlib

from benchmarks.timing import Timing

COLUMNS = ("case", "ours_ms", "peer", "peer_ms", "ratio", "target")


@dataclasses.dataclass(frozen=True)
class Row:
    """One comparison: medians in milliseconds, and peer / ours, above 1 if we are faster."""

    group: str
    case: str
    ours_ms: float
    peer: str
    peer_ms: float | None
    ratio: float | None
    device: str
    ours_least_ms: float
    peer_least_ms: float | None
    target: float | None = None
    details: dict[str, float] = dataclasses.field(default_factory=dict)
    """Further results by name: errors, rates."""


@dataclasses.dataclass(frozen=True)
class Report:
    """The rows of one group and the remarks that go with them."""

    rows: tuple[Row, ...]
    remarks: tuple[str, ...] = ()


def row(
    group: str,
    case: str,
    ours: Timing,
    peer: str,
    peers: Timing | None,
    target: float | None = None,
    details: dict[str, float] | None = None,
) -> Row:
    """Makes a row; without a peer's timing its columns stay empty. `target` is the smallest acceptable ratio."""
    return Row(
        group=group,
        case=case,
        ours_ms=_rounded(ours.median),
        peer=peer,
        peer_ms=_rounded(peers.median) if peers else None,
        ratio=round(peers.median / ours.median, 3) if peers else None,
        device=device(),
        ours_least_ms=_rounded(ours.least),
        peer_least_ms=_rounded(peers.least) if peers else None,
        target=target and round(target, 3),
        details=ours.rates() | (details or {}),
    )


def table(rows: Sequence[Row]) -> str:
    """Formats rows as plain text, one group after the other."""
    lines = []
    for group in dict.fromkeys(row.group for row in rows):
        cells = [[_cell(getattr(row, column)) for column in COLUMNS] for row in rows if row.group == group]
        widths = [max(map(len, column)) for column in zip(COLUMNS, *cells, strict=True)]
        lines.append(f"{group} ({rows[0].device})")
        for line in (COLUMNS, *cells):
            words = (
                word.ljust(width) if column in ("case", "peer") else word.rjust(width)
                for column, word, width in zip(COLUMNS, line, widths, strict=True)
            )
            lines.append("  " + "  ".join(words).rstrip())
    return "\n".join(lines)


def busy_cores(seconds: float = 2.0) -> float:
    """Returns how many cores other programs keep busy: measured over `seconds`, or the load average without /proc.

    The load average covers a minute, so that it would count the benchmark of the group before.
    """
    stat = Path("/proc/stat")
    if not stat.exists():
        return os.getloadavg()[0]
    before = _idle_ticks(stat)
    time.sleep(seconds)
    idle = (_idle_ticks(stat) - before) / os.sysconf("SC_CLK_TCK") / seconds
    return max(0.0, (os.cpu_count() or 1) - idle)


def _idle_ticks(stat: Path) -> int:
    """Returns the ticks that all cores have been idle, or waiting for a disk, since the start."""
    idle, wait = stat.read_text(encoding="ascii").split("\n", 1)[0].split()[4:6]
    return int(idle) + int(wait)


def load_remark(busy: float) -> tuple[str, ...]:
    """Returns a warning if other programs kept more than a tenth of the cores busy at the start."""
    cores = os.cpu_count() or 1
    if busy <= cores / 10:
        return ()
    return (
        f"NOTE: the machine was busy ({busy:.1f} of {cores} cores at the start). Do not quote these "
        "figures: PyTorch's threads wait for one another, so it suffers most.",
    )


def write_json(
    path: Path, report: Report, command: str, versions: dict[str, str], busy: float, ceilings: dict[str, float]
) -> None:
    """Stores a report with everything needed to reproduce it.

    Args:
      path: output file.
      report: its rows and remarks.
      command: that made it.
      versions: of the libraries.
      busy: cores that other programs used before the measurement.
      ceilings: peak rates of the device.
    """
    description = {
        "command": command,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": device(),
        "cores": os.cpu_count(),
        "busy_cores_before": round(busy, 2),
        "versions": versions,
        "ceilings": ceilings,
        "remarks": list(report.remarks),
        "rows": [dataclasses.asdict(row) for row in report.rows],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")


def versions() -> dict[str, str]:
    """Returns the versions that results depend on."""
    return {"python": platform.python_version(), "jax": jax.__version__, "jaxlib": jaxlib.__version__}


def device() -> str:
    """Returns the device of the results; a CPU with its model and cores."""
    kind = jax.devices()[0].device_kind
    if jax.default_backend() != "cpu":
        return kind
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        kind = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{kind}, {os.cpu_count()} cores"


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
