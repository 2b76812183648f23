"""Simulates a kernel compiled for NVIDIA GPUs with numpy: block by block, all threads at once.

It supports only the instructions of our Mosaic kernels; others raise a KeyError.
"""

import re

import numpy as np

THREADS = 128
_TYPES = {"b16": np.uint16, "b32": np.uint32, "b64": np.uint64, "u16": np.uint16, "u32": np.uint32, "u64": np.uint64,
          "s16": np.int16, "s32": np.int32, "s64": np.int64, "f32": np.float32}  # fmt: skip
_COMPARED = {"eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater,
             "ge": np.greater_equal}  # fmt: skip


def run(text: str, arrays: list[np.ndarray], blocks: int) -> list[np.ndarray]:
    """Runs the one kernel of a PTX text on copies of arrays, its parameters in order, and returns the copies."""
    memory = [np.frombuffer(bytearray(array.tobytes()), np.uint8) for array in arrays]
    program, labels = _parsed(text)
    for block in range(blocks):
        _Block(program, labels, memory, block).run()
    return [bytes_.view(array.dtype).reshape(array.shape) for bytes_, array in zip(memory, arrays, strict=True)]


def _parsed(text):
    body = text[text.index("{", text.index(".entry")) :]
    program, labels = [], {}
    for line in body.splitlines():
        line = line.split("//")[0].strip()
        if label := re.fullmatch(r"(\$\w+):", line):
            labels[label[1]] = len(program)
        elif line and line[0] not in "{}.":
            guard, code = re.match(r"(?:@(!?%\w+)\s+)?(.*?);?$", line).groups()
            name, _, rest = code.partition(" ") if "\t" not in code else code.partition("\t")
            operands = [word.strip() for word in re.split(r",\s*(?![^{]*\})", rest)] if rest else []
            program.append((guard, name.strip(), operands))
            if name.strip() == "ret":
                break
    return program, labels


