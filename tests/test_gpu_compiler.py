"""Compilation for a GPU without one; it needs JAX's CUDA plugin, and CUDA's assembler.

`pip install --no-deps jax-cuda13-plugin jax-cuda13-pjrt`, of JAX's version, is enough: none of CUDA's libraries.
"""

import importlib.util
import os
import shutil
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.functional import winners
from tests import gpu_compiler, ptx

INSTALLED = importlib.util.find_spec("jax_cuda13_plugin") is not None and shutil.which("ptxas") is not None
pytestmark = [
    pytest.mark.skipif(not INSTALLED, reason="jax-cuda13-plugin or ptxas is not installed"),
    pytest.mark.slow,
]
ROWS = 9


def run(*words, code=None):
    """Returns the output of a separate process that compiles for a GPU; here JAX is initialised without one."""
    what = ["-c", code] if code else ["-m", "tests.gpu_compiler", *map(str, words)]
    environment = {**os.environ, **gpu_compiler.ENVIRONMENT}
    process = subprocess.run([sys.executable, *what], env=environment, capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stderr
    return process.stdout


def drawn(n):
    rng = np.random.default_rng(n)
    x = rng.standard_normal((ROWS, n)).astype(np.float32)
    x[1] = 0
    x[2] = np.abs(x[2])
    x[3, ::2] = 0.5
    x[4, 5] = np.nan
    x[5, 3:9], x[5] = -0.0, np.maximum(x[5], 0)
    x[6] = -np.inf
    x[7] = -np.abs(x[7])
    x[8] = np.round(2 * x[8])
    return x, np.exp(0.3 * rng.standard_normal(n)).astype(np.float32)


@pytest.mark.parametrize(
    ("n", "first", "dtype"),
    [(128, True, "bfloat16"), (300, False, "float32"), (511, True, "float32"), (512, False, "float32"),
     (1000, True, "bfloat16"), (10_000, True, "float32"), (24_576, True, "float32")],
)  # fmt: skip
def test_the_instructions_of_the_kernel_keep_the_winners(n, first, dtype):
    printed = run(n, "first" if first else "all", dtype, ROWS)
    text = printed[printed.index(".version") : printed.rindex("}") + 1]
    x, gain = drawn(n)
    x = jnp.asarray(x).astype(dtype)
    rank, places = x.astype(jnp.float32) * gain[None], np.arange(n, dtype=np.int32)
    even = n % 256 == 0 or n == 128
    ks = sorted({0, 1, n // 10, n - 1, n})
    won = np.stack([winners(rank, k, ties="first" if first else "all") for k in ks])
    # Of the long rows each is searched for one of the numbers only: instructions are followed one by one.
    for which in [np.full(ROWS, i) for i in range(len(ks))] if n < 10_000 else [np.arange(ROWS) % len(ks)]:
        wanted = np.asarray(ks, np.int32)[which]
        # Arguments come in the order in which the kernel first uses them.
        others = [wanted, places] if even and first else [wanted] if even else [places, wanted]
        results = [np.zeros(ROWS, np.uint32), np.zeros(ROWS, np.int32), np.zeros_like(np.asarray(x))]
        kept = ptx.run(text, [np.asarray(x), gain, *others, *results], ROWS)[-1]
        expected = jnp.where(won[which, np.arange(ROWS)], x, jnp.zeros_like(x))
        np.testing.assert_array_equal(kept.astype(np.float32), np.asarray(expected, np.float32), err_msg=f"k={wanted}")


def test_layers_are_one_kernel_each_also_in_a_grid_and_over_devices():
    printed = run(code=PROGRAMS)
    assert [line for line in printed.splitlines() if line.startswith("kernels")] == [
        f"kernels {kernels} of {name}" for name, kernels in
        (("layer", 1), ("images", 1), ("half", 1), ("grid", 1), ("devices", 1), ("few", 0), ("unset", 0))
    ]  # fmt: skip


PROGRAMS = """
import os
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P, SingleDeviceSharding
from sparsejax.functional import BoostState, k_winners, k_winners_2d, top_k
from tests.gpu_compiler import chips

mesh = Mesh(np.array(chips(2)), ("data",))

def shaped(shape, dtype=jnp.float32, spec=None):
    where = SingleDeviceSharding(mesh.devices[0]) if spec is None else NamedSharding(mesh, spec)
    return jax.ShapeDtypeStruct(shape, dtype, sharding=where)

def both(x, state, k):
    layer = k_winners_2d if x.ndim == 4 else k_winners
    y, pull = jax.vjp(lambda x: layer(x, state, k=k, boost_strength=1.5, ties="first", relu=True), x)
    return y, pull(x)[0]

def state(units, *members, spec=None):
    return BoostState(shaped((*members, units), spec=spec), shaped(members, spec=spec))

k = shaped((), jnp.int32)
spread = jax.shard_map(both, mesh=mesh, in_specs=(P("data"), P(), P()), out_specs=P("data"))
programs = {
    "layer": (both, shaped((64, 1000)), state(1000), k),
    "images": (both, shaped((64, 12, 12, 32)), state(32), k),
    "half": (both, shaped((64, 1000), jnp.bfloat16), state(1000), k),
    "grid": (jax.vmap(both), shaped((5, 64, 1000)), state(1000, 5), shaped((5,), jnp.int32)),
    "devices": (spread, shaped((64, 1000), spec=P("data")), state(1000, spec=P()), shaped((), jnp.int32, P())),
    "few": (both, shaped((64, 100)), state(100), k),
    "unset": (both, shaped((64, 1000)), state(1000), k),
}
for name, (function, *arguments) in programs.items():
    os.environ["SPARSEJAX_GPU_KERNELS"] = str(int(name != "unset"))
    jax.clear_caches()
    text = jax.jit(function).lower(*arguments).compile().as_text()
    assert "all-gather" not in text
    print("kernels", text.count("custom-call("), "of", name)
"""
