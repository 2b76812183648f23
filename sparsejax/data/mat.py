"""Arrays of numbers in MATLAB files of version 5 to 7.2.

SciPy reads them too, but some damaged files crash its compiled parser and the whole process.
"""

import math
import struct
import zlib
from typing import NamedTuple

import numpy as np

from sparsejax.data.folders import expansion_problem

# Number types of elements, and the classes of matrices that hold plain numbers.
_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_NUMERIC = range(6, 16)
_MATRIX, _COMPRESSED = 14, 15
_HEADER = 128


class _Element(NamedTuple):
    """Its type, its content, and the offset of the next one."""

    kind: int
    content: memoryview
    end: int


def read_arrays_of(raw: bytes) -> dict[str, np.ndarray]:
    """Returns all arrays of real numbers of a MATLAB file, by name; other content is ignored.

    Raises:
      ValueError: it is not such a file, or damaged.
    """
    order = {b"IM": "<", b"MI": ">"}.get(raw[126:_HEADER])
    if raw.startswith(b"\x89HDF") or raw[512:516] == b"\x89HDF" or b"MATLAB 7.3" in raw[:124]:
        raise ValueError("it is of version 7.3; save it with -v7")
    if order is None:
        raise ValueError("its header is not that of versions 5 to 7.2")
    arrays, at, unpacked = {}, _HEADER, 0
    while at < len(raw):
        kind, content, at = _element(memoryview(raw), at, order, padded=False)
        if kind == _COMPRESSED:
            whole = _unpack(content, order)
            unpacked += len(whole)
            if problem := expansion_problem(unpacked, len(raw)):
                raise ValueError(problem)
            kind, content, _ = _element(whole, 0, order, padded=False)
        if kind != _MATRIX:
            raise ValueError(f"it holds an element of type {kind} where a matrix is expected")
        arrays |= _array(content, order)
    return arrays


def _unpack(content: memoryview, order: str) -> memoryview:
    """Unpacks one element, of the size in its tag."""
    try:
        tag = zlib.decompressobj().decompress(content, 8)
        size = 8 + struct.unpack_from(f"{order}I", tag, 4)[0] if len(tag) == 8 else 0
        if problem := expansion_problem(size, len(content)):
            raise ValueError(problem)
        return memoryview(zlib.decompressobj().decompress(content, size)) if size else memoryview(tag)
    except zlib.error as error:
        raise ValueError(f"its compressed content is damaged ({error})") from None


def _array(content: memoryview, order: str) -> dict[str, np.ndarray]:
    """Returns a matrix by its name, nothing if it is not of real numbers."""
    flags, dimensions, name = _element(content, 0, order), None, None
    if len(flags.content) != 8:
        raise ValueError("a matrix in it has no flags")
    flag = struct.unpack_from(f"{order}I", flags.content)[0]
    dimensions = _element(content, flags.end, order)
    name = _element(content, dimensions.end, order)
    if flag & 0xFF not in _NUMERIC or flag & 0x800:  # cells, structures, texts, complex numbers
        return {}
    if dimensions.kind != 5 or len(dimensions.content) % 4:
        raise ValueError("a matrix in it has no dimensions")
    shape = struct.unpack(f"{order}{len(dimensions.content) // 4}i", dimensions.content)
    kind, numbers, _ = _element(content, name.end, order)
    dtype = np.dtype(order + _TYPES[kind]) if kind in _TYPES else None
    if dtype is None or min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != len(numbers):
        raise ValueError(f"an array in it of {'x'.join(map(str, shape))} numbers has {len(numbers)} bytes")
    array = np.frombuffer(numbers, dtype).reshape(shape, order="F")
    return {str(name.content, "latin1"): array.astype(dtype.newbyteorder("="))}


def _element(raw: memoryview, at: int, order: str, *, padded: bool = True) -> _Element:
    """Reads the element at an offset; a small one has its content inside its tag."""
    if at + 8 > len(raw):
        raise ValueError("it is truncated")
    kind, size = struct.unpack_from(f"{order}II", raw, at)
    if kind >> 16:
        kind, size = kind & 0xFFFF, kind >> 16
        if size > 4:
            raise ValueError(f"a small element in it has {size} bytes, of 4 at most")
        return _Element(kind, raw[at + 4 : at + 4 + size], at + 8)
    if at + 8 + size > len(raw):
        raise ValueError("it is truncated")
    return _Element(kind, raw[at + 8 : at + 8 + size], at + 8 + size + (-size % 8 if padded else 0))
