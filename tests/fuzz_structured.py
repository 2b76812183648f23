"""Reads hostile files and runs hostile commands, made by their grammar: user errors only, 1 GB and 10 s at most.

`python -m tests.fuzz_structured --cases 20000` is the campaign of docs/reliability.md; the suite has a short one. Each
case depends on the seed, its kind and its number alone. The cases run in processes that a parent watches and replaces,
because a crash or an endless loop in compiled code can be seen from outside only.
"""

import argparse
import collections
import contextlib
import json
import os
import queue
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from random import Random
from typing import NamedTuple

from sparsejax import errors
from tests.grammar import Source
from tests.hostile import KINDS

BYTES = 2**30
_SPACE = 6 * 2**30  # of addresses, beyond those at the start


class Outcome(NamedTuple):
    """How a case ended: "read", "refused", or what is wrong; its seconds, and by how many bytes the memory grew."""

    said: str
    seconds: float
    grown: int


def try_case(kind: str, number: int, seed: int, run: Path) -> Outcome:
    """Runs a case in a folder of its own."""
    rng = Source(f"{seed} {kind} {number}")
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder, contextlib.chdir(folder):
        before, began, problem = _memory(reset=True), time.perf_counter(), ""
        try:
            KINDS[kind].work(rng, Path(folder), run)
            said = "read"
        except errors.SparsejaxError as error:
            said = "refused"
            if not 20 < len(str(error)) < 3000 or "\n" in str(error):
                problem = f"its message is no sentence: {str(error)[:300]!r}"
        except BaseException as error:
            said, problem = "", f"{type(error).__name__}: {str(error)[:500]}"
        seconds, grown = time.perf_counter() - began, _memory() - before
    if not problem and (seconds > KINDS[kind].seconds or grown > BYTES):
        problem = f"it took {seconds:.1f} s and {grown / 2**20:.0f} MB"
    return Outcome(problem or said, seconds, grown)


def _memory(*, reset: bool = False) -> int:
    """Returns the memory of this process in bytes; without `reset` its highest since the last reset."""
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        name = "VmRSS:" if reset else "VmHWM:"
        status = Path("/proc/self/status").read_text()
        return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith(name)))
    except OSError:  # not on Linux
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def cases(total: int) -> list[tuple[str, int]]:
    """Returns kind and number of every case, in an order in which kinds alternate."""
    share = sum(kind.share for kind in KINDS.values())
    every = [(name, i) for name, kind in KINDS.items() for i in range(max(1, round(total * kind.share / share)))]
    Random(0).shuffle(every)
    return every


def _serve(seed: int, run: Path) -> None:
    """Runs the cases that the standard input names, one per line."""
    import jax

    jax.devices()
    with open("/proc/self/statm") as file:
        held = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (held + _SPACE,) * 2)
    output = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    for line in sys.stdin:
        kind, number = json.loads(line)
        print(json.dumps(try_case(kind, number, seed, run)), file=output)


class Worker:
    """A process that runs cases; `ask` returns the outcome of one, also if the process dies or hangs."""

    def __init__(self, seed: int, run: Path):
        words = [sys.executable, "-m", "tests.fuzz_structured", "--serve", "--seed", str(seed), "--run", str(run)]
        self._process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def ask(self, kind: str, number: int) -> Outcome | None:
        """Runs a case; None if the process is gone afterwards."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps([kind, number]) + "\n")
        self._process.stdin.flush()
        try:
            line = self._lines.get(timeout=90)
        except queue.Empty:
            line = ""
        return Outcome(*json.loads(line)) if line else None

    def stop(self) -> int | None:
        """Ends the process; returns its status if it has ended by itself."""
        status = self._process.poll()
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        return status


def main() -> int:
    """Runs the campaign; returns 1 if a case failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="*", default=list(KINDS))
    parser.add_argument("--run", type=Path, help="a run folder; by default a small run is trained first")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = options.run or Path(folder) / "run"
        if options.serve:
            _serve(options.seed, run)
            return 0
        if options.run is None:
            from tests.command import SMALL

            subprocess.run(
                [sys.executable, "-m", "sparsejax.launch", *SMALL, "--out", run], check=True, capture_output=True
            )
        return campaign([case for case in cases(options.cases) if case[0] in options.kinds], options.seed, run)


def campaign(every: list[tuple[str, int]], seed: int, run: Path) -> int:
    """Runs cases and prints their outcome by kind; returns 1 if one failed."""
    counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    slowest = largest = (0.0, "")
    worker, done, began = Worker(seed, run), 0, time.perf_counter()
    for kind, number in every:
        outcome, done = worker.ask(kind, number), done + 1
        if outcome is None:
            status = worker.stop()
            outcome = Outcome(
                f"the process ended with status {status}" if status is not None else "it never ended", 0, 0
            )
            worker = Worker(seed, run)
        elif done % 500 == 0:
            worker.stop()
            worker = Worker(seed, run)
        failed = outcome.said not in ("read", "refused")
        counts[kind]["failed" if failed else outcome.said] += 1
        slowest, largest = (
            max(slowest, (outcome.seconds, f"{kind} {number}")),
            max(largest, (outcome.grown, f"{kind} {number}")),
        )
        if failed:
            print(f"{kind} {number}: {outcome.said}", flush=True)
        if done % 1000 == 0:
            print(f"{done} cases, {time.perf_counter() - began:.0f} s", flush=True)
    worker.stop()
    for kind, count in counts.items():
        print(
            f"{kind}: {count.total()} cases, {count['refused']} refused, {count['read']} read, {count['failed']} failed"
        )
    failures = sum(count["failed"] for count in counts.values())
    print(f"{done} cases in {time.perf_counter() - began:.0f} s, {failures} failed; slowest {slowest[0]:.1f} s "
          f"({slowest[1]}), most memory {largest[0] / 2**20:.0f} MB ({largest[1]})")  # fmt: skip
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
