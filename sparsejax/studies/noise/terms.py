"""The loss terms that noise adds, in closed form: tracked over training, and used as a loss (seed 001)."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.configuration import replace
from sparsejax.data import load
from sparsejax.figures.activity import activity_against_noise, implicit_bars, terms_along_training
from sparsejax.functional import implicit_terms
from sparsejax.studies.networks import Trained, train
from sparsejax.studies.noise.activity import base, grid
from sparsejax.studies.study import Outcome, Scale, study

_SIGMAS = (0.05, 0.1, 0.3, 0.8)
_UNITS = 256


def _noisy(scale: Scale, folder: Path) -> Trained:
    """Trains with noise while tracking its terms: networks that all studies here share."""
    config = base(scale, hidden=_UNITS)
    config = replace(config, {"evaluation.track": (*config.evaluation.track, "implicit_terms")})
    return grid(config, scale, folder, "noise", _SIGMAS)


@study("emergence/terms", "the three loss terms that noise adds, before and after training", "the three terms")
def _terms(scale: Scale, folder: Path) -> Outcome:
    """Evaluates the terms at each noise level before and after training under that noise, against Monte-Carlo."""
    trained = _noisy(scale, folder)
    config = base(scale, hidden=_UNITS)
    x = jnp.asarray(load(config.data.name, config.data.source).test.images[:200].reshape(200, -1) / np.float32(255))
    untrained = config.model.init(jax.random.key(0), x[:1])
    rows = {"untrained": [], "trained": []}
    drawn = {"untrained": [], "trained": []}
    for level, sigma in enumerate(_SIGMAS):
        after = jax.tree.map(lambda leaf, level=level: jnp.asarray(leaf[level * trained.seeds]),
                             trained.finished.variables.params)  # fmt: skip
        for name, params in (("untrained", untrained.params), ("trained", after)):
            weights = (params["hidden"]["kernel"], params["hidden"]["bias"], params["output"]["kernel"],
                       params["output"]["bias"])  # fmt: skip
            terms = implicit_terms(x, *weights, sigma=sigma)
            rows[name].append([float(jnp.mean(term)) / x.shape[-1] for term in terms])
            drawn[name].append(_monte_carlo(x, weights, sigma) / x.shape[-1])
    figure = implicit_bars(_SIGMAS, rows, drawn)
    ours = {"sigma": list(_SIGMAS)}
    for name, values in rows.items():
        sums = np.sum(values, axis=1)
        ours |= {f"{name}: mean shift, second moment, co-fluctuation": values, f"{name}: sum": sums.tolist(),
                 f"{name}: sum by drawing noise": drawn[name]}  # fmt: skip
    return Outcome(figure, ours, {}, [config.training.seed])


def _monte_carlo(x, weights, sigma: float, draws: int = 200) -> float:
    """Estimates the increase of the summed squared error by sampling noise, with antithetic pairs."""
    encoder, encoder_bias, decoder, decoder_bias = weights

    def loss(inputs):
        made = jax.nn.relu(inputs @ encoder + encoder_bias[None]) @ decoder + decoder_bias[None]
        return jnp.mean(jnp.sum((made - x) ** 2, axis=-1))

    def of_draw(key):
        noise = sigma * jax.random.normal(key, x.shape)
        return (loss(x + noise) + loss(x - noise)) / 2

    return float(jnp.mean(jax.lax.map(of_draw, jax.random.split(jax.random.key(1), draws))) - loss(x))


@study("emergence/trained", "trained on the terms instead of the noise", "the three terms as a loss")
def _train_on_terms(scale: Scale, folder: Path) -> Outcome:
    """Trains on noise, on its terms instead of it, and on neither."""
    seeds = (10,)
    noisy = _noisy(scale, folder)
    on_terms = base(scale, hidden=_UNITS, sigma=0.0, implicit=1.0)
    terms = train(on_terms, folder, "terms", fields={"model.implicit_sigma": _SIGMAS}, seeds=seeds)
    plain = train(base(scale, hidden=_UNITS, sigma=0.0), folder, "plain", fields={"model.sigma": (0.0,)},
                  seeds=seeds)  # fmt: skip
    name = "active_fraction/hidden"
    without = np.repeat(plain.last(name), len(_SIGMAS), axis=0)
    values = {"noise": noisy.last(name), "its terms as a loss": terms.last(name), "neither": without}
    figure = activity_against_noise(_SIGMAS, values, {})
    ours = {"sigma": list(_SIGMAS), **{label: value.mean(1).tolist() for label, value in values.items()}}
    return Outcome(figure, ours, {}, list(seeds))


@study("emergence/along", "the three loss terms that noise adds, over training", "the three terms along training")
def _along(scale: Scale, folder: Path) -> Outcome:
    """Tracks the terms of the noise while networks train with it."""
    trained = _noisy(scale, folder)
    names = ("mean shift", "second moment", "co-fluctuation")
    series = {name: trained.along("implicit/" + name.replace(" ", "_").replace("-", "_")) for name in names}
    epochs = next(iter(series.values()))[0]
    figure = terms_along_training(epochs, {name: values for name, (_, values) in series.items()}, _SIGMAS)
    ours = {"sigma": list(_SIGMAS)}
    for name, (_, values) in series.items():
        ours |= {
            f"{name} after an epoch": values[0].mean(1).tolist(),
            f"{name} at the end": values[-1].mean(1).tolist(),
        }
    return Outcome(figure, ours, {}, [base(scale).training.seed])
