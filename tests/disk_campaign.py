"""Fills the disk of a run: every size must give one sentence within seconds, and with space the run must end equal.

`python -m tests.disk_campaign` is the campaign of docs/reliability.md; it mounts small file systems, as root on Linux.
"""

import argparse
import collections
import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tests.command import here, share_programs, started, without_figures
from tests.kill_campaign import assert_same_run
from tests.operation_campaign import RUN

PROMPT_S = 10


@contextlib.contextmanager
def disk(folder: Path, options: str) -> Iterator[Path]:
    """Mounts a small file system."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def fill(folder: Path, whole: Path, small: str, large: str) -> tuple[str, float]:
    """Runs on a small file system, and again when it is large; returns what happened, and the time until the exit.

    The time is that after the sentence, or 0 if the run ended.
    """
    with disk(folder, small) as where:
        process, lines, first = started(*RUN, "--out", where / "run"), [], None
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if line.startswith("error: "):
                first = time.perf_counter()
        status, took = process.wait(), 0.0 if first is None else time.perf_counter() - first
        said = "".join(lines)
        assert "Traceback" not in said and status in (0, 1) and said.count("error: ") == status, (status, said)
        assert took < PROMPT_S, (took, said)
        subprocess.run(["mount", "-o", f"remount,{large}", "tmpfs", where], check=True)
        with without_figures():
            done = here(*RUN, "--out", where / "run")
        assert done.returncode == 0, done.stderr
        assert_same_run(where / "run", whole)
    if not status:
        return "warned, and ended" if "warning: " in said else "large enough", took
    (error,) = [line for line in lines if line.startswith("error: ")]
    return error.removeprefix("error: ").split(" cannot be ")[0].rpartition("/")[2].strip(), took


def main() -> int:
    """Runs the campaign; prints what happened and returns 0 if every run ended as promised."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", type=int, default=40)
    parser.add_argument("--inodes", type=int, default=20)
    options = parser.parse_args()
    outcomes: collections.Counter[str] = collections.Counter()
    slowest, failed, began = 0.0, 0, time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, share_programs():
        whole = Path(folder) / "whole"
        assert here(*RUN, "--out", whole).returncode == 0
        files = [path for path in whole.rglob("*") if path.is_file()]
        most = sum(-(-path.stat().st_size // 4096) for path in files) * 4 + 64  # kilobytes, in pages
        sizes = sorted({int(size) for size in np.geomspace(4, most, options.sizes)})
        trials = [(f"size={size}k", f"size={2 * most}k") for size in sizes]
        trials += [(f"nr_inodes={n}", "nr_inodes=1000") for n in range(2, 2 + options.inodes)]
        for i, (small, large) in enumerate(trials):
            try:
                what, took = fill(Path(folder) / f"disk{i}", whole, small, large)
            except AssertionError as error:
                failed += 1
                print(f"FAILED: {small}: {error}", flush=True)
                continue
            outcomes[what] += 1
            slowest = max(slowest, took)
            print(f"{small}: {what}, {took:.1f} s", flush=True)
    print(*(f"  {what}: {n}" for what, n in outcomes.items()), sep="\n")
    print(f"{len(trials)} file systems, {failed} failed, at most {slowest:.1f} s from the sentence to the exit; "
          f"{time.perf_counter() - began:.0f} s")  # fmt: skip
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
