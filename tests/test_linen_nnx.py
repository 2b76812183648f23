"""The Flax layers: bit-identical to `sparsejax.functional`, with the state in Flax's variables."""

import doctest

import flax.linen as flax_linen
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import nnx as flax_nnx
from jax.sharding import PartitionSpec as P

from sparsejax import functional, linen, nnx

SETTINGS = {"k": 4, "boost_strength": 1.5, "period": 20, "ties": "first", "k_inference_factor": 1.5}
SHAPES = {"plain": (8, 10), "images": (8, 3, 3, 5), "local": (8, 3, 3, 5)}
kinds = pytest.mark.parametrize("kind", SHAPES)


def batches(kind, count=3):
    return [jax.random.normal(jax.random.key(i), SHAPES[kind]) for i in range(count)]


def reference(kind, x, state, k):
    settings = {"k": k, "boost_strength": 1.5, "ties": "first"}
    if kind == "plain":
        return functional.k_winners(x, state, **settings)
    return functional.k_winners_2d(x, state, local=kind == "local", **settings)


def linen_layer(kind, **changes):
    settings = SETTINGS | changes
    if kind == "plain":
        return linen.KWinners(**settings)
    return linen.KWinners2d(**settings, local=kind == "local")


def nnx_layer(kind, **changes):
    settings = SETTINGS | changes
    units = SHAPES[kind][-1]
    if kind == "plain":
        return nnx.KWinners(units, **settings)
    return nnx.KWinners2d(units, **settings, local=kind == "local")


def assert_states_equal(actual, expected):
    np.testing.assert_array_equal(actual.duty_cycle, expected.duty_cycle)
    np.testing.assert_array_equal(actual.samples, expected.samples)


@pytest.mark.parametrize("ties", ["all", "first"])
def test_top_k_of_both_is_the_function(fresh_key, ties):
    x = jnp.round(2 * jax.random.normal(fresh_key(), (4, 10)))
    expected = functional.top_k(x, 3, ties=ties)
    np.testing.assert_array_equal(linen.TopK(k=3, ties=ties).apply({}, x), expected)
    np.testing.assert_array_equal(nnx.TopK(3, ties=ties)(x), expected)


@kinds
def test_k_winners_of_both_equal_the_function_over_several_batches(kind):
    in_linen, in_nnx, state = linen_layer(kind), nnx_layer(kind), functional.init_boost_state(SHAPES[kind][-1])
    variables = in_linen.init(jax.random.key(0), batches(kind)[0], train=True)
    assert_states_equal(variables["boost"]["state"], state)  # drawing a layer counts nothing
    train = jax.jit(lambda variables, x: in_linen.apply(variables, x, train=True, mutable=["boost"]))
    graph, in_state = flax_nnx.split(in_nnx)

    @jax.jit
    def train_nnx(variables, x):
        layer = flax_nnx.merge(graph, variables)
        return layer(x, train=True), flax_nnx.state(layer)

    @jax.jit
    def train_function(state, x):
        y = reference(kind, x, state, 4)
        return y, functional.update_boost_state(state, y, period=20)

    for x in batches(kind):
        expected, state = train_function(state, x)
        y, variables = train(variables, x)
        np.testing.assert_array_equal(y, expected)
        assert_states_equal(variables["boost"]["state"], state)
        y, in_state = train_nnx(in_state, x)
        np.testing.assert_array_equal(y, expected)
        assert_states_equal(flax_nnx.merge(graph, in_state).boost, state)
    competitors = int(np.prod(SHAPES[kind][1:])) if kind == "images" else SHAPES[kind][-1]
    expected = reference(kind, x, state, min(6, competitors))
    np.testing.assert_array_equal(in_linen.apply(variables, x, train=False), expected)
    trained = flax_nnx.merge(graph, in_state)
    np.testing.assert_array_equal(trained(x, train=False), expected)
    assert_states_equal(trained.boost, state)


