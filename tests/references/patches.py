"""References of patches, convolutional codes and l0 dictionary learning."""

import itertools

import numpy as np

from tests.references.reference import finite, need, reference


def pair(size):
    return size if isinstance(size, tuple) else (size, size)


def corners(shape, size, stride):
    (h, w), (down, right) = pair(size), pair(stride)
    return itertools.product(range(0, shape[0] - h + 1, down), range(0, shape[1] - w + 1, right))


def with_images(d, a):
    """Draws images of 4 x 5 pixels, with two channels if asked for."""
    return a | {"images": d.array_of((*d.rng.choice(((), (3,))), 4, 5, *((2,) if a.get("channels") else ()))),
                "size": d.rng.choice((1, 3, np.int64(2), (2, 4)))}  # fmt: skip


@reference("extract_patches", with_images)
def _(a, y):
    axes, (h, w) = (3 if a.channels else 2), pair(a.size)
    shape = a.images.shape[-axes:]
    cut = [a.images[..., i : i + h, j : j + w, :] if a.channels else a.images[..., i : i + h, j : j + w]
           for i, j in corners(shape, a.size, a.stride)]  # fmt: skip
    return np.stack(cut, -axes - 1).reshape(*a.images.shape[:-axes], len(cut), h * w * (shape[2] if a.channels else 1))


def with_patches(d, a):
    """Draws the patches of an image of 5 x 4 pixels."""
    depth, size = d.rng.choice((None, 2)), d.rng.choice((1, 3, (3, 2)))
    shape, batch = (5, 4) if depth is None else (5, 4, depth), d.rng.choice(((), (3,)))
    count = len(list(corners(shape, size, 1)))
    patches = d.array_of((*batch, count, np.prod(pair(size)) * (depth or 1)))
    weights = d.rng.choice((None, np.abs(d.values((*batch, count), wild=False))))
    return a | {"patches": patches, "shape": shape, "size": size, "stride": 1, "weights": weights}


@reference("reconstruct_from_patches", with_patches)
def _(a, y):
    finite(a.patches, a.weights)
    batch, (h, w) = a.patches.shape[:-2], pair(a.size)
    depth = a.shape[2] if len(a.shape) == 3 else 1
    total, counts = np.zeros((*batch, *a.shape[:2], depth)), np.zeros((*batch, *a.shape[:2], 1))
    weights = np.ones(a.patches.shape[:-1]) if a.weights is None else a.weights
    for n, (i, j) in enumerate(corners(a.shape, a.size, a.stride)):
        weight = weights[..., n, None, None, None]
        total[..., i : i + h, j : j + w, :] += weight * a.patches[..., n, :].reshape(*batch, h, w, depth)
        counts[..., i : i + h, j : j + w, :] += weight
    need((weights >= 0).all(), (counts > 1e-3).all() or (weights == 0).all())
    return np.where(counts > 0, total / np.where(counts > 0, counts, 1), 0).reshape(*batch, *a.shape)


@reference("psnr", lambda d, a: a | {"image": d.array_of((4, 5)), "reference": d.array_of((4, 5))})
def _(a, y):
    finite(a.image, a.reference, a.peak)
    error = np.mean((a.image - a.reference) ** 2)
    need(error > 1e-6 or error == 0, a.peak > 0)
    return 20 * np.log10(a.peak) - 10 * np.log10(error)


def l0_step(a, y):
    """Asserts that the error does not rise, that codes have at most k atoms, and that the returned errors are right."""
    dictionary, fit = y
    finite(a.dictionary)
    if not len(a.x):
        assert fit.code.shape == (0, a.dictionary.shape[1])
        return a.dictionary, None
    known = np.isfinite(a.x).all(1)
    assert fit.left_out == (~known).sum() and np.isnan(fit.code[~known]).all()
    finite(a.x[known])
    x, code, scale = a.x[known], fit.code[known], max(1e-3, np.sum(a.x[known] ** 2) / max(1, known.sum()))
    assert np.isfinite(dictionary).all() and np.isfinite(code).all()
    assert a.k is None or (np.count_nonzero(code, axis=1) <= a.k).all()
    assert fit.error <= fit.coding_error + 1e-4 * scale
    kept = np.where((code != 0).any(0), dictionary, 0)  # the others may be new
    np.testing.assert_allclose(np.sum((x - code @ kept.T) ** 2) / max(1, known.sum()), fit.error, atol=2e-4 * scale)


