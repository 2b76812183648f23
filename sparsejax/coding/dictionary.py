"""Mini-batch dictionary learning: the best dictionary for all examples seen so far."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from sparsejax.coding.admm import admm
from sparsejax.coding.problem import AnyArray, Code
from sparsejax.coding.pursuit import orthogonal_matching_pursuit
from sparsejax.coding.quadratic import product
from sparsejax.functional.arguments import checked
from sparsejax.functional.sums import at_least_float32


class DictionaryState(NamedTuple):
    """The dictionary and what the batches so far say about it.

    Attributes:
      dictionary: `[inputs, atoms]`.
      codes: the weighted sum of a a^T over the batches, `[atoms, atoms]`.
      products: the weighted sum of x a^T, `[inputs, atoms]`.
      steps: the number of batches.
      skipped: the number of examples left out because they, or their codes, are not finite.
    """

    dictionary: Float[Array, "inputs atoms"]
    codes: Float[Array, "atoms atoms"]
    products: Float[Array, "inputs atoms"]
    steps: Int[Array, ""]
    skipped: Int[Array, ""]


@checked
def init_dictionary(
    key: PRNGKeyArray, x: Float[AnyArray, "examples inputs"], *, atoms: int, nonnegative_atoms: bool = False
) -> DictionaryState:
    """Returns a dictionary of examples drawn from x, of length 1, with empty statistics.

    Random directions replace examples that are missing, zero or not finite. To start from your own dictionary, replace
    the one in the state: `state._replace(dictionary=mine)`.

    Args:
      key: a PRNG key.
      x: examples `[examples, inputs]`.
      atoms: number of atoms, 1 or more.
      nonnegative_atoms: set the negative entries of the examples to 0 first.

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
    if nonnegative_atoms:
        chosen, random = jnp.maximum(chosen, 0), jnp.abs(random)
    energy = jnp.sum(chosen**2, 1, keepdims=True)
    usable = (energy > 0) & jnp.isfinite(energy)  # an empty patch has no direction
    dictionary = random.at[: len(chosen)].set(jnp.where(usable, chosen, random[: len(chosen)]))
    dictionary = dictionary / jnp.linalg.norm(dictionary, axis=1, keepdims=True)
    codes, products = jnp.zeros((atoms, atoms), x.dtype), jnp.zeros((x.shape[1], atoms), x.dtype)
    return DictionaryState(dictionary.T, codes, products, jnp.int32(0), jnp.int32(0))


@checked
def dictionary_step(
    state: DictionaryState,
    x: Float[AnyArray, "examples inputs"],
    *,
    l1: float | Float[AnyArray, "..."] | None = None,
    l2: float | Float[Array, ""] = 0.0,
    nonnegative: bool = False,
    k: int | None = None,
    forget: float | Float[Array, ""] = 1.0,
    tolerance: float | Float[Array, ""] | None = 1e-3,
    max_iterations: int = 100,
    sweeps: int = 1,
    nonnegative_atoms: bool = False,
) -> tuple[DictionaryState, Code]:
    """Returns the state after one batch, and the batch's code with the dictionary as it was.

    The batch is coded by `admm` with a weight l1, or by `orthogonal_matching_pursuit` with k atoms each;
    `update_dictionary` then learns from the codes. For codes of another solver, call `update_dictionary` yourself.

    Args:
      state: from `init_dictionary`.
      x: one batch `[examples, inputs]`, converted to the precision of the state.
      l1: lambda > 0, as in `admm`; may be traced. Give either l1 or k.
      l2, nonnegative: as in `admm`.
      k: the number of atoms per example, 1 or more.
      forget: as in `update_dictionary`.
      tolerance: largest relative duality gap of the codes of `admm`; None for exactly `max_iterations`.
      max_iterations: upper bound for `admm`.
      sweeps, nonnegative_atoms: as in `update_dictionary`.

    Returns:
      The new state (the same after an empty batch), and the batch's Code `[examples, atoms]` with the gaps
        `[examples]` of the solver. Code and gap of an example that is not finite are nan.

    Raises:
      ValueError: as `admm`, `orthogonal_matching_pursuit` and `update_dictionary`, or not exactly one of l1 and k is
        given.

    References:
      Mairal, Bach, Ponce & Sapiro, Online learning for matrix factorization and sparse coding, 2010, algorithm 1.
    """
    if (l1 is None) == (k is None):
        raise ValueError(f"l1 is {l1} and k is {k}; expected one of them: l1 for the lasso, k for a number of atoms.")
    x = at_least_float32(x).astype(at_least_float32(state.dictionary).dtype)
    if k is None:
        assert l1 is not None
        limits = {"tolerance": tolerance, "violation": None, "max_iterations": max_iterations}
        code = admm(x, state.dictionary, l1=l1, l2=l2, nonnegative=nonnegative, **limits)
    else:
        code = orthogonal_matching_pursuit(x, state.dictionary, k=k)
    settings = {"forget": forget, "sweeps": sweeps, "nonnegative_atoms": nonnegative_atoms}
    return update_dictionary(state, x, code.code, **settings), code


