"""Hyperparameters as data: which fields of a configuration are arrays that a grid may sweep.

A field declared with `traced` may differ between the networks of one compiled program. `hyper_of` collects those
fields into a dictionary of arrays; every other field is part of the program and must be the same for all.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Hyper = dict[str, Any]  # field name -> array, tuple of arrays, None, or the Hyper of a nested configuration


def traced(default: Any, *, apart: Any = None) -> Any:
    """Declares a dataclass field whose value becomes an array: a number, or a tuple of numbers and Nones.

    The value `apart`, like None, makes another program, and so cannot share one with other values.
    """
    return dataclasses.field(default=default, metadata={"traced": True, "apart": apart})


def hyper_of(config: Any) -> Hyper:
    """Returns the traced fields of a configuration, nested as it is; floats as float32, ints as int32."""
    hyper: Hyper = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            nested = hyper_of(value)
            if nested:
                hyper[field.name] = nested
        elif field.metadata.get("traced"):
            hyper[field.name] = jax.tree.map(_array, value)
    return hyper


def stack_hyper(configs: Sequence[Any]) -> Hyper:
    """Stacks the hyperparameters of several configurations along a leading member axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *(hyper_of(config) for config in configs))


def static_fields(config: Any, prefix: str = "") -> dict[str, Any]:
    """Returns `path -> value` of the fields that are not traced; of a traced one, only which entries stand apart."""
    fields: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value, path = getattr(config, field.name), prefix + field.name
        if dataclasses.is_dataclass(value):
            fields[path] = type(value).__name__
            fields |= static_fields(value, path + ".")
        elif field.metadata.get("traced"):
            apart = field.metadata["apart"]
            fields[path] = f"{jax.tree.structure(value)}{' apart' if apart is not None and value == apart else ''}"
        else:
            fields[path] = value
    return fields


def _array(value: float) -> np.ndarray:
    return np.asarray(value, np.float32 if isinstance(value, float) else np.int32)
