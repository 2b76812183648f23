"""The normal distribution function, and the GELU based on it, with custom derivatives.

JAX 0.12.0 cannot differentiate its error function inside `jax.shard_map`: the rule mixes arrays that vary over devices
with constants that do not.
"""

import jax
from jaxtyping import Array, Float


@jax.custom_jvp
def normal_cdf(x: Float[Array, "*any"]) -> Float[Array, "*any"]:
    """Return the probability that a standard normal variable is at most x."""
    return jax.scipy.special.ndtr(x)


@normal_cdf.defjvp
def _normal_cdf_jvp(primals, tangents):
    (x,), (change,) = primals, tangents
    return normal_cdf(x), change * jax.scipy.stats.norm.pdf(x)


@jax.custom_jvp
def gelu(x: Float[Array, "*any"]) -> Float[Array, "*any"]:
    """Return x times `normal_cdf(x)`: the exact form of GELU (Hendrycks and Gimpel, 2016)."""
    return jax.nn.gelu(x, approximate=False)


@gelu.defjvp
def _gelu_jvp(primals, tangents):
    (x,), (change,) = primals, tangents
    # ndtr only takes float32 and float64.
    single = x.astype("float32") if x.dtype.itemsize < 4 else x
    slope = normal_cdf(single) + single * jax.scipy.stats.norm.pdf(single)
    return gelu(x), change * slope.astype(x.dtype)
