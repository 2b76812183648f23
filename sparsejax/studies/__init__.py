"""The papers' figures and tables, made again. This table is read before any of them, so that names are listed at once.

A name is PAPER/FIGURE; PAPER is one of noise, emergence, hah, thesis, dense. The scoreboard is of all of them.
"""

import difflib
import importlib
from typing import TYPE_CHECKING

from sparsejax.errors import ConfigError

if TYPE_CHECKING:
    from sparsejax.studies.study import Study

# name -> (module, what it shows).
STUDIES: dict[str, tuple[str, str]] = {
    "scoreboard": ("scoreboard.study", "every way to be sparse, one shape, noise and attacks: one table; --seeds N"),
    "noise/fig2": ("noise.activity", "activity along training, for each noise level"),
    "noise/fig3": ("noise.activity", "winners, biases and key norms gather under noise"),
    "noise/fig4": ("noise.pictures", "reconstructions of noisy images"),
    "noise/fig5": ("noise.pictures", "receptive fields of the most active units, sigma 0.8"),
    "noise/fig6": ("noise.activity", "activity while the noise is taken away, reconstruction"),
    "noise/fig6b": ("noise.activity", "activity while the noise is taken away, classification"),
    "noise/fig7a": ("noise.activity", "activity against noise, for several numbers of units"),
    "noise/fig7b": ("noise.activity", "activity against noise, on several data sets"),
    "noise/fig7c": ("noise.activity", "activity against Gaussian and Laplace noise"),
    "noise/fig7d": ("noise.activity", "activity against noise, reconstruction and classification"),
    "noise/fig8": ("noise.pictures", "receptive fields for each noise level"),
    "noise/fig9": ("noise.pictures", "the noisy images whose receptive fields are shown"),
    "noise/fig10": ("noise.pictures", "receptive fields as training goes on"),
    "noise/fig11": ("noise.activity", "explaining away is sparser than plain ReLU"),
    "noise/fig12": ("noise.activity", "dead units while the noise is taken away, reconstruction"),
    "noise/fig13": ("noise.activity", "dead units while the noise is taken away, classification"),
    "noise/fig14": ("noise.activity", "GELU units become sparse, too"),
    "noise/fig15": ("noise.activity", "sigmoid units become sparse, too"),
    "noise/gpt": ("noise.language", "activity and perplexity of a small GPT"),
    "noise/table1": ("noise.activity", "reconstruction error of the ways to compete"),
    "dense/table1": ("dense.mnist", "MNIST: test accuracy and noise score of the eight networks; --seeds N"),
    "dense/sparse_cnn2": ("dense.mnist", "the table's row of Sparse CNN-2, which more seeds can be given; --seeds N"),
    "dense/fig5": ("dense.mnist", "accuracy against noise, dense and sparse; --seeds N"),
    "dense/fig5a": ("dense.mnist", "digits at the eleven noise levels"),
    "dense/dropout": ("dense.mnist", "accuracy against noise, with and without dropout; --seeds N"),
    "dense/table2": ("dense.speech", "spoken words: test accuracy and noise score of the four networks; --seeds N"),
    "emergence/terms": ("noise.terms", "the three loss terms that noise adds, before and after training"),
    "emergence/along": ("noise.terms", "the three loss terms that noise adds, along training"),
    "emergence/trained": ("noise.terms", "trained on the terms instead of the noise"),
    "hah/table1": ("hebbian.cifar", "accuracy, clean, noisy and attacked, standard and HaH networks; --seeds N"),
    "hah/table2": ("hebbian.cifar", "the same of the ablations; --seeds N"),
    "hah/fig2": ("hebbian.cifar", "how sparse the channels of the first blocks are; --seeds N"),
    "hah/fig3": ("hebbian.cifar", "signal to noise at every block; --seeds N"),
    "hah/fig4": ("hebbian.cifar", "accuracy against Gaussian noise; --seeds N"),
    "hah/fig5": ("hebbian.cifar", "distance of the nearest mistake in four norms; --seeds N"),
    "dense/fig2": ("dense.matching", "how often random binary vectors match, counted and drawn"),
    "dense/fig3": ("dense.matching", "how often random scalar vectors match, counted and drawn"),
    "dense/products": ("dense.macs", "how many products sparse weights and activations save"),
    "dense/grid": ("dense.grid", "accuracy, noise score and entropy over k, density and boost strength"),
    "thesis/fig3_1": ("thesis.dense", "accuracy against the penalty on the activity, five sizes; --seeds N"),
    "thesis/fig3_2": ("thesis.dense", "active units of an image against the penalty; --seeds N"),
    "thesis/fig3_3": ("thesis.dense", "how often each of 64 units is active, for four penalties"),
    "thesis/fig3_4": ("thesis.dense", "how often each of 64 units is active for every digit"),
    "thesis/fig3_5": ("thesis.dense", "summed activity of an image against the penalty; --seeds N"),
    "thesis/fig3_6": ("thesis.dense", "summed activity along training; --seeds N"),
    "thesis/fig3_7": ("thesis.dense", "accuracy times Gini index, and the best penalty; --seeds N"),
    "thesis/fig3_8": ("thesis.dense", "accuracy against the penalty, sigmoid units; --seeds N"),
    "thesis/fig3_9": ("thesis.dense", "Gini index against the penalty, sigmoid units; --seeds N"),
    "thesis/fig3_10": ("thesis.dense", "accuracy against the penalty, two hidden layers; --seeds N"),
    "thesis/fig3_11": ("thesis.dense", "active units of each of two layers; --seeds N"),
    "thesis/fig3_12": ("thesis.dense", "accuracy against the penalty, three hidden layers; --seeds N"),
    "thesis/fig3_13": ("thesis.dense", "active units of each of three layers; --seeds N"),
    "thesis/table3_1": ("thesis.dense", "summed activity without a penalty; --seeds N"),
    "thesis/fig4_1": ("thesis.convnets", "accuracy of convnets on MNIST against the activity penalty; --seeds N"),
    "thesis/fig4_2": ("thesis.convnets", "active units of two convolutions, MNIST; --seeds N"),
    "thesis/fig4_3": ("thesis.convnets", "active units of three convolutions, MNIST; --seeds N"),
    "thesis/fig4_4": ("thesis.convnets", "feature maps of a digit, without and with the penalty"),
    "thesis/fig4_5": ("thesis.convnets", "the digit of these feature maps"),
    "thesis/fig4_6": ("thesis.convnets", "kernels on MNIST, without and with the penalty"),
    "thesis/fig4_7": ("thesis.convnets", "how the first kernels' weights are spread, without and with the penalty"),
    "thesis/fig4_8": ("thesis.convnets", "accuracy of convnets on CIFAR-10 against the activity penalty; --seeds N"),
    "thesis/fig4_9": ("thesis.convnets", "active units of two convolutions, CIFAR-10; --seeds N"),
    "thesis/fig4_10": ("thesis.convnets", "active units of three convolutions, CIFAR-10; --seeds N"),
    "thesis/fig4_11": ("thesis.convnets", "feature maps of a truck, without and with the penalty"),
    "thesis/fig4_12": ("thesis.convnets", "the truck of these feature maps"),
    "thesis/fig4_13": ("thesis.convnets", "kernels on CIFAR-10, without and with the penalty"),
    "thesis/fig4_14": ("thesis.autoencoders", "error of autoencoders against the activity penalty; --seeds N"),
    "thesis/fig4_15": ("thesis.autoencoders", "active units of autoencoders, layer by layer; --seeds N"),
    "thesis/fig4_16": ("thesis.autoencoders", "error of autoencoders against their sparsity; --seeds N"),
    "thesis/fig4_17": ("thesis.autoencoders", "a digit reconstructed by autoencoders with more and more penalty"),
    "thesis/figA_1": ("thesis.distributions", "how activations are spread, ReLU, for each penalty"),
    "thesis/figA_2": ("thesis.distributions", "how activations are spread, sigmoid, for each penalty"),
    "thesis/figA_3": ("thesis.distributions", "how weights are spread, ReLU, for each penalty"),
    "thesis/figA_4": ("thesis.distributions", "how weights are spread, sigmoid, for each penalty"),
    "thesis/sparsenet": ("thesis.sparsenet", "basis functions that Sparsenet learns from photographs, and Gabor fits"),
}


def get(name: str) -> "Study":
    """Returns a study by name.

    Raises:
      ConfigError: there is none of that name; the closest ones are given.
    """
    if name not in STUDIES:
        close = difflib.get_close_matches(name, STUDIES, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(close)}? " if close else ""
        raise ConfigError(f"There is no study {name!r}; {hint}There are: {', '.join(STUDIES)}.")
    return importlib.import_module(f"sparsejax.studies.{STUDIES[name][0]}").STUDIES[name]
