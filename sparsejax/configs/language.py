"""A small GPT with noise in front of every MLP (Bricken et al., 2022, appendix).

The paper gives three blocks, WikiText-103, noise on the inputs of the MLPs and its removal at step 200,000; width,
context, batch and learning rate are choices. The noise is swept: `--sweep model.sigma=0,0.1,0.3,0.8`.
"""

from sparsejax.models import GPT
from sparsejax.training.config import (
    CLEAN_MEASURES,
    Config,
    DataConfig,
    EvaluationConfig,
    ObjectiveConfig,
    TrainingConfig,
)

_EVALUATION = EvaluationConfig(batch_size=32, measures=CLEAN_MEASURES, track=("activity", "weights"))
_TASK = ObjectiveConfig("next_token")


def wikitext_gpt() -> Config:
    """GPT of three blocks with noise before each MLP, WikiText-103: the paper's size, for an accelerator."""
    network = GPT(vocabulary=30_000, context=256, blocks=3, width=768, heads=12, sigma=0.1, noise_off_step=200_000)
    training = TrainingConfig(epochs=40, batch_size=64, optimizer="adam", learning_rate=3e-4, clip_norm=1.0,
                              schedule="cosine", seed=10)  # fmt: skip
    data = DataConfig("wikitext-103", vocabulary=30_000, length=256)
    return Config(network, data, training, _EVALUATION, objective=_TASK)


def wikitext_gpt_small() -> Config:
    """Small GPT with noise on the first half million tokens of WikiText-2, 2,000 words: minutes on two cores."""
    network = GPT(vocabulary=2_000, context=64, blocks=3, width=96, heads=4, sigma=0.1)
    training = TrainingConfig(epochs=3, batch_size=16, optimizer="adam", learning_rate=2e-3, clip_norm=1.0,
                              schedule="cosine", seed=10)  # fmt: skip
    data = DataConfig("wikitext-2", vocabulary=2_000, length=64, train_examples=8_000, test_examples=800)
    return Config(network, data, training, _EVALUATION, objective=_TASK)
