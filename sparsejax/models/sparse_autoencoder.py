"""Sparse autoencoders for interpretability: one network for all variants."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Key, PRNGKeyArray

from sparsejax.configuration import configuration, traced
from sparsejax.functional import anneal, init_boost_state, uniform_fan_in
from sparsejax.functional.autoencoder_losses import auxiliary_loss, decode_prefixes, remove_parallel, unit_rows
from sparsejax.models import autoencoder_codes as codes
from sparsejax.models.autoencoder_codes import Activation, Encoder
from sparsejax.models.base import MOST_BLOCKS, Layer, Model, Output, Variables, expect

_WINNERS = ("top_k", "batch_top_k")


@configuration
class SparseAutoencoder(Model):
    r"""n latents, of which few are active, represent activations of another network.

    .. math:: \hat x = W_d^T z + b_d, \quad z = f(W_e (x - b_d) + b_e)

    Weights into and out of a latent are stored as rows: `params["hidden"]["rows"]` is `[hidden, inputs]` and
    `params["output"]["kernel"]` is `[hidden, outputs]`. An example holds the activations of one or more sites of a
    network, one after another. The network reads one site and writes the same (an SAE) or another (a transcoder), or
    reads and writes all of them (a crosscoder).

    The published losses are sums over the outputs. Here the whole loss, with all its terms, is divided by the number of
    outputs, so weights keep their published meaning, and the logged loss is the mean squared error.

    References:
      Gao et al., Scaling and evaluating sparse autoencoders, 2024 (top_k, AuxK); Bussmann et al., BatchTopK Sparse
      Autoencoders, 2024; Rajamanoharan et al., Jumping Ahead, 2024 (jump_relu) and Improving Dictionary Learning with
      Gated Sparse Autoencoders, 2024 (gated); Templeton et al., Scaling Monosemanticity, 2024 (relu with l1).
    """

    hidden: int = 4096
    """Latents."""
    activation: Activation = "top_k"
    """How latents become sparse; batch_top_k selects over the whole batch, jump_relu learns a threshold for each."""
    k: float | None = traced(32.0)
    """Active latents per example of top_k, on average of batch_top_k; unused otherwise."""
    most_k: int | None = None
    """Slots of a code for each example, which hold all active latents: the largest k of the networks of one program,
    set by a run. jump_relu computes densely unless it is set, to several times the L0 aimed at; more active latents
    stop the run."""
    k_start: float | None = traced(None)
    """Initial k, from which it falls linearly; None for a constant k."""
    k_steps: float = traced(0.0)
    """Steps until it has fallen to k."""
    l1: float | None = traced(None)
    """Weight of the L1 penalty of relu and gated, each activity times the norm of its decoder row."""
    l0: float | None = traced(None)
    """Weight of jump_relu's penalty on the number of active latents."""
    l0_penalty: Literal["step", "quadratic", "tanh"] = "step"
    """That number itself, the square of its distance from l0_target, or a smooth count."""
    l0_target: float | None = traced(None)
    """Number of active latents that the quadratic penalty aims at."""
    tanh_scale: float = traced(4.0)
    """Factor c inside the smooth count."""
    silence: float | None = traced(None)
    """Weight of the penalty that lifts dead latents of jump_relu towards their thresholds; None for none."""
    penalty_steps: float | None = traced(None)
    """Steps over which the penalties grow linearly from 0; None for their full weight at once."""
    bandwidth: float = traced(0.05)
    """Width of the window around its threshold in which jump_relu has a gradient."""
    initial_threshold: float = traced(0.01)
    """Initial threshold of jump_relu."""
    prefixes: tuple[int, ...] = ()
    """Sizes of nested prefixes that also have to reconstruct (Matryoshka); () for none."""
    detach_prefixes: bool = False
    """Let each prefix's loss train only the latents that it adds."""
    aux: float | None = traced(1 / 32)
    """Weight of AuxK, by which dead latents reconstruct what is left; None for none."""
    aux_k: int | None = None
    """Dead latents per example in AuxK; None for half as many as outputs."""
    multi: float | None = traced(None)
    """Weight of a second reconstruction with four times as many latents, of top_k; None for none."""
    dead_after: int = 10_000_000
    """Examples (tokens) without activity after which a latent is dead."""
    boost: float | None = traced(None)
    """Boost b: winners are ranked by activity times exp(b (1 - duty n / k)); None for none."""
    boost_hold: float = traced(0.0)
    """Steps with the full boost."""
    boost_fade: float = traced(0.0)
    """Steps over which it then falls linearly to 0, so that inference needs none."""
    period: int = 10_000
    """Examples over which duty cycles are averaged."""
    encoder: Encoder = "linear"
    """linear, or followed by turns of LISTA, LCA or explain-away, which let latents compete for the residual."""
    turns: int = 1
    """Number of those turns."""
    turn_rate: float = traced(0.3)
    """Size of each turn's step."""
    decoder: Literal["unit", "free"] = "unit"
    """Keep the decoder's rows at norm 1, or leave them free."""
    pre_bias: bool = True
    """Subtract the decoder's bias from the input."""
    sites: int = 1
    """Sites in an example, of equal width."""
    reads: int | None = traced(0)
    """Index of the site that is read; None for all."""
    writes: int | None = traced(None)
    """Index of the site that is written; None for what is read."""
    skip: bool = False
    """Add a linear map of the input to the reconstruction, as skip transcoders do."""

    inputs = "vectors"

    @property
    def task(self) -> Literal["reconstruction"]:
        return "reconstruction"

    def check(self) -> None:
        n = self.hidden
        for name in ("hidden", "dead_after", "period", "sites"):
            expect(f"model.{name}", getattr(self, name), "a positive number", getattr(self, name) >= 1)
        for name in ("l1", "l0", "silence", "penalty_steps", "aux", "multi", "boost", "boost_hold", "boost_fade",
                     "k_steps", "initial_threshold"):  # fmt: skip
            value = getattr(self, name)
            expect(f"model.{name}", value, "0 or more", value is None or value >= 0)
        for name in ("bandwidth", "tanh_scale", "l0_target", "turn_rate"):
            value = getattr(self, name)
            expect(f"model.{name}", value, "more than 0", value is None or value > 0)
        expect("model.turns", self.turns, f"a number from 1 to {MOST_BLOCKS}", 1 <= self.turns <= MOST_BLOCKS)
        if self.activation in _WINNERS:
            for name in ("k", "k_start"):
                k, optional = getattr(self, name), name == "k_start"
                fits = f"a number of active latents in (0, {n}], which {self.activation} needs"
                expect(f"model.{name}", k, fits, (k is None and optional) or (k is not None and 0 < k <= n))
            most, least = self.most_k, math.ceil(max(self.k or 0, self.k_start or 0))
            fits = f"None, or from {least} (k or k_start) to {n}"
            expect("model.most_k", most, fits, most is None or least <= most <= n)
            whole = self.activation == "batch_top_k" or (self.k or 0) % 1 == 0
            expect("model.k", self.k, "a whole number; batch_top_k also takes 2.5", whole)
        for name, needs in (("l1", ("relu", "gated")), ("l0", ("jump_relu",)), ("silence", ("jump_relu",)),
                            ("multi", ("top_k",)), ("boost", _WINNERS)):  # fmt: skip
            value, fits = getattr(self, name), self.activation in needs
            expect(f"model.{name}", value, f"None, because activation is {self.activation}", value is None or fits)
        quadratic = self.l0 is not None and self.l0_penalty == "quadratic"
        target = "a number of active latents, which the quadratic penalty needs"
        expect("model.l0_target", self.l0_target, target, not quadratic or self.l0_target is not None)
        ascending = all(a < b for a, b in zip((0, *self.prefixes), (*self.prefixes, n), strict=True))
        expect("model.prefixes", self.prefixes, f"sizes that ascend from 1 to below {n}", ascending)
        least = "None, or a positive number"
        expect("model.aux_k", self.aux_k, least, self.aux_k is None or self.aux_k >= 1)
        for name in ("reads", "writes"):
            site = getattr(self, name)
            fits = f"None, or the index of one of {self.sites} sites"
            expect(f"model.{name}", site, fits, site is None or 0 <= site < self.sites)
        crossed = self.reads is None and self.writes is not None
        expect("model.writes", self.writes, "None (all sites), because reads is None", not crossed)
        both = self.pre_bias and self.writes is not None and self.writes != self.reads
        expect("model.pre_bias", self.pre_bias, "False, because another site is written than read", not both)
        plain = self.encoder == "linear" or self.activation != "gated"
        expect("model.encoder", self.encoder, "linear, because activation is gated", plain)

    def init(self, key: PRNGKeyArray, example: Float[Array, "batch *shape"]) -> Variables:
        """Initialises a network for inputs `[batch, ...]`, which are flattened; both layers start equal.

        Raises:
          ConfigError: the inputs do not divide among the sites.
        """
        inputs, outputs = self._widths(math.prod(example.shape[1:]))
        n, (key, other, lateral) = self.hidden, jax.random.split(key, 3)
        if self.decoder == "unit":
            kernel = unit_rows(jax.random.normal(key, (n, outputs), jnp.float32))
        else:
            kernel = uniform_fan_in(key, (n, outputs), fan_in=outputs)
        rows = (
            jnp.copy(kernel) if self.writes is None else unit_rows(jax.random.normal(other, (n, inputs), jnp.float32))
        )
        hidden: dict[str, Any] = {"rows": rows, "bias": jnp.zeros(n, jnp.float32)}
        hidden |= codes.init_parameters(self, lateral)
        output = {"kernel": kernel, "bias": jnp.zeros(outputs, jnp.float32)}
        if self.skip:
            output["skip"] = jnp.zeros((inputs, outputs), jnp.float32)
        state: dict[str, Any] = {"idle": jnp.zeros(n, jnp.int32)}
        if self.boost is not None:
            state["boost"] = init_boost_state(n)
        if self.activation == "batch_top_k":
            state["threshold"] = jnp.full((), -1.0, jnp.float32)  # until the first batch
        return Variables({"hidden": hidden, "output": output}, {"hidden": state})

    def apply(
        self,
        variables: Variables,
        x: Float[Array, "batch *shape"],
        *,
        key: Key[Array, "batch"] | None = None,
        train: bool = False,
        axis_name: str | None = None,
    ) -> Output:
        """Returns reconstructions `[batch, outputs]`, the site that they reconstruct, and the codes `[batch, hidden]`.

        Training also returns the additional losses, and the state with the examples since each latent was active. It
        takes the decoder's rows as they are: the step scales them to norm 1 before it, by `project`.
        """
        params, state = variables.params if train else self.project(variables.params), variables.state["hidden"]
        read, target = self._sites(x.reshape(len(x), math.prod(x.shape[1:])))
        output = params["output"]
        kernel, base = output["kernel"], output["bias"][None]
        given = read - base if self.pre_bias else read
        if self.skip:
            base = base + given @ output["skip"]
        encoded = codes.encode(self, params, state, given, train=train, axis_name=axis_name)
        z, losses = encoded.z, {}
        if self.prefixes:
            levels = decode_prefixes(z, kernel, (*self.prefixes, self.hidden), detach=self.detach_prefixes)
            prediction = levels[-1] + base
            losses["prefixes"] = jnp.sum(((target - base)[None] - levels[:-1]) ** 2) / max(1, len(x))
        else:
            prediction = codes.decode_latents(z, kernel) + base
        # Without a use, as in training without penalties on them, the compiler removes the dense codes.
        activations = {"hidden": codes.to_dense(z)}
        if not train:
            return Output(prediction, variables.state, activations, target=target)
        losses |= codes.penalties(self, params, state, encoded, target, base)
        dead = codes.find_dead(self, state)
        if self.aux is not None:
            k = self.aux_k or max(1, target.shape[-1] // 2)
            of = {"encoder": params["hidden"]["rows"], "bias": params["hidden"]["bias"], "decoder": kernel}
            losses["aux"] = self.aux * lax.cond(
                jnp.any(dead),
                lambda: auxiliary_loss(target - prediction, given, dead=dead, k=k, axis_name=axis_name, **of),
                lambda: 0 * prediction.sum(),  # varies over the same mesh axes, unlike a constant
            )
        if self.multi is not None:
            more = codes.encode_more(self, params, given)
            error = jnp.sum((target - codes.decode_latents(more, kernel) - base) ** 2)
            losses["multi"] = self.multi * error / max(1, len(x))
        losses = {name: value / target.shape[-1] for name, value in losses.items()}
        state = codes.update_state(self, state, lax.stop_gradient(z), axis_name)
        measures = {**codes.count_active(z), "dead": jnp.mean(dead.astype(jnp.float32))}
        return Output(prediction, {"hidden": state}, activations, losses, measures=measures, target=target)

    def encode(self, variables: Variables, x: Float[Array, "batch inputs"]) -> Float[Array, "batch hidden"]:
        """Returns the activities of all latents, for inputs of the site that is read."""
        params = self.project(variables.params)
        given = x - params["output"]["bias"][None] if self.pre_bias else x
        encoded = codes.encode(self, params, variables.state["hidden"], given, train=False, axis_name=None)
        return codes.to_dense(encoded.z)

    def decode(
        self, variables: Variables, z: Float[Array, "batch hidden"], x: Float[Array, "batch inputs"] | None = None
    ) -> Float[Array, "batch outputs"]:
        """Returns the reconstruction by activities of latents; with `skip` it also needs the inputs.

        Raises:
          ConfigError: the inputs are missing.
        """
        output = self.project(variables.params)["output"]
        base = output["bias"][None]
        if self.skip:
            expect("x", x, "the inputs, because the network has a skip connection", x is not None)
            base = base + (x - base if self.pre_bias else x) @ output["skip"]  # pyright: ignore[reportOptionalOperand]
        return z @ output["kernel"] + base

    def at(self, epoch: Array | float, step: Array | int) -> "SparseAutoencoder":
        """Returns the model after `step` steps, with its k, boost and penalties by their schedules."""
        changes: dict[str, Any] = {}
        if self.k_start is not None and self.k is not None:
            done = jnp.clip(step / jnp.maximum(self.k_steps, 1), 0, 1)
            changes["k"] = self.k_start + (self.k - self.k_start) * done
        if self.boost is not None:
            changes["boost"] = anneal(self.boost, step, hold=self.boost_hold, duration=self.boost_fade)
        if self.penalty_steps is not None:
            share = jnp.clip(step / jnp.maximum(self.penalty_steps, 1), 0, 1)
            changes |= {name: share * getattr(self, name) for name in ("l1", "l0") if getattr(self, name) is not None}
        return dataclasses.replace(self, **changes) if changes else self

    def project(self, params: Any) -> Any:
        """Returns the parameters with decoder rows of norm 1, and thresholds of 0 or more."""
        hidden, output = params["hidden"], params["output"]
        if "threshold" in hidden:
            hidden = {**hidden, "threshold": jax.nn.relu(hidden["threshold"])}
        if self.decoder == "unit":
            output = {**output, "kernel": unit_rows(output["kernel"])}
        return {**params, "hidden": hidden, "output": output}

    def project_gradient(self, params: Any, gradient: Any) -> Any:
        """Returns the gradient without the parts along the decoder's rows, which would only change their norms."""
        if self.decoder == "free":
            return gradient
        output = gradient["output"]
        return {
            **gradient,
            "output": {**output, "kernel": remove_parallel(output["kernel"], params["output"]["kernel"])},
        }

    def unify(self, models: Sequence[Any]) -> dict[str, Any]:
        """Returns the fields that networks of one program share: the slots of the largest k."""
        if self.activation not in _WINNERS:
            return {}
        return {"most_k": max(math.ceil(max(m.k or 0, m.k_start or 0, m.most_k or 0)) for m in models)}

    def layers(self, example_shape: tuple[int, ...]) -> list[Layer]:
        k = int(self.k) if self.activation == "top_k" and self.k is not None else None
        inputs = self._widths(math.prod(example_shape))[0]
        plain = self.sites == 1 and self.encoder == "linear"
        return [Layer("hidden", self.hidden, k, k, inputs=(inputs,) if plain else None)]

    def _widths(self, features: int) -> tuple[int, int]:
        """Returns the number of inputs and outputs for examples of so many numbers."""
        fits = f"a divisor of the {features} numbers of an example"
        expect("model.sites", self.sites, fits, features % self.sites == 0)
        width = features // self.sites
        return (features if self.reads is None else width), (features if self.reads is None else width)

    def _sites(self, x: Float[Array, "batch features"]) -> tuple[Array, Array]:
        """Returns the activations that are read and written, each `[batch, width]`."""
        if self.reads is None or self.sites == 1:
            return x, x
        sites = x.reshape(len(x), self.sites, x.shape[-1] // self.sites)

        def site(index: Any) -> Array:
            return lax.dynamic_index_in_dim(sites, jnp.int32(index), axis=1, keepdims=False)

        read = site(self.reads)
        return read, read if self.writes is None else site(self.writes)
