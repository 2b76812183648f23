"""Shared by the commands: errors as one sentence, and exit statuses."""

import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from sparsejax.errors import Interrupted, SparsejaxError, shorten
from sparsejax.registry import run_file
from sparsejax.signals import HOW_TO_RESUME
from sparsejax.terminal import complain, plain_output

if TYPE_CHECKING:
    import argparse


def status_of(run: Callable[[list[str]], int], arguments: Sequence[str] | None, *, stopped: str = HOW_TO_RESUME) -> int:
    """Runs a command; returns its exit status: 0 success, 1 failure, 2 invalid arguments, 128 + N for the signal N.

    130 is Ctrl-C; 141 is a closed pipe, such as that of `head`. A run that saves a checkpoint on SIGTERM succeeds.

    Args:
      run: takes the command-line arguments.
      arguments: the command-line arguments; None for those of this process.
      stopped: message after Ctrl-C.
    """
    with plain_output():
        return _status_of(run, sys.argv[1:] if arguments is None else list(arguments), stopped)


def _status_of(run: Callable[[list[str]], int], arguments: list[str], stopped: str) -> int:
    try:
        status = run(arguments)
        print(end="", flush=True)
        return status
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # otherwise Python reports an error at exit
        return 141
    except SparsejaxError as error:
        complain(f"error: {shorten(str(error), 2000)}")  # it may quote files and arguments of any size
        return error.status
    except OSError as error:
        what = error.filename if isinstance(error.filename, str) else "A file"
        complain(f"error: {what} cannot be used: {error.strerror or error}; when it can, {stopped}.")
        return 1
    except Interrupted as stop:
        name = signal.Signals(stop.number).name
        complain(f"Received {name} and saved a checkpoint {stop}; run the same command to resume.")
        return 0 if stop.number == signal.SIGTERM else 128 + stop.number
    except SystemExit as stop:  # help was printed, or an option was invalid
        return stop.code if isinstance(stop.code, int) else 2
    except KeyboardInterrupt:
        complain(f"\nStopped; {stopped}.")
        return 130


def add_import(parser: "argparse.ArgumentParser") -> None:
    """Adds the option --import, whose files `run_files` runs."""
    parser.add_argument(
        "--import", action="append", default=[], metavar="FILE", dest="files",
        help="run a Python file first, to register networks, measures, attacks and data sets; repeatable",
    )  # fmt: skip


def run_files(options: "argparse.Namespace") -> None:
    """Runs the files that --import names.

    Raises:
      ConfigError: there is no such file.
    """
    for file in options.files:
        run_file(file)
