"""Values and gradients on meshes of 4 and 8 devices are those of one: Explicit axes, Auto axes, and `jax.shard_map`.

A case is a function, its arguments with "rows" (sharded over the devices) or "whole" (the same on all), and how results
of devices are joined: "rows", "mean", "sum", or None if a device's part alone is meaningless.
"""

import functools
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from sparsejax import functional as F
from sparsejax.functional import augmentation, measures, penalties

COLLECTIVE = re.compile(r"(all-gather|all-reduce|all-to-all|collective-permute)(?:-start)?\(")


class Case(NamedTuple):
    function: Any
    rows: tuple = ()
    whole: tuple = ()
    joined: str | None = "rows"


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


@functools.cache
def cases() -> dict[str, Case]:
    """Returns the table; each function takes its rows first."""
    x, images, kernel = normal(0, 8, 40), normal(1, 8, 6, 6, 5), normal(2, 40, 24)
    filters, clips, frames = normal(3, 3, 3, 5, 4), normal(4, 8, 512), jnp.abs(normal(5, 8, 12, 9))
    keys, labels = jax.random.split(jax.random.key(6), 8), jnp.arange(8) % 3
    ks = jnp.arange(8) + 1
    units, filters5 = (F.BoostState(jnp.linspace(0, 1, n), jnp.float32(10)) for n in (40, 5))
    code = F.sparse_top_k(x, 3)
    sparse = F.SparseCode(code.values, code.indices)
    encoder = (normal(7, 24, 40), normal(8, 24))
    autoencoder = (kernel, normal(9, 24), kernel.T, normal(10, 40))
    mask = kernel > 0
    boosted = {"boost_strength": 1.5}
    return {
        "kth_largest": Case(lambda x: F.kth_largest(x, 3), (x,)),
        "top_k": Case(lambda x: F.top_k(x, 3), (x,)),
        "top_k, ties kept": Case(lambda x: F.top_k(jnp.round(2 * x), 3, ties="all"), (x,)),
        "top_k, one k per row": Case(F.top_k, (x, ks)),
        "top_k, a traced k": Case(F.top_k, (x,), (jnp.int32(4),)),
        "top_k in bfloat16": Case(lambda x: F.top_k(x.astype(jnp.bfloat16), 3), (x,)),
        "top_k of a vmap": Case(jax.vmap(lambda row: F.top_k(row, 3)), (x,)),
        "top_k of images": Case(lambda x: F.top_k(x, 2), (images,)),
        "winners": Case(lambda x: F.winners(x, 3), (x,)),
        "k_winners": Case(lambda x, state: F.k_winners(x, state, k=3, **boosted), (x,), (units,)),
        "k_winners, one k per row": Case(lambda x, k, s: F.k_winners(x, s, k=k, **boosted), (x, ks), (units,)),
        "k_winners_2d": Case(lambda x, s: F.k_winners_2d(x, s, k=9, relu=True, **boosted), (images,), (filters5,)),
        "k_winners_2d, local": Case(
            lambda x, k, s: F.k_winners_2d(x, s, k=k, local=True, **boosted), (images, ks % 5), (filters5,)
        ),
        "boost": Case(lambda x, state: F.boost(x, state, 0.1, 1.0), (x,), (units,)),
        "update_boost_state": Case(lambda x, state: F.update_boost_state(state, x), (x,), (units,), None),
        "update_boost_state, images": Case(lambda x, s: F.update_boost_state(s, x), (images,), (filters5,), None),
        "update_boost_state, a code": Case(lambda c, state: F.update_boost_state(state, c), (code,), (units,), None),
        "sparse_top_k": Case(lambda x: F.sparse_top_k(x, 3), (x,)),
        "to_dense": Case(lambda code: code.to_dense(), (code,)),
        "decode": Case(F.decode, (sparse,), (kernel,)),
        "decode, gathered": Case(lambda c, w: F.decode(c, jnp.concatenate([w] * 4)), (sparse,), (kernel,)),
        "encode_top_k": Case(lambda x, w, b: F.encode_top_k(x, w, b, 3), (x,), encoder),
        "encode_top_k, gathered": Case(
            lambda x, w, b: F.encode_top_k(x, jnp.concatenate([w] * 4), jnp.concatenate([b] * 4), 2), (x,), encoder
        ),
        "encode, then decode": Case(
            lambda x, w, b, d: F.decode(F.encode_top_k(x, w, b, 3, gain=jnp.exp(b)), d), (x,), (*encoder, kernel.T)
        ),
        "rewire": Case(lambda w, m: F.rewire(jax.random.key(0), w, m, None, 0.3), (), (kernel, mask)),
        "rewire, units spread": Case(
            lambda w, m: F.rewire(jax.random.key(0), w.T, m.T, jnp.sin(w.T), 0.3)[0].T, (kernel, mask), (), None
        ),
        "example_keys": Case(lambda rows: F.example_keys(jax.random.key(0), rows), (jnp.arange(8),)),
        "pixel_noise": Case(lambda k, x: F.pixel_noise(k, x, level=0.3, value=1.0), (keys, images)),
        "add_noise": Case(lambda k, x: F.add_noise(k, x, sigma=0.3), (keys, x)),
        "salt_and_pepper": Case(lambda k, x: F.salt_and_pepper(k, x, level=0.3), (keys, images)),
        "dropout": Case(lambda k, x: F.dropout(k, x, rate=0.3), (keys, x)),
        "white_noise_blend": Case(lambda k, x: F.white_noise_blend(k, x, level=0.3), (keys, clips)),
        "implicit_terms": Case(lambda x, *a: F.implicit_terms(x, *a, sigma=0.3, terms=4), (x,), autoencoder),
        "implicit_terms_smooth": Case(
            lambda x, *a: F.implicit_terms_smooth(x, *a, jnp.tanh, sigma=0.3), (x,), autoencoder
        ),
        "explain_away": Case(lambda x, g: F.explain_away(x, g, steps=2), (x,), (kernel @ kernel.T / 99,)),
        "inhibitory_interneuron": Case(
            lambda x, a, b: F.inhibitory_interneuron(x, a, b, steps=2), (x,), (kernel[:, 0], kernel[:, 1])
        ),
        "unit_norm": Case(F.unit_norm, (), (kernel,)),
        "divisive_norm": Case(F.divisive_norm, (images,)),
        "adaptive_threshold": Case(F.adaptive_threshold, (images,)),
        "mean_threshold": Case(F.mean_threshold, (images,)),
        "hebbian_cost": Case(lambda x: F.hebbian_cost(x, demote=0.1), (jnp.abs(images),), (), "mean"),
        "conv2d": Case(F.conv2d, (images,), (filters,)),
        "conv2d, in tiles": Case(
            lambda x, w: F.conv2d(jnp.tile(x, (1, 7, 7, 6)), jnp.tile(w, (1, 1, 6, 6)), "SAME"), (images,), (filters,)
        ),
        "conv2d_twice": Case(F.conv2d_twice, (images,), (filters,)),
        "depthwise_conv2d": Case(F.depthwise_conv2d, (images,), (filters[..., 0],)),
        "max_pool2d": Case(F.max_pool2d, (images,)),
        "soft_top_k": Case(lambda x: F.soft_top_k(x, 4.2, window=6), (x,)),
        "sampled_k": Case(lambda k, mu: F.sampled_k(k, mu, 0.5, 40), (keys,), (jnp.float32(1),)),
        "reinforce_loss": Case(lambda p, x: F.reinforce_loss(p, x, 0.3), (x[:, 0], x[:, 1]), (), "mean"),
        "update_reinforce_baseline": Case(lambda x: F.update_reinforce_baseline(0.3, x), (x[:, 0],), (), "mean"),
        "top_k_subtract": Case(lambda x: F.top_k_subtract(x, 3), (x,)),
        "crop_and_flip": Case(F.crop_and_flip, (keys, images)),
        "amplitude": Case(augmentation.amplitude, (keys, clips)),
        "speed": Case(augmentation.speed, (keys, clips)),
        "stretch": Case(augmentation.stretch, (keys, frames)),
        "shift": Case(lambda k, x: augmentation.shift(k, x, frames=2), (keys, frames)),
        "mel_spectrogram": Case(lambda x: F.mel_spectrogram(x, n_fft=256, hop=64, bands=8), (clips,)),
        "l1": Case(penalties.l1, (images,), (), "mean"),
        "l2": Case(penalties.l2, (images,), (), "mean"),
        "cauchy": Case(penalties.cauchy, (images,), (), "mean"),
        "gaussian": Case(penalties.gaussian, (images,), (), "mean"),
        "l0": Case(measures.l0, (x,)),
        "active_fraction": Case(measures.active_fraction, (x,), (), "mean"),
        "dead_units": Case(measures.dead_units, (x,), (), None),
        "gini": Case(measures.gini, (x,)),
        "hoyer": Case(measures.hoyer, (x,)),
        "activation_frequency": Case(measures.activation_frequency, (x,), (), "mean"),
        "confusion_matrix": Case(
            lambda a, b: measures.confusion_matrix(a, b, classes=3), (labels, labels[::-1]), (), "sum"
        ),
        "active_counts": Case(lambda x, y: measures.active_counts(x > 0, y, classes=3), (x, labels), (), "sum"),
        "magnitude_counts": Case(measures.magnitude_counts, (x,), (jnp.array([0.1, 1.0]),), "sum"),
    }


