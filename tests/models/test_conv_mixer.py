"""ConvMixer against the paper's formulas, written out with lax convolutions."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from sparsejax.errors import ConfigError
from sparsejax.models import ConvMixer, Variables
from tests.models.made_up import made_up

MODEL = ConvMixer(width=6, depth=2, kernel=3, patch=2, classes=4)
LAYERS = ["patch", "depthwise1", "pointwise1", "depthwise2", "pointwise2"]
IMAGES = np.random.default_rng(0).normal(size=(5, 8, 6, 3)).astype(np.float32)
apply = jax.jit(MODEL.apply)


@pytest.fixture(scope="module")
def variables():
    return made_up(MODEL, IMAGES.shape[1:])


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


def test_at_inference_it_is_the_papers_formula(variables):
    def running(name, _):
        return variables.state[name]["mean"], variables.state[name]["var"]

    prediction, latent, _ = jax.jit(lambda x: by_formula(variables, x, running))(IMAGES)
    out = apply(variables, IMAGES)
    np.testing.assert_allclose(out.prediction, prediction, atol=2e-4)
    np.testing.assert_allclose(out.activations["latent"], latent, atol=2e-4)
    assert out.prediction.shape == (5, 4) and latent.shape == (5, 6) and list(out.activations) == ["latent"]
    chex.assert_trees_all_close(out.state, variables.state, atol=1e-5)


def test_in_training_it_is_the_papers_formula_and_so_are_the_gradients(variables):
    def loss(forward):
        def loss(params, x):
            prediction, *others = forward(variables._replace(params=params), x)
            return jnp.sum(jnp.sin(prediction)), (prediction, *others)

        return jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))

    ours = loss(lambda variables, x: MODEL.apply(variables, x, train=True)[:3])
    formula = loss(lambda variables, x: by_formula(variables, x, of_batch))
    got, (prediction, state, activations) = ours(variables.params, IMAGES)
    wanted, (expected, latent, seen) = formula(variables.params, IMAGES)
    np.testing.assert_allclose(prediction, expected, atol=2e-4)
    np.testing.assert_allclose(activations["latent"], latent, atol=2e-4)
    chex.assert_trees_all_close(got, wanted, atol=2e-4, rtol=2e-3)
    assert sorted(state) == sorted(LAYERS)
    for name, after in state.items():
        mean, var = of_batch(name, np.asarray(seen[name]))
        before = jax.tree.map(np.asarray, variables.state[name])
        np.testing.assert_allclose(after["mean"], 0.9 * before["mean"] + 0.1 * mean, atol=1e-5)
        np.testing.assert_allclose(after["var"], 0.9 * before["var"] + 0.1 * var, atol=1e-5)


def test_at_inference_no_latent_depends_on_another_image(variables):
    changed = IMAGES.copy()
    changed[1:] = np.nan
    one, whole = (apply(variables, x).activations["latent"][0] for x in (changed, IMAGES))
    np.testing.assert_allclose(one, whole, rtol=1e-6)


def test_the_defaults_are_the_authors_for_cifar():
    shapes = jax.eval_shape(ConvMixer().init, jax.random.key(0), jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32))
    # By hand: patch 12 * 256 + 3 * 256; each block 25 * 256 + 3 * 256 + 256^2 + 3 * 256; classifier 257 * 10.
    count = 12 * 256 + 768 + 8 * (25 * 256 + 768 + 256**2 + 768) + 2570
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes.params)) == count
    assert [layer.units for layer in ConvMixer().layers((32, 32, 3))] == [256]


@pytest.mark.parametrize("field", ["width", "depth", "kernel", "patch", "classes"])
def test_sizes_are_positive(field):
    with pytest.raises(ConfigError, match=f"model.{field} is 0; expected a positive number"):
        ConvMixer(**{field: 0})


@pytest.mark.parametrize("shape", [(1, 32, 31, 3), (1, 256)])
def test_images_are_cut_into_whole_patches(variables, shape):
    with pytest.raises(ConfigError, match="multiples of model.patch, which is 2"):
        MODEL.init(jax.random.key(0), jnp.zeros(shape))
    with pytest.raises(ConfigError, match="multiples of model.patch, which is 2"):
        MODEL.apply(variables, jnp.zeros(shape))


def test_no_field_is_traced():
    assert not jax.tree.leaves(MODEL)
