"""Mini-batch dictionary learning for the lasso: the best dictionary for all examples seen so far."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from sparsejax.coding.admm import admm
from sparsejax.coding.problem import AnyArray, Code
from sparsejax.coding.quadratic import product
from sparsejax.functional.arguments import checked
from sparsejax.functional.sums import at_least_float32


class DictionaryState(NamedTuple):
    """The dictionary `[inputs, atoms]` and the codes' statistics: sums of a a^T and x a^T over the batches."""

    dictionary: Float[Array, "inputs atoms"]
    codes: Float[Array, "atoms atoms"]
    products: Float[Array, "inputs atoms"]
    steps: Int[Array, ""]


@checked
def init_dictionary(key: PRNGKeyArray, x: Float[AnyArray, "examples inputs"], *, atoms: int) -> DictionaryState:
    """Returns a dictionary of examples drawn from x, of length 1, with empty statistics.

    Random directions replace missing or zero examples.

    Args:
      key: a PRNG key.
      x: examples `[examples, inputs]`.
      atoms: number of atoms, 1 or more.

    Returns:
      DictionaryState, the dictionary `[inputs, atoms]`, zero sums `[atoms, atoms]` and `[inputs, atoms]`, 0 steps.

    Raises:
      ValueError: x is not `[examples, inputs]`, or atoms is not positive.

    References:
      Mairal, Bach, Ponce & Sapiro, Online learning for matrix factorization and sparse coding, 2010, algorithm 1, which
      starts with empty statistics and any dictionary.
    """
    x = at_least_float32(x)
    if atoms < 1:
        raise ValueError(f"atoms is {atoms}; expected 1 or more.")
    order, noise = jax.random.split(key)
    chosen = jax.random.permutation(order, x)[:atoms]
    random = jax.random.normal(noise, (atoms, x.shape[1]), x.dtype)
    full = jnp.sum(chosen**2, 1, keepdims=True) > 0  # an empty patch has no direction
    dictionary = random.at[: len(chosen)].set(jnp.where(full, chosen, random[: len(chosen)]))
    dictionary = dictionary / jnp.linalg.norm(dictionary, axis=1, keepdims=True)
    return DictionaryState(
        dictionary.T, jnp.zeros((atoms, atoms), x.dtype), jnp.zeros((x.shape[1], atoms), x.dtype), jnp.int32(0)
    )


@checked
def dictionary_step(
    state: DictionaryState,
    x: Float[AnyArray, "examples inputs"],
    *,
    l1: float | Float[Array, ""],
    forget: float | Float[Array, ""] = 1.0,
    tolerance: float | Float[Array, ""] | None = 1e-3,
    max_iterations: int = 100,
    sweeps: int = 1,
) -> tuple[DictionaryState, Code]:
    r"""Returns the state after one batch, and the batch's code with the dictionary as it was.

    The batch is coded by `admm`; A and B take its mean a a^T and x a^T, with older statistics decaying by
    :math:`(1 - 1/t)^{\rho}`; then each atom in turn becomes the minimiser of the surrogate,
    :math:`u = d_j + (b_j - D a_j) / A_{jj}`, clipped to length 1. An atom that has not been used for a long time
    becomes the example with the largest residual.

    Args:
      state: from `init_dictionary`.
      x: one batch `[examples, inputs]`.
      l1: lambda > 0; may be traced.
      forget: rho >= 0; 0 weighs all batches equally; may be traced.
      tolerance: largest relative duality gap of the codes; None for exactly `max_iterations`.
      max_iterations: upper bound for the coding.
      sweeps: number of passes over the atoms.

    Returns:
      The new state, with atoms of length 1 at most (the same after an empty batch), and the batch's Code
        `[examples, atoms]` with the relative duality gaps `[examples]`.

    Raises:
      ValueError: as `admm`, or x is not `[examples, inputs]`.

    References:
      Mairal, Bach, Ponce & Sapiro, Online learning for matrix factorization and sparse coding, 2010, algorithms 1 and
      2, section 3.4.2 (forgetting) and 3.4.4 (unused atoms, there replaced by random examples).
    """
    x = at_least_float32(x)
    code = admm(x, state.dictionary, l1=l1, tolerance=tolerance, violation=None, max_iterations=max_iterations)
    if not len(x):
        return state, code
    step = (state.steps + 1).astype(x.dtype)
    keep = (1 - 1 / step) ** forget
    # Before the first batch there are no statistics to keep, even with forget = 0, where 0^0 would be 1.
    keep = jnp.where(state.steps == 0, 0, keep)
    codes = keep * state.codes + product(code.code.T, code.code) / len(x)
    products = keep * state.products + product(x.T, code.code) / len(x)
    dictionary = state.dictionary
    for _ in range(sweeps):
        dictionary = _sweep(dictionary, codes, products)
    use = jnp.diagonal(codes)
    dictionary, _ = revive(dictionary, use < 1e-6 * jnp.mean(use), x, x - product(code.code, state.dictionary.T))
    return DictionaryState(dictionary, codes, products, state.steps + 1), code


@jax.jit
def _sweep(dictionary: Array, codes: Array, products: Array) -> Array:
    """Minimises the surrogate over each atom in turn."""

    def atom(j: Array, dictionary: Array) -> Array:
        use = codes[j, j]
        change = products[:, j] - product(dictionary, codes[:, j])
        new = dictionary[:, j] + change / jnp.where(use > 0, use, 1)
        new = new / jnp.maximum(jnp.linalg.norm(new), 1)
        return dictionary.at[:, j].set(jnp.where(use > 0, new, dictionary[:, j]))

    return lax.fori_loop(0, dictionary.shape[1], atom, dictionary)


def revive(dictionary: Array, unused: Array, x: AnyArray, residual: AnyArray) -> tuple[Array, Array]:
    """Replaces unused atoms with the directions of the examples with the largest residuals, a different one each.

    Args:
      dictionary: `[inputs, atoms]`.
      unused: which atoms `[atoms]`.
      x: examples `[examples, inputs]`.
      residual: x minus its reconstruction, of the same shape.

    Returns:
      The dictionary, and which atoms were replaced; atoms without an example are not.
    """
    worst = x[jnp.argsort(-jnp.sum(residual**2, 1))]
    lengths = jnp.linalg.norm(worst, axis=1)
    rank = jnp.cumsum(unused) - 1
    example = jnp.clip(rank, 0, len(x) - 1)
    replaced = unused & (rank < len(x)) & (lengths[example] > 0)
    directions = worst / jnp.where(lengths > 0, lengths, 1)[:, None]
    return jnp.where(replaced[None, :], directions[example].T, dictionary), replaced
