"""Pure functions on arrays: what other JAX code imports. They need jax, numpy and jaxtyping, nothing else."""

from sparsejax.functional.convolution import conv2d, max_pool2d
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
from sparsejax.functional.masks import connections_per_unit, sparse_mask
from sparsejax.functional.measures import (
    active_fraction,
    binary_entropy,
    dead_units,
    duty_entropy,
    l0,
    max_entropy,
)
from sparsejax.functional.noise import dropout, example_keys, pixel_noise
from sparsejax.functional.selection import kth_largest, top_k, winners

__all__ = [
    "BoostState",
    "active_fraction",
    "binary_entropy",
    "boost",
    "connections_per_unit",
    "conv2d",
    "dead_units",
    "dropout",
    "duty_entropy",
    "example_keys",
    "inference_k",
    "init_boost_state",
    "k_winners",
    "k_winners_2d",
    "kth_largest",
    "l0",
    "max_entropy",
    "max_pool2d",
    "pixel_noise",
    "sparse_mask",
    "top_k",
    "uniform_fan_in",
    "update_boost_state",
    "winners",
]
