"""Rows sharded over a mesh: each device computes its own rows, without communication.

The axes of a mesh are Auto (the compiler chooses the sharding), Manual (inside `jax.shard_map`) or Explicit (the
sharding is part of an array's type). Kernels, gathers and scatters have no rule for Explicit axes, so `on_shards` makes
these Manual for functions of rows.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array


def on_shards(
    function: Callable[..., Any], *, lead: int, rows: dict[str, Any], shared: dict[str, Any], summed: bool = False
) -> Any:
    """Applies `function(**rows, **shared)`, on a mesh with Explicit axes separately to each device's rows.

    Args:
      function: from arrays to arrays; rows are independent, unless the results are `summed`.
      lead: number of batch axes.
      rows: trees of arrays that begin with the same `lead` axes. Their later axes are gathered.
      shared: trees of arrays that every device needs completely, or values that are not arrays.
      summed: sum the results of the devices; otherwise they start with the axes of the rows.

    Returns:
      The function's results, sharded like the rows.
    """
    types = [jax.typeof(array).sharding for array in jax.tree.leaves(rows)]
    mesh = next((one.mesh for one in types if one.mesh.explicit_axes and any(one.spec)), None)
    if mesh is None:
        return function(**rows, **shared)
    spec = next((P(*one.spec[:lead]) for one in types if any(one.spec[:lead])), P())
    axes = tuple(axis for entry in spec if entry for axis in ((entry,) if isinstance(entry, str) else entry))
    whole = {name: tree for name, tree in shared.items() if all(map(_is_array, jax.tree.leaves(tree)))}
    fixed = {name: tree for name, tree in shared.items() if name not in whole}

    def of_shard(rows, whole):
        result = function(**rows, **whole, **fixed)
        return lax.psum(result, axes) if summed and axes else result

    # Without names, all axes except those of a vmap.
    names = frozenset(mesh.explicit_axes) if mesh.auto_axes else frozenset()
    out_specs = P() if summed else spec
    mapped = jax.shard_map(of_shard, mesh=mesh, in_specs=(spec, P()), out_specs=out_specs, axis_names=names)
    placement = NamedSharding(mesh, spec), NamedSharding(mesh, P())
    return jax.jit(lambda *trees: mapped(*jax.sharding.reshard(trees, placement)))(rows, whole)


def spread_like(y: Array, x: Array) -> Array:
    """Returns y with x's sharding over Explicit axes."""
    sharding = jax.typeof(x).sharding
    if not sharding.mesh.explicit_axes or jax.typeof(y).sharding == sharding:
        return y
    return jax.jit(lambda y: jax.sharding.reshard(y, sharding))(y)


def vary_alike(*arrays: Any) -> tuple[Any, ...]:
    """Makes arrays inside `jax.shard_map` vary over the same axes: the gradient of an invariant array is summed.

    A rule of `jax.custom_vjp` may only return varying gradients, so its arguments have to vary.
    """
    axes = frozenset[str]().union(*(_varying_axes(array) for array in jax.tree.leaves(arrays)))

    def varying(array):
        missing = tuple(axes - _varying_axes(array))
        return lax.pcast(array, missing, to="varying") if missing else array

    return jax.tree.map(varying, arrays)


def is_unsharded(x: Array) -> bool:
    """Returns whether x is not sharded by the compiler, as far as its type shows."""
    mesh = jax.typeof(x).sharding.mesh
    return mesh.empty or mesh.size == 1 or mesh.are_all_axes_manual


def _varying_axes(array: Any) -> frozenset[str]:
    """Returns the Manual axes over which an array varies."""
    return frozenset(jax.typeof(array).manual_axis_type.varying)


def _is_array(value: Any) -> bool:
    return isinstance(value, (jax.Array, np.ndarray))
