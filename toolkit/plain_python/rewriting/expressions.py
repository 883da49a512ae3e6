"""The rewriting of expressions: operators on values that may be traced, and calls that need care.

Before:                      After:

    a and f(b)                   flow.and_(a, lambda: f(b))
    x if c else y                flow.either(c, lambda: x, lambda: y)
    ys.append(v)                 flow.mutator(ys, "append", "ys", True)(v)

Python asks a condition for its truth, which a traced value does not have. The functions of `flow`
ask only what is known, and otherwise compute both sides. An operand that Python might not evaluate
is passed as a function without arguments.
"""

from __future__ import annotations

import ast

from toolkit.plain_python.reserved import AROUND, INNER, PREFIX
from toolkit.plain_python.rewriting import names
from toolkit.plain_python.rewriting.named_calls import look_at_texts, reaches_outside, stand_in_of
from toolkit.plain_python.rewriting.nodes import (
    at,
    call,
    lambda_of_operator,
    load,
    texts,
    thunk,
)
from toolkit.plain_python.rewriting.operators import comparison, operation, unary_operation
from toolkit.plain_python.rewriting.print_calls import printed
from toolkit.plain_python.rewriting.scope import FunctionScope

_ITERABLES = {"range": "range_", "enumerate": "enumerate_", "zip": "zip_", "reversed": "reversed_"}
# Inside a lambda `:=` would assign a variable of the lambda, and `await` or `yield` would be an error
# or make a generator. An expression that holds one of these stays Python's.
_UNMOVABLE = (ast.NamedExpr, ast.Await, ast.Yield, ast.YieldFrom)


