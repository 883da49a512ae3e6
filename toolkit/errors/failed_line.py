"""The values on a line that failed, read from its frame; nothing is called."""

from __future__ import annotations

import ast
import dataclasses
import linecache
from collections.abc import Mapping
from types import FrameType, FunctionType, ModuleType, TracebackType
from typing import Any

import jax

from toolkit import tree

_WIDTH = 160  # characters of a described tree
_NOTHING = object()


def at(step: TracebackType) -> str:
    """The expression that failed; empty where Python does not know."""
    code = step.tb_frame.f_code
    # `co_positions` has an entry for each instruction, and an instruction takes two bytes.
    positions = list(code.co_positions())[step.tb_lasti // 2]
    first, last, begin, end = positions
    # Columns are counted in bytes of UTF-8, so lines are cut as bytes below: the last first, as it may be the
    # only one.
    if first is None or last is None or begin is None or end is None:
        return ""
    lines = [linecache.getline(code.co_filename, n).encode() for n in range(first, last + 1)]
    lines[-1] = lines[-1][:end]
    lines[0] = lines[0][begin:]
    return b"".join(lines).decode(errors="replace")


def values(expression: str, frame: FrameType) -> dict[str, Any]:
    """The variables in an expression, and their entries as far as it names them: `y['w']`.

    Functions, modules and classes are left out.
    """
    try:
        # Within parentheses an expression may go over several lines.
        parsed = ast.parse(f"({expression})", mode="eval")
    except SyntaxError:
        return {}
    found: dict[str, Any] = {}

    def visit(node: ast.AST) -> None:
        name, value = _plain(node, frame)
        if value is _NOTHING:
            for child in ast.iter_child_nodes(node):
                visit(child)
        elif not isinstance(value, (ModuleType, FunctionType, type)) and not callable(value):
            found[name] = value

    visit(parsed.body)
    return found


def _plain(node: ast.AST, frame: FrameType) -> tuple[str, Any]:
    """A name, or an attribute or an entry of one, without running any code of the user's."""
    if isinstance(node, ast.Name):
        return node.id, frame.f_locals.get(node.id, frame.f_globals.get(node.id, _NOTHING))
    if isinstance(node, ast.Attribute):
        name, base = _plain(node.value, frame)
        return f"{name}.{node.attr}", _field(base, node.attr)
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
        name, base = _plain(node.value, frame)
        key = node.slice.value
        # A subclass may define `__getitem__`, which would run code of the user's: only the plain types are
        # read.
        try:
            value = base[key] if type(base) in (dict, list, tuple) else _NOTHING
        except (KeyError, IndexError, TypeError):
            value = _NOTHING
        return f"{name}[{key!r}]", value
    return "", _NOTHING


def _field(base: Any, name: str) -> Any:
    """A field of a namedtuple or a dataclass. Any other attribute may be a property, which would run code."""
    if isinstance(base, tuple) and name in getattr(base, "_fields", ()):
        return getattr(base, name)
    if dataclasses.is_dataclass(base) and not isinstance(base, type):
        return vars(base).get(name, _NOTHING) if hasattr(base, "__dict__") else _NOTHING
    return _NOTHING


def paths(given: Mapping[str, Any]) -> dict[int, str]:
    """Where each array of some arguments stands in them, by identity: `theta['w']`."""
    leaves = jax.tree_util.tree_leaves_with_path(dict(given))
    return {
        id(leaf): f"{path[0].key}{jax.tree_util.keystr(path[1:])}"
        for path, leaf in leaves
        if isinstance(leaf, jax.Array)
    }


def described(found: Mapping[str, Any], known: Mapping[int, str] | None = None) -> str:
    """`name: shapes` of each, and the argument's path of those that are known by another name."""
    shown = []
    for name, value in found.items():
        path = (known or {}).get(id(value), name)
        text = tree.describe(value)
        text = text if len(text) <= _WIDTH else f"{text[:_WIDTH]}…"
        shown.append(f"{name}: {text}" if path == name else f"{name} = {path}: {text}")
    return ", ".join(shown)
