"""ConvMixer against the paper's formulas, written out with lax convolutions, and over several devices."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec as P
from sparsejax.hyper import stack_hyper

from sparsejax.data.dataset import Dataset, Split
from sparsejax.data.resident import resident
from sparsejax.errors import ConfigError
from sparsejax.models import ConvMixer, Variables
from sparsejax.training.config import Config, DevicesConfig, TrainingConfig
from sparsejax.training.devices import carry, place, put_members, put_shared
from sparsejax.training.loop import Job, start
from sparsejax.training.objectives import cross_entropy
from sparsejax.training.step import make_chunk

MODEL = ConvMixer(width=6, depth=2, kernel=3, patch=2, classes=4)
LAYERS = ["patch", "depthwise1", "pointwise1", "depthwise2", "pointwise2"]


def images(seed: int = 0, batch: int = 5) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), (batch, 8, 6, 3))


@functools.cache
def drawn() -> Variables:
    """Returns variables with scales, offsets and running statistics other than 1 and 0."""
    params, state = MODEL.init(jax.random.key(0), images())
    keys = iter(jax.random.split(jax.random.key(1), 99))
    moved = {name: jax.tree.map(lambda leaf: leaf + 0.2 * jax.random.normal(next(keys), leaf.shape), layer)
             if name.endswith("_norm") else layer for name, layer in params.items()}  # fmt: skip
    state = {name: {"mean": 0.1 * jax.random.normal(next(keys), (6,)), "var": jax.random.uniform(next(keys), (6,))}
             for name in state}  # fmt: skip
    return Variables(moved, state)


def by_formula(variables: Variables, x, moments):
    """Computes logits, latent, and what each layer normalises; `moments(name, x)` gives mean and variance."""
    params, seen = variables.params, {}

    def conv(x, kernel, stride=1, groups=1):
        padding = "SAME" if groups > 1 else "VALID"
        return lax.conv_general_dilated(
            x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups, precision=lax.Precision.HIGHEST,
        )  # fmt: skip

    def finish(name, x):
        x = x + params[name]["bias"].reshape(1, 1, 1, -1)
        x = seen[name] = 0.5 * x * (1 + lax.erf(x / np.float32(np.sqrt(2))))
        mean, var = (m.reshape(1, 1, 1, -1) for m in moments(name, x))
        norm = {key: leaf.reshape(1, 1, 1, -1) for key, leaf in params[f"{name}_norm"].items()}
        return norm["scale"] * (x - mean) / jnp.sqrt(var + 1e-5) + norm["bias"]

    p, width = MODEL.patch, MODEL.width
    x = finish("patch", conv(x, params["patch"]["kernel"].reshape(p, p, 3, width), stride=p))
    for i in (1, 2):
        depthwise = conv(x, params[f"depthwise{i}"]["kernel"][:, :, None], groups=width)
        x = x + finish(f"depthwise{i}", depthwise)
        x = finish(f"pointwise{i}", conv(x, params[f"pointwise{i}"]["kernel"][None, None]))
    latent = x.mean(axis=(1, 2))
    return latent @ params["output"]["kernel"] + params["output"]["bias"].reshape(1, -1), latent, seen


def of_batch(name, x):
    return x.mean(axis=(0, 1, 2)), x.var(axis=(0, 1, 2))


@pytest.mark.slow
@pytest.mark.parametrize("train", [False, True])
def test_it_is_the_papers_formula(train):
    variables = drawn()
    running = lambda name, _: (variables.state[name]["mean"], variables.state[name]["var"])  # noqa: E731
    prediction, latent, seen = by_formula(variables, images(), of_batch if train else running)
    out = jax.jit(MODEL.apply, static_argnames="train")(variables, images(), train=train)
    np.testing.assert_allclose(out.prediction, prediction, atol=2e-4)
    np.testing.assert_allclose(out.activations["latent"], latent, atol=2e-4)
    assert out.prediction.shape == (5, 4) and latent.shape == (5, 6) and list(out.activations) == ["latent"]
    assert sorted(out.state) == sorted(LAYERS)
    for name in LAYERS:
        before, after = variables.state[name], out.state[name]
        mean, var = of_batch(name, seen[name]) if train else (before["mean"], before["var"])
        np.testing.assert_allclose(after["mean"], 0.9 * before["mean"] + 0.1 * mean, atol=1e-5)
        np.testing.assert_allclose(after["var"], 0.9 * before["var"] + 0.1 * var, atol=1e-5)


def test_gradients_are_the_formulas():
    variables = drawn()

    def loss(forward):
        return lambda params, x: jnp.sum(jnp.sin(forward(variables._replace(params=params), x)))

    ours = loss(lambda variables, x: MODEL.apply(variables, x, train=True).prediction)
    formula = loss(lambda variables, x: by_formula(variables, x, of_batch)[0])
    got, wanted = (jax.jit(jax.grad(f, argnums=(0, 1)))(variables.params, images()) for f in (ours, formula))
    chex.assert_trees_all_close(got, wanted, atol=2e-4, rtol=2e-3)


def test_at_inference_no_latent_depends_on_another_image():
    variables, changed = drawn(), images().at[1:].set(jnp.nan)
    whole = MODEL.apply(variables, images()).activations["latent"]
    np.testing.assert_allclose(MODEL.apply(variables, changed).activations["latent"][0], whole[0], rtol=1e-6)


def test_the_defaults_are_the_authors_for_cifar():
    shapes = jax.eval_shape(ConvMixer().init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    # By hand: patch 12 * 256 + 3 * 256; each block 25 * 256 + 3 * 256 + 256^2 + 3 * 256; classifier 257 * 10.
    count = 12 * 256 + 768 + 8 * (25 * 256 + 768 + 256**2 + 768) + 2570
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes.params)) == count
    assert [layer.units for layer in ConvMixer().layers((32, 32, 3))] == [256]


@pytest.mark.parametrize("field", ["width", "depth", "kernel", "patch", "classes"])
def test_sizes_are_positive(field):
    with pytest.raises(ConfigError, match=f"model.{field} is 0; expected a positive number"):
        ConvMixer(**{field: 0})


@pytest.mark.parametrize("shape", [(1, 32, 31, 3), (1, 256)])
def test_images_are_cut_into_whole_patches(shape):
    with pytest.raises(ConfigError, match="multiples of model.patch, which is 2"):
        MODEL.init(jax.random.key(0), jnp.zeros(shape))
    with pytest.raises(ConfigError, match="multiples of model.patch, which is 2"):
        MODEL.apply(drawn(), jnp.zeros(shape))


def test_no_field_is_traced():
    with pytest.raises(ValueError, match="no traced field"):
        MODEL.apply(drawn(), images(), hyper={"width": 3})


def erf_can_be_spread() -> bool:
    """JAX 0.12.0 cannot differentiate its error function, and so GELU, under shard_map; others can."""
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.shard_map(jax.grad(lambda x: lax.erf(x).sum()), mesh=mesh, in_specs=P("data"), out_specs=P("data"))
    try:
        jax.eval_shape(spread, jnp.zeros(2))
    except ValueError as error:
        return "varying manual axes" not in str(error)
    return True


@pytest.mark.slow
@pytest.mark.skipif(not erf_can_be_spread(), reason="this JAX cannot differentiate erf under shard_map")
@pytest.mark.parametrize("transform", ["shard_map", "pmap"])
def test_many_devices_train_the_network_that_one_trains(transform):
    model = dataclasses.replace(MODEL, depth=1)
    rng = np.random.default_rng(0)
    split = Split(rng.integers(0, 256, (32, 8, 8, 3), np.uint8), rng.integers(0, 4, 32).astype(np.int32))
    dataset = Dataset("random", "test", split, split, 4, (0.5,) * 3, (0.3,) * 3)
    # Plain SGD: Adam would hide a gradient of the wrong scale.
    config = Config(model, training=TrainingConfig(epochs=2, batch_size=16, learning_rate=0.1))
    results = []
    for devices in (DevicesConfig("jit"), DevicesConfig(transform, data=2)):
        placement = place(devices, 1, {16})
        hyper = put_members(stack_hyper([config]), placement)
        data = put_shared(resident(dataset, dataset.train), placement)
        chunk = carry(
            make_chunk(model, cross_entropy, config.training, examples=32, batch_size=16, length=2,
                       axis_name=placement.axis_name, shards=placement.shards),
            placement,
        )  # fmt: skip
        state, metrics = chunk(start(Job(model, cross_entropy, config.training, placement, hyper, data), [1]).state,
                               hyper, data)  # fmt: skip
        results.append(jax.tree.map(np.asarray, (state.variables, metrics)))
    chex.assert_trees_all_close(results[1], results[0], rtol=2e-4, atol=2e-6)
    assert results[0][1]["grad_norm"].min() > 0.1
