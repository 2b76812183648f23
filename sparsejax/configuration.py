"""Configurations as pytrees: frozen dataclasses whose traced fields are leaves.

A grid of networks is a stack of configurations: one compiled program works for all configurations of the same
structure. The other fields, and which traced fields are None, are part of the structure.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, dataclass_transform

import jax
import jax.numpy as jnp
import numpy as np

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

    Fields declared by `traced` become leaves; all others must be hashable and become part of the tree structure. If the
    class has a method `check`, it runs whenever an instance is made of plain numbers, and not on traced values.

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
        if hasattr(cls, "check") and "__post_init__" not in vars(cls):
            cls.__post_init__ = _check_if_concrete  # type: ignore[attr-defined]
        made = dataclasses.dataclass(frozen=True, kw_only=kw_only)(cls)
        names = {True: [], False: []}
        for field in dataclasses.fields(made):  # pyright: ignore[reportArgumentType]
            names[bool(field.metadata.get("traced"))].append(field.name)
        return jax.tree_util.register_dataclass(made, data_fields=names[True], meta_fields=names[False])

    return register if cls is None else register(cls)


def _check_if_concrete(self: Any) -> None:
    if is_concrete(self):
        self.check()


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
    return jax.tree.map(lambda *leaves: jnp.stack([_array(leaf) for leaf in leaves]), *configs)


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
