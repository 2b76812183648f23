"""HebbianVGG: the recorded network's loss, the paper's size, the layer-local costs, its options and errors."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sparsejax import configs
from sparsejax.errors import ConfigError
from sparsejax.models import HebbianVGG, Variables
from sparsejax.models.hebbian_vgg import VGG16
from tests.golden import load
from tests.models.made_up import made_up

SMALL = HebbianVGG(widths=(12, 0, 14, 0, 10), hebbian=2, alphas=(0.1, 0.2), classes=5)
WIDE = dataclasses.replace(SMALL, widths=(12, 14, 0, 10))
"""Its first block has no pooling."""
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)
"""Moments of the recorded network, which normalises its inputs."""
RECORDED = HebbianVGG(widths=(10, 12, 0, 14, 0, 16, 0), hebbian=2, alphas=(0.0, 0.0))


def recorded_network():
    """Returns the recorded case and its network's variables."""
    case = load("hah_attack_pgd_linf")
    params, state = {}, {}
    for i, place in enumerate((0, 4, 9, 13)):
        params[f"conv{i + 1}"] = {"kernel": case[f"param.features.{place}.weight"].transpose(2, 3, 1, 0)}
    for name, place in (("conv3", 11), ("conv4", 15)):
        here = {key: case[f"param.features.{place}.{key}"] for key in ("weight", "bias", "running_mean", "running_var")}
        params[f"{name}_norm"] = {"scale": here["weight"], "bias": here["bias"]}
        state[name] = {"mean": here["running_mean"], "var": here["running_var"]}
    # The recorded classifier reads [channels, height, width].
    weight = case["param.classifier.weight"].reshape(10, 16, 2, 2).transpose(2, 3, 1, 0).reshape(64, 10)
    params["output"] = {"kernel": weight, "bias": case["param.classifier.bias"]}
    return case, jax.tree.map(jnp.asarray, Variables(params, state))


def normalised(pixels):
    mean, std = (jnp.asarray(moment, jnp.float32).reshape(1, 1, 1, 3) for moment in (MEAN, STD))
    return (pixels - mean) / std


@pytest.mark.optimized
def test_the_loss_of_the_recorded_network_is_the_recorded_one():
    case, variables = recorded_network()

    @jax.jit
    def losses(pixels):
        logits = RECORDED.apply(variables, normalised(pixels)).prediction
        return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.asarray(case["y"], jnp.int32))

    for pixels, loss in ((case["x"], "loss_clean"), (case["x"] + case["delta"], "loss_adv")):
        np.testing.assert_allclose(losses(pixels.transpose(0, 2, 3, 1)), case[loss], rtol=2e-5)


def test_the_papers_network_has_its_size_and_layout():
    shapes = jax.eval_shape(configs.get("cifar_hebbian").model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes.params)) == 14_722_250
    assert set(shapes.state) == {f"conv{i}" for i in range(7, 14)}, "the HaH blocks have no batch norm"
    layers = configs.get("cifar_hebbian").model.layers((32, 32, 3))
    assert [layer.units for layer in layers[:3]] == [64 * 32**2, 64 * 16**2, 128 * 16**2]
    assert layers[-1].units == 512 and len(layers) == 13 == len([width for width in VGG16 if width])
    standard = configs.get("cifar_vgg16").model
    assert len(jax.eval_shape(standard.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3))).state) == 13


