"""Pickles of lists, dictionaries, text, numbers and arrays of integers, of all protocols, read without running code."""

import io
import pickle
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from sparsejax.errors import shorten


def read_plain(raw: bytes) -> Any:
    """Returns the content of a pickle of Python 2 or 3; strings of Python 2 are decoded as Latin-1.

    A pickle is a program. Of the functions that a file names, those that make arrays and bytes are replaced by the ones
    below, and any other is an error: nothing that a file names is imported or called.

    Returns:
      The content, in which arrays and NumPy's integers are `Array`.

    Raises:
      Exception: of any type, if it is damaged or holds anything else.
    """
    stream = io.BytesIO(raw)
    content = _Unpickler(stream, encoding="latin1").load()
    if stream.read(1):
        raise pickle.UnpicklingError("bytes follow its end")
    return content


class Array:
    """An array of integers in a pickle; NumPy's own code is not used, because it trusts the file."""

    __slots__ = ("array",)

    def __init__(self) -> None:
        self.array = np.empty(0, np.uint8)

    def __setstate__(self, state: Any) -> None:
        """Reads NumPy's state: version, shape, type, whether columns come first, and the bytes."""
        _, shape, dtype, columns_first, raw = state
        self.fill(raw, dtype, shape, "F" if columns_first else "C")

    def fill(self, raw: Any, dtype: Any, shape: Any, order: Any) -> "Array":
        """Makes the array from its bytes."""
        if not isinstance(dtype, _Type):
            raise pickle.UnpicklingError("its array is not of bytes")
        content = raw.encode("latin1") if isinstance(raw, str) else raw
        self.array = np.frombuffer(content, np.dtype(dtype.order + dtype.code)).reshape(shape, order=order)
        return self


class _Type:
    """The type of an array of integers in a pickle."""

    __slots__ = ("code", "order")

    def __init__(self, code: str):
        self.code, self.order = code, "="

    def __setstate__(self, state: Any) -> None:
        """Reads NumPy's state: version, byte order, and what only other types have."""
        self.order = state[1]
        if self.order not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError(f"its array has the byte order {self.order!r}")


class _Unpickler(pickle.Unpickler):
    """Replaces the functions that a file may name by methods: unlike functions, a file cannot change their fields."""

    def find_class(self, module: str, name: str, /) -> Any:
        """Returns the replacement of a function; NumPy 2, Python 2 and Python 3 have other names of some modules."""
        known: dict[tuple[str, str], Callable[..., Any] | None] = {
            ("numpy.multiarray", "_reconstruct"): self.new_array,
            ("numpy.multiarray", "scalar"): self.new_scalar,
            ("numpy.numeric", "_frombuffer"): self.from_buffer,
            ("numpy", "dtype"): self.new_type,
            ("numpy", "ndarray"): None,
            ("_codecs", "encode"): self.to_bytes,
            ("builtins", "bytes"): self.to_bytes,
            ("builtins", "bytearray"): self.to_bytes,
        }
        place = re.sub(r"^numpy\._?core\.", "numpy.", module).replace("__builtin__", "builtins"), name
        if place not in known:
            raise pickle.UnpicklingError(f"it calls {shorten(module)}.{shorten(name)}, which no file of CIFAR-10 does")
        return known[place]

    def new_array(self, *_: Any) -> Array:
        """Replaces NumPy's function for arrays of protocols 0 to 4, which receive their state later."""
        return Array()

    def from_buffer(self, raw: Any, dtype: Any, shape: Any, order: Any = "C", *_: Any) -> Array:
        """Replaces NumPy's function for arrays of protocol 5."""
        return Array().fill(raw, dtype, shape, order)

    def new_scalar(self, dtype: Any, raw: Any) -> Array:
        """Replaces NumPy's function for single numbers."""
        return Array().fill(raw, dtype, (), "C")

    def new_type(self, code: str, *_: Any) -> _Type:
        """Replaces numpy.dtype."""
        if not (isinstance(code, str) and re.fullmatch("[iu][1248]", code)):
            raise pickle.UnpicklingError(f"its array is of type {shorten(repr(code))}, not of bytes or other integers")
        return _Type(code)

    def to_bytes(self, content: Any = b"", encoding: str = "latin1") -> bytes:
        """Replaces the functions that make bytes, from text where the protocol has none (0 to 2)."""
        if isinstance(content, str) and encoding in ("latin1", "latin-1"):
            return content.encode("latin1")
        if isinstance(content, (bytes, bytearray)):
            return bytes(content)
        raise pickle.UnpicklingError(f"it has {type(content).__name__} where bytes are expected")
