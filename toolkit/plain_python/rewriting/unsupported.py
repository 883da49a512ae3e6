"""Code that cannot be converted, refused when the function is decorated."""

from __future__ import annotations

import ast
import types
from collections.abc import Callable, Iterator
from typing import Any

from toolkit.plain_python.refusals import ControlFlowError
from toolkit.plain_python.rewriting import names
from toolkit.plain_python.rewriting.source import refused_at


def check_supported(function: types.FunctionType, definition: ast.FunctionDef) -> None:
    """Refuse what cannot stand in a function whose blocks become functions, with its line."""

    def no(node: Any, message: str) -> ControlFlowError:
        return refused_at(function, node.lineno, message)

    for scope in _functions(definition):
        if scope is definition and names.contains(scope.body, ast.Yield, ast.YieldFrom):
            raise refused_at(
                function,
                definition.lineno,
                f"@control_flow cannot convert the generator {function.__qualname__}: return a list.",
            )
        for node in names.walk(scope.body):
            if isinstance(node, ast.Global):
                raise no(
                    node,
                    f"`global {', '.join(node.names)}` in a @control_flow function would leave a "
                    "traced value behind: return the value instead.",
                )
            if isinstance(node, (ast.Await, ast.AsyncFor, ast.AsyncWith)):
                raise no(node, "`async` code cannot be converted by @control_flow.")
            # The test becomes a lambda, in which `:=` would assign a variable of the lambda.
            if isinstance(node, ast.While) and names.contains([node.test], ast.NamedExpr):
                raise no(
                    node,
                    "`:=` in the test of a while cannot be converted: assign in the body, before "
                    "the test is reached again.",
                )
            if isinstance(node, (ast.Try, ast.TryStar)):
                _check_try(node, no)


def _check_try(node: ast.Try | ast.TryStar, no: Callable[[Any, str], ControlFlowError]) -> None:
    # A jump becomes a flag. But Python skips the `else` of a `try` after a jump, and a jump in `finally`
    # drops the exception. A flag does neither.
    parts = [*node.body, *node.orelse, *node.finalbody, *node.handlers]
    for inner in names.walk(parts):
        if isinstance(inner, (ast.Break, ast.Continue, ast.Return)):
            word = type(inner).__name__.lower()
            raise no(
                inner,
                f"`{word}` inside `try` cannot be converted: set a variable inside, and {word} "
                "after the try.",
            )


def _functions(definition: ast.FunctionDef) -> Iterator[ast.FunctionDef]:
    """The function and all functions inside it, which are rewritten with it."""
    yield definition
    for node in names.walk(definition.body):
        if isinstance(node, ast.FunctionDef):
            yield from _functions(node)