class _Block:
    def __init__(self, program, labels, memory, block):
        self.program, self.labels, self.memory, self.block = program, labels, memory, block
        self.registers, self.shared = {}, np.zeros(2**16, np.uint8)
        self.thread = np.arange(THREADS, dtype=np.uint32)

    def run(self):
        at = 0
        while True:
            guard, name, operands = self.program[at]
            at += 1
            if name == "ret":
                return
            active = np.ones(THREADS, bool)
            if guard:
                active = self.registers[guard.lstrip("!")] ^ guard.startswith("!")
            if name in ("bra", "bra.uni"):
                assert active.all() or not active.any(), "threads of a block part"
                at = self.labels[operands[0]] if active.all() else at
            else:
                self.step(name, operands, active)

    def step(self, name, operands, active):
        op, *kind = name.split(".")
        if op in ("bar", "fence", "barrier"):
            return
        dtype = _TYPES.get(kind[-1], np.uint32) if kind else np.uint32
        if op == "ld" and kind[0].startswith("param"):
            number = int(re.search(r"param_(\d+)", operands[1])[1])
            return self.put(operands[0], np.full(THREADS, number << 40, np.uint64), active)
        if op in ("ld", "st"):
            return self.moved(op, kind, dtype, operands, active)
        if op == "mov" and operands[0].startswith("{"):
            for i, register in enumerate(operands[0].strip("{}").split(", ")):
                self.put(register, (self.get(operands[1], np.uint32) >> np.uint32(16 * i)).astype(np.uint16), active)
            return None
        if op == "mov" and operands[1].startswith("{"):
            low, high = (self.get(word, np.uint16).astype(np.uint32) for word in operands[1].strip("{}").split(", "))
            return self.put(operands[0], low | (high << np.uint32(16)), active)
        if op == "cvta":
            return self.put(operands[0], self.get(operands[1], np.uint64), active)
        if op == "elect":
            return self.put(operands[0].split("|")[1], self.thread % 32 == 0, active)
        if op == "shfl":
            values = self.get(operands[1], np.uint32)
            lane = self.get(operands[2], np.int64)
            source = lane if kind[1] == "idx" else (self.thread % 32) ^ lane
            return self.put(operands[0], values[self.thread // 32 * 32 + source.astype(np.int64)], active)
        if op == "redux":
            values = self.get(operands[1], dtype).reshape(-1, 32)
            reduced = {"add": np.sum, "max": np.max, "min": np.min}[kind[1]](values, axis=1).astype(dtype)
            return self.put(operands[0], np.repeat(reduced, 32), active)
        self.put(operands[0], self.value(op, kind, dtype, operands[1:]), active)

    def value(self, op, kind, dtype, inputs):
        if op == "setp" and len(inputs) == 3:
            combine = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}[kind[1]]
            return combine(self.value(op, [kind[0]], dtype, inputs[:2]), self.get(inputs[2], bool))
        if op == "setp":
            a, b = (self.get(word, dtype) for word in inputs[:2])
            if kind[0] == "nan":
                return np.isnan(a) | np.isnan(b)
            unordered = kind[0] in ("ltu", "leu", "gtu", "geu", "equ", "neu")
            with np.errstate(invalid="ignore"):
                found = _COMPARED[kind[0][:2]](a, b)
            nan = (np.isnan(a) | np.isnan(b)) if dtype == np.float32 else np.zeros(THREADS, bool)
            return np.where(nan, unordered, found)
        if op == "selp":
            return np.where(self.get(inputs[2], bool), self.get(inputs[0], dtype), self.get(inputs[1], dtype))
        if op == "mul" and kind[0] == "wide":
            wide = np.uint64 if kind[1].startswith("u") else np.int64
            a, b = (self.get(word, dtype).astype(wide) for word in inputs)
            return (a * b).astype(np.uint64)
        if op == "cvt" and kind[-1] == "bf16":
            return (self.get(inputs[0], np.uint16).astype(np.uint32) << 16).view(np.float32)
        if op == "cvt":
            return self.get(inputs[0], _TYPES[kind[-1]]).astype(_TYPES[kind[-2]])
        if dtype is np.uint32 and kind and kind[-1] == "pred":
            a, *b = (self.get(word, bool) for word in inputs)
            return {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor, "not": np.logical_not,
                    "mov": lambda a: a}[op](a, *b)  # fmt: skip
        values = [self.get(word, dtype) for word in inputs]
        with np.errstate(over="ignore", invalid="ignore"):
            return _ARITHMETIC[op](*values)

    def moved(self, op, kind, dtype, operands, active):
        place, value = operands if op == "st" else operands[::-1]
        names = value.strip("{}").split(", ")
        base, offset = re.fullmatch(r"\[([%\w]+)(?:\+(-?\d+))?\]", place).groups()
        address = self.get(base, np.uint64).astype(np.int64) + int(offset or 0)
        size = np.dtype(dtype).itemsize
        for i, register in enumerate(names):
            at = (address & (2**40 - 1)) + i * size
            if "shared" in kind:
                memory = self.shared
            else:
                number = set((address >> 40).tolist())
                assert len(number) == 1
                memory = self.memory[number.pop()]
            assert (at[active] % (size * len(names)) == i * size).all(), "a vector is not aligned"
            assert (at[active] >= 0).all() and (at[active] + size <= len(memory)).all(), "beyond an array's end"
            words = memory.view(dtype)
            if op == "ld":
                result = np.zeros(THREADS, dtype)
                result[active] = words[at[active] // size]
                self.put(register, result, active)
            else:
                words[at[active] // size] = self.get(register, dtype)[active]

    def get(self, word, dtype):
        if word == "%tid.x":
            return self.thread.astype(dtype)
        if word == "%ctaid.x":
            return np.full(THREADS, self.block, dtype)
        if word.startswith("0f"):
            return np.full(THREADS, int(word[2:], 16), np.uint32).view(np.float32)
        if re.fullmatch(r"-?\d+|0x\w+", word):
            width = {1: 8, 2: 16, 4: 32, 8: 64}[np.dtype(dtype).itemsize]
            return np.full(THREADS, int(word, 0) % 2**width, np.dtype(f"u{np.dtype(dtype).itemsize}")).view(dtype)
        if word.startswith("__dynamic_shmem"):
            return np.zeros(THREADS, np.uint64)
        value = self.registers[word]
        dtype = np.dtype(dtype)
        if np.bool_ in (dtype.type, value.dtype.type):
            return value
        if value.dtype.itemsize != dtype.itemsize:
            value = value.view(f"u{value.dtype.itemsize}").astype(f"u{dtype.itemsize}")
        return value.view(dtype)

    def put(self, register, value, active):
        old = self.registers.get(register)
        if old is not None and not active.all():
            value = np.where(active, value, old.view(value.dtype))
        self.registers[register] = np.ascontiguousarray(value)


_ARITHMETIC = {
    "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b, "max": np.maximum,
    "min": np.minimum, "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor, "not": np.bitwise_not,
    "shl": lambda a, b: a << b.astype(a.dtype), "shr": lambda a, b: a >> b.astype(a.dtype), "mov": lambda a: a,
    "neg": lambda a: -a, "mad": lambda a, b, c: a * b + c,
}  # fmt: skip
