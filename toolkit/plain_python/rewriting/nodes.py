"""Pieces of syntax from which the rewritten code is built.

`call("read", [load("s")])` is `_tk_flow.read(s)`, and `thunk(load("s"))` is `lambda: s`.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from typing import TypeVar

from toolkit.errors.frames import OPERANDS
from toolkit.plain_python.reserved import FLOW

_Node = TypeVar("_Node", bound=ast.AST)


def has_places(target: ast.expr) -> bool:
    """Whether a target has a place in it that is not a plain name."""
    return any(isinstance(node, (ast.Subscript, ast.Attribute)) for node in ast.walk(target))


def is_true(test: ast.expr) -> bool:
    """Whether a test is a constant that is true, as in `while True:`."""
    return isinstance(test, ast.Constant) and bool(test.value)


def load(name: str) -> ast.expr:
    return ast.Name(name, ast.Load())


def texts(words: Sequence[str]) -> ast.expr:
    return ast.Tuple([ast.Constant(word) for word in words], ast.Load())


def call(function: str, arguments: Sequence[ast.expr]) -> ast.Call:
    return ast.Call(ast.Attribute(load(FLOW), function, ast.Load()), list(arguments), [])


# An operand that may not be evaluated (`a and b`) is passed as a function without arguments.
def thunk(body: ast.expr) -> ast.expr:
    return ast.Lambda(_arguments([]), body)


def function_of_operator(made: Callable[..., ast.expr], like: ast.expr | ast.AugAssign) -> ast.expr:
    """`lambda left, right: left + right` for `made(left, right)`, at the place of the expression `like`."""
    left, right = OPERANDS
    operands = [load(left), load(right)] if not isinstance(like, ast.UnaryOp) else [load(left)]
    names = OPERANDS[: len(operands)]
    return ast.Lambda(_arguments(list(names)), ast.copy_location(made(*operands), like))


def lambda_of(parameters: list[str], body: ast.expr) -> ast.expr:
    return ast.Lambda(_arguments(parameters), body)


def lambda_of_operator(operator: ast.cmpop) -> ast.expr:
    return ast.Lambda(_arguments(["a", "b"]), ast.Compare(load("a"), [operator], [load("b")]))


def _arguments(given: list[str]) -> ast.arguments:
    args = [ast.arg(name) for name in given]
    return ast.arguments(
        posonlyargs=[],
        args=args,
        vararg=None,
        kwonlyargs=[],
        kw_defaults=[],
        kwarg=None,
        defaults=[],
    )


def define(name: str, arguments: list[str], body: list[ast.stmt]) -> ast.stmt:
    definition = ast.FunctionDef(
        name=name, args=_arguments(arguments), body=body, decorator_list=[], returns=None
    )
    # Python 3.12 added this field, and does not compile a function without it.
    if "type_params" in ast.FunctionDef._fields:
        definition.type_params = []  # type: ignore[attr-defined]
    return definition


def assign(name: str, value: ast.expr, like: ast.AST) -> ast.stmt:
    return at(ast.Assign([ast.Name(name, ast.Store())], value), like)


def at(node: _Node, like: ast.AST) -> _Node:
    """`node` at the place of `like`, with those of its parts that have no place yet."""
    if "lineno" in node._attributes and not hasattr(node, "lineno"):
        ast.copy_location(node, like)
        # Python 3.11+ underlines the failing expression in a traceback. One column of width keeps it
        # from underlining code that the user did not write, and marks the node as generated: see
        # `refusals.place_of`.
        node.end_lineno, node.end_col_offset = node.lineno, node.col_offset + 1  # type: ignore[attr-defined]
    for child in ast.iter_child_nodes(node):
        at(child, like)
    return node
