"""conv2d at the shapes of the papers' networks, forward alone and with both gradients."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.peers import Twin
from benchmarks.rows import Report, Row, row
from benchmarks.timing import Run, compile_run, in_scan, round_robin
from sparsejax.functional import conv2d
from sparsejax.functional.convolution_cpu import by_patches, by_rows, estimate_costs
from sparsejax.functional.winograd import LARGEST_KERNEL, winograd

GROUP = "convolution"
Shape = tuple[int, int, int, int]
SHAPES: dict[str, tuple[Shape, Shape]] = {
    "Sparse CNN-1": ((64, 28, 28, 1), (5, 5, 1, 30)),
    "Sparse CNN-2, conv2": ((64, 12, 12, 32), (5, 5, 32, 64)),
    "speech, conv2": ((64, 14, 14, 64), (5, 5, 64, 64)),
    "VGG-16, 32 x 32": ((32, 34, 34, 64), (3, 3, 64, 64)),
    "VGG-16, 16 x 16": ((32, 18, 18, 128), (3, 3, 128, 128)),
    "VGG-16, 8 x 8": ((32, 10, 10, 256), (3, 3, 256, 256)),
    "VGG-16, 4 x 4": ((32, 6, 6, 512), (3, 3, 512, 512)),
    "thesis, 3 x 3": ((64, 30, 30, 6), (3, 3, 6, 16)),
    "thesis, 7 x 7": ((64, 26, 26, 6), (7, 7, 6, 16)),
    "thesis, 11 x 11": ((64, 22, 22, 6), (11, 11, 6, 16)),
    "Sparse CNN-2, conv2, batch 4": ((4, 12, 12, 32), (5, 5, 32, 64)),
    "VGG-16, 16 x 16, batch 4": ((4, 18, 18, 128), (3, 3, 128, 128)),
}
"""Images with their padding `[batch, height, width, inputs]`, and kernels."""
_UNPADDED = ((0, 0), (0, 0))


def measure(twin: Twin | None) -> Report:
    """Compares conv2d in a scan with the forms of 0.1 and with PyTorch's, which is not in any loop."""
    rows, remarks = [], []
    for name, (images, kernel) in SHAPES.items():
        for gradients in (False, True):
            rows += _compared(twin, name, images, kernel, gradients, remarks)
    remarks.append(
        "Version 0.1 multiplied patches, or for some shapes added products row by row, which took about as long. "
        "PyTorch's convolution is in the faster memory layout, and in no loop. The JSON has the time of every form and "
        "the largest error of the first image's output, relative to the largest output in float64."
    )
    remarks.append(
        "Behind PyTorch in the forward pass of images with few channels: patches are written out and read again, which "
        "oneDNN avoids, and Winograd's transforms cost more than they save."
    )
    return Report(tuple(rows), tuple(remarks))


def _compared(
    twin: Twin | None, name: str, images: Shape, kernel: Shape, gradients: bool, remarks: list[str]
) -> list[Row]:
    batch, height, width, _ = images
    normal = np.random.default_rng(0).standard_normal
    x = jnp.asarray(normal(images), jnp.float32)
    w = jnp.asarray(normal(kernel) / np.sqrt(np.prod(kernel[:3])), jnp.float32)
    forms = {"ours": conv2d, "patches": by_patches, "rows": by_rows}
    if max(kernel[:2]) <= LARGEST_KERNEL:
        forms["winograd"] = functools.partial(winograd, padding=_UNPADDED)
    steps = min(64, max(8, 2**30 // (batch * height * width * int(np.prod(kernel)))))
    runs: dict[str, Run] = {form: _run(function, x, w, gradients, steps) for form, function in forms.items()}
    case = f"{name}, {'with gradients' if gradients else 'forward'}"
    if twin is not None:
        sizes: dict[str, Any] = {"images": list(images), "kernel": list(kernel), "gradients": gradients}
        runs["torch"] = twin.run(case, steps=steps, what="convolution", **sizes)
        remarks.append(f"{case}: PyTorch {twin.forms[case]}.")
    timings = round_robin(runs, repetitions=7)
    costs = estimate_costs(batch, height - kernel[0] + 1, width - kernel[1] + 1, kernel)
    error = {} if gradients else {"largest error": _error(x, w)}
    details = {f"{form} ms": timings[form].median for form in runs if form not in ("ours", "torch")} | error
    chosen = min(costs, key=lambda form: costs[form])
    target = 0.7 if gradients and batch >= 32 else None
    return [
        row(GROUP, f"{case} ({chosen})", timings["ours"], "PyTorch", timings.get("torch"), target, details),
        row(GROUP, f"{case} ({chosen})", timings["ours"], "patches, as in 0.1", timings["patches"]),
    ]


def _run(form: Callable[..., jax.Array], x: jax.Array, w: jax.Array, gradients: bool, steps: int) -> Run:
    def function(x: jax.Array, w: jax.Array, upstream: jax.Array) -> jax.Array:
        if gradients:
            y, pull_back = jax.vjp(form, x, w)
            results = y, *pull_back(upstream)
        else:
            results = (form(x, w),)
        # One entry of each: behind the barrier the compiler computes all of them, but no copy is carried along.
        return sum(result.ravel()[0] for result in jax.lax.optimization_barrier(results))

    upstream = jnp.ones(jax.eval_shape(form, x, w).shape)
    program, arguments = in_scan(function, x, w, upstream, steps=steps)
    return compile_run(program, *arguments, steps=steps)


def _error(x: jax.Array, w: jax.Array) -> float:
    """Returns the largest error of conv2d on the first image, relative to the largest output."""
    got = np.asarray(jax.jit(conv2d)(x, w))[0]
    kh, kw = w.shape[:2]
    seen = np.lib.stride_tricks.sliding_window_view(np.asarray(x[0], np.float64), (kh, kw), (0, 1))
    exact = np.einsum("hwcij,ijco->hwo", seen, np.asarray(w, np.float64), optimize=True)
    return float(np.abs(got - exact).max() / np.abs(exact).max())