@checked
def update_dictionary(
    state: DictionaryState,
    x: Float[AnyArray, "examples inputs"],
    code: Float[AnyArray, "examples atoms"],
    *,
    forget: float | Float[Array, ""] = 1.0,
    sweeps: int = 1,
    nonnegative_atoms: bool = False,
) -> DictionaryState:
    r"""Returns the state after one batch and its code, which may be that of any solver.

    A and B take the batch's mean a a^T and x a^T, with older statistics decaying by :math:`(1 - 1/t)^{\rho}`; then each
    atom in turn becomes the minimiser of the surrogate, :math:`u = d_j + (b_j - D a_j) / A_{jj}`, clipped to length 1.
    An atom that is zero or has not been used for a long time becomes the example with the largest residual. Examples
    that are not finite are left out, and counted in `skipped`.

    Args:
      state: from `init_dictionary`.
      x: one batch `[examples, inputs]`, converted to the precision of the state.
      code: its code with the dictionary of the state, `[examples, atoms]`.
      forget: rho >= 0; 0 weighs all batches equally; may be traced.
      sweeps: number of passes over the atoms, 1 or more.
      nonnegative_atoms: set negative entries of each new atom to 0 before its length is clipped.

    Returns:
      The new state, with atoms of length 1 at most; the same, but for `skipped`, if no example is finite.

    Raises:
      ValueError: shapes do not fit, or a Python number is out of range.

    References:
      Mairal, Bach, Ponce & Sapiro, Online learning for matrix factorization and sparse coding, 2010, algorithm 2,
      section 3.4.2 (forgetting), 3.4.4 (unused atoms, there replaced by random examples) and 5 (other constraints).
    """
    expected = state.dictionary.shape
    if (x.shape[1], code.shape[1]) != expected:
        raise ValueError(
            f"x has shape {x.shape} and code {code.shape}; expected [examples, inputs] and [examples, atoms], here "
            f"[..., {expected[0]}] and [..., {expected[1]}], for a dictionary {expected}."
        )
    if isinstance(forget, (int, float)) and not forget >= 0:
        raise ValueError(f"forget is {forget}; expected 0 or more (0 weighs all batches equally).")
    if sweeps < 1:
        raise ValueError(f"sweeps is {sweeps}; expected 1 or more passes over the atoms.")
    if not len(x):
        return state
    # In the precision of the state, which can then be the carry of a loop.
    dictionary, codes, products = map(at_least_float32, state[:3])
    dtype = dictionary.dtype
    codes, products, x, code = (array.astype(dtype) for array in (codes, products, x, code))
    finite = _are_finite(x) & _are_finite(code)
    x, code = (jnp.where(finite[:, None], array, 0) for array in (x, code))
    examples = jnp.sum(finite, dtype=jnp.int32)
    whole = jnp.maximum(examples, 1).astype(dtype)

    keep = (1 - 1 / (state.steps + 1).astype(dtype)) ** jnp.asarray(forget, dtype)
    # Before the first batch there are no statistics to keep, even with forget = 0, where 0^0 would be 1.
    keep = jnp.where(state.steps == 0, 0, keep)
    codes = keep * codes + product(code.T, code) / whole
    products = keep * products + product(x.T, code) / whole
    residual = x - product(code, dictionary.T)
    for _ in range(sweeps):
        dictionary = _sweep(dictionary, codes, products, nonnegative=nonnegative_atoms)
    use = jnp.diagonal(codes)
    unused = (use < 1e-6 * jnp.mean(use)) | jnp.all(dictionary == 0, 0)
    dictionary, new = revive(dictionary, unused, jnp.maximum(x, 0) if nonnegative_atoms else x, residual)
    # The statistics of a replaced atom would pull the new one back to it.
    codes = jnp.where(new[:, None] | new[None, :], 0, codes)
    products = jnp.where(new[None, :], 0, products)
    skipped = state.skipped + jnp.int32(len(x)) - examples
    learnt = DictionaryState(dictionary, codes, products, state.steps + 1, skipped)
    return jax.tree.map(
        lambda new, old: jnp.where(examples > 0, new.astype(old.dtype), old), learnt, state._replace(skipped=skipped)
    )


def _are_finite(rows: AnyArray) -> Array:
    """Returns which rows are finite, as their squared lengths are."""
    return jnp.isfinite(jnp.sum(jnp.square(rows), 1))


@functools.partial(jax.jit, static_argnames="nonnegative")
def _sweep(dictionary: Array, codes: Array, products: Array, *, nonnegative: bool = False) -> Array:
    """Minimises the surrogate over each atom in turn."""

    def atom(j: Array, dictionary: Array) -> Array:
        use = codes[j, j]
        change = products[:, j] - product(dictionary, codes[:, j])
        new = dictionary[:, j] + change / jnp.where(use > 0, use, 1)
        new = jnp.maximum(new, 0) if nonnegative else new
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
