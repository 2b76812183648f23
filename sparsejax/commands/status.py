"""What the commands share: mistakes told in a sentence, exit statuses, and a good end when asked to stop."""

import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from sparsejax.errors import Interrupted, SparsejaxError
from sparsejax.registry import run_file

if TYPE_CHECKING:
    import argparse

GOES_ON = "the same command goes on from the last checkpoint"


def status_of(run: Callable[[list[str]], int], arguments: Sequence[str] | None, *, stopped: str = GOES_ON) -> int:
    """Runs a command; returns its exit status: 0 done, 1 failed, 2 not understood, 130 or 141 stopped from outside.

    130 is Ctrl-C; 141 is a reader of what it prints, such as `head`, that has gone.

    Args:
      run: takes the words of the command line.
      arguments: those words; None for those of this process.
      stopped: what to say of a command that Ctrl-C has ended.
    """
    try:
        status = run(sys.argv[1:] if arguments is None else list(arguments))
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would complain at its end
        return 141
    except SparsejaxError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.status
    except Interrupted as stop:
        print(f"Asked to stop, and saved {stop}; the same command goes on from there.", file=sys.stderr)
        return 0
    except SystemExit as stop:  # help was printed, or an option was not understood
        return stop.code if isinstance(stop.code, int) else 2
    except KeyboardInterrupt:
        print(f"\nStopped; {stopped}.", file=sys.stderr)
        return 130


def add_import(parser: "argparse.ArgumentParser") -> None:
    """Adds the option --import, whose files `run_files` runs."""
    parser.add_argument(
        "--import", action="append", default=[], metavar="FILE", dest="files",
        help="first run a Python file, which may register networks, measures, attacks and data sets; repeatable",
    )  # fmt: skip


def run_files(options: "argparse.Namespace") -> None:
    """Runs the files that --import names.

    Raises:
      ConfigError: there is no such file.
    """
    for file in options.files:
        run_file(file)
