"""Stops and resumes one run again and again; then it must be the run that was never stopped.

`python -m tests.stop_campaign --stops 200` is the campaign of docs/reliability.md; the suite has a short one.
"""

import argparse
import collections
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

from sparsejax.training.checkpoints import find_steps
from sparsejax.training.log import MetricsLog
from tests.command import here, without_figures
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


def main() -> int:
    """Runs the campaign; prints what happened and returns 0 if nothing was lost."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--stops", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        told = stop_until_done(Path(folder), options.stops, random.Random(options.seed))
        left = [path.name for path in find_steps(Path(folder) / "run" / "checkpoints").values()]
    print(f"{options.stops} stops ({dict(told)}), {len(left)} checkpoints at the end ({', '.join(left)}), complete "
          f"history, equal parameters; {time.perf_counter() - began:.0f} s")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
