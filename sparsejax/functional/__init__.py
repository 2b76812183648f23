"""Pure functions on arrays: what other JAX code imports. They need jax, numpy and jaxtyping, nothing else."""

from sparsejax.functional.convolution import conv2d, depthwise_conv2d, max_pool2d
from sparsejax.functional.implicit import ImplicitTerms, implicit_terms, implicit_terms_smooth
from sparsejax.functional.initializers import uniform_fan_in
from sparsejax.functional.kwinners import (
    BoostState,
    boost,
    inference_k,
    init_boost_state,
    k_winners,
    k_winners_2d,
    update_boost_state,
)
from sparsejax.functional.learned_k import (
    k_schedule,
    reinforce_loss,
    sampled_k,
    soft_top_k,
    top_k_subtract,
    update_reinforce_baseline,
)
from sparsejax.functional.masks import connections_per_unit, sparse_mask
from sparsejax.functional.measures import (
    activation_frequency,
    active_counts,
    active_fraction,
    best_weight,
    binary_entropy,
    confusion_matrix,
    dead_units,
    duty_entropy,
    gini,
    gini_weighted_accuracy,
    hoyer,
    l0,
    magnitude_counts,
    max_entropy,
    precision,
    recall,
)
from sparsejax.functional.noise import add_noise, annealed, dropout, example_keys, pixel_noise, white_noise_blend
from sparsejax.functional.penalties import cauchy, gaussian, l1, l2
from sparsejax.functional.recurrent import explain_away, inhibitory_interneuron
from sparsejax.functional.rewiring import rewire
from sparsejax.functional.selection import kth_largest, top_k, winners
from sparsejax.functional.spectral import mel_filters, mel_power, mel_spectrogram, power_to_db, stft_power

__all__ = [
    "BoostState",
    "ImplicitTerms",
    "activation_frequency",
    "active_counts",
    "active_fraction",
    "add_noise",
    "annealed",
    "best_weight",
    "binary_entropy",
    "boost",
    "cauchy",
    "confusion_matrix",
    "connections_per_unit",
    "conv2d",
    "dead_units",
    "depthwise_conv2d",
    "dropout",
    "duty_entropy",
    "example_keys",
    "explain_away",
    "gaussian",
    "gini",
    "gini_weighted_accuracy",
    "hoyer",
    "implicit_terms",
    "implicit_terms_smooth",
    "inference_k",
    "inhibitory_interneuron",
    "init_boost_state",
    "k_schedule",
    "k_winners",
    "k_winners_2d",
    "kth_largest",
    "l0",
    "l1",
    "l2",
    "magnitude_counts",
    "max_entropy",
    "max_pool2d",
    "mel_filters",
    "mel_power",
    "mel_spectrogram",
    "pixel_noise",
    "power_to_db",
    "precision",
    "recall",
    "reinforce_loss",
    "rewire",
    "sampled_k",
    "soft_top_k",
    "sparse_mask",
    "stft_power",
    "top_k",
    "top_k_subtract",
    "uniform_fan_in",
    "update_boost_state",
    "update_reinforce_baseline",
    "white_noise_blend",
    "winners",
]
