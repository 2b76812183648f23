"""How a pure function of (networks, ..., shared data) is carried by one device or by a mesh of them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from sparsejax.errors import ConfigError
from sparsejax.training.config import DevicesConfig
from sparsejax.training.members import over_members


class Placement(NamedTuple):
    """Where a run computes: the carrier, the mesh (None on one device), and the networks side by side on a device."""

    carrier: str
    mesh: Mesh | None
    members_at_once: int | None

    @property
    def shards(self) -> int:
        """Parts each batch is cut into."""
        return 1 if self.mesh is None else self.mesh.shape["data"]

    @property
    def axis_name(self) -> str | None:
        """Mesh axis the batch is spread over."""
        return None if self.mesh is None else "data"


# On a CPU a product of the weights of networks that share a batch is fastest while they are about this many.
_PARAMETERS_AT_ONCE = 2**18


def place(config: DevicesConfig, members: int, batch_sizes: set[int], *, sharing: int | None = None) -> Placement:
    """Chooses the devices of a run.

    Args:
      config: what was asked for.
      members: networks trained together.
      batch_sizes: all that occur; each must divide among the devices.
      sharing: parameters of a network, if all networks see the same batches; else None.

    Raises:
      ConfigError: more devices are asked for than there are, or members or a batch do not divide among them.
    """
    available = jax.device_count()
    members_at_once = config.members_at_once
    if members_at_once is None and jax.default_backend() == "cpu":
        most, local = 1 if sharing is None else max(1, _PARAMETERS_AT_ONCE // sharing), members // config.member
        members_at_once = max(
            (n for n in range(1, min(most, local) + 1) if local % n == 0), default=1
        )  # one shape of program
    data = config.data or (1 if config.carrier == "jit" else max(1, available // config.member))
    if config.data is None and config.carrier == "auto":
        # Unasked, take only as many devices as share every batch evenly.
        data = max(n for n in range(1, data + 1) if all(size % n == 0 for size in batch_sizes))
    if config.member * data > available:
        raise ConfigError(
            f"devices.member {config.member} x devices.data {data} makes {config.member * data} devices, but there "
            f"are {available}; take fewer."
        )
    if members % config.member:
        raise ConfigError(
            f"{members} networks do not divide among devices.member {config.member}; take a divisor of {members}."
        )
    for size in sorted(batch_sizes):
        if size % data:
            raise ConfigError(
                f"A batch of {size} does not divide among devices.data {data}; take a divisor of {size}, or other "
                "batch sizes."
            )
    carrier = config.carrier
    if carrier == "auto":
        carrier = "jit" if config.member * data == 1 else "shard_map"
    if carrier == "jit":
        if config.member * data > 1 and config.data:
            raise ConfigError("devices.carrier jit runs on one device; take shard_map or pmap for several.")
        return Placement("jit", None, members_at_once)
    # With the default, explicit axis types, integer labels fail to index logits.
    mesh = jax.make_mesh((config.member, data), ("member", "data"), axis_types=(AxisType.Auto,) * 2)
    return Placement(carrier, mesh, members_at_once)


def carry(function: Callable[..., Any], placement: Placement, *, donate: bool = False) -> Callable[..., Any]:
    """Compiles `function(*per_member, shared)` of one network for many networks on the placement's devices.

    Every argument but the last has a leading member axis; the last is shared by all. The function is called with the
    same arguments on each device of the "data" axis and must return the same results there.

    Args:
      function: pure; knows of the placement's `axis_name` and `shards` where it needs to.
      placement: the devices.
      donate: let the first argument's memory be reused for the result.
    """
    mapped = over_members(function, placement.members_at_once)
    donated = (0,) if donate else ()
    if placement.mesh is None:
        return jax.jit(mapped, donate_argnums=donated)
    mesh = placement.mesh
    if placement.carrier == "pmap":
        return _pmapped(mapped, list(mesh.devices.flat), donated)

    def over_mesh(*arguments):
        specs = (P("member"),) * (len(arguments) - 1) + (P(),)
        return jax.shard_map(mapped, mesh=mesh, in_specs=specs, out_specs=P("member"))(*arguments)

    return jax.jit(over_mesh, donate_argnums=donated)


def _pmapped(mapped: Callable[..., Any], devices: list[Any], donated: tuple[int, ...]) -> Callable[..., Any]:
    """Runs the function on every device with the same arguments, through `jax.pmap`."""
    indices = jnp.arange(len(devices))  # pmap needs at least one argument that differs between the devices
    over_devices = jax.pmap(
        lambda _, first, rest: mapped(first, *rest), axis_name="data", in_axes=(0, None, None), out_axes=None,
        devices=devices, donate_argnums=tuple(i + 1 for i in donated),
    )  # fmt: skip
    return lambda first, *rest: over_devices(indices, first, rest)


def put_members(tree: Any, placement: Placement) -> Any:
    """Lays arrays with a leading member axis on the placement's devices."""
    if placement.mesh is None or placement.carrier == "pmap":
        return jax.device_put(tree)
    return jax.device_put(tree, NamedSharding(placement.mesh, P("member")))


def put_shared(tree: Any, placement: Placement) -> Any:
    """Lays arrays that all networks share on the placement's devices."""
    if placement.mesh is None or placement.carrier == "pmap":
        return jax.device_put(tree)
    return jax.device_put(tree, NamedSharding(placement.mesh, P()))
