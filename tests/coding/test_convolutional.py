"""Convolutional codes, compared with proximal gradients in float64, and the learning of their atoms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.coding import (
    convolutional_code,
    convolutional_dictionary_step,
    convolutional_reconstruct,
    init_convolutional_dictionary,
)

SIZE, SHAPE, ATOMS, L1 = (3, 2), (8, 9), 5, 0.1
RNG = np.random.default_rng(0)
DICTIONARY = RNG.standard_normal((*SIZE, ATOMS)).astype(np.float32)
DICTIONARY /= np.linalg.norm(DICTIONARY, axis=(0, 1))
IMAGES = RNG.standard_normal((2, *SHAPE)).astype(np.float32)
MASK = RNG.random(SHAPE) < 0.6
coded = jax.jit(convolutional_code, static_argnames=("max_iterations", "check_every"))
stepped = jax.jit(convolutional_dictionary_step, static_argnames=("max_iterations", "descents"))


def shown(maps, dictionary=DICTIONARY):
    """The image of maps `[height, width, atoms]`: each atom added at every place, around the edges."""
    image = np.zeros(maps.shape[:2])
    for row in range(dictionary.shape[0]):
        for column in range(dictionary.shape[1]):
            image += np.roll(maps @ np.float64(dictionary[row, column]), (row, column), (0, 1))
    return image


def objective(image, maps, mask=1.0, dictionary=DICTIONARY):
    return np.sum((mask * (shown(maps, dictionary) - image)) ** 2) / 2 + L1 * np.abs(maps).sum()


def least(image, mask=1.0):
    """The minimum of the objective by 2,000 accelerated proximal gradients."""
    operator = np.stack(
        [(mask * shown(one)).ravel() for one in np.eye(np.prod(SHAPE) * ATOMS).reshape(-1, *SHAPE, ATOMS)]
    )
    gram, b = operator @ operator.T, operator @ (mask * image).ravel()
    step, code, ahead, momentum = 1 / np.linalg.eigvalsh(gram)[-1], np.zeros(len(b)), np.zeros(len(b)), 1.0
    for _ in range(2000):
        z = ahead - step * (gram @ ahead - b)
        new = np.sign(z) * np.maximum(np.abs(z) - step * L1, 0)
        grown = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        ahead, code, momentum = new + (momentum - 1) / grown * (new - code), new, grown
    return objective(image, code.reshape(*SHAPE, ATOMS), mask)


def test_reconstruction_adds_every_atom_at_its_place():
    maps = RNG.standard_normal((2, *SHAPE, ATOMS)).astype(np.float32)
    images = convolutional_reconstruct(maps, DICTIONARY)
    np.testing.assert_allclose(images, np.stack([shown(one) for one in maps]), atol=1e-5)
    one = np.zeros((*SHAPE, ATOMS), np.float32)
    one[4, 5, 2] = 1
    np.testing.assert_allclose(convolutional_reconstruct(one, DICTIONARY)[4:7, 5:7], DICTIONARY[..., 2], atol=1e-6)


@pytest.mark.parametrize("mask", [None, MASK, np.where(MASK, 1.0, 0.3)], ids=["whole", "masked", "weighted"])
def test_codes_are_as_good_as_those_of_proximal_gradients(mask):
    mask = mask if mask is None or mask.dtype == bool else mask.astype(np.float32)
    code = coded(IMAGES, DICTIONARY, l1=L1, mask=mask, tolerance=1e-4, max_iterations=2000)
    assert code.maps.shape == (2, *SHAPE, ATOMS) and code.converged.all() and (code.gap <= 1e-4).all()
    for image, maps, gap in zip(IMAGES, np.float64(code.maps), code.gap, strict=True):
        weights = 1.0 if mask is None else np.float64(mask)
        ours, best = objective(image, maps, weights), least(np.float64(image), weights)
        assert best * (1 - 1e-6) <= ours <= best * (1 + float(gap) + 1e-6)
        assert np.mean(maps != 0) < 0.5


def test_minima_are_those_of_sporco():
    """The minima that sporco 0.2.2 found: ConvBPDN and, with the mask, ConvBPDNMaskDcpl, in float64 with rho = 2."""
    for mask, expected in ((None, [4.364390, 3.707890]), (MASK, [2.841145, 2.187057])):
        code = coded(IMAGES, DICTIONARY, l1=L1, mask=mask, tolerance=1e-4, max_iterations=2000)
        weights = 1.0 if mask is None else np.float64(mask)
        ours = [objective(image, maps, weights) for image, maps in zip(IMAGES, np.float64(code.maps), strict=True)]
        np.testing.assert_allclose(ours, expected, rtol=1e-4)


def test_values_of_unknown_pixels_do_not_matter():
    spoilt = np.where(MASK, IMAGES, np.nan).astype(np.float32)
    settings = {"l1": L1, "mask": np.broadcast_to(MASK, IMAGES.shape), "max_iterations": 30, "tolerance": None}
    np.testing.assert_array_equal(
        coded(spoilt, DICTIONARY, **settings).maps, coded(IMAGES, DICTIONARY, **settings).maps
    )


def test_padding_with_a_mask_keeps_atoms_from_wrapping():
    """Atoms that the edges cut off are cheaper if what is cut off does not appear at the other edges."""
    around = ((0, SIZE[0] - 1), (0, SIZE[1] - 1))
    maps = np.zeros((SHAPE[0] + SIZE[0] - 1, SHAPE[1] + SIZE[1] - 1, ATOMS))
    maps[SHAPE[0] - 1, 1 : SHAPE[1] : 3, 0] = maps[1 : SHAPE[0] : 3, SHAPE[1] - 1, 1] = 2
    wide, mask = shown(maps).astype(np.float32), np.pad(np.ones(SHAPE, bool), around)
    image = wide[: SHAPE[0], : SHAPE[1]]
    settings = {"l1": L1, "tolerance": 1e-3, "max_iterations": 2000}
    padded = np.float64(coded(np.where(mask, wide, 0), DICTIONARY, mask=mask, **settings).maps)
    wrapped = np.float64(coded(image, DICTIONARY, **settings).maps)
    assert objective(wide, padded, mask) <= objective(wide, maps, mask) * 1.001
    assert objective(wide, padded, mask) < objective(image, wrapped)


def test_an_image_has_the_same_code_in_any_batch():
    whole = coded(IMAGES, DICTIONARY, l1=L1, tolerance=1e-2)
    alone = [coded(image, DICTIONARY, l1=L1, tolerance=1e-2) for image in IMAGES]
    for i, one in enumerate(alone):
        assert one.maps.shape == (*SHAPE, ATOMS) and one.gap.shape == ()
        np.testing.assert_allclose(whole.maps[i], one.maps, atol=1e-5)
        assert int(whole.iterations[i]) == int(one.iterations) > 0
    more = coded(IMAGES[:, None], DICTIONARY, l1=L1, tolerance=1e-2)
    np.testing.assert_allclose(more.maps[:, 0], whole.maps, atol=1e-5)


def test_a_code_is_continued():
    first = coded(IMAGES, DICTIONARY, l1=L1, tolerance=1e-3, max_iterations=1000)
    again = coded(IMAGES, DICTIONARY, l1=L1, tolerance=1e-3, max_iterations=1000, initial=first.maps)
    assert (again.iterations == 0).all()
    np.testing.assert_allclose(again.maps, first.maps, atol=1e-6)
    finer = coded(IMAGES, DICTIONARY, l1=L1, tolerance=1e-4, max_iterations=2000, initial=first.maps)
    cold = coded(IMAGES, DICTIONARY, l1=L1, tolerance=1e-4, max_iterations=2000)
    assert (finer.iterations < cold.iterations).all()


def test_images_that_are_not_finite_have_codes_of_nan_alone():
    spoilt = IMAGES.copy()
    spoilt[0, 3, 4] = np.nan
    code, whole = (coded(images, DICTIONARY, l1=L1) for images in (spoilt, IMAGES))
    assert np.isnan(code.maps[0]).all() and not code.converged[0] and code.converged[1]
    np.testing.assert_allclose(code.maps[1], whole.maps[1], atol=1e-6)
    new, _ = stepped(DICTIONARY, spoilt, l1=L1)
    expected, _ = stepped(DICTIONARY, spoilt[1:], l1=L1)
    np.testing.assert_allclose(new, expected, atol=1e-4)


def test_too_large_a_weight_gives_a_code_of_zeros():
    code = coded(IMAGES, DICTIONARY, l1=100.0)
    assert not code.maps.any() and code.converged.all() and not code.iterations.any()


@pytest.mark.parametrize("mask", [None, MASK], ids=["whole", "masked"])
def test_learning_lowers_the_objective(mask):
    dictionary = init_convolutional_dictionary(jax.random.key(0), IMAGES, size=SIZE, atoms=ATOMS)
    weights, maps, values = 1.0 if mask is None else np.float64(mask), None, []

    def mean(dictionary, maps):
        return np.mean([objective(image, np.float64(one), weights, dictionary)
                        for image, one in zip(IMAGES, maps, strict=True)])  # fmt: skip

    for _ in range(12):
        new, code = stepped(dictionary, IMAGES, l1=L1, mask=mask, initial=maps, tolerance=1e-3, max_iterations=100)
        values += [mean(dictionary, code.maps), mean(new, code.maps)]
        assert np.linalg.norm(new, axis=(0, 1)).max() <= 1 + 1e-5
        dictionary, maps = new, code.maps
    assert np.all(np.diff(values) <= 1e-3 * values[0]) and values[-1] < 0.97 * values[0]


def test_the_atoms_that_made_the_images_are_found():
    truth = np.zeros((4, 4, 2), np.float32)
    truth[1, :, 0], truth[:, 2, 1] = 0.5, (0.5, -0.5, 0.5, -0.5)
    rng = np.random.default_rng(0)
    maps = rng.standard_normal((4, 20, 20, 2)) * (rng.random((4, 20, 20, 2)) < 0.03)
    images = np.stack([shown(one, truth) for one in maps]).astype(np.float32)
    dictionary, maps = init_convolutional_dictionary(jax.random.key(1), images, size=4, atoms=2), None
    for _ in range(40):
        dictionary, code = stepped(dictionary, images, l1=0.3, initial=maps)
        maps = code.maps
    shifted = [np.roll(truth, (i, j), (0, 1)).reshape(16, 2) for i in range(-3, 4) for j in range(-3, 4)]
    found = np.max([np.abs(one.T @ np.asarray(dictionary).reshape(16, 2)) for one in shifted], axis=(0, 2))
    assert (found > 0.98).all(), found


def test_unused_atoms_become_patches_of_the_residual():
    dictionary = np.concatenate([DICTIONARY, np.zeros((*SIZE, 1), np.float32)], 2)
    new, code = stepped(dictionary, IMAGES, l1=L1, descents=0)
    rest = np.stack(
        [image - shown(np.float64(maps), dictionary) for image, maps in zip(IMAGES, code.maps, strict=True)]
    )
    patches = np.lib.stride_tricks.sliding_window_view(rest, SIZE, (1, 2))[:, ::3, ::2].reshape(-1, 6)
    worst = patches[np.argmax((patches**2).sum(1))]
    np.testing.assert_allclose(new[..., -1].ravel(), worst / np.linalg.norm(worst), atol=1e-3)


def test_both_precisions_and_empty_batches():
    narrow = coded(IMAGES[0], DICTIONARY, l1=L1, tolerance=1e-3, max_iterations=np.int64(1000))
    with jax.enable_x64(True):
        wide = coded(np.float64(IMAGES[0]), DICTIONARY, l1=L1, tolerance=1e-8, max_iterations=5000)
        assert wide.maps.dtype == jnp.float64 and bool(wide.converged)
        assert stepped(DICTIONARY, IMAGES, l1=jnp.float64(L1))[0].dtype == jnp.float32
        assert stepped(np.float64(DICTIONARY), np.float64(IMAGES), l1=L1, mask=MASK)[0].dtype == jnp.float64
    np.testing.assert_allclose(narrow.maps, wide.maps, atol=0.05)
    for mask in (None, MASK):
        new, code = stepped(DICTIONARY, IMAGES[:0], l1=L1, mask=mask)
        np.testing.assert_array_equal(new, DICTIONARY)
        assert code.maps.shape == (0, *SHAPE, ATOMS) and code.gap.shape == (0,)


def test_first_atoms_are_patches():
    images = np.pad(IMAGES, ((0, 0), (0, 10), (0, 0)))  # many constant patches
    atoms = np.asarray(init_convolutional_dictionary(jax.random.key(0), images, size=SIZE, atoms=30))
    np.testing.assert_allclose(np.linalg.norm(atoms, axis=(0, 1)), 1, rtol=1e-5)
    patches = np.lib.stride_tricks.sliding_window_view(images, SIZE, (1, 2)).reshape(-1, 6)
    patches = patches - patches.mean(1, keepdims=True)
    patches /= np.linalg.norm(patches, axis=1, keepdims=True).clip(1e-6)
    matches = (patches @ atoms.reshape(6, 30)).max(0) > 0.9999
    assert 5 < matches.sum() < 25


@pytest.mark.wrong_types
def test_errors_say_what_was_expected():
    with pytest.raises(ValueError, match="l1 is 0; expected a weight above 0"):
        convolutional_code(IMAGES, DICTIONARY, l1=0)
    with pytest.raises(ValueError, match=r"dictionary has shape \(3, 2, 5\); .* images of 2 x 9 pixels"):
        convolutional_code(IMAGES[:, :2], DICTIONARY, l1=1)
    with pytest.raises(ValueError, match=r"mask has shape \(9, 8\); expected \(8, 9\), or that of images"):
        convolutional_code(IMAGES, DICTIONARY, l1=1, mask=MASK.T)
    with pytest.raises(ValueError, match=r"initial has shape .* expected a map for each atom, \(2, 8, 9, 5\)"):
        convolutional_code(IMAGES, DICTIONARY, l1=1, initial=IMAGES[..., None])
    with pytest.raises(ValueError, match="max_iterations is -1"):
        convolutional_code(IMAGES, DICTIONARY, l1=1, max_iterations=-1)
    with pytest.raises(ValueError, match="expected a map for each atom"):
        convolutional_reconstruct(IMAGES, DICTIONARY)
    with pytest.raises(ValueError, match="descents is -1"):
        convolutional_dictionary_step(DICTIONARY, IMAGES, l1=1, descents=-1)
    with pytest.raises(ValueError, match="atoms is 0"):
        init_convolutional_dictionary(jax.random.key(0), IMAGES, size=3, atoms=0)
    with pytest.raises(ValueError, match="size is 0; expected 1 or more"):
        init_convolutional_dictionary(jax.random.key(0), IMAGES, size=0, atoms=3)
