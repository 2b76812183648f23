"""HebbianVGG: the recorded network's loss, the paper's size, the layer-local costs, its options and errors."""

import dataclasses

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

SMALL = HebbianVGG(widths=(12, 0, 14, 0, 10), hebbian=2, alphas=(0.1, 0.2), classes=5)
WIDE = dataclasses.replace(SMALL, widths=(12, 14, 0, 10))
"""Its first block passes on what it has, with no maximum."""
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)
"""Of the recorded network, which normalises what it is given."""
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
    mean, std = (jnp.asarray(moment).reshape(1, 1, 1, 3) for moment in (MEAN, STD))
    return (pixels - mean) / std


@pytest.mark.slow
def test_the_loss_of_the_recorded_network_is_the_recorded_one():
    case, variables = recorded_network()
    for pixels, loss in ((case["x"], "loss_clean"), (case["x"] + case["delta"], "loss_adv")):
        pixels = jnp.asarray(pixels.transpose(0, 2, 3, 1))
        logits = RECORDED.apply(variables, normalised(pixels)).prediction
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.asarray(case["y"], jnp.int32))
        np.testing.assert_allclose(losses, case[loss], rtol=2e-5)


def test_the_papers_network_has_its_size_and_layout():
    shapes = jax.eval_shape(configs.get("cifar_hebbian").model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes.params)) == 14_722_250
    assert set(shapes.state) == {f"conv{i}" for i in range(7, 14)}, "the HaH blocks have no batch norm"
    layers = configs.get("cifar_hebbian").model.layers((32, 32, 3))
    assert [layer.units for layer in layers[:3]] == [64 * 32**2, 64 * 16**2, 128 * 16**2]
    assert layers[-1].units == 512 and len(layers) == 13 == len([width for width in VGG16 if width])
    standard = configs.get("cifar_vgg16").model
    assert len(jax.eval_shape(standard.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3))).state) == 13


def loss_of(model, variables, x, hyper=None):
    output = model.apply(variables, x, train=True, hyper=hyper)
    task = jnp.mean(output.prediction**2)
    return task + sum(output.losses.values()), (task, output)


@pytest.mark.slow
def test_a_blocks_cost_stays_in_the_block_unless_told_otherwise(fresh_key):
    x = jax.random.normal(fresh_key(), (4, 8, 8, 3))
    variables = SMALL.init(fresh_key(), x)
    unpaid = {"alphas": (jnp.float32(0), jnp.float32(0))}

    def gradients(model, hyper=None):
        return jax.jit(jax.grad(lambda params: loss_of(model, variables._replace(params=params), x, hyper)[0]))(
            variables.params
        )

    task, local = gradients(SMALL, unpaid), gradients(SMALL)
    second = gradients(SMALL, {"alphas": (jnp.float32(0), jnp.float32(0.2))})
    wide = gradients(dataclasses.replace(SMALL, local_costs=False), {"alphas": (jnp.float32(0), jnp.float32(0.2))})
    change = [np.abs(local[name]["kernel"] - task[name]["kernel"]).max() for name in ("conv1", "conv2", "conv3")]
    assert min(change[:2]) > 1e-4 and change[2] < 1e-7
    np.testing.assert_allclose(second["conv1"]["kernel"], task["conv1"]["kernel"], atol=1e-7)
    np.testing.assert_allclose(second["conv2"]["kernel"], local["conv2"]["kernel"], atol=1e-6)
    np.testing.assert_allclose(wide["conv2"]["kernel"], second["conv2"]["kernel"], atol=1e-6)
    assert np.abs(wide["conv1"]["kernel"] - task["conv1"]["kernel"]).max() > 1e-4


@pytest.mark.slow
def test_costs_are_of_training_only_and_promote_what_is_strong(fresh_key):
    x = jax.random.normal(fresh_key(), (4, 8, 8, 3))
    variables = SMALL.init(fresh_key(), x)
    output = SMALL.apply(variables, x, train=True)
    assert set(output.losses) == {"hebbian1", "hebbian2"} and SMALL.apply(variables, x).losses is None
    params = variables.params
    step = jax.jit(jax.grad(lambda params: sum(SMALL.apply(Variables(params, variables.state), x, train=True)
                                               .losses.values())))  # fmt: skip
    for _ in range(5):
        params = jax.tree.map(lambda leaf, slope: leaf - 0.3 * slope, params, step(params))
    after = SMALL.apply(Variables(params, variables.state), x, train=True).losses
    assert all(after[name] < output.losses[name] for name in after)


