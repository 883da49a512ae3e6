"""`key=value` words of the command line, applied to a config before it is validated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from toolkit.run.experiment import plain_yaml
from toolkit.run.experiment.errors import Exit, RunError, fail, printable, shown

WHERE = "command line"


class Override(NamedTuple):
    """One `a.b.c=value`; the value follows the rules of the config file."""

    path: tuple[str, ...]
    value: Any


def parse(words: Iterable[str | Override]) -> tuple[Override, ...]:
    """Words as overrides, and overrides as they are.

    Raises: RunError (exit 2) for a word that is not `dotted.key=value`.
    """
    return tuple(word if isinstance(word, Override) else _parse(word) for word in words)


def _parse(word: str) -> Override:
    key, equals, text = word.partition("=")
    path = tuple(key.strip().split("."))
    if not equals or not all(path):
        raise fail(
            Exit.CONFIG,
            WHERE,
            "not an override",
            shown(word),
            "key=value, with dots for nested keys",
        )
    return Override(path, plain_yaml.parse_value(text, f"{WHERE}: {printable(key)[:80]}"))


def apply(
    data: dict[str, Any], overrides: Iterable[Override], defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """`data` with the overrides applied from left to right.

    If the file leaves a mapping or list out, an override of a part of it changes its default. An override
    that changes the `kind` of a mapping drops the fields of the old kind, so `adjoint.kind=unroll` needs no
    other word.
    """
    for override in overrides:
        data = _set(data, override, override.path, defaults)
    return data


def _set(node: Any, override: Override, rest: tuple[str, ...], defaults: Mapping[str, Any]) -> Any:
    key, *deeper = rest
    if isinstance(node, list):
        index = _index(node, key, override)
        return [*node[:index], _value(node[index], override, tuple(deeper), {}), *node[index + 1 :]]
    if not isinstance(node, dict):
        raise _dead_end(node, override, rest)
    if key == "kind" and not deeper and node.get("kind", override.value) != override.value:
        return {"kind": override.value}
    child = node[key] if key in node else defaults.get(key)
    return {**node, key: _value(child, override, tuple(deeper), {})}


def _value(
    child: Any, override: Override, deeper: tuple[str, ...], defaults: Mapping[str, Any]
) -> Any:
    if not deeper:
        return override.value
    return _set({} if child is None else child, override, deeper, defaults)


def _index(node: list[Any], key: str, override: Override) -> int:
    # Few digits: `int` of a text of millions of them would take minutes.
    if key.isascii() and key.isdigit() and len(key) <= 9 and int(key) < len(node):
        return int(key)
    expected = f"a position from 0 to {len(node) - 1}" if node else "no position, the list is empty"
    raise fail(
        Exit.CONFIG,
        WHERE,
        f"{plain_yaml.dotted(override.path)}: no such item",
        shown(key),
        expected,
    )


def _dead_end(node: Any, override: Override, rest: tuple[str, ...]) -> RunError:
    parent = plain_yaml.dotted(override.path[: -len(rest)]) or "the config"
    what = f"{plain_yaml.dotted(override.path)}: {parent} has no fields"
    return fail(Exit.CONFIG, WHERE, what, shown(node), "a mapping")
