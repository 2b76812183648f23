"""Flax Linen layers over `sparsejax.functional`: with bit-identical results and the state kept by Flax.

`KWinners` keeps its duty cycles in the collection "boost", sparse layers keep their masks in "masks"; neither is
trained. In training, make the boost state mutable: `model.apply(variables, x, train=True, mutable=["boost"])`.
"""

import functools
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from sparsejax import functional
from sparsejax.functional.masks import check_kernel, fan_in_of
from sparsejax.functional.selection import Count, Ties

Initializer = Callable[..., Array]


class TopK(nn.Module):
    """Keeps the k largest units of each example and zeroes the rest: `functional.top_k`.

    Attributes:
      k: number of winners.
      ties: "first" keeps exactly k, "all" every unit tied at the threshold.

    Examples:
      >>> TopK(k=1).apply({}, jnp.array([[1.0, 3.0, 2.0]]))
      Array([[0., 3., 0.]], dtype=float32)

    References:
      Makhzani & Frey, k-Sparse Autoencoders, 2013, section 2.
    """

    k: int | np.integer
    ties: Ties = "first"

    def __call__(self, x: Float[Array, "*batch units"]) -> Float[Array, "*batch units"]:
        """Maps activations `[..., units]` to their winners."""
        return functional.top_k(x, self.k, ties=self.ties)


class KWinners(nn.Module):
    """Keeps the k most active units of each example, with boosting: `functional.k_winners`.

    The boost state is the variable "state" of the collection "boost"; it changes only with `train=True`.

    Attributes:
      k: winners per example in training.
      boost_strength: beta; 0 is plain Top-K. A call may override it, also with a traced value (which decays by epoch,
        say).
      period: number of examples over which duty cycles are averaged.
      ties: "first" keeps exactly k, "all" every unit tied at the threshold.
      relu: also zero the winners that are negative.
      k_inference_factor: factor on k without `train`, 1.5 in the paper.
      axis_name: mesh axis over which the batch is sharded; counts are summed over it.

    Examples:
      >>> import jax
      >>> layer, x = KWinners(k=1), jnp.array([[1.0, 3.0, 2.0]])
      >>> variables = layer.init(jax.random.key(0), x, train=True)
      >>> y, updated = layer.apply(variables, x, train=True, mutable=["boost"])
      >>> updated["boost"]["state"].duty_cycle
      Array([0., 1., 0.], dtype=float32)

    References:
      Ahmad & Scheinkman, How Can We Be So Dense?, 2019, section 3.
    """

    k: int | np.integer
    boost_strength: float = 0.0
    period: int = 1000
    ties: Ties = "first"
    relu: bool = False
    k_inference_factor: float = 1.0
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "*batch units"], *, train: bool, boost_strength: float | Array | None = None
    ) -> Float[Array, "*batch units"]:
        """Maps activations `[batch, units]` to their winners; with `train` it also updates the duty cycles."""
        state = self.variable("boost", "state", functional.init_boost_state, x.shape[-1])
        k = self.k if train else functional.inference_k(self.k, self.k_inference_factor, self.competitors(x))
        y = self.winners(x, state.value, k, self.boost_strength if boost_strength is None else boost_strength)
        if train and not self.is_initializing():
            state.value = functional.update_boost_state(state.value, y, period=self.period, axis_name=self.axis_name)
        return y

    def competitors(self, x: Array) -> int:
        """Returns the number of competing units."""
        return x.shape[-1]

    def winners(self, x: Array, state: functional.BoostState, k: Count, boost_strength: float | Array) -> Array:
        """Returns the winners for a given state."""
        return functional.k_winners(x, state, k=k, boost_strength=boost_strength, ties=self.ties, relu=self.relu)


class KWinners2d(KWinners):
    """Keeps the k most active units of each image, `[batch, H, W, C]`: `functional.k_winners_2d`.

    A channel has one duty cycle. It has the attributes of `KWinners`, and:

    Attributes:
      local: let only the channels of each position compete; k is then out of C instead of H * W * C.
    """

    local: bool = False

    def competitors(self, x: Array) -> int:
        """Returns the number of competing units."""
        return x.shape[-1] if self.local else x.shape[-3] * x.shape[-2] * x.shape[-1]

    def winners(self, x: Array, state: functional.BoostState, k: Count, boost_strength: float | Array) -> Array:
        """Returns the winners for a given state."""
        return functional.k_winners_2d(
            x, state, k=k, boost_strength=boost_strength, local=self.local, ties=self.ties, relu=self.relu
        )


