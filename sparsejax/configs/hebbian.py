"""VGG-16 on CIFAR-10 with Hebbian/anti-Hebbian blocks, the standard one, and the ablations (Cekic et al., 2022).

As in the paper's code: Adam at 1e-3, divided by 10 after 60 and after 80 epochs, batches of 128, images shifted and
mirrored (the paper's conclusion says without augmentation). `*_small` is a narrow network for two cores.
"""

import dataclasses
from typing import Any

from sparsejax.configuration import replace
from sparsejax.models import HebbianVGG
from sparsejax.training.config import CLEAN_MEASURES, Config, DataConfig, EvaluationConfig, TrainingConfig

_STANDARD: dict[str, Any] = {"hebbian": 0, "alphas": ()}
_NARROW = (16, 16, 0, 32, 32, 0, 64, 64, 0, 64, 0)


def _vgg(**model: Any) -> Config:
    training = TrainingConfig(epochs=100, batch_size=128, optimizer="adam", learning_rate=1e-3, schedule="step",
                              lr_decay=0.1, lr_decay_at=(60, 80), seed=2022)  # fmt: skip
    data = DataConfig("cifar10", augment="crop_flip")
    return Config(HebbianVGG(**model), data, training, EvaluationConfig(batch_size=100, measures=CLEAN_MEASURES))


def narrow(config: Config) -> Config:
    """Returns a network of six narrow convolutions, at most four of them HaH blocks, for a tenth of the epochs."""
    model = config.model
    assert isinstance(model, HebbianVGG)
    hebbian = min(model.hebbian, 4)
    model = dataclasses.replace(model, widths=_NARROW, hebbian=hebbian, alphas=model.alphas[:hebbian])
    return replace(config, {"model": model, "training.epochs": 10, "training.lr_decay_at": (6, 8)})


def cifar_vgg16() -> Config:
    """VGG-16: kernels of unit norm, ReLU, batch norm (paper: 92.5 %, 26.6 % with noise of 0.1)."""
    return _vgg(**_STANDARD)


def cifar_hebbian() -> Config:
    """VGG-16 with six Hebbian/anti-Hebbian blocks, then seven standard ones (paper: 87.3 %, 64.0 %)."""
    return _vgg()


def cifar_hebbian_no_cost() -> Config:
    """VGG-16 without the Hebbian/anti-Hebbian costs (paper: 89.7 %, 50.4 %)."""
    return _vgg(alphas=(0.0,) * 6)


def cifar_hebbian_batch_norm() -> Config:
    """Batch norm instead of divisive normalisation (paper: 90.4 %, 46.7 %)."""
    return _vgg(norm="batch")


def cifar_hebbian_no_threshold() -> Config:
    """Without the adaptive threshold (paper: 89.9 %, 37.5 %)."""
    return _vgg(threshold="none")


def cifar_vgg_small() -> Config:
    """A narrow standard network of six convolutions, for two cores."""
    return narrow(cifar_vgg16())


def cifar_hebbian_small() -> Config:
    """A narrow network of four Hebbian/anti-Hebbian blocks and two others, for two cores."""
    return narrow(cifar_hebbian())
