"""Noise: exact counts, and results that do not depend on the rest of the batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.functional import add_noise, dropout, example_keys, pixel_noise, salt_and_pepper
from tests.functional.drawn import normal, uniform

BATCH = 4
noisy = jax.jit(pixel_noise)
dropped = jax.jit(dropout)
drawn_keys = jax.jit(example_keys)


def keys_of(rows, seed=0):
    return drawn_keys(jax.random.key(seed), np.asarray(rows, np.int32))


def test_exactly_the_stated_number_of_pixels_changes_in_every_image():
    images, keys = uniform(BATCH, 10, 10, 3), keys_of(range(BATCH))
    for level in (0.0, 0.05, 0.15, 0.29, 0.5, 1.0):
        changed = np.asarray(noisy(keys, images, level=level, value=2.0)) != np.asarray(images)
        # A pixel changes in all its channels; 0.29 * 100 is 28.999... in floating point and still 29 pixels.
        np.testing.assert_array_equal(np.all(changed, axis=-1), np.any(changed, axis=-1))
        np.testing.assert_array_equal(np.sum(changed[..., 0], axis=(1, 2)), np.full(BATCH, round(level * 100)))


def test_pixels_are_hit_equally_often():
    images = np.zeros((2000, 5, 5, 1), np.float32)
    hits = np.asarray(noisy(keys_of(range(2000)), images, level=0.2, value=1.0)).sum(axis=0)
    # Binomial: mean 400, standard deviation 17.9.
    assert np.abs(hits - 400).max() < 5 * 17.9


@pytest.mark.parametrize(
    "spoil",
    [lambda keys, x: noisy(keys, x, level=0.3, value=2.0), lambda keys, x: dropped(keys, x, rate=0.4)],
    ids=["pixel_noise", "dropout"],
)
def test_the_noise_of_an_example_is_independent_of_the_batch(spoil):
    images = np.broadcast_to(uniform(1, 8, 8, 1), (BATCH, 8, 8, 1))
    whole = np.asarray(spoil(keys_of(range(BATCH)), images))
    np.testing.assert_array_equal(spoil(keys_of([2, 3]), images[2:]), whole[2:])
    assert len({image.tobytes() for image in whole}) == BATCH
    assert np.any(np.asarray(spoil(keys_of(range(BATCH), seed=1), images)) != whole)


def test_dropout_zeroes_the_stated_fraction_and_scales_the_rest():
    x = 1 + np.asarray(uniform(64, 500))
    y = np.asarray(dropped(keys_of(range(64)), x, rate=0.25))
    kept = y != 0
    assert abs(kept.mean() - 0.75) < 0.01  # standard deviation .0024
    np.testing.assert_allclose(y[kept], np.asarray(x)[kept] / 0.75, rtol=1e-6)


def test_dropout_at_rate_0_changes_nothing_and_its_gradient_follows_the_kept():
    x, keys = normal(BATCH, 20), keys_of(range(BATCH))

    @jax.jit
    def both(x, rate):
        y, backward = jax.vjp(lambda x: dropout(keys, x, rate=rate), x)
        return y, backward(jnp.ones_like(y))[0]

    np.testing.assert_array_equal(both(x, 0.0)[0], x)
    y, gradient = both(x, 0.5)
    np.testing.assert_array_equal(gradient, np.where(np.asarray(y) != 0, 2, 0))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_kept(dtype):
    images = np.ones((BATCH, 4, 4, 1), dtype)
    assert noisy(keys_of(range(BATCH)), images, level=0.5, value=0.0).dtype == dtype
    y = dropped(keys_of(range(BATCH)), images, rate=0.5)
    assert y.dtype == dtype
    assert set(np.unique(np.asarray(y, np.float32))) == {0, 2}


@pytest.mark.parametrize("level", [-0.1, 1.5])
def test_a_level_outside_its_range_is_refused(level):
    with pytest.raises(ValueError, match=f"level is {level}"):
        pixel_noise(keys_of(range(2)), jnp.ones((2, 3, 3, 1)), level=level, value=1.0)


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_a_rate_outside_its_range_is_refused(rate):
    with pytest.raises(ValueError, match=f"rate is {rate}"):
        dropout(keys_of(range(2)), jnp.ones((2, 3)), rate=rate)


def test_uniform_noise_has_the_standard_deviation_asked_for_and_ends():
    add = jax.jit(add_noise, static_argnames="distribution")
    noise = np.asarray(add(keys_of(range(4)), np.zeros((4, 5000), np.float32), sigma=0.5, distribution="uniform"))
    assert noise.std() == pytest.approx(0.5, rel=0.02) and abs(noise.mean()) < 0.02
    assert np.abs(noise).max() <= 0.5 * 3**0.5


def test_salt_and_pepper_turns_a_fraction_of_the_pixels_black_or_white():
    images, salted = jnp.full((3, 20, 10, 3), 0.4, jnp.float32), jax.jit(salt_and_pepper, static_argnames="bounds")
    changed = np.asarray(salted(keys_of(range(3)), images, level=0.25, bounds=(-1.0, 2.0)))
    one = changed[..., 0]
    assert (changed == one[..., None]).all() and set(np.unique(one)) == {np.float32(0.4), -1.0, 2.0}
    assert ((one != np.float32(0.4)).sum((1, 2)) == 50).all() and 10 < (one == 2).sum(axis=(1, 2)).mean() < 40
    again = salted(keys_of([2]), images[:1], level=0.25, bounds=(-1.0, 2.0))
    np.testing.assert_array_equal(again[0], changed[2])
    with pytest.raises(ValueError, match="level is 2; expected a fraction"):
        salt_and_pepper(keys_of([0]), images[:1], level=2)


def test_keys_of_the_older_form_draw_the_same():
    x = jnp.zeros((3, 4))
    old, new = (
        add_noise(example_keys(key, jnp.arange(3)), x, sigma=0.1) for key in (jax.random.PRNGKey(0), jax.random.key(0))
    )
    np.testing.assert_array_equal(old, new)
    np.testing.assert_array_equal(add_noise(jax.random.split(jax.random.PRNGKey(0), 3), x, sigma=0.1),
                                  add_noise(jax.random.split(jax.random.key(0), 3), x, sigma=0.1))  # fmt: skip
