"""The eight networks of "How Can We Be So Dense?" on MNIST (Tables 1 and 3), with the hyperparameters of their code.

Test accuracy and noise score in the summaries are the paper's: mean over seeds 42-51 of the epoch with the best test
accuracy. All train with plain SGD at batch 64, without weight decay, and the learning rate is multiplied by 0.8 after
each epoch.
"""

from typing import Any

from sparsejax.models import SparseCNN
from sparsejax.training.config import Config, DataConfig, TrainingConfig

_DATA = DataConfig("mnist")
_PAPER: dict[str, Any] = {"k_inference_factor": 1.5}
"""At inference 1.5 times as many units win as in training: section 3 of the paper."""


def mnist_kwinners() -> Config:
    """Sparse CNN-2: two convolutions, sparse hidden layer, k-winners everywhere (paper: 99.09 %, 103,764).

    `python -m sparsejax.launch --config mnist_kwinners`; about 5 minutes on 2 CPU cores.
    """
    return Config(
        SparseCNN(channels=(32, 64), conv_k=(400, 300), hidden=700, hidden_k=100, density=0.3, **_PAPER),
        _DATA,
        TrainingConfig(epochs=10, first_epoch_batch_size=4, learning_rate=0.02, lr_decay=0.8),
    )


def mnist_sparse_cnn1() -> Config:
    """Sparse CNN-1: one convolution and a sparse hidden layer (paper: 98.41 %, 100,306)."""
    return Config(
        SparseCNN(channels=(30,), conv_k=(400,), hidden=150, hidden_k=50, density=0.3, **_PAPER),
        _DATA,
        TrainingConfig(epochs=15, first_epoch_batch_size=4, learning_rate=0.01, lr_decay=0.8),
    )


def mnist_dense_cnn1() -> Config:
    """Dense CNN-1: one convolution and a dense hidden layer, ReLU (paper: 99.14 %, 74,569)."""
    return Config(
        SparseCNN(channels=(30,), conv_k=(None,), hidden=1000, hidden_k=None, density=None, boost_strength=0.0),
        _DATA,
        TrainingConfig(epochs=15, learning_rate=0.01, momentum=0.9, lr_decay=0.8),
    )


def mnist_dense_cnn2() -> Config:
    """Dense CNN-2: two convolutions and a dense hidden layer, ReLU (paper: 99.31 %, 97,040)."""
    return Config(
        SparseCNN(channels=(30, 30), conv_k=(None, None), hidden=1000, hidden_k=None, density=None, boost_strength=0.0),
        _DATA,
        TrainingConfig(epochs=15, learning_rate=0.01, momentum=0.9, lr_decay=0.8),
    )


def mnist_dense_cnn2_sp3() -> Config:
    """Dense CNN-2 SP3: dense convolutions, sparse hidden layer with k-winners (paper: 99.13 %, 100,318)."""
    return Config(
        SparseCNN(channels=(30, 30), conv_k=(None, None), hidden=700, hidden_k=100, density=0.3, **_PAPER),
        _DATA,
        TrainingConfig(epochs=10, first_epoch_batch_size=4, learning_rate=0.01, momentum=0.5, lr_decay=0.8),
    )


def mnist_sparse_cnn2_d3() -> Config:
    """Sparse CNN-2 D3: sparse convolutions, dense hidden layer with ReLU (paper: 98.89 %, 102,328)."""
    return Config(
        SparseCNN(channels=(32, 64), conv_k=(400, 300), hidden=1000, hidden_k=None, density=None, **_PAPER),
        _DATA,
        TrainingConfig(epochs=10, learning_rate=0.01, momentum=0.9, lr_decay=0.8),
    )


def mnist_sparse_cnn2_w1() -> Config:
    """Sparse CNN-2 W1: k-winners everywhere, dense weights (paper: 98.2 %, 100,322)."""
    return Config(
        SparseCNN(channels=(32, 64), conv_k=(400, 300), hidden=700, hidden_k=100, density=None, **_PAPER),
        _DATA,
        TrainingConfig(epochs=10, learning_rate=0.01, momentum=0.9, lr_decay=0.8),
    )


def mnist_sparse_cnn2_dsw() -> Config:
    """Sparse CNN-2 DSW: sparse convolutions, sparse hidden weights with ReLU (paper: 98.92 %, 70,566)."""
    return Config(
        SparseCNN(channels=(32, 64), conv_k=(400, 300), hidden=1000, hidden_k=None, density=0.3, **_PAPER),
        _DATA,
        TrainingConfig(epochs=10, first_epoch_batch_size=4, learning_rate=0.01, momentum=0.9, lr_decay=0.8),
    )


def mnist_sparse_cnn2_local() -> Config:
    """Sparse CNN-2 whose channels compete at each position: 3 of 32 and 19 of 64, the paper's densities."""
    return Config(
        SparseCNN(channels=(32, 64), conv_k=(3, 19), hidden=700, hidden_k=100, density=0.3, local=True, **_PAPER),
        _DATA,
        TrainingConfig(epochs=10, first_epoch_batch_size=4, learning_rate=0.02, lr_decay=0.8),
    )
