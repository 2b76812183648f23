"""Sparsenet on natural images: Olshausen & Field's basis functions, from the thesis' first chapter."""

from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from sparsejax.coding.sparsenet import SparsenetMetrics, SparsenetState, init_sparsenet, sparsenet_step
from sparsejax.data.folders import data_root
from sparsejax.data.natural_images import halve, patches, photographs, read_images_mat, whiten
from sparsejax.studies.study import Outcome, Scale, study
from sparsejax.studies.thesis.dictionary_figure import basis_functions
from sparsejax.studies.thesis.gabor import fit_gabors

GOOD = 0.8
"""A Gabor fit is good if it explains more of the variance than this."""


class Settings(NamedTuple):
    """Sizes of the study."""

    atoms: int = 128
    size: int = 16
    patches: int = 50_000
    batch: int = 100
    steps: int = 15_000
    penalty: float = 0.05
    rate: float = 1.0


SETTINGS: dict[str, Settings] = {"small": Settings(), "paper": Settings(atoms=192, patches=200_000, steps=60_000)}


def images() -> tuple[list[np.ndarray], str]:
    """Returns whitened images of variance 1, and their source: IMAGES.mat in $SPARSEJAX_DATA, or photographs.

    The photographs are halved first: at full size their finest detail is noise of the camera and of JPEG.
    """
    root = data_root()
    if root is not None and (root / "IMAGES.mat").is_file():
        return [image / (image.std() or 1) for image in read_images_mat(root / "IMAGES.mat")], "IMAGES.mat"
    found = photographs()
    return [whiten(halve(image), cutoff=0.45) for image in found.values()], ", ".join(found)


def learn(settings: Settings, x: jax.Array, seed: int) -> tuple[SparsenetState, SparsenetMetrics]:
    """Learns a dictionary in one program; the rate decreases to a half and a fifth after 50 and 80 % of the steps."""
    start, draw = jax.random.split(jax.random.key(seed))

    @jax.jit
    def run(x):
        def step(state, i):
            chosen = jax.random.randint(jax.random.fold_in(draw, i), (settings.batch,), 0, len(x))
            done = i / settings.steps
            rate = settings.rate * jnp.where(done < 0.5, 1.0, jnp.where(done < 0.8, 0.5, 0.2))
            # An atom replaced late would not be learnt in time, while one that becomes inactive then would shrink to 0.
            early = jnp.where(done < 0.8, 1.0, 0.0)
            return sparsenet_step(
                state, x[chosen], learning_rate=rate, penalty=settings.penalty,
                gain_exponent=0.02 * early, least_variance=0.1 * early,
            )  # fmt: skip

        return lax.scan(step, init_sparsenet(start, x.shape[1], settings.atoms), jnp.arange(settings.steps))

    return run(x)


@study(
    "thesis/sparsenet",
    "Sparsenet's basis functions of photographs, with Gabor fits",
    "section 1.3.1, after Olshausen & Field, Emergence of simple-cell receptive field properties by learning a sparse "
    "code for natural images, 1996, Fig. 4",
)
def _sparsenet(scale: Scale, folder: Path) -> Outcome:
    settings, seed = SETTINGS[scale], 0
    pictures, source = images()
    # Olshausen & Field's variance, which the penalty and the variance goal assume.
    x = np.sqrt(0.1) * patches(pictures, settings.patches, size=settings.size, seed=seed)
    state, metrics = learn(settings, jnp.asarray(x), seed)
    atoms = np.asarray(state.dictionary.T).reshape(-1, settings.size, settings.size)
    noise = np.random.default_rng(seed).standard_normal(atoms.shape).astype(np.float32)
    fit, reference = fit_gabors(jnp.asarray(atoms)), fit_gabors(jnp.asarray(noise))
    r2 = np.asarray(fit.r2)
    good = r2 > GOOD
    last = settings.steps // 10
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "basis_functions.npz", atoms=atoms, r2=r2, centre=fit.centre, width=fit.width)
    ours = {
        "images": source,
        "good_gabor_fits": float(good.mean()),
        "good_gabor_fits_of_noise": float(np.mean(np.asarray(reference.r2) > GOOD)),
        "median_r2": float(np.median(r2)),
        "median_r2_of_noise": float(np.median(reference.r2)),
        "median_frequency": float(np.median(np.asarray(fit.frequency)[good])) if good.any() else float("nan"),
        "median_width": np.median(np.asarray(fit.width)[good], 0).tolist() if good.any() else [],
        "error_left": float(np.mean(np.asarray(metrics.error)[-last:])),
    }
    return Outcome(basis_functions(atoms, r2, np.asarray(reference.r2), good=GOOD), ours, {}, [seed])
