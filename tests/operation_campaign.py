"""Kills a run, or fails its call, at every change of a file; then the same command must end as if nothing had happened.

`python -m tests.operation_campaign` is the campaign of docs/reliability.md; the suite has a sample. A library counts
the calls of a process that change files below the run folder: see `preload/operations.c`.
"""

import argparse
import collections
import contextlib
import errno
import functools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from sparsejax.files import incomplete
from sparsejax.training import checkpoints
from sparsejax.training.config import CLEAN_MEASURES
from sparsejax.training.log import MetricsLog
from tests.command import ONE, ROOT, environment, here, share_programs, without_figures
from tests.kill_campaign import assert_same_run
from tests.preload import compiled

RUN = ["--config", "digits_mlp", "--training.batch-size", "20", "--training.first-epoch-batch-size", "None",
       "--training.epochs", "2", "--data.train-examples", "60", "--data.test-examples", "20", "--model.hidden", "20",
       "--model.k", "5", "--model.dropout", "0.1", "--training.momentum", "0.5",
       "--evaluation.measures", *CLEAN_MEASURES, *ONE]  # fmt: skip
"""A run of two epochs of three steps; it saves a checkpoint after each epoch."""

ACTIONS = {"count": 0, "kill": 1, "power": 1, "fail": 2, "full": 3}
"""What the library does at the chosen operation: with "power", what is not on disk is then lost; with "full", all later
ones fail, too."""
ERRORS = (errno.ENOSPC, errno.EIO, errno.EDQUOT)
_LIMIT_S = 120


_OPERATION = re.compile(r"(\d+) (\w+) (-?\d+) (.*)")


class Ended(NamedTuple):
    """How a process ended, what it said, and how long it took."""

    status: int
    said: str
    seconds: float


Trial = Callable[..., Ended]


