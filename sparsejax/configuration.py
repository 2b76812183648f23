"""Configurations as pytrees: frozen dataclasses whose traced fields are leaves.

A grid of networks is a stack of configurations: one compiled program works for all configurations of the same
structure. The other fields, and which traced fields are None, are part of the structure.
"""

import dataclasses
import functools
import math
import os
import types
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar, Union, dataclass_transform, get_args, get_origin, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from sparsejax.errors import ConfigError, shorten

T = TypeVar("T")


def traced(default: Any = dataclasses.MISSING) -> Any:
    """Declare a field that is a leaf: a number, a tuple of numbers and Nones, None, or a nested configuration.

    Args:
      default: the field's default; without one the field is required.

    Returns:
      A dataclass field.
    """
    return dataclasses.field(default=default, metadata={"traced": True})


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(dataclasses.field,))
def configuration(cls: type[T] | None = None, *, kw_only: bool = True) -> Any:
    """Make a class a frozen dataclass that is a pytree.

    Fields declared by `traced` become leaves; all others must be hashable and become part of the tree structure. The
    values must have the types that the annotations name. If the class has a method `check`, it runs whenever an
    instance is made of plain numbers. Traced and stacked values are not checked.

    Args:
      cls: the class; None when the decorator is called with arguments.
      kw_only: take fields by name only.

    Returns:
      The class, registered with JAX.

    Examples:
      >>> @configuration
      ... class Net:
      ...     units: int = 200
      ...     sigma: float = traced(0.1)
      >>> jax.tree.leaves(Net(sigma=0.5))
      [0.5]
    """

    def register(cls: type[T]) -> type[T]:
        if not hasattr(cls, "__post_init__"):
            cls.__post_init__ = _check  # type: ignore[attr-defined]
        made = dataclasses.dataclass(frozen=True, kw_only=kw_only)(cls)
        names = {True: [], False: []}
        for field in dataclasses.fields(made):  # pyright: ignore[reportArgumentType]
            names[bool(field.metadata.get("traced"))].append(field.name)
        return _register(made, names[True], names[False])

    return register if cls is None else register(cls)


def _register(cls: type[T], leaves: list[str], structure: list[str]) -> type[T]:
    """Register a pytree that JAX puts together without a check: on the way its leaves may be anything."""

    def flatten(config: T) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        return tuple(getattr(config, name) for name in leaves), tuple(getattr(config, name) for name in structure)

    def flatten_with_keys(config: T) -> tuple[tuple[tuple[Any, Any], ...], tuple[Any, ...]]:
        children, rest = flatten(config)
        return tuple(zip(map(jax.tree_util.GetAttrKey, leaves), children, strict=True)), rest

    def unflatten(rest: tuple[Any, ...], children: Any) -> T:
        config = object.__new__(cls)
        for name, value in zip((*leaves, *structure), (*children, *rest), strict=True):
            object.__setattr__(config, name, value)
        return config

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    return cls


def _check(self: Any) -> None:
    plain_leaves = all(isinstance(leaf, (int, float, np.number, str)) for leaf in jax.tree.leaves(self))
    for field, hint in _annotated(type(self)):
        if field.metadata.get("traced") and not plain_leaves:
            continue
        given = getattr(self, field.name)
        value = given if dataclasses.is_dataclass(given) else plain(given)
        if not (_fits(value, hint) and _has_32_bits(value)):
            raise ConfigError(
                f"{_path(type(self), field.name)} is {shorten(shown(given))}; expected {_describe(hint, value)}."
            )
    if hasattr(self, "check") and is_concrete(self):
        self.check()


def _path(cls: type, name: str) -> str:
    """Return the dotted name of a field: of `TrainingConfig` it is `training.NAME`, and of a network `model.NAME`."""
    part = cls.__name__.removesuffix("Config").lower() if cls.__name__.endswith("Config") else "model"
    return f"{part}.{name}".lstrip(".")


@functools.cache
def _annotated(cls: type) -> list[tuple[dataclasses.Field, Any]]:
    """Return the fields of a class with their types, except those whose own default has another type."""
    try:
        hints = get_type_hints(cls)
    except Exception:  # names that are not defined at run time
        return []
    found = [(field, hints[field.name]) for field in dataclasses.fields(cls)]
    return [(f, hint) for f, hint in found if f.default is dataclasses.MISSING or _fits(plain(f.default), hint)]


def _fits(value: Any, hint: Any) -> bool:
    """Return whether a plain value has an annotated type; all values fit annotations of other kinds."""
    kind, parts = get_origin(hint), get_args(hint)
    if isinstance(value, Tracer):
        return True
    if kind in (Union, types.UnionType):
        return any(_fits(value, part) for part in parts)
    if kind is Literal:
        return any(type(value) is type(part) and value == part for part in parts)
    if kind is tuple and parts:
        entries = parts[:1] * len(value) if parts[-1] is ... and isinstance(value, tuple) else parts
        return isinstance(value, tuple) and len(value) == len(entries) and all(map(_fits, value, entries))
    if hint in (int, float):  # config.json cannot hold NaN or infinities
        return isinstance(value, (int, hint)) and not isinstance(value, bool) and math.isfinite(value)
    return isinstance(value, hint) if hint in (bool, str, types.NoneType) or _is_configuration(hint) else True


