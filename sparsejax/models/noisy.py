"""One hidden layer trained with noise: the autoencoder and classifier of "Noise Transforms ... Networks"."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PRNGKeyArray

from sparsejax.configuration import configuration, traced
from sparsejax.functional import (
    add_noise,
    anneal,
    explain_away,
    implicit_terms,
    inhibitory_interneuron,
    k_schedule,
    sampled_k,
    soft_top_k,
    top_k,
    top_k_subtract,
    uniform_fan_in,
)
from sparsejax.functional.noise import Distribution
from sparsejax.functional.normal import gelu
from sparsejax.models import blocks
from sparsejax.models.base import MOST_BLOCKS, Layer, Model, Output, Variables, expect

Activation = Literal["relu", "gelu", "sigmoid"]
Competition = Literal["none", "top_k", "top_k_subtract", "learned_k", "sampled_k", "explain_away", "interneuron"]
_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": jax.nn.relu,
    "gelu": gelu,
    "sigmoid": jax.nn.sigmoid,
}
_NEEDS_K = ("top_k", "top_k_subtract", "learned_k")


@configuration
class NoisyNetwork(Model):
    r"""Noise on the input, a hidden layer, and a linear output layer.

    .. math:: \hat x = W_d\, f(W_e (x + \sigma \epsilon) + b_e) + b_d

    References:
      Bricken et al., Noise Transforms Feed-Forward Networks into Sparse Coding Networks, 2022, Eq. 1 and 2.
    """

    hidden: int = 1000
    """Units of the hidden layer."""
    classes: int | None = None
    """Outputs; None for as many as inputs (an autoencoder)."""
    sigma: float = traced(0.0)
    """Noise on the input: standard deviation of gaussian, scale of laplace noise."""
    hidden_sigma: float | None = traced(None)
    """Noise on the hidden layer's output; None for none."""
    noise: Distribution = "gaussian"
    """Distribution of the noise."""
    noise_at_evaluation: bool = True
    """Keep the noise on the input in evaluation, as in the paper."""
    anneal_after: float | None = traced(None)
    """Epochs after which the noise is annealed linearly to 0; None to keep it."""
    anneal_epochs: float = traced(0.0)
    """Epochs of the annealing; 0 removes the noise immediately."""
    activation: Activation = "relu"
    """Activation function of the hidden layer."""
    threshold: float | None = None
    """Threshold above which a unit counts as active; None for 0 with ReLU and 1e-4 otherwise, as in the paper."""
    bias: Literal["own", "shared", "none"] = "own"
    """Bias of the hidden layer: one per unit, one for all, or none."""
    normalised: bool = False
    """Scale every input and the weights of every hidden unit to norm 1."""
    competition: Competition = "none"
    """Competition between the hidden units, in addition to their bias."""
    k: float | None = traced(None)
    """Winners of top_k and top_k_subtract, and initial value of learned_k; None if unused."""
    k_schedule: Literal["constant", "linear", "exponential"] = "constant"
    """Schedule of top_k, from all units down to k."""
    k_epochs: float = traced(100.0)
    """Epochs of the k schedule."""
    k_window: float = 0.1
    """Width of learned_k's window, a fraction of the units."""
    k_rate: float = 10.0
    """Factor on the learning rate of a learned k."""
    sampled_log_k: float = 6.0
    """Initial mean of sampled_k's log k."""
    circuit_steps: int = 1
    """Steps of the explain-away loop or the interneuron, t* of Eq. 2."""
    gamma: float = traced(1.0)
    """Size of each step."""
    zero_diagonal: bool = False
    """Exclude self-connections in explain_away."""
    rectified_interneuron: bool = False
    """Add a bias and ReLU to the interneuron, as in the authors' code; the paper's is linear."""
    implicit: float | None = traced(None)
    """Weight of the implicit loss terms of noise, added to the loss; None for none. ReLU only."""
    implicit_sigma: float = traced(0.1)
    """Standard deviation of the noise whose implicit terms are added."""

    @property
    def task(self) -> Literal["classification", "reconstruction"]:
        return "reconstruction" if self.classes is None else "classification"

    def check(self) -> None:
        expect("model.hidden", self.hidden, "a positive number of units", self.hidden > 0)
        for name in ("sigma", "hidden_sigma", "anneal_after", "anneal_epochs", "threshold", "implicit"):
            value = getattr(self, name)
            expect(f"model.{name}", value, "0 or more", value is None or value >= 0)
        expect("model.implicit_sigma", self.implicit_sigma, "more than 0", self.implicit_sigma > 0)
        steps = self.circuit_steps
        expect("model.circuit_steps", steps, f"a number from 1 to {MOST_BLOCKS}", 1 <= steps <= MOST_BLOCKS)
        expect("model.k_window", self.k_window, "a fraction of the units in (0, 1]", 0 < self.k_window <= 1)
        expect("model.k_rate", self.k_rate, "a positive factor", self.k_rate > 0)
        if self.k_schedule != "constant":
            expect("model.k_epochs", self.k_epochs, "1 to 46340 epochs", 1 <= self.k_epochs <= 46340)
        if self.competition in _NEEDS_K:
            winners = f"a number of winners from 1 to {self.hidden}, which {self.competition} needs"
            expect("model.k", self.k, winners, self.k is not None and 1 <= self.k <= self.hidden)
            expect("model.activation", self.activation, f"relu with {self.competition}", self.activation == "relu")
        if self.implicit is not None:
            expect("model.implicit", self.implicit, "None, or a plain ReLU autoencoder", self.has_implicit_terms)

    def init(self, key: PRNGKeyArray, example: Float[Array, "batch *shape"]) -> Variables:
        """Initialises a network for inputs `[batch, ...]`, which are flattened."""
        inputs = math.prod(example.shape[1:])
        encoder_key, decoder_key, circuit_key = jax.random.split(key, 3)
        encoder, _ = blocks.init_weights(encoder_key, (inputs, self.hidden))
        decoder, _ = blocks.init_weights(decoder_key, (self.hidden, self.classes or inputs))
        if self.bias == "shared":
            encoder["bias"] = jnp.zeros((), jnp.float32)
        elif self.bias == "none":
            del encoder["bias"]
        params: dict[str, Any] = {"hidden": encoder, "output": decoder}
        state = {}
        if self.competition == "explain_away":
            params["circuit"] = {"lateral": uniform_fan_in(circuit_key, (self.hidden, self.hidden))}
        elif self.competition == "interneuron":
            gather_key, scatter_key, bias_key = jax.random.split(circuit_key, 3)
            params["circuit"] = {
                "gather": uniform_fan_in(gather_key, (self.hidden,), self.hidden),
                "scatter": uniform_fan_in(scatter_key, (self.hidden,), 1),
            }
            if self.rectified_interneuron:
                params["circuit"]["bias"] = uniform_fan_in(bias_key, (), self.hidden)
        elif self.competition == "learned_k":
            # Stored divided by the factor on the learning rate: then any update rule moves k that much faster.
            params["k"] = jnp.zeros((), jnp.float32)
        elif self.competition == "sampled_k":
            params["k"] = {
                "mean": jnp.asarray(self.sampled_log_k / self.k_rate, jnp.float32),
                "log_std": jnp.zeros((), jnp.float32),
            }
            state["usual_loss"] = {"sum": jnp.zeros((), jnp.float32), "weight": jnp.zeros((), jnp.float32)}
        return Variables(params, state)

    def apply(
        self,
        variables: Variables,
        x: Float[Array, "batch *shape"],
        *,
        key: Key[Array, "batch"] | None = None,
        train: bool = False,
        axis_name: str | None = None,
    ) -> Output:
        """Returns logits `[batch, classes]` or reconstructions `[batch, inputs]`, and the hidden layer's output.

        Training always adds noise and needs `key`; evaluation adds it only with `noise_at_evaluation` and `key`, and
        does not sample k without `key`.

        Raises:
          ValueError: key is missing in training.
        """
        if train and key is None:
            raise ValueError("Training under noise needs `key`: one PRNG key per example [batch].")
        params, losses = variables.params, None
        x = clean = x.reshape(x.shape[0], -1)
        noisy = key is not None and (train or self.noise_at_evaluation)
        if key is not None and noisy:
            x = add_noise(_stream(key, 0), x, sigma=self.sigma, distribution=self.noise)
        sampling = _stream(key, 1) if key is not None and train else None
        h, log_probability = self._hidden(params, x, sampling)
        read = h
        if self.hidden_sigma is not None and key is not None and noisy:
            read = add_noise(_stream(key, 2), h, sigma=self.hidden_sigma, distribution=self.noise)
        prediction = blocks.linear(params["output"], {}, read)
        if train and self.implicit is not None:
            terms = implicit_terms(
                clean,
                encoder=params["hidden"]["kernel"],
                encoder_bias=jnp.broadcast_to(params["hidden"].get("bias", 0.0), (self.hidden,)),
                decoder=params["output"]["kernel"],
                decoder_bias=params["output"]["bias"],
                sigma=self.implicit_sigma,
            )
            losses = {"implicit": self.implicit * jnp.mean(sum(terms)) / clean.shape[-1]}
        k = self.winners(params)
        measures = {"sigma": self.sigma} | ({} if k is None else {"k": k})
        return Output(prediction, variables.state, {"hidden": h}, losses, log_probability, measures)

    def at(self, epoch: Array | float, step: Array | int) -> "NoisyNetwork":
        """Returns the model after `epoch` epochs, with its noise and k by their schedules."""
        changes = {}
        if self.anneal_after is not None:
            when = {"hold": self.anneal_after, "duration": self.anneal_epochs}
            for name in ("sigma", "hidden_sigma"):
                if getattr(self, name) is not None:
                    changes[name] = anneal(getattr(self, name), epoch, **when)
        if self.k_schedule != "constant":
            end = {"k_min": self.k, "epochs": self.k_epochs}
            changes["k"] = k_schedule(epoch, n=self.hidden, kind=self.k_schedule, **end)
        return dataclasses.replace(self, **changes)

    def layers(self, example_shape: tuple[int, ...]) -> list[Layer]:
        k = int(self.k) if self.competition in ("top_k", "top_k_subtract") and self.k is not None else None
        # Lateral circuits need additional products, and noise leaves no unit at 0.
        plain = self.competition not in ("explain_away", "interneuron") and self.hidden_sigma is None
        inputs = (math.prod(example_shape),) if plain else None
        return [Layer("hidden", self.hidden, k, k, threshold=self.active_beyond, inputs=inputs)]

    @property
    def has_implicit_terms(self) -> bool:
        """Whether the implicit loss terms of its noise have a closed form: for a plain ReLU autoencoder."""
        plain = self.competition == "none" and not self.normalised and self.noise == "gaussian"
        return plain and self.activation == "relu" and self.classes is None and self.hidden_sigma is None

    @property
    def active_beyond(self) -> float:
        """A unit is active if the magnitude of its output exceeds this."""
        if self.threshold is not None:
            return self.threshold
        return 0.0 if self.activation == "relu" else 1e-4

    def winners(self, params: Any) -> float | Array | None:
        """Returns the current number of winners, from the parameters if learned; None without winners."""
        if self.competition == "learned_k":
            return self.k + self.k_rate * params["k"]
        if self.competition == "sampled_k":
            return jnp.exp(self.k_rate * params["k"]["mean"])
        return self.k

    def _hidden(self, params, x, key):
        """Returns the hidden layer's output, and the log-probability of the sampled k if there is one."""
        kernel = params["hidden"]["kernel"]
        if self.normalised:
            x, kernel = _unit_length(x, axis=-1), _unit_length(kernel, axis=0)
        z = x @ kernel
        if self.bias != "none":
            z = z + params["hidden"]["bias"].reshape((1, -1))
        circuit = params.get("circuit")
        settings = {"steps": self.circuit_steps, "gamma": self.gamma}
        if self.competition == "explain_away":
            return explain_away(z, circuit["lateral"], zero_diagonal=self.zero_diagonal, **settings), None
        if self.competition == "interneuron":
            h = inhibitory_interneuron(
                z, circuit["gather"], circuit["scatter"], circuit.get("bias"), rectified=self.rectified_interneuron,
                **settings,
            )  # fmt: skip
            return h, None
        h = _ACTIVATIONS[self.activation](z)
        k = self.winners(params)
        if k is None:
            return h, None
        if self.competition == "top_k":
            return top_k(h, jnp.round(k).astype(jnp.int32)), None
        if self.competition == "top_k_subtract":
            return top_k_subtract(h, jnp.round(k).astype(jnp.int32)), None
        if self.competition == "learned_k":
            return soft_top_k(h, k, window=max(2, int(self.hidden * self.k_window))), None
        if self.competition == "sampled_k":
            if key is None:
                return top_k(h, jnp.clip(jnp.round(k), 1, self.hidden).astype(jnp.int32)), None
            drawn, log_probability = sampled_k(
                key, self.k_rate * params["k"]["mean"], jnp.exp(params["k"]["log_std"]), self.hidden
            )
            return top_k(h, drawn), log_probability
        return h, None


def _stream(keys: Key[Array, "batch"], index: int) -> Key[Array, "batch"]:
    """Returns each example's key for one source of randomness."""
    return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, index)


def _unit_length(x: Array, axis: int) -> Array:
    return x * jax.lax.rsqrt(jnp.sum(x * x, axis=axis, keepdims=True) + 1e-12)