@contextlib.contextmanager
def forks(folder: Path, **variables: str) -> Iterator[Trial]:
    """Yields a function that runs a command in a new process, in which `at` chooses an operation below `below`.

    The processes are copies of one that has imported everything, which takes longer than the run itself.
    """
    folder.mkdir(exist_ok=True)
    settings = environment(LD_PRELOAD=str(compiled("operations", folder)), **variables)
    server = subprocess.Popen([sys.executable, "-m", "tests.forks"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                              text=True, env=settings, cwd=ROOT)  # fmt: skip
    assert server.stdin is not None and server.stdout is not None

    def trial(words: list[Any], below: Path, *, action: str = "count", at: int = 0, error: int = errno.ENOSPC) -> Ended:
        output = folder / "said.txt"
        asked = {"words": [*map(str, words)], "output": str(output), "limit": _LIMIT_S,
                 "arm": [str(below), at, ACTIONS[action], error, str(folder / "operations.txt")]}  # fmt: skip
        began = time.perf_counter()
        print(json.dumps(asked), file=server.stdin, flush=True)
        status = int(server.stdout.readline())
        return Ended(status, output.read_text(errors="replace"), time.perf_counter() - began)

    try:
        yield trial
    finally:
        server.stdin.close()
        server.wait()


class Scenario(NamedTuple):
    """A command on a folder, and the one that must complete it after a fault."""

    prepare: Callable[[Path, Path], None]
    words: list[Any]
    again: tuple[str, ...] = ()


def nothing(whole: Path, folder: Path) -> None:
    """Leaves the folder away."""


def finished(whole: Path, folder: Path) -> None:
    """Makes a finished run."""
    shutil.copytree(whole, folder)


def stopped(whole: Path, folder: Path) -> None:
    """Makes a run that was killed after step 4, with a checkpoint of step 3 and an incomplete line."""
    before = MetricsLog.write

    def write(self: MetricsLog, step: int, *rest: Any) -> None:
        before(self, step, *rest)
        if step == 4:
            raise KeyboardInterrupt

    with mock.patch.object(MetricsLog, "write", write):
        assert here(*RUN, "--out", folder).returncode == 130
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "epo')


def earlier(whole: Path, folder: Path) -> None:
    """Makes the same run as of an earlier version: more than two checkpoints without a score, and an incomplete one."""
    stopped(whole, folder)
    for path in checkpoints.find_steps(folder / "checkpoints").values():
        shutil.rmtree(path / "details")
    for step in ("1", "2", "4.orbax-checkpoint-tmp"):
        shutil.copytree(folder / "checkpoints" / "3", folder / "checkpoints" / step)


SCENARIOS = {
    "first": Scenario(nothing, RUN),
    "resume": Scenario(stopped, [*RUN, "--training.checkpoint-every", "2"]),  # two more; the older one is removed
    "fresh": Scenario(finished, [*RUN, "--fresh"], ("--fresh",)),
    "earlier version": Scenario(earlier, RUN),
    "resume step": Scenario(finished, [*RUN, "--resume-step", "3"]),
}


def lose_unsynced(folder: Path, operations: list[str]) -> None:
    """Truncates the files that were written below a folder to their sizes at the last fsync, as a loss of power may."""
    on_disk: dict[Path, int] = {}
    for operation in operations:
        found = _OPERATION.fullmatch(operation)
        assert found
        name, size, path = found[2], int(found[3]), folder / found[4].removeprefix("/")
        if name == "open":
            on_disk.setdefault(path, 0)
        elif name == "fsync":
            on_disk[path] = size
        elif name == "rename":
            for source in [other for other in on_disk if other.parent == path.parent]:
                if incomplete(source.name) == path.name:
                    on_disk[path] = on_disk.pop(source)
    for path, size in on_disk.items():
        if path.is_file() and path.stat().st_size > size:
            os.truncate(path, size)


class Campaign:
    """Trials of one scenario after another, each in a copy of its folder.

    Attributes:
      outcomes: scenario, action and what happened -> number of trials.
    """

    def __init__(self, where: Path, trial: Trial):
        self._where, self._trial = where, trial
        self.whole = where / "whole"
        self.outcomes: collections.Counter[str] = collections.Counter()
        assert here(*RUN, "--out", self.whole).returncode == 0

    @functools.cache  # noqa: B019
    def template(self, name: str) -> Path:
        """Returns the folder of a scenario before its command."""
        folder = self._where / name
        with without_figures():
            SCENARIOS[name].prepare(self.whole, folder)
        return folder

    def start(self, name: str, **fault: Any) -> tuple[Path, Ended]:
        """Runs the command of a scenario in a copy of its folder."""
        folder = self._where / "run"
        shutil.rmtree(folder, ignore_errors=True)
        if self.template(name).exists():
            shutil.copytree(self.template(name), folder)
        return folder, self._trial([*SCENARIOS[name].words, "--out", folder], folder, **fault)

    def count(self, name: str) -> list[str]:
        """Returns the operations of a scenario without a fault."""
        folder, ended = self.start(name)
        assert ended.status == 0, ended.said
        assert_same_run(folder, self.whole)
        return self._operations()

    def _operations(self) -> list[str]:
        return (self._where / "forks" / "operations.txt").read_text().splitlines()

    def check(self, name: str, action: str, at: int, *, again: tuple[str, ...]) -> None:
        """Makes one fault, and then completes the run.

        Raises:
          AssertionError: the fault was not reported by one sentence, or something was lost.
        """
        folder, ended = self.start(name, action=action, at=at, error=ERRORS[at % len(ERRORS)])
        operations = self._operations()
        reached = len(operations) >= at  # threads of TensorStore and TensorBoard need a few more or fewer
        if action == "power" and reached:
            lose_unsynced(folder, operations[: at - 1])
        known = ended.status == -signal.SIGKILL if action in ("kill", "power") and reached else ended.status in (0, 1)
        assert known and "Traceback" not in ended.said, (ended.status, ended.said)
        assert ended.said.count("error: ") == (ended.status == 1), ended.said
        what = {0: "continued" if reached else "ended before", 1: "stopped with a sentence"}.get(ended.status, "killed")
        with without_figures():
            done = here(*RUN, *again, "--out", folder)
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        assert_same_run(folder, self.whole)
        left = [path for path in folder.rglob("*") if incomplete(path.name) or path.name == ".removed"]
        assert not left and len(list((folder / "checkpoints").iterdir())) <= 3, [*folder.rglob("*")]
        self.outcomes[f"{name}: {action}: {what}"] += 1


def main() -> int:
    """Runs the campaign; prints what happened and returns 0 if nothing was lost."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--scenarios", nargs="+", choices=SCENARIOS, default=[*SCENARIOS])
    parser.add_argument("--actions", nargs="+", choices=[*ACTIONS][1:], default=["kill", "fail", "power"])
    parser.add_argument("--sample", type=int, help="trials of each scenario and action; default: every operation")
    options = parser.parse_args()
    began, failed = time.perf_counter(), 0
    with tempfile.TemporaryDirectory() as folder, share_programs(), forks(Path(folder) / "forks") as trial:
        campaign = Campaign(Path(folder), trial)
        for name in options.scenarios:
            operations = campaign.count(name)
            print(f"{name}: {len(operations)} operations", flush=True)
            for action in options.actions:
                chosen = range(1, len(operations) + 1)
                if options.sample is not None:
                    chosen = sorted(random.Random(0).sample(chosen, min(options.sample, len(chosen))))
                for at in chosen:
                    again = SCENARIOS[name].again if at % 2 else ()
                    try:
                        campaign.check(name, action, at, again=again)
                    except AssertionError as error:
                        failed += 1
                        print(f"FAILED: {name} {action} {again} at {operations[at - 1]}: {error}", flush=True)
            print(*(f"  {what}: {n}" for what, n in campaign.outcomes.items() if what.startswith(name)),
                  f"  {time.perf_counter() - began:.0f} s, {failed} failed", sep="\n", flush=True)  # fmt: skip
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
