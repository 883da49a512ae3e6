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

    # A variable of a function around this one outlives the call. Compiled code cannot write it: the
    # second call runs no Python, and a traced value would stay in it.
    outside = names.declared(definition.body, ast.Nonlocal)
    outside |= names.set_by_inner_functions(definition.body) - _bound(definition)
    for name in sorted(outside & set(function.__code__.co_freevars)):
        raise no(
            _declaration(definition, name),
            f"`nonlocal {name}` in a @control_flow function would leave a traced value in a variable "
            "of the function around it, which is not converted: return the value instead.",
        )
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


def _bound(definition: ast.FunctionDef) -> set[str]:
    return names.assigned(definition.body) | names.parameters(definition.args)


def _declaration(definition: ast.FunctionDef, name: str) -> ast.AST:
    """The `nonlocal` statement of a name."""
    found = (node for node in ast.walk(definition) if isinstance(node, ast.Nonlocal))
    return next((node for node in found if name in node.names), definition)


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
