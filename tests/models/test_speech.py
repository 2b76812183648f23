"""SpeechCNN: its features, its augmentation, and its noise score."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax import configs
from sparsejax.configuration import as_arrays
from sparsejax.data.dataset import Dataset, Split
from sparsejax.data.resident import make_resident
from sparsejax.errors import ConfigError
from sparsejax.evaluation.measure import MEASURES, setting_of
from sparsejax.evaluation.measures.noise_score import NOISE_LEVELS
from sparsejax.evaluation.split import make_evaluation
from sparsejax.functional import example_keys, mel_spectrogram, white_noise_blend
from sparsejax.models import SparseCNN, SpeechCNN
from sparsejax.training.config import Config, EvaluationConfig
from tests.models.made_up import made_up

SIZES = {"channels": (3,), "conv_k": (None,), "hidden": 12, "hidden_k": None, "density": None, "classes": 4}
MODEL = SpeechCNN(**SIZES, batch_norm=True)
SPARSE = {"channels": (3, 4), "conv_k": (60, 20), "hidden": 12, "hidden_k": 3}
WAVES = jnp.asarray(np.random.default_rng(0).normal(size=(6, 16_000)) * np.linspace(0, 0.3, 16_000), jnp.float32)
answer = jax.jit(MODEL.apply)


def keys(seed=0):
    return example_keys(jax.random.key(seed), jnp.arange(6))


@pytest.fixture(scope="module")
def variables():
    return jax.tree.map(jnp.asarray, made_up(MODEL, WAVES.shape[1:]))


@pytest.mark.slow
def test_it_is_a_sparse_cnn_of_mel_spectrograms(variables):
    plain, images = SparseCNN(**SIZES, batch_norm=True), jax.jit(mel_spectrogram)(WAVES)[..., None]
    expected = jax.jit(plain.apply)(variables, images).prediction
    np.testing.assert_allclose(answer(variables, WAVES).prediction, expected, atol=1e-3)
    assert expected.shape == (6, 4)
    for sizes in (SIZES, SPARSE):
        ours, theirs = SpeechCNN(**sizes), SparseCNN(**sizes)
        assert ours.stages((16_000,)) == theirs.stages((32, 32, 1))
        assert ours.layers((16_000,)) == theirs.layers((32, 32, 1))


def test_clips_are_changed_in_training_only_and_by_their_own_keys(variables):
    @jax.jit
    def train(keys, augment):
        return dataclasses.replace(MODEL, augment=augment).apply(variables, WAVES, key=keys, train=True).prediction

    calm = jax.jit(functools.partial(dataclasses.replace(MODEL, augment=None).apply, train=True))
    unchanged = calm(variables, WAVES).prediction
    never, always = np.float32(0), np.float32(1)
    np.testing.assert_allclose(train(keys(), never), unchanged, atol=2e-3)
    changed = train(keys(), always)
    assert (np.abs(changed - unchanged).max(1) > 1e-2).all()
    assert np.abs(train(keys(9), always) - changed).max() > 1e-2


def test_what_cannot_be_is_refused(variables):
    with pytest.raises(ValueError, match=r"Training with model.augment needs `key`"):
        MODEL.apply(variables, WAVES, train=True)
    with pytest.raises(ConfigError, match=r"model.augment is 1.5"):
        dataclasses.replace(MODEL, augment=1.5)
    with pytest.raises(ConfigError, match="expects waveforms"):
        MODEL.init(jax.random.key(0), np.zeros((1, 28, 28, 1), np.float32))
    with pytest.raises(ConfigError, match="too small"):
        MODEL.init(jax.random.key(0), np.zeros((1, 2_000), np.float32))


@pytest.mark.slow
def test_its_noise_score_counts_clips_blended_with_white_noise(variables):
    clips = np.asarray(WAVES * 32768).astype(np.int16)
    split = Split(clips, np.asarray([0, 1, 2, 3, 0, 1], np.int32))
    dataset = Dataset("some", "files", split, split, 4, (0.0,), (1.0,))
    config = Config(MODEL, evaluation=EvaluationConfig(noise_seed=5))
    measure = MEASURES["noise_score"].bind(setting_of(config, dataset))
    evaluate = jax.jit(make_evaluation([measure], examples=6, batch_size=4))
    correct = evaluate(variables, as_arrays(config), jnp.float32(0), make_resident(dataset, split))["noise_score"]

    @jax.jit
    def predicted(level, index):
        own = example_keys(jax.random.fold_in(jax.random.key(5), index), jnp.arange(6))
        noisy = white_noise_blend(own, jnp.asarray(clips, jnp.float32) / 32768, level=level)
        return jnp.argmax(MODEL.apply(variables, noisy).prediction, -1)

    for index, level in enumerate(NOISE_LEVELS):
        assert correct[index] == (np.asarray(predicted(np.float32(level), index)) == split.labels).sum()


def test_the_papers_configurations():
    sparse, dense = configs.get("gsc_sparse_cnn2"), configs.get("gsc_dense_cnn2_dropout")
    assert (sparse.model.conv_k, sparse.model.hidden_k, sparse.model.density) == ((1200, 200), 100, 0.4)
    assert (sparse.model.boost_strength, sparse.model.boost_decay, sparse.model.batch_norm) == (1.5, 0.9, True)
    assert sparse.model.k_inference_factor == 1.5 and dense.model.density is None
    assert (sparse.training.weight_decay, sparse.training.batch_size, sparse.training.epochs) == (0.01, 16, 30)
    assert (sparse.training.momentum, sparse.training.first_epoch_batch_size) == (None, None)
    assert (dense.model.dropout, dense.training.momentum, dense.training.batch_size) == (0.5, 0.9, 64)
    assert len(sparse.data.words) == 10 and sparse.data.balanced
    half = configs.get("speech_super_sparse_cnn2")
    assert (half.model.conv_k, half.model.hidden, half.model.hidden_k, half.data.words) == ((600, 100), 750, 50, None)
