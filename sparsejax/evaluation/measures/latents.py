"""What a sparse autoencoder explains, and how often its latents are active."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sparsejax.evaluation.measure import EvaluationBatch, Measure, Setting, register_measure
from sparsejax.figures.drawing import Row
from sparsejax.figures.words import percent
from sparsejax.models.base import Model, Variables
from sparsejax.models.sparse_autoencoder import SparseAutoencoder

_DENSE = 0.1
"""A latent that is active for more than this fraction of the examples is called dense."""
_BINS = np.linspace(-5, 0, 51)
"""Bounds of the histogram of densities, as powers of ten."""


@register_measure("latents", place=25)
class Latents(Measure):
    """Fraction of variance unexplained, L0, and the latents' densities on the test set.

    FVU is the sum of squared errors over that of the deviations from the targets' mean, over all examples and outputs
    (other libraries average ratios of single outputs or batches, which differ by up to a fiftieth). A latent without
    activity on the whole test set is silent.

    References:
      Gao et al., Scaling and evaluating sparse autoencoders, 2024, section 2; Bricken et al., Towards
      Monosemanticity, 2023, for the density histogram.
    """

    def misfit(self, setting: Setting) -> str | None:
        fits = isinstance(setting.config.model, SparseAutoencoder)
        return None if fits else "only a SparseAutoencoder has latents"

    def of_batch(self, model: Model, variables: Variables, batch: EvaluationBatch) -> dict[str, Array]:
        output, z = batch.output, batch.output.activations["hidden"]
        target = batch.images if output.target is None else output.target
        return {
            "error": batch.sum(jnp.sum((output.prediction - target) ** 2, axis=-1)),
            "target": batch.sum(target),
            "square": batch.sum(jnp.sum(target**2, axis=-1)),
            "active": batch.sum((z > 0).astype(jnp.int32)),
            "activity": batch.sum(z),
        }

    def report(self, sums: Mapping[str, Any]) -> dict[str, Any]:
        density = np.asarray(sums["active"], np.float64) / self.setting.examples
        used = density[density > 0]
        counts = np.histogram(np.log10(used), _BINS)[0]
        return {
            "fvu": float(_fvu(sums, self.setting.examples)),
            "l0": float(density.sum()),
            "silent_latents": int((density == 0).sum()),
            "dense_latents": int((density > _DENSE).sum()),
            "density_histogram": {"log10_bounds": _BINS.round(2).tolist(), "latents": counts.tolist()},
        }

    def track(self, variables: Variables, sums: Mapping[str, Array]) -> dict[str, Float[Array, ""]]:
        active = sums["active"].astype(jnp.float32)
        silent = jnp.sum((active == 0).astype(jnp.float32))
        l0 = jnp.sum(active) / self.setting.examples
        return {"test_fvu": _fvu(sums, self.setting.examples), "mean_l0": l0, "silent_latents": silent}

    def arrays(self, sums: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Return the density and the mean activity of every latent, `[networks, hidden]`."""
        return {name: np.asarray(sums[of], np.float32) / self.setting.examples
                for name, of in (("density", "active"), ("activity", "activity"))}  # fmt: skip

    def rows(self, result: Mapping[str, Any]) -> list[Row]:
        return [Row("fvu", "variance unexplained", percent), Row("l0", "active latents (L0)"),
                Row("silent_latents", "silent latents"), Row("dense_latents", "dense latents")]  # fmt: skip


def _fvu(sums: Mapping[str, Any], examples: int) -> Any:
    spread = sums["square"] - (sums["target"] ** 2).sum(-1) / examples
    return sums["error"] / spread
