"""Trees as arrays by name: the names of leaves, and trees filled by name instead of by order."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from sparsejax.errors import ConfigError, shorten

_SHOWN = 5  # names per list in a message

Name = Callable[[tuple[Any, ...]], str]
"""Path of a leaf -> its name; `jax.tree_util.keystr` gives one for every leaf of any tree."""


def raw(leaf: Any) -> Any:
    """Returns an array, or the data of PRNG keys."""
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def by_name(tree: Any, name: Name = jax.tree_util.keystr) -> dict[str, Any]:
    """Returns the leaves of a tree by name, in the tree's order; PRNG keys become their data.

    Raises:
      ConfigError: two leaves have the same name, as `{"a.b": x, "a": {"b": y}}` with dots between the keys.
    """
    found: dict[str, Any] = {}
    for path, leaf in jax.tree.leaves_with_path(tree):
        if name(path) in found:
            raise ConfigError(f"Two arrays of the network have the name {name(path)}; rename one of them.")
        found[name(path)] = raw(leaf)
    return found


def fill(like: Any, arrays: Mapping[str, Any], name: Name = jax.tree_util.keystr) -> Any:
    """Returns a tree of the structure of `like` with the arrays of its names; see `difference` for others."""
    leaves, structure = jax.tree.flatten_with_path(like)
    chosen = [(leaf, arrays[name(path)]) for path, leaf in leaves]
    return jax.tree.unflatten(structure, [
        jax.random.wrap_key_data(jnp.asarray(array)) if _is_key(leaf) else array for leaf, array in chosen
    ])  # fmt: skip


def difference(found: Mapping[str, Any], like: Any, name: Name = jax.tree_util.keystr) -> str:
    """Returns how arrays differ in names, shapes or types from those of a tree, "" if they do not.

    It is a part of a sentence whose subject is what holds the arrays: "has x, which …, and lacks y".
    """
    expected = by_name(jax.eval_shape(lambda tree: jax.tree.map(raw, tree), like), name)
    extra, missing = (sorted(a.keys() - b.keys()) for a, b in ((found, expected), (expected, found)))
    if extra or missing:
        has = f"has {_some(extra)}, which the network lacks" if extra else ""
        lacks = f"lacks {_some(missing)}, which the network has" if missing else ""
        return "; it ".join(filter(None, (has, lacks)))
    other = [
        f"{path} is {array.dtype} {list(array.shape)} where {wanted.dtype} {list(wanted.shape)} is expected"
        for path, wanted in expected.items()
        for array in [found[path]]
        if (array.shape, array.dtype) != (wanted.shape, wanted.dtype)
    ]
    return f"has other arrays: {_some(other, '; ')}" if other else ""


def _some(words: Iterable[str], separator: str = ", ") -> str:
    words = list(words)
    more = f" and {len(words) - _SHOWN} more" if len(words) > _SHOWN else ""
    return separator.join(shorten(word) for word in words[:_SHOWN]) + more


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
