"""Lateral interactions between the units of a layer: explaining away, and a single inhibitory interneuron."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from sparsejax.functional.arguments import checked


@checked
def explain_away(
    drive: Float[Array, "*batch units"],
    lateral: Float[Array, "units units"],
    *,
    steps: int = 1,
    gamma: float | Float[Array, ""] = 1.0,
    zero_diagonal: bool = False,
    only_inhibitory: bool = False,
) -> Float[Array, "*batch units"]:
    r"""Lets every unit inhibit (or excite) every other for a few steps, then rectifies.

    .. math:: \mu_0 = \mathrm{drive}, \quad z_t = \mathrm{ReLU}(\mu_t), \quad
        \mu_{t+1} = \mu_t + \gamma\, (\mu_0 - G z_t - \mu_t)

    The gradient passes through all steps. Reverse-mode differentiation stores the activations of every step.

    Args:
      drive: feed-forward input of the layer including its bias `[..., units]`.
      lateral: G; row i has the weights to unit i from each unit. A positive weight inhibits.
      steps: number of updates; static. 0 is a plain ReLU layer.
      gamma: size of an update; 1 replaces mu, smaller values move it partially; may be traced.
      zero_diagonal: exclude self-connections. The paper and its code include them.
      only_inhibitory: subtract relu(G z), so that no unit exceeds its own input.

    Returns:
      Array like drive, relu(mu) after the last step.

    Raises:
      ValueError: lateral does not fit drive, steps is not an integer >= 0, or gamma is a negative Python number.

    References:
      Bricken et al., Noise Transforms Feed-Forward Networks into Sparse Coding Networks, 2022, Eq. 2 and appendix C
      (whose first line has the reconstruction in place of the noisy input). steps=1 and gamma=1 are its Table 1.
    """
    units = drive.shape[-1]
    if lateral.shape != (units, units):
        raise ValueError(
            f"lateral has shape {lateral.shape}, but drive has {units} units; expected ({units}, {units}), "
            "one row per receiving unit."
        )
    if zero_diagonal:
        lateral = jnp.where(jnp.eye(units, dtype=bool), jnp.zeros_like(lateral), lateral)

    def inhibition(z):
        received = z @ lateral.T
        return jax.nn.relu(received) if only_inhibitory else received

    return _settle(drive, inhibition, steps, gamma)


@checked
def inhibitory_interneuron(
    drive: Float[Array, "*batch units"],
    gather: Float[Array, "units"],
    scatter: Float[Array, "units"],
    bias: Float[Array, ""] | None = None,
    *,
    steps: int = 1,
    gamma: float | Float[Array, ""] = 1.0,
    rectified: bool = False,
) -> Float[Array, "*batch units"]:
    r"""Lets all units excite one interneuron, which inhibits them all: `explain_away` with G of rank one.

    .. math:: G z = \mathrm{scatter} \cdot f(\mathrm{gather} \cdot z + \mathrm{bias})

    Args:
      drive: feed-forward input of the layer `[..., units]`.
      gather: weights from the units to the interneuron `[units]`.
      scatter: weights from the interneuron back to the units `[units]`; positive inhibits.
      bias: the interneuron's bias `[]`, None for none.
      steps: as in `explain_away`.
      gamma: as in `explain_away`.
      rectified: f is ReLU instead of the identity. The paper's interneuron is linear and has no bias; its code has
        both a ReLU and a bias.

    Returns:
      Array like drive.

    Raises:
      ValueError: gather or scatter does not fit drive, bias is not a scalar, or as `explain_away`.

    References:
      Bricken et al., 2022, appendix C, G_d G_e z. It is only useful in layers whose units have no bias.
    """
    for name, weights in (("gather", gather), ("scatter", scatter)):
        if weights.shape != drive.shape[-1:]:
            raise ValueError(
                f"{name} has shape {weights.shape}, but drive has {drive.shape[-1]} units; expected one weight each, "
                f"({drive.shape[-1]},)."
            )

    def inhibition(z):
        activity = z @ gather if bias is None else z @ gather + bias
        return jnp.tensordot(jax.nn.relu(activity) if rectified else activity, scatter, axes=0)

    return _settle(drive, inhibition, steps, gamma)


def _settle(drive: Array, inhibition: Callable[[Array], Array], steps: int, gamma: float | Array) -> Array:
    if steps < 0:
        raise ValueError(f"steps is {steps}; expected a number of updates, 0 (a plain ReLU layer) or more.")
    if isinstance(gamma, (int, float)) and not gamma >= 0:
        raise ValueError(f"gamma is {gamma}; expected the size of an update, 0 or more.")
    rate = jnp.asarray(gamma, drive.dtype)

    def step(mu, _):
        return mu + rate * (drive - inhibition(jax.nn.relu(mu)) - mu), None

    mu, _ = lax.scan(step, drive, length=steps)
    return jax.nn.relu(mu)
