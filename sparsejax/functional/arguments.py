"""Arguments of public functions, checked and converted by their annotations before anything is compiled.

Annotations are the one description of what a function takes, and these rules hold for all functions:

- An array is a JAX or NumPy array with the annotated number of axes, or a number. Integers become floats where floats
  are expected, as in `jnp.sin`, and narrow integers become int32. The sizes of axes are left to the function.
- A NumPy number, or a NumPy array without axes, is the Python number. A traced float without axes becomes float64 if
  an array is, else float32, so that it does not change the type of the result either.
- A NamedTuple may be a dictionary of its fields, as a checkpoint restores it.
- Arrays of examples are of one number of examples.
- An integer is neither a bool nor a float, and is not traced unless the annotation names an array, too.
- A size may be one integer for both axes where a tuple of integers is expected as well.
- A string is one of those of its `Literal`.
- A PRNG key may be in the form of `jax.random.PRNGKey`.
"""

import functools
import inspect
import numbers
import operator
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal, NoReturn, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import AbstractArray, Bool, Float, Int, Key, Num, UInt32

Function = TypeVar("Function", bound=Callable[..., Any])
Convert = Callable[[str, Any], Any]
_NAMES: dict[Any, str] = {
    Float: "floats", Int: "integers", Num: "numbers", Bool: "booleans", Key: "PRNG keys", UInt32: "PRNG keys"
}  # fmt: skip


def checked(function: Function) -> Function:
    """Returns the function with its arguments checked and converted by their annotations.

    Args:
      function: its parameters have annotations.

    Returns:
      The function. It raises a TypeError for a value of another type, and a ValueError for an array with another number
      of axes, for anything but an integer where integers are expected, and for an unknown string.
    """
    annotations = {name: one.annotation for name, one in inspect.signature(function).parameters.items()}
    converters = {name: _converter(annotation) for name, annotation in annotations.items()}
    batched = {name for name, annotation in annotations.items() if _has_batch(annotation)}
    numeric = {name for name, annotation in annotations.items() if float in _members(annotation)}

    @functools.wraps(function)
    def of_checked(*args, **kwargs):
        # Python itself refuses arguments that are too many, given twice or have unknown names.
        named = zip(converters.items(), args, strict=False)
        given = {name: convert(name, value) for (name, convert), value in named}
        more = {name: converters.get(name, _pass)(name, value) for name, value in kwargs.items()}
        both = given | more
        _check_batch({name: both[name] for name in both if name in batched and both[name] is not None})
        kinds = {value.dtype for name, value in both.items() if name not in numeric and _is_float(value)}
        widest = jnp.result_type(float) if jnp.dtype(jnp.float64) in kinds else jnp.float32  # x64 may be off

        def finish(name: str, value: Any) -> Any:
            return _like_number(value, widest) if name in numeric else value

        args = (*(finish(name, value) for name, value in given.items()), *args[len(given) :])
        return function(*args, **{name: finish(name, value) for name, value in more.items()})

    return typing.cast(Function, of_checked)


def _has_batch(annotation: Any) -> bool:
    """Returns whether the first axis of the array is that of the examples."""
    return any(getattr(one, "dim_str", "").startswith(("batch", "examples")) for one in _members(annotation))


def _check_batch(arrays: dict[str, Any]) -> None:
    """Refuses arrays of examples that would be broadcast, such as one image and four keys."""
    sizes = {name: value.shape[0] for name, value in arrays.items()}
    if len(set(sizes.values())) > 1:
        found = " and ".join(f"{size} of {name}" for name, size in sizes.items())
        raise ValueError(f"There are {found}; expected the same number of examples.")


def _like_number(value: Any, dtype: Any) -> Any:
    """Returns an array without axes in the precision of the others, which it then does not change, like a number."""
    scalar = isinstance(value, jax.Array) and _is_float(value) and value.ndim == 0 and not value.weak_type
    return value.astype(dtype) if scalar else value


def check_int(name: str, value: Any) -> int:
    """Returns an integer of any type as a Python int.

    Raises:
      ValueError: it is a bool, no integer, or traced.
    """
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        number = operator.index(value)
    except TypeError:  # also that of a traced value
        hint = " (round it first)" if isinstance(value, float) else ""
        raise ValueError(f"{name} is {_describe(value)}; expected an integer{hint}.") from None
    if not -(2**31) <= number < 2**31:
        raise ValueError(f"{name} is {_describe(value)}; expected an integer of 32 bits.")
    return number


