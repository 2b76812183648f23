"""Networks of one architecture with different sparse methods, for the scoreboard.

Two convolutions of 5 x 5, each followed by a 2 x 2 maximum, and a hidden layer, on MNIST or CIFAR-10; Adam at 1e-3,
multiplied by 0.8 after every epoch. These networks are in no paper: the architecture is that of "How Can We Be So
Dense?", and each method has the strength of its own paper where that applies.
"""

from typing import Any, Literal

from sparsejax.models import HebbianVGG, SparseCNN
from sparsejax.training.config import (
    DEFAULT_MEASURES,
    Config,
    DataConfig,
    EvaluationConfig,
    ObjectiveConfig,
    TrainingConfig,
)

DataName = Literal["mnist", "cifar10"]
_DENSITY = (0.1, 0.3, 0.15)
"""Winners of the three hidden layers as fractions of their units, about those of the published network."""
_SIZE = {"mnist": 28, "cifar10": 32}


def networks(
    data: DataName, *, channels: tuple[int, int] = (32, 64), hidden: int = 700, epochs: int = 20
) -> dict[str, Config]:
    """Returns a configuration for each method.

    Args:
      data: the images.
      channels: kernels of the two convolutions.
      hidden: units of the layer after them.
      epochs: of training.
    """
    first = (_SIZE[data] - 4) // 2
    second = (first - 4) // 2
    units = (channels[0] * first**2, channels[1] * second**2, hidden)
    conv1, conv2, last = (max(1, round(density * n)) for density, n in zip(_DENSITY, units, strict=True))
    plain: dict[str, Any] = {"channels": channels, "hidden": hidden, "density": None, "boost_strength": 0.0}
    relu: dict[str, Any] = {**plain, "conv_k": (None, None), "hidden_k": None}
    winners: dict[str, Any] = {**plain, "conv_k": (conv1, conv2), "hidden_k": last}
    competing = HebbianVGG(
        widths=(channels[0], 0, channels[1], 0), kernel_size=5, padded=False, hidden=hidden, hebbian=2,
        alphas=(4.5e-3, 2.5e-3),
    )  # fmt: skip

    def config(model: Any, **objective: Any) -> Config:
        training = TrainingConfig(epochs=epochs, optimizer="adam", learning_rate=1e-3, lr_decay=0.8, seed=0)
        evaluation = EvaluationConfig(measures=(*DEFAULT_MEASURES, "detail"))
        return Config(model, DataConfig(data), training, evaluation, objective=ObjectiveConfig(**objective))

    return {
        "ReLU": config(SparseCNN(**relu)),
        "noise": config(SparseCNN(**relu, sigma=0.5)),
        "L1": config(SparseCNN(**relu), l1=3e-4),
        "Top-K": config(SparseCNN(**winners)),
        "k-winners": config(SparseCNN(**{**winners, "boost_strength": 1.5, "density": 0.3, "k_inference_factor": 1.5})),
        "HaH": config(competing),
    }
