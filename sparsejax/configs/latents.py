"""ConvMixers on CIFAR-10, whose pooled features are latents, and Top-K autoencoders that learn from them.

`sparsejax embed --run RUN_FOLDER` computes the latents of a trained network. The images are not augmented.
"""

from sparsejax.models import ConvMixer, TopKAutoencoder
from sparsejax.training.config import (
    CLEAN_MEASURES,
    Config,
    DataConfig,
    EvaluationConfig,
    ObjectiveConfig,
    TrainingConfig,
)

_DATA = DataConfig("cifar10")
_EVALUATION = EvaluationConfig(measures=CLEAN_MEASURES)


def cifar_conv_mixer() -> Config:
    """ConvMixer-256/8 on CIFAR-10, kernels of 5, patches of 2, for `sparsejax embed`; for an accelerator."""
    training = TrainingConfig(epochs=30, batch_size=250, optimizer="adam", learning_rate=2e-3, schedule="cosine")
    return Config(ConvMixer(width=256, depth=8, kernel=5, patch=2), _DATA, training, _EVALUATION)


def cifar_conv_mixer_small() -> Config:
    """Shallow ConvMixer on CIFAR-10, patches of 4, small batches whose activations fit the caches of two cores.

    `python -m sparsejax.launch --config cifar_conv_mixer_small`; about 4 minutes on 2 CPU cores, test accuracy 71.9 %.
    """
    training = TrainingConfig(epochs=5, batch_size=50, optimizer="adam", learning_rate=1e-3, schedule="cosine")
    return Config(ConvMixer(width=256, depth=2, kernel=3, patch=4), _DATA, training, _EVALUATION)


def _top_k(data: DataConfig, hidden: int, k: int, epochs: int) -> Config:
    training = TrainingConfig(epochs=epochs, batch_size=128, optimizer="adam", learning_rate=1e-3, schedule="cosine")
    evaluation = EvaluationConfig(batch_size=500, measures=CLEAN_MEASURES, track=("activity", "weights"))
    network = TopKAutoencoder(hidden=hidden, k=k, boost_strength=2.0)
    return Config(network, data, training, evaluation, objective=ObjectiveConfig("reconstruction"))


def mnist_top_k_autoencoder() -> Config:
    """50 of 1,000 units represent a digit; uses only the winners' rows: under a minute on two cores."""
    return _top_k(DataConfig("mnist", normalise=False), 1_000, 50, epochs=5)


def latent_top_k_autoencoder() -> Config:
    """100 of 10,000 units represent one of CIFAR-10's latents, 256 numbers."""
    return _top_k(DataConfig("cifar10_latents"), 10_000, 100, epochs=5)