def _converter(annotation: Any) -> Convert:
    """Returns the function that checks and converts a value for this annotation."""
    expected = _members(annotation)
    classes = [one for one in expected if isinstance(one, type)]
    arrays = [one for one in classes if issubclass(one, AbstractArray)]
    records = [one for one in classes if issubclass(one, tuple)]
    tuples = [one for one in expected if typing.get_origin(one) is tuple]
    convert = _pass
    if tuples and int in expected:
        convert = functools.partial(_to_size, parts=typing.get_args(tuples[0]))
    elif int in expected or float in expected:
        convert = functools.partial(_to_number, whole=float not in expected, arrays=arrays)
    elif records:
        convert = functools.partial(_to_record, records=records, arrays=arrays)
    elif arrays:
        convert = functools.partial(_to_array, expected=arrays)
    elif bool in expected:
        convert = _to_bool
    elif str in expected:
        convert = _to_name
    elif typing.get_origin(expected[0]) is Literal:
        convert = functools.partial(_to_choice, choices=typing.get_args(expected[0]))
    elif typing.get_origin(expected[0]) is tuple:
        convert = functools.partial(_to_tuple, parts=typing.get_args(expected[0]))
    if type(None) in expected:
        return lambda name, value: None if value is None else convert(name, value)
    return convert


def _members(annotation: Any) -> tuple[Any, ...]:
    union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    return typing.get_args(annotation) if union else (annotation,)


def _pass(name: str, value: Any) -> Any:
    return value


def _to_number(name: str, value: Any, *, whole: bool, arrays: list[type[AbstractArray]]) -> Any:
    known = isinstance(value, (np.generic, np.ndarray)) or (not arrays and _is_concrete(value))
    if known and value.ndim == 0:
        value = value.item()
    if arrays and hasattr(value, "dtype"):
        return _to_array(name, value, expected=arrays)
    if whole:
        return check_int(name, value)
    if not isinstance(value, numbers.Real):
        _refuse(name, value, "a number")
    try:
        return value if type(value) is int and -(2**31) < value < 2**31 else float(value)
    except OverflowError:
        raise ValueError(f"{name} is {_describe(value)}; expected a number that fits a float.") from None


def _to_array(name: str, value: Any, *, expected: list[type[AbstractArray]]) -> Any:
    if not isinstance(value, jax.Array):
        if not isinstance(value, (np.ndarray, np.generic, numbers.Number)) and not hasattr(value, "__jax_array__"):
            _refuse(name, value, "an array (jnp.asarray makes one)")
        if not (isinstance(value, np.ndarray) and any(one.array_type is np.ndarray for one in expected)):
            value = _to_jax(name, value)
    kinds = {one.dtype for one in expected}
    if Key in kinds and value.dtype == jnp.uint32 and value.ndim and value.shape[-1] == 2:
        value = jax.random.wrap_key_data(jnp.asarray(value))  # a key in the form of jax.random.PRNGKey
    if Float in kinds and Int not in kinds and not jnp.issubdtype(value.dtype, jnp.inexact) and not _is_key(value):
        value = value.astype(jnp.result_type(float))
    elif Int in kinds and jnp.issubdtype(value.dtype, jnp.integer) and value.dtype.itemsize < 4:
        value = value.astype(jnp.int32)
    elif Int in kinds and jnp.issubdtype(value.dtype, jnp.unsignedinteger):
        whole = jnp.result_type(int)
        value = jnp.minimum(value, jnp.iinfo(whole).max).astype(whole)
    fitting = [one for one in expected if _has_dtype(one, value)]
    if not fitting:
        names = " or ".join(dict.fromkeys(_NAMES[one.dtype] for one in expected))
        if kinds == {Int}:  # a ValueError like that of one number
            raise ValueError(f"{name} is an array of {value.dtype}; expected integers (jnp.round(...).astype(int)).")
        raise TypeError(f"{name} is an array of {value.dtype}; expected {names}.")
    if not any(_has_axes(one, value.ndim) for one in fitting):
        shapes = " or ".join(dict.fromkeys(map(_shape, fitting)))
        raise ValueError(f"{name} has shape {value.shape}; expected {shapes}.")
    return value


