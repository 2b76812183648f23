"""The GPU kernel, interpreted: it keeps the same winners as the plain search, with the same gradients."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.functional import BoostState, k_winners, k_winners_2d, top_k, winners
from sparsejax.functional.kernels import gpu as gpu_rows
from sparsejax.functional.selection import keep

ROWS = 7


def drawn(n):
    rng = np.random.default_rng(n)
    x = rng.standard_normal((ROWS, n)).astype(np.float32)
    x[1] = 0
    x[2, 3:9], x[2] = -0.0, np.maximum(x[2], 0)
    x[3, ::2] = 0.5
    x[4, 5:7] = np.nan, np.inf
    x[5] = -np.inf
    x[6] = np.round(2 * x[6])
    return x, np.exp(0.3 * rng.standard_normal(n)).astype(np.float32)


@pytest.fixture
def interpreted(monkeypatch):
    """Makes the layers use the kernel, as on a GPU with it enabled, but interpreted."""
    kept = gpu_rows.keep_winners
    monkeypatch.setattr(gpu_rows, "keep_winners", lambda *args: kept(*args[:5], True))
    by_platform = jax.lax.platform_dependent

    def chosen(*arguments, **ways):
        return ways["cuda"](*arguments) if "cuda" in ways else by_platform(*arguments, **ways)

    monkeypatch.setattr(jax.lax, "platform_dependent", chosen)
    monkeypatch.setenv("SPARSEJAX_GPU_KERNELS", "1")


@pytest.mark.parametrize(
    ("n", "dtype", "boosted", "first", "relu"),
    [
        (128, jnp.float32, False, False, False),
        (128, jnp.float32, False, True, True),
        (300, jnp.bfloat16, False, False, True),
        (300, jnp.bfloat16, False, True, False),
        (333, jnp.float32, True, False, True),
        (333, jnp.float32, True, True, False),
    ],
)
def test_it_keeps_the_winners_and_their_gradients(n, dtype, boosted, first, relu):
    x, gain = drawn(n)
    x, gain = jnp.asarray(x.astype(dtype)), jnp.asarray(gain) if boosted else None

    @jax.jit
    def both(k):
        y, pull = jax.vjp(lambda x: gpu_rows.keep_winners(x, gain, jnp.full(ROWS, k, jnp.int32), first, relu, True), x)
        return y, pull(jnp.ones_like(x))[0]

    marked = jax.jit(partial(winners, ties="first" if first else "all"))
    rank = x if gain is None else x * gain[None]
    for k in (0, 1, n // 10, n - 1, n):
        won = np.asarray(marked(rank, k))
        won = won & ~np.asarray(x <= 0) if relu else won
        y, gradient = both(k)
        np.testing.assert_array_equal(np.asarray(y, np.float32), np.where(won, x, 0).astype(np.float32))
        np.testing.assert_array_equal(np.asarray(gradient, np.float32), np.asarray(won, np.float32))


def test_layers_by_the_kernel_are_those_without(interpreted, monkeypatch):
    rng = np.random.default_rng(0)
    units = BoostState(jnp.linspace(0, 0.3, 150), jnp.float32(500))
    filters = BoostState(jnp.linspace(0, 0.3, 8), jnp.float32(500))
    rows, images = (jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in ((3, 2, 150), (2, 5, 6, 8)))

    def layers(rows, images):
        return {
            "top_k": top_k(rows, 20, ties="first"),
            "k_winners": k_winners(rows, units, k=20, boost_strength=1.5, relu=True),
            "k_winners_2d": k_winners_2d(images, filters, k=50, boost_strength=1.5, ties="first"),
            "local": k_winners_2d(images, filters, k=3, boost_strength=1.5, local=True),
            "grid": jax.vmap(top_k, in_axes=(None, 0))(rows, jnp.array([3, 70])),
        }

    found = jax.jit(lambda *inputs: layers(*inputs))(rows, images)
    assert "name=keep_winners" in str(jax.make_jaxpr(layers)(rows, images))
    monkeypatch.undo()
    expected = jax.jit(lambda *inputs: layers(*inputs))(rows, images)
    for name, y in expected.items():
        np.testing.assert_array_equal(found[name], y, err_msg=name)


def test_second_derivatives_are_right(interpreted):
    x = jnp.asarray(drawn(200)[0][:1])

    @jax.jit
    def kept_and_second(x):
        second = jax.jvp(jax.grad(lambda x: jnp.sum(top_k(x, 30) ** 3)), (x,), (jnp.ones_like(x),))[1]
        return top_k(x, 30), second

    kept, second = kept_and_second(x)
    assert np.count_nonzero(kept) == 30
    np.testing.assert_allclose(second, 6 * kept, rtol=1e-6)


@pytest.mark.parametrize(
    ("setting", "shape", "dtype", "used"),
    [("1", (4, 128), jnp.float32, True), ("1", (4, 24_576), jnp.bfloat16, True), (None, (4, 128), jnp.float32, False),
     ("0", (4, 128), jnp.float32, False), ("1", (4, 127), jnp.float32, False), ("1", (4, 24_577), jnp.float32, False),
     ("1", (0, 128), jnp.float32, False), ("1", (4, 128), jnp.float16, False)],
)  # fmt: skip
def test_it_is_used_if_enabled_and_rows_fit(monkeypatch, setting, shape, dtype, used):
    if setting is None:
        monkeypatch.delenv("SPARSEJAX_GPU_KERNELS", raising=False)
    else:
        monkeypatch.setenv("SPARSEJAX_GPU_KERNELS", setting)
    assert gpu_rows.is_usable(shape, dtype) == used
    program = str(jax.make_jaxpr(lambda x: keep(x, 3))(jnp.zeros(shape, dtype)))
    assert ("name=keep_winners" in program) == used
