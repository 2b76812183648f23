"""A world of known features: activations whose true features, and when they fire, are known."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from sparsejax.data.activations import make_activations
from sparsejax.data.dataset import Dataset, Split
from sparsejax.data.registry import Entry
from sparsejax.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class WorldConfig:
    """Statistics of a world, by default a small one with those of SynthSAEBench-16k.

    Features are numbered from the most to the least frequent. The first ones are the roots of trees, the next ones
    their children, and so on.

    References:
      Chanin & Garriga-Alonso, SynthSAEBench: Evaluating Sparse Autoencoders on Scalable Realistic Synthetic Data, 2026.
    """

    features: int = 1024
    """True features."""
    width: int = 128
    """Numbers in an activation, fewer than features: these are in superposition."""
    exponent: float = 0.5
    """Exponent of Zipf's law of the firing probabilities."""
    most: float = 0.4
    """Firing probability of the most frequent feature."""
    least: float = 5e-4
    """That of the least frequent one."""
    roots: int = 8
    """Features without a parent that have children."""
    branching: int = 4
    """Children of a parent, of which at most one fires, and only together with the parent."""
    depth: int = 3
    """Levels below the roots."""
    rank: int = 25
    """Number of common causes of the features."""
    correlation: float = 0.1
    """Standard deviation of the features' correlations with each common cause."""
    magnitudes: tuple[float, float] = (5.0, 4.0)
    """Mean magnitude of the most and of the least frequent feature."""
    spread: tuple[float, float] = (0.5, 0.5)
    """Mean and standard deviation of the normal distribution whose magnitude is a feature's standard deviation."""
    bias: float = 0.5
    """Norm of the constant part of an activation."""
    repulsion_steps: int = 100
    """Steps that make the directions more orthogonal."""
    repulsion_rate: float = 3e-4
    """Root mean square of a step's change."""

    def __post_init__(self):
        if self.tree_features > self.features:
            raise ConfigError(f"{self.roots} trees have {self.tree_features} features, but there are {self.features}; "
                              "use fewer roots or levels.")  # fmt: skip

    @property
    def tree_features(self) -> int:
        """Number of features in trees."""
        return self.roots * sum(self.branching**level for level in range(self.depth + 1))


class World(NamedTuple):
    """The constants of a world; `children` are, for each level, the features of its parents and their children.

    Attributes:
      directions: of norm 1, `[features, width]`.
      bias: `[width]`.
      probability: of firing, given that the parent does, `[features]`.
      causes: correlations with common causes, `[features, rank]`.
      mean, std: of the magnitudes `[features]`.
      parents: `[parents]` of each level.
      children: `[parents, branching]` of each level.
    """

    directions: Float[Array, "features width"]
    bias: Float[Array, "width"]
    probability: Float[Array, "features"]
    causes: Float[Array, "features rank"]
    mean: Float[Array, "features"]
    std: Float[Array, "features"]
    parents: tuple[Int[Array, "parents"], ...]
    children: tuple[Int[Array, "parents branching"], ...]


def make_world(config: WorldConfig, key: PRNGKeyArray) -> World:
    """Return a world drawn by a key.

    The directions start at random and repel each other. A child's probability is divided by its parent's, so that its
    marginal one follows Zipf's law as far as possible; siblings exclude each other, which lowers it again.

    Args:
      config: its statistics.
      key: one PRNG key.
    """
    n = config.features
    of_directions, of_bias, of_causes, of_std = jax.random.split(key, 4)
    directions = _unit(jax.random.normal(of_directions, (n, config.width), jnp.float32))
    directions = _repel(directions, config.repulsion_steps, config.repulsion_rate)
    rank = jnp.arange(1, n + 1, dtype=jnp.float32) ** -config.exponent
    share = (rank - rank[-1]) / (rank[0] - rank[-1])
    marginal = config.least + (config.most - config.least) * share
    parents, children, probability, first = [], [], marginal, 0
    size = config.roots
    for _ in range(config.depth):
        above = jnp.arange(first, first + size, dtype=jnp.int32)
        below = first + size + jnp.arange(size * config.branching, dtype=jnp.int32).reshape(size, config.branching)
        probability = probability.at[below].set(jnp.minimum(marginal[below] / marginal[above][:, None], 1))
        parents.append(above)
        children.append(below)
        first, size = first + size, size * config.branching
    causes = config.correlation * jax.random.normal(of_causes, (n, config.rank), jnp.float32)
    length = jnp.linalg.norm(causes, axis=-1, keepdims=True)
    causes = causes * jnp.minimum(1, 0.95 / jnp.maximum(length, 1e-9))
    mean = jnp.linspace(*config.magnitudes, n, dtype=jnp.float32)
    std = jnp.abs(config.spread[0] + config.spread[1] * jax.random.normal(of_std, (n,), jnp.float32))
    bias = config.bias * _unit(jax.random.normal(of_bias, (1, config.width), jnp.float32))[0]
    return World(directions, bias, probability, causes, mean, std, tuple(parents), tuple(children))