def _to_jax(name: str, value: Any) -> jax.Array:
    """Returns the value as a JAX array; refuses integers that JAX would truncate."""
    try:
        array = jnp.asarray(value)
        narrowed = isinstance(value, (np.generic, np.ndarray)) and value.dtype.itemsize > array.dtype.itemsize
        if narrowed and value.dtype.kind in "iu" and np.any(np.asarray(array) != value):
            raise OverflowError
    except TypeError:
        _refuse(name, value, "numbers")
    except OverflowError:
        raise ValueError(
            f"{name} is {_describe(value)} with integers beyond {jnp.result_type(int)}; convert it to floats, or set "
            "jax_enable_x64."
        ) from None
    return array


def _has_dtype(annotation: type[AbstractArray], value: Any) -> bool:
    return _is_key(value) if annotation.dtype is Key else str(value.dtype) in annotation.dtypes


def _is_concrete(value: Any) -> bool:
    return isinstance(value, jax.Array) and not isinstance(value, Tracer)


def _is_float(value: Any) -> bool:
    return isinstance(value, (jax.Array, np.ndarray)) and jnp.issubdtype(value.dtype, jnp.floating)


def _is_key(value: Any) -> bool:
    return jnp.issubdtype(value.dtype, jax.dtypes.prng_key)


def _has_axes(annotation: type[AbstractArray], ndim: int) -> bool:
    axes = annotation.dim_str.split()
    variadic = any(axis.startswith(("*", "...")) for axis in axes)
    return ndim >= len(axes) - 1 if variadic else ndim == len(axes)


def _shape(annotation: type[AbstractArray]) -> str:
    axes = ("..." if axis.startswith(("*", "...")) else axis.lstrip("#") for axis in annotation.dim_str.split())
    return f"[{', '.join(axes)}]"


def _to_record(name: str, value: Any, *, records: list[Any], arrays: list[type[AbstractArray]]) -> Any:
    for record in records:
        if isinstance(value, Mapping) and set(value) == set(record._fields):
            value = record(**value)
        if isinstance(value, record):
            hints = typing.get_type_hints(record)
            parts = [_converter(hints[part])(f"{name}.{part}", getattr(value, part)) for part in record._fields]
            return jax.tree.unflatten(jax.tree.structure(value), parts)
    if arrays and not isinstance(value, tuple):
        return _to_array(name, value, expected=arrays)
    _refuse(name, value, " or ".join(f"a {one.__name__}" for one in records))


def _to_bool(name: str, value: Any) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        _refuse(name, value, "True or False")
    return bool(value)


def _to_name(name: str, value: Any) -> Any:
    if not isinstance(value, (str, tuple)):
        _refuse(name, value, "a name, or a tuple of names")
    return value


def _to_choice(name: str, value: Any, *, choices: tuple[Any, ...]) -> Any:
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} is {_describe(value)}; expected {' or '.join(map(repr, choices))}.")
    return value


def _to_tuple(name: str, value: Any, *, parts: tuple[Any, ...]) -> tuple[Any, ...]:
    if not isinstance(value, (tuple, list)):
        _refuse(name, value, "a tuple")
    if parts[-1] is not Ellipsis and len(value) != len(parts):
        raise ValueError(f"{name} is {_describe(value)}; expected {len(parts)} numbers.")
    return tuple(_converter(parts[0])(f"{name}[{i}]", part) for i, part in enumerate(value))


def _to_size(name: str, value: Any, *, parts: tuple[Any, ...]) -> Any:
    if isinstance(value, (tuple, list)):
        return _to_tuple(name, value, parts=parts)
    return _to_number(name, value, whole=True, arrays=[])


def _refuse(name: str, value: Any, expected: str) -> NoReturn:
    raise TypeError(f"{name} is {_describe(value)}; expected {expected}.")


def _describe(value: Any) -> str:
    if isinstance(value, Tracer):
        return f"a traced value of {value.dtype}"
    if hasattr(value, "dtype"):
        return f"an array of {value.dtype}"
    if isinstance(value, (bool, str, numbers.Number)) or value is None:
        return repr(value) if len(repr(value)) < 40 else f"{repr(value)[:30]}..."
    return f"a {type(value).__name__}"
