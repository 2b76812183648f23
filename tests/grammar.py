"""Generates hostile files by their grammar: whole structures whose sizes, types, counts and nesting disagree.

Every function takes a random generator and returns the content of one file. Bombs are small files here; what they
announce, or unpack to, is not.
"""

import gzip
import io
import json
import math
import pickle
import pickletools
import random
import struct
import zipfile
import zlib
from typing import Any

import numpy as np

SIZES = (0, 1, 2, 3, 4, 7, 8, 16, 28, 127, 255, 256, 784, 3072, 2**15, 2**16 - 1, 2**24, 2**31 - 1, 2**31, 2**32 - 1,
         2**40, 2**53, 2**63 - 1, 2**63, 2**64 - 1)  # fmt: skip
WORDS = ("", "a", "data", "labels", "é", "\0", "x" * 300, "../x", "\n", "nan", "💥", "0" * 5000)


class Source(random.Random):
    """A random generator with the probability that a part of a structure is as it should be."""

    def __init__(self, seed: str):
        super().__init__(seed)
        self.tame = self.choice((0.8, 0.95, 0.99, 0.997))

    def part(self, usual: Any, *others: Any) -> Any:
        """Returns what is usual, or now and then another value."""
        return usual if self.random() < self.tame else self.choice(others or SIZES)

    def size(self, usual: int, bits: int = 64) -> int:
        """Returns a size that is usual, or now and then extreme or a little off, of so many bits."""
        return self.part(usual, usual - 1, usual + 1, 2 * usual, self.choice(SIZES), self.choice(SIZES)) % 2**bits

    def payload(self, usual: int) -> bytes:
        """Returns as many bytes as usual, or now and then others; sometimes a megabyte of zeros."""
        most = min(max(usual, 0), 2**16)
        return self.randbytes(self.part(most, 0, 1, most // 2, most + 1)) if self.random() < 0.98 else bytes(2**20)


def idx(rng: Source) -> bytes:
    """An IDX file, plain or gzip, which may be damaged or followed by megabytes of zeros."""
    shape = rng.part([2, 28, 28], [5], [], [0], [2] * 5, [1] * 70, [1] * 255)
    head = bytes([rng.part(0, 1), 0, rng.part(8, 9, 11, 12, 13, 14, 7, 255), len(shape)])
    content = head + b"".join(struct.pack(">I", rng.size(n, 32)) for n in shape) + rng.payload(math.prod(shape))
    if rng.random() < 0.5:
        return content
    raw = gzip.compress(content + bytes(rng.part(0, 1, 2**20, 2**25)), 1)
    return rng.part(raw, raw[: rng.randrange(len(raw))], raw + raw, raw + b"x")


_LEAVES = (b"N", b"\x88", b"\x89", b"K\7", b"J\xff\xff\xff\xff", b"\x8a\x01\x05", b"U\3abc", b"X\3\0\0\0abc", b"C\3abc",
           b"\x8c\3abc", b"]", b")", b"}", b"\x8f", b"G@\0\0\0\0\0\0\0", b"I12\n", b"Va\n", b"S'a'\n",
           b"cnumpy\ndtype\n", b"cnumpy\nndarray\n", b"cnumpy.core.multiarray\n_reconstruct\n", b"c_codecs\nencode\n",
           b"cnumpy.core.multiarray\nscalar\n", b"cbuiltins\nbytes\n", b"cos\nsystem\n")  # fmt: skip
_ACTIONS = (b"\x85", b"\x86", b"\x87", b"t", b"l", b"d", b"a", b"e", b"s", b"u", b"R", b"b", b"\x81", b"0", b"1", b"2",
            b"(", b"(", b"(", b"\x94", b"q\0", b"h\0", b"q\1", b"h\1", b"\x90", b"\x91", b"\x93", b"o")  # fmt: skip


def pickled(rng: Source) -> bytes:
    """A pickle: a random program, or a valid batch; with operations repeated, put in and removed."""
    if rng.random() < 0.3:
        steps = [rng.choice(_LEAVES if rng.random() < 0.5 else _ACTIONS) for _ in range(rng.randrange(60))]
        steps = [rng.choice((b"", b"\x80\2", b"\x80\4", b"\x80\x7f")), *steps, b"."]
    else:
        count = rng.part(2, 0, 1, 9)
        labels = [rng.part(i % 10, -1, 10, 2**31, 10**30, 0.5, "1", None, [1]) for i in range(count)]
        pixels = np.zeros((count, rng.part(3072, 0, 3071)), rng.part("u1", "i2", "f4", "S1", "O"))
        key = rng.part("labels", "label", b"labels", "fine_labels", 1, None)
        batch = {
            key: rng.part(labels, np.array(labels, object), {}, tuple(labels)),
            "data": rng.part(pixels, labels, 0),
        }
        raw = pickle.dumps(batch, rng.randrange(6))
        places = [place for _, _, place in pickletools.genops(raw)]
        steps = [raw[a:b] for a, b in zip(places, [*places[1:], len(raw)], strict=True)]
    for _ in range(rng.choice((0, 1, 1, 2, 3))):
        at, number = rng.randrange(len(steps) + 1), struct.pack("<Q", rng.choice(SIZES))
        many, other = rng.choice((1, 1, 2, 30, 1500, 100_000)), rng.choice(_LEAVES + _ACTIONS)
        steps[at:at] = rng.choice((
            [other] * many, [b"2\x86"] * min(many, 2000), [b"r" + number[:4]], [b"j" + number[:4]], [b"B" + number[:4]],
            [b"\x8e" + number], [b"\x96" + number], [b"\x8b" + number[:4]], [b"T" + number[:4]], [b"\x95" + number],
            [b"X" + number[:4] + b"abc"], [b"g%d\n" % rng.choice(SIZES)], [b"p%d\n" % rng.choice(SIZES)],
            [b"L" + b"9" * many + b"L\n"], steps[at : at + 3] * min(many, 2000), [b"cnumpy\n" + b"n" * many + b"\n"],
        ))  # fmt: skip
        if rng.random() < 0.3:
            del steps[rng.randrange(len(steps))]
    return b"".join(steps)


def npy(rng: Source, array: np.ndarray) -> bytes:
    """A NumPy array whose header may disagree with its bytes."""
    descr = rng.part(
        repr(array.dtype.str), "'|u1'", "'<f4'", "'<i8'", "'>f8'", "'<U4'", "'<U0'", "'|V0'", "'|O'", "None", "'x'",
        "'|b1'", "'<c8'", "[('a', '<f4')]", f"'|S{rng.choice(SIZES)}'", f"[('a', '|u1', ({rng.choice(SIZES)},))]",
        "'<M8[s]'",
    )  # fmt: skip
    shape = rng.part([rng.size(n) for n in array.shape], [], [1] * 40, [2] * 64, [2**16] * 4)
    said = ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "")
    said = rng.part(f"({said})", f"[{said}]", "(" * 300 + ")" * 300, "None", "(-1, 4)", "(2.5,)", "(True,)", "(1e9,)")
    text = f"{{'descr': {descr}, 'fortran_order': {rng.part('False', 'True', 'x')}, 'shape': {said}, }}".encode()
    head = b"\x93NUMPY" + bytes([rng.part(1, 2, 3, 9), 0])
    length = rng.size(len(text) + 1, 16 if head[6] == 1 else 32)
    content = rng.part(array.tobytes(), b"", array.tobytes()[1:], bytes(2**20)) if array.dtype != object else b""
    return head + struct.pack("<H" if head[6] == 1 else "<I", length) + text + b"\n" + content


def npz(rng: Source, good: dict[str, np.ndarray]) -> bytes:
    """An archive of arrays, some of them damaged, missing or bombs, and with entries of the directory changed."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
        for name, array in good.items():
            if name := rng.part(name, "", "x" * 300, "../x"):
                archive.writestr(f"{name}.npy", npy(rng, array) + bytes(rng.part(0, 0, 2**20, 2**25)))
    raw = bytearray(stream.getvalue())
    if (at := raw.rfind(b"PK\1\2")) >= 0:  # sizes in the last entry of the directory
        old = struct.unpack_from("<II", raw, at + 20)
        raw[at + 20 : at + 28] = struct.pack("<II", *(rng.size(n, 32) for n in old))
    return bytes(rng.part(raw, raw[: rng.randrange(len(raw))]))


def arrays(rng: Source) -> dict[str, np.ndarray]:
    """Returns the arrays of a data set of any kind, some of which do not fit the others."""
    shape = rng.choice(((4, 8, 8, 1), (4, 8, 8, 3), (4, 8, 8), (4, 5)))
    kinds = ("u1", "f4", "i2", "i8", "f8", "f2", "U3", "b1", "u8")
    kind = rng.choice(kinds[:3])

    def examples() -> np.ndarray:
        filled = np.full(
            rng.part(shape, (4,), (0, *shape[1:]), ()), rng.part(0, 1, 255, np.nan, 1e308, -1, 2**60), float
        )
        with np.errstate(all="ignore"):
            return filled.astype(rng.part(kind, *kinds))

    def labels() -> np.ndarray:
        numbers = np.arange(rng.size(4, 8)) * rng.part(1, 0, 2**31, -1, 2**62)
        return rng.part(numbers, numbers.astype("U9"), numbers.astype(float), numbers[:, None], numbers.astype("u8"))

    return {"x_train": examples(), "y_train": labels(), "x_test": examples(), "y_test": labels()}


def latents(rng: Source) -> bytes:
    """Returns a file of latents, with its description changed or not."""
    x, y, told = np.ones((3, 4), np.float32), np.array([0, 1, 1], np.int32), {"data": {"name": "cifar10"}, "classes": 2}
    text = json.dumps(told) if rng.random() < 0.3 else mutate_json(told, rng).decode("utf-8", "replace")
    return npz(rng, {"train": x, "train_labels": y, "test": x, "test_labels": y, "provenance": np.array(text)})


def mat(rng: Source) -> bytes:
    """A MATLAB file: elements in elements, some compressed, of sizes that may disagree."""

    def element(kind: int, content: bytes) -> bytes:
        length = rng.size(len(content), 32)
        return (
            struct.pack("<II", rng.part(kind, 0, 1, 15, 99), length) + content + bytes(-len(content) % 8 * (kind != 15))
        )

    def matrix() -> bytes:
        shape = rng.part([4, 5, 3], [4, 5], [], [0, 5, 3], [1] * 40)
        flags = struct.pack("<II", rng.part(6, 7, 1, 2, 0x806, 9), 0)
        parts = [element(6, flags), element(5, b"".join(struct.pack("<I", rng.size(n, 32)) for n in shape)),
                 element(1, rng.part(b"IMAGES", b"x", b"", b"n" * 500)),
                 element(9, rng.part(bytes(8 * math.prod(shape)), rng.payload(99), bytes(2**23)))]  # fmt: skip
        return element(14, b"".join(rng.part(parts, parts[:2], parts[::-1])))

    content = [matrix() for _ in range(rng.part(1, 0, 2, 5))]
    content = [element(15, zlib.compress(part, 1)) if rng.random() < 0.5 else part for part in content]
    return b"MATLAB 5.0".ljust(124) + rng.part(b"\0\1IM", b"\1\0MI", b"\0\0\0\0") + b"".join(content)


def wav(rng: Source) -> bytes:
    """A WAV file of any rate, coding, number of channels and order of chunks."""
    rate = rng.part(16_000, 8000, 44_100, 767_999, 96_001, 99_999, 1000, 0, rng.randrange(800_000), rng.choice(SIZES))
    bits, coding, channels = rng.part(16, 8, 24, 32, 64, 0, 12), rng.part(1, 3, 0xFFFE, 7), rng.part(1, 2, 3, 0, 65535)
    form = struct.pack("<HHIIHH", coding, channels, rate % 2**32, rng.size(32_000, 32), rng.size(2, 16), bits)
    form += rng.payload(24) * rng.part(0, 1)
    data = rng.payload(rng.part(2000, 16, 32_000, 0))
    chunks = rng.part([(b"fmt ", form), (b"data", data)], [(b"fmt ", form), (b"LIST", b"ab"), (b"data", data)],
                      [(b"data", data), (b"fmt ", form)], [(b"data", data)])  # fmt: skip
    body = b"".join(name + struct.pack("<I", rng.size(len(part), 32)) + part for name, part in chunks)
    return b"RIFF" + struct.pack("<I", rng.size(len(body) + 4, 32)) + b"WAVE" + body


def image(rng: Source) -> bytes:
    """A PNG with right checksums and any sizes, or the header of another format."""
    width, height = (rng.part(8, 9, 9000, 20_000, rng.choice(SIZES)) % 2**32 for _ in range(2))
    other = rng.part("PNG", "PPM", "BMP", "GIF", "TIFF")
    if other == "PPM":
        return b"P%d %d %d 255\n" % (rng.part(6, *range(1, 8)), width, height) + rng.payload(192)
    if other == "BMP":
        head = struct.pack("<IHHIIii", rng.size(246, 32), 0, 0, 54, 40, width % 2**31, height % 2**31)
        head += struct.pack("<HHIIiiII", 1, rng.part(24, 1, 8, 32), rng.part(0, 1, 2, 3), 0, 0, 0, 0, 0)
        return b"BM" + head + rng.payload(192)
    if other == "GIF":
        return b"GIF89a" + struct.pack("<HHBBB", width % 2**16, height % 2**16, 0xF7, 0, 0) + rng.payload(900)
    if other == "TIFF":
        tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, rng.size(1, 32), 8), (259, 3, 1, rng.part(1, 5, 8)),
                (262, 3, 1, 1), (273, 4, 1, 8), (279, 4, 1, rng.size(64, 32))]  # fmt: skip
        entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
        return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + bytes(4) + rng.payload(64)

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    depth, kind = rng.part((8, 0), (8, 2), (8, 3), (1, 0), (16, 0), (8, 6), (3, 9))
    pixels = zlib.compress(bytes(rng.part(9 * 8, 25 * 8, 2**22, 0)), 1)
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, rng.part(0, 1))
    text = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**21), 1)) * rng.part(0, 1)
    palette = chunk(b"PLTE", bytes(768)) * (kind == 3)
    parts = [chunk(b"IHDR", header), text, palette, chunk(b"IDAT", pixels), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(rng.part(parts, parts[:4], parts[:1], parts[1:]))


def safetensors(rng: Source) -> bytes:
    """A file of weights whose header may be changed."""
    header = {"params.a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}
    text = json.dumps(header).encode() if rng.random() < 0.3 else mutate_json(header, rng)
    return struct.pack("<Q", rng.size(len(text))) + text + rng.payload(24)


_ODD = (None, True, [], {}, "", "x" * 300, 0, -1, 2**31, 2**63, 10**30, 1e308, -1e308, 0.5, float("nan"), float("inf"),
        [[]], [None], {"": None}, ["a"], [1, 2, 3], "1", "\ud800", [0.1] * 7)  # fmt: skip


def mutate_json(value: Any, rng: Source) -> bytes:
    """Returns a JSON text like that of a value, with one to three places of another type, size or nesting."""
    tree, nested = json.loads(json.dumps(value)), ""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        parent, key, at = None, None, tree
        while isinstance(at, (dict, list)) and at and (parent is None or rng.random() < 0.75):
            parent, key = at, rng.choice(list(at)) if isinstance(at, dict) else rng.randrange(len(at))
            at = at[key]
        change = rng.randrange(9)
        if change == 0:
            new: Any = [at]
        elif change == 1:
            new = {"a": at}
        elif change == 2:
            new = str(at)[:1000]
        elif change == 3:
            new, nested = "@", rng.choice(("[", '{"a":')) * rng.choice((5, 40, 900, 100_000))
        elif change == 4 and isinstance(at, list):
            new = at * rng.choice((0, 2, 3000))
        elif change == 5 and parent is not None:
            new = rng.choice(list(parent.values()) if isinstance(parent, dict) else parent)
        else:
            new = rng.choice(_ODD)
        if parent is None:
            tree = new
        elif change == 6 and isinstance(parent, dict):
            del parent[key]
        elif change == 7 and isinstance(parent, dict):
            parent[rng.choice(WORDS)] = parent.pop(key)
        else:
            parent[key] = new
    text = json.dumps(tree).replace(
        '"@"',
        nested + "0" + nested[::-1].translate({91: "]", 123: "}", 34: "", 97: "", 58: ""}),
        3,  # of 3,000
    )
    coded = rng.random()
    raw = text.encode("utf-16" if coded < 0.03 else "utf-8-sig" if coded < 0.06 else "utf-8")
    return raw[: rng.randrange(len(raw) + 1)] if coded > 0.97 else raw
