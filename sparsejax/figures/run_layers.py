"""Figures of a run's layers: their units, activations and weights; None if there is nothing to draw."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from sparsejax.data.folders import load_npz
from sparsejax.figures.drawing import Drawing
from sparsejax.models.base import kernel_of
from sparsejax.training.run_folder import RunFolder


def active(result: Mapping[str, Any]) -> Drawing | None:
    """Draws the fraction of active units of each layer."""
    from sparsejax.figures.units import active_fractions

    members = result["members"]
    layers = members[0].get("layers")
    if not layers:
        return None
    fractions = {name: [member["layers"][name]["active_fraction"] for member in members] for name in layers}
    targets = {name: _inference_target(result, name) for name in layers}
    said = ", ".join(f"{name} {100 * np.mean(values):.1f} %" for name, values in fractions.items())
    return Drawing(
        "active_fraction.png",
        "Active units",
        "Fraction of each layer's units that are not zero at inference, mean over the test set"
        + (" and the networks; dark lines span the networks." if len(members) > 1 else "."),
        f"Bar chart of the fraction of active units per layer: {said}.",
        lambda width: active_fractions(fractions, targets=targets, width=width),
        "column",
    )


def duty_cycles(result: Mapping[str, Any], variables: Any) -> Drawing | None:
    """Draws how often units won, if any layer has k-winners."""
    from sparsejax.figures.units import DutyCycles, duty_cycle_histograms

    members = result["members"]
    layers = {}
    for name, layer in (result.get("layers") or {}).items():
        boost = variables.state.get(name, {}).get("boost")
        if boost is None:
            continue
        targets = [_winners(result, member["layers"][name]) for member in members]
        layers[name] = DutyCycles(np.asarray(boost.duty_cycle), np.array(targets, float), layer.get("duty_entropy"),
                                  layer.get("max_entropy"))  # fmt: skip
    if not layers:
        return None
    said = "; ".join(
        f"{name}: from {np.min(layer.duty_cycle):.2f} to {np.max(layer.duty_cycle):.2f}, "
        f"target {np.mean(layer.target):.2f}"
        for name, layer in layers.items()
    )
    pooled = f", all {len(members)} networks pooled" if len(members) > 1 else ""
    return Drawing(
        "duty_cycles.png",
        "Duty cycles",
        "How often each unit (of a convolution: each channel) was among the winners at the end of training" + pooled
        + "; if all units won equally often, all would be at k / n.",
        f"Histograms of the duty cycles of each k-winners layer; {said}.",
        lambda width: duty_cycle_histograms(layers, width=width),
        "page" if len(layers) > 1 else "column",
    )  # fmt: skip


def sizes(folder: RunFolder, result: Mapping[str, Any]) -> Drawing | None:
    """Draws the magnitudes of activations, if they were measured."""
    from sparsejax.figures.histograms import Histogram, histograms

    if not folder.detail.exists():
        return None
    arrays = load_npz(folder.detail)
    edges, panels = arrays["magnitudes.edges"], {}
    for name in result["layers"]:
        counts = arrays[f"{name}.magnitudes"].sum(0)
        silent = f"{100 * counts[0] / max(counts.sum(), 1):.1f} % are 0"
        panels[name] = _trim(Histogram(counts[1:-1], edges, "magnitude of activations", silent))
    return Drawing(
        "activations.png",
        "Magnitudes of activations",
        f"Magnitudes of the activations of each hidden layer on the test set, in half octaves; those below "
        f"{edges[0]:.0e} count as 0 and are omitted{_pooling_note(result)}.",
        "Histograms of the magnitudes of activations of each hidden layer, on a logarithmic axis.",
        lambda width: histograms(panels, columns=3, height=1.7, log_x=True, width=width),
        "page" if len(panels) > 1 else "column",
    )


def weights(folder: RunFolder, result: Mapping[str, Any]) -> Drawing | None:
    """Draws the distribution of weights, if it was measured."""
    from sparsejax.figures.histograms import Histogram, histograms

    if not folder.detail.exists():
        return None
    arrays = load_npz(folder.detail)
    names = [name.removesuffix(".weights") for name in arrays if name.endswith(".weights")]
    panels = {
        name: Histogram(arrays[f"{name}.weights"].sum(0), arrays[f"{name}.weights.edges"], "weight") for name in names
    }
    if not panels:
        return None
    return Drawing(
        "weights.png",
        "Weights",
        f"Distribution of the weights of each layer after the last epoch; the axis of per cent is logarithmic"
        f"{_pooling_note(result)}.",
        f"Histograms of the weights of {', '.join(names)}.",
        lambda width: histograms(panels, columns=2 if len(panels) == 4 else 3, height=1.7, log_y=True, width=width),
        "page" if len(panels) > 1 else "column",
    )


def filters(result: Mapping[str, Any], variables: Any) -> Drawing | None:
    """Draws the first layer of the first network, if its inputs are images."""
    from sparsejax.figures.filters import as_images, filter_grid

    name = next(iter(result.get("layers") or {}), None)
    params = variables.params.get(name, {})
    kind = (result.get("data") or {}).get("kind", "images")
    # Weights on latents or on a residual stream are not images.
    if not {"kernel", "rows"} & set(params) or kind != "images":
        return None
    kernel, mask = np.asarray(kernel_of(params)[0]), variables.state.get(name, {}).get("mask")
    mask = None if mask is None else np.asarray(mask[0])
    if kernel.ndim == 2:
        try:
            kernel, mask = as_images(kernel), None if mask is None else as_images(mask)
        except ValueError:
            return None
    if kernel.ndim != 4:
        return None
    height, width, _, units = kernel.shape
    what = "Receptive fields" if np.ndim(kernel_of(params)) == 3 else "Filters"
    which = f" of the network with seed {result['members'][0]['seed']}" if len(result["members"]) > 1 else ""
    shown = min(units, 64)
    return Drawing(
        "filters.png",
        "First layer",
        f"{what} of {name}{which}: weights on one common scale"
        + ("." if mask is None else "; grey pixels have no weight."),
        f"Grid of {shown} {what.lower()} of {height} by {width} pixels, weights from {kernel.min():.2f} to "
        f"{kernel.max():.2f}.",
        lambda width: filter_grid(kernel, mask=mask, width=width),
    )


def _pooling_note(result: Mapping[str, Any]) -> str:
    return ", all networks pooled" if len(result["members"]) > 1 else ""


def _trim(histogram: Any) -> Any:
    """Removes the empty bins at either end."""
    counts, edges = np.asarray(histogram.counts), np.asarray(histogram.edges)
    filled = np.flatnonzero(counts)
    if not len(filled):
        return histogram
    first, last = filled[0], filled[-1] + 1
    return histogram._replace(counts=counts[first:last], edges=edges[first : last + 1])


def _winners(result: Mapping[str, Any], layer: Mapping[str, Any], key: str = "k") -> float | None:
    """Returns k / n of a layer; with local competition n is the number of channels."""
    if layer.get(key) is None:
        return None
    local = (result.get("config") or {}).get("model", {}).get("local", False)
    return layer[key] / (layer["channels"] if local and "channels" in layer else layer["units"])


def _inference_target(result: Mapping[str, Any], name: str) -> float | None:
    """Returns k / n at inference, if it is the same for all networks."""
    targets = {_winners(result, member["layers"][name], "k_inference") for member in result["members"]}
    return targets.pop() if len(targets) == 1 else None
