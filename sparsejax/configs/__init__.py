"""Named experiments. This table is read before any of them, so that names are listed and checked at once."""

import difflib
import importlib
from typing import TYPE_CHECKING

from sparsejax.errors import ConfigError

if TYPE_CHECKING:
    from sparsejax.training.config import Config

# name -> (module, what it is). Numbers are the paper's: test accuracy, noise score of 110,000.
CONFIGS: dict[str, tuple[str, str]] = {
    "mnist_kwinners": ("mnist_kwinners", "Sparse CNN-2, k-winners and sparse weights (paper: 99.09 %, 103,764)"),
    "mnist_sparse_cnn1": ("mnist_kwinners", "Sparse CNN-1 (paper: 98.41 %, 100,306)"),
    "mnist_dense_cnn1": ("mnist_kwinners", "Dense CNN-1 (paper: 99.14 %, 74,569)"),
    "mnist_dense_cnn2": ("mnist_kwinners", "Dense CNN-2 (paper: 99.31 %, 97,040)"),
    "mnist_dense_cnn2_sp3": ("mnist_kwinners", "dense convolutions, sparse hidden layer (paper: 99.13 %, 100,318)"),
    "mnist_sparse_cnn2_d3": ("mnist_kwinners", "sparse convolutions, dense hidden layer (paper: 98.89 %, 102,328)"),
    "mnist_sparse_cnn2_w1": ("mnist_kwinners", "Sparse CNN-2 with dense weights (paper: 98.2 %, 100,322)"),
    "mnist_sparse_cnn2_dsw": ("mnist_kwinners", "sparse convolutions and weights, ReLU (paper: 98.92 %, 70,566)"),
    "mnist_sparse_cnn2_local": ("mnist_kwinners", "Sparse CNN-2, the channels of each position competing"),
    "digits_kwinners": ("digits", "Sparse CNN-2 on scikit-learn's 1,797 digits: no download, half a minute"),
    "mnist_noise": ("noise", "noisy autoencoder of 1,000 units; --sweep model.sigma=0,0.1,0.3,1"),
    "mnist_noise_annealed": ("noise", "noise held, then taken away"),
    "mnist_noise_classifier": ("noise", "noisy classifier of 1,000 units"),
    "mnist_noise_shared_bias": ("noise", "one learned bias for all units"),
    "mnist_noise_explain_away": ("noise", "units explain each other away (Eq. 2)"),
    "mnist_noise_interneuron": ("noise", "one inhibitory interneuron"),
    "mnist_noise_top_k": ("noise", "Top-K, k coming down over the first epochs"),
    "mnist_noise_learned_k": ("noise", "k learned through a sigmoid window"),
    "mnist_noise_sampled_k": ("noise", "k learned by REINFORCE"),
    "mnist_implicit": ("noise", "no noise, but its implicit loss terms"),
    "mnist_l1": ("noise", "no noise, but an L1 penalty on the activity"),
    "mnist_l1_mlp": ("thesis", "64 ReLU units, an L1 penalty; --sweep objective.l1=0:0.112:0.008"),
    "mnist_l1_sigmoid": ("thesis", "the same with sigmoid units, which never are 0"),
    "mnist_l1_deep": ("thesis", "three hidden layers of 64 units"),
    "mnist_l1_thresholds": ("thesis", "two hidden layers, strictly negative biases and none on the output"),
    "mnist_l1_autoencoder": ("thesis", "autoencoder of 400, 64 and 400 units"),
    "cifar_noise": ("noise", "the paper's autoencoder: 10,000 units, CIFAR-10 pixels, 1,000 epochs"),
    "cifar_noise_annealed": ("noise", "the same, the noise annealed over epochs 800 to 1,600"),
    "latent_noise": ("noise", "the paper's latent autoencoder: 10,000 units, CIFAR-10's latents, 800 epochs"),
    "mnist_top_k_autoencoder": ("latents", "50 of 1,000 units represent a digit; only winners' rows are touched"),
    "latent_top_k_autoencoder": ("latents", "100 of 10,000 units represent one of CIFAR-10's latents"),
    "cifar_conv_mixer": ("latents", "ConvMixer-256/8 on CIFAR-10, whose latents `sparsejax embed` makes"),
    "cifar_conv_mixer_small": ("latents", "a shallow one: minutes on two cores"),
    "mnist_convnet": ("convnets", "two 7 x 7 convolutions, activity penalised; --sweep objective.l1=0,0.001,0.002"),
    "cifar_convnet": ("convnets", "the same on CIFAR-10"),
    "cifar_vgg16": ("hebbian", "VGG-16 with kernels of unit norm (paper: 92.5 %, 26.6 % with noise of 0.1)"),
    "cifar_hebbian": ("hebbian", "six Hebbian/anti-Hebbian blocks in it (paper: 87.3 %, 64.0 %)"),
    "cifar_hebbian_no_cost": ("hebbian", "without their costs (paper: 89.7 %, 50.4 %)"),
    "cifar_hebbian_batch_norm": ("hebbian", "batch norm instead of divisive normalisation (paper: 90.4 %, 46.7 %)"),
    "cifar_hebbian_no_threshold": ("hebbian", "without the adaptive threshold (paper: 89.9 %, 37.5 %)"),
    "cifar_vgg_small": ("hebbian", "a narrow standard network of six convolutions, for two cores"),
    "cifar_hebbian_small": ("hebbian", "the same with four Hebbian/anti-Hebbian blocks"),
    "wikitext_gpt": ("language", "GPT of three blocks with noise before each MLP, WikiText-103"),
    "wikitext_gpt_small": ("language", "a small one on part of WikiText-2: minutes on a laptop"),
    "gsc_sparse_cnn2": ("speech", "Sparse CNN-2 on Speech Commands' ten digits (paper: 96.65 %, 11,233 of 28,072)"),
    "gsc_super_sparse_cnn2": ("speech", "Super-sparse CNN-2 (paper: 96.57 %, 10,752)"),
    "gsc_dense_cnn2": ("speech", "Dense CNN-2 (paper: 96.37 %, 8,730)"),
    "gsc_dense_cnn2_dropout": ("speech", "Dense CNN-2 with dropout (paper: 95.69 %, 7,681)"),
    "speech_sparse_cnn2": ("speech", "Sparse CNN-2 of half the size on the spoken words at hand: minutes on a laptop"),
    "speech_super_sparse_cnn2": ("speech", "Super-sparse CNN-2 of half the size, on the spoken words at hand"),
    "speech_dense_cnn2": ("speech", "Dense CNN-2 of half the size, on the spoken words at hand"),
    "speech_dense_cnn2_dropout": ("speech", "Dense CNN-2 with dropout of half the size, on the spoken words at hand"),
    "digits_mlp": ("digits", "one sparse hidden layer on scikit-learn's digits: a few seconds"),
}


def get(name: str) -> "Config":
    """Returns a named configuration.

    Raises:
      ConfigError: there is none of that name; the closest ones are given.
    """
    if name not in CONFIGS:
        close = difflib.get_close_matches(name, CONFIGS, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(close)}? " if close else ""
        raise ConfigError(f"There is no configuration {name!r}; {hint}There are: {', '.join(CONFIGS)}.")
    module, _ = CONFIGS[name]
    return getattr(importlib.import_module(f"sparsejax.configs.{module}"), name)()
