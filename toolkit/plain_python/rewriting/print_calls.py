"""The rewriting of `print`: its text is made when the compiled program runs.

Before:                         After:

    print("at", f"{x:.2f}")     flow.print_(print, lambda _tk_0, _tk_1: (_tk_0, f"{_tk_1:.2f}"), "at", x)
"""

from __future__ import annotations

import ast
from collections.abc import Callable

from toolkit.plain_python.reserved import PREFIX
from toolkit.plain_python.rewriting.nodes import at, call, lambda_of, load


def printed(node: ast.Call, visit: Callable[[ast.expr], ast.expr]) -> ast.expr:
    """`print(...)`, where a traced value may have to be shown; `visit` rewrites an expression."""
    values = _Values()
    shown = [values.replace(one) for one in node.args]
    template = lambda_of(values.names(), ast.Tuple(shown, ast.Load()))
    found = [visit(value) for value in values.found]
    made = call("print_", [visit(node.func), template, *found])
    made.keywords = [visit(one) for one in node.keywords]  # type: ignore[arg-type, misc]
    return at(made, node)


class _Values(ast.NodeTransformer):
    """Puts parameters in the places of the values that are shown."""

    def __init__(self) -> None:
        self.found: list[ast.expr] = []

    def names(self) -> list[str]:
        return [f"{PREFIX}{k}" for k in range(len(self.found))]

    def replace(self, node: ast.expr) -> ast.expr:
        if isinstance(node, ast.JoinedStr):
            replaced = self.generic_visit(node)
            assert isinstance(replaced, ast.expr)
            return replaced
        if isinstance(node, ast.Starred):
            return at(ast.Starred(self.replace(node.value), ast.Load()), node)
        self.found.append(node)
        return at(load(f"{PREFIX}{len(self.found) - 1}"), node)

    def visit_FormattedValue(self, node: ast.FormattedValue) -> ast.FormattedValue:
        value = self.replace(node.value)
        spec = self.visit(node.format_spec) if node.format_spec else None
        return at(ast.FormattedValue(value, node.conversion, spec), node)
