"""Empty batches: empty results, means of 0, and states that do not change."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax import coding, linen, nnx
from sparsejax import functional as F
from sparsejax.functional import augmentation, measures, penalties

X, IMAGES = np.zeros((0, 5), np.float32), np.zeros((0, 4, 6, 3), np.float32)
KEYS = jax.random.split(jax.random.key(0), 0)
STATE = F.BoostState(jnp.array([0.3, 0.1, 0.7, 1 / 3, 0.0], jnp.float32), jnp.float32(11))
CHANNELS = F.BoostState(STATE.duty_cycle[:3], jnp.float32(2000))
W, B = np.ones((5, 7), np.float32), np.ones(7, np.float32)
LABELS = np.zeros(0, np.int32)

LIKE_X = {
    "top_k": lambda x: F.top_k(x, 2),
    "all ties": lambda x: F.top_k(x, 2, ties="all"),
    "one k per row": lambda x: F.top_k(x, jnp.zeros(0, jnp.int32)),
    "k_winners": lambda x: F.k_winners(x, STATE, k=2, boost_strength=1.5),
    "boost": lambda x: F.boost(x, STATE, 0.2, 1.5),
    "soft_top_k": lambda x: F.soft_top_k(x, 2.0, window=2),
    "top_k_subtract": lambda x: F.top_k_subtract(x, 2),
    "to_dense": lambda x: F.sparse_top_k(x, 2).to_dense(),
    "explain_away": lambda x: F.explain_away(x, np.eye(5, dtype=np.float32)),
    "add_noise": lambda x: F.add_noise(KEYS, x, sigma=0.1),
    "dropout": lambda x: F.dropout(KEYS, x, rate=0.1),
    "white_noise_blend": lambda x: F.white_noise_blend(KEYS, x, level=0.1),
    "amplitude": lambda x: augmentation.amplitude(KEYS, x),
    "speed": lambda x: augmentation.speed(KEYS, x),
    "linen": lambda x: linen.TopK(2).apply({}, x),
    "nnx": lambda x: nnx.TopK(2)(x),
}
LIKE_IMAGES = {
    "k_winners_2d": lambda x: F.k_winners_2d(x, CHANNELS, k=2, boost_strength=1.5),
    "local": lambda x: F.k_winners_2d(x, CHANNELS, k=2, boost_strength=1.5, local=True),
    "divisive_norm": F.divisive_norm,
    "adaptive_threshold": F.adaptive_threshold,
    "mean_threshold": F.mean_threshold,
    "pixel_noise": lambda x: F.pixel_noise(KEYS, x, level=0.2, value=1.0),
    "salt_and_pepper": lambda x: F.salt_and_pepper(KEYS, x, level=0.2),
    "crop_and_flip": lambda x: F.crop_and_flip(KEYS, x),
}


CASES = [(function, X) for function in LIKE_X.values()] + [(function, IMAGES) for function in LIKE_IMAGES.values()]


@pytest.mark.parametrize(("function", "x"), CASES, ids=[*LIKE_X, *LIKE_IMAGES])
def test_the_result_is_empty_too_and_so_is_the_gradient(function, x):
    x = jnp.asarray(x)
    for y in (function(x), jax.jit(function)(x), jax.grad(lambda x: jnp.sum(function(x)))(x)):
        assert y.shape == x.shape and y.dtype == jnp.float32


def test_the_shape_of_other_results():
    code = F.encode_top_k(X, W.T, B, 2)
    assert code.values.shape == (0, 2) and F.decode(code, np.ones((7, 3), np.float32)).shape == (0, 3)
    assert F.kth_largest(X, 2).shape == F.kth_largest(X, jnp.zeros(0, jnp.int32)).shape == (0,)
    assert F.conv2d(IMAGES, np.ones((3, 3, 3, 2), np.float32)).shape == (0, 2, 4, 2)
    assert F.max_pool2d(IMAGES).shape == (0, 2, 3, 3)
    for part in F.implicit_terms(X, W, B, W.T, np.ones(5, np.float32), sigma=0.1):
        assert part.shape == (0,)
    assert F.sampled_k(KEYS, 1.0, 1.0, 5)[0].shape == measures.gini(X).shape == measures.hoyer(X).shape == (0,)
    dictionary = np.eye(5, dtype=np.float32)
    solvers = {"ista": "l1", "fista": "l1", "admm": "l1", "lca": "l1", "sparse_set": "l0", "sparsenet_code": "penalty",
               "matching_pursuit": "k", "orthogonal_matching_pursuit": "k"}  # fmt: skip
    for solve, setting in solvers.items():
        result = getattr(coding, solve)(X, dictionary, **{setting: 2})
        assert result.code.shape == (0, 5) and result.gap.shape == (0,)


@pytest.mark.parametrize(
    "y", [X, np.zeros((0, 2, 2, 5), np.float32), F.SparseCode(jnp.zeros((0, 2)), LABELS.reshape(0, 2))]
)
def test_duty_cycles_stay(y):
    for update in (F.update_boost_state, jax.jit(F.update_boost_state)):
        for state in (STATE, F.init_boost_state(5)):
            jax.tree.map(np.testing.assert_array_equal, update(state, y), state)


def test_the_layers_states_stay():
    layer = nnx.KWinners(5, k=2)
    layer(jnp.ones((3, 5), jnp.float32))
    before = layer.boost
    assert layer(jnp.asarray(X)).shape == (0, 5)
    jax.tree.map(np.testing.assert_array_equal, layer.boost, before)
    _, variables = linen.KWinners(k=2).apply({"boost": {"state": STATE}}, X, train=True, mutable=["boost"])
    jax.tree.map(np.testing.assert_array_equal, variables["boost"]["state"], STATE)


def test_learned_dictionaries_stay():
    full = np.random.default_rng(0).standard_normal((6, 5)).astype(np.float32)
    state, _ = coding.dictionary_step(coding.init_dictionary(jax.random.key(0), full, atoms=4), full, l1=0.1)
    new, code = coding.dictionary_step(state, X, l1=0.1)
    jax.tree.map(np.testing.assert_array_equal, new, state)
    assert code.code.shape == (0, 4)
    state = coding.init_sparsenet(jax.random.key(0), 5, 4)
    new, metrics = coding.sparsenet_step(state, X)
    jax.tree.map(np.testing.assert_array_equal, new, state)
    assert metrics == (0, 0)
    with pytest.raises(ValueError, match=r"Found array with 0 sample\(s\)"):
        coding.DictionaryLearner(4).fit(X)


def test_means_of_nothing_are_0():
    for penalty in (penalties.l1, penalties.l2, penalties.cauchy, penalties.gaussian):
        assert penalty(X) == penalty(IMAGES) == 0
    assert F.hebbian_cost(X, demote=0.1, promoted=0.2) == 0
    assert F.reinforce_loss(LABELS, LABELS, 0.5) == 0
    assert F.update_reinforce_baseline(0.5, LABELS) == 0.5
    assert measures.active_fraction(X) == 0
    np.testing.assert_array_equal(measures.activation_frequency(X), np.zeros(5))
    np.testing.assert_array_equal(measures.confusion_matrix(LABELS, LABELS, classes=2), np.zeros((2, 2)))
    np.testing.assert_array_equal(measures.active_counts(X > 0, LABELS, classes=2), np.zeros((2, 5)))
    np.testing.assert_array_equal(measures.magnitude_counts(X, np.ones(1, np.float32)), [0, 0])


def test_rows_without_units():
    nothing = np.zeros((3, 0), np.float32)
    for k in (0, jnp.int32(0)):
        assert F.top_k(nothing, k).shape == (3, 0)
    np.testing.assert_array_equal(measures.gini(nothing), np.zeros(3))
    assert F.power_to_db(np.zeros((2, 0, 3), np.float32)).shape == (2, 0, 3)
    with pytest.raises(ValueError, match="A row has 0 units; expected at least 1"):
        F.kth_largest(nothing, 1)
    with pytest.raises(ValueError, match="k is 1, but a row has 0 units"):
        F.top_k(nothing, 1)
