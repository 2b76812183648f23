"""Compiles for a GPU without one: `python -m tests.gpu_compiler N FIRST DTYPE ROWS` prints the kernel's PTX.

XLA's plugin does so given a description of the GPU; JAX's requirement of a local GPU is patched out.
"""

import os
import sys
from unittest import mock

CHIP = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152 shared_memory_per_core: 233472
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128 block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535 block_dim_limit_z: 65535 memory_bandwidth: 4800000000000 l2_cache_size: 52428800
  clock_rate_ghz: 1.98 device_memory_size: 150000000000 shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 } registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 7 }
runtime_version { major: 13 }
device_description_str: "NVIDIA H200"
"""
ENVIRONMENT = {
    "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1",  # no CUDA libraries are needed to compile
    "XLA_FLAGS": "--xla_gpu_autotune_level=0",
    "MOSAIC_GPU_DUMP_PTX": "1",
    "SPARSEJAX_GPU_KERNELS": "1",
}


def chips(count: int = 1):
    """Returns devices to compile for."""
    from jax._src import xla_bridge
    from jax.experimental import topologies

    named = xla_bridge.canonicalize_platform
    anyway = mock.Mock(side_effect=lambda platform: "cuda" if platform in ("gpu", "cuda") else named(platform))
    mock.patch.object(xla_bridge, "canonicalize_platform", anyway).start()
    topology = topologies.get_topology_desc(
        platform="cuda", topology_name="h200", target_config=CHIP, topology=f"1x1x{count}"
    )
    return topology.devices


def main(n: int, first: bool, dtype: str, rows: int) -> None:
    """Compiles the kernel that keeps the winners of rows."""
    import jax
    import jax.numpy as jnp
    from jax.sharding import SingleDeviceSharding

    from sparsejax.functional.kernels import gpu as gpu_rows

    where = SingleDeviceSharding(chips()[0])
    shapes = ((rows, n), jnp.dtype(dtype)), ((n,), jnp.float32), ((rows,), jnp.int32)
    arguments = [jax.ShapeDtypeStruct(*shape, sharding=where) for shape in shapes]
    jax.jit(lambda x, gain, k: gpu_rows._select(x, gain, k, first, False, False)).lower(*arguments).compile()


if __name__ == "__main__":
    os.environ.update(ENVIRONMENT)
    main(int(sys.argv[1]), sys.argv[2] == "first", sys.argv[3], int(sys.argv[4]))
