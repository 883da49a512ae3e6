"""Variables that get their value just before a `break`.

    for a in x:
        if a > 3:
            found = a           # has a value only if the loop is left here,
            break
    else:
        found = -1.0            # and otherwise here
    return found

`jumps` keeps such a value aside at the `break`, and gives it back behind the loop.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence

from toolkit.plain_python.rewriting import names
from toolkit.plain_python.rewriting.nodes import is_true

# Inside these an assignment may be skipped.
_BRANCHED = (ast.If, ast.For, ast.While, ast.With)


def set_by_a_break(loop: ast.For | ast.While) -> tuple[str, ...]:
    """The variables that only a branch with a `break` assigns, and whose values are known behind the loop.

    They are known if no other way leads there: the loop has an `else`, or no end.
    """
    endless = isinstance(loop, ast.While) and is_true(loop.test)
    if not loop.orelse and not endless:
        return ()
    always = names.assigned(s for s in loop.body if not isinstance(s, _BRANCHED))
    found = _assigned_before_a_break(loop.body) - always - getattr(loop, "bound", set())
    return tuple(sorted(found))


def _assigned_before_a_break(body: Sequence[ast.stmt]) -> set[str]:
    found: set[str] = set()
    for statement in body:
        if not isinstance(statement, (ast.If, ast.With)):
            continue
        for branch in (statement.body, getattr(statement, "orelse", [])):
            if any(isinstance(one, ast.Break) for one in branch):
                found |= names.assigned(branch)
            found |= _assigned_before_a_break(branch)
    return found


def mark_bound(body: Sequence[ast.stmt], parameters: set[str]) -> None:
    """Note at each loop which variables are assigned above it."""
    every = list(names.walk(body))
    for loop in every:
        if isinstance(loop, (ast.For, ast.While)):
            above = [n for n in every if getattr(n, "lineno", loop.lineno) < loop.lineno]
            loop.bound = names.assigned(n for n in above if isinstance(n, ast.Name)) | parameters  # type: ignore[union-attr]