def test_the_call_may_give_a_traced_boost_strength():
    x = batches("plain")[0]
    state = functional.BoostState(jax.random.uniform(jax.random.key(1), (10,)), jnp.float32(20))
    expected = functional.k_winners(x, state, k=4, boost_strength=3.0, ties="first")
    assert np.any(expected != reference("plain", x, state, 4))
    apply = jax.jit(
        lambda b: linen_layer("plain").apply(
            {"boost": {"state": state}}, x, train=True, boost_strength=b, mutable="boost"
        )
    )
    np.testing.assert_array_equal(apply(3.0)[0], expected)
    layer = nnx_layer("plain")
    layer.duty_cycle.set_value(state.duty_cycle)
    np.testing.assert_array_equal(layer(x, train=True, boost_strength=jnp.float32(3.0)), expected)


def test_the_gradients_are_those_of_the_function():
    x, upstream = batches("plain", 2)
    state = functional.BoostState(jax.random.uniform(jax.random.key(1), (10,)), jnp.float32(20))
    expected = jax.grad(lambda x: jnp.sum(upstream * reference("plain", x, state, 4)))(x)

    def by_linen(x):
        y, _ = linen_layer("plain").apply({"boost": {"state": state}}, x, train=True, mutable=["boost"])
        return jnp.sum(upstream * y)

    def by_nnx(x):
        layer = nnx_layer("plain")
        layer.duty_cycle.set_value(state.duty_cycle)
        return jnp.sum(upstream * layer(x, train=True))

    assert np.count_nonzero(expected) == 4 * 8
    np.testing.assert_array_equal(jax.grad(by_linen)(x), expected)
    np.testing.assert_array_equal(jax.grad(by_nnx)(x), expected)


def test_linen_reports_an_immutable_state():
    layer, x = linen_layer("plain"), batches("plain")[0]
    variables = layer.init(jax.random.key(0), x, train=False)
    with pytest.raises(Exception, match="boost"):
        layer.apply(variables, x, train=True)


def test_counts_are_summed_over_devices_in_both():
    if jax.device_count() < 8:
        pytest.skip("needs 8 devices")
    x, state = batches("plain")[0], functional.init_boost_state(10)
    y = reference("plain", x, state, 4)
    expected = functional.update_boost_state(state, y, period=20)
    in_linen, in_nnx = linen_layer("plain", axis_name="data"), nnx_layer("plain", axis_name="data")
    graph, in_state = flax_nnx.split(in_nnx)
    variables = in_linen.init(jax.random.key(0), x, train=True)  # no axis is bound here

    def step(variables, in_state, x):
        y, updated = in_linen.apply(variables, x, train=True, mutable=["boost"])
        layer = flax_nnx.merge(graph, in_state)
        return y, layer(x, train=True), updated, flax_nnx.state(layer)

    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharded = jax.jit(jax.shard_map(
        step, mesh=mesh, in_specs=(P(), P(), P("data")), out_specs=(P("data"), P("data"), P(), P())
    ))  # fmt: skip
    by_linen, by_nnx, variables, in_state = sharded(variables, in_state, x)
    np.testing.assert_array_equal(by_linen, y)
    np.testing.assert_array_equal(by_nnx, y)
    for new in (variables["boost"]["state"], flax_nnx.merge(graph, in_state).boost):
        np.testing.assert_allclose(new.duty_cycle, expected.duty_cycle, rtol=1e-6)
        assert new.samples == 8


LINEAR = {
    "dense": (linen.SparseDense(6, density=0.3), nnx.SparseDense, (10, 6), (4, 10)),
    "conv": (linen.SparseConv(6, kernel_size=(3, 3), density=0.3), nnx.SparseConv, (3, 3, 2, 6), (4, 7, 6, 2)),
}
linears = pytest.mark.parametrize("kind", LINEAR)


def expected_linear(kind, x, kernel, mask, bias):
    kernel = jnp.where(mask, kernel, 0.0)
    return x @ kernel + bias[None] if kind == "dense" else functional.conv2d(x, kernel) + bias[None, None, None]


@pytest.mark.parametrize("kind", ["linen", "nnx"])
def test_same_padding_keeps_the_size_of_the_images(kind):
    x = jnp.ones((2, 5, 6, 2), jnp.float32)
    if kind == "linen":
        layer = linen.SparseConv(4, kernel_size=(3, 2), density=1, padding="SAME")
        y, variables = layer.init_with_output(jax.random.key(0), x)
        kernel, bias = variables["params"]["kernel"], variables["params"]["bias"]
    else:
        layer = nnx.SparseConv(2, 4, (3, 2), density=1, padding="SAME", rngs=flax_nnx.Rngs(0))
        y, kernel, bias = layer(x), layer.kernel.get_value(), layer.bias.get_value()
    np.testing.assert_allclose(y, functional.conv2d(x, kernel, "SAME") + bias.reshape(1, 1, 1, -1), atol=1e-6)
    assert y.shape == (2, 5, 6, 4)


