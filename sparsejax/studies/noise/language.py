"""Noise before the MLPs of a small GPT: the language model of figure 7 and its appendix."""

from pathlib import Path

import numpy as np

from sparsejax import configs
from sparsejax.configuration import replace
from sparsejax.figures.activity import activity_against_noise
from sparsejax.models import GPT
from sparsejax.studies.networks import train
from sparsejax.studies.study import Outcome, Scale, spearman, study
from sparsejax.training.config import Config

SIGMAS = (0.0, 0.1, 0.3, 0.8, 1.5, 3.0)
# Mean active fractions of the MLPs of the paper's GPT, read from its data.
PAPER = (0.17, 0.17, 0.167, 0.165, 0.1344, 0.059)
SEEDS = {"small": (10,), "paper": (10, 55, 78)}


def base(scale: Scale) -> Config:
    """Returns the configuration whose noise is swept."""
    if scale == "paper":
        return configs.get("wikitext_gpt")
    # As published, the noise is removed before training ends; its effect on the MLPs should persist.
    short = {"data.train_examples": 4_000, "training.epochs": 6, "model.noise_off_step": 1_000}
    return replace(configs.get("wikitext_gpt_small"), short)


@study("noise/gpt", "activity and perplexity of a small GPT", "Fig. 7d")
def _language(scale: Scale, folder: Path) -> Outcome:
    config = base(scale)
    trained = train(config, folder, "sigma", fields={"model.sigma": SIGMAS}, seeds=SEEDS[scale])
    layers = [f"mlp{block + 1}" for block in range(3)]
    epochs = trained.along(f"active_fraction/{layers[0]}")[0]
    along = np.mean([trained.along(f"active_fraction/{layer}")[1] for layer in layers], axis=0)
    steps_per_epoch = trained.finished.result["data"]["train"] // config.training.batch_size
    assert isinstance(config.model, GPT) and config.model.noise_off_step is not None
    removed = np.searchsorted(epochs, config.model.noise_off_step / steps_per_epoch, side="right")
    before, activity = along[max(removed, 1) - 1], along[-1]
    perplexity = np.exp(trained.last("test_loss"))
    sigmas = np.repeat(np.asarray(SIGMAS)[:, None], activity.shape[1], 1)
    figure = activity_against_noise(SIGMAS, {"GPT, mean of the MLPs": activity}, {"GPT, mean of the MLPs": PAPER})
    ours = {
        "sigma": list(SIGMAS),
        "active_fraction": activity.mean(1).tolist(),
        "active_fraction_while_noisy": before.mean(1).tolist(),
        "perplexity": perplexity.mean(1).tolist(),
        "perplexity_relative_to_none": (perplexity / perplexity[:1]).mean(1).tolist(),
        "spearman": spearman(sigmas, activity),
        "spearman_while_noisy": spearman(sigmas, before),
    }
    return Outcome(figure, ours, {"active_fraction": list(PAPER)}, list(SEEDS[scale]))
