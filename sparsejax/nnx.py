"""Flax NNX layers over `sparsejax.functional`: with bit-identical results and the state kept in variables.

Duty cycles are `Boost` variables and masks `Mask` variables, so that `nnx.split(model, nnx.Param, ...)` separates them
from the parameters. Each variable is one array: `nnx.to_pure_dict` of a model's state has only dictionaries and arrays,
and `nnx.replace_by_pure_dict` restores it. `model.train()` and `model.eval()` set the layers' mode.
"""

import functools
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.nnx.nn.dtypes import promote_dtype
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from sparsejax import functional
from sparsejax.functional.masks import check_kernel, fan_in_of
from sparsejax.functional.selection import Count, Ties

Initializer = Callable[..., Array]


class Boost(nnx.Variable):
    """Part of the `functional.BoostState` of a k-winners layer."""


class Mask(nnx.Variable):
    """Mask of a sparse layer."""


class TopK(nnx.Module):
    """Keeps the k largest units of each example and zeroes the rest: `functional.top_k`.

    Args:
      k: number of winners.
      ties: "first" keeps exactly k, "all" every unit tied at the threshold.

    Examples:
      >>> TopK(k=1)(jnp.array([[1.0, 3.0, 2.0]]))
      Array([[0., 3., 0.]], dtype=float32)

    References:
      Makhzani & Frey, k-Sparse Autoencoders, 2013, section 2.
    """

    def __init__(self, k: int | np.integer, *, ties: Ties = "first"):
        self.k = k
        self.ties: Ties = ties

    def __call__(self, x: Float[Array, "*batch units"]) -> Float[Array, "*batch units"]:
        """Maps activations `[..., units]` to their winners."""
        return functional.top_k(x, self.k, ties=self.ties)


class KWinners(nnx.Module):
    """Keeps the k most active units of each example, with boosting: `functional.k_winners`.

    The boost state is the variables `duty_cycle` and `samples`; they change only in training. A layer is in training
    mode until `model.eval()` (or `nnx.view(model, use_running_average=True)`), and again after `model.train()`, like a
    batch norm; the argument `train` of a call takes precedence.

    Args:
      units: number of units; for `KWinners2d` the number of channels.
      k: winners per example in training.
      boost_strength: beta; 0 is plain Top-K. A call may override it, also with a traced value (which decays by epoch,
        say).
      period: number of examples over which duty cycles are averaged.
      ties: "first" keeps exactly k, "all" every unit tied at the threshold.
      relu: also zero the winners that are negative.
      k_inference_factor: factor on k outside training, 1.5 in the paper.
      axis_name: mesh axis over which the batch is sharded; counts are summed over it.
      use_running_average: inference mode, which `model.eval()` sets.

    Examples:
      >>> layer = KWinners(3, k=1)
      >>> y = layer(jnp.array([[1.0, 3.0, 2.0]]))
      >>> layer.boost.duty_cycle
      Array([0., 1., 0.], dtype=float32)

    References:
      Ahmad & Scheinkman, How Can We Be So Dense?, 2019, section 3.
    """

    def __init__(
        self,
        units: int,
        *,
        k: int | np.integer,
        boost_strength: float = 0.0,
        period: int = 1000,
        ties: Ties = "first",
        relu: bool = False,
        k_inference_factor: float = 1.0,
        axis_name: str | None = None,
        use_running_average: bool = False,
    ):
        self.k, self.boost_strength, self.period = k, boost_strength, period
        self.ties: Ties = ties
        self.relu = relu
        self.k_inference_factor, self.axis_name = k_inference_factor, axis_name
        self.use_running_average = use_running_average
        state = functional.init_boost_state(units)
        self.duty_cycle, self.samples = Boost(state.duty_cycle), Boost(state.samples)

    @property
    def boost(self) -> functional.BoostState:
        """The boost state in the variables."""
        return functional.BoostState(self.duty_cycle.get_value(), self.samples.get_value())

    def set_view(self, use_running_average: bool | None = None) -> None:
        """Sets the mode, for `nnx.view`.

        Args:
          use_running_average: if True, duty cycles are not updated, and k is that of inference.
        """
        if use_running_average is not None:
            self.use_running_average = use_running_average

    def __call__(
        self, x: Float[Array, "*batch units"], *, train: bool | None = None, boost_strength: float | Array | None = None
    ) -> Float[Array, "*batch units"]:
        """Maps activations `[batch, units]` to their winners; in training it also updates the duty cycles."""
        train = not self.use_running_average if train is None else train
        state = self.boost
        k = self.k if train else functional.inference_k(self.k, self.k_inference_factor, self.competitors(x))
        y = self.winners(x, state, k, self.boost_strength if boost_strength is None else boost_strength)
        if train:
            state = functional.update_boost_state(state, y, period=self.period, axis_name=self.axis_name)
            self.duty_cycle.set_value(state.duty_cycle)
            self.samples.set_value(state.samples)
        return y

    def competitors(self, x: Array) -> int:
        """Returns the number of competing units."""
        return x.shape[-1]

    def winners(self, x: Array, state: functional.BoostState, k: Count, boost_strength: float | Array) -> Array:
        """Returns the winners for a given state."""
        return functional.k_winners(x, state, k=k, boost_strength=boost_strength, ties=self.ties, relu=self.relu)