def draw_features(world: World, key: PRNGKeyArray, examples: int) -> Float[Array, "examples features"]:
    """Return activities of the true features of examples; 0 where a feature does not fire.

    Firing is correlated by a Gaussian copula: a feature fires where a normal number, partly made of common causes, is
    in its upper tail. A child's magnitude is multiplied by its parent's over the parent's mean.
    """
    n, rank = world.causes.shape
    of_causes, of_own, of_size, of_choice = jax.random.split(key, 4)
    common = jax.random.normal(of_causes, (examples, rank), jnp.float32) @ world.causes.T
    own = jnp.sqrt(1 - jnp.sum(world.causes**2, axis=-1))
    level = common + own[None] * jax.random.normal(of_own, (examples, n), jnp.float32)
    fires = level > jax.scipy.stats.norm.isf(world.probability)[None]
    size = world.mean[None] + world.std[None] * jax.random.normal(of_size, (examples, n), jnp.float32)
    a = jnp.where(fires, jax.nn.relu(size), 0)
    luck = jax.random.uniform(of_choice, (examples, n), jnp.float32)
    for parents, children in zip(world.parents, world.children, strict=True):
        above, below = a[:, parents], a[:, children]
        chance = jnp.where(below > 0, luck[:, children], -1)
        chosen = (chance == jnp.max(chance, axis=-1, keepdims=True)) & (below > 0)
        scale = above / world.mean[parents][None]
        a = a.at[:, children].set(jnp.where(chosen, below * scale[..., None], 0))
    return a


def draw(world: World, key: PRNGKeyArray, examples: int) -> tuple[Float[Array, "examples width"], Array]:
    """Return activations, and the activities of the true features that they are made of."""
    a = draw_features(world, key, examples)
    return a @ world.directions + world.bias[None], a


def _repel(directions: Array, steps: int, rate: float) -> Array:
    """Returns directions after steps that lower the sum of their squared cosines, of `rate` in each number."""

    def overlap(rows: Array) -> Array:
        gram = _unit(rows) @ _unit(rows).T
        return jnp.sum(jnp.where(jnp.eye(len(rows), dtype=bool), 0, gram) ** 2)

    def step(rows: Array, _: None) -> tuple[Array, None]:
        gradient = jax.grad(overlap)(rows)
        size = jnp.sqrt(jnp.mean(gradient**2))
        return _unit(rows - rate * gradient / jnp.maximum(size, 1e-9)), None

    return lax.scan(step, directions, length=steps)[0]


def _unit(rows: Array) -> Array:
    return rows / jnp.maximum(jnp.linalg.norm(rows, axis=-1, keepdims=True), 1e-9)


SMALL = WorldConfig()
"""A world that a laptop can learn."""
PUBLISHED = WorldConfig(features=16_384, width=768, roots=128)
"""SynthSAEBench-16k."""
_BLOCK = 1024
"""Examples drawn by one key."""


class GeneratedRows:
    """Activations `[n, width]` of a world, drawn when they are indexed, the same at every time.

    Args:
      world: its constants.
      key: of the draws.
      count: number of examples.
    """

    dtype = np.dtype(np.float32)
    ndim = 2

    def __init__(self, world: World, key: PRNGKeyArray, count: int):
        self._world, self._key, self._count = world, key, count

    def __len__(self) -> int:
        return self._count

    @property
    def shape(self) -> tuple[int, int]:
        """Examples and numbers of each."""
        return self._count, self._world.directions.shape[1]

    def __getitem__(self, rows: Any) -> Any:
        if isinstance(rows, slice):
            first, end, step = rows.indices(self._count)
            return (
                GeneratedRows(self._world, self._key, end)
                if (first, step) == (0, 1)
                else self[np.arange(first, end, step)]
            )
        rows = np.asarray(rows)
        flat = rows.reshape(-1)
        found = np.empty((flat.size, self.shape[1]), np.float32)
        for block in np.unique(flat // _BLOCK):
            inside = flat // _BLOCK == block
            found[inside] = np.asarray(_draw_block(self._world, self._key, int(block)))[flat[inside] % _BLOCK]
        return found.reshape(*rows.shape, self.shape[1])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[np.arange(self._count)].astype(dtype or np.float32, copy=False)


@jax.jit
def _draw_block(world: World, key: PRNGKeyArray, block: Int[Array, ""]) -> Float[Array, "examples width"]:
    return draw(world, jax.random.fold_in(key, block), _BLOCK)[0]


def world_of(config: WorldConfig) -> World:
    """Return the world of the data sets of this module, whose seed is 0."""
    return jax.jit(make_world, static_argnums=0)(config, jax.random.key(0))


def load_world(config: WorldConfig, train: int, test: int, *, name: str, stored: bool) -> Dataset:
    """Return a world's activations as a data set, in memory or generated when they are used."""
    world = world_of(config)
    splits = [GeneratedRows(world, jax.random.key(seed), count) for seed, count in ((1, train), (2, test))]
    sites = [{"world": np.asarray(rows if stored else rows[: 64 * _BLOCK])} for rows in splits]
    dataset = make_activations(*sites, name=name, source="world")
    if stored:
        return dataset
    train_rows, test_rows = (Split(rows, np.zeros(len(rows), np.int32)) for rows in splits)  # type: ignore[arg-type]
    digest = f"{config} {train} {test}"
    return dataclasses.replace(dataset, train=train_rows, test=test_rows, digest=digest)


def _small() -> Dataset:
    return load_world(SMALL, 400 * _BLOCK, 20 * _BLOCK, name="world_small", stored=True)


def _published() -> Dataset:
    return load_world(PUBLISHED, 195_312 * _BLOCK, 64 * _BLOCK, name="world", stored=False)


Entry(name="world_small", title="a small world of known features", kind="vectors", read=_small, location="world").add(
    14
)
Entry(name="world", title="a world of 16,384 known features", kind="vectors", read=_published, location="world").add(15)
