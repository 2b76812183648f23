"""Export and import of weights: safetensors files, and networks of nupic.torch and of the k-winners paper's code."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.errors import ConfigError, DataDamagedError, DataMissingError, shorten
from sparsejax.files import write_whole
from sparsejax.functional import BoostState
from sparsejax.models.base import Variables
from sparsejax.models.sparse_cnn import SparseCNN
from sparsejax.training.named import by_name, difference, fill

_HOW_TO_GET = "safetensors is not installed: pip install safetensors."


def named_arrays(tree: Any) -> dict[str, np.ndarray]:
    """Returns the leaves of a tree as NumPy arrays by names such as `params.conv1.kernel`.

    Fields of named tuples and keys of dictionaries are joined by dots; PRNG keys become their data.

    Args:
      tree: of arrays, such as the variables of a network.

    Returns:
      Names -> arrays, in the tree's order.

    Raises:
      ConfigError: two arrays have the same name.
    """
    return {name: np.asarray(leaf) for name, leaf in by_name(tree, _name).items()}


def save_weights(path: str | Path, variables: Variables) -> Path:
    """Writes a network, parameters and state, atomically as a safetensors file.

    Args:
      path: of the file; missing folders are created.
      variables: of the network, as `model.init` or training returns them.

    Returns:
      The absolute path of the file.

    Raises:
      ConfigError: safetensors is not installed.
      RunFolderError: it cannot be written.
    """
    try:
        from safetensors.numpy import save
    except ImportError:
        raise ConfigError(_HOW_TO_GET) from None
    arrays = {name: np.array(array, order="C") for name, array in named_arrays(variables).items()}
    return write_whole(Path(path).absolute(), save(arrays, metadata={"format": "sparsejax"}))


def load_weights(path: str | Path, like: Variables) -> Variables:
    """Reads a network that `save_weights` wrote.

    Args:
      path: the file.
      like: a network of the same structure, such as the result of `model.init` or its `jax.eval_shape`.

    Returns:
      The variables, in the structure, shapes and types of `like`.

    Raises:
      ConfigError: safetensors is not installed, or the file has a network of another structure.
      DataMissingError: there is no such file.
      DataDamagedError: it is not a safetensors file.
    """
    try:
        from safetensors.numpy import load
    except ImportError:
        raise ConfigError(_HOW_TO_GET) from None
    try:
        arrays = load(Path(path).read_bytes())
    except OSError as error:
        raise DataMissingError(f"The weights {path} cannot be read: {error.strerror or error}.") from None
    except Exception as error:  # safetensors' own error type
        raise DataDamagedError(f"{path} is not a readable safetensors file: {shorten(str(error))}.") from None
    if other := difference(arrays, like, _name):
        raise ConfigError(f"{path} has a different network than expected: it {other}.")
    return fill(like, {name: jnp.asarray(array) for name, array in arrays.items()}, _name)


def torch_kernel(weight: np.ndarray, image: tuple[int, int, int] | None = None) -> np.ndarray:
    """Transposes a kernel from PyTorch's layout to ours.

    Args:
      weight: of a convolution `[outputs, inputs, height, width]`, which becomes `[height, width, inputs, outputs]`, or
        of a dense layer `[units, inputs]`, which becomes `[inputs, units]`.
      image: height, width and channels of a dense layer's flattened input: PyTorch has channels first, we last.

    Returns:
      The kernel in our layout.

    Raises:
      ConfigError: a dense layer's number of inputs differs from the image's number of values.
    """
    if weight.ndim == 4:
        return np.transpose(weight, (2, 3, 1, 0))
    if image is not None:
        height, width, channels = image
        if weight.shape[1] != height * width * channels:
            raise ConfigError(
                f"A kernel {list(weight.shape)} has not {height * width * channels} inputs, as images of "
                f"{height} x {width} x {channels} have that the layer before it is to give."
            )
        weight = weight.reshape(-1, channels, height, width).transpose(0, 2, 3, 1).reshape(len(weight), -1)
    return weight.T


def from_nupic(
    state_dict: Mapping[str, np.ndarray], model: SparseCNN, example_shape: tuple[int, int, int] = (28, 28, 1)
) -> Variables:
    """Converts the state dict of nupic.torch's MNISTSparseCNN, or of the k-winners paper's own code.

    It has no sample count of the duty cycles, which is assumed to be `model.period` or more.

    Args:
      state_dict: names -> arrays (`{name: tensor.numpy() for name, tensor in net.state_dict().items()}`).
      model: the same network; `ties="all"` is nupic.torch's choice.
      example_shape: height, width and channels of an image.

    Returns:
      Variables of the model: its parameters, masks and duty cycles.

    Raises:
      ConfigError: a layer's weights or duty cycle is missing, or an array does not fit the model.

    References:
      Ahmad & Scheinkman, How Can We Be So Dense?, 2019; the names are those of the authors' code for the paper
      (numenta/htmpapers) and of their library (numenta/nupic.torch).
    """
    like = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *example_shape)))
    stages = model.stages(example_shape)
    params, state = {}, {}
    last = stages[len(model.channels) - 1]
    height, width = ((size - model.kernel_size + 1) // model.pool for size in last.image)
    flattened = (height, width, last.shape[-1])
    for name, theirs in _layers(len(model.channels), state_dict):
        image = flattened if name == "hidden" else None
        prefix = next(p for p in (f"{theirs}.module", theirs) if f"{p}.weight" in state_dict)
        weight = np.asarray(state_dict[f"{prefix}.weight"])
        params[name] = {"kernel": torch_kernel(weight, image), "bias": np.asarray(state_dict[f"{prefix}.bias"])}
        own = dict(like.state.get(name, {}))
        if "mask" in own:
            own["mask"] = torch_kernel(_connections(state_dict, theirs, weight.shape), image)
            params[name]["kernel"] = np.where(own["mask"], params[name]["kernel"], np.float32(0))
        if "boost" in own:
            duty = _duty_cycle(state_dict, theirs)
            own["boost"] = BoostState(jnp.asarray(duty), jnp.float32(model.period))
        state[name] = own
    ours = by_name(like, _name)
    found = {name: array.astype(ours[name].dtype) if name in ours else array
             for name, array in named_arrays(Variables(params, state)).items()}  # fmt: skip
    if other := difference(found, like, _name):
        raise ConfigError(f"The state dict is of another network than the model's: it {other}.")
    return fill(like, {name: jnp.asarray(array) for name, array in found.items()}, _name)


def _layers(convolutions: int, state_dict: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yields our name of each layer and theirs, in either of their two naming schemes."""
    paper = any(name.startswith("cnnSdr.") for name in state_dict)
    names = [(f"conv{i}", f"cnnSdr.cnnSdr{i}_cnn" if paper else f"cnn{i}") for i in range(1, convolutions + 1)]
    names += [("hidden", "linearSdr.linearSdr1" if paper else "linear"), ("output", "fc" if paper else "output")]
    for ours, theirs in names:
        for part in ("weight", "bias"):
            if f"{theirs}.{part}" not in state_dict and f"{theirs}.module.{part}" not in state_dict:
                raise ConfigError(
                    f"The state dict has no {theirs}.{part}, which {ours} is to be made of; it has "
                    f"{', '.join(sorted(state_dict)[:8])}... Expected nupic.torch's MNISTSparseCNN or the paper's "
                    "network."
                )
        yield ours, theirs


def _connections(state_dict: Mapping[str, np.ndarray], layer: str, shape: tuple[int, ...]) -> np.ndarray:
    """Returns which weights are not masked: all, unless the state dict has a mask."""
    if f"{layer}.zero_mask" in state_dict:
        return np.asarray(state_dict[f"{layer}.zero_mask"]) == 0
    mask = np.ones(shape, bool)
    if f"{layer}.zeroWts" in state_dict:
        mask[tuple(np.asarray(state_dict[f"{layer}.zeroWts"]))] = False
    return mask


def _duty_cycle(state_dict: Mapping[str, np.ndarray], layer: str) -> np.ndarray:
    base = re.sub("_cnn$", "", layer)
    for name in (f"{base}_kwinner.duty_cycle", f"{base}_kwinner.dutyCycle"):
        if name in state_dict:
            return np.asarray(state_dict[name]).reshape(-1)
    raise ConfigError(f"The state dict has no {base}_kwinner.duty_cycle; set the model's k of that layer to None.")


def _name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")
