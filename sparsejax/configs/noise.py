"""Networks made sparse by noise (Bricken et al., 2022): pixels in [0, 1], Adam at 1e-4, gradients clipped to 1.

The paper's networks have 10,000 units and train on CIFAR-10 for 800 to 3,000 epochs; the MNIST networks here have 1,000
units and fewer epochs, for two cores, at a higher learning rate. The rate is warmed up: without warmup, the first steps
permanently kill a fifth of the units. The noise is swept: `--sweep model.sigma=0,0.1,1`.
"""

import dataclasses
from typing import Any

from sparsejax.models import NoisyNetwork
from sparsejax.training.config import (
    CLEAN_MEASURES,
    Config,
    DataConfig,
    EvaluationConfig,
    ObjectiveConfig,
    TrainingConfig,
)

_EVALUATION = EvaluationConfig(batch_size=500, measures=CLEAN_MEASURES, track=("activity", "weights"))
_PIXELS = DataConfig("mnist", normalise=False)
_SMALL = TrainingConfig(
    epochs=20, batch_size=128, optimizer="adam", learning_rate=1e-3, warmup_epochs=2.0, clip_norm=1.0, seed=10
)
_PAPER = TrainingConfig(epochs=1000, batch_size=1024, optimizer="adam", learning_rate=1e-4, clip_norm=1.0, seed=10)


def _autoencoder(training: TrainingConfig = _SMALL, data: DataConfig = _PIXELS, **model: Any) -> Config:
    network = NoisyNetwork(**{"hidden": 1000, "sigma": 0.3, **model})
    return Config(network, data, training, _EVALUATION, objective=ObjectiveConfig("reconstruction"))


def mnist_noise() -> Config:
    """Noisy autoencoder of 1,000 units (Eq. 1) on MNIST; --sweep model.sigma=0,0.1,0.3,1."""
    return _autoencoder()


def mnist_noise_annealed() -> Config:
    """Constant noise for half the epochs, then annealed linearly; the activity stays low."""
    return _autoencoder(dataclasses.replace(_SMALL, epochs=40), anneal_after=15.0, anneal_epochs=15.0)


def mnist_noise_classifier() -> Config:
    """Noisy classifier of 1,000 units."""
    config = _autoencoder(classes=10)
    return dataclasses.replace(config, objective=ObjectiveConfig("classification"))


def mnist_noise_shared_bias() -> Config:
    """One learned bias for all units of norm 1: noise determines the number of winners."""
    return _autoencoder(bias="shared", normalised=True)


def mnist_noise_explain_away() -> Config:
    """Units explain each other away through learned lateral weights (Eq. 2)."""
    return _autoencoder(competition="explain_away")


def mnist_noise_interneuron() -> Config:
    """One inhibitory interneuron between all units."""
    return _autoencoder(competition="interneuron")


def mnist_noise_top_k() -> Config:
    """Top-K on units of norm 1, with k decreasing linearly over 10 epochs."""
    return _autoencoder(
        competition="top_k", k=50.0, k_schedule="linear", k_epochs=10.0, normalised=True, bias="none", sigma=0.0
    )


def mnist_noise_learned_k() -> Config:
    """K learned by gradient through a sigmoid window over the ranks."""
    return _autoencoder(competition="learned_k", k=300.0, k_rate=200.0, normalised=True, bias="none")


def mnist_noise_sampled_k() -> Config:
    """K sampled for each example; REINFORCE with a running baseline learns its mean."""
    return _autoencoder(competition="sampled_k", sampled_log_k=6.0, normalised=True, bias="none")


def mnist_implicit() -> Config:
    """No noise, but its implicit loss terms in closed form, which make the network sparse like noise."""
    return _autoencoder(hidden=256, sigma=0.0, implicit=1.0, implicit_sigma=0.3)


def mnist_l1() -> Config:
    """No noise, but an L1 penalty on the activity."""
    config = _autoencoder(sigma=0.0)
    return dataclasses.replace(config, objective=ObjectiveConfig("reconstruction", l1=1e-4))


def cifar_noise() -> Config:
    """The paper's autoencoder: 10,000 units, CIFAR-10 pixels, 1,000 epochs."""
    return _autoencoder(_PAPER, DataConfig("cifar10", normalise=False), hidden=10_000)


def latent_noise() -> Config:
    """The paper's latent autoencoder: 10,000 units, CIFAR-10's latents (256 features), 800 epochs."""
    return _autoencoder(dataclasses.replace(_PAPER, epochs=800), DataConfig("cifar10_latents"), hidden=10_000)


def cifar_noise_annealed() -> Config:
    """As `cifar_noise`, with constant noise for 800 epochs, annealed over 800."""
    training = dataclasses.replace(_PAPER, epochs=2000)
    return _autoencoder(
        training, DataConfig("cifar10", normalise=False), hidden=10_000, anneal_after=800.0, anneal_epochs=800.0
    )