def nnx_linear(kind, **changes):
    shape = LINEAR[kind][2]
    size = () if kind == "dense" else (shape[:2],)
    return LINEAR[kind][1](*shape[-2:], *size, **({"density": 0.3, "rngs": flax_nnx.Rngs(0)} | changes))


@linears
def test_sparse_layers_have_an_exact_mask_and_equal_the_function(fresh_key, kind):
    layer, _, shape, inputs = LINEAR[kind]
    x = jax.random.normal(fresh_key(), inputs, jnp.float32)
    variables = layer.init(jax.random.key(0), x)
    in_nnx = nnx_linear(kind)
    weights = [
        (variables["params"]["kernel"], variables["masks"]["mask"], variables["params"]["bias"]),
        (in_nnx.kernel.get_value(), in_nnx.mask.get_value(), in_nnx.bias.get_value()),
    ]
    for (kernel, mask, bias), y in zip(weights, (layer.apply(variables, x), in_nnx(x)), strict=True):
        fan_in = int(np.prod(shape[:-1]))
        assert kernel.shape == mask.shape == shape
        np.testing.assert_array_equal(mask.reshape(fan_in, -1).sum(axis=0), np.full(6, round(0.3 * fan_in)))
        assert 0.8 * fan_in**-0.5 < np.abs(kernel).max() <= fan_in**-0.5
        assert np.abs(bias).max() <= fan_in**-0.5 and np.all(bias != 0)
        np.testing.assert_array_equal(y, expected_linear(kind, x, kernel, mask, bias))


@linears
def test_float64_inputs_of_float32_layers_are_computed_in_float64(kind):
    layer, _, _, inputs = LINEAR[kind]
    x = np.random.default_rng(0).standard_normal(inputs)
    with jax.enable_x64(True):
        variables = layer.init(jax.random.key(0), x.astype(np.float32))
        in_nnx = nnx_linear(kind)
        weights = [(variables["params"]["kernel"], variables["masks"]["mask"], variables["params"]["bias"]),
                   (in_nnx.kernel.get_value(), in_nnx.mask.get_value(), in_nnx.bias.get_value())]  # fmt: skip
        for (kernel, mask, bias), y in zip(weights, (layer.apply(variables, x), in_nnx(jnp.asarray(x))), strict=True):
            assert kernel.dtype == bias.dtype == jnp.float32 and y.dtype == jnp.float64
            expected = expected_linear(kind, jnp.asarray(x), kernel.astype(float), mask, bias.astype(float))
            np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-12)


@linears
def test_masked_weights_never_influence_the_output_and_get_no_gradient(fresh_key, kind):
    layer, _, _, inputs = LINEAR[kind]
    x = jax.random.normal(fresh_key(), inputs, jnp.float32)
    variables = layer.init(jax.random.key(0), x)
    mask = np.asarray(variables["masks"]["mask"])
    spoilt = {**variables["params"], "kernel": jnp.where(mask, variables["params"]["kernel"], jnp.nan)}
    np.testing.assert_array_equal(layer.apply({**variables, "params": spoilt}, x), layer.apply(variables, x))
    grads = jax.grad(lambda p: jnp.sum(layer.apply({**variables, "params": p}, x) ** 2))(spoilt)
    assert np.all(np.asarray(grads["kernel"])[~mask] == 0) and np.all(np.asarray(grads["kernel"])[mask] != 0)
    in_nnx = nnx_linear(kind)
    before, mask = in_nnx(x), in_nnx.mask.get_value()
    in_nnx.kernel.set_value(jnp.where(mask, in_nnx.kernel.get_value(), jnp.nan))
    np.testing.assert_array_equal(in_nnx(x), before)