def _has_32_bits(value: Any) -> bool:
    """Return whether integers of a plain value fit the arrays that they become."""
    if isinstance(value, tuple):
        return all(map(_has_32_bits, value))
    return not isinstance(value, int) or -(2**31) <= value < 2**31


def _is_configuration(hint: Any) -> bool:
    return isinstance(hint, type) and dataclasses.is_dataclass(hint)


def _describe(hint: Any, value: Any) -> str:
    """Return an annotated type in words, for an error about a value."""
    words = {
        int: "an integer of 32 bits",
        float: "a finite number",
        bool: "True or False",
        str: "a string",
        types.NoneType: "None",
    }
    kind, parts = get_origin(hint), get_args(hint)
    if kind in (Union, types.UnionType):
        none_first = sorted(parts, key=lambda part: part is not types.NoneType)
        return " or ".join(_describe(part, value) for part in none_first)
    if kind is Literal:
        return " or ".join(map(repr, parts))
    if kind is tuple and parts:
        example = f" such as ({value!r},)" if _fits(value, parts[0]) else ""
        return f"a tuple{example}, each entry {_describe(parts[0], None)}"
    return words.get(hint) or f"an instance of {getattr(hint, '__name__', hint)}"


def shown(value: Any) -> str:
    """Return a value in messages: an array as its shape."""
    is_array = isinstance(value, (np.ndarray, jax.Array)) and value.ndim > 0
    return f"an array of shape {value.shape}" if is_array else repr(value if isinstance(value, list) else plain(value))


def plain(value: Any) -> Any:
    """Return a value as JSON has it, also in configurations: numbers for scalars of NumPy and JAX, tuples for lists."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if type(value) in (list, tuple):
        return tuple(map(plain, value))
    if isinstance(value, (np.ndarray, jax.Array)):
        is_number = value.ndim == 0 and not jnp.issubdtype(value.dtype, jax.dtypes.prng_key)
        return value.item() if is_number and not isinstance(value, Tracer) else value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [field.name for field in dataclasses.fields(value) if field.init]
        return dataclasses.replace(value, **{name: plain(getattr(value, name)) for name in fields})
    return value.item() if isinstance(value, np.generic) else value


def is_concrete(config: Any) -> bool:
    """Return whether all leaves are plain numbers, as opposed to traced or stacked arrays."""
    return all(isinstance(leaf, (int, float, np.number)) for leaf in jax.tree.leaves(config))


def as_arrays(config: T) -> T:
    """Return a configuration whose leaves are arrays: float32 of floats, int32 of integers."""
    return jax.tree.map(lambda leaf: jnp.asarray(_array(leaf)), config)


def stack(configs: Sequence[T]) -> T:
    """Stack configurations of one structure along a leading member axis.

    Raises:
      ValueError: their structures differ; `find_differing_fields` names the fields.
    """

    def together(*leaves: Any) -> jax.Array:
        arrays = [_array(leaf) for leaf in leaves]  # NumPy's of numbers, which NumPy stacks 50 times as fast
        return jnp.stack(arrays) if any(isinstance(a, jax.Array) for a in arrays) else jnp.asarray(np.stack(arrays))

    return jax.tree.map(together, *configs)


def find_differing_fields(first: Any, second: Any, prefix: str = "") -> list[str]:
    """Return the dotted names of fields that make two configurations differ in structure."""
    if type(first) is not type(second):
        return [prefix.rstrip(".")]
    names = []
    for field in dataclasses.fields(first):
        path, (a, b) = prefix + field.name, (getattr(config, field.name) for config in (first, second))
        if dataclasses.is_dataclass(a) and dataclasses.is_dataclass(b):
            names += find_differing_fields(a, b, path + ".")
        elif jax.tree.structure(a) != jax.tree.structure(b) if field.metadata.get("traced") else a != b:
            names.append(path)
    return names


def replace(config: T, changes: Mapping[str, Any]) -> T:
    """Return a configuration with some fields, named like `model.sigma`, set to other values."""
    for path, value in changes.items():
        name, _, rest = path.partition(".")
        value = replace(getattr(config, name), {rest: value}) if rest else value
        config = dataclasses.replace(config, **{name: value})  # pyright: ignore[reportArgumentType]
    return config


def field_of(config: Any, path: str) -> Any:
    """Return the value of a field named like `model.sigma`."""
    for name in path.split("."):
        config = getattr(config, name)
    return config


def _array(value: Any) -> np.ndarray | jax.Array:
    if isinstance(value, jax.Array):
        return value
    return np.asarray(value, np.float32 if isinstance(value, (float, np.floating)) else np.int32)
