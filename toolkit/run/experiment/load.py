"""From a YAML file and overrides to the typed, frozen config that the experiment declares."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError

from toolkit.run.experiment import experiments, overrides, plain_yaml
from toolkit.run.experiment.common import Settings
from toolkit.run.experiment.complaints import translate
from toolkit.run.experiment.errors import Complaint, Exit, RunError, fail, nearest, printable, shown
from toolkit.run.experiment.json_schema import schema_of
from toolkit.vocabulary import kinds

ORDER = (
    "experiment",
    "seed",
    "seeds",
    "steps",
    "log_every",
    "checkpoint_every",
    "keep_checkpoints",
)  # opens a resolved config
LAST = ("budget", "devices", "diagnostics", "claims", "schema_version")  # ends it


class Loaded(NamedTuple):
    """A valid config and its experiment, before that builds anything."""

    settings: Settings
    experiment: Path  # relative to the working directory
    resolved: dict[str, Any]  # every default written out, JSON types only
    module: ModuleType  # the experiment
    began: float  # on `time.perf_counter`, before the experiment imported jax: a budget counts that too


def load(
    path: Path, words: Sequence[str | overrides.Override] = (), afresh: bool = False
) -> Loaded:
    """Reads a config, applies the overrides and validates the result.

    Args:
        afresh: run the files of the experiment again, as a new process would.

    Raises: RunError (exit 2) with at most one problem for each key.
    """
    began = time.perf_counter()
    changes = overrides.parse(words)
    document = _mapping(path)
    lines: dict[tuple, str] = {at: f"{path}:{line}" for at, line in document.lines.items()}
    return loaded(document.value, changes, lines | {(): str(path)}, began, afresh)


def loaded(
    written: dict[str, Any],
    changes: Sequence[overrides.Override],
    where: dict[tuple, str],
    began: float,
    afresh: bool = False,
) -> Loaded:
    """As `load`, for what a config says.

    Args:
        where: by path, the place to blame; the empty path is the config itself.
    """
    for change in changes:
        where = {at: place for at, place in where.items() if at[: len(change.path)] != change.path}
        # A new `kind` drops the other fields of its mapping (see `overrides.apply`). If the new kind lacks a
        # field then, the command line is to blame for it, and no line of the file.
        owner = change.path[:-1] if change.path[-1] == "kind" else change.path
        where[owner] = where[change.path] = overrides.WHERE

    source = _source(written, changes, where)
    # Read before the config is valid, because it has to be known before the experiment is loaded.
    if overrides.apply(written, changes, {}).get("seeds", 1) != 1:
        experiments.call_from_many_threads()
    if afresh:
        experiments.forget(source)
    module = experiments.load(source)
    model = experiments.config_class(module)
    data = overrides.apply(written, changes, _default_containers(model))
    settings = validate(model, data, where)
    resolved = resolve(settings)
    _refuse_unwritable(resolved, source)
    return Loaded(settings, source, resolved, module, began)


def processes(path: Path, words: Sequence[str]) -> Any:
    """What a config says under `devices.processes`, before it is known to be valid.

    An experiment may compute where it is imported, and JAX joins its processes before it computes anything.

    Raises: RunError (exit 2) for a file or a word that cannot be read.
    """
    changes = [change for change in overrides.parse(words) if change.path[0] == "devices"]
    asked = overrides.apply(_mapping(path).value, changes, {}).get("devices")
    return asked.get("processes", 1) if isinstance(asked, dict) else 1


def _refuse_unwritable(resolved: dict[str, Any], source: Path) -> None:
    """Raises: RunError (exit 2) for a config of which config.yaml would say something else, or too much.

    What a file says was checked when it was read. A default may be anything.
    """
    text = plain_yaml.dump(resolved)
    try:
        got = "another value" if plain_yaml.parse(text, str(source)).value != resolved else None
    except RunError as error:
        got = error.problems[0].got
    if len(text) > plain_yaml.MAX_BYTES // 4:  # a character may have four bytes
        got = f"{len(text)} characters"
    if got is not None:
        expected = f"text in UTF-8, at most {plain_yaml.MAX_BYTES // 4} characters in all"
        raise fail(Exit.CONFIG, source, "defaults that no config can hold", got, expected)


def model_of(path: Path) -> type[Settings]:
    """The `Config` of the experiment that a config names; the config itself may be incomplete."""
    source = _source(_mapping(path).value, (), {(): str(path)})
    return experiments.config_class(experiments.load(source))


def validate(model: type[Settings], data: dict[str, Any], where: dict[tuple, str]) -> Settings:
    """The typed config. Raises: RunError (exit 2) with every problem of `data`."""
    try:
        # In JSON mode pydantic is strict in the way that YAML users expect: a list is accepted for a tuple,
        # but "1" is no number and 1.0 is no integer. In Python mode it would refuse a list for a tuple.
        return model.model_validate_json(json.dumps(data), strict=True)
    except ValidationError as error:
        raise RunError(
            Exit.CONFIG, *_in_order(translate(error, data, _schema(model), where))
        ) from None


def resolve(settings: Settings) -> dict[str, Any]:
    """Every field with its value, JSON types only; loading it again gives the same config."""
    # By alias, as a config writes them: a field `kind` beside the tag `kind` has another word there.
    values = settings.model_dump(mode="json", by_alias=True)
    first = {key: values[key] for key in ORDER if key in values}
    last = {key: values[key] for key in LAST}
    return {**first, **{key: value for key, value in values.items() if key not in last}, **last}


def fields(tree: Any, prefix: str = "") -> dict[str, Any]:
    """A nested config as `{"adjoint.damping": 0.0, ...}`, for tables and for naming differences."""
    if not isinstance(tree, dict) or not tree:
        return {prefix: tree}
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= fields(value, f"{prefix}.{key}" if prefix else str(key))
    return flat


def _mapping(path: Path) -> plain_yaml.Document:
    document = plain_yaml.read(path)
    if not isinstance(document.value, dict):
        expected = "a mapping of keys to values"
        raise fail(Exit.CONFIG, path, "not a config", shown(document.value), expected)
    return document


def _source(
    data: dict[str, Any], changes: Sequence[overrides.Override], where: Mapping[tuple, str]
) -> Path:
    """The experiment's file, which must be known before anything else of the config can be judged."""
    named = overrides.apply(data, [c for c in changes if c.path == ("experiment",)], {})
    if "experiment" not in named:
        got = f"the keys {', '.join(map(str, named))}" if named else "nothing"
        expected = "the name of a file in experiments/"
        near = "experiment" if nearest("experiment", named) else None
        raise fail(
            Exit.CONFIG, where[()], "experiment: missing key", printable(got)[:200], expected, near
        )
    return experiments.find(named["experiment"], where.get(("experiment",), where[()]))


def _schema(model: type[BaseModel]) -> dict[str, Any]:
    try:
        return schema_of(model)
    except Exception:  # a field whose type has no schema costs the suggestions, not the message
        return {}


def _default_containers(model: type[BaseModel]) -> dict[str, Any]:
    """The defaults of the fields that an override such as `adjoint.damping=0.1` can reach into."""
    defaults = {
        name: field.get_default(call_default_factory=True)
        for name, field in model.model_fields.items()
    }
    return {
        name: _plain(value)
        for name, value in defaults.items()
        if isinstance(value, BaseModel | dict | list | tuple) or kinds.is_kind(type(value))
    }


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", by_alias=True)
    if kinds.is_kind(type(value)):
        return kinds.dump(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _in_order(problems: list[Complaint]) -> list[Complaint]:
    def line(problem: Complaint) -> int:
        number = problem.where.rpartition(":")[2]
        return int(number) if number.isdigit() else 0

    return sorted(problems, key=line)
