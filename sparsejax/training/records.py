"""The JSON files of a run as they are read: of the expected form, or an error of one sentence.

Others may have written them, or another version. Forms are nested like the files: a type, a tuple of alternatives,
`[form]` for a list, `{name: form}` for an object with these entries (`name?` may be missing) and others, and `{str:
form}` for any names.
"""

import contextlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sparsejax.errors import RunFolderError, SparsejaxError, shorten
from sparsejax.files import open_regular
from sparsejax.training.config import MOST_EPOCHS, MOST_MEMBERS

NUMBER = (int, float)
_LONGEST = 2**27  # bytes of a file, or of a line of metrics: more than 10,000 networks need
_DEEPEST = 32  # levels of nested lists and objects
_MOST_NUMBERS = 2**28  # of an example

_DATA = {"name": str, "source": str, "fingerprint": str, "kind?": str, "train?": int, "test?": int, "classes?": int}
_INPUTS = {"shape": [int], "dtype": str, "mean": [NUMBER], "std": [NUMBER]}  # of _DATA since version 0.2
_DTYPES = ("uint8", "int16", "int32", "float32")
DESCRIPTION = {"name": str, "config": {str: {str: object}}, "seeds": [int], "points": [{str: object}], "data": _DATA,
               "schema?": int, "module?": str, "command?": str, "versions?": dict, "device?": dict}  # fmt: skip
_MEMBER = {"seed": int, "test_loss": (*NUMBER, None), "layers?": {str: dict}, "best?": dict, "epoch?": int}
RESULT = {"name": str, "test_loss": (*NUMBER, None), "layers": {str: dict}, "members": [_MEMBER], "best?": dict,
          "measures?": [str], "training_seconds": NUMBER, "seconds": NUMBER, "data?": dict, "config?": dict,
          "versions?": dict, "device?": dict}  # fmt: skip
_LINE = {"step": int, "epoch": NUMBER, "time?": NUMBER}


@contextlib.contextmanager
def reading(path: Path, way_out: str = "Run the training again.") -> Iterator[None]:
    """Turn an exception about the contents of a file into an error of one sentence that names the file."""
    try:
        yield
    except SparsejaxError:
        raise
    except OSError as error:
        raise RunFolderError(f"{path} cannot be read: {error.strerror or error}. {way_out}") from None
    except Exception as error:  # what is missing, or of another type, can fail anywhere
        said = str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"
        raise RunFolderError(
            f"{path} cannot be read, because it is damaged or of another program: {shorten(said)}. {way_out}"
        ) from error


def read_json(path: Path, form: Any) -> Any:
    """Returns the contents of a JSON file.

    Raises:
      FileNotFoundError: there is none.
      Exception: of another type, if it cannot be read or has another form; use it in `reading`.
    """
    with open_regular(path) as file:
        text = file.read(_LONGEST + 1)
    if len(text) > _LONGEST:
        raise ValueError(f"it has more than {_LONGEST:,} bytes")
    return parse_json(text, form)


def parse_json(text: str | bytes, form: Any) -> Any:
    """Returns the value of a JSON text, without NaN and infinity, and with integers of 64 bits.

    Raises:
      ValueError: it is none, or has another form.
    """
    try:
        value = json.loads(text, parse_int=_integer, parse_constant=_refuse, parse_float=_number)
    except RecursionError:
        raise ValueError(f"it is nested more than {_DEEPEST} levels deep") from None
    _check_depth(value)
    check_form(value, form)
    return value


def check_form(value: Any, form: Any, name: str = "it") -> None:
    """Checks the form of a value.

    Raises:
      ValueError: it has another one.
    """
    if isinstance(form, tuple):
        if not any(_is(value, one) for one in form):
            raise ValueError(f"{name} is {shorten(repr(value), 60)}; expected {' or '.join(map(_name, form))}")
    elif isinstance(form, list):
        check_form(value, list, name)
        for i, item in enumerate(value):
            check_form(item, form[0], f"{name}[{i}]")
    elif isinstance(form, dict):
        check_form(value, dict, name)
        if str in form:
            for key, item in value.items():
                check_form(item, form[str], f"{name}[{shorten(repr(key), 40)}]")
            return
        for key, inner in form.items():
            key, there = key.removesuffix("?"), key.removesuffix("?") in value
            if not there and key in form:
                raise ValueError(f"{name} has no {key}")
            if there:
                check_form(value[key], inner, key if name == "it" else f"{name}[{key!r}]")
    elif not _is(value, form):
        raise ValueError(f"{name} is {shorten(repr(value), 60)}; expected {_name(form)}")


