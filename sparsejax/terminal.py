"""Text for output streams that cannot encode all of Unicode, such as ASCII in a batch job."""

import codecs
import contextlib
import os
import shutil
import sys
import unicodedata
import warnings
from collections.abc import Iterator
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


def console_width() -> int | None:
    """Returns the width for a console of rich, which prints nothing if COLUMNS is 0; None to let it choose."""
    return None if os.environ.get("COLUMNS", "80").strip("0") else shutil.get_terminal_size().columns


@contextlib.contextmanager
def plain_output() -> Iterator[None]:
    """Lets a command print any text, and print warnings of this package as one line."""
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
