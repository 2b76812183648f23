"""Files of sparse autoencoders: read and written in the layouts of other libraries, with all scaling folded in."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.errors import ConfigError, DataDamagedError, DataMissingError, shorten
from sparsejax.evaluation.sae.autoencoder import Autoencoder, fold
from sparsejax.files import make_folder, replace_file
from sparsejax.models.base import Variables
from sparsejax.models.sparse_autoencoder import SparseAutoencoder
from sparsejax.training.restore import TrainedNetwork

Layout = Literal["saelens", "sparsify", "gemma_scope", "gemma_scope_2"]
_FILES = {"saelens": "sae_weights.safetensors", "sparsify": "sae.safetensors", "gemma_scope": "params.npz",
          "gemma_scope_2": "params.safetensors"}  # fmt: skip


def load_sae(path: str | Path, layout: Layout | None = None) -> Autoencoder:
    """Read a sparse autoencoder that another library, or `save_sae`, wrote.

    Args:
      path: a folder with `sae_weights.safetensors` (SAELens), `sae.safetensors` (sparsify), `params.npz` (Gemma Scope)
        or `params.safetensors` (Gemma Scope 2), or such a file.
      layout: which of them; None to recognise it by the file's name.

    Raises:
      DataMissingError: there is no such file.
      DataDamagedError: it cannot be read, or an array is missing or has another shape.
      ConfigError: its architecture is not known, or a scaling of its inputs is not a constant.
    """
    path = Path(path)
    name: str | None = layout
    if path.is_dir():
        found = [one for one, file in _FILES.items() if (path / file).is_file() and layout in (None, one)]
        if not found:
            raise DataMissingError(f"{path} holds none of {', '.join(_FILES.values())}; expected one of these files.")
        name, path = found[0], path / _FILES[found[0]]
    elif not path.is_file():
        raise DataMissingError(f"{path} does not exist; expected a folder or file of a sparse autoencoder.")
    name = name or next((one for one, file in _FILES.items() if file == path.name), None)
    if name not in get_args(Layout):
        raise ConfigError(f"{path.name} is not the name of a known file; pass layout={', '.join(get_args(Layout))}.")
    read = {"saelens": _of_saelens, "sparsify": _of_sparsify, "gemma_scope": _of_gemma, "gemma_scope_2": _of_gemma}
    return read[str(name)](_read(path), _settings(path.with_name("cfg.json")))


def from_dictionary_learning(arrays: Mapping[str, Any]) -> Autoencoder:
    """Return the autoencoder of a state dictionary of dictionary_learning, given as NumPy arrays.

    Its standard, gated, TopK, BatchTopK and JumpReLU classes are told apart by their names.
    """
    found = {name: np.asarray(array, np.float32) for name, array in arrays.items()}
    if "W_enc" in found:
        return _make("jump_relu", found["W_enc"].T, found["W_dec"], found["b_enc"], found["b_dec"],
                     pre_bias=False, threshold=found["threshold"])  # fmt: skip
    rows, kernel = _take(found, "encoder.weight"), _take(found, "decoder.weight").T
    if "gate_bias" in found:
        return _make("gated", rows, kernel, found["gate_bias"], _take(found, "decoder_bias"),
                     log_gain=_take(found, "r_mag"), gain_bias=_take(found, "mag_bias"))  # fmt: skip
    bias = _take(found, "encoder.bias")
    if "threshold" in found and float(found["threshold"]) >= 0:  # the running threshold of TopK and BatchTopK
        threshold = np.full(len(rows), found["threshold"], np.float32)
        return _make("jump_relu", rows, kernel, bias, _take(found, "b_dec"), threshold=threshold)
    if "k" in found:
        return _make("top_k", rows, kernel, bias, _take(found, "b_dec"), k=int(found["k"]))
    return _make("relu", rows, kernel, bias, _take(found, "bias"))


def save_sae(folder: str | Path, network: TrainedNetwork | Autoencoder, layout: Layout = "saelens") -> Path:
    """Write a sparse autoencoder in the layout of another library, and return the folder.

    Args:
      folder: where to write; existing files are replaced.
      network: a trained network, which is folded, or an autoencoder.
      layout: "saelens", "sparsify" (TopK only), or "gemma_scope" and "gemma_scope_2" (JumpReLU only).

    Raises:
      ConfigError: the layout has no such activation or skip connection, or the network cannot be folded.
    """
    sae = fold(network) if isinstance(network, TrainedNetwork) else network
    arrays, settings = _WRITERS[layout](sae)
    arrays = {name: np.ascontiguousarray(np.asarray(array, np.float32)) for name, array in arrays.items()}
    folder = Path(folder)
    make_folder(folder)
    if settings is not None:
        replace_file(folder / "cfg.json", json.dumps(settings, indent=1).encode())
    file = folder / _FILES[layout]
    if layout == "gemma_scope":
        replace_file(file, lambda opened: np.savez(opened, **arrays))  # pyright: ignore[reportArgumentType]
    else:
        from safetensors.numpy import save

        replace_file(file, save(arrays))
    return folder


def _of_saelens(arrays: Mapping[str, np.ndarray], settings: Mapping[str, Any]) -> Autoencoder:
    kind = str(settings.get("architecture", "jumprelu" if "threshold" in arrays else "standard"))
    scaling = settings.get("normalize_activations", "none")
    if scaling not in ("none", None, "expected_average_only_in"):
        raise ConfigError(f"The autoencoder scales its inputs by {scaling!r}, which is not constant; fold it first.")
    rows, kernel = _take(arrays, "W_enc").T, _take(arrays, "W_dec")
    common = {"pre_bias": bool(settings.get("apply_b_dec_to_input", True))}
    b_dec = _take(arrays, "b_dec")
    if kind == "gated":
        return _make("gated", rows, kernel, _take(arrays, "b_gate"), b_dec, log_gain=_take(arrays, "r_mag"),
                     gain_bias=_take(arrays, "b_mag"), **common)  # fmt: skip
    bias = _take(arrays, "b_enc")
    if kind == "jumprelu":
        return _make("jump_relu", rows, kernel, bias, b_dec, threshold=_take(arrays, "threshold"), **common)
    if kind == "topk":
        return _make("top_k", rows, kernel, bias, b_dec, k=int(settings["k"]), **common)
    if kind in ("standard", "relu"):
        return _make("relu", rows, kernel, bias, b_dec, **common)
    raise ConfigError(f"The architecture {kind!r} is not known; expected standard, gated, jumprelu or topk.")


def _of_sparsify(arrays: Mapping[str, np.ndarray], settings: Mapping[str, Any]) -> Autoencoder:
    if settings.get("activation", "topk") != "topk":
        raise ConfigError(f"The activation {settings['activation']!r} is not known; expected topk.")
    skip = arrays.get("W_skip")
    return _make("top_k", _take(arrays, "encoder.weight"), _take(arrays, "W_dec"), _take(arrays, "encoder.bias"),
                 _take(arrays, "b_dec"), k=int(settings.get("k", 32)), pre_bias=not settings.get("transcode", False),
                 skip=None if skip is None else skip.T)  # fmt: skip


def _of_gemma(arrays: Mapping[str, np.ndarray], settings: Mapping[str, Any]) -> Autoencoder:
    found = {name.lower(): array for name, array in arrays.items()}
    skip = found.get("affine_skip_connection")
    return _make("jump_relu", _take(found, "w_enc").T, _take(found, "w_dec"), _take(found, "b_enc"),
                 _take(found, "b_dec"), threshold=_take(found, "threshold"), pre_bias=False, skip=skip)  # fmt: skip


def _make(
    activation: Any, rows: Any, kernel: Any, bias: Any, b_dec: Any, *, k: int | None = None, pre_bias: bool = True,
    skip: Any = None, **more: Any,
) -> Autoencoder:  # fmt: skip
    """Returns an autoencoder of arrays, after checking that they fit each other."""
    n, outputs = kernel.shape
    wanted = {"rows": (n, rows.shape[-1]), "bias": (n,), **dict.fromkeys(more, (n,))}
    hidden = {"rows": rows, "bias": bias, **more}
    output = {"kernel": kernel, "bias": b_dec} | ({} if skip is None else {"skip": skip})
    wrong = [name for name, shape in wanted.items() if hidden[name].shape != shape]
    if wrong or b_dec.shape != (outputs,):
        name = wrong[0] if wrong else "b_dec"
        found = hidden[name].shape if wrong else b_dec.shape
        raise DataDamagedError(f"{name} has shape {found}, which does not fit a decoder {kernel.shape}.")
    model = SparseAutoencoder(hidden=n, activation=activation, k=k, decoder="free", pre_bias=pre_bias,
                              skip=skip is not None)  # fmt: skip
    params = jax.tree.map(lambda array: jnp.asarray(array, jnp.float32), {"hidden": hidden, "output": output})
    return Autoencoder(model, Variables(params, {"hidden": {"idle": jnp.zeros(n, jnp.int32)}}))


def _to_saelens(sae: Autoencoder) -> tuple[dict[str, Any], dict[str, Any]]:
    model, hidden = sae.model, sae.variables.params["hidden"]
    kinds = {"relu": "standard", "jump_relu": "jumprelu", "top_k": "topk", "gated": "gated"}
    _expect(model, "SAELens", not model.skip)
    arrays = {"W_enc": sae.W_enc, "W_dec": sae.W_dec, "b_dec": sae.b_dec}
    if model.activation == "gated":
        arrays |= {"b_gate": hidden["bias"], "r_mag": hidden["log_gain"], "b_mag": hidden["gain_bias"]}
    else:
        arrays["b_enc"] = sae.b_enc
    if model.activation == "jump_relu":
        arrays["threshold"] = jax.nn.relu(hidden["threshold"])
    settings = {"architecture": kinds[model.activation], "d_in": sae.W_enc.shape[0], "d_sae": model.hidden,
                "dtype": "float32", "device": "cpu", "apply_b_dec_to_input": model.pre_bias,
                "normalize_activations": "none", "reshape_activations": "none", "metadata": {}}  # fmt: skip
    if model.activation == "top_k":
        settings |= {"k": int(model.k or 0), "rescale_acts_by_decoder_norm": False}
    return arrays, settings


def _to_sparsify(sae: Autoencoder) -> tuple[dict[str, Any], dict[str, Any]]:
    model, output = sae.model, sae.variables.params["output"]
    _expect(model, "sparsify", model.activation == "top_k")
    arrays = {"encoder.weight": sae.W_enc.T, "encoder.bias": sae.b_enc, "W_dec": sae.W_dec, "b_dec": sae.b_dec}
    if model.skip:
        arrays["W_skip"] = output["skip"].T
    settings = {"d_in": sae.W_enc.shape[0], "activation": "topk", "k": int(model.k or 0), "num_latents": model.hidden,
                "expansion_factor": 32, "normalize_decoder": True, "multi_topk": False,
                "skip_connection": model.skip, "transcode": not model.pre_bias}  # fmt: skip
    return arrays, settings


def _to_gemma(sae: Autoencoder) -> tuple[dict[str, Any], None]:
    model, hidden = sae.model, sae.variables.params["hidden"]
    _expect(model, "Gemma Scope", model.activation == "jump_relu" and not model.skip)
    bias = sae.b_enc - hidden["rows"] @ sae.b_dec if model.pre_bias else sae.b_enc  # it subtracts no bias
    return {"W_enc": sae.W_enc, "W_dec": sae.W_dec, "b_enc": bias, "b_dec": sae.b_dec,
            "threshold": jax.nn.relu(hidden["threshold"])}, None  # fmt: skip


def _to_gemma_2(sae: Autoencoder) -> tuple[dict[str, Any], None]:
    plain = dataclasses.replace(sae.model, skip=False)
    arrays, _ = _to_gemma(dataclasses.replace(sae, model=plain))
    arrays = {name.lower(): array for name, array in arrays.items()}
    if sae.model.skip:
        skip = sae.variables.params["output"]["skip"]
        arrays["affine_skip_connection"] = skip
        if sae.model.pre_bias:
            arrays["b_dec"] = arrays["b_dec"] - sae.b_dec @ skip
    return arrays, None


_WRITERS: dict[str, Callable[[Autoencoder], tuple[dict[str, Any], dict[str, Any] | None]]] = {
    "saelens": _to_saelens, "sparsify": _to_sparsify, "gemma_scope": _to_gemma, "gemma_scope_2": _to_gemma_2,
}  # fmt: skip


def _expect(model: SparseAutoencoder, library: str, holds: bool) -> None:
    if not holds:
        skip = " and a skip connection" * model.skip
        raise ConfigError(f"{library}'s layout has no place for {model.activation}{skip}; choose another layout.")


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                return {name: np.asarray(file[name], np.float32) for name in file.files}
        from safetensors import safe_open

        with safe_open(path, framework="flax") as file:  # NumPy's framework has no bfloat16
            return {name: np.asarray(file.get_tensor(name), np.float32) for name in file.keys()}  # noqa: SIM118  it is no mapping
    except ImportError:
        raise ConfigError("safetensors is not installed: pip install safetensors.") from None
    except Exception as error:
        raise DataDamagedError(f"{path} cannot be read ({shorten(repr(error))}); get it again.") from None


def _settings(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise DataDamagedError(f"{path} is no JSON ({shorten(str(error))}); get it again.") from None
    if not isinstance(found, dict):
        raise DataDamagedError(f"{path} holds {shorten(repr(found))}; expected the settings of an autoencoder.")
    return found


def _take(arrays: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    if name not in arrays:
        raise DataDamagedError(f"The array {name!r} is missing; there are {', '.join(arrays) or 'none'}.")
    return arrays[name]
