"""What a language model loses when a reconstruction replaces one of its sites."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Int

from sparsejax.errors import ConfigError
from sparsejax.models.base import Variables
from sparsejax.models.gpt import GPT, next_token_loss

Reconstruct = Callable[[Array], Array]
"""From activations `[..., width]` to their reconstructions."""


class Recovered(NamedTuple):
    """Losses of a language model, in nats for each token, averaged over all texts.

    Attributes:
      clean: cross-entropy of the network itself.
      replaced: with the reconstruction at the site.
      removed: with zeros at the site.
      recovered: (removed - replaced) / (removed - clean), 1 for a perfect reconstruction.
      divergence: Kullback-Leibler divergence of the replaced network's predictions from the clean one's.
    """

    clean: float
    replaced: float
    removed: float
    recovered: float
    divergence: float


def measure_recovered(
    model: GPT,
    variables: Variables,
    tokens: Int[np.ndarray, "texts length"],
    site: str,
    reconstruct: Reconstruct,
    *,
    batch_size: int = 32,
) -> Recovered:
    """Return how much of a language model survives a reconstruction.

    Args:
      model: the language model.
      variables: of it.
      tokens: texts, `[texts, length]`.
      site: which activations are replaced, as `GPT.apply` names them.
      reconstruct: from activations `[..., width]` to reconstructions, such as an autoencoder of `load_sae`; a
        `jax.tree_util.Partial` of arrays is compiled once.
      batch_size: texts per forward pass.

    Raises:
      ConfigError: the network has no such site.

    References:
      Bricken et al., Towards Monosemanticity, 2023; Gao et al., Scaling and evaluating sparse autoencoders, 2024,
      section 4.
    """
    names = list(jax.eval_shape(model.read_sites, variables, tokens[:1]))
    if site not in names:
        raise ConfigError(f"The network has no site {site!r}; its sites are {', '.join(names)}.")
    way = reconstruct if isinstance(reconstruct, Partial) else Partial(reconstruct)
    sums: Any = 0
    for first in range(0, len(tokens), batch_size):
        batch = jnp.asarray(tokens[first : first + batch_size])
        sums = sums + np.asarray(_losses(model, variables, batch, way, site), np.float64)
    clean, replaced, removed, divergence = sums / len(tokens)
    return Recovered(clean, replaced, removed, (removed - replaced) / (removed - clean), divergence)


@jax.jit(static_argnames="site")
def _losses(model: GPT, variables: Variables, tokens: Array, reconstruct: Reconstruct, site: str) -> Array:
    """Returns the sums over the texts of the three losses and the divergence."""

    def logits(change: Callable[[Array], Array]) -> Array:
        return model.apply(variables, tokens, visit=lambda name, h: change(h) if name == site else h).prediction

    clean, replaced, removed = (logits(change) for change in (lambda h: h, reconstruct, jnp.zeros_like))
    log_p, log_q = jax.nn.log_softmax(clean), jax.nn.log_softmax(replaced)
    divergence = jnp.mean(jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)[:, :-1], axis=-1)
    losses = (*(next_token_loss(one, tokens) for one in (clean, replaced, removed)), divergence)
    return jnp.stack([jnp.sum(loss) for loss in losses])
