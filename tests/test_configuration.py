"""Configurations are pytrees: what is checked when a user makes one, and what JAX may do with them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax import configs
from sparsejax.configuration import configuration, replace, stack, traced
from sparsejax.errors import ConfigError


@configuration
class Pair:
    units: int = 3
    rates: tuple[float | None, ...] = traced((0.5, None))
    strength: float = traced(1.0)

    def check(self):
        if self.strength < 0:
            raise ConfigError(f"strength is {self.strength}; expected 0 or more.")


def test_traced_fields_are_leaves_and_the_others_structure():
    assert jax.tree.leaves(Pair()) == [0.5, 1.0]
    assert [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(Pair())] == [".rates[0]", ".strength"]
    assert jax.tree.structure(Pair()) == jax.tree.structure(Pair(strength=3.0, rates=(7.0, None)))
    for other in (Pair(units=4), Pair(rates=(0.5, 0.5))):
        assert jax.tree.structure(Pair()) != jax.tree.structure(other)
    twice = jax.jit(lambda pair: jax.tree.map(lambda leaf: 2 * leaf, pair))(Pair())
    assert isinstance(twice, Pair) and twice.units == 3 and twice.strength == 2


@pytest.mark.parametrize("leaf", [None, "word", object(), 0, -1.0, True, (1, 2)])
def test_jax_may_put_anything_in_the_place_of_a_leaf(leaf):
    replaced = jax.tree.map(lambda _: leaf, Pair())
    assert replaced.strength is leaf and replaced.units == 3


def test_in_axes_may_be_a_tree_like_the_configuration():
    pairs = stack([Pair(strength=float(i)) for i in range(3)])
    axes = jax.tree.map(lambda _: 0, Pair())
    doubled = jax.vmap(lambda pair, x: pair.strength * x, in_axes=(axes, None))(pairs, 2.0)
    np.testing.assert_array_equal(doubled, [0, 2, 4])


def test_what_a_user_makes_is_checked():
    with pytest.raises(ConfigError, match=r"strength is -1.0; expected 0 or more"):
        Pair(strength=-1.0)
    with pytest.raises(ConfigError, match=r"model\.units is 2\.5; expected an integer"):
        Pair(units=2.5)
    assert Pair(strength=jnp.float32(-1)).strength == -1, "arrays are not looked into"


def test_every_named_experiment_is_a_pytree_of_numbers():
    for name in configs.CONFIGS:
        config = configs.get(name)
        assert all(isinstance(leaf, (int, float)) for leaf in jax.tree.leaves(config))
        assert jax.tree.map(lambda leaf: leaf, config) == config


@pytest.mark.parametrize("value", [float("inf"), float("nan"), np.float32(-np.inf)])
def test_numbers_that_config_json_cannot_hold_are_refused(value):
    with pytest.raises(ConfigError, match=r"training.learning_rate is -?(inf|nan); expected a finite number"):
        replace(configs.get("digits_mlp"), {"training.learning_rate": value})