class KWinners2d(KWinners):
    """Keeps the k most active units of each image, `[batch, H, W, C]`: `functional.k_winners_2d`.

    A channel has one duty cycle. It has the arguments of `KWinners`, and:

    Args:
      channels: number of channels.
      local: let only the channels of each position compete; k is then out of C instead of H * W * C.
      **settings: as in `KWinners`.
    """

    def __init__(self, channels: int, *, local: bool = False, **settings):
        super().__init__(channels, **settings)
        self.local = local

    def competitors(self, x: Array) -> int:
        """Returns the number of competing units."""
        return x.shape[-1] if self.local else x.shape[-3] * x.shape[-2] * x.shape[-1]

    def winners(self, x: Array, state: functional.BoostState, k: Count, boost_strength: float | Array) -> Array:
        """Returns the winners for a given state."""
        return functional.k_winners_2d(
            x, state, k=k, boost_strength=boost_strength, local=self.local, ties=self.ties, relu=self.relu
        )


class SparseDense(nnx.Module):
    """A dense layer in which every unit is connected to a random subset of its inputs, of exact size.

    The mask is applied in the forward pass, so no update can undo it, and masked weights get no gradient.

    Args:
      inputs: number of inputs.
      features: number of units.
      density: fraction of non-zero weights of each unit, 0 < density <= 1; with 1 there is no mask.
      rngs: its stream "params" is used for weights, biases and mask.
      kernel_init: initialises the weights; by default as PyTorch does, from the dense fan-in.
      bias_init: initialises the biases; None for the same bound as the weights.
      use_bias: whether to add biases.
      dtype: of the computation, as in Flax layers; None for the promoted type of inputs and weights.

    Examples:
      >>> layer = SparseDense(10, 4, density=0.3, rngs=nnx.Rngs(0))
      >>> layer.mask.get_value().sum(axis=0)
      Array([3, 3, 3, 3], dtype=int32)

    References:
      Ahmad & Scheinkman, How Can We Be So Dense?, 2019, section 3.
    """

    shape: tuple[int, ...]
    kernel: nnx.Param
    bias: nnx.Param | None
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
        use_bias: bool = True,
        dtype: DTypeLike | None = None,
    ):
        self.dtype = dtype
        _init_weights(self, (inputs, features), density, rngs, kernel_init, bias_init, use_bias)

    def __call__(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch units"]:
        """Maps `[..., inputs]` to `[..., features]`."""
        return _apply(self, jnp.matmul, x)


class SparseConv(nnx.Module):
    """A convolution of images with stride 1 and sparse filters: `functional.conv2d`.

    It has the mask of `SparseDense`; a filter has height * width * channels inputs.

    Args:
      inputs: number of channels of the images.
      features: number of filters.
      kernel_size: height and width of the filters.
      density: fraction of non-zero weights of each filter.
      rngs: its stream "params" is used for weights, biases and mask.
      kernel_init: as in `SparseDense`.
      bias_init: as in `SparseDense`.
      use_bias: whether to add biases.
      dtype: of the computation.
      padding: "VALID", none, or "SAME", zeros that keep the size of the images.

    Examples:
      >>> SparseConv(2, 4, (3, 3), density=0.5, rngs=nnx.Rngs(0))(jnp.ones((2, 8, 8, 2))).shape
      (2, 6, 6, 4)
    """

    padding: Literal["VALID", "SAME"]
    shape: tuple[int, ...]
    kernel: nnx.Param
    bias: nnx.Param | None
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
        use_bias: bool = True,
        dtype: DTypeLike | None = None,
        padding: Literal["VALID", "SAME"] = "VALID",
    ):
        self.dtype, self.padding = dtype, padding
        _init_weights(self, (*kernel_size, inputs, features), density, rngs, kernel_init, bias_init, use_bias)

    def __call__(self, x: Float[Array, "batch height width channels"]) -> Float[Array, "batch rows columns units"]:
        """Maps `[batch, H, W, C]` to `[batch, H - kh + 1, W - kw + 1, features]`, or `[batch, H, W, features]`."""
        return _apply(self, functools.partial(functional.conv2d, padding=self.padding), x)


def _init_weights(layer, shape, density, rngs, kernel_init, bias_init, use_bias) -> None:
    bias_init = bias_init or (lambda key, units: functional.uniform_fan_in(key, units, fan_in=fan_in_of(shape)))
    layer.shape = shape
    layer.kernel = nnx.Param(kernel_init(rngs.params(), shape))
    layer.bias = nnx.Param(bias_init(rngs.params(), shape[-1:])) if use_bias else None
    layer.mask = None if density == 1 else Mask(functional.sparse_mask(rngs.params(), shape, density))


def _apply(layer: SparseDense | SparseConv, product: Callable, x: Array) -> Array:
    kernel = layer.kernel.get_value()
    check_kernel(kernel.shape, layer.shape)
    if layer.mask is not None:
        kernel = jnp.where(layer.mask.get_value(), kernel, jnp.zeros_like(kernel))
    bias = None if layer.bias is None else layer.bias.get_value()
    with jax.numpy_dtype_promotion("standard"):  # explicit: strict promotion is for accidents
        x, kernel, bias = promote_dtype((x, kernel, bias), dtype=layer.dtype)
    y = product(x, kernel)
    return y if bias is None else y + bias.reshape((1,) * (y.ndim - 1) + (-1,))
