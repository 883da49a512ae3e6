"""A config that Python code hands in, as the plain values that a file would hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import BaseModel

from toolkit.run.experiment.errors import Exit, fail, printable, shown
from toolkit.run.experiment.overrides import WHERE, Override
from toolkit.run.experiment.plain_yaml import MAX_DEPTH, dotted
from toolkit.vocabulary import kinds

CONFIG = "config"  # what a message blames in place of a file


def mapping(config: Mapping[str, Any] | BaseModel) -> dict[str, Any]:
    """The keys and values of a mapping, or of an experiment's `Config`.

    Raises: RunError (exit 2) for a value that no config can hold.
    """
    if isinstance(config, BaseModel):
        return config.model_dump(mode="json", by_alias=True)
    return _plain(dict(config), (), CONFIG)


def override(key: str, value: Any) -> Override:
    """`**{"adjoint.damping": 0.1}` as the override of a command line. Raises: RunError (exit 2)."""
    path = tuple(key.split("."))
    if not all(path):
        expected = "key=value, with dots for nested keys"
        raise fail(Exit.CONFIG, WHERE, "not an override", shown(key), expected)
    return Override(path, _plain(value, path, WHERE))


def _plain(value: Any, path: tuple[str | int, ...], where: str) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if len(path) > MAX_DEPTH:
        raise _refused(where, path, "too deep", "nested values", f"at most {MAX_DEPTH} levels")
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", by_alias=True)
    if kinds.is_kind(type(value)):
        return kinds.dump(value)
    if isinstance(value, list | tuple):
        return [_plain(item, (*path, i), where) for i, item in enumerate(value)]
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise _refused(where, (*path, str(key)), "bad key", repr(key), "a text")
        return {key: _plain(item, (*path, key), where) for key, item in value.items()}
    got, expected = type(value).__name__, "a number, a text, a list, a mapping or settings"
    raise _refused(where, path, "wrong value", got, expected)


def _refused(where: str, path: tuple[str | int, ...], what: str, got: str, expected: str) -> Any:
    name = printable(dotted(path))[:80] or CONFIG
    return fail(Exit.CONFIG, where, f"{name}: {what}", got, expected)