@pytest.mark.slow
def test_the_threshold_keeps_a_fifth_and_divisive_normalisation_sees_no_scale(fresh_key):
    x = jax.random.normal(fresh_key(), (3, 10, 10, 3))
    variables = WIDE.init(fresh_key(), x)
    output = jax.jit(WIDE.apply)(variables, x)
    assert output.prediction.shape == (3, 5) and set(output.activations) == {"conv1", "conv2", "conv3"}
    active = (output.activations["conv1"] > 0).sum((1, 2))
    assert (active <= 20).all() and active.max() == 20
    scaled = WIDE.apply(variables, 100 * x)
    for name in ("conv1", "conv2"):
        np.testing.assert_allclose(scaled.activations[name], output.activations[name], rtol=1e-3, atol=1e-4)
    loose = dataclasses.replace(WIDE, threshold="none").apply(variables, x)
    assert (loose.activations["conv1"] > 0).sum() > (output.activations["conv1"] > 0).sum()
    mean = dataclasses.replace(WIDE, threshold="mean").apply(variables, x)
    assert 0 < (mean.activations["conv1"] > 0).sum() < (loose.activations["conv1"] > 0).sum()


@pytest.mark.slow
def test_batch_norm_may_stand_in_for_divisive_normalisation(fresh_key):
    model = dataclasses.replace(WIDE, norm="batch", threshold="none")
    x = jax.random.normal(fresh_key(), (6, 8, 8, 3))
    variables = model.init(fresh_key(), x)
    assert set(variables.state) == {"conv1", "conv2", "conv3"}
    output = model.apply(variables, x, train=True)
    h = output.activations["conv1"]
    np.testing.assert_allclose(h.mean((0, 1, 2)), np.zeros(12), atol=1e-5)
    assert set(output.losses) == {"hebbian1", "hebbian2"}
    assert not np.allclose(output.state["conv1"]["mean"], 0)


@pytest.mark.slow
def test_traced_fields_may_differ_between_members(fresh_key):
    x = jax.random.normal(fresh_key(), (2, 8, 8, 3))
    variables = SMALL.init(fresh_key(), x)
    values = jnp.array([0.0, 1.0])
    together = jax.vmap(lambda v: SMALL.apply(variables, x, hyper={"suppression": v}).prediction)(values)
    for value, got in zip(values, together, strict=True):
        alone = dataclasses.replace(SMALL, suppression=float(value)).apply(variables, x).prediction
        np.testing.assert_allclose(got, alone, atol=1e-5)


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
    for shape, message in (((1, 2, 2, 3), "too small for the convolutions and the 2 maxima"), ((1, 64), r"\(64,\)")):
        with pytest.raises(ConfigError, match=message):
            SMALL.init(jax.random.key(0), jnp.zeros(shape))


@pytest.mark.slow
def test_larger_kernels_without_padding_and_a_hidden_layer(fresh_key):
    model = dataclasses.replace(SMALL, widths=(10, 0, 12, 0), kernel_size=5, padded=False, hidden=9)
    x = jax.random.normal(fresh_key(), (3, 20, 20, 2))
    variables = model.init(fresh_key(), x)
    activations = model.apply(variables, x).activations
    assert {name: h.shape[1:] for name, h in activations.items()} == {
        "conv1": (8, 8, 10), "conv2": (2, 2, 12), "hidden": (9,)}  # fmt: skip
    assert [(layer.units, layer.inputs, layer.padding) for layer in model.layers((20, 20, 2))] == [
        (640, (20, 20, 2), 0), (48, (8, 8, 10), 0), (9, (48,), 0)]  # fmt: skip
    assert variables.params["output"]["kernel"].shape == (9, 5) and (activations["hidden"] >= 0).all()
    assert SMALL.layers((8, 8, 3))[1].padding == 1
    seen = model.block_inputs(variables, x)
    assert seen["conv1"] is x and seen["conv2"].shape == (3, 8, 8, 10)
    with pytest.raises(ConfigError, match="too small for the convolutions"):
        model.init(fresh_key(), x[:, :9, :9])