class SparseDense(nn.Module):
    """A dense layer in which every unit is connected to a random subset of its inputs, of exact size.

    The mask is applied in the forward pass, so no update can undo it, and masked weights get no gradient. It is the
    variable "mask" of the collection "masks", drawn from the RNG stream "masks" if there is one, else from "params".

    Attributes:
      features: number of units.
      density: fraction of non-zero weights of each unit, 0 < density <= 1; with 1 there is no mask.
      kernel_init: initialises the weights; by default as PyTorch does, from the dense fan-in.
      bias_init: initialises the biases; None for the same bound as the weights.
      use_bias: whether to add biases.
      dtype: of the computation, as in Flax layers; None for the promoted type of inputs and weights.

    Examples:
      >>> import jax
      >>> layer = SparseDense(features=4, density=0.3)
      >>> variables = layer.init(jax.random.key(0), jnp.ones((2, 10)))
      >>> variables["masks"]["mask"].sum(axis=0)
      Array([3, 3, 3, 3], dtype=int32)

    References:
      Ahmad & Scheinkman, How Can We Be So Dense?, 2019, section 3.
    """

    features: int
    density: float
    kernel_init: Initializer = functional.uniform_fan_in
    bias_init: Initializer | None = None
    use_bias: bool = True
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch units"]:
        """Maps `[..., inputs]` to `[..., features]`."""
        return _apply(self, jnp.matmul, x, (x.shape[-1], self.features))


class SparseConv(nn.Module):
    """A convolution of images with stride 1 and sparse filters: `functional.conv2d`.

    It has the attributes and the mask of `SparseDense`; a filter has height * width * channels inputs.

    Attributes:
      kernel_size: height and width of the filters.
      padding: "VALID", none, or "SAME", zeros that keep the size of the images.

    Examples:
      >>> import jax
      >>> layer = SparseConv(features=4, kernel_size=(3, 3), density=0.5)
      >>> y, variables = layer.init_with_output(jax.random.key(0), jnp.ones((2, 8, 8, 2)))
      >>> y.shape
      (2, 6, 6, 4)
    """

    features: int
    kernel_size: tuple[int, int]
    density: float
    kernel_init: Initializer = functional.uniform_fan_in
    bias_init: Initializer | None = None
    use_bias: bool = True
    dtype: DTypeLike | None = None
    padding: Literal["VALID", "SAME"] = "VALID"

    @nn.compact
    def __call__(self, x: Float[Array, "batch height width channels"]) -> Float[Array, "batch rows columns units"]:
        """Maps `[batch, H, W, C]` to `[batch, H - kh + 1, W - kw + 1, features]`, or `[batch, H, W, features]`."""
        convolve = functools.partial(functional.conv2d, padding=self.padding)
        return _apply(self, convolve, x, (*self.kernel_size, x.shape[-1], self.features))


def _apply(layer: SparseDense | SparseConv, product: Callable, x: Array, shape: tuple[int, ...]) -> Array:
    """Creates kernel, bias and mask of a layer, and applies them."""

    def draw_mask():
        key = layer.make_rng("masks" if layer.has_rng("masks") else "params")
        return functional.sparse_mask(key, shape, layer.density)

    if layer.has_variable("params", "kernel"):
        check_kernel(layer.get_variable("params", "kernel").shape, shape)
    bias_init = layer.bias_init or (lambda key, units: functional.uniform_fan_in(key, units, fan_in=fan_in_of(shape)))
    kernel = layer.param("kernel", layer.kernel_init, shape)
    bias = layer.param("bias", bias_init, shape[-1:]) if layer.use_bias else None
    if layer.density != 1:
        mask = layer.variable("masks", "mask", draw_mask).value
        kernel = jnp.where(mask, kernel, jnp.zeros_like(kernel))
    with jax.numpy_dtype_promotion("standard"):  # explicit: strict promotion is for accidents
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=layer.dtype)
    y = product(x, kernel)
    return y if bias is None else y + bias.reshape((1,) * (y.ndim - 1) + (-1,))
