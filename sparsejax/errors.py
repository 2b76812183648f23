"""Errors caused by users. Each message says what was given, what was expected and what to do."""

import contextlib
import signal
from collections.abc import Iterator


class SparsejaxError(Exception):
    """Base class: commands print the message without a traceback and exit with `status`."""

    status = 1


class ConfigError(SparsejaxError, ValueError):
    """A configuration that cannot be run: an unknown name, a value out of range, conflicting fields."""

    status = 2


@contextlib.contextmanager
def blame(code: str) -> Iterator[None]:
    """Turn an exception of a user's code into a ConfigError that names this code, and the exception as its cause."""
    try:
        yield
    except SparsejaxError:
        raise
    except Exception as error:
        raise ConfigError(
            f"{code} raised {type(error).__name__}: {error}. Correct it and repeat the call; a run resumes from its "
            "last checkpoint."
        ) from error


def shorten(text: str, most: int = 200) -> str:
    """Return a text of others, such as what a file holds, as a part of a sentence: in one line, without its middle."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most // 2]} ... {line[-most // 2 :]}"


class DataMissingError(SparsejaxError, FileNotFoundError):
    """A data set that was not found."""


class DataDamagedError(SparsejaxError, ValueError):
    """A data file whose size, magic number or checksum is wrong."""


class RunFolderError(SparsejaxError, ValueError):
    """A run folder that belongs to another run, to another configuration, or cannot be written."""


class DivergedError(SparsejaxError, ArithmeticError):
    """A loss or parameters that are no longer finite."""


class Interrupted(KeyboardInterrupt):
    """Not an error: the run received a signal, saved a checkpoint, and can be resumed.

    Attributes:
      number: of the signal.
    """

    def __init__(self, where: str, number: int = signal.SIGTERM):
        super().__init__(where)
        self.number = number


class CheckpointError(SparsejaxError, ValueError):
    """A checkpoint that is damaged, incomplete or of another network."""


class SparsejaxWarning(RuntimeWarning):
    """Something that a run does without, such as locks where the file system has none."""
