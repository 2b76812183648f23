"""Dictionary learning under the l0 penalty, with all examples at once: K-SVD and the method of optimal directions."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from sparsejax.coding.dictionary import revive
from sparsejax.coding.problem import AnyArray
from sparsejax.coding.pursuit import orthogonal_matching_pursuit
from sparsejax.coding.quadratic import product
from sparsejax.coding.sparse_set import sparse_set
from sparsejax.functional.arguments import checked
from sparsejax.functional.sums import at_least_float32

# Examples of one atom that are gathered at once. An atom is in a few hundred of the codes of ten thousand examples.
_AT_ONCE = 256


class L0Fit(NamedTuple):
    """The codes of a step, and what it did.

    Attributes:
      code: `[examples, atoms]`, of the new dictionary; NaN for examples that are not finite.
      coding_error: mean squared length of x - D a over the finite examples, before the dictionary changed.
      error: the same mean after the change, never larger but for rounding.
      replaced: number of atoms in no code, which were replaced by examples.
      left_out: number of examples that are not finite.
    """

    code: Float[Array, "examples atoms"]
    coding_error: Float[Array, ""]
    error: Float[Array, ""]
    replaced: Int[Array, ""]
    left_out: Int[Array, ""]


@checked
def ksvd_step(
    dictionary: Float[AnyArray, "inputs atoms"],
    x: Float[AnyArray, "examples inputs"],
    *,
    k: int | None = None,
    l0: float | Float[Array, ""] | None = None,
    tolerance: float | Float[Array, ""] | None = None,
    sweeps: int = 1,
) -> tuple[Float[Array, "inputs atoms"], L0Fit]:
    r"""Returns the dictionary after one step of K-SVD, with the codes of x.

    The step first codes x: by at most k atoms each (`orthogonal_matching_pursuit`), or with the cost l0 of an atom
    (`sparse_set`), for

    .. math:: \sum_i \tfrac12 \|x_i - D a_i\|^2 + \lambda_0 \|a_i\|_0

    Then it changes each atom d in turn, together with its coefficients g in the examples that use it. With the error
    E of these examples without the atom,

    .. math:: d \leftarrow E g / \|E g\|, \qquad g \leftarrow E^T d

    one step of the power method for the best approximation of E of rank 1. No change raises the error, and no
    coefficient is added, so the objective never rises after the coding.

    Args:
      dictionary: `[inputs, atoms]`, for example that of `init_dictionary`.
      x: all examples `[examples, inputs]`. Those with NaN or infinite entries are left out.
      k: the largest number of atoms of a code; None if l0 is given.
      l0: the cost of an atom, above 0; may be traced. None if k is given.
      tolerance: of the coder: the fraction of an example's energy at which its pursuit stops (with k; None for k
        atoms), or as in `sparse_set` (with l0; None for its default).
      sweeps: number of passes over the atoms.

    Returns:
      The new dictionary `[inputs, atoms]`, whose atoms have norm 1, and an L0Fit. An atom in no code becomes the
        example with the largest error, a different one each, as long as there are examples other than 0. An empty x
        leaves the dictionary as it is.

    Raises:
      ValueError: shapes do not fit, a Python number is out of range, or not exactly one of k and l0 is given.

    References:
      Aharon, Elad & Bruckstein, K-SVD: an algorithm for designing overcomplete dictionaries for sparse representation,
      2006; Rubinstein, Zibulevsky & Elad, Efficient implementation of the K-SVD algorithm using batch orthogonal
      matching pursuit, 2008 (one step instead of an SVD). With l0, the objective is that of the thesis Sparse
      Coding in Deep Neural Networks and the Visual System, Eq. 1.25, with a factor 1/2 for the error.
    """
    if sweeps < 1:
        raise ValueError(f"sweeps is {sweeps}; expected 1 or more passes over the atoms.")
    return _step(dictionary, x, k, l0, tolerance, sweeps=sweeps)


@checked
def mod_step(
    dictionary: Float[AnyArray, "inputs atoms"],
    x: Float[AnyArray, "examples inputs"],
    *,
    k: int | None = None,
    l0: float | Float[Array, ""] | None = None,
    tolerance: float | Float[Array, ""] | None = None,
) -> tuple[Float[Array, "inputs atoms"], L0Fit]:
    r"""Returns the dictionary that explains the codes of x best: the method of optimal directions.

    .. math:: D \leftarrow X^T A\, (A^T A)^{-1}

    The atoms are then scaled to norm 1 and the coefficients by the inverse factors. A step takes one linear system
    instead of the sweep of `ksvd_step`, whose other properties it shares, but leaves the coefficients as they are.

    Args:
      dictionary: as in `ksvd_step`, like all other arguments.
      x: all examples `[examples, inputs]`.
      k: the largest number of atoms of a code; None if l0 is given.
      l0: the cost of an atom, above 0; may be traced. None if k is given.
      tolerance: of the coder.

    Returns:
      The new dictionary `[inputs, atoms]` and an L0Fit, as `ksvd_step`.

    Raises:
      ValueError: as `ksvd_step`.

    References:
      Engan, Aase & Husøy, Method of optimal directions for frame design, 1999.
    """
    return _step(dictionary, x, k, l0, tolerance, sweeps=None)


def _step(dictionary, x, k, l0, tolerance, *, sweeps):
    """Codes the finite examples and changes the dictionary: by sweeps of K-SVD, or MOD for None."""
    x = at_least_float32(x)
    dictionary = at_least_float32(dictionary).astype(x.dtype)
    if (k is None) == (l0 is None):
        both = "neither" if k is None else f"k={k} and l0={l0}"
        raise ValueError(f"{both} is given; expected either k, the most atoms of a code, or l0, the cost of an atom.")
    if k is not None and k < 1:
        raise ValueError(f"k is {k}; expected 1 or more atoms for each example.")
    finite = jnp.all(jnp.isfinite(x), 1)
    known = jnp.where(finite[:, None], x, 0)
    if k is not None:
        coded = orthogonal_matching_pursuit(known, dictionary, k=k, tolerance=tolerance)
    else:
        assert l0 is not None
        coded = sparse_set(known, dictionary, l0=l0, **({} if tolerance is None else {"tolerance": tolerance}))
    if not len(x):
        nothing = jnp.zeros((), x.dtype)
        return dictionary, L0Fit(coded.code, nothing, nothing, jnp.int32(0), jnp.int32(0))
    return _finish(dictionary, x, known, finite, coded.code, sweeps=sweeps)


@functools.partial(jax.jit, static_argnames="sweeps")
def _finish(dictionary, x, known, finite, code, *, sweeps):
    count = jnp.maximum(jnp.sum(finite, dtype=x.dtype), 1)
    before = known - product(code, dictionary.T)
    coding_error = jnp.sum(before**2) / count
    if sweeps is None:
        dictionary, code, residual = _mod(dictionary, known, code, before)
    else:
        dictionary, code, residual = _ksvd(dictionary, known, code, before, sweeps=sweeps)
    error = jnp.sum(residual**2) / count
    dictionary, replaced = revive(dictionary, ~jnp.any(code != 0, 0), known, residual)
    return dictionary, L0Fit(
        jnp.where(finite[:, None], code, jnp.nan),
        coding_error,
        error,
        jnp.sum(replaced, dtype=jnp.int32),
        jnp.sum(~finite, dtype=jnp.int32),
    )


def _ksvd(dictionary, x, code, residual, *, sweeps):
    """Returns the dictionary, its codes and the residual after sweeps over the atoms.

    Both passes over an atom's examples gather only their rows of the residual, `_AT_ONCE` at a time. Dense products
    would read the whole residual for each atom, although an atom is in few codes.
    """
    examples, atoms = code.shape
    at_once = min(_AT_ONCE, examples)
    # Room for the last part of a list; the row behind the last example is that of free places.
    room = -(-examples // at_once) * at_once
    residual = jnp.concatenate([residual, jnp.zeros_like(residual[:1])])

    def change(step, carry):
        dictionary, by_atom, residual = carry
        j = step % atoms
        coefficients, old = by_atom[j], dictionary[:, j]
        users = jnp.nonzero(coefficients[:examples] != 0, size=room, fill_value=examples)[0].astype(jnp.int32)
        parts = (jnp.sum(users < examples, dtype=jnp.int32) + at_once - 1) // at_once

        def of_part(part):
            rows = lax.dynamic_slice_in_dim(users, part * at_once, at_once)
            return rows, coefficients[rows], residual[rows]

        def collect(part, total):
            _, g, rest = of_part(part)
            return total[0] + product(g, rest), total[1] + jnp.sum(g**2)

        nothing = jnp.zeros((), residual.dtype)
        along, squares = lax.fori_loop(0, parts, collect, (jnp.zeros_like(old), nothing))
        new = along + squares * old
        length = jnp.linalg.norm(new)
        new = jnp.where(length > 0, new / jnp.where(length > 0, length, 1), old)
        overlap = jnp.sum(old * new)

        def refit(part, carry):
            by_atom, residual = carry
            rows = lax.dynamic_slice_in_dim(users, part * at_once, at_once)
            g, rest = by_atom[j, rows], residual[rows]
            fitted = product(rest, new) + g * overlap
            fitted = jnp.where((rows < examples) & (length > 0), fitted, g)
            rest = rest + g[:, None] * old[None, :] - fitted[:, None] * new[None, :]
            return by_atom.at[j, rows].set(fitted), residual.at[rows].set(rest)

        by_atom, residual = lax.fori_loop(0, parts, refit, (by_atom, residual))
        return dictionary.at[:, j].set(new), by_atom, residual

    by_atom = jnp.concatenate([code.T, jnp.zeros((atoms, 1), code.dtype)], 1)
    carry = (dictionary, by_atom, residual)
    dictionary, by_atom, residual = lax.fori_loop(0, sweeps * atoms, change, carry)
    code = by_atom[:, :examples].T
    return dictionary, code, x - product(code, dictionary.T)


def _mod(dictionary, x, code, residual):
    """Returns the least-squares dictionary, its codes and the residual."""
    gram = product(code.T, code)
    used = jnp.diagonal(gram) > 0
    # In units of each atom's coefficients, so that the small ridge, against singular systems, is small for every atom.
    scale = 1 / jnp.sqrt(jnp.where(used, jnp.diagonal(gram), 1))
    ridge = 10 * jnp.finfo(gram.dtype).eps + jnp.where(used, 0, 1).astype(gram.dtype)
    scaled = gram * scale[:, None] * scale[None, :] + jnp.diag(ridge)
    # Relative to the old dictionary: the ridge then shortens the change, not the atoms.
    right = product(code.T, residual) * scale[:, None]
    change = jax.scipy.linalg.cho_solve((jnp.linalg.cholesky(scaled), True), right) * scale[:, None]
    best = dictionary + jnp.where(used[:, None], change, 0).T
    lengths = jnp.linalg.norm(best, axis=0)
    fine = jnp.all(jnp.isfinite(best)) & jnp.all(lengths > 0)
    lengths = jnp.where(lengths > 0, lengths, 1)
    new, fitted = best / lengths[None, :], code * lengths[None, :]
    rest = x - product(fitted, new.T)
    better = fine & (jnp.sum(rest**2) <= jnp.sum(residual**2))
    return tuple(
        jnp.where(better, now, before) for now, before in ((new, dictionary), (fitted, code), (rest, residual))
    )
