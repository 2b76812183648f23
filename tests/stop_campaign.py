"""Stops and resumes one run again and again; then it must be the run that was never stopped.

`python -m tests.stop_campaign --stops 200` is the campaign of docs/reliability.md; the suite has a short one.
"""

import argparse
import collections
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

from sparsejax.training.checkpoints import find_steps
from sparsejax.training.log import MetricsLog
from tests.command import here, launch, share_programs, started, without_figures
from tests.kill_campaign import assert_same_run
from tests.operation_campaign import RUN

STATUS = {signal.SIGTERM: 0, signal.SIGINT: 130, signal.SIGHUP: 129}


def stop(folder: Path, words: list[str], number: signal.Signals, lines: int) -> None:
    """Starts or resumes a run, and sends it a signal after some lines of metrics."""
    before, written = MetricsLog.write, 0

    def write(self: MetricsLog, *arguments: Any) -> None:
        nonlocal written
        before(self, *arguments)
        written += 1
        if written == lines:
            os.kill(os.getpid(), number)

    with mock.patch.object(MetricsLog, "write", write), without_figures():
        ended = here(*words, "--out", folder)
    assert ended.returncode == STATUS[number], ended.stderr
    assert (
        f"Received {number.name} and saved a checkpoint after step" in ended.stderr and "Traceback" not in ended.stderr
    )
    assert not (folder / "result.json").exists()
    assert 1 <= len(list((folder / "checkpoints").iterdir())) <= 3, [*(folder / "checkpoints").iterdir()]


def stop_until_done(where: Path, stops: int, rng: random.Random) -> collections.Counter[str]:
    """Stops a run so often, at most one epoch after each start, and compares it with one never stopped.

    Returns:
      How often it was stopped by each signal.
    """
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # `nohup` ignores it, and a shell Ctrl-C in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)
    words = [*RUN, "--training.epochs", str(stops)]
    told: collections.Counter[str] = collections.Counter()
    with without_figures():
        assert here(*words, "--out", where / "whole").returncode == 0
    for _ in range(stops):
        number = rng.choice([*STATUS])
        stop(where / "run", words, number, rng.randint(1, 3))
        told[number.name] += 1
    with without_figures():
        final = here(*words, "--out", where / "run")
    assert final.returncode == 0, final.stderr
    assert_same_run(where / "run", where / "whole")
    assert len(find_steps(where / "run" / "checkpoints")) <= 3
    return told


def end_processes(where: Path, processes: int, rng: random.Random) -> collections.Counter[str]:
    """Sends signals to processes at random moments of their lives; then the run must be one never stopped.

    Returns:
      How often a process ended in which way.
    """
    told: collections.Counter[str] = collections.Counter()
    with without_figures():
        assert here(*RUN, "--out", where / "whole").returncode == 0
    for folder in ("first", "run"):  # the first one compiles
        began = time.perf_counter()
        assert launch(*RUN, "--out", where / folder).returncode == 0
    longest = 1.1 * (time.perf_counter() - began)
    for _ in range(processes):
        shutil.rmtree(where / "run")
        process, number = started(*RUN, "--out", where / "run"), rng.choice([*STATUS])
        time.sleep(rng.uniform(0.2, longest))  # Python itself starts in the first tenth of a second
        for _ in range(rng.choice([1, 6])):
            process.send_signal(number)
            time.sleep(0.01)
        said, _ = process.communicate(timeout=120)
        saved = "and saved a checkpoint after step" in said
        ended = (where / "run" / "report.html").exists() and "figures and report" in said
        expected = STATUS[number] if saved else 128 + number
        assert process.returncode == expected or (ended and process.returncode == 0), (number, process.returncode, said)
        assert "Traceback" not in said and said.count("Received") == (process.returncode == expected), said
        told["finished" if ended else f"{number.name}, {'saved' if saved else 'not training'}"] += 1
        with without_figures():
            done = here(*RUN, "--out", where / "run")
        assert done.returncode == 0, done.stderr
        assert_same_run(where / "run", where / "whole")
    return told


def main() -> int:
    """Runs the campaign; prints what happened and returns 0 if nothing was lost."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--stops", type=int, default=200)
    parser.add_argument("--processes", type=int, default=100, help="processes to end at random moments")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, share_programs():
        told = stop_until_done(Path(folder), options.stops, random.Random(options.seed))
        left = [path.name for path in find_steps(Path(folder) / "run" / "checkpoints").values()]
    print(f"{options.stops} stops ({dict(told)}), {len(left)} checkpoints at the end ({', '.join(left)}), complete "
          f"history, equal parameters; {time.perf_counter() - began:.0f} s", flush=True)  # fmt: skip
    with tempfile.TemporaryDirectory() as folder, share_programs():
        told = end_processes(Path(folder), options.processes, random.Random(options.seed))
    print(f"{options.processes} processes ended at random moments ({dict(told)}), resumed to equal parameters; "
          f"{time.perf_counter() - began:.0f} s")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
