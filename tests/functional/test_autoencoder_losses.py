"""Loss terms of sparse autoencoders against recorded cases and plain formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.functional import sparse_top_k
from sparsejax.functional.autoencoder_losses import (
    auxiliary_loss,
    decode_prefixes,
    l0_to_target,
    remove_parallel,
    unit_rows,
)
from tests import golden


def recorded_auxiliary():
    """Returns the arrays of the recorded case, and our arguments of them."""
    case = golden.load("sae_auxk")
    given = case["x"] - case["b_dec"]
    h = np.maximum(given @ case["W_enc"].T + case["b_enc"], 0)
    z = sparse_top_k(jnp.asarray(h), 4).to_dense()
    residual = case["x"] - (np.asarray(z) @ case["W_dec"] + case["b_dec"])
    return case, jnp.asarray(residual), jnp.asarray(given)


def test_the_recorded_auxiliary_loss_and_its_gradients():
    case, residual, given = recorded_auxiliary()

    def loss(encoder, bias, decoder):
        return auxiliary_loss(residual, given, encoder=encoder, bias=bias, decoder=decoder,
                              dead=jnp.asarray(case["dead"], bool), k=4)  # fmt: skip

    weights = [jnp.asarray(case[name]) for name in ("W_enc", "b_enc", "W_dec")]
    value, gradients = jax.value_and_grad(loss, (0, 1, 2))(*weights)
    # dictionary_learning's loss is a mean over the batch of sums over the outputs, divided by the mean variance.
    np.testing.assert_allclose(value, case["dl_auxk_normalized"], rtol=1e-5)
    for name, gradient in zip(("dl_dW_enc", "dl_db_enc", "dl_dW_dec"), gradients, strict=True):
        scale = np.abs(case[name]).max()
        np.testing.assert_allclose(gradient, case[name], atol=2e-6 * scale, err_msg=name)
    assert np.abs(gradients[0]).max() > 0.4  # sparsify's encoder gets none, a defect
    assert not np.any(case["sparsify_1_3_3_dW_enc"])


def test_the_auxiliary_loss_without_dead_latents_or_residual_is_0():
    case, residual, given = recorded_auxiliary()
    of = {"encoder": jnp.asarray(case["W_enc"]), "bias": jnp.asarray(case["b_enc"]),
          "decoder": jnp.asarray(case["W_dec"]), "k": 4}  # fmt: skip
    assert auxiliary_loss(residual, given, dead=jnp.zeros(32, bool), **of) == 0
    assert auxiliary_loss(0 * residual, given, dead=jnp.ones(32, bool), **of) == 0


def test_prefixes_are_products_of_the_first_latents():
    rng = np.random.default_rng(0)
    h, kernel = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((5, 12), (12, 4)))
    code = sparse_top_k(h, 3)
    levels = decode_prefixes(code, kernel, (2, 7, 12))
    for width, level in zip((2, 7, 12), levels, strict=True):
        np.testing.assert_allclose(level, code.to_dense()[:, :width] @ kernel[:width], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(decode_prefixes(code.to_dense(), kernel, (2, 7, 12)), levels, rtol=1e-5, atol=1e-6)


def test_a_detached_level_trains_only_the_latents_that_it_adds():
    rng = np.random.default_rng(1)
    z, kernel = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((5, 6), (6, 4)))

    def last_level(kernel, detach):
        return jnp.sum(decode_prefixes(z, kernel, (2, 6), detach=detach)[-1] ** 2)

    whole, detached = (jax.grad(last_level)(kernel, detach) for detach in (False, True))
    assert not np.any(detached[:2])
    np.testing.assert_allclose(detached[2:], whole[2:], rtol=1e-6)


def test_the_quadratic_penalty():
    np.testing.assert_allclose(l0_to_target(jnp.float32([3, 5, 9]), 5.0), 2 / 5 * (4 + 0 + 16) / 3, rtol=1e-6)


def test_recorded_norms_and_projections():
    case = golden.load("sae_decoder_norm")
    unit = unit_rows(jnp.asarray(case["W_dec"]))
    np.testing.assert_allclose(unit, case["dl_unit"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(jnp.linalg.norm(unit, axis=-1), 1, rtol=1e-6)
    projected = remove_parallel(jnp.asarray(case["grad"]), unit)
    np.testing.assert_allclose(projected, case["dl_proj"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(jnp.sum(projected * unit, axis=-1), 0, atol=1e-6)
    assert not np.any(unit_rows(jnp.zeros((2, 3), jnp.float32)))


def test_wrong_prefixes_are_refused():
    for widths in ((), (3, 2, 6), (0, 6), (2, 5)):
        with pytest.raises(ValueError, match="expected them to ascend to 6"):
            decode_prefixes(jnp.zeros((1, 6), jnp.float32), jnp.zeros((6, 2), jnp.float32), widths)