named = pytest.mark.parametrize("name", cases())
counts = pytest.mark.parametrize("devices", [pytest.param(4, marks=pytest.mark.slow), 8])


def mesh_of(devices, kind, names=("data",), shape=None):
    if jax.device_count() < devices:
        pytest.skip(f"needs {devices} devices, there are {jax.device_count()}")
    return jax.make_mesh(shape or (devices,), names, axis_types=(kind,) * len(names), devices=jax.devices()[:devices])


def arguments_of(case):
    return (*case.rows, *case.whole)


def differentiable(case):
    """Returns the positions of the arguments that a gradient can be taken of, or nothing if the result has none."""
    results = jax.tree.leaves(jax.eval_shape(case.function, *arguments_of(case)))
    if not any(jnp.issubdtype(result.dtype, jnp.floating) for result in results):
        return ()
    floats = lambda tree: all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(tree))  # noqa: E731
    return tuple(i for i, argument in enumerate(arguments_of(case)) if floats(argument))


def with_gradients(function, positions, joined=None):
    """Returns a function of the same arguments to its result and the gradients of the sum of its squares."""

    def square(result):
        kept = [leaf for leaf in jax.tree.leaves(result) if jnp.issubdtype(leaf.dtype, jnp.floating)]
        return sum((jnp.sum(leaf.astype(jnp.float32) ** 2) for leaf in kept), jnp.float32(0))

    def joining(*arguments):
        result = function(*arguments)
        join = {"mean": lax.pmean, "sum": lax.psum}.get(joined)
        result = join(result, "data") if join else result
        return (lax.psum(square(result), "data") if joined == "rows" else square(result)), result

    def both(*arguments):
        if not positions:
            return joining(*arguments)[1], ()
        (_, result), gradients = jax.value_and_grad(joining, positions, has_aux=True)(*arguments)
        return result, gradients

    return both


