"""A small GPT: a causal transformer with noise on the inputs of its MLPs."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray

from sparsejax.configuration import configuration, traced
from sparsejax.functional import add_noise
from sparsejax.functional.normal import gelu
from sparsejax.models.base import MOST_BLOCKS, Layer, Model, Output, Variables, expect
from sparsejax.models.blocks import Params, linear

_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": jax.nn.relu,
    "gelu": gelu,
}
_EPSILON = 1e-5  # of layer normalisation
_SCALE = 0.02  # standard deviation of the initial weights


@configuration
class GPT(Model):
    r"""A decoder that predicts the next token, with pre-normalisation and learned positions.

    In training, noise is added to the input of each MLP, after the normalisation, which would rescale it:

    .. math:: x \leftarrow x + W_2\, f(W_1 (\mathrm{norm}(x) + \sigma \epsilon) + b_1) + b_2

    The paper specifies three blocks and the position of the noise; the sizes and the activation are our choices, ReLU
    because it has about the paper's fraction of active units without noise.

    References:
      Radford et al., Language Models are Unsupervised Multitask Learners, 2019; Bricken et al., Noise Transforms
      Feed-Forward Networks into Sparse Coding Networks, 2022, appendix on GPT-2.
    """

    vocabulary: int = 10_000
    """Number of different tokens."""
    context: int = 128
    """Largest number of tokens in a sequence."""
    blocks: int = 3
    """Number of blocks, each of attention and an MLP."""
    width: int = 256
    """Units of the residual stream."""
    heads: int = 4
    """Heads of the attention, which share the width."""
    mlp_factor: int = 4
    """Hidden units of an MLP for each unit of the residual stream."""
    activation: Literal["relu", "gelu"] = "relu"
    """Activation function of the MLPs."""
    tied: bool = False
    """Use the embedding of the tokens as the weights of the output."""
    sigma: float = traced(0.0)
    """Standard deviation of the noise on the input of every MLP in training."""
    noise_off_step: int | None = traced(None)
    """Training step at which the noise is removed; None to keep it."""
    threshold: float | None = None
    """Threshold above which a hidden unit counts as active; None for 0 with ReLU and 1e-4 with GELU."""

    inputs = "tokens"

    @property
    def task(self) -> Literal["next_token"]:
        return "next_token"

    def check(self) -> None:
        for name in ("context", "blocks", "width", "heads", "mlp_factor"):
            expect(f"model.{name}", getattr(self, name), "a positive number", getattr(self, name) >= 1)
        expect("model.blocks", self.blocks, f"{MOST_BLOCKS} or fewer", self.blocks <= MOST_BLOCKS)
        expect("model.vocabulary", self.vocabulary, "2 tokens or more", self.vocabulary >= 2)
        divisors = f"a divisor of model.width, which is {self.width}"
        expect("model.heads", self.heads, divisors, self.width % self.heads == 0)
        for name in ("noise_off_step", "threshold"):
            value = getattr(self, name)
            expect(f"model.{name}", value, "None, or 0 or more", value is None or value >= 0)
        expect("model.sigma", self.sigma, "0 (no noise) or more", self.sigma >= 0)

    def init(self, key: PRNGKeyArray, example: Int[Array, "1 length"]) -> Variables:
        """Initialises a network like GPT-2: Gaussian weights, smaller ones for outputs to the residual stream.

        Args:
          key: one PRNG key.
          example: token ids `[1, length]`; their values do not matter.

        Raises:
          ConfigError: the example is not a sequence of integers, or is longer than the context.
        """
        self._check(example)
        hidden, keys = self.mlp_factor * self.width, iter(jax.random.split(key, 4 * self.blocks + 3))
        residual = _SCALE / (2 * self.blocks) ** 0.5

        def normal(*shape: int, scale: float = _SCALE) -> Array:
            return scale * jax.random.normal(next(keys), shape, jnp.float32)

        def dense(inputs: int, units: int, scale: float = _SCALE) -> Params:
            return {"kernel": normal(inputs, units, scale=scale), "bias": jnp.zeros(units, jnp.float32)}

        params: dict[str, Any] = {
            "embedding": normal(self.vocabulary, self.width),
            "positions": normal(self.context, self.width),
        }
        for i in range(1, self.blocks + 1):
            params[f"attention{i}"] = {
                "norm": self._init_norm(),
                "inputs": dense(self.width, 3 * self.width),  # queries, keys, values
                "output": dense(self.width, self.width, residual),
            }
            params[f"mlp{i}_norm"] = self._init_norm()
            params[f"mlp{i}"] = dense(self.width, hidden)
            params[f"mlp{i}_output"] = dense(hidden, self.width, residual)
        params["norm"] = self._init_norm()
        if not self.tied:
            params["output"] = {"kernel": normal(self.width, self.vocabulary)}
        return Variables(params, {})

    def apply(
        self,
        variables: Variables,
        x: Int[Array, "batch length"],
        *,
        key: Key[Array, "batch"] | None = None,
        train: bool = False,
        axis_name: str | None = None,
        visit: Callable[[str, Array], Array] | None = None,
    ) -> Output:
        """Returns logits `[batch, length, vocabulary]` of each next token, and the hidden units of every MLP.

        At every site the network continues with what `visit` returns, so it can read a site and replace it. The sites
        of block i are `residual{i}_before`, `attention{i}` (its output), `residual{i}_middle`, `mlp{i}_input`, `mlp{i}`
        (hidden units), `mlp{i}_output` and `residual{i}_after`, in this order.

        Args:
          variables: from `init`.
          x: token ids `[batch, length]`; one outside the vocabulary makes its sequence NaN.
          key: one key per example `[batch]`; needed in training.
          train: add noise.
          axis_name: unused.
          visit: a function of a site's name and its activations `[batch, length, width]`, which returns these or
            others of the same shape; None to change nothing.

        Returns:
          Output with `prediction`, an empty state, and `activations` of mlp1, mlp2, ... `[batch, length, hidden]`.

        Raises:
          ConfigError: tokens are not sequences of integers, or are longer than the context.
          ValueError: key is missing in training.
        """
        tokens = x
        self._check(tokens)
        if train and key is None:
            raise ValueError("Training under noise needs `key`: one PRNG key per example [batch].")
        params, activations = variables.params, {}
        embedding, positions = jnp.asarray(params["embedding"]), params["positions"][None, : tokens.shape[1]]
        # A negative id would index from the end: map it past the end, where there is no embedding.
        x = embedding.at[jnp.where(tokens < 0, self.vocabulary, tokens)].get(mode="fill", fill_value=jnp.nan)
        x = x + positions
        at = _unchanged if visit is None else visit
        for i in range(1, self.blocks + 1):
            x = at(f"residual{i}_before", x)
            x = at(f"residual{i}_middle", x + at(f"attention{i}", self._attention(params[f"attention{i}"], x)))
            y = at(f"mlp{i}_input", _normalize(params[f"mlp{i}_norm"], x))
            if train and key is not None:
                y = add_noise(jax.vmap(jax.random.fold_in, in_axes=(0, None))(key, i), y, sigma=self.sigma)
            h = at(f"mlp{i}", _ACTIVATIONS[self.activation](linear(params[f"mlp{i}"], {}, y)))
            x = at(f"residual{i}_after", x + at(f"mlp{i}_output", linear(params[f"mlp{i}_output"], {}, h)))
            activations[f"mlp{i}"] = h
        kernel = embedding.T if self.tied else params["output"]["kernel"]
        prediction = _normalize(params["norm"], x) @ kernel
        return Output(prediction, variables.state, activations, measures={"sigma": self.sigma})

    def read_sites(self, variables: Variables, x: Int[Array, "batch length"]) -> dict[str, Array]:
        """Returns the activations `[batch, length, width]` of every site by name, in the order of `apply`."""
        found: dict[str, Array] = {}

        def keep(name: str, h: Array) -> Array:
            found[name] = h
            return h

        self.apply(variables, x, visit=keep)
        return found

    def at(self, epoch: Array | float, step: Array | int) -> "GPT":
        """Returns the model after `step` steps: without noise from `noise_off_step` on."""
        if self.noise_off_step is None:
            return self
        return dataclasses.replace(self, sigma=jnp.where(step >= self.noise_off_step, 0.0, self.sigma))

    def layers(self, example_shape: tuple[int, ...]) -> list[Layer]:
        """Describes the hidden layers of the MLPs, for sequences of shape `[length]`."""
        (length,) = example_shape
        beyond = self.threshold if self.threshold is not None else 0.0 if self.activation == "relu" else 1e-4
        units = self.mlp_factor * self.width * length
        return [Layer(f"mlp{i + 1}", units, positions=length, threshold=beyond) for i in range(self.blocks)]

    def _init_norm(self) -> Params:
        return {"scale": jnp.ones(self.width, jnp.float32), "bias": jnp.zeros(self.width, jnp.float32)}

    def _attention(self, params: dict[str, Params], x: Float[Array, "batch length width"]) -> Array:
        """Returns the output of causal attention to the residual stream."""
        joined = linear(params["inputs"], {}, _normalize(params["norm"], x))
        split = joined.reshape(*x.shape[:2], 3, self.heads, self.width // self.heads)
        read = jax.nn.dot_product_attention(split[:, :, 0], split[:, :, 1], split[:, :, 2], is_causal=True)
        return linear(params["output"], {}, read.reshape(x.shape))

    def _check(self, tokens: Array) -> None:
        whole = tokens.ndim == 2 and jnp.issubdtype(tokens.dtype, jnp.integer)
        expect("The input", f"{tokens.dtype} {list(tokens.shape)}", "token ids, integers [batch, length]", whole)
        fits = f"a sequence of 1 to {self.context} tokens (model.context)"
        expect("The length of the input", tokens.shape[1], fits, 1 <= tokens.shape[1] <= self.context)


def next_token_loss(
    logits: Float[Array, "batch length vocabulary"], tokens: Int[Array, "batch length"]
) -> Float[Array, "batch"]:
    """Returns the negative log-likelihood of each next token in nats, averaged over a sequence without its first token.

    Args:
      logits: predictions of `GPT.apply`; those of the last position are not used.
      tokens: the input sequence.

    Raises:
      ValueError: a sequence has only one token, or the shapes differ.
    """
    if tokens.shape[-1] < 2 or logits.shape[:-1] != tokens.shape:
        raise ValueError(
            f"Logits are {list(logits.shape)} and tokens {list(tokens.shape)}; expected [batch, length, vocabulary] "
            f"and [batch, length] with a length of 2 or more."
        )
    logits, following = logits[:, :-1], tokens[:, 1:, None]
    chosen = jnp.take_along_axis(logits, following, axis=-1)[..., 0]
    return jnp.mean(jax.nn.logsumexp(logits, axis=-1) - chosen, axis=-1)


def _unchanged(name: str, h: Array) -> Array:
    return h


def _normalize(params: Params, x: Float[Array, "batch length width"]) -> Float[Array, "batch length width"]:
    """Normalises each position to mean 0 and variance 1, then scales and shifts every unit."""
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    normal = centred * jax.lax.rsqrt(jnp.mean(centred**2, axis=-1, keepdims=True) + _EPSILON)
    return normal * params["scale"][None, None] + params["bias"][None, None]