def read_description(path: Path) -> dict[str, Any]:
    """Returns the contents of `config.json`; errors as in `read_json`."""
    found = read_json(path, DESCRIPTION)
    if not 1 <= len(found["seeds"]) <= MOST_MEMBERS:
        raise ValueError(f"it has {len(found['seeds']):,} networks; expected 1 to {MOST_MEMBERS:,}")
    if "shape" in found["data"]:
        check_form(found["data"], _INPUTS, "data")
        shape, dtype, mean, std = (found["data"][name] for name in _INPUTS)
        if not 1 <= len(shape) <= 3 or min(shape) < 1 or math.prod(shape) > _MOST_NUMBERS or dtype not in _DTYPES:
            raise ValueError(f"its examples are {shorten(dtype)} {shorten(str(shape))}")
        if not {len(mean), len(std)} <= {1, shape[-1]}:
            raise ValueError(f"it has {len(mean)} means and {len(std)} standard deviations of pixels {shape}")
    return found


def read_result(path: Path) -> dict[str, Any]:
    """Returns the contents of `result.json`; errors as in `read_json`."""
    found = read_json(path, RESULT)
    if not 1 <= len(found["members"]) <= MOST_MEMBERS:
        raise ValueError(f"it has {len(found['members']):,} networks; expected 1 to {MOST_MEMBERS:,}")
    return found


def read_lines(path: Path) -> Iterator[str]:
    """Yields the lines of `metrics.jsonl`, for `parse_line`; "" in place of one that is too long.

    Raises:
      OSError: it cannot be read.
    """
    with open_regular(path) as file:
        while text := file.readline(_LONGEST):
            cut = _is_cut(text)
            yield "" if cut else text.decode("utf-8", "replace")
            while cut:
                cut = _is_cut(file.readline(_LONGEST))


def _is_cut(text: bytes) -> bool:
    return len(text) == _LONGEST and not text.endswith(b"\n")


def parse_line(text: str) -> dict[str, Any]:
    """Returns a line of `metrics.jsonl`: numbers, and lists with one number, or null, per network.

    Raises:
      ValueError: it is none.
    """
    line = parse_json(text, _LINE)
    if not (0 <= line["epoch"] <= MOST_EPOCHS and 0 <= line["step"] < 2**31):
        raise ValueError(f"epoch {line['epoch']} and step {line['step']} are those of no run")
    for name, value in line.items():
        if not {*map(type, value if isinstance(value, list) else [value])} <= {int, float, type(None)}:
            raise ValueError(f"{name} is {shorten(repr(value), 60)}; expected numbers or null")
    if len(_widths(line)) > 1:
        raise ValueError("its lists have several lengths")
    return line


def width_of(line: dict[str, Any]) -> int | None:
    """Returns the number of networks in a line of `metrics.jsonl`, None if it has no values."""
    return next(iter(_widths(line)), None)


def _widths(line: dict[str, Any]) -> set[int]:
    values = [value for name, value in line.items() if name not in ("step", "epoch", "time")]
    return {len(value) if isinstance(value, list) else 1 for value in values}


def _is(value: Any, form: Any) -> bool:
    """Returns whether a value has a type; a truth value is no number."""
    if form is None or isinstance(value, bool):
        return value is form or form is object
    return isinstance(value, form)


def _name(form: Any) -> str:
    words = {int: "an integer", float: "a number", str: "a text", dict: "an object", list: "a list", None: "null"}
    return words.get(form, str(form))


def _integer(text: str) -> int:
    if len(text) > 20 or not -(2**63) <= int(text) < 2**63:
        raise ValueError(f"it has the integer {shorten(text, 40)}, of more than 64 bits")
    return int(text)


def _number(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"it has the number {shorten(text, 40)}, which is too large")
    return number


def _refuse(text: str) -> Any:
    raise ValueError(f"it has {text}, which is no JSON")


def _check_depth(value: Any) -> None:
    level, depth = [value], 0
    while level := [item for value in level if isinstance(value, (list, dict))
                    for item in (value.values() if isinstance(value, dict) else value)]:  # fmt: skip
        depth += 1
        if depth > _DEEPEST:
            raise ValueError(f"it is nested more than {_DEEPEST} levels deep")