@functools.cache
def on_one_device(name):
    case = cases()[name]
    return jax.device_get(plain(jax.jit(with_gradients(case.function, differentiable(case)))(*arguments_of(case))))


def plain(tree):
    """Returns the tree with the bits of keys instead of keys."""
    is_key = lambda leaf: jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)  # noqa: E731
    return jax.tree.map(lambda leaf: jax.random.key_data(leaf) if is_key(leaf) else leaf, tree)


def assert_same(name, actual):
    wanted = on_one_device(name)
    actual = jax.device_get(plain(actual))
    assert jax.tree.structure(actual) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(wanted), strict=True):
        assert a.dtype == b.dtype
        b = b.astype(np.float64)
        np.testing.assert_allclose(a.astype(np.float64), b, rtol=2e-4, atol=2e-5 * max(1, np.max(np.abs(b), initial=0)))


def spread(case, mesh):
    rows, whole = (NamedSharding(mesh, P(*names)) for names in (("data",), ()))
    return (*jax.device_put(case.rows, rows), *jax.device_put(case.whole, whole))


@counts
@named
def test_arrays_spread_over_an_explicit_mesh(name, devices):
    case, mesh = cases()[name], mesh_of(devices, AxisType.Explicit)
    with jax.set_mesh(mesh):
        result = jax.jit(with_gradients(case.function, differentiable(case)))(*spread(case, mesh))
    assert_same(name, result)
    if case.joined == "rows" and case.rows:
        assert all(jax.typeof(leaf).sharding.spec[0] == "data" for leaf in jax.tree.leaves(result[0]))


@pytest.mark.slow
@named
def test_arrays_spread_over_an_auto_mesh(name):
    case, mesh = cases()[name], mesh_of(4, AxisType.Auto)
    assert_same(name, jax.jit(with_gradients(case.function, differentiable(case)))(*spread(case, mesh)))


@named
def test_gradients_under_shard_map_with_its_checks(name):
    case, mesh = cases()[name], mesh_of(4, AxisType.Auto)
    if case.joined is None:
        pytest.skip("a device's part has no meaning of its own")
    positions = differentiable(case)
    specs = (P("data"),) * len(case.rows) + (P(),) * len(case.whole)
    out = P("data") if case.joined == "rows" and case.rows else P()
    both = with_gradients(case.function, positions, case.joined if case.rows else None)
    mapped = jax.shard_map(both, mesh=mesh, in_specs=specs, out_specs=(out, tuple(specs[i] for i in positions)))
    assert_same(name, jax.jit(mapped)(*arguments_of(case)))


