"""Rows that are spread over a mesh: each device works on its own, and sends nothing.

The axes of a mesh are Auto (the compiler chooses who computes what), Manual (inside `jax.shard_map`) or Explicit (an
array's type says how it is spread). Kernels, gathers and scatters have no rule for Explicit axes, so functions of rows
make these Manual: `on_shards`.
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
    """Applies `function(**rows, **shared)`, on a mesh with Explicit axes to each device's rows by themselves.

    Args:
      function: from arrays to arrays; no row depends on another, unless the results are `summed`.
      lead: how many axes tell rows apart.
      rows: trees of arrays that begin with the same `lead` axes. What spreads their later axes is gathered.
      shared: trees of arrays that every device needs whole, or anything that is no array.
      summed: add up the results of the devices; otherwise they begin with the axes of the rows.

    Returns:
      What the function returns, spread as the rows are.
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

    # No names stand for all axes but those that a vmap has taken.
    names = frozenset(mesh.explicit_axes) if mesh.auto_axes else frozenset()
    out_specs = P() if summed else spec
    mapped = jax.shard_map(of_shard, mesh=mesh, in_specs=(spec, P()), out_specs=out_specs, axis_names=names)
    placement = NamedSharding(mesh, spec), NamedSharding(mesh, P())
    return jax.jit(lambda *trees: mapped(*jax.sharding.reshard(trees, placement)))(rows, whole)


def spread_like(y: Array, x: Array) -> Array:
    """Returns y, spread over Explicit axes as x is."""
    sharding = jax.typeof(x).sharding
    if not sharding.mesh.explicit_axes or jax.typeof(y).sharding == sharding:
        return y
    return jax.jit(lambda y: jax.sharding.reshard(y, sharding))(y)


def vary_alike(*arrays: Any) -> tuple[Any, ...]:
    """Makes arrays inside `jax.shard_map` vary over the same axes: the gradient of one that did not vary is summed.

    A rule of `jax.custom_vjp` may return such gradients alone, so its arguments have to be alike.
    """
    axes = frozenset[str]().union(*(_varying(array) for array in jax.tree.leaves(arrays)))

    def varying(array):
        missing = tuple(axes - _varying(array))
        return lax.pcast(array, missing, to="varying") if missing else array

    return jax.tree.map(varying, arrays)


def whole(x: Array) -> bool:
    """Says whether no compiler will spread x over devices, as far as its type tells."""
    mesh = jax.typeof(x).sharding.mesh
    return mesh.empty or mesh.size == 1 or mesh.are_all_axes_manual


def _varying(array: Any) -> frozenset[str]:
    """Returns the Manual axes over which an array differs."""
    return frozenset(jax.typeof(array).manual_axis_type.varying)


def _is_array(value: Any) -> bool:
    return isinstance(value, (jax.Array, np.ndarray))
