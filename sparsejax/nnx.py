"""Flax NNX layers over `sparsejax.functional`: the same arrays, bit for bit, with the state kept in variables.

Duty cycles are `Boost` variables and masks `Mask` variables, so that `nnx.split(model, nnx.Param, ...)` sets them apart
from what is trained.
"""

from collections.abc import Callable

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from sparsejax import functional
from sparsejax.functional.masks import fan_in_of
from sparsejax.functional.selection import Ties

Initializer = Callable[..., Array]


class Boost(nnx.Variable):
    """Holds the `functional.BoostState` of a k-winners layer."""


class Mask(nnx.Variable):
    """Holds the connections of a sparse layer."""


class TopK(nnx.Module):
    """Keeps the k largest units of each example and zeroes the rest: `functional.top_k`.

    Args:
      k: number of winners.
      ties: "all" keeps every unit tied at the threshold, "first" exactly k.

    Examples:
      >>> TopK(k=1)(jnp.array([[1.0, 3.0, 2.0]]))
      Array([[0., 3., 0.]], dtype=float32)

    References:
      Makhzani & Frey, k-Sparse Autoencoders, 2013, section 2.
    """

    def __init__(self, k: int, *, ties: Ties = "all"):
        self.k = k
        self.ties: Ties = ties

    def __call__(self, x: Float[Array, "*batch units"]) -> Float[Array, "*batch units"]:
        """Maps activations `[..., units]` to their winners."""
        return functional.top_k(x, self.k, ties=self.ties)


class KWinners(nnx.Module):
    """Keeps the k most active units of each example, idle units being favoured: `functional.k_winners`.

    The boost state is the variable `boost`; it changes only with `train=True`.

    Args:
      units: number of units; for `KWinners2d` the number of channels.
      k: winners per example in training.
      boost_strength: beta; 0 is plain Top-K. The call may give another, a traced one too (it decays by the epoch).
      period: number of examples over which duty cycles are averaged.
      ties: "all" keeps every unit tied at the threshold, "first" exactly k.
      relu: also zero the winners that are negative.
      k_inference_factor: factor on k without `train`.
      axis_name: mesh axis the batch is spread over; counts are summed over it.

    Examples:
      >>> layer = KWinners(3, k=1)
      >>> y = layer(jnp.array([[1.0, 3.0, 2.0]]), train=True)
      >>> layer.boost.get_value().duty_cycle
      Array([0., 1., 0.], dtype=float32)

    References:
      Ahmad & Scheinkman, How Can We Be So Dense?, 2019, section 3.
    """

    def __init__(
        self,
        units: int,
        *,
        k: int,
        boost_strength: float = 0.0,
        period: int = 1000,
        ties: Ties = "all",
        relu: bool = False,
        k_inference_factor: float = 1.5,
        axis_name: str | None = None,
    ):
        self.k, self.boost_strength, self.period = k, boost_strength, period
        self.ties: Ties = ties
        self.relu = relu
        self.k_inference_factor, self.axis_name = k_inference_factor, axis_name
        self.boost = Boost(functional.init_boost_state(units))

    def __call__(
        self, x: Float[Array, "*batch units"], *, train: bool, boost_strength: float | Array | None = None
    ) -> Float[Array, "*batch units"]:
        """Maps activations `[batch, units]` to their winners; with `train` it also counts them."""
        state = self.boost.get_value()
        k = self.k if train else functional.inference_k(self.k, self.k_inference_factor, self.competitors(x))
        y = self.winners(x, state, k, self.boost_strength if boost_strength is None else boost_strength)
        if train:
            self.boost.set_value(functional.update_boost_state(state, y, period=self.period, axis_name=self.axis_name))
        return y

    def competitors(self, x: Array) -> int:
        """Returns how many units the winners are chosen from."""
        return x.shape[-1]

    def winners(self, x: Array, state: functional.BoostState, k: int | Array, boost_strength: float | Array) -> Array:
        """Returns the winners of a state that is not changed."""
        return functional.k_winners(x, state, k=k, boost_strength=boost_strength, ties=self.ties, relu=self.relu)


