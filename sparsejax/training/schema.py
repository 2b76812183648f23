"""Configurations as JSON: the schema of `config.json`, also of earlier versions."""

import contextlib
import copy
import dataclasses
import importlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sparsejax.configuration import replace, shown
from sparsejax.errors import ConfigError
from sparsejax.models.base import Model
from sparsejax.training.config import CLEAN_MEASURES, DEFAULT_MEASURES, Config

VERSION = 2
"""Schema of written files. 1: version 0.1, without the names of classes; dense weights had density 1.0."""


RENAMED = {"devices": {"carrier": "transform"}, "model": {"duty_period": "period"}}
"""Fields with other names in version 1, by part."""


def to_json(config: Config) -> dict[str, Any]:
    """Return the fields of a configuration by name, with the class of the network under `model.class`.

    Raises:
      ConfigError: JSON has no form for the value of a field, such as a function or an array.
    """
    fields = dataclasses.asdict(config)
    for part, values in fields.items():
        for name, value in values.items():
            try:
                json.dumps(value)
            except (TypeError, ValueError):
                raise ConfigError(
                    f"{part}.{name} is {shown(value)}, which cannot be written to config.json; expected a number, a "
                    "string, None or a tuple of these. Give functions as the name of one, and several values of a "
                    "number by a sweep."
                ) from None
    fields["model"] = {"class": type(config.model).__name__, **fields["model"]}
    return fields


def from_json(description: Mapping[str, Any]) -> Config:
    """Return the configuration in a run's description; missing fields take their defaults.

    Args:
      description: `config` has the fields as `to_json` returns them, or as version 0.1 wrote them; `schema` is the
        version; `module` defined the network's class. A module of sparsejax is imported; among several classes of the
        same name, the one of this module is used.

    Raises:
      ConfigError: a field is unknown, or the network's class is not defined.
    """
    fields, version = copy.deepcopy(dict(description["config"])), description.get("schema", 1)
    for part, names in RENAMED.items() if version == 1 else ():
        fields[part] = {names.get(name, name): value for name, value in fields[part].items()}
    if version > VERSION:
        raise ConfigError(
            f"it has schema {version}, and this version of sparsejax reads up to {VERSION}; install a newer one"
        )
    model = dict(fields.pop("model"))
    name, module = model.pop("class", None), description.get("module", "")
    cls = _find_class_with(set(model)) if name is None else _find_class(name, module, set(model))
    if version == 1 and model.get("density") == 1.0:
        model["density"] = None
    if version == 1:
        fields["evaluation"] = _measures_of(fields.get("evaluation", {}))
    parts = {field.name: field.default for field in dataclasses.fields(Config) if field.name != "model"}
    unknown = sorted(fields.keys() - parts.keys())
    if unknown:
        raise ConfigError(f"it has the unknown parts {', '.join(unknown)}")
    made = {name: _build(type(default), fields.get(name, {}), name) for name, default in parts.items()}
    return Config(_build(cls, model, "model"), **made)


def members_from_json(description: Mapping[str, Any]) -> tuple[Config, ...]:
    """Return the configuration of every network of a run from its whole description; errors as in `from_json`."""
    config = from_json(description)
    points, seeds = description["points"], description["seeds"]
    if len(points) != len(seeds):
        raise ConfigError(f"it has {len(seeds)} seeds, but {len(points)} points of a sweep")
    return tuple(
        replace(config, {name: _plain(value) for name, value in point.items()} | {"training.seed": seed})
        for seed, point in zip(seeds, points, strict=True)
    )


def _measures_of(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of an evaluation with measures by name, from the switches of version 1."""
    fields = dict(evaluation)
    noise, track, detail, examples = (
        fields.pop(name, default)
        for name, default in (("noise", True), ("track", False), ("detail", False), ("implicit_examples", None))
    )
    fields["measures"] = (*(DEFAULT_MEASURES if noise else CLEAN_MEASURES), *["detail"] * detail)
    fields["track"] = (*["activity", "weights"] * track, *["implicit_terms"] * (examples is not None))
    return fields if examples is None else fields | {"implicit_examples": examples}


def _build(cls: type, fields: Mapping[str, Any], prefix: str) -> Any:
    known = {field.name for field in dataclasses.fields(cls)}
    unknown = sorted(fields.keys() - known)
    if unknown:
        names = ", ".join(f"{prefix}.{name}" for name in unknown)
        raise ConfigError(f"{names} is not a field of {cls.__name__} in this version of sparsejax")
    return cls(**{name: _plain(value) for name, value in fields.items()})


def _plain(value: Any) -> Any:
    return tuple(map(_plain, value)) if isinstance(value, Sequence) and not isinstance(value, str) else value


def _classes() -> Iterator[type]:
    """Yield all classes of networks, the last defined first: of sparsejax and of the running program."""
    importlib.import_module("sparsejax.models")
    below = [Model]
    while below:
        cls = below.pop()
        if dataclasses.is_dataclass(cls):
            yield cls
        below += cls.__subclasses__()


def _is_ours(module: str) -> bool:
    return module.startswith("sparsejax.")


def _find_class(name: str, module: str, fields: set[str]) -> type:
    """Return the class of that name; prefer one of that module, then one with the fields, then the last defined.

    A class of sparsejax is never substituted for a user's of the same name, which computes something else.
    """
    if _is_ours(module):  # only sparsejax: a file must not choose which code runs
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module(module)

    def fits(cls: type) -> tuple[bool, bool]:
        return cls.__module__ == module, fields <= {field.name for field in dataclasses.fields(cls)}

    found = [cls for cls in _classes() if cls.__name__ == name]
    found = [cls for cls in found if not module or _is_ours(cls.__module__) == _is_ours(module)]
    if not found:
        raise ConfigError(
            f"its network is a {name} of {module or 'a module of yours'}, which is not imported; import it first "
            "(--import FILE.py on the command line)"
        )
    return max(found, key=fits)


def _find_class_with(names: set[str]) -> type:
    """Return the class with these fields and the fewest others, because version 0.1 did not store its name."""
    fields = {cls: {field.name for field in dataclasses.fields(cls)} for cls in _classes()}
    found = [cls for cls, own in fields.items() if names <= own and _is_ours(cls.__module__)]
    if not found:
        raise ConfigError(f"no network of sparsejax has the fields {', '.join(sorted(names))}")
    return min(found, key=lambda cls: len(fields[cls]))
