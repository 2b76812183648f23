"""Networks: configurations with pure `init` and `apply`. Use `configuration` and `traced` for your own."""

from sparsejax.configuration import configuration, traced
from sparsejax.models.base import Layer, Model, Output, Variables
from sparsejax.models.conv_mixer import ConvMixer
from sparsejax.models.dense import DenseNetwork
from sparsejax.models.gpt import GPT
from sparsejax.models.hebbian_vgg import HebbianVGG
from sparsejax.models.inference import Frozen, freeze, predict
from sparsejax.models.mlp import SparseMLP
from sparsejax.models.network import SparseNetwork
from sparsejax.models.noisy import NoisyNetwork
from sparsejax.models.sparse_autoencoder import SparseAutoencoder
from sparsejax.models.sparse_cnn import SparseCNN
from sparsejax.models.speech import SpeechCNN
from sparsejax.models.top_k_autoencoder import TopKAutoencoder

__all__ = [
    "ConvMixer",
    "DenseNetwork",
    "Frozen",
    "GPT",
    "HebbianVGG",
    "Layer",
    "Model",
    "NoisyNetwork",
    "Output",
    "SparseAutoencoder",
    "SparseCNN",
    "SparseMLP",
    "SparseNetwork",
    "SpeechCNN",
    "TopKAutoencoder",
    "Variables",
    "configuration",
    "freeze",
    "predict",
    "traced",
]
