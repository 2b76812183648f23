"""Winners as values and indices: the same as the dense ones, in layers around them and in their gradients."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsejax.functional import SparseCode, decode, encode_top_k, selection, sparse_top_k, to_dense, top_k
from sparsejax.functional import sparse_code as compact
from tests.functional.drawn import normal

SIZES = [(3, 7, 130, 4), (2, 4, 300, 9), (1, 7, 40, 12), (5, 6, 40, 30)]
"""Batch, inputs, units, winners: the last too dense for gathering, the third in its gradients."""

compacted = jax.jit(sparse_top_k, static_argnums=1)


def drawn(batch, inputs, units, k):
    rng = np.random.default_rng(k)
    x, kernel, bias = rng.normal(size=(batch, inputs)), rng.normal(size=(units, inputs)), rng.normal(size=units)
    return tuple(jnp.asarray(array, jnp.float32) for array in (x, kernel, bias))


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_the_winners_are_those_of_a_stable_sort_in_order(data):
    n, k = data.draw(st.sampled_from([(1, 1), (5, 2), (33, 33), (64, 9), (100, 40)]))  # few shapes to compile for
    x = np.array(data.draw(st.lists(st.sampled_from([-2.0, -0.0, 0.0, 1.0, 1.5, 3.0, np.nan]), min_size=n, max_size=n)))
    code = compacted(x.astype(np.float32), k)
    best = np.sort(np.argsort(-np.where(np.isnan(x), np.inf, x), kind="stable")[:k])
    np.testing.assert_array_equal(code.indices, best)
    np.testing.assert_array_equal(code.values, x.astype(np.float32)[best])


@pytest.mark.parametrize("shape", [(2, 3, 70), (40,)])
def test_spread_out_it_is_the_dense_selection(shape):
    x, upstream = normal(*shape), normal(*shape, seed=1)
    code = compacted(x, 9)
    assert code.values.shape == code.indices.shape == (*shape[:-1], 9)

    @partial(jax.jit, static_argnums=1)
    def both(x, keep):
        y, backward = jax.vjp(keep, x)
        return y, backward(upstream)[0]

    dense = both(x, lambda x: top_k(x, 9))
    assert np.count_nonzero(dense[1]) == 9 * x.size // shape[-1]
    jax.tree.map(np.testing.assert_array_equal, both(x, lambda x: to_dense(sparse_top_k(x, 9), shape[-1])), dense)


@pytest.mark.parametrize("size", SIZES)
def test_layers_and_their_gradients_are_those_of_dense_products(size):
    x, kernel, bias = drawn(*size)
    k, back = size[-1], jnp.asarray(np.flip(kernel, 0))

    def loss(kernel, back, x, bias, dense):
        h = jax.nn.relu(top_k(x @ kernel.T + bias[None], k, ties="first"))
        y = h @ back if dense else decode(encode_top_k(x, kernel, bias, k), back)
        return jnp.sum((y - x) ** 2)

    gradients = jax.jit(jax.value_and_grad(loss, (0, 1, 2, 3)), static_argnums=4)
    ours, dense = gradients(kernel, back, x, bias, False), gradients(kernel, back, x, bias, True)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-4), ours, dense)


def test_the_path_of_accelerators_gives_the_same(monkeypatch):
    x, kernel, bias = drawn(*SIZES[0])

    def gradient():
        def loss(kernel):
            return jnp.sum(decode(encode_top_k(x, kernel, bias, 4), kernel) ** 2)

        return jax.jit(jax.value_and_grad(loss))(kernel)

    gathered = gradient()
    monkeypatch.setattr(compact, "gathering_is_faster", lambda *_: False)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4), gathered, gradient())


def test_codes_keep_their_leading_axes_and_can_be_mapped():
    x, kernel, bias = drawn(6, 5, 200, 4)

    @jax.jit
    def forms(x, kernel):
        def layers(x, kernel):
            return decode(encode_top_k(x, kernel, bias, 4), kernel)

        mapped = jax.vmap(layers, in_axes=(None, 0))(x, jnp.stack([kernel, 2 * kernel]))
        return layers(x, kernel), layers(x.reshape(2, 3, 5), kernel), mapped

    flat, folded, mapped = forms(x, kernel)
    np.testing.assert_allclose(folded.reshape(6, 5), flat, rtol=1e-6)
    np.testing.assert_allclose(mapped[0], flat, rtol=1e-5, atol=1e-5)
    alone = jax.eval_shape(lambda x: encode_top_k(x, kernel, bias, 4), x[0])
    assert alone.values.shape == alone.indices.shape == (4,)


def test_units_are_chosen_by_rank_and_keep_their_own_value():
    x, gain = jnp.array([[3.0, 2.0, 1.0, 0.5]]), jnp.array([0.1, 1.0, 1.0, 4.0])
    code = jax.jit(lambda x, rank: sparse_top_k(x, 2, rank=rank))(x, x * gain[None])
    np.testing.assert_array_equal(code.indices, [[1, 3]])
    np.testing.assert_array_equal(code.values, [[2.0, 0.5]])

    @jax.jit
    def gained(gain):
        code, backward = jax.vjp(lambda gain: encode_top_k(x, jnp.eye(4), jnp.zeros(4), 2, gain=gain).values, gain)
        return code, encode_top_k(x, jnp.eye(4), jnp.zeros(4), 2, gain=gain), backward(jnp.ones_like(code))[0]

    values, same, to_gain = gained(gain)
    jax.tree.map(np.testing.assert_array_equal, same, code)
    np.testing.assert_array_equal(values, code.values)
    np.testing.assert_array_equal(to_gain, 0)


def test_half_precision_is_summed_in_single():
    code = SparseCode(np.ones((1, 300), jnp.bfloat16), np.arange(300, dtype=np.int32)[None])
    kernel = np.ones((20_000, 1), jnp.bfloat16)  # 257 is no bfloat16: a sum kept in them ends at 256
    assert float(jax.jit(decode)(code, kernel)[0, 0]) == 300
    many = SparseCode(jnp.ones((300, 1), jnp.bfloat16), jnp.zeros((300, 1), jnp.int32))
    gradient = jax.jit(jax.grad(lambda kernel: decode(many, kernel).astype(jnp.float32).sum()))(kernel)
    assert gradient.dtype == jnp.bfloat16 and float(gradient[0, 0]) == 300


def test_units_below_zero_stay_inactive():
    encode = jax.jit(encode_top_k, static_argnums=3)
    code = encode(np.ones((1, 2), np.float32), np.eye(64, 2, dtype=np.float32) - 1, np.zeros(64, np.float32), 3)
    np.testing.assert_array_equal(code.values, 0)
    assert len(set(code.indices[0].tolist())) == 3


@pytest.mark.wrong_types
def test_invalid_arguments_are_refused():
    x = jnp.ones((2, 8))
    with pytest.raises(ValueError, match="k is 9, but a row has 8 units"):
        sparse_top_k(x, 9)
    with pytest.raises(ValueError, match="k is a traced value of int32; expected an integer"):
        jax.jit(sparse_top_k)(x, jnp.int32(3))
    with pytest.raises(ValueError, match="k is 2.5; expected an integer \\(round it first\\)"):
        encode_top_k(x, x, jnp.ones(2), 2.5)
    with pytest.raises(ValueError, match=r"values \(2, 3\) and indices \(2, 4\)"):
        decode(SparseCode(jnp.ones((2, 3)), jnp.zeros((2, 4), jnp.int32)), x)


@pytest.mark.parametrize("rows", [12, 13])
def test_what_is_too_large_for_a_cache_is_selected_in_groups(rows, monkeypatch):
    x = np.round(np.asarray(normal(rows, 50)), 1)  # with ties

    def found():
        def every(x, k):
            largest, backward = jax.vjp(lambda x: selection.kth_largest(x, k), x)
            return top_k(x, k, ties="all"), top_k(x, k), largest, backward(jnp.ones_like(largest))[0]

        return [jax.jit(every)(x, k) for k in (7, np.arange(rows) % 50 + 1)]

    whole = found()
    monkeypatch.setattr(selection, "_CACHED", 200)  # four rows
    jax.tree.map(np.testing.assert_array_equal, whole, found())


def test_a_code_with_other_values_has_the_units_of_before():
    code = sparse_top_k(jnp.arange(8.0)[None], 3)
    other = code._replace(values=2 * code.values)
    assert other.units == 8 and code._replace(units=None).units is None
    with pytest.raises(ValueError, match="the code is of 8 units"):
        decode(other, jnp.arange(128.0).reshape(16, 8))
