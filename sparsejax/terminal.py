"""Text for output streams that cannot encode all of Unicode, such as ASCII in a batch job."""

import codecs
import contextlib
import os
import shutil
import sys
import unicodedata
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from sparsejax.errors import SparsejaxWarning

_ASCII = {"±": "+/-", "×": "x", "÷": "/", "≤": "<=", "≥": ">=", "≠": "!=", "≈": "~", "−": "-", "–": "-", "—": "-",
          "→": "->", "·": "*", "‖": "||", "∞": "inf", "σ": "sigma", "ε": "epsilon", "λ": "lambda"}  # fmt: skip
_HANDLER = "sparsejax.ascii"


def _replace(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_ascii_form, error.object[error.start : error.end])), error.end


def _ascii_form(letter: str) -> str:
    """Returns the usual form of a letter in ASCII: `±` as `+/-`, `é` as `e`, `³` as `3`; else `?`."""
    return _ASCII.get(letter) or unicodedata.normalize("NFKD", letter).encode("ascii", "ignore").decode() or "?"


codecs.register_error(_HANDLER, _replace)


def encodable(text: str, encoding: str | None) -> str:
    """Returns a text with each letter that an encoding lacks in its ASCII form."""
    encoding = encoding or "utf-8"
    return text.encode(encoding, _HANDLER).decode(encoding)


def say(text: str) -> None:
    """Prints a line to the standard output, whatever its encoding."""
    print(encodable(text, getattr(sys.stdout, "encoding", None)))


class _Lasting:
    """A stream whose reader may leave, or whose disk may be full: it warns once, and then drops what is written."""

    def __init__(self, stream: Any):
        self._stream, self._ended = stream, False

    def write(self, text: str) -> int:
        self._try(lambda: self._stream.write(encodable(text, getattr(self._stream, "encoding", None))))
        return len(text)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _try(self, action: Callable[[], Any]) -> None:
        if self._ended:
            return
        try:
            action()
        except (OSError, ValueError) as error:  # ValueError: it is closed
            self._ended = True
            _disconnect(self._stream)
            said = f"The output ended ({getattr(error, 'strerror', None) or error}); the run continues without it."
            warnings.warn(said, SparsejaxWarning, stacklevel=4)


@contextlib.contextmanager
def lasting_output() -> Iterator[None]:
    """Lets a run continue whose standard output ends, because of a closed pipe or terminal, or a full disk."""
    before = sys.stdout
    if before is not None and not isinstance(before, _Lasting):
        sys.stdout = _Lasting(before)
    try:
        yield
    finally:
        if sys.stdout is not None:
            sys.stdout.flush()
        sys.stdout = before


def complain(text: str) -> None:
    """Prints a line to the standard error, if there is one that can be written."""
    if sys.stderr is not None:
        try:
            print(text, file=sys.stderr, flush=True)
        except (OSError, ValueError):
            _disconnect(sys.stderr)


def _disconnect(stream: Any) -> None:
    """Connects a stream to nothing; Python flushes it once more at its exit, and would fail again."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        descriptor, nothing = stream.fileno(), os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, descriptor)
        os.close(nothing)


def _occupy_descriptors() -> None:
    """Connects closed standard streams to nothing; else the next file opened would get what XLA writes to them."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)


def console_width() -> int | None:
    """Returns the width for a console of rich, which prints nothing if COLUMNS is 0; None to let it choose."""
    return None if os.environ.get("COLUMNS", "80").strip("0") else shutil.get_terminal_size().columns


@contextlib.contextmanager
def plain_output() -> Iterator[None]:
    """Lets a command print any text, and print warnings of this package as one line."""
    _occupy_descriptors()
    streams: list[Any] = [stream for stream in (sys.stdout, sys.stderr) if hasattr(stream, "reconfigure")]
    before, format_warning = [stream.errors for stream in streams], warnings.formatwarning

    def format_plainly(message: Any, category: type[Warning], *place: Any, **more: Any) -> str:
        usual = format_warning(message, category, *place, **more)
        return f"warning: {message}\n" if issubclass(category, SparsejaxWarning) else usual

    for stream in streams:
        stream.reconfigure(errors=_HANDLER)
    warnings.formatwarning = format_plainly
    try:
        yield
    finally:
        warnings.formatwarning = format_warning
        for stream, errors in zip(streams, before, strict=True):
            stream.reconfigure(errors=errors)
