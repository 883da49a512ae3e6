"""The rewriting of single operators: `a + b` is `flow.binary("add", lambda left, right: left + right, a, b)`.

The operator itself stands in a lambda, so that its errors come from the user's line.
"""

from __future__ import annotations

import ast

from toolkit.plain_python.rewriting.nodes import at, call, function_of_operator

_OPERATORS = {
    ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.MatMult: "matmul", ast.Div: "truediv",
    ast.FloorDiv: "floordiv", ast.Mod: "mod", ast.Pow: "pow", ast.LShift: "lshift", ast.RShift: "rshift",
    ast.BitAnd: "and_", ast.BitOr: "or_", ast.BitXor: "xor",
}  # fmt: skip
_UNARY: dict[type[ast.unaryop], str] = {ast.Invert: "invert", ast.USub: "neg", ast.UAdd: "pos"}


def operation(
    node: ast.BinOp | ast.AugAssign, prefix: str, left: ast.expr, right: ast.expr
) -> ast.expr:
    """`left + right`; with the prefix "i" what `left += right` assigns."""
    name = prefix + _OPERATORS[type(node.op)].rstrip("_" if prefix else "")
    applied = function_of_operator(lambda a, b: ast.BinOp(a, node.op, b), node)
    return in_place_of(node, call("binary", [ast.Constant(name), applied, left, right]))


def unary_operation(node: ast.UnaryOp, operand: ast.expr) -> ast.expr:
    """`-operand` and the like."""
    applied = function_of_operator(lambda a: ast.UnaryOp(node.op, a), node)
    return in_place_of(node, call("unary", [ast.Constant(_UNARY[type(node.op)]), applied, operand]))


def comparison(node: ast.Compare, function: str, left: ast.expr, right: ast.expr) -> ast.expr:
    """`left < right` and the like."""
    applied = function_of_operator(lambda a, b: ast.Compare(a, node.ops, [b]), node)
    return in_place_of(node, call(function, [applied, left, right]))


def in_place_of(node: ast.AST, new: ast.expr) -> ast.expr:
    """`new` at the place of `node` and as wide, so that a traceback underlines what the user wrote."""
    return at(ast.copy_location(new, node), node)