class KWinners2d(KWinners):
    """Keeps the k most active units of each image, `[batch, H, W, C]`: `functional.k_winners_2d`.

    A channel has one duty cycle. Arguments, state, example and source are those of `KWinners`, and:

    Args:
      channels: number of channels.
      local: let the channels of each position compete; k is then out of C rather than of H * W * C.
      **settings: as in `KWinners`.
    """

    def __init__(self, channels: int, *, local: bool = False, **settings):
        super().__init__(channels, **settings)
        self.local = local

    def competitors(self, x: Array) -> int:
        """Returns how many units the winners are chosen from."""
        return x.shape[-1] if self.local else x.shape[-3] * x.shape[-2] * x.shape[-1]

    def winners(self, x: Array, state: functional.BoostState, k: int | Array, boost_strength: float | Array) -> Array:
        """Returns the winners of a state that is not changed."""
        return functional.k_winners_2d(
            x, state, k=k, boost_strength=boost_strength, local=self.local, ties=self.ties, relu=self.relu
        )


class SparseDense(nnx.Module):
    """A dense layer in which every unit has connections to an exact, random part of its inputs.

    The mask is applied in the forward pass, so no step can undo it, and no gradient reaches what it removes.

    Args:
      inputs: number of inputs.
      features: number of units.
      density: fraction of non-zero weights of each unit, 0 < density <= 1; with 1 there is no mask.
      rngs: the stream "params" draws weights, biases and mask.
      kernel_init: draws the weights; by default as PyTorch does, from the dense fan-in.
      bias_init: draws the biases; None for the same bound as the weights.

    Examples:
      >>> layer = SparseDense(10, 4, density=0.3, rngs=nnx.Rngs(0))
      >>> layer.mask.get_value().sum(axis=0)
      Array([3, 3, 3, 3], dtype=int32)

    References:
      Ahmad & Scheinkman, How Can We Be So Dense?, 2019, section 3.
    """

    kernel: nnx.Param
    bias: nnx.Param
    mask: Mask | None

    def __init__(
        self,
        inputs: int,
        features: int,
        *,
        density: float,
        rngs: nnx.Rngs,
        kernel_init: Initializer = functional.uniform_fan_in,
        bias_init: Initializer | None = None,
    ):
        _init_weights(self, (inputs, features), density, rngs, kernel_init, bias_init)

    def __call__(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch units"]:
        """Maps `[..., inputs]` to `[..., features]`."""
        return x @ _masked(self) + self.bias.get_value().reshape((1,) * (x.ndim - 1) + (-1,))


class SparseConv(nnx.Module):
    """A convolution of images, stride 1 and no padding, with sparse filters: `functional.conv2d`.

    Arguments, mask and source are those of `SparseDense`; a filter has height * width * channels inputs.

    Args:
      inputs: number of channels of the images.
      features: number of filters.
      kernel_size: height and width of the filters.
      density: fraction of non-zero weights of each filter.
      rngs: the stream "params" draws weights, biases and mask.
      kernel_init: as in `SparseDense`.
      bias_init: as in `SparseDense`.

    Examples:
      >>> SparseConv(2, 4, (3, 3), density=0.5, rngs=nnx.Rngs(0))(jnp.ones((2, 8, 8, 2))).shape
      (2, 6, 6, 4)
    """

    kernel: nnx.Param
    bias: nnx.Param
    mask: Mask | None

    def __init__(
        self,
        inputs: int,
        features: int,
        kernel_size: tuple[int, int],
        *,
        density: float,
        rngs: nnx.Rngs,
        kernel_init: Initializer = functional.uniform_fan_in,
        bias_init: Initializer | None = None,
    ):
        _init_weights(self, (*kernel_size, inputs, features), density, rngs, kernel_init, bias_init)

    def __call__(self, x: Float[Array, "batch height width channels"]) -> Float[Array, "batch rows columns units"]:
        """Maps `[batch, H, W, C]` to `[batch, H - kh + 1, W - kw + 1, features]`."""
        return functional.conv2d(x, _masked(self)) + self.bias.get_value().reshape(1, 1, 1, -1)


def _init_weights(layer, shape, density, rngs, kernel_init, bias_init) -> None:
    bias_init = bias_init or (lambda key, units: functional.uniform_fan_in(key, units, fan_in=fan_in_of(shape)))
    layer.kernel = nnx.Param(kernel_init(rngs.params(), shape))
    layer.bias = nnx.Param(bias_init(rngs.params(), shape[-1:]))
    layer.mask = None if density == 1 else Mask(functional.sparse_mask(rngs.params(), shape, density))


def _masked(layer: SparseDense | SparseConv) -> Array:
    kernel = layer.kernel.get_value()
    return kernel if layer.mask is None else jnp.where(layer.mask.get_value(), kernel, jnp.zeros_like(kernel))
