"""Runs a pure function of (networks, ..., shared data) on one device or on a mesh."""

import contextlib
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array

from sparsejax.data.streaming import Streamed
from sparsejax.errors import ConfigError
from sparsejax.training.config import DevicesConfig
from sparsejax.training.environment import usable_cores
from sparsejax.training.members import map_members
from sparsejax.training.processes import gather


class Placement(NamedTuple):
    """The devices of a run: the transform, the mesh (None on one device), and the networks in parallel on a device."""

    transform: str
    mesh: Mesh | None
    members_at_once: int | None

    @property
    def shards(self) -> int:
        """Number of parts of each batch."""
        return 1 if self.mesh is None else self.mesh.shape["data"]

    @property
    def member_devices(self) -> int:
        """Number of devices over which networks are sharded."""
        return 1 if self.mesh is None else self.mesh.shape["member"]

    @property
    def axis_name(self) -> str | None:
        """Mesh axis over which the batch is sharded; None if it is not."""
        return None if self.shards == 1 else "data"


_BATCHES = P(None, "data")
_IDLE = 1.1  # tolerated slowdown of networks that do not divide among a CPU's cores, less than the cores' speed-up
_CORES = 16  # upper bound, because each holds the data
# On a CPU the product with the weights of networks that share a batch is fastest at about this many weights.
_PARAMETERS_AT_ONCE = 2**18