class Expressions(ast.NodeTransformer):
    """Rewrites the expressions of one function."""

    def __init__(self, scope: FunctionScope) -> None:
        self.scope = scope
        self.lambdas: list[list[str]] = []  # the parameters of each lambda around the expression

    def visit_Lambda(self, node: ast.Lambda) -> ast.expr:
        self.defaults(node.args)
        self.lambdas.append(sorted(names.parameters(node.args)))
        node.body = self.visit(node.body)
        self.lambdas.pop()
        return node

    def defaults(self, arguments: ast.arguments) -> None:
        """Rewrite the defaults of a function's parameters, which belong to the scope around it."""
        arguments.defaults = [self.visit(one) for one in arguments.defaults]
        arguments.kw_defaults = [self.visit(one) if one else None for one in arguments.kw_defaults]

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if not isinstance(node.ctx, ast.Load) or node.id not in self.scope.tracked:
            return node
        # Generated flags always have a value, and `flow.returned` checks the value of a `return` itself.
        if node.id.startswith(PREFIX):
            return node
        # The variable may hold the mark "no value yet", or a list that a loop has grown as arrays.
        return at(call("read", [node, ast.Constant(node.id)]), node)

    def visit_Call(self, node: ast.Call) -> ast.expr:
        if names.is_mutation(node):
            return self._mutation(node)
        if getattr(node.func, "id", "") == "print":
            return printed(node, self.visit)
        # `len(ys)` or `jnp.stack(ys)` can use the arrays of a list that a staged loop has grown, so the
        # call gets the variable without `read`, which would turn it into an ordinary list.
        if node.args and isinstance(node.args[0], ast.Name) and node.args[0].id in self.scope.grown:
            return self._on_grown_list(node, node.args[0])
        look_at_texts(node)
        if stand_in := stand_in_of(node):
            node.args = [node.func, *node.args]
            node.func = at(call(stand_in, []).func, node.func)
            if stand_in in ("all_of", "any_of"):
                if names.contains(node.args, ast.GeneratorExp):
                    around = ast.keyword("around", at(self._around(), node))
                    node.keywords = [*node.keywords, around]
                return at(call("python_bool", [self._generic(node)]), node)
        if reaches_outside(node):
            node.args = [node.func, *node.args]
            node.func = at(call("outside", []).func, node.func)
            return self._generic(node)
        first = self.scope.first_parameter
        if first and isinstance(node.func, ast.Name) and node.func.id == "super" and not node.args:
            # `super()` without arguments reads the first argument of the function that it stands in,
            # and in a block that is a generated function without `self`.
            node.args = [load("__class__"), load(first)]
            return at(node, node)
        return self._generic(node)

    def _mutation(self, node: ast.Call) -> ast.expr:
        """`ys.append(v)`."""
        assert isinstance(node.func, ast.Attribute)
        place = node.func.value
        own = names.root(place) in self.scope.own
        shown = ast.Constant(ast.unparse(place))
        target = place if isinstance(place, ast.Name) and own else self.visit(place)
        node.args = [self.visit(one) for one in node.args]
        node.keywords = [self.visit(one) for one in node.keywords]
        method = [target, ast.Constant(node.func.attr), shown, ast.Constant(own)]
        node.func = at(call("mutator", method), node.func)
        return node

    def _on_grown_list(self, node: ast.Call, grown: ast.Name) -> ast.expr:
        """`len(ys)`, where a loop may have grown `ys`."""
        node.args.pop(0)
        rest = self.generic_visit(node)
        assert isinstance(rest, ast.Call)
        on_list = call("call_on_list", [rest.func, grown, ast.Constant(grown.id), *rest.args])
        on_list.keywords = rest.keywords
        return at(on_list, node)

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        if node.attr != "__class__" or not isinstance(node.ctx, ast.Load):
            return self._generic(node)
        return at(call("class_of", [self.visit(node.value)]), node)

    def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
        place = node.value
        if (
            isinstance(node.ctx, ast.Load)
            and isinstance(place, ast.Name)
            and place.id in self.scope.grown
        ):
            shown = ast.Constant(place.id)
            return at(call("item_of_list", [place, self.visit(node.slice), shown]), node)
        visited = self.generic_visit(node)
        assert isinstance(visited, ast.expr)
        return visited

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.expr:
        if _unmovable(node):
            return self._generic(node)
        kind = "and_" if isinstance(node.op, ast.And) else "or_"
        first, *rest = (self.visit(value) for value in node.values)
        return self._on_thunks(kind, [first, *map(thunk, rest)], node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.expr:
        if isinstance(node.op, ast.Not):
            return at(call("python_bool", [self._not(node)]), node)
        return unary_operation(node, self.visit(node.operand))

    def _not(self, node: ast.UnaryOp) -> ast.expr:
        return at(call("not_", [self.test(node.operand)]), node)

    def visit_Compare(self, node: ast.Compare) -> ast.expr:
        if isinstance(node.ops[0], (ast.In, ast.NotIn)) and len(node.ops) == 1:
            sides = [self.visit(node.left), self.visit(node.comparators[0])]
            found = at(call("contains", sides), node)
            if isinstance(node.ops[0], ast.NotIn):
                found = at(call("not_", [found]), node)
            return at(call("python_bool", [found]), node)
        if _unmovable(node):
            return self._generic(node)
        if len(node.ops) == 1:
            return self._comparison(node, "compared")
        left = self.visit(node.left)
        operators = ast.Tuple([lambda_of_operator(op) for op in node.ops], ast.Load())
        rest = [thunk(self.visit(one)) for one in node.comparators]
        return self._on_thunks("compare", [operators, left, *rest], node)

    def _comparison(self, node: ast.Compare, function: str) -> ast.expr:
        if isinstance(node.ops[0], (ast.Is, ast.IsNot)):
            # `x is None` is never a question about a number.
            sides = (node.left, node.comparators[0])
            if any(isinstance(one, ast.Constant) and one.value is None for one in sides):
                return self._generic(node)
            same = at(
                call("identical", [self.visit(node.left), self.visit(node.comparators[0])]), node
            )
            return same if isinstance(node.ops[0], ast.Is) else at(call("not_", [same]), node)
        sides = self.visit(node.left), self.visit(node.comparators[0])
        return comparison(node, function, *sides)

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        return operation(node, "", self.visit(node.left), self.visit(node.right))

    def visit_FormattedValue(self, node: ast.FormattedValue) -> ast.expr:
        visited = self._generic(node)
        assert isinstance(visited, ast.FormattedValue)
        # A traced value has no text that Python's value would have: refused inside a staged block.
        visited.value = at(call("shown", [visited.value]), node)
        return visited

    def visit_IfExp(self, node: ast.IfExp) -> ast.expr:
        if _unmovable(node):
            return self._generic(node)
        sides = [thunk(self.visit(node.body)), thunk(self.visit(node.orelse))]
        return self._on_thunks("either", [self.test(node.test), *sides], node)

    def _on_thunks(self, function: str, arguments: list[ast.expr], like: ast.expr) -> ast.expr:
        """A call whose operands may not be evaluated.

        A function called in an operand may assign variables of this function (`nonlocal`). The call
        is then given these, so that the assignment happens only on the path that is taken.
        """
        evaluated = call(function, arguments)
        if self.scope.inner and any(isinstance(inner, ast.Call) for inner in ast.walk(like)):
            evaluated.keywords = [ast.keyword("state", load(INNER))]
        evaluated.keywords.append(ast.keyword("around", self._around()))
        return at(evaluated, like)

    def _around(self) -> ast.expr:
        """The view of what the function can see; in a lambda also its parameters."""
        around = load(AROUND)
        for parameters in self.lambdas:
            reads = ast.Tuple([thunk(load(name)) for name in parameters], ast.Load())
            around = call("within", [around, texts(parameters), reads])
        return around

    def _generic(self, node: ast.expr) -> ast.expr:
        visited = self.generic_visit(node)
        assert isinstance(visited, ast.expr)
        return visited

    def test(self, node: ast.expr) -> ast.expr:
        """`node` where only its truth matters, as in `if a and b:`.

        `a and b` itself returns one of its operands, so both would need one type. As a test it only
        needs their truth, a bool on either path.
        """
        if isinstance(node, ast.BoolOp) and not _unmovable(node):
            kind = "all_" if isinstance(node.op, ast.And) else "any_"
            first, *rest = (self.test(value) for value in node.values)
            return self._on_thunks(kind, [first, *map(thunk, rest)], node)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return self._not(node)
        if isinstance(node, ast.Compare) and len(node.ops) == 1 and not _asks_in(node):
            return self._comparison(node, "holds_for")
        return self.visit(node)

    def iterable(self, node: ast.expr) -> ast.expr:
        """What a `for` goes over; a `range`, `enumerate`, `zip` or `reversed` may hold traced values."""
        if isinstance(node, ast.Starred):
            return self.visit(node)
        if not isinstance(node, ast.Call):
            if isinstance(node, ast.Name) and node.id in self.scope.grown:
                return at(call("iterated_list", [node, ast.Constant(node.id)]), node)
            return at(call("iterated", [self.visit(node), ast.Constant(ast.unparse(node))]), node)
        if isinstance(node.func, ast.Name) and node.func.id in _ITERABLES:
            args = [self.iterable(one) for one in node.args]
            made = call(_ITERABLES[node.func.id], [self.visit(node.func), *args])
            made.keywords = [self.visit(one) for one in node.keywords]
            return at(made, node)
        # What another function goes over is its first argument, as in `tk.control.steps(range(n))`.
        first = [self.iterable(one) for one in node.args[:1]]
        node.func = self.visit(node.func)
        node.args = [*first, *(self.visit(one) for one in node.args[1:])]
        node.keywords = [self.visit(one) for one in node.keywords]
        return node


class Reads(ast.NodeTransformer):
    """Rewrites the reads of some names, for code that otherwise stays as it is."""

    def __init__(self, tracked: set[str]) -> None:
        self.tracked = tracked

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if isinstance(node.ctx, ast.Load) and node.id in self.tracked:
            return at(call("read", [node, ast.Constant(node.id)]), node)
        return node


def _unmovable(node: ast.expr) -> bool:
    """Whether `node` would mean something else inside a lambda."""
    return any(isinstance(inner, _UNMOVABLE) for inner in ast.walk(node))


def _asks_in(node: ast.Compare) -> bool:
    return isinstance(node.ops[0], (ast.In, ast.NotIn))
