"""Convolutional networks whose activity is penalised: Table 4.1 of "Sparse Coding in Deep Neural Networks...".

One to three convolutions with 6, 16 and 24 kernels of one size, without pooling or padding, 64 hidden units, ReLU;
Adam at 1e-3, batches of 100, 15 epochs, pixels in [0, 1]. The penalty is the L1 norm of all hidden activity (Eq. 2.2);
0.002 is the weight at which the thesis shows feature maps and kernels. It is swept: `--sweep
objective.l1=0,0.001,0.002`.
"""

from typing import Literal

from sparsejax.models import SparseCNN
from sparsejax.training.config import (
    CLEAN_MEASURES,
    Config,
    DataConfig,
    EvaluationConfig,
    ObjectiveConfig,
    TrainingConfig,
)

CHANNELS = (6, 16, 24)
KERNELS = (3, 7, 11)


def convnet(data: Literal["mnist", "cifar10"], layers: int, kernel: int) -> Config:
    """Returns a network of Table 4.1: so many convolutions (1 to 3) with square kernels of that size.

    MNIST's last 10,000 training images are excluded; the thesis used them for validation.
    """
    return Config(
        SparseCNN(
            channels=CHANNELS[:layers],
            conv_k=(None,) * layers,
            kernel_size=kernel,
            pool=1,
            hidden=64,
            hidden_k=None,
            density=None,
            boost_strength=0.0,
        ),
        DataConfig(data, normalise=False, train_examples=50_000),
        TrainingConfig(epochs=15, batch_size=100, optimizer="adam", learning_rate=1e-3, seed=0),
        EvaluationConfig(batch_size=500, measures=CLEAN_MEASURES),
        objective=ObjectiveConfig(l1=0.002),
    )


def mnist_convnet() -> Config:
    """Two 7 x 7 convolutions, activity penalised (Figure 1.6); --sweep objective.l1=0,0.001,0.002."""
    return convnet("mnist", 2, 7)


def cifar_convnet() -> Config:
    """The same on CIFAR-10."""
    return convnet("cifar10", 2, 7)
