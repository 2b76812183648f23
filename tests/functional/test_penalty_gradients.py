"""The thesis' gradients of the l1 penalty on two layers of ReLUs, equations 3.8 and 3.9, against autodiff."""

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.functional.penalties import l1


def test_the_penaltys_gradients_are_the_thesiss():
    rng = np.random.default_rng(0)
    x = rng.random(7).astype(np.float32)
    w1, w2 = (rng.normal(size=shape).astype(np.float32) for shape in ((6, 7), (5, 6)))
    b1, b2 = (rng.normal(size=size).astype(np.float32) for size in (6, 5))

    def penalty(weights):
        first = jax.nn.relu(weights[0] @ x + b1)
        second = jax.nn.relu(weights[1] @ first + b2)
        return l1(first[None]) + l1(second[None])

    by_w1, by_w2 = jax.grad(penalty)((jnp.asarray(w1), jnp.asarray(w2)))
    z1 = w1 @ x + b1
    a1 = np.maximum(z1, 0)
    z2 = w2 @ a1 + b2
    on1, on2 = z1 > 0, z2 > 0
    assert 0 < on1.sum() < 6 and 0 < on2.sum() < 5, "both cases of both layers"
    np.testing.assert_allclose(by_w2, np.where(on2[:, None], a1[None, :], 0), rtol=1e-5)  # 3.8
    whole = (on2 @ w2)[:, None] * x[None, :] + x[None, :]  # 3.9, where the unit is on
    np.testing.assert_allclose(by_w1, np.where(on1[:, None], whole, 0), rtol=1e-4, atol=1e-5)