def images(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


X, XS = images(4, 8, 8, 3), images(3, 10, 10, 3)
BOTH, SECOND, FREE = ((np.float32(first), np.float32(second)) for first, second in ((0.1, 0.2), (0, 0.2), (0, 0)))


@functools.cache
def applied(model):
    return jax.jit(model.apply, static_argnames="train")


@functools.cache
def graded(model):
    """Returns a function that returns the kernels' gradients and the costs, given the weight of the task."""

    def loss(params, task, alphas):
        weighted = dataclasses.replace(model, alphas=alphas)
        output = weighted.apply(variables_of_small()._replace(params=params), X, train=True)
        return task * jnp.mean(output.prediction**2) + sum(output.losses.values()), output.losses

    return jax.jit(jax.grad(loss, has_aux=True))


@functools.cache
def variables_of_small():
    return made_up(SMALL, X.shape[1:])


def kernels(model, alphas):
    gradients, _ = graded(model)(variables_of_small().params, np.float32(1), alphas)
    return {name: np.asarray(gradients[name]["kernel"]) for name in ("conv1", "conv2", "conv3")}


def test_a_blocks_cost_stays_in_the_block():
    task, local, second = (kernels(SMALL, alphas) for alphas in (FREE, BOTH, SECOND))
    change = [np.abs(local[name] - task[name]).max() for name in task]
    assert min(change[:2]) > 1e-4 and change[2] < 1e-7
    np.testing.assert_allclose(second["conv1"], task["conv1"], atol=1e-7)
    np.testing.assert_allclose(second["conv2"], local["conv2"], atol=1e-6)


@pytest.mark.slow
def test_a_blocks_cost_reaches_the_blocks_before_it_where_that_is_wanted():
    everywhere = dataclasses.replace(SMALL, local_costs=False)
    task, second, wide = (kernels(*of) for of in ((SMALL, FREE), (SMALL, SECOND), (everywhere, SECOND)))
    np.testing.assert_allclose(wide["conv2"], second["conv2"], atol=1e-6)
    assert np.abs(wide["conv1"] - task["conv1"]).max() > 1e-4


def test_costs_are_of_training_only_and_promote_what_is_strong():
    assert jax.eval_shape(SMALL.apply, variables_of_small(), X).losses is None
    params, before = variables_of_small().params, None
    for _ in range(6):
        slopes, costs = graded(SMALL)(params, np.float32(0), BOTH)
        before = before or costs
        params = jax.tree.map(lambda leaf, slope: leaf - np.float32(0.3) * np.asarray(slope), params, slopes)
    assert set(costs) == {"hebbian1", "hebbian2"} and all(costs[name] < before[name] for name in costs)


@pytest.mark.slow
def test_the_threshold_keeps_a_fifth_and_divisive_normalisation_sees_no_scale():
    variables = made_up(WIDE, XS.shape[1:])
    output, scaled = (applied(WIDE)(variables, x) for x in (XS, 100 * XS))
    assert output.prediction.shape == (3, 5) and set(output.activations) == {"conv1", "conv2", "conv3"}
    for name in ("conv1", "conv2"):
        np.testing.assert_allclose(scaled.activations[name], output.activations[name], rtol=1e-3, atol=1e-4)
    active, mean, loose = (
        np.count_nonzero(applied(dataclasses.replace(WIDE, threshold=kind))(variables, XS).activations["conv1"], (1, 2))
        for kind in ("quantile", "mean", "none")
    )
    assert (active <= 20).all() and active.max() == 20
    assert 0 < mean.sum() < loose.sum() and active.sum() < loose.sum()


def test_batch_norm_may_stand_in_for_divisive_normalisation():
    model = dataclasses.replace(WIDE, norm="batch", threshold="none")
    variables = made_up(model, X.shape[1:])
    assert set(variables.state) == {"conv1", "conv2", "conv3"}
    output = applied(model)(variables, X, train=True)
    offset = variables.params["conv1_norm"]["bias"]
    np.testing.assert_allclose(np.mean(output.activations["conv1"], (0, 1, 2)), offset, atol=1e-5)
    assert set(output.losses) == {"hebbian1", "hebbian2"}
    assert not np.allclose(output.state["conv1"]["mean"], variables.state["conv1"]["mean"])


@pytest.mark.slow
def test_traced_fields_may_differ_between_members():
    values = np.asarray([0, 1], np.float32)

    def run(value, variables, x):
        return dataclasses.replace(SMALL, suppression=value).apply(variables, x).prediction

    together = jax.jit(jax.vmap(run, (0, None, None)))(values, variables_of_small(), X)
    for value, got in zip(values, together, strict=True):
        np.testing.assert_allclose(got, jax.jit(run)(value, variables_of_small(), X), atol=1e-5)
    assert np.abs(together[0] - together[1]).max() > 1e-3


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"widths": (0, 8)}, "model.widths"),
        ({"widths": (8, 0, 0)}, "model.widths"),
        ({"hebbian": 4}, "model.hebbian is 4; expected a number of blocks from 0 to 3"),
        ({"alphas": (0.1,)}, "one weight of 0 or more for each of the 2"),
        ({"demote": -1.0}, "model.demote"),
        ({"suppression": 1.5}, "model.suppression"),
        ({"norm_pool": 2}, "model.norm_pool"),
        ({"keep": 0.0}, "model.keep"),
        ({"kernel_size": 4}, "model.kernel_size is 4; expected an odd number"),
        ({"hidden": 0}, "model.hidden"),
        ({"promoted": 0.95}, "model.promoted"),
    ],
)
def test_fields_out_of_range_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(SMALL, **fields)


def test_images_that_do_not_fit_are_refused():
    for shape, message in (((1, 2, 2, 3), "too small for the convolutions and the 2 pools"), ((1, 64), r"\(64,\)")):
        with pytest.raises(ConfigError, match=message):
            SMALL.init(jax.random.key(0), jnp.zeros(shape))


@pytest.mark.slow
def test_larger_kernels_without_padding_and_a_hidden_layer():
    model = dataclasses.replace(SMALL, widths=(10, 0, 12, 0), kernel_size=5, padded=False, hidden=9)
    x = images(3, 20, 20, 2)
    variables = made_up(model, x.shape[1:])
    activations = applied(model)(variables, x).activations
    assert {name: h.shape[1:] for name, h in activations.items()} == {
        "conv1": (8, 8, 10), "conv2": (2, 2, 12), "hidden": (9,)}  # fmt: skip
    assert [(layer.units, layer.inputs, layer.padding) for layer in model.layers((20, 20, 2))] == [
        (640, (20, 20, 2), 0), (48, (8, 8, 10), 0), (9, (48,), 0)]  # fmt: skip
    assert variables.params["output"]["kernel"].shape == (9, 5) and np.min(activations["hidden"]) >= 0
    assert SMALL.layers((8, 8, 3))[1].padding == 1
    seen = jax.jit(model.block_inputs)(variables, x)
    np.testing.assert_array_equal(seen["conv1"], x)
    np.testing.assert_allclose(seen["conv2"], activations["conv1"], rtol=1e-5)
    with pytest.raises(ConfigError, match="too small for the convolutions"):
        model.init(jax.random.key(0), x[:, :9, :9])
