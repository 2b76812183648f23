"""Small experiments on the handwritten digits that scikit-learn ships: they need no download."""

from sparsejax.models import SparseCNN, SparseMLP
from sparsejax.training.config import Config, DataConfig, TrainingConfig

_DATA = DataConfig("digits")


def digits_kwinners() -> Config:
    """Sparse CNN-2 on scikit-learn's 1,797 digits: no download, half a minute.

    Sparse CNN-2 as in `mnist_kwinners`, with a learning rate fit for fewer examples.
    """
    return Config(
        SparseCNN(channels=(32, 64), conv_k=(400, 300), hidden=700, hidden_k=100, density=0.3, k_inference_factor=1.5),
        _DATA,
        TrainingConfig(epochs=12, batch_size=16, first_epoch_batch_size=4, learning_rate=0.1, lr_decay=0.9),
    )


def digits_mlp() -> Config:
    """One sparse hidden layer on scikit-learn's digits: a few seconds.

    A hidden layer of k-winners with sparse weights: seconds on a laptop, for experiments.
    """
    return Config(
        SparseMLP(hidden=(256,), k=(32,), density=0.3),
        _DATA,
        TrainingConfig(epochs=12, batch_size=16, first_epoch_batch_size=4, learning_rate=0.1, lr_decay=0.9),
    )