def place(
    config: DevicesConfig,
    members: int,
    batch_sizes: set[int],
    *,
    sharing: int | None = None,
    devices: Sequence[Any] | None = None,
) -> Placement:
    """Chooses the devices of a run.

    Args:
      config: as requested.
      members: networks trained together.
      batch_sizes: all batch sizes; each must divide among the devices.
      sharing: number of parameters of a network, if all networks share their batches; else None.
      devices: the available ones; None for those of all processes.

    Raises:
      ConfigError: more devices are requested than available, or a batch does not divide among them.
    """
    devices = list(devices or find_devices())
    available, processes = len(devices), len({device.process_index for device in devices})
    several = processes > 1
    if several and config.transform in ("jit", "pmap"):
        raise ConfigError(
            f"devices.transform {config.transform} does not support {processes} processes; use shard_map."
        )
    data = config.data or (1 if config.transform == "jit" else None)
    member = config.member or _member_devices(config.transform, members, available // (data or 1), several)
    if data is None:
        data = max(1, available // member)
        if config.transform == "auto" and not several:
            # By default, use only as many devices as divide every batch.
            data = max(n for n in range(1, data + 1) if all(size % n == 0 for size in batch_sizes))
    if member * data > available or (several and member * data < available):
        what = "use fewer" if member * data > available else "all devices of all processes have to be used"
        raise ConfigError(
            f"devices.member {member} x devices.data {data} makes {member * data} devices, but there are {available}; "
            f"{what}."
        )
    for size in sorted(batch_sizes):
        if size % data:
            raise ConfigError(
                f"A batch of {size} does not divide among devices.data {data}; use a divisor of {size}, or other "
                "batch sizes."
            )
    members_at_once = config.members_at_once
    if members_at_once is None and devices[0].platform == "cpu":
        most, local = 1 if sharing is None else max(1, _PARAMETERS_AT_ONCE // sharing), -(-members // member)
        members_at_once = max(
            (n for n in range(1, min(most, local) + 1) if local % n == 0), default=1
        )  # the same program structure
    transform = config.transform
    if transform == "auto":
        transform = "jit" if member * data == 1 else "shard_map"
    if transform == "jit":
        if member * data > 1:
            raise ConfigError("devices.transform jit runs on one device; use shard_map or pmap for several.")
        return Placement("jit", None, members_at_once)
    return Placement(transform, _mesh(devices, member, data), members_at_once)


def _mesh(devices: list[Any], member: int, data: int) -> Mesh:
    # With the default Explicit axis types, integer labels cannot index logits.
    axes: dict[str, Any] = {"axis_names": ("member", "data"), "axis_types": (AxisType.Auto,) * 2}
    if member * data < len(devices):  # make_mesh places neighbours next to each other, but on a TPU only with all chips
        return Mesh(np.asarray(devices[: member * data]).reshape(member, data), **axes)
    return jax.make_mesh((member, data), devices=devices, **axes)


def _member_devices(transform: str, members: int, available: int, several: bool) -> int:
    """Returns the default number of devices for networks: one each, and in equal parts over processes."""
    if transform in ("jit", "pmap") or members == 1:
        return 1
    most = max(1, min(members, available))
    return most if not several else max(n for n in range(1, most + 1) if available % n == 0)


def find_memory() -> float:
    """Returns the bytes of memory of all devices; of CPUs, the machine's; infinity if they are unknown."""
    devices = find_devices()
    if devices[0].platform == "cpu":
        try:
            return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (AttributeError, ValueError, OSError):  # on Windows
            return float("inf")
    local = jax.local_devices()[0].memory_stats() or {}
    return len(devices) * local.get("bytes_limit", float("inf"))


def find_devices() -> list[Any]:
    """Returns the devices of all processes.

    Raises:
      ConfigError: JAX finds none, because JAX_PLATFORMS names a platform that is not there.
    """
    try:
        return jax.devices()
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"JAX finds no devices: {str(error).strip() or 'a platform is not installed'}. JAX_PLATFORMS is "
            f"{os.environ.get('JAX_PLATFORMS', '')!r}; unset it, name an available platform (JAX_PLATFORMS=cpu), or "
            "install JAX for this one."
        ) from error


def use_cores(members: int | None = None) -> None:
    """Makes CPU cores devices, so that networks of a grid train in parallel; call before any device is used.

    XLA runs much of a step on one core: two networks on two cores take a sixth less time than one after another. It
    does nothing if JAX_NUM_CPU_DEVICES or XLA_FLAGS set the number of devices, or JAX is already initialised.

    Args:
      members: networks trained together, or number of devices; None for one device per core, of which `share_of_cores`
        uses some.
    """
    asked = "JAX_NUM_CPU_DEVICES" in os.environ or "host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    cores = usable_cores() or 1
    count = cores if members is None else share_of_cores(members, cores)
    if count > 1 and not asked:
        with contextlib.suppress(RuntimeError):  # JAX is already initialised
            jax.config.update("jax_num_cpu_devices", count)


def share_of_cores(members: int, cores: int) -> int:
    """Returns the number of cores that networks share evenly: all, unless some would wait for the last network."""
    most = max(n for n in range(1, min(members, cores, _CORES) + 1) if n * -(-members // n) <= _IDLE * members)
    return -(-members // -(-members // most))  # fewer if they need no more rounds


def transform(function: Callable[..., Any], placement: Placement, *, donate: bool = False) -> Callable[..., Any]:
    """Compiles `function(*per_member, shared)` of one network for many networks on the placement's devices.

    Every argument but the last has a leading member axis; the last is shared by all. The function is called with the
    same arguments on each device of the "data" axis and must return the same results there.

    Args:
      function: pure; aware of the placement's `axis_name` and `shards` if needed.
      placement: the devices.
      donate: donate the first argument's buffers to the result.
    """
    mapped = map_members(function, placement.members_at_once)
    donated = (0,) if donate else ()
    if placement.mesh is None:
        return jax.jit(mapped, donate_argnums=donated)
    mesh = placement.mesh
    if placement.transform == "pmap":
        return _pmap(mapped, list(mesh.devices.flat), donated)

    def over_mesh(*arguments):
        specs = (P("member"),) * (len(arguments) - 1) + (_shared_spec(arguments[-1]),)
        # Without sharded batches there is nothing to check, and JAX 0.12.0's check fails on GELU.
        check = placement.axis_name is not None
        return jax.shard_map(mapped, mesh=mesh, in_specs=specs, out_specs=P("member"), check_vma=check)(*arguments)

    return jax.jit(over_mesh, donate_argnums=donated)


def _pmap(mapped: Callable[..., Any], devices: list[Any], donated: tuple[int, ...]) -> Callable[..., Any]:
    """Runs the function on every device with the same arguments, through `jax.pmap`."""
    indices = jnp.arange(len(devices))  # pmap needs at least one argument that differs between the devices
    over_devices = jax.pmap(
        lambda _, first, rest: mapped(first, *rest), axis_name="data", in_axes=(0, None, None), out_axes=None,
        devices=devices, donate_argnums=tuple(i + 1 for i in donated),
    )  # fmt: skip
    return lambda first, *rest: over_devices(indices, first, rest)


def put_members(tree: Any, placement: Placement) -> Any:
    """Puts arrays with a leading member axis on the placement's devices.

    If networks do not divide among the devices, the last one is repeated: `gather_members` removes it again.
    """
    extra = -jax.tree.leaves(tree)[0].shape[0] % placement.member_devices
    if extra:
        tree = jax.tree.map(lambda leaf: jnp.concatenate([jnp.asarray(leaf), *[jnp.asarray(leaf)[-1:]] * extra]), tree)
    return _put(tree, placement, P("member"))


def put_shared(tree: Any, placement: Placement) -> Any:
    """Puts arrays that all networks share on the placement's devices."""
    return _put(tree, placement, P())


def put_batches(images: np.ndarray, labels: np.ndarray, batch_size: int, placement: Placement) -> tuple[Array, Array]:
    """Shards batches `[steps, batch, ...]` over the placement's devices, given this process's `own_columns`."""
    if placement.mesh is None or placement.transform == "pmap":
        return jax.device_put((images, labels))
    sharding, first = NamedSharding(placement.mesh, _BATCHES), own_columns(batch_size, placement).start

    def put(own: np.ndarray) -> Array:
        shape = (own.shape[0], batch_size, *own.shape[2:])

        def rows(at: Any) -> np.ndarray:
            return own[:, (at[1].start or 0) - first : (at[1].stop or batch_size) - first]

        return jax.make_array_from_callback(shape, sharding, rows)

    return put(images), put(labels)


def own_columns(batch_size: int, placement: Placement) -> slice:
    """Returns which examples of a batch belong to the devices of this process."""
    if placement.mesh is None or placement.transform == "pmap":
        return slice(0, batch_size)
    mine = np.vectorize(lambda device: device.process_index == jax.process_index())(placement.mesh.devices)
    places, share = np.flatnonzero(mine.any(axis=0)), batch_size // placement.shards
    return slice(int(places.min()) * share, int(places.max() + 1) * share)


def _shared_spec(shared: Any) -> Any:
    """Returns the sharding of arrays that all networks share: batches over the devices, the rest replicated."""
    specs: Any = (_BATCHES, _BATCHES, P(), P())
    return Streamed(*specs) if isinstance(shared, Streamed) else P()


def gather_members(tree: Any, members: int) -> Any:
    """Returns arrays of `members` networks as NumPy arrays, from any device; PRNG keys become their data."""
    return jax.tree.map(lambda leaf: leaf[:members], gather(tree))


def _put(tree: Any, placement: Placement, spec: P) -> Any:
    if placement.mesh is None or placement.transform == "pmap":
        return jax.device_put(tree)
    sharding = NamedSharding(placement.mesh, spec)
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)

    def put(leaf: Any) -> jax.Array:
        """Puts this process's part of an array that all have; a PRNG key can only be created on its device."""
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.jit(jax.random.wrap_key_data, out_shardings=sharding)(put(jax.random.key_data(leaf)))
        whole = np.asarray(leaf)
        return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])

    return jax.tree.map(put, tree)