@pytest.mark.parametrize("name", ["top_k", "k_winners", "k_winners_2d", "sparse_top_k", "to_dense", "max_pool2d"])
def test_functions_of_rows_send_nothing_over_an_explicit_mesh(name):
    case, mesh = cases()[name], mesh_of(8, AxisType.Explicit)
    text = jax.jit(case.function).lower(*spread(case, mesh)).compile().as_text()
    assert not COLLECTIVE.search(text)


def test_without_a_context_and_without_jit():
    x, mesh = normal(0, 8, 40), mesh_of(8, AxisType.Explicit)
    on_mesh = jax.device_put(x, NamedSharding(mesh, P("data")))
    expected = F.top_k(x, 3)
    for result in (F.top_k(on_mesh, 3), jax.jit(F.top_k, static_argnums=1)(on_mesh, 3)):
        assert result.sharding.is_equivalent_to(on_mesh.sharding, 2)
        np.testing.assert_array_equal(result, expected)
    np.testing.assert_array_equal(jax.vmap(lambda row: F.top_k(row, 3))(on_mesh), expected)
    code = F.sparse_top_k(on_mesh, 3)
    np.testing.assert_array_equal(code.to_dense(), expected)
    np.testing.assert_array_equal(F.update_boost_state(F.init_boost_state(40), code).samples, 8)


@pytest.mark.parametrize("spec", [P("data", "model"), P(None, "model"), P(("data", "model")), P(None, None)])
def test_units_may_be_spread_too(spec):
    mesh, x, upstream = mesh_of(8, AxisType.Explicit, ("data", "model"), (4, 2)), normal(0, 8, 40), normal(1, 8, 40)
    on_mesh = jax.device_put(x, NamedSharding(mesh, spec))
    state = F.BoostState(jnp.linspace(0, 1, 40), jnp.float32(10))

    def layer(x):
        return F.k_winners(x, state, k=5, boost_strength=1.5)

    with jax.set_mesh(mesh):
        y = jax.jit(layer)(on_mesh)
        gradient = jax.jit(jax.grad(lambda x: jnp.sum(layer(x) * upstream)))(on_mesh)
    assert y.sharding.is_equivalent_to(on_mesh.sharding, 2)
    np.testing.assert_array_equal(y, layer(x))
    np.testing.assert_array_equal(gradient, np.where(np.asarray(y) != 0, upstream, 0))


@pytest.mark.parametrize("batch", [1, 3])
def test_a_kernel_shared_by_shards_gets_the_sum_of_their_gradients(batch):
    """The rule of decode's gradient has to be the same with and without axes to sum over, on a mesh of two."""
    mesh = mesh_of(4, AxisType.Auto, ("data", "model"), (2, 2))
    x, encoder, decoder = normal(0, 2 * batch, 40), normal(1, 24, 40), normal(2, 24, 40)

    def loss(encoder, decoder, x):
        return jnp.sum(F.decode(F.encode_top_k(x, encoder, jnp.zeros(24), 3), decoder) ** 2)

    mapped = jax.shard_map(jax.grad(loss, (0, 1)), mesh=mesh, in_specs=(P(), P(), P("data")), out_specs=(P(), P()))
    together, alone = jax.jit(mapped)(encoder, decoder, x), jax.grad(loss, (0, 1))(encoder, decoder, x)
    for ours, expected in zip(together, alone, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("kind", "spec", "kernel"),
    [
        (AxisType.Explicit, P("data"), True),
        (AxisType.Explicit, P(None, "data"), True),
        (AxisType.Explicit, P(), False),
        (AxisType.Auto, P("data"), False),
    ],
)
@pytest.mark.skipif(jax.config.read("jax_enable_x64"), reason="TPU kernels have no 64-bit types")
def test_a_tpu_runs_its_kernel_where_each_device_has_rows_of_its_own(kind, spec, kernel):
    """Mosaic's compiler does not shard kernels."""
    x = jax.device_put(jnp.ones((8, 1024)), NamedSharding(mesh_of(8, kind), spec))
    text = jax.jit(lambda x: F.top_k(x, 3)).trace(x).lower(lowering_platforms=("tpu",)).as_text()
    assert ("tpu_custom_call" in text) == kernel
