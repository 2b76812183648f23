"""Files of sparse autoencoders: every layout and its foldings, and what is refused."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sparsejax as sj
from sparsejax.errors import ConfigError, DataDamagedError, DataMissingError
from sparsejax.evaluation.sae.autoencoder import fold
from sparsejax.evaluation.sae.files import from_dictionary_learning
from sparsejax.models import SparseAutoencoder, Variables
from sparsejax.training.restore import TrainedNetwork
from tests import golden
from tests.command import ROOT

PEERS = sorted(path.parent for path in (ROOT / "tests/sae_peers").glob("*/expected.npz"))
RNG = np.random.default_rng(0)
X = (RNG.normal(size=(20, 8)) * 3 + 2).astype(np.float32)
LAYOUTS = {
    "saelens": ("top_k", "batch_top_k", "jump_relu", "relu", "gated"), "sparsify": ("top_k",),
    "gemma_scope": ("batch_top_k", "jump_relu"), "gemma_scope_2": ("batch_top_k", "jump_relu"),
}  # fmt: skip


def trained(activation, **fields):
    """Returns a network with random weights, and the moments of its data."""
    k = 4 if "top_k" in activation else None
    model = SparseAutoencoder(hidden=32, activation=activation, k=k, initial_threshold=0.3, **fields)
    variables = model.init(jax.random.key(0), X[:1])
    params = jax.tree.map(lambda leaf: leaf + 0.1 * RNG.normal(size=leaf.shape).astype(np.float32), variables.params)
    state = variables.state
    if activation == "batch_top_k":
        state = {"hidden": {**state["hidden"], "threshold": jnp.float32(0.7)}}
    scale = float(np.sqrt(np.mean(X**2)))
    return TrainedNetwork(model, Variables(params, state), tuple(map(float, X.mean(0))), (scale,) * 8, (8,))


def expected(network):
    """Returns the network's reconstructions of activations as they are."""
    return network.predict(X) * np.asarray(network.std) + np.asarray(network.mean)


@pytest.mark.parametrize("pre_bias", [True, False])
@pytest.mark.parametrize("layout, activation", [(name, one) for name, some in LAYOUTS.items() for one in some])
def test_every_layout_keeps_the_reconstructions(tmp_path, layout, activation, pre_bias):
    network = trained(activation, pre_bias=pre_bias)
    found = sj.load_sae(sj.save_sae(tmp_path / "sae", network, layout))
    np.testing.assert_allclose(found(X), expected(network), rtol=1e-4, atol=2e-5)
    codes = found.encode(X)
    assert codes.shape == (20, 32) and (np.asarray(codes) >= 0).all()
    np.testing.assert_allclose(found.decode(codes), found(X), rtol=1e-6)
    np.testing.assert_allclose(jnp.linalg.norm(found.W_dec, axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("pre_bias", [True, False])
def test_skip_transcoders_keep_their_skip(tmp_path, pre_bias):
    network = trained("top_k", skip=True, pre_bias=pre_bias)
    found = sj.load_sae(sj.save_sae(tmp_path / "sae", network, "sparsify"))
    assert found.model.skip
    np.testing.assert_allclose(found(X), expected(network), rtol=1e-4, atol=2e-4)
    jump = trained("jump_relu", skip=True, pre_bias=pre_bias)
    found = sj.load_sae(sj.save_sae(tmp_path / "two", jump, "gemma_scope_2"))
    np.testing.assert_allclose(found(X), expected(jump), rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("folder", PEERS, ids=lambda folder: folder.name)
def test_files_that_the_libraries_wrote_give_what_they_give(folder):
    found = sj.load_sae(folder)
    with np.load(folder / "expected.npz") as case:
        x, codes, reconstruction = (case[name] for name in ("x", "codes", "reconstruction"))
    np.testing.assert_allclose(found.encode(x), codes, rtol=1e-5, atol=2e-6)
    np.testing.assert_allclose(found(x), reconstruction, rtol=1e-5, atol=5e-6)


def test_leading_axes_are_kept():
    sae = fold(trained("top_k"))
    np.testing.assert_array_equal(sae.encode(X.reshape(4, 5, 8)).reshape(20, 32), sae.encode(X))
    assert sae.decode(sae.encode(X[0])).shape == (8,)


def test_dictionary_learning_from_arrays():
    case = golden.load("sae_batchtopk")
    arrays = {"encoder.weight": case["W_enc"], "encoder.bias": case["b_enc"], "decoder.weight": case["W_dec"].T,
              "b_dec": case["b_dec"], "k": np.array(4), "threshold": case["dl_thr2"]}  # fmt: skip
    np.testing.assert_allclose(from_dictionary_learning(arrays).encode(case["x"]), case["dl_f_threshold"], atol=1e-5)
    topk = golden.load("sae_topk_dictlearn")
    arrays = {"encoder.weight": topk["W_enc"], "encoder.bias": topk["b_enc"], "decoder.weight": topk["W_dec"].T,
              "b_dec": topk["b_dec"], "k": np.array(4), "threshold": np.array(-1.0)}  # fmt: skip
    found = from_dictionary_learning(arrays)
    np.testing.assert_allclose(found.encode(topk["x"]), topk["f"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found(topk["x"]), topk["x_hat"], rtol=1e-5, atol=1e-5)


def test_the_documented_layout_of_gemma_scope(tmp_path):
    arrays = {"W_enc": RNG.normal(size=(8, 32)), "W_dec": RNG.normal(size=(32, 8)), "b_enc": RNG.normal(size=32),
              "b_dec": RNG.normal(size=8), "threshold": RNG.uniform(0, 2, 32)}  # fmt: skip
    np.savez(tmp_path / "params.npz", **arrays)
    h = X @ arrays["W_enc"] + arrays["b_enc"]
    z = np.where(h > arrays["threshold"], h, 0)
    found = sj.load_sae(tmp_path)
    np.testing.assert_allclose(found.encode(X), z, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found(X), z @ arrays["W_dec"] + arrays["b_dec"], rtol=1e-4, atol=1e-3)


def test_what_cannot_be_read_or_written_is_refused(tmp_path):
    with pytest.raises(DataMissingError, match="holds none of"):
        sj.load_sae(tmp_path)
    with pytest.raises(DataMissingError, match="does not exist"):
        sj.load_sae(tmp_path / "no.safetensors")
    with pytest.raises(ConfigError, match="has no place for gated"):
        sj.save_sae(tmp_path / "a", trained("gated"), "gemma_scope")
    with pytest.raises(ConfigError, match="linear encoder"):
        sj.save_sae(tmp_path / "a", trained("top_k", encoder="lca"))
    assert not (tmp_path / "a").exists()
    folder = sj.save_sae(tmp_path / "sae", trained("jump_relu"))
    settings = json.loads((folder / "cfg.json").read_text())
    for change, problem in (({"architecture": "new"}, "'new' is not known"),
                            ({"normalize_activations": "layer_norm"}, "not constant")):  # fmt: skip
        (folder / "cfg.json").write_text(json.dumps(settings | change))
        with pytest.raises(ConfigError, match=problem):
            sj.load_sae(folder)
    (folder / "cfg.json").write_text("[1]")
    with pytest.raises(DataDamagedError, match="expected the settings"):
        sj.load_sae(folder)
    (folder / "sae_weights.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(DataDamagedError, match="cannot be read"):
        sj.load_sae(folder)
    with pytest.raises(DataDamagedError, match="encoder.weight' is missing"):
        from_dictionary_learning({"k": np.array(3)})