def one_of_both(d, a):
    """Gives k or l0."""
    wide = {"k": d.rng.choice((1, 2, np.int64(3))), "l0": None} if d.rng.random() < 0.5 else {"k": None, "l0": 0.05}
    return a | wide | {"tolerance": None}


reference("ksvd_step", one_of_both)(l0_step)
reference("mod_step", one_of_both)(l0_step)


def convolved(maps, dictionary):
    """The images of maps `[..., height, width, atoms]`: each atom added at every place, around the edges."""
    total = np.zeros(maps.shape[:-1])
    for i, j in np.ndindex(dictionary.shape[:2]):
        total += np.roll(maps @ dictionary[i, j], (i, j), (-2, -1))
    return total


def small(d, a):
    """Draws atoms of 2 x 3 pixels, no larger than the images, and few iterations."""
    atoms, batch = 3, d.rng.choice(((), (2,)))
    sizes = {"images": (*batch, 4, 5), "maps": (*batch, 4, 5, atoms), "initial": (*batch, 4, 5, atoms),
             "dictionary": (2, 3, atoms)}  # fmt: skip
    given = {name: d.array_of(shape) for name, shape in sizes.items() if a.get(name) is not None}
    if a.get("mask") is not None:
        shape = d.rng.choice(((4, 5), (*batch, 4, 5)))
        given["mask"] = d.as_any((d.numbers.random(shape) < 0.7).astype(d.rng.choice((bool, np.float32))))
    if "size" in a:
        given["size"] = d.rng.choice((2, (2, 3)))
    return a | given | ({"max_iterations": 30, "check_every": 10} if "l1" in a else {})


def small_step(d, a):
    given = small(d, a)
    del given["check_every"]
    return given | {"descents": 3}


@reference("convolutional_reconstruct", small)
def _(a, y):
    finite(a.maps, a.dictionary)
    return convolved(a.maps, a.dictionary)


def convolutional_objective(a, maps):
    mask = 1.0 if a.mask is None else np.float64(a.mask)
    rest = mask * (convolved(maps, a.dictionary) - a.images)
    return np.sum(rest**2, (-2, -1)) / 2 + a.l1 * np.abs(maps).sum((-3, -2, -1))


@reference("convolutional_code", small)
def _(a, y):
    finite(a.images, a.dictionary, a.initial, a.mask, a.l1)
    assert y.maps.shape == (*a.images.shape, a.dictionary.shape[2]) and y.gap.shape == a.images.shape[:-2]
    assert np.isfinite(y.maps).all()
    done, objective = y.converged, convolutional_objective(a, y.maps)
    nothing = convolutional_objective(a, np.zeros(y.maps.shape))
    assert (objective[done] <= nothing[done] * (1 + np.minimum(y.gap[done], 1)) * 1.001 + 1e-4).all()


@reference("init_convolutional_dictionary", small)
def _(a, y):
    finite(a.images)
    assert y.shape == (*pair(a.size), a.atoms)
    np.testing.assert_allclose(np.linalg.norm(y, axis=(0, 1)), 1, rtol=1e-4)


@reference("convolutional_dictionary_step", small_step)
def _(a, y):
    finite(a.images, a.dictionary, a.initial, a.mask, a.l1)
    dictionary, code = y
    assert dictionary.shape == a.dictionary.shape and code.maps.shape == (*a.images.shape, a.dictionary.shape[2])
    assert np.isfinite(dictionary).all()
    if code.gap.size:
        assert (np.linalg.norm(dictionary, axis=(0, 1)) <= 1 + 1e-4).all()
