"""The rewriting of assignments: an item of an array is set by making a new array.

Before:                      After:

    x[i] = v                     x = flow.set_item(x, (i,), v, "x", False)
    d["a"][0] += v               value = flow.item_at(d, ("a", 0)); value += v
                                 d = flow.set_item(d, ("a", 0), value, "d", False)

JAX arrays cannot change in place. For an array `set_item` returns `x.at[i].set(v)`. A list or a dict
is changed in place, as in Python, and the same object is returned.
"""

from __future__ import annotations

import ast
import copy

from toolkit.plain_python.reserved import FLOW, KEPT
from toolkit.plain_python.rewriting.expressions import Expressions
from toolkit.plain_python.rewriting.nodes import assign, at, call, has_places, load
from toolkit.plain_python.rewriting.operators import operation
from toolkit.plain_python.rewriting.scope import FunctionScope


class Assignments:
    """Rewrites the assignments of one function."""

    def __init__(self, scope: FunctionScope, expressions: Expressions) -> None:
        self.scope = scope
        self.expressions = expressions

    def assign(self, node: ast.Assign) -> list[ast.stmt]:
        """`a = value`, `x[i] = value`, `a, x[i] = b = value`."""
        if getattr(node.targets[0], "id", "").startswith(KEPT):
            # At a `break`: the variable may have no value there, and only a later read asks for one.
            node.value = at(call("kept", [node.value, ast.Constant(node.value.id)]), node)  # type: ignore[attr-defined]
            return [node]
        node.value = self.expressions.visit(node.value)
        if isinstance(node.value, ast.Call) and len(node.targets) == 1:
            self._name_value(node.targets[0], node.value)
        if not any(has_places(target) for target in node.targets):
            node.targets = [self.expressions.visit(target) for target in node.targets]
            return [node]
        if len(node.targets) == 1 and isinstance(node.targets[0], (ast.Subscript, ast.Attribute)):
            return self._store(node.targets[0], node.value, node)
        # `x[i], y = f()` evaluates `f()` once and then stores from the left, so its value gets a name.
        held = self.scope.fresh("value")
        statements: list[ast.stmt] = [assign(held, node.value, node)]
        for target in node.targets:
            statements += self._unpack(target, load(held), node)
        return statements

    def _name_value(self, target: ast.expr, value: ast.Call) -> None:
        """In `y = a if c else b`, pass on the name `y`: a message says which value disagrees.

        Passed on too is whether `y` is changed in place anywhere in the function.
        """
        function = value.func
        ours = isinstance(function, ast.Attribute) and getattr(function.value, "id", None) == FLOW
        if ours and function.attr == "either" and isinstance(target, ast.Name):  # type: ignore[attr-defined]
            changing = ast.Constant(target.id in self.scope.mutated)
            value.keywords.append(ast.keyword("name", at(ast.Constant(target.id), value)))
            value.keywords.append(ast.keyword("changing", at(changing, value)))

    def _unpack(self, target: ast.expr, value: ast.expr, like: ast.stmt) -> list[ast.stmt]:
        """Assign `value` to a nested target, as `a, b = value; x[0] = a; x[1] = b`.

        Python unpacks the whole value before it stores the first item, and stores from the left.
        """
        if isinstance(target, ast.Starred):
            return self._unpack(target.value, value, like)
        if not isinstance(target, (ast.Tuple, ast.List)):
            return self._store(target, value, like)
        held = [self.scope.fresh("value") for _ in target.elts]
        places: list[ast.expr] = [ast.Name(name, ast.Store()) for name in held]
        places = [
            ast.Starred(place, ast.Store()) if isinstance(element, ast.Starred) else place
            for place, element in zip(places, target.elts, strict=True)
        ]
        taken = at(ast.Assign([ast.Tuple(places, ast.Store())], value), like)
        stores = [
            statement
            for element, name in zip(target.elts, held, strict=True)
            for statement in self._unpack(element, load(name), like)
        ]
        return [taken, *stores]

    def _store(self, target: ast.expr, value: ast.expr, like: ast.stmt) -> list[ast.stmt]:
        """`target = value` for one target; `value` is rewritten already."""
        if isinstance(target, ast.Attribute):
            check = call("forbid_attribute", [ast.Constant(ast.unparse(target))])
            target.value = self.expressions.visit(target.value)
            return [at(ast.Expr(check), like), at(ast.Assign([target], value), like)]
        if not isinstance(target, ast.Subscript):
            return [at(ast.Assign([self.expressions.visit(target)], value), like)]
        place, path = self._path(target)
        return [self._set_item(place, path, value, like)]

    def _path(self, target: ast.Subscript) -> tuple[ast.expr, ast.expr]:
        """`d["a"][0]` as `d` and `("a", 0)`."""
        place: ast.expr = target
        path: list[ast.expr] = []
        while isinstance(place, ast.Subscript):
            path.insert(0, self._index(place.slice))
            place = place.value
        return place, ast.Tuple(path, ast.Load())

    def _index(self, node: ast.expr) -> ast.expr:
        """An index as an expression: `1:3` is syntax only between brackets, elsewhere `slice(1, 3)`."""
        if isinstance(node, ast.Slice):
            ends = [node.lower, node.upper, node.step]
            return call(
                "slice_", [self.expressions.visit(e) if e else ast.Constant(None) for e in ends]
            )
        if isinstance(node, ast.Tuple):
            return ast.Tuple([self._index(element) for element in node.elts], ast.Load())
        return self.expressions.visit(node)

    def _set_item(
        self, place: ast.expr, path: ast.expr, value: ast.expr, like: ast.stmt
    ) -> ast.stmt:
        """Set the item at `path` of `place`: an array is replaced, a container changed in place."""
        shown = ast.Constant(ast.unparse(place))
        # A variable of this function gets the new array. In `self.w[i] = v` or for a variable of
        # another function there is nothing to assign, so an array there is refused at run time.
        if isinstance(place, ast.Name) and place.id in self.scope.own:
            given = ast.Constant(place.id in self.scope.given)
            arguments = [load(place.id), path, value, shown, given]
            return assign(place.id, call("set_item", arguments), like)
        changed = call("set_item_elsewhere", [self.expressions.visit(place), path, value, shown])
        return at(ast.Expr(changed), like)

    def augmented(self, node: ast.AugAssign) -> list[ast.stmt]:
        """`place += value`: read the item, change it, and store it; each part is evaluated once."""
        if isinstance(node.target, ast.Name):
            name = node.target.id
            now: ast.expr = load(name)
            if name in self.scope.tracked:
                # `s += v` changes a NumPy array in place, which is refused in a staged block. So the value
                # is checked first.
                now = call("augmentable", [now, ast.Constant(name)])
            return [
                assign(name, operation(node, "i", now, self.expressions.visit(node.value)), node)
            ]
        held = self.scope.fresh("value")
        changed = operation(node, "i", load(held), self.expressions.visit(node.value))
        change = assign(held, changed, node)
        if isinstance(node.target, ast.Attribute):
            # `f().w += v` calls `f` once, so the object gets a name.
            whole = self.scope.fresh("value")
            owner = ast.Attribute(load(whole), node.target.attr, ast.Load())
            store = ast.Attribute(load(whole), node.target.attr, ast.Store())
            check = call("forbid_attribute", [ast.Constant(ast.unparse(node.target))])
            return [
                at(ast.Expr(check), node),
                assign(whole, self.expressions.visit(node.target.value), node),
                assign(held, owner, node),
                change,
                at(ast.Assign([store], load(held)), node),
            ]
        assert isinstance(node.target, ast.Subscript)
        place, indices = self._path(node.target)
        path = self.scope.fresh("value")
        # The place is rewritten twice, for the read and for the store, and rewriting changes the nodes
        # themselves. So the read gets a copy.
        now = call("item_at", [self.expressions.visit(copy.deepcopy(place)), load(path)])
        return [
            assign(path, indices, node),
            assign(held, now, node),
            change,
            self._set_item(place, load(path), load(held), node),
        ]

    def annotated(self, node: ast.AnnAssign) -> list[ast.stmt]:
        """`a: int = value` without its annotation, which a function's variable does not keep."""
        if node.value is None:
            return [at(ast.Pass(), node)]
        return self.assign(at(ast.Assign([node.target], node.value), node))