@linears
def test_initialisers_mask_stream_and_density_1(kind):
    layer, _, shape, inputs = LINEAR[kind]
    x = jnp.ones(inputs)
    own = layer.clone(kernel_init=flax_linen.initializers.ones, bias_init=flax_linen.initializers.zeros)
    draw = lambda masks: own.init({"params": jax.random.key(0), "masks": jax.random.key(masks)}, x)  # noqa: E731
    first, same, other = draw(1), draw(1), draw(2)
    np.testing.assert_array_equal(first["masks"]["mask"], same["masks"]["mask"])
    assert np.any(first["masks"]["mask"] != other["masks"]["mask"])
    connections = functional.connections_per_unit(shape, 0.3)
    np.testing.assert_array_equal(own.apply(first, x).reshape(-1, 6)[0], np.full(6, connections, np.float32))
    in_nnx = nnx_linear(kind, kernel_init=flax_linen.initializers.ones, bias_init=flax_linen.initializers.zeros)
    np.testing.assert_array_equal(in_nnx(x).reshape(-1, 6)[0], np.full(6, connections, np.float32))
    assert "masks" not in layer.clone(density=1.0).init(jax.random.key(0), x)
    assert nnx_linear(kind, density=1).mask is None


@pytest.mark.slow
@pytest.mark.parametrize("module", [linen, nnx])
def test_the_examples_of_the_docstrings_run(module):
    result = doctest.testmod(module)
    assert result.attempted > 4 and result.failed == 0


def restored(tree, folder):
    """Returns the tree as Orbax restores it without a target: nested dictionaries of arrays, here NumPy's."""
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder, tree)
        checkpointer.wait_until_finished()
        return jax.tree.map(np.asarray, checkpointer.restore(folder))


class LinenLayers(flax_linen.Module):
    @flax_linen.compact
    def __call__(self, x, *, train):
        x = linen.SparseConv(5, kernel_size=(2, 2), density=0.5)(x)
        x = linen.KWinners2d(**SETTINGS)(x, train=train)
        x = linen.SparseDense(10, density=0.3)(x.reshape(len(x), -1))
        return linen.TopK(2)(linen.KWinners(**SETTINGS)(x, train=train))


class NNXLayers(flax_nnx.Module):
    def __init__(self, seed):
        rngs = flax_nnx.Rngs(seed)
        self.conv = nnx.SparseConv(5, 5, (2, 2), density=0.5, rngs=rngs)
        self.images = nnx.KWinners2d(5, **SETTINGS)
        self.dense = nnx.SparseDense(20, 10, density=0.3, rngs=rngs)
        self.units = nnx.KWinners(10, **SETTINGS)

    def __call__(self, x, *, train):
        x = self.images(self.conv(x), train=train)
        return self.units(self.dense(x.reshape(len(x), -1)), train=train)


def test_linen_layers_take_plain_dictionaries(tmp_path):
    x, net = batches("images")[0], LinenLayers()
    variables = net.init(jax.random.key(0), x, train=True)
    variables |= net.apply(variables, x, train=True, mutable=["boost"])[1]
    plain = restored(variables, tmp_path / "checkpoint")
    assert type(plain["boost"]["KWinners_0"]["state"]) is dict
    np.testing.assert_array_equal(net.apply(plain, x, train=False), net.apply(variables, x, train=False))
    for one, other in zip(*(net.apply(v, x, train=True, mutable=["boost"]) for v in (plain, variables)), strict=True):
        jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize("restore", ["update", "replace_by_pure_dict", "merge"])
def test_nnx_layers_take_plain_dictionaries(tmp_path, restore):
    x, net, other = batches("images")[0], NNXLayers(0), NNXLayers(1)
    net(x, train=True)
    graph, state = flax_nnx.split(net)
    plain = restored(flax_nnx.to_pure_dict(state), tmp_path / "checkpoint")
    if restore == "update":
        flax_nnx.update(other, plain)
    elif restore == "replace_by_pure_dict":
        state = flax_nnx.state(other)
        flax_nnx.replace_by_pure_dict(state, plain)
        flax_nnx.update(other, state)
    else:
        other = flax_nnx.merge(graph, flax_nnx.State(plain))
    for train in (False, True, False):
        np.testing.assert_array_equal(other(x, train=train), net(x, train=train))
    assert_states_equal(other.units.boost, net.units.boost)
    assert_states_equal(other.images.boost, net.images.boost)
