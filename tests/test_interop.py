"""Export and import of weights, and conversion of other networks."""

import re

import chex
import jax
import numpy as np
import pytest

from sparsejax.errors import ConfigError, DataDamagedError, DataMissingError
from sparsejax.interop import from_nupic, load_weights, named_arrays, save_weights, torch_kernel
from sparsejax.models import HebbianVGG, NoisyNetwork, SparseCNN
from tests import golden
from tests.models.made_up import made_up
from tests.models.test_sparse_cnn_golden import MODELS, NUPIC, PAPER, first_state, layers_of

CNN = SparseCNN(channels=(3, 4), conv_k=(30, None), hidden=20, hidden_k=5, density=0.4, batch_norm=True)


@pytest.mark.parametrize(
    "model",
    [CNN, NoisyNetwork(hidden=9, competition="sampled_k"), HebbianVGG(widths=(10, 0, 12), hebbian=1, alphas=(0.1,))],
    ids=["SparseCNN", "NoisyNetwork", "HebbianVGG"],
)
def test_what_is_saved_is_loaded(model, tmp_path):
    pytest.importorskip("safetensors")
    variables = made_up(model, (28, 28, 1))
    loaded = load_weights(save_weights(tmp_path / "net.safetensors", variables), jax.eval_shape(lambda: variables))
    chex.assert_trees_all_equal(loaded, variables, strict=True)
    chex.assert_trees_all_equal_dtypes(loaded, variables)


def test_names_are_paths_of_arrays():
    names = named_arrays(made_up(CNN, (28, 28, 1)))
    assert {
        "params.conv1.kernel",
        "state.hidden.boost.duty_cycle",
        "state.hidden.mask",
        "state.conv2.norm.mean",
    } <= set(names)


def test_what_does_not_fit_is_refused(tmp_path):
    pytest.importorskip("safetensors")
    variables = made_up(CNN, (28, 28, 1))
    path = save_weights(tmp_path / "net.safetensors", variables)
    with pytest.raises(
        ConfigError, match=r"params.conv1.kernel is float32 \[5, 5, 1, 3\] where float32 \[5, 5, 3, 3\]"
    ):
        load_weights(path, made_up(CNN, (28, 28, 3)))
    other = made_up(NoisyNetwork(hidden=9, competition="learned_k", k=3), (4,))
    with pytest.raises(ConfigError, match=r"has params.conv1.bias, .* and \d+ more, .* lacks params.k"):
        load_weights(path, other)
    with pytest.raises(DataMissingError, match="cannot be read: No such file"):
        load_weights(tmp_path / "none", variables)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(DataDamagedError, match="is not a readable safetensors file"):
        load_weights(path, variables)


@pytest.mark.slow
@pytest.mark.parametrize("peer", [NUPIC, PAPER], ids=["nupic.torch", "paper"])
def test_a_converted_network_of_nupic_torch_has_the_same_outputs(peer):
    """The network with which test_sparse_cnn_golden.py begins."""
    case, model = golden.load(peer), MODELS[peer]
    state_dict = {name.removeprefix("init."): case[name] for name in case if name.startswith("init.")}
    params, state = from_nupic(state_dict, model)
    chex.assert_trees_all_equal(params, layers_of(case, peer, "init", masked=True))
    expected = first_state(case, peer)
    for name, layer in expected.items():
        if "boost" in layer:
            expected[name] = layer | {"boost": layer["boost"]._replace(samples=np.float32(model.period))}
    chex.assert_trees_all_equal(state, expected)
    with pytest.raises(ConfigError, match=r"has no (output|fc).weight, which output is to be made of"):
        from_nupic({name: array for name, array in state_dict.items() if not name.startswith(("output", "fc"))}, model)
    bare = {name: array for name, array in state_dict.items() if not re.match(r"(output|fc)\.bias", name)}
    with pytest.raises(ConfigError, match=r"has no (output|fc).bias"):
        from_nupic(bare, model)
    bias = next(name for name in state_dict if re.search(r"linear(Sdr1)?\.module\.bias", name))
    with pytest.raises(ConfigError, match="another network.* params.hidden.bias is float32"):
        from_nupic({**state_dict, bias: state_dict[bias][:-1]}, model)


def test_a_kernel_of_pytorch_gives_the_same_layer():
    rng = np.random.default_rng(0)
    x, weight = rng.normal(size=(2, 3, 4, 5)), rng.normal(size=(7, 60))  # channels first
    ours = np.moveaxis(x, 1, -1).reshape(2, -1) @ torch_kernel(weight, (4, 5, 3))
    np.testing.assert_allclose(ours, x.reshape(2, -1) @ weight.T)
    assert torch_kernel(rng.normal(size=(8, 3, 5, 4))).shape == (5, 4, 3, 8)
    with pytest.raises(ConfigError, match=r"A kernel \[7, 60\] has not 75 inputs, as images of 5 x 5 x 3"):
        torch_kernel(weight, (5, 5, 3))
