"""Winners as values and indices: the same as the dense ones, in layers around them and in their gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from sparsejax.functional import SparseCode, decode, encode_top_k, selection, sparse_top_k, to_dense, top_k
from sparsejax.functional import sparse_code as compact

SIZES = [(3, 7, 130, 4), (2, 4, 300, 9), (1, 3, 200, 1), (5, 6, 40, 30)]  # the last too dense for gathering
"""Batch, inputs, units, winners."""


def drawn(batch, inputs, units, k):
    rng = np.random.default_rng(k)
    x, kernel, bias = rng.normal(size=(batch, inputs)), rng.normal(size=(units, inputs)), rng.normal(size=units)
    return tuple(jnp.asarray(array, jnp.float32) for array in (x, kernel, bias))


@pytest.mark.slow
@given(st.data())
@settings(max_examples=60, deadline=None)
def test_the_winners_are_those_of_the_library_in_order(data):
    n, k = data.draw(st.sampled_from([(1, 1), (5, 2), (33, 33), (64, 9), (100, 40)]))  # few shapes to compile for
    x = np.array(data.draw(st.lists(st.sampled_from([-2.0, -0.0, 0.0, 1.0, 1.5, 3.0, np.nan]), min_size=n, max_size=n)))
    code = sparse_top_k(jnp.asarray(x, jnp.float32), k)
    _, expected = lax.top_k(jnp.where(jnp.isnan(x), jnp.inf, jnp.asarray(x, jnp.float32) + 0.0), k)
    np.testing.assert_array_equal(code.indices, np.sort(expected))
    np.testing.assert_array_equal(code.values, x.astype(np.float32)[np.sort(expected)])


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(2, 3, 70), (1, 33), (40,)])
def test_spread_out_it_is_the_dense_selection(shape):
    x = jax.random.normal(jax.random.key(0), shape)
    code = jax.jit(sparse_top_k, static_argnums=1)(x, 9)
    assert code.values.shape == code.indices.shape == (*shape[:-1], 9)
    np.testing.assert_array_equal(to_dense(code, shape[-1]), top_k(x, 9))
    upstream = jax.random.normal(jax.random.key(1), shape)
    ours = jax.grad(lambda x: jnp.sum(to_dense(sparse_top_k(x, 9), shape[-1]) * upstream))(x)
    np.testing.assert_array_equal(ours, jax.grad(lambda x: jnp.sum(top_k(x, 9) * upstream))(x))


@pytest.mark.parametrize("size", SIZES)
def test_layers_and_their_gradients_are_those_of_dense_products(size):
    x, kernel, bias = drawn(*size)
    k, back = size[-1], jnp.flip(kernel, 0)

    def loss(kernel, back, x, bias, dense):
        h = jax.nn.relu(top_k(x @ kernel.T + bias[None], k, ties="first"))
        y = h @ back if dense else decode(encode_top_k(x, kernel, bias, k), back)
        return jnp.sum((y - x) ** 2)

    ours = jax.jit(jax.value_and_grad(loss, (0, 1, 2, 3)), static_argnums=4)(kernel, back, x, bias, False)
    dense = jax.value_and_grad(loss, (0, 1, 2, 3))(kernel, back, x, bias, True)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-4), ours, dense)


@pytest.mark.slow
def test_the_way_that_accelerators_take_gives_the_same(monkeypatch):
    x, kernel, bias = drawn(*SIZES[0])

    def loss(kernel):
        return jnp.sum(decode(encode_top_k(x, kernel, bias, 4), kernel) ** 2)

    gathered = jax.value_and_grad(loss)(kernel)
    monkeypatch.setattr(compact, "gathering_pays", lambda *_: False)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4), gathered,
                 jax.value_and_grad(loss)(kernel))  # fmt: skip


@pytest.mark.slow
def test_codes_keep_their_leading_axes_and_can_be_mapped():
    x, kernel, bias = drawn(6, 5, 200, 4)
    flat = decode(encode_top_k(x, kernel, bias, 4), kernel)
    np.testing.assert_allclose(decode(encode_top_k(x.reshape(2, 3, 5), kernel, bias, 4), kernel).reshape(6, 5), flat,
                               rtol=1e-6)  # fmt: skip
    kernels = jnp.stack([kernel, 2 * kernel])
    mapped = jax.vmap(lambda kernel: decode(encode_top_k(x, kernel, bias, 4), kernel))(kernels)
    np.testing.assert_allclose(mapped[0], flat, rtol=1e-5, atol=1e-5)
    assert encode_top_k(x[0], kernel, bias, 4).values.shape == (4,)


@pytest.mark.slow
def test_units_are_chosen_by_rank_and_keep_their_own_value():
    x = jnp.array([[3.0, 2.0, 1.0, 0.5]])
    code = sparse_top_k(x, 2, rank=x * jnp.array([[0.1, 1.0, 1.0, 4.0]]))
    np.testing.assert_array_equal(code.indices, [[1, 3]])
    np.testing.assert_array_equal(code.values, [[2.0, 0.5]])
    gained = encode_top_k(x, jnp.eye(4), jnp.zeros(4), 2, gain=jnp.array([0.1, 1.0, 1.0, 4.0]))
    jax.tree.map(np.testing.assert_array_equal, gained, code)
    to_gain = jax.grad(lambda gain: encode_top_k(x, jnp.eye(4), jnp.zeros(4), 2, gain=gain).values.sum())(jnp.ones(4))
    np.testing.assert_array_equal(to_gain, 0)


def test_half_precision_is_summed_in_single():
    code = SparseCode(jnp.ones((1, 300), jnp.bfloat16), jnp.arange(300, dtype=jnp.int32)[None])
    kernel = jnp.ones((20_000, 1), jnp.bfloat16)  # 257 is no bfloat16: a sum kept in them ends at 256
    assert float(decode(code, kernel)[0, 0]) == 300
    many = SparseCode(jnp.ones((300, 1), jnp.bfloat16), jnp.zeros((300, 1), jnp.int32))
    gradient = jax.grad(lambda kernel: decode(many, kernel).astype(jnp.float32).sum())(kernel)
    assert gradient.dtype == jnp.bfloat16 and float(gradient[0, 0]) == 300


def test_units_below_zero_stay_silent():
    code = encode_top_k(jnp.ones((1, 2)), jnp.eye(64, 2) - 1, jnp.zeros(64), 3)
    np.testing.assert_array_equal(code.values, 0)
    assert len(set(code.indices[0].tolist())) == 3


def test_what_makes_no_sense_is_refused():
    x = jnp.ones((2, 8))
    with pytest.raises(ValueError, match="k is 9, but a row has 8 units"):
        sparse_top_k(x, 9)
    with pytest.raises(ValueError, match="expected an int, for it is the size of the result"):
        sparse_top_k(x, jnp.int32(3))
    with pytest.raises(ValueError, match="k is 2.5; expected an int"):
        encode_top_k(x, x, jnp.ones(2), 2.5)
    with pytest.raises(ValueError, match=r"values \(2, 3\) and indices \(2, 4\)"):
        decode(SparseCode(jnp.ones((2, 3)), jnp.zeros((2, 4), jnp.int32)), x)


@pytest.mark.slow
@pytest.mark.parametrize("rows", [12, 13, 16])
def test_what_is_too_large_for_a_cache_is_selected_in_groups(rows, monkeypatch):
    x = jnp.round(jax.random.normal(jax.random.key(rows), (rows, 50)), 1)  # with ties

    def found(x, k):
        return top_k(x, k), top_k(x, k, ties="first"), selection.kth_largest(x, k), jax.grad(
            lambda x: selection.kth_largest(x, k).sum())(x)  # fmt: skip

    whole = found(x, 7)
    monkeypatch.setattr(selection, "_CACHED", 200)  # four rows
    jax.tree.map(np.testing.assert_array_equal, whole, found(x, 7))
    jax.tree.map(np.testing.assert_array_equal, whole, jax.jit(found)(x, jnp.int32(7)))
    np.testing.assert_array_equal(whole[1], jax.vmap(lambda x: top_k(x, 7, ties="first"))(x[:, None])[:, 0])
