"""Defaults, and what is refused: numbers of winners, ties, axes, kernels."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax import functional, models
from sparsejax.configs import get
from sparsejax.functional import (
    BoostState,
    SparseCode,
    decode,
    encode_top_k,
    init_boost_state,
    k_winners,
    k_winners_2d,
    kth_largest,
    sparse_top_k,
    to_dense,
    top_k,
    update_boost_state,
    winners,
)
from sparsejax.training.config import Config
from sparsejax.training.schema import from_json, to_json

TIED = jnp.array([[1.0, 2.0, 2.0, 2.0, 0.0, 2.0]])
STATE = BoostState(jnp.linspace(0, 1, 12), jnp.float32(10))
CHANNELS = BoostState(jnp.linspace(0, 1, 4), jnp.float32(10))
KS = jnp.array([0, 1, 5, 12, 3])


def normal(*shape):
    return jax.random.normal(jax.random.key(3), shape, jnp.float32)


FUNCTIONS = {
    "top_k": lambda x, k: top_k(x, k),
    "winners": lambda x, k: winners(x, k),
    "k_winners": lambda x, k: k_winners(x, STATE, k=k, boost_strength=1.5),
    "k_winners_2d": lambda x, k: k_winners_2d(x.reshape(*x.shape[:-1], 1, 3, 4), CHANNELS, k=k, boost_strength=1.5),
    "kth_largest": lambda x, k: kth_largest(x, k),
}
functions = pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)


def test_ties_are_broken_by_default():
    for kept in (
        top_k(TIED, 3),
        winners(TIED, 3),
        k_winners(TIED, init_boost_state(6), k=3),
        k_winners_2d(TIED.reshape(1, 1, 1, 6), init_boost_state(6), k=3),
    ):
        np.testing.assert_array_equal(np.asarray(kept).reshape(-1) != 0, [False, True, True, True, False, False])
    assert jnp.count_nonzero(top_k(TIED, 3, ties="all")) == 4


def test_exactly_k_of_many_values_as_coarse_as_bfloat16():
    x = jax.random.normal(jax.random.key(0), (4, 10_000), jnp.bfloat16)
    np.testing.assert_array_equal(jnp.sum(winners(x, 1000), axis=-1), np.full(4, 1000))


@functions
def test_one_k_per_row_is_each_row_with_its_own(function):
    x, ks = normal(5, 12), jnp.maximum(KS, 1)
    together = jax.jit(function)(x, ks)
    for i, k in enumerate(ks.tolist()):
        np.testing.assert_array_equal(together[i], function(x[i], k))
    np.testing.assert_array_equal(function(x, np.asarray(ks)), together)
    deeper = function(jnp.stack([x, -x]), jnp.stack([ks, ks]))
    np.testing.assert_array_equal(deeper[0], together)


def test_one_k_per_image_where_positions_compete_alone():
    x, ks = normal(3, 2, 2, 4), jnp.array([0, 2, 4])
    together = k_winners_2d(x, CHANNELS, k=ks, boost_strength=1.5, local=True)
    for i, k in enumerate(ks.tolist()):
        np.testing.assert_array_equal(together[i], k_winners_2d(x[i], CHANNELS, k=k, boost_strength=1.5, local=True))


def test_gradients_with_one_k_per_row():
    x, upstream = normal(5, 12), normal(5, 12)[::-1]
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(top_k(x, KS) * upstream)))(x)
    np.testing.assert_array_equal(gradient, np.where(winners(x, KS), upstream, 0))


@pytest.mark.wrong_types
@functions
@pytest.mark.parametrize(
    "k", [jnp.float32(3), jnp.ones(5), np.float64(3), 3.0, np.ones(5, np.float16), True, "3", None]
)
def test_a_k_that_is_no_whole_number_is_refused(function, k):
    with pytest.raises(ValueError, match="k is"):
        function(normal(5, 12), k)


@pytest.mark.wrong_types
@functions
def test_arrays_of_floats_are_refused_while_tracing(function):
    with pytest.raises(ValueError, match="k is an array of float32; expected integers"):
        jax.jit(function)(normal(5, 12), jnp.float32(3))


@functions
@pytest.mark.parametrize("k", [99, np.int64(99), np.uint8(99), np.full(5, 99), -1, np.int32(-1)])
def test_python_and_numpy_numbers_out_of_range_are_refused_alike(function, k):
    with pytest.raises(ValueError, match=r"99|-1"):
        function(normal(5, 12), k)


@functions
def test_numpy_integers_are_accepted(function):
    x = normal(5, 12)
    for k in (np.int64(4), np.uint8(4), np.array(4)):
        np.testing.assert_array_equal(function(x, k), function(x, 4))


@pytest.mark.wrong_types
@functions
def test_a_k_of_another_shape_than_the_batch_is_refused(function):
    with pytest.raises(
        ValueError, match=r"k has shape \(4,\); expected one for all rows, \(\), or one for each, \(5,\)"
    ):
        function(normal(5, 12), jnp.ones(4, jnp.int32))


@pytest.mark.wrong_types
def test_sizes_are_python_or_numpy_integers():
    x = normal(5, 12)
    for k in (np.int64(3), np.array(3), jnp.int32(3)):
        np.testing.assert_array_equal(sparse_top_k(x, k).indices, sparse_top_k(x, 3).indices)
    for k in (3.0, np.float32(3), True, "3", None, jnp.float32(3), np.array([3])):
        with pytest.raises(ValueError, match="k is .*; expected an integer"):
            sparse_top_k(x, k)
    with pytest.raises(ValueError, match="k is a traced value of int.*; expected an integer"):
        jax.jit(sparse_top_k)(x, 3)
    with pytest.raises(ValueError, match="k is 99, but a row has 12 units"):
        encode_top_k(x, normal(12, 12), jnp.zeros(12), np.int64(99))


@pytest.mark.parametrize("axis", [0, 1, -1, -3, np.int64(1)])
def test_any_axis_may_hold_the_units(axis):
    x = normal(5, 6, 7)
    by_hand = jnp.moveaxis(top_k(jnp.moveaxis(x, axis, -1), 2), -1, axis)
    np.testing.assert_array_equal(top_k(x, 2, axis=axis), by_hand)
    np.testing.assert_array_equal(kth_largest(x, 2, axis=axis), kth_largest(jnp.moveaxis(x, axis, -1), 2))
    ks = jnp.arange(5 * 6 * 7 // x.shape[axis]).reshape(np.delete(x.shape, axis)) % 4
    kept = top_k(x, ks, axis=axis)
    np.testing.assert_array_equal(jnp.sum(kept != 0, axis=int(axis)), ks)
    np.testing.assert_array_equal(jax.grad(lambda x: jnp.sum(top_k(x, ks, axis=axis)))(x), kept != 0)


def test_a_missing_axis_is_refused():
    with pytest.raises(ValueError, match="axis 2 is out of bounds"):
        top_k(normal(3, 4), 2, axis=2)


@pytest.mark.parametrize("transformed", [lambda f: f, jax.jit, jax.vmap], ids=["plain", "jit", "vmap"])
def test_a_code_stores_its_number_of_units(transformed):
    x = normal(5, 12)
    code = transformed(lambda x: sparse_top_k(x, 3))(x)
    assert isinstance(code, SparseCode) and code.units == 12
    values, indices = code
    np.testing.assert_array_equal(code.to_dense(), top_k(x, 3))
    np.testing.assert_array_equal(to_dense(SparseCode(values, indices), 12), code.to_dense())
    assert encode_top_k(x, normal(7, 12), jnp.zeros(7, jnp.float32), 2).units == 7
    with pytest.raises(ValueError, match="code of 12 units, not of 13"):
        to_dense(code, 13)
    with pytest.raises(ValueError, match="has no number of units"):
        SparseCode(values, indices).to_dense()
    with pytest.raises(ValueError, match="code of 12 units, but the state has 11"):
        update_boost_state(init_boost_state(11), code)


@pytest.mark.wrong_types
def test_decode_refuses_a_kernel_of_other_units():
    code, kernel = sparse_top_k(normal(5, 12), 3), normal(12, 7)
    assert decode(code, kernel).shape == (5, 7)
    with pytest.raises(ValueError, match=r"kernel has shape \(7, 12\), but the code is of 12 units.*transposed"):
        decode(code, kernel.T)
    with pytest.raises(ValueError, match="code is of 12 units"):
        jax.jit(decode)(code, kernel[:-1])
    by_hand = SparseCode(code.values, code.indices.at[0, 2].set(11))
    np.testing.assert_array_equal(jax.jit(decode)(by_hand, kernel), decode(by_hand, kernel))
    with pytest.raises(ValueError, match="code is of at least 12 units"):
        decode(by_hand, kernel[:-1])
    with pytest.raises(ValueError, match="code is of at least 3 units"):
        jax.jit(decode)(by_hand, kernel[:2])
    with pytest.raises(ValueError, match=r"kernel has shape \(12, 7\), but x has 12 inputs"):
        encode_top_k(normal(5, 12), kernel, jnp.zeros(7), 2)


def test_the_factor_at_inference_is_the_papers_only_in_its_configurations():
    assert models.SparseMLP().k_inference_factor == models.SparseCNN().k_inference_factor == 1
    assert get("digits_mlp").model.k_inference_factor == 1
    paper = ("digits_kwinners", "mnist_kwinners", "mnist_sparse_cnn1", "mnist_dense_cnn2_sp3", "mnist_sparse_cnn2_d3",
             "mnist_sparse_cnn2_w1", "mnist_sparse_cnn2_dsw", "mnist_sparse_cnn2_local", "gsc_sparse_cnn2",
             "gsc_super_sparse_cnn2", "speech_sparse_cnn2", "speech_super_sparse_cnn2")  # fmt: skip
    for name in paper:
        assert get(name).model.k_inference_factor == 1.5, name
    x = normal(20, 14)
    model = models.SparseMLP(hidden=(12,), k=(4,), density=None)
    hidden = model.apply(model.init(jax.random.key(0), x), x).activations["hidden1"]
    assert np.all(np.sum(np.asarray(hidden) != 0, axis=-1) == 4)


def test_files_of_version_1_name_the_period_otherwise():
    config = Config(models.SparseMLP(period=77))
    fields = to_json(config)
    assert from_json({"config": fields, "schema": 2}) == config
    fields.pop("evaluation")
    fields["model"].pop("class")
    fields["model"]["duty_period"] = fields["model"].pop("period")
    assert from_json({"config": fields}).model.period == 77


def test_penalties_and_measures_have_their_own_namespaces():
    x = normal(4, 5)
    assert functional.penalties.l1(x) > 0 and functional.measures.gini(x).shape == (4,)
    for name in ("l1", "l2", "cauchy", "gaussian", "gini", "hoyer", "l0", "precision", "dead_units"):
        assert not hasattr(functional, name)
    assert set(functional.__all__) <= set(dir(functional)) and functional.__all__ == sorted(functional.__all__)


def test_importing_brings_no_pallas():
    program = "import sys, sparsejax.functional; print(*[m for m in sys.modules if 'pallas' in m or 'flax' in m])"
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert process.stdout.strip() == ""
