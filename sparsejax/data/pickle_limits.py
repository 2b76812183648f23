"""Limits on pickles, checked before they are read: a few bytes can make them nest or repeat values without end."""

import pickle
import pickletools
from typing import Any

_DEEPEST = 20
"""Nested values at most; arrays in a dictionary need 5."""
_PUTS, _GETS = ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), ("GET", "BINGET", "LONG_BINGET", "DUP")
_CHANGES = ("APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD")


class _Value:
    """A value on the stack: how deep values are nested in it, its size in bytes, whether there are several of it."""

    __slots__ = ("depth", "shared", "size")

    def __init__(self, depth: int = 0, size: int = 0):
        self.depth, self.size, self.shared = depth, size, False


def check_limits(raw: bytes) -> None:
    """Checks that reading a pickle takes memory and time in proportion to its size.

    It follows the stack and the memo without making any value. What the pickle repeats, from its memo, counts as often
    as it appears, and only finished values are repeated, so that none contains itself.

    Raises:
      pickle.UnpicklingError: it nests values deeply, repeats more than it holds, or has gaps in its memo.
      Exception: of other types, if it is damaged.
    """
    stack: list[Any] = []
    memo: dict[Any, _Value] = {}
    repeated = 0
    for count, (opcode, argument, _) in enumerate(pickletools.genops(raw)):
        is_number = isinstance(argument, int)
        if is_number and abs(argument) >= 2**64:
            raise pickle.UnpicklingError("it has a number of more than 64 bits")
        if opcode.name in _GETS:
            value = stack[-1] if opcode.name == "DUP" else memo[argument]
            value.shared, repeated = True, repeated + value.size
            if repeated > len(raw):
                raise pickle.UnpicklingError("what it repeats is larger than the file")
            stack.append(value)
        elif opcode.name in _PUTS:
            place = argument if is_number else len(memo)
            if place > count:
                raise pickle.UnpicklingError(f"its memo has {place:,} entries after {count:,} operations")
            memo[place] = _top(stack)
        elif opcode.name == "MARK":
            stack.append(None)
        else:
            taken = _take(stack, opcode)
            made = _Value()
            if opcode.name in _CHANGES:
                made = taken.pop(0)
                if made.shared:
                    raise pickle.UnpicklingError("it changes a value that it has repeated")
            made.depth = max(made.depth, 1 + max((value.depth for value in taken), default=-1))
            made.size += sum(value.size for value in taken) + (
                len(argument) if isinstance(argument, str | bytes) else 8
            )
            if made.depth > _DEEPEST:
                raise pickle.UnpicklingError(f"it nests more than {_DEEPEST} values")
            stack += [made] * len(opcode.stack_after)


def _take(stack: list[Any], opcode: pickletools.OpcodeInfo) -> list[_Value]:
    """Pops what an operation takes: a number of values, and for some what follows the last mark."""
    before, after_mark = opcode.stack_before, []
    if pickletools.markobject in before:
        while (value := stack.pop()) is not None:
            after_mark.append(value)
        before = before[: before.index(pickletools.markobject)]
    return [*reversed([_pop(stack) for _ in before]), *after_mark]


def _pop(stack: list[Any]) -> _Value:
    value = _top(stack)
    stack.pop()
    return value


def _top(stack: list[Any]) -> _Value:
    if not stack or stack[-1] is None:
        raise pickle.UnpicklingError("it takes a value that is not there")
    return stack[-1]
