"""Writes the pictures of docs/howto/denoise.md, and prints how they were made: `python -m benchmarks.pictures`."""

import io
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from scipy.ndimage import gaussian_filter
from sklearn.decomposition import MiniBatchDictionaryLearning
from sklearn.feature_extraction.image import extract_patches_2d, reconstruct_from_patches_2d
from sklearn.linear_model import orthogonal_mp_gram

from sparsejax.coding import (
    convolutional_code,
    convolutional_dictionary_step,
    convolutional_reconstruct,
    extract_patches,
    init_convolutional_dictionary,
    init_dictionary,
    ksvd_step,
    psnr,
    reconstruct_from_patches,
    sparse_set,
)
from sparsejax.data.natural_images import photographs
from sparsejax.figures import style

FOLDER = Path(__file__).parent.parent / "docs" / "howto"
CROP = (slice(120, 376), slice(180, 436))
SIGMA, PATCH, ATOMS, EXAMPLES = 0.1, 8, 256, 20_000
KNOWN, ATOM, MAPS, L1 = 0.4, 12, 64, 0.03


def denoise(noisy: np.ndarray, *, steps: int = 10) -> np.ndarray:
    """Denoises by K-SVD and sparse-set codes: an atom has to explain 2.8 standard deviations of the noise."""
    patches = extract_patches(noisy, PATCH)
    means = jnp.mean(patches, 1, keepdims=True)
    patches = patches - means
    some = jax.random.permutation(jax.random.key(0), patches)[:EXAMPLES]
    dictionary = init_dictionary(jax.random.key(1), some, atoms=ATOMS).dictionary
    for _ in range(steps):
        dictionary, _ = ksvd_step(dictionary, some, k=3)
    code = sparse_set(patches, dictionary, l0=(2.8 * SIGMA) ** 2 / 2).code
    weights = 1 / (0.3 + jnp.sum(code != 0, 1))  # more atoms bring more noise
    return np.asarray(reconstruct_from_patches(code @ dictionary.T + means, noisy.shape, PATCH, weights=weights))


def denoise_by_sklearn(noisy: np.ndarray, *, epochs: int = 2) -> np.ndarray:
    """Denoises by scikit-learn's online dictionary and OMP down to the noise in a patch."""
    patches = extract_patches_2d(noisy, (PATCH, PATCH)).reshape(-1, PATCH**2).astype(np.float64)
    means = patches.mean(1, keepdims=True)
    patches -= means
    some = np.random.default_rng(0).permutation(patches)[:EXAMPLES]
    learner = MiniBatchDictionaryLearning(
        ATOMS, alpha=2 * SIGMA, fit_algorithm="cd", batch_size=200, max_iter=epochs, random_state=0
    )
    atoms = learner.fit(some).components_
    noise = (1.05 * SIGMA * PATCH) ** 2
    code = orthogonal_mp_gram(atoms @ atoms.T, atoms @ patches.T, tol=noise, norms_squared=(patches**2).sum(1)).T
    return reconstruct_from_patches_2d((code @ atoms + means).reshape(-1, PATCH, PATCH), noisy.shape)


def local_mean(image: np.ndarray, known: np.ndarray, *, width: float) -> np.ndarray:
    """Returns the mean of the known pixels around each one, weighted by a Gaussian function."""
    return gaussian_filter(np.where(known, image, 0), width) / gaussian_filter(known.astype(np.float32), width)


def inpaint(image: np.ndarray, known: np.ndarray, *, steps: int = 15) -> np.ndarray:
    """Inpaints by a convolutional code, whose atoms are learnt from the known pixels of the same image."""
    smooth = local_mean(image, known, width=3.0)
    around = ((0, ATOM - 1), (0, ATOM - 1))  # so that atoms do not wrap around the edges
    detail, mask = np.pad(np.where(known, image - smooth, 0), around), np.pad(known, around)
    first = init_convolutional_dictionary(jax.random.key(0), detail, size=ATOM, atoms=MAPS)
    dictionary = gaussian_filter(first, (1, 1, 0))  # the first atoms are patches with holes
    dictionary, maps = dictionary / np.linalg.norm(dictionary, axis=(0, 1)), None
    for _ in range(steps):
        dictionary, code = convolutional_dictionary_step(
            dictionary, detail, l1=L1, mask=mask, initial=maps, max_iterations=10
        )
        maps = code.maps
    code = convolutional_code(detail, dictionary, l1=L1, mask=mask, initial=maps, max_iterations=100)
    shown = np.asarray(convolutional_reconstruct(code.maps, dictionary))[: image.shape[0], : image.shape[1]]
    return np.where(known, image, smooth + shown)


def timed(call: Callable[[], np.ndarray]) -> tuple[np.ndarray, float]:
    """Returns the result of a call and its seconds."""
    started = time.perf_counter()
    result = call()
    return result, time.perf_counter() - started


@style.styled
def draw(images: list[tuple[str, np.ndarray]], original: np.ndarray) -> Figure:
    """Draws images next to the original, titled by their PSNR."""
    figure, axes = style.panels(len(images) + 1, width="page", height=1.85, columns=len(images) + 1)
    for axis, (title, image) in zip(axes, [("original", original), *images], strict=True):
        _show(axis, image)
        said = "" if image is original else f"\n{float(psnr(image.astype(np.float32), original)):.2f} dB"
        axis.set_title(title + (said or "\n "))
    return figure


def write(name: str, figure: Figure) -> None:
    """Stores a figure in shades of grey, in a third of the bytes."""
    image = Image.open(io.BytesIO(style.png(figure))).convert("L")
    image.save(FOLDER / name, optimize=True)


def _show(axis: Axes, image: np.ndarray) -> None:
    axis.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="lanczos")
    axis.set(xticks=[], yticks=[])
    axis.spines[["left", "bottom"]].set_visible(False)


def main() -> None:
    """Draws both pictures and prints the ratios of signal to noise and the times."""
    photo = photographs()["china"][CROP]
    rng = np.random.default_rng(0)
    noisy = (photo + SIGMA * rng.standard_normal(photo.shape)).astype(np.float32)
    ours, first = timed(lambda: denoise(noisy))
    ours, seconds = timed(lambda: denoise(noisy))
    theirs, peer = timed(lambda: denoise_by_sklearn(noisy))
    panels = [
        (f"noise of {SIGMA}", noisy),
        (f"scikit-learn, {peer:.0f} s", theirs),
        (f"sparsejax, {seconds:.0f} s", ours),
    ]
    write("denoise.png", draw(panels, photo))
    for name, image in panels:
        print(f"{name}: {float(psnr(image.astype(np.float32), photo)):.2f} dB")
    print(f"seconds: ours {seconds:.1f}, {first:.1f} with compilation; scikit-learn {peer:.1f}")

    known = rng.random(photo.shape) < KNOWN
    smooth = np.where(known, photo, local_mean(photo, known, width=1.0)).astype(np.float32)
    filled, seconds = timed(lambda: inpaint(photo, known))
    panels = [(f"{100 * (1 - KNOWN):.0f} % unknown", np.where(known, photo, 0)), ("local mean", smooth),
              ("convolutional code", filled)]  # fmt: skip
    write("inpaint.png", draw(panels, photo))
    for name, image in panels:
        print(f"{name}: {float(psnr(image.astype(np.float32), photo)):.2f} dB")
    print(f"seconds with compilation: {seconds:.1f}")


if __name__ == "__main__":
    main()
