"""Repeatedly kills a training run at random moments until it ends; then compares it with an uninterrupted one.

`python -m tests.kill_campaign --kills 100` is the campaign of docs/reliability.md; the suite has a short one.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sparsejax.training import checkpoints
from tests.command import ONE, launch, started

RUN = ["--config", "digits_mlp", "--training.epochs", "40", "--data.train-examples", "400",
       "--data.test-examples", "60", "--training.momentum", "0.5", "--model.dropout", "0.1"]  # fmt: skip
SHORT = [*RUN, "--training.epochs", "12", *ONE]
"""The run of the suite: 6 lines of metrics an epoch, one for each chunk of 5 steps and one for the evaluation."""


def last_networks(folder: Path) -> dict[str, np.ndarray]:
    """Returns the arrays of the last checkpoint."""
    *_, last = checkpoints.find_steps(folder / "checkpoints").values()
    return checkpoints.read_folder(last)


def assert_same_run(actual: Path, expected: Path) -> None:
    """Compares two finished runs: all saved arrays bit for bit, results, every line of metrics."""
    networks, others = last_networks(actual), last_networks(expected)
    assert networks.keys() == others.keys()
    for name, leaf in networks.items():
        np.testing.assert_array_equal(leaf, others[name], err_msg=name)
    results = [json.loads((folder / "result.json").read_text()) for folder in (actual, expected)]
    assert results[0]["members"] == results[1]["members"]
    metrics = [
        [{k: v for k, v in json.loads(line).items() if k != "time"} for line in (folder / "metrics.jsonl").open()]
        for folder in (actual, expected)
    ]
    assert metrics[0] == metrics[1]


def killed(folder: Path, rng: random.Random, *, lines: int, run: Sequence[str] = RUN, **variables: str) -> bool:
    """Starts or resumes the run, and kills it after some of the next lines of metrics, or during startup.

    Returns:
      Whether it was still running.
    """
    metrics = folder / "metrics.jsonl"
    process = started(*run, "--training.checkpoint-every", 10, "--out", folder, **variables)
    before = metrics.read_text().count("\n") if metrics.exists() else 0
    target = before + rng.randrange(1, lines)
    while process.poll() is None:
        if metrics.exists() and metrics.read_text().count("\n") >= target:
            break
        time.sleep(0.005)
    time.sleep(rng.random() * 0.1)
    running = process.poll() is None
    process.kill()
    process.wait()
    return running


def main() -> int:
    """Runs the campaign; prints what happened and returns 0 if nothing was lost."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng, kills, runs, began = random.Random(options.seed), 0, 0, time.perf_counter()
    with tempfile.TemporaryDirectory() as where:
        whole = Path(where) / "whole"
        assert launch(*RUN, "--out", whole).returncode == 0
        while kills < options.kills:
            folder = Path(where) / f"run{runs}"
            while killed(folder, rng, lines=80):  # about a dozen kills until it gets to its end
                kills += 1
            final = launch(*RUN, "--training.checkpoint-every", 10, "--out", folder)
            assert final.returncode == 0, final.stderr
            assert_same_run(folder, whole)
            runs += 1
            print(f"{kills} kills, {runs} runs, all bit-equal to the one never killed, "
                  f"{time.perf_counter() - began:.0f} s", flush=True)  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
