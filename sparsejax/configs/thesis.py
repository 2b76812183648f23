"""Networks whose activity is penalised ("Sparse Coding in Deep Neural Networks and the Visual System", chapter 3).

All train with Adam at 1e-3 and batches of 100 for 15 epochs on the first 50,000 images of MNIST, pixels in [0, 1]. The
weight of the penalty is swept: `--sweep objective.l1=0:0.112:0.008 --seeds 5`; the networks of such a grid train on the
same batches. Sizes and depth: `--model.hidden 256`, `--model.hidden 64 64`.
"""

import dataclasses

from sparsejax.models import DenseNetwork
from sparsejax.training.config import (
    CLEAN_MEASURES,
    Config,
    DataConfig,
    EvaluationConfig,
    ObjectiveConfig,
    TrainingConfig,
)

_DATA = DataConfig("mnist", normalise=False, train_examples=50_000)
_TRAINING = TrainingConfig(
    epochs=15, batch_size=100, optimizer="adam", learning_rate=1e-3, schedule="constant", seed=0, order_seed=0,
    keep_checkpoints=1,
)  # fmt: skip
_EVALUATION = EvaluationConfig(batch_size=500, measures=CLEAN_MEASURES)


def mnist_l1_mlp() -> Config:
    """64 ReLU units, an L1 penalty on their activity; --sweep objective.l1=0:0.112:0.008.

    About 97 % at 0.008, few units active.

    `python -m sparsejax.launch --config mnist_l1_mlp`; seconds on 2 CPU cores.
    """
    return Config(DenseNetwork(hidden=(64,)), _DATA, _TRAINING, _EVALUATION, objective=ObjectiveConfig(l1=0.008))


def mnist_l1_sigmoid() -> Config:
    """Sigmoid units, which are never 0, with an L1 penalty."""
    return dataclasses.replace(mnist_l1_mlp(), model=DenseNetwork(hidden=(64,), activation="sigmoid"))


def mnist_l1_deep() -> Config:
    """Three hidden layers of 64 units, which take a smaller penalty."""
    config = mnist_l1_mlp()
    return dataclasses.replace(config, model=DenseNetwork(hidden=(64,) * 3), objective=ObjectiveConfig(l1=0.002))


def mnist_l1_thresholds() -> Config:
    """Two hidden layers, strictly negative biases and none on the output.

    As the thesis proposes: strictly negative biases and none on the output, so that inactive units carry no
      information.
    """
    network = DenseNetwork(hidden=(64, 64), bias="threshold", output_bias=False)
    return dataclasses.replace(mnist_l1_mlp(), model=network)


def mnist_l1_autoencoder() -> Config:
    """Autoencoder of 400, 64 and 400 units, ReLU on the output too; the error is the mean over the pixels."""
    network = DenseNetwork(hidden=(400, 64, 400), classes=None, output="relu")
    objective = ObjectiveConfig("reconstruction", l1=1e-4)
    return dataclasses.replace(mnist_l1_mlp(), model=network, objective=objective)
