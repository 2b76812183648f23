"""The networks of "How Can We Be So Dense?" on Google Speech Commands (Table 2), with their code's hyperparameters.

`gsc_*` are as published: the ten digits, batch normalisation everywhere, weight decay 0.01, no small first batch.
`speech_*` have half the filters, units and winners and train on the available words for twelve epochs: minutes on a
CPU. With three thousand clips that is a fifteenth of the published steps, so the sparse networks start at a learning
rate of 0.04, the upper end of the paper's range.
"""

import dataclasses

from sparsejax.data.speech import DIGITS
from sparsejax.models import SpeechCNN
from sparsejax.training.config import Config, DataConfig, TrainingConfig

_DIGITS = DataConfig("speech_commands", words=DIGITS, balanced=True)
_HERE = DataConfig("speech_commands", balanced=True)


def _sparse(hidden: int, density: float, *, part: int = 1) -> SpeechCNN:
    """Returns k-winners everywhere; with `part` 2, half of all filters, units and winners."""
    return SpeechCNN(channels=(64 // part, 64 // part), conv_k=(1200 // part, 200 // part), hidden=hidden // part,
                     hidden_k=100 // part, density=density, boost_decay=0.9, k_inference_factor=1.5, classes=12,
                     batch_norm=True)  # fmt: skip


def _dense(*, part: int = 1, dropout: float | None = None) -> SpeechCNN:
    """Returns ReLU and dense weights."""
    return SpeechCNN(channels=(64 // part, 64 // part), conv_k=(None, None), hidden=1000 // part, hidden_k=None,
                     density=None, boost_strength=0.0, classes=12, batch_norm=True, dropout=dropout)  # fmt: skip


def _slow(epochs: int) -> TrainingConfig:
    """Returns the training configuration of the sparse networks."""
    return TrainingConfig(epochs=epochs, batch_size=16, learning_rate=0.01, lr_decay=0.9, weight_decay=0.01)


def _fast(epochs: int) -> TrainingConfig:
    """Returns the training configuration of the dense networks."""
    return TrainingConfig(epochs=epochs, batch_size=64, learning_rate=0.01, momentum=0.9, lr_decay=0.8,
                          weight_decay=0.01)  # fmt: skip


_BRISK = dataclasses.replace(_slow(12), learning_rate=0.04, lr_decay=0.85)


def gsc_sparse_cnn2() -> Config:
    """Sparse CNN-2, 40 % of the hidden weights, on ten spoken digits (paper: 96.65 %, 11,233 of 28,072)."""
    return Config(_sparse(1000, 0.4), _DIGITS, _slow(30))


def gsc_super_sparse_cnn2() -> Config:
    """Super-sparse CNN-2: 100 of 1,500 hidden units win, 10 % of their weights (paper: 96.57 %, 10,752)."""
    return Config(_sparse(1500, 0.1), _DIGITS, _slow(25))


def gsc_dense_cnn2() -> Config:
    """Dense CNN-2: ReLU and dense weights (paper: 96.37 %, 8,730)."""
    return Config(_dense(), _DIGITS, _fast(20))


def gsc_dense_cnn2_dropout() -> Config:
    """Dense CNN-2 with dropout 0.5 in the hidden layer (paper: 95.69 %, 7,681)."""
    return Config(_dense(dropout=0.5), _DIGITS, _fast(20))


def speech_sparse_cnn2() -> Config:
    """Sparse CNN-2 of half the size on the available words: minutes on a laptop."""
    return Config(_sparse(1000, 0.4, part=2), _HERE, _BRISK)


def speech_super_sparse_cnn2() -> Config:
    """Super-sparse CNN-2 of half the size, on the available words."""
    return Config(_sparse(1500, 0.1, part=2), _HERE, _BRISK)


def speech_dense_cnn2() -> Config:
    """Dense CNN-2 of half the size, on the available words."""
    return Config(_dense(part=2), _HERE, _fast(12))


def speech_dense_cnn2_dropout() -> Config:
    """Dense CNN-2 of half the size with dropout, on the available words."""
    return Config(_dense(part=2, dropout=0.5), _HERE, _fast(12))
