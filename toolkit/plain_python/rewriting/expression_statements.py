"""The rewriting of `a and f()` and `f() if a else g()` that stand alone as statements, into an `if`.

Nothing reads the value of such a statement, so its operands need no common type.
"""

from __future__ import annotations

import ast


class StatementsAsIf(ast.NodeTransformer):
    """Makes an `if` of each statement that is an `and`, an `or` or a conditional expression."""

    def visit_Expr(self, node: ast.Expr) -> ast.stmt:
        value = node.value
        if isinstance(value, ast.IfExp):
            return self._if(value.test, value.body, value.orelse, node)
        if not isinstance(value, ast.BoolOp):
            return node
        *first, last = value.values
        test = (
            first[0] if len(first) == 1 else ast.copy_location(ast.BoolOp(value.op, first), value)
        )
        if isinstance(value.op, ast.Or):
            test = ast.copy_location(ast.UnaryOp(ast.Not(), test), value)
        return self._if(test, last, None, node)

    def _if(
        self, test: ast.expr, then: ast.expr, orelse: ast.expr | None, like: ast.Expr
    ) -> ast.If:
        sides = [
            [self.visit_Expr(ast.copy_location(ast.Expr(side), side))] if side else []
            for side in (then, orelse)
        ]
        return ast.copy_location(ast.If(test, *sides), like)
