"""The noise score: correct classifications over eleven levels of noise in images or clips."""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from sparsejax.data.resident import Resident, normalize
from sparsejax.evaluation.measure import EvaluationBatch, Measure, Setting, register_measure
from sparsejax.figures import run_curves
from sparsejax.figures.drawing import Drawing, Row, Shown
from sparsejax.figures.words import score
from sparsejax.functional import example_keys, pixel_noise, white_noise_blend
from sparsejax.models.base import Model, Variables

NOISE_LEVELS = tuple(level / 20 for level in range(11))
"""Fractions of pixels replaced, or shares of white noise in a waveform (Ahmad & Scheinkman, 2019, section 4)."""


class UnderNoise(Measure):
    """Base class of measures under noise, with a version of a batch for each level.

    The noise depends only on `evaluation.noise_seed`, the level and the image. The network's own noise is off.
    """

    versions = len(NOISE_LEVELS)

    def misfit(self, setting: Setting) -> str | None:
        if setting.dtype in (np.uint8, np.int16):
            return None
        return f"noise replaces pixels or blends clips, and the data are {setting.kind}"

    def version(self, batch: EvaluationBatch, index: Int[Array, ""]) -> EvaluationBatch:
        key = jax.random.fold_in(jax.random.key(self.setting.config.evaluation.noise_seed), index)
        level = jnp.asarray(NOISE_LEVELS, jnp.float32)[index]
        return batch._replace(images=corrupt(example_keys(key, batch.rows), batch.data, batch.raw, level), keys=None)


@register_measure("noise_score", place=10)
class NoiseScore(UnderNoise):
    """Correct classifications over all levels of noise, and the accuracy at each.

    References:
      Ahmad & Scheinkman, How Can We Be So Dense?, 2019, section 4.
    """

    at_best = True

    def misfit(self, setting: Setting) -> str | None:
        if setting.config.objective.kind != "classification":
            return "the noise score counts correct classes, and the network is not a classifier"
        return super().misfit(setting)

    def of_batch(self, model: Model, variables: Variables, batch: EvaluationBatch) -> Int[Array, ""]:
        guess = jnp.argmax(batch.output.prediction, axis=-1).astype(batch.labels.dtype)
        hits = (guess == batch.labels) & batch.counted
        return jnp.sum(hits.astype(jnp.int32))

    def report(self, sums: Int[np.ndarray, "levels"]) -> dict[str, Any]:
        """Return the noise score, its maximum, the accuracy at each level, and the levels."""
        return {
            "noise_score": int(sums.sum()),
            "noise_score_max": len(NOISE_LEVELS) * self.setting.examples,
            "noise_accuracy": [float(count) / self.setting.examples for count in sums],
            "noise_levels": list(NOISE_LEVELS),
        }

    def track(self, variables: Variables, sums: Int[Array, "levels"]) -> dict[str, Float[Array, ""]]:
        return {"noise_score": jnp.sum(sums).astype(jnp.float32)}

    def rows(self, result: Mapping[str, Any]) -> list[Row]:
        return [Row("noise_score", "noise score", score, f"of {result['members'][0]['noise_score_max']:,}")]

    def figures(self, run: Shown) -> Iterable[Drawing | None]:
        return [run_curves.noise(run.result, run.groups)]


def corrupt(
    keys: Key[Array, "batch"], data: Resident, examples: Array, level: float | Float[Array, ""]
) -> Float[Array, "batch ..."]:
    """Return network inputs under noise: waveforms blended with white noise, or images with that
    fraction of their pixels replaced by the mean plus two standard deviations, then normalised.
    """
    if examples.dtype == jnp.int16:
        return white_noise_blend(keys, normalize(data, examples), level=level)
    white = data.mean + 2 * data.std
    noisy = pixel_noise(keys, examples.astype(jnp.float32) / 255, level=level, value=white)
    return (noisy - data.mean) / data.std
