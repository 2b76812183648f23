"""SpeechCNN: the features it sees, what changes in training, and its noise score."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sparsejax.hyper import hyper_of

from sparsejax import configs
from sparsejax.data import Dataset, Split
from sparsejax.data.resident import resident
from sparsejax.errors import ConfigError
from sparsejax.evaluation.accuracy import NOISE_LEVELS, make_noise_evaluation
from sparsejax.functional import example_keys, mel_spectrogram, white_noise_blend
from sparsejax.models import SparseCNN, SpeechCNN

SIZES = {"channels": (3, 4), "conv_k": (60, 20), "hidden": 12, "hidden_k": 3, "classes": 4, "batch_norm": True}
MODEL = SpeechCNN(**SIZES)
WAVES = jnp.asarray(np.random.default_rng(0).normal(size=(6, 16_000)) * np.linspace(0, 0.3, 16_000), jnp.float32)
KEYS = example_keys(jax.random.key(0), jnp.arange(6))


@pytest.fixture(scope="module")
def variables():
    return MODEL.init(jax.random.key(1), WAVES[:1])


@pytest.mark.slow
def test_it_is_a_sparse_cnn_of_mel_spectrograms(variables):
    plain, images = SparseCNN(**SIZES), mel_spectrogram(WAVES)[..., None]
    same = plain.init(jax.random.key(1), images[:1])
    for got, wanted in zip(jax.tree.leaves(variables), jax.tree.leaves(same), strict=True):
        np.testing.assert_array_equal(got, wanted)
    output = jax.jit(MODEL.apply)(variables, WAVES)
    np.testing.assert_allclose(output.prediction, plain.apply(variables, images).prediction, atol=1e-3)
    assert output.prediction.shape == (6, 4)
    assert MODEL.layers((16_000,)) == plain.layers((32, 32, 1))


def test_clips_are_changed_in_training_only_and_by_their_own_keys(variables):
    @jax.jit
    def train(keys, augment):
        return MODEL.apply(variables, WAVES, key=keys, train=True, hyper={"augment": augment}).prediction

    calm = dataclasses.replace(MODEL, augment=None)
    unchanged = calm.apply(variables, WAVES, train=True).prediction
    np.testing.assert_allclose(train(KEYS, jnp.float32(0)), unchanged, atol=2e-3)
    changed = train(KEYS, jnp.float32(1))
    assert (np.abs(changed - unchanged).max(1) > 1e-2).all()
    other = train(example_keys(jax.random.key(9), jnp.arange(6)), jnp.float32(1))
    assert np.abs(other - changed).max() > 1e-2


def test_what_cannot_be_is_refused(variables):
    with pytest.raises(ValueError, match=r"Training with model.augment needs `key`"):
        MODEL.apply(variables, WAVES, train=True)
    with pytest.raises(ConfigError, match=r"model.augment is 1.5"):
        dataclasses.replace(MODEL, augment=1.5)
    with pytest.raises(ConfigError, match="expects waveforms"):
        MODEL.init(jax.random.key(0), jnp.zeros((1, 28, 28, 1)))
    with pytest.raises(ConfigError, match="too small"):
        MODEL.init(jax.random.key(0), jnp.zeros((1, 2_000)))


@pytest.mark.slow
def test_its_noise_score_counts_clips_blended_with_white_noise(variables):
    clips = np.asarray(WAVES * 32768).astype(np.int16)
    split = Split(clips, np.asarray([0, 1, 2, 3, 0, 1], np.int32))
    dataset = Dataset("some", "files", split, split, 4, (0.0,), (1.0,))
    evaluate = make_noise_evaluation(MODEL, examples=6, batch_size=4, seed=5)
    hyper = {"model": hyper_of(MODEL)}
    correct = np.asarray(jax.jit(evaluate)(variables, hyper, jnp.float32(0), resident(dataset, split)))
    apply = jax.jit(MODEL.apply)
    for index, level in enumerate(NOISE_LEVELS):
        keys = example_keys(jax.random.fold_in(jax.random.key(5), index), jnp.arange(6))
        noisy = white_noise_blend(keys, jnp.asarray(clips, jnp.float32) / 32768, level=level)
        predicted = np.asarray(apply(variables, noisy).prediction).argmax(-1)
        assert correct[index] == (predicted == split.labels).sum()


def test_the_papers_configurations():
    sparse, dense = configs.get("gsc_sparse_cnn2"), configs.get("gsc_dense_cnn2_dropout")
    assert (sparse.model.conv_k, sparse.model.hidden_k, sparse.model.density) == ((1200, 200), 100, 0.4)
    assert (sparse.model.boost_strength, sparse.model.boost_decay, sparse.model.batch_norm) == (1.5, 0.9, True)
    assert (sparse.training.weight_decay, sparse.training.batch_size, sparse.training.epochs) == (0.01, 16, 30)
    assert (sparse.training.momentum, sparse.training.first_epoch_batch_size) == (None, None)
    assert (dense.model.dropout, dense.training.momentum, dense.training.batch_size) == (0.5, 0.9, 64)
    assert len(sparse.data.words) == 10 and sparse.data.balanced
    half = configs.get("speech_super_sparse_cnn2")
    assert (half.model.conv_k, half.model.hidden, half.model.hidden_k, half.data.words) == ((600, 100), 750, 50, None)
