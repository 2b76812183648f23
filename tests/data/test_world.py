"""A world of known features: its firing statistics, hierarchy, superposition, and that it is the same at every time."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.data.world import GeneratedRows, WorldConfig, draw, load_world, make_world
from sparsejax.errors import ConfigError

CONFIG = WorldConfig(features=256, width=64, roots=3, branching=3, depth=3, repulsion_steps=50)


@functools.cache
def drawn():
    """Returns a world, and 20,000 examples of it."""
    world = jax.jit(make_world, static_argnums=0)(CONFIG, jax.random.key(0))
    x, features = jax.jit(draw, static_argnums=2)(world, jax.random.key(1), 20_000)
    return world, np.asarray(x), np.asarray(features)


def test_activations_are_sums_of_directions():
    world, x, features = drawn()
    np.testing.assert_allclose(
        x, features @ np.asarray(world.directions) + np.asarray(world.bias), rtol=1e-4, atol=1e-4
    )
    np.testing.assert_allclose(np.linalg.norm(world.directions, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(world.bias), CONFIG.bias, rtol=1e-5)


def test_features_outside_of_trees_fire_by_zipfs_law():
    _, _, features = drawn()
    rate = (features > 0).mean(axis=0)
    rank = np.arange(1, 257.0) ** -0.5
    expected = 5e-4 + (0.4 - 5e-4) * (rank - rank[-1]) / (1 - rank[-1])
    alone = [*range(CONFIG.roots), *range(CONFIG.tree_features, 256)]
    np.testing.assert_allclose(rate[alone], expected[alone], atol=0.012)


def test_children_fire_with_their_parent_only_and_exclude_each_other():
    world, _, features = drawn()
    fires = features > 0
    seen = 0
    for parents, children in zip(world.parents, world.children, strict=True):
        for parent, group in zip(np.asarray(parents), np.asarray(children), strict=True):
            assert not fires[:, group][~fires[:, parent]].any()
            assert fires[:, group].sum(axis=1).max() <= 1
            seen += fires[:, group].sum()
    assert seen > 1000
    assert sorted(np.concatenate([np.ravel(level) for level in world.children])) == list(range(3, CONFIG.tree_features))


def test_a_child_is_as_strong_as_its_parent_relative_to_the_mean():
    world, _, features = drawn()
    parent, child = int(world.parents[0][0]), int(world.children[0][0, 0])
    both = features[:, child] > 0
    assert np.corrcoef(features[both, parent], features[both, child])[0, 1] > 0.3


def test_directions_repel_each_other():
    free = jax.jit(make_world, static_argnums=0)(
        WorldConfig(**{**vars(CONFIG), "repulsion_steps": 0}), jax.random.key(0)
    )
    overlaps = [np.sum(np.triu(np.asarray(w.directions @ w.directions.T), 1) ** 2) for w in (drawn()[0], free)]
    assert overlaps[0] < overlaps[1]


def test_generated_rows_are_those_of_every_time():
    world, _, _ = drawn()
    rows = GeneratedRows(world, jax.random.key(5), 5000)
    order = np.random.default_rng(0).integers(0, 5000, (3, 4))
    np.testing.assert_array_equal(rows[order], np.asarray(rows)[order])
    np.testing.assert_array_equal(np.asarray(rows[:2000]), np.asarray(rows)[:2000])
    assert rows.shape == (5000, 64) and len(rows[:10]) == 10


def test_a_generated_data_set_is_one_in_memory():
    stored, made = (load_world(CONFIG, 2048, 1024, name="w", stored=stored) for stored in (True, False))
    np.testing.assert_array_equal(stored.train.images[:7], made.train.images[np.arange(7)])
    assert made.fingerprint != stored.limit(1000).fingerprint
    np.testing.assert_allclose(stored.std, made.std, rtol=1e-6)


def test_trees_have_to_fit():
    with pytest.raises(ConfigError, match="10 trees have 400 features, but there are 256"):
        WorldConfig(features=256, roots=10, branching=3, depth=3)


def test_truth_is_perfect_for_the_features_themselves():
    from sparsejax.evaluation.sae.truth import score_truth

    world, _, _ = drawn()

    def encode(x):
        return jnp.maximum((x - world.bias[None]) @ jnp.linalg.pinv(world.directions[:32]), 0)

    # 32 features in 64 numbers: with the others silent, their inverse would be exact.
    only = world._replace(probability=world.probability.at[32:].set(0))
    good = score_truth(only, jax.random.key(2), lambda x: jnp.where(encode(x) > 0.5, encode(x), 0),
                       lambda z: z @ world.directions[:32] + world.bias[None], world.directions[:32],
                       examples=4000)  # fmt: skip
    assert good.mcc > 0.999 and good.uniqueness == 1 and good.f1 > 0.99 and good.fvu < 1e-3
    twice = jnp.concatenate([world.directions[:16], world.directions[:16]])
    bad = score_truth(only, jax.random.key(2), lambda x: jnp.ones((len(x), 32)), lambda z: 0 * z @ twice, twice,
                      examples=1000)  # fmt: skip
    assert bad.uniqueness == 0.5 and bad.recall == 1 and bad.precision < 0.5 and bad.fvu > 0.99
