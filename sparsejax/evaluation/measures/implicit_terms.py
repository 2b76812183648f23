"""The implicit loss terms of a network's noise."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sparsejax.evaluation.measure import EvaluationBatch, Measure, Setting, register_measure
from sparsejax.functional.noise_terms import ImplicitTerms, implicit_terms
from sparsejax.models.base import Model, Variables


@register_measure("implicit_terms", place=60)
class Implicit(Measure):
    """The three terms that input noise adds to the mean squared error of a plain ReLU autoencoder.

    They are averaged over the first `evaluation.implicit_examples` test examples and named `implicit/mean_shift`,
    `implicit/second_moment` and `implicit/co_fluctuation`; their sum is the expected loss with noise minus the loss
    without.

    References:
      Bricken et al., Emergence of Sparse Representations from Noise, ICML 2023.
    """

    def bind(self, setting: Setting) -> Measure:
        made = super().bind(setting)
        made.examples = min(setting.config.evaluation.implicit_examples, setting.examples)
        return made

    def misfit(self, setting: Setting) -> str | None:
        if getattr(setting.config.model, "has_implicit_terms", False):
            return None
        return (
            "the implicit terms are known in closed form for a plain ReLU autoencoder under gaussian noise on its "
            "input only"
        )

    def of_batch(self, model: Model, variables: Variables, batch: EvaluationBatch) -> dict[str, Float[Array, ""]]:
        clean = batch.images.reshape(len(batch.rows), -1)
        terms = _terms_of(variables.params, getattr(model, "sigma"), clean)  # noqa: B009
        return {name: batch.sum(term) / clean.shape[-1] for name, term in terms._asdict().items()}

    def report(self, sums: dict[str, Any]) -> dict[str, Any]:
        return {"implicit": {name: float(total) / (self.examples or 1) for name, total in sums.items()}}

    def track(self, variables: Variables, sums: dict[str, Array]) -> dict[str, Float[Array, ""]]:
        return {f"implicit/{name}": total / (self.examples or 1) for name, total in sums.items()}


@jax.custom_batching.sequential_vmap
def _terms_of(params: dict[str, dict[str, Array]], sigma: Array, clean: Array) -> ImplicitTerms:
    """Return the terms `[batch]`, one network at a time: they need a matrix over all pairs of units."""
    hidden, output = params["hidden"], params["output"]
    bias = jnp.broadcast_to(hidden.get("bias", 0.0), hidden["kernel"].shape[-1:])
    return implicit_terms(clean, hidden["kernel"], bias, output["kernel"], output["bias"], sigma=sigma)
