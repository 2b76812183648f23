"""Runs commands in copies of this process, which has imported everything; see `operation_campaign.forks`."""

import ctypes
import json
import os
import signal
import sys
import time

import matplotlib.figure  # noqa: F401
import tensorboardX.summary  # noqa: F401
import tyro  # noqa: F401

import sparsejax.experiment
import sparsejax.figures.report  # noqa: F401
from sparsejax.commands import train


def run(words: list[str], output: str, arm: tuple[str, int, int, int, str]) -> None:
    """Runs a command and ends this process with its status."""
    os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
    os.dup2(1, 2)
    sys.argv = ["launch", *words]
    below, at, action, error, log = arm
    ctypes.CDLL(None).operations_arm(below.encode(), ctypes.c_long(at), action, error, log.encode())
    status = 1
    try:
        status = train.main(words)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    sys.stdout.flush()
    os._exit(status)


def main() -> None:
    """Reads a command per line, and prints its status."""
    for line in sys.stdin:
        asked = json.loads(line)
        child = os.fork()
        if not child:
            run(asked["words"], asked["output"], asked["arm"])
        until = time.monotonic() + asked["limit"]
        while not (ended := os.waitpid(child, os.WNOHANG))[0]:
            time.sleep(0.005)
            if time.monotonic() > until:
                os.kill(child, signal.SIGABRT)
        print(os.waitstatus_to_exitcode(ended[1]), flush=True)


if __name__ == "__main__":
    main()
