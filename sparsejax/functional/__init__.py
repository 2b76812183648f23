"""Pure functions on arrays, for use in other JAX code. They need only jax, numpy and jaxtyping.

Penalties and measures have their own namespaces: `functional.penalties.l1`, `functional.measures.gini`.
"""

from sparsejax.functional import measures, penalties
from sparsejax.functional.augmentation import crop_and_flip
from sparsejax.functional.batch_top_k import batch_top_k, update_threshold
from sparsejax.functional.convolution import conv2d, depthwise_conv2d, max_pool2d
from sparsejax.functional.hebbian import (
    adaptive_threshold,
    conv2d_twice,
    divisive_norm,
    hebbian_cost,
    mean_threshold,
    unit_norm,
)
from sparsejax.functional.initializers import uniform_fan_in
from sparsejax.functional.jump_relu import jump_relu, jump_step
from sparsejax.functional.kwinners import (
    BoostState,
    boost,
    inference_k,
    init_boost_state,
    k_winners,
    k_winners_2d,
    update_boost_state,
)
from sparsejax.functional.lateral import explain_away, inhibitory_interneuron
from sparsejax.functional.learned_k import (
    k_schedule,
    reinforce_loss,
    sampled_k,
    soft_top_k,
    top_k_subtract,
    update_reinforce_baseline,
)
from sparsejax.functional.masks import connections_per_unit, rewire, sparse_mask
from sparsejax.functional.noise import (
    add_noise,
    anneal,
    dropout,
    example_keys,
    pixel_noise,
    salt_and_pepper,
    white_noise_blend,
)
from sparsejax.functional.noise_terms import ImplicitTerms, implicit_terms, implicit_terms_smooth
from sparsejax.functional.ragged_code import RaggedCode, decode_ragged, encode_above, encode_batch_top_k
from sparsejax.functional.selection import kth_largest, top_k, winners
from sparsejax.functional.sparse_code import SparseCode, decode, encode_top_k, sparse_top_k, to_dense
from sparsejax.functional.spectral import mel_filters, mel_power, mel_spectrogram, power_to_db, stft_power

__all__ = [
    "BoostState",
    "ImplicitTerms",
    "RaggedCode",
    "SparseCode",
    "adaptive_threshold",
    "add_noise",
    "anneal",
    "batch_top_k",
    "boost",
    "connections_per_unit",
    "conv2d",
    "conv2d_twice",
    "crop_and_flip",
    "decode",
    "decode_ragged",
    "depthwise_conv2d",
    "divisive_norm",
    "dropout",
    "encode_above",
    "encode_batch_top_k",
    "encode_top_k",
    "example_keys",
    "explain_away",
    "hebbian_cost",
    "implicit_terms",
    "implicit_terms_smooth",
    "inference_k",
    "inhibitory_interneuron",
    "init_boost_state",
    "jump_relu",
    "jump_step",
    "k_schedule",
    "k_winners",
    "k_winners_2d",
    "kth_largest",
    "max_pool2d",
    "mean_threshold",
    "measures",
    "mel_filters",
    "mel_power",
    "mel_spectrogram",
    "penalties",
    "pixel_noise",
    "power_to_db",
    "reinforce_loss",
    "rewire",
    "salt_and_pepper",
    "sampled_k",
    "soft_top_k",
    "sparse_mask",
    "sparse_top_k",
    "stft_power",
    "to_dense",
    "top_k",
    "top_k_subtract",
    "uniform_fan_in",
    "unit_norm",
    "update_boost_state",
    "update_reinforce_baseline",
    "update_threshold",
    "white_noise_blend",
    "winners",
]
