"""Measures of sparse autoencoders: of a run, of a language model, of several seeds, and by probing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.data.activations import make_activations
from sparsejax.errors import ConfigError
from sparsejax.evaluation.measure import setting_of
from sparsejax.evaluation.measures.latents import Latents
from sparsejax.evaluation.sae.language import measure_recovered
from sparsejax.evaluation.sae.probing import probe
from sparsejax.evaluation.sae.stability import match, matched_cosine, pairwise_matched_cosine
from sparsejax.models import GPT, SparseAutoencoder, SparseMLP
from sparsejax.models.gpt import next_token_loss
from sparsejax.training.config import Config
from tests import golden

RNG = np.random.default_rng(0)


def test_fvu_is_the_recorded_one():
    case = golden.load("sae_metrics")
    y, y_hat, z = case["y"], case["y_hat"], case["z"]
    sums = {"error": ((y - y_hat) ** 2).sum(), "target": y.sum(0), "square": (y**2).sum(), "active": (z > 0).sum(0),
            "activity": z.sum(0)}  # fmt: skip
    dataset = make_activations({"y": y}, {"y": y})
    setting = setting_of(Config(SparseAutoencoder(hidden=32, k=4)), dataset)
    report = Latents().bind(setting).report(sums)
    np.testing.assert_allclose(report["fvu"], case["sparsify_fvu"], rtol=1e-5)
    np.testing.assert_allclose(1 - report["fvu"], case["saelens_explained_variance"], rtol=1e-5)
    np.testing.assert_allclose(report["l0"], case["dl_l0"], rtol=1e-6)
    np.testing.assert_array_equal(report["silent_latents"], case["overcomplete_dead_codes"].sum())
    # Means of ratios, as others define it, differ.
    assert abs(1 - report["fvu"] - case["dl_frac_variance_explained"]) > 0.01
    assert Latents().misfit(setting_of(Config(SparseMLP()), dataset)) == "only a SparseAutoencoder has latents"


MODEL = GPT(vocabulary=20, context=8, blocks=1, width=8, heads=2, mlp_factor=2)
TOKENS = RNG.integers(0, 20, (10, 8)).astype(np.int32)


def test_a_perfect_reconstruction_recovers_all_and_zeros_nothing():
    variables = jax.jit(MODEL.init)(jax.random.key(0), TOKENS[:1])
    variables = jax.tree.map(lambda leaf: 20 * leaf if leaf.ndim == 2 else leaf, variables)
    whole = measure_recovered(MODEL, variables, TOKENS, "mlp1_output", lambda h: h, batch_size=4)
    expected = np.mean(next_token_loss(MODEL.apply(variables, TOKENS).prediction, TOKENS))
    np.testing.assert_allclose([whole.clean, whole.replaced], expected, rtol=1e-5)
    np.testing.assert_allclose([whole.recovered, whole.divergence], [1, 0], atol=1e-5)
    none = measure_recovered(MODEL, variables, TOKENS, "mlp1_output", jnp.zeros_like)
    np.testing.assert_allclose(none.recovered, 0, atol=1e-5)
    assert none.divergence > 0.01 and none.replaced == none.removed != none.clean
    with pytest.raises(ConfigError, match="no site 'mlp9'; its sites are attention1, mlp1"):
        measure_recovered(MODEL, variables, TOKENS, "mlp9", lambda h: h)


def test_matching_finds_permuted_rows():
    rows = RNG.normal(size=(12, 5))
    order = RNG.permutation(12)
    first, second, cosines = match(rows, 3 * rows[order])
    np.testing.assert_array_equal(order[second], first)
    np.testing.assert_allclose(cosines, 1, rtol=1e-6)
    noisy = rows + RNG.normal(size=rows.shape)
    assert 0 < matched_cosine(rows, noisy) < 1
    pairs = pairwise_matched_cosine([rows, rows[order], noisy])
    np.testing.assert_allclose(pairs[0], [1, 1, matched_cosine(rows, noisy)], rtol=1e-6)
    np.testing.assert_array_equal(pairs, pairs.T)
    # One row cannot be matched twice.
    assert matched_cosine(rows[[0, 0]], rows[:2]) < 1
    with pytest.raises(ConfigError, match="of one width"):
        match(rows, rows[:, :3])


def test_probes_find_the_latent_of_a_class():
    labels = RNG.integers(0, 3, 300)
    z = RNG.random((300, 20)) * (RNG.random((300, 20)) < 0.3)
    z[:, 7] = np.where(labels == 1, 1.0, 0.0)
    found = probe(z[:200], labels[:200], z[200:], labels[200:], ks=(1, 5))
    assert found[1][1] == 1 and found[5][1] == 1
    assert found[1][0] < 0.8 and found[1].shape == (3,)
    with pytest.raises(ConfigError, match="from 1 to 20"):
        probe(z, labels, z, labels, ks=(21,))
    with pytest.raises(ConfigError, match="lacks"):
        probe(z, labels, z, labels + 3)
