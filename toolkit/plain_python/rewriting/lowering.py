"""Blocks become functions: `for`, `while` and `if` become calls of `toolkit.plain_python.runtime`.

    for i in range(n):            def block_1(item):
        s = s + x[i]                  nonlocal i, s
                                      i = item
                                      s = s + x[i]
                                  def write_1(i_, s_): nonlocal i, s; i, s = i_, s_
                                  flow.for_(flow.range_(n), block_1, reads, write_1, ("i", "s"), ...)

The variables stay variables of the user's function (cells that the blocks share), so closures see
what they would see in Python. Every new node stands at the user's line. Jumps are gone already
(`toolkit.plain_python.jumps`).
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from toolkit.plain_python.reserved import AROUND, FLOW, INNER, PREFIX, RESULT, RETURNED
from toolkit.plain_python.rewriting import names
from toolkit.plain_python.rewriting.expressions import Expressions, Reads
from toolkit.plain_python.rewriting.jumps import always_jumps, has_early_return, lower_jumps
from toolkit.plain_python.rewriting.nodes import (
    assign,
    at,
    call,
    define,
    has_places,
    load,
    texts,
    thunk,
)
from toolkit.plain_python.rewriting.scope import FunctionScope, scope_of

_BLOCKS = (ast.For, ast.While, ast.If, ast.IfExp, ast.Lambda)


def lower_function(
    function: ast.FunctionDef, outer: FunctionScope | None = None, free: Sequence[str] = ()
) -> None:
    """Rewrite the body of `function`, and of the functions inside it, in place.

    Args:
      outer: the function around it, if that is lowered too.
      free: the variables of functions around it that are not.
    """
    document = function.body[:1] if ast.get_docstring(function) is not None else []
    body = function.body[len(document) :]
    if has_early_return(body):
        start = [assign(RETURNED, ast.Constant(False), body[0])]
        always = ast.Constant(always_jumps(body))
        result = ast.Return(call("returned", [load(RETURNED), load(RESULT), always]))
        body = [*start, *lower_jumps(body), at(result, body[-1])]
    else:
        last = body[-1:] if body and isinstance(body[-1], ast.Return) else []
        body = [*lower_jumps(body[: len(body) - len(last)]), *last]
    scope = scope_of(function, body, outer)
    nonlocals = sorted(names.declared(body, ast.Nonlocal))
    declared = [at(ast.Nonlocal(nonlocals), function)] if nonlocals else []
    # A block's assignment needs a variable of this function to assign to.
    unbound = sorted(scope.changed - names.parameters(function.args) - set(nonlocals))
    start = [assign(name, call("Undefined", [ast.Constant(name)]), function) for name in unbound]
    lowering = _Statements(scope)
    if scope.inner or names.contains(body, *_BLOCKS):
        seen = sorted((scope.own | set(free)) - {"__class__"})
        reads = ast.Tuple([thunk(load(name)) for name in seen], ast.Load())
        start.append(assign(AROUND, call("Surroundings", [texts(seen), reads]), function))
    if scope.inner:
        (state,), write = lowering.state_of(sorted(scope.inner), [], [], function)
        start += [write, assign(INNER, state, function)]
    body = [*document, *declared, *start, *lowering.block(body)]
    function.body = body or [at(ast.Pass(), function)]


class BlockVariables(NamedTuple):
    """What a block changes."""

    changed: list[str]
    arguments: list[ast.expr]  # of the call that runs it: how to read and write these


class _Statements:
    """Rewrites the statements of one function."""

    def __init__(self, scope: FunctionScope) -> None:
        self.scope = scope
        self.expressions = Expressions(scope)

    def block(self, statements: Iterable[ast.stmt]) -> list[ast.stmt]:
        return [new for statement in statements for new in self._statement(statement)]

    def _statement(self, node: ast.stmt) -> list[ast.stmt]:
        match node:
            case ast.If():
                return self._if(node)
            case ast.While():
                return self._while(node)
            case ast.For():
                return self._for(node)
            case ast.Assign():
                return self._assign(node)
            case ast.AugAssign():
                return self._aug_assign(node)
            case ast.AnnAssign():
                return self._ann_assign(node)
            case ast.FunctionDef() if not names.contains(node.body, ast.Yield, ast.YieldFrom):
                return self._function_def(node)
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                # Not converted; it still has to ask whether a variable has a value.
                return [Reads(self.scope.tracked).visit(node)]
            case ast.Nonlocal():
                return [at(ast.Pass(), node)]  # stands at the top of the function
            case ast.Delete():
                self._parts(node)
                return [at(ast.Expr(call("forbid_delete", [])), node), node]
            case ast.Raise():
                return [at(ast.Expr(call("forbid_raise", [])), node), self.expressions.visit(node)]
            case ast.Match():
                self._parts(node)
                node.subject = at(call("matchable", [node.subject]), node)
                return [node]
        self._parts(node)
        return [node]

    def _parts(self, node: ast.AST) -> None:
        """Rewrite the blocks and the expressions of a statement that stays what it is."""
        for name, value in ast.iter_fields(node):
            if isinstance(value, ast.expr):
                setattr(node, name, self.expressions.visit(value))
            elif isinstance(value, list) and value and isinstance(value[0], ast.stmt):
                setattr(node, name, self.block(value))
            elif isinstance(value, list):
                for part in value:  # handlers of a try, cases of a match, items of a with
                    if isinstance(part, ast.AST):
                        self._parts(part)
                    if isinstance(part, ast.ExceptHandler):
                        part.body.insert(0, at(ast.Expr(call("caught", [])), part))

    def _function_def(self, node: ast.FunctionDef) -> list[ast.stmt]:
        node.decorator_list = [self.expressions.visit(one) for one in node.decorator_list]
        self.expressions.defaults(node.args)
        lower_function(node, self.scope)
        return [node]

    def _if(self, node: ast.If) -> list[ast.stmt]:
        state, write = self._state([*node.body, *node.orelse], node)
        then, then_def = self._function("then", [], node.body, state.changed, node)
        other, other_def = self._function("else", [], node.orelse, state.changed, node)
        run = call("if_", [self.expressions.test(node.test), then, other, *state.arguments])
        return [then_def, other_def, write, at(ast.Expr(run), node)]

    def _while(self, node: ast.While) -> list[ast.stmt]:
        state, write = self._state(node.body, node)
        inside = names.loads(node.body)
        private = [name for name in state.changed if inside[name] == self.scope.loads[name]]
        block, block_def = self._function("while", [], node.body, state.changed, node)
        test = thunk(self.expressions.test(node.test))
        run = call("while_", [test, block, *state.arguments, texts(private)])
        return [block_def, write, at(ast.Expr(run), node)]

    def _for(self, node: ast.For) -> list[ast.stmt]:
        item = PREFIX + "item"
        start = at(ast.Assign([node.target], load(item)), node.target)
        leave = getattr(node, "leave", None)
        node.body.insert(0, start)
        state, write = self._state([*node.body, *([load(leave)] if leave else [])], node)
        block, block_def = self._function("for", [item], node.body, state.changed, node)
        run = call(
            "for_",
            [self.expressions.iterable(node.iter), block, *state.arguments, ast.Constant(leave)],
        )
        return [block_def, write, at(ast.Expr(run), node)]

    def _assign(self, node: ast.Assign) -> list[ast.stmt]:
        node.value = self.expressions.visit(node.value)
        if isinstance(node.value, ast.Call) and len(node.targets) == 1:
            self._name_value(node.targets[0], node.value)
        if not any(has_places(target) for target in node.targets):
            node.targets = [self.expressions.visit(target) for target in node.targets]
            return [node]
        if len(node.targets) == 1 and isinstance(node.targets[0], (ast.Subscript, ast.Attribute)):
            return self._store(node.targets[0], node.value, node)
        held = self._name("value")
        statements: list[ast.stmt] = [assign(held, node.value, node)]
        for target in node.targets:
            statements += self._unpack(target, load(held), node)
        return statements

    def _name_value(self, target: ast.expr, value: ast.Call) -> None:
        """Tell a conditional expression what its value will be called."""
        function = value.func
        ours = isinstance(function, ast.Attribute) and getattr(function.value, "id", None) == FLOW
        if ours and function.attr == "either" and isinstance(target, ast.Name):  # type: ignore[attr-defined]
            changing = ast.Constant(target.id in self.scope.mutated)
            value.keywords.append(ast.keyword("name", at(ast.Constant(target.id), value)))
            value.keywords.append(ast.keyword("changing", at(changing, value)))

    def _unpack(self, target: ast.expr, value: ast.expr, like: ast.stmt) -> list[ast.stmt]:
        """Assign as Python does: all values taken first, then place by place from the left."""
        if isinstance(target, ast.Starred):
            return self._unpack(target.value, value, like)
        if not isinstance(target, (ast.Tuple, ast.List)):
            return self._store(target, value, like)
        held = [self._name("value") for _ in target.elts]
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
        """`target = value` for one place, whose value is lowered already."""
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
        """An index as an expression: a slice is one only between brackets."""
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
        if isinstance(place, ast.Name) and place.id in self.scope.own:
            given = ast.Constant(place.id in self.scope.given)
            arguments = [load(place.id), path, value, shown, given]
            return assign(place.id, call("set_item", arguments), like)
        changed = call("set_item_elsewhere", [self.expressions.visit(place), path, value, shown])
        return at(ast.Expr(changed), like)

    def _aug_assign(self, node: ast.AugAssign) -> list[ast.stmt]:
        if isinstance(node.target, ast.Name):
            node.value = self.expressions.visit(node.value)
            if node.target.id not in self.scope.tracked:
                return [node]
            name = node.target.id
            checked = call("augmentable", [load(name), ast.Constant(name)])
            return [assign(name, checked, node), node]
        held = self._name("value")
        change = ast.AugAssign(
            ast.Name(held, ast.Store()), node.op, self.expressions.visit(node.value)
        )
        if isinstance(node.target, ast.Attribute):
            whole = self._name("value")
            owner = ast.Attribute(load(whole), node.target.attr, ast.Load())
            store = ast.Attribute(load(whole), node.target.attr, ast.Store())
            check = call("forbid_attribute", [ast.Constant(ast.unparse(node.target))])
            return [
                at(ast.Expr(check), node),
                assign(whole, self.expressions.visit(node.target.value), node),
                assign(held, owner, node),
                at(change, node),
                at(ast.Assign([store], load(held)), node),
            ]
        assert isinstance(node.target, ast.Subscript)
        place, indices = self._path(node.target)
        path = self._name("value")
        now = call("item_at", [self.expressions.visit(copy.deepcopy(place)), load(path)])
        return [
            assign(path, indices, node),
            assign(held, now, node),
            at(change, node),
            self._set_item(place, load(path), load(held), node),
        ]

    def _ann_assign(self, node: ast.AnnAssign) -> list[ast.stmt]:
        if node.value is None:
            return [at(ast.Pass(), node)]
        return self._assign(at(ast.Assign([node.target], node.value), node))

    def _name(self, kind: str) -> str:
        self.scope.count += 1
        return f"{PREFIX}{kind}_{self.scope.count}"

    def _function(
        self,
        kind: str,
        arguments: list[str],
        body: list[ast.stmt],
        changed: list[str],
        like: ast.stmt,
    ) -> tuple[ast.expr, ast.stmt]:
        name = self._name(kind)
        start: list[ast.stmt] = [ast.Nonlocal(changed)] if changed else []
        definition = define(name, arguments, [*start, *(self.block(body) or [ast.Pass()])])
        return load(name), at(definition, like)

    def _state(self, inside: Sequence[ast.AST], like: ast.stmt) -> tuple[BlockVariables, ast.stmt]:
        """What a block changes, and the function that writes it."""
        found = names.assigned(inside) | names.mutated(inside) | self.scope.inner
        changed = sorted(found & self.scope.own)
        watched = sorted((names.handed_on(inside) & self.scope.own) - set(changed))
        grown = sorted(names.appended(inside) & self.scope.own)
        changed += watched
        arguments, write = self.state_of(changed, grown, watched, like)
        return BlockVariables(changed, arguments), write

    def state_of(
        self, changed: list[str], grown: list[str], watched: list[str], like: ast.stmt
    ) -> tuple[list[ast.expr], ast.stmt]:
        """The runtime's view of some variables, and the function that writes them."""
        name = self._name("write")
        new = [f"{PREFIX}new_{one}" for one in changed]
        stores: list[ast.stmt] = [ast.Nonlocal(changed)] if changed else [ast.Pass()]
        stores += [
            ast.Assign([ast.Name(old, ast.Store())], load(value))
            for old, value in zip(changed, new, strict=True)
        ]
        reads = ast.Tuple([thunk(load(one)) for one in changed], ast.Load())
        constants = [texts(kind) for kind in (changed, grown, watched)]
        mutated = texts(sorted(self.scope.mutated & set(changed)))
        state = call("Variables", [reads, load(name), *constants, load(AROUND), mutated])
        return [state], at(define(name, new, stores), like)
