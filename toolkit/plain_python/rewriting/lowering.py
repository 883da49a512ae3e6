"""The rewriting of statements: the body of a `for`, `while` or `if` becomes a function.

Before:

    for i in range(n):
        s = s + x[i]

After (`flow` is the module `runtime.calls`):

    def for_2(item):
        nonlocal i, s
        i = item
        s = flow.read(s, "s") + x[flow.read(i, "i")]
    def write_1(new_i, new_s):
        nonlocal i, s
        i = new_i
        s = new_s
    variables = flow.Variables((lambda: i, lambda: s), write_1, ("i", "s"), ...)
    flow.for_(flow.range_(range, n), for_2, variables, None)

At run time `flow.for_` can run the block once on tracers, read what became of `i` and `s`, and put
the results of a scan in their place. The variables stay variables of the user's function, so every
closure in it sees the values that it would see in Python. Each new node gets the line of the code
that it stands for. `jumps` has removed `break`, `continue` and early `return` before.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from toolkit.plain_python.reserved import AROUND, INNER, PREFIX, RESULT, RETURNED
from toolkit.plain_python.rewriting import names
from toolkit.plain_python.rewriting.assignments import Assignments
from toolkit.plain_python.rewriting.breaks import mark_bound
from toolkit.plain_python.rewriting.expressions import Expressions, Reads
from toolkit.plain_python.rewriting.jumps import (
    always_jumps,
    has_early_return,
    lower_jumps,
)
from toolkit.plain_python.rewriting.nodes import (
    assign,
    at,
    call,
    define,
    load,
    texts,
    thunk,
)
from toolkit.plain_python.rewriting.scope import FunctionScope, scope_of

# What may be staged. A function without any of these needs no view of its surroundings.
_BLOCKS = (
    ast.For,
    ast.While,
    ast.If,
    ast.IfExp,
    ast.BoolOp,
    ast.Compare,
    ast.Lambda,
    ast.GeneratorExp,
)


def lower_function(
    function: ast.FunctionDef, outer: FunctionScope | None = None, free: Sequence[str] = ()
) -> None:
    """Rewrite the body of `function`, and of the functions inside it, in place.

    Args:
      outer: the scope of the function around it, if that function is rewritten too.
      free: names of variables that it takes from functions around it that are not rewritten.
    """
    document = function.body[:1] if ast.get_docstring(function) is not None else []
    body = function.body[len(document) :]
    mark_bound(body, names.parameters(function.args))
    if has_early_return(body):
        start = [assign(RETURNED, ast.Constant(False), body[0])]
        always = ast.Constant(always_jumps(body))
        result = ast.Return(call("returned", [load(RETURNED), load(RESULT), always]))
        body = [*start, *lower_jumps(body), at(result, body[-1])]
    else:
        last = body[-1:] if body and isinstance(body[-1], ast.Return) else []
        body = [*lower_jumps(body[: len(body) - len(last)]), *last]
    scope = scope_of(function, body, outer, free)
    nonlocals = sorted(names.declared(body, ast.Nonlocal))
    declared = [at(ast.Nonlocal(nonlocals), function)] if nonlocals else []
    # The blocks declare their variables `nonlocal`, and Python accepts that only for names that this
    # function itself binds. So each name that a block alone assigns is bound here, to a mark that
    # says "no value yet".
    unbound = sorted(scope.changed - names.parameters(function.args) - set(nonlocals))
    start = [assign(name, call("Undefined", [ast.Constant(name)]), function) for name in unbound]
    lowering = _Statements(scope)
    if scope.inner or names.contains(body, *_BLOCKS):
        start.append(assign(AROUND, _surroundings(scope, body), function))
    if scope.inner:
        variables, write = lowering.view_of(sorted(scope.inner), [], [], function)
        start += [write, assign(INNER, variables, function)]
    body = [*document, *declared, *start, *lowering.block(body)]
    function.body = body or [at(ast.Pass(), function)]


def _surroundings(scope: FunctionScope, body: list[ast.stmt]) -> ast.expr:
    """The runtime's view of all that the function can see."""
    # `__class__` is the hidden cell behind `super()`: it never changes, so it is left out.
    seen = sorted((scope.own | scope.outside) - {"__class__"})
    reads = ast.Tuple([thunk(load(name)) for name in seen], ast.Load())
    # Which variables of its module a function uses is told by the names in its code.
    named = sorted(names.mentioned(body) - set(seen))
    return call("Surroundings", [texts(seen), reads, texts(named), thunk(ast.Constant(None))])


class BlockVariables(NamedTuple):
    """The variables that a block may change."""

    names: list[str]
    view: ast.expr  # `flow.Variables(...)`: how the runtime reads and writes them


class _Statements:
    """Rewrites the statements of one function."""

    def __init__(self, scope: FunctionScope) -> None:
        self.scope = scope
        self.expressions = Expressions(scope)
        self.assignments = Assignments(scope, self.expressions)

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
                return self.assignments.assign(node)
            case ast.AugAssign():
                return self.assignments.augmented(node)
            case ast.AnnAssign():
                return self.assignments.annotated(node)
            case ast.FunctionDef() if not names.contains(node.body, ast.Yield, ast.YieldFrom):
                return self._function_def(node)
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                # Generators and classes stay as they are. Only their reads are rewritten, because a
                # variable of this function may hold the mark "no value yet".
                return [Reads(self.scope.tracked).visit(node)]
            case ast.Nonlocal():
                return [at(ast.Pass(), node)]  # `lower_function` has put it at the top
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
                    # A bare `except:` would catch our own refusals and tracer errors, and the
                    # function would return a wrong value. `caught` raises them again.
                    if isinstance(part, ast.ExceptHandler):
                        part.body.insert(0, at(ast.Expr(call("caught", [])), part))

    def _function_def(self, node: ast.FunctionDef) -> list[ast.stmt]:
        node.decorator_list = [self.expressions.visit(one) for one in node.decorator_list]
        self.expressions.defaults(node.args)
        lower_function(node, self.scope)
        return [node]

    def _if(self, node: ast.If) -> list[ast.stmt]:
        variables, write = self._changed([*node.body, *node.orelse], node)
        then, then_def = self._function("then", [], node.body, variables.names, node)
        other, other_def = self._function("else", [], node.orelse, variables.names, node)
        run = call("if_", [self.expressions.test(node.test), then, other, variables.view])
        return [then_def, other_def, write, at(ast.Expr(run), node)]

    def _while(self, node: ast.While) -> list[ast.stmt]:
        variables, write = self._changed(node.body, node)
        # A variable is private to the body if all its reads are in the body. Whether it has a value
        # after zero iterations does not matter then.
        inside = names.loads(node.body)
        private = [name for name in variables.names if inside[name] == self.scope.loads[name]]
        block, block_def = self._function("while", [], node.body, variables.names, node)
        test = thunk(self.expressions.test(node.test))
        run = call("while_", [test, block, variables.view, texts(private)])
        return [block_def, write, at(ast.Expr(run), node)]

    def _for(self, node: ast.For) -> list[ast.stmt]:
        item = PREFIX + "item"
        # The target may be any pattern (`i, (a, *b)`), so the block takes one parameter and unpacks it.
        start = at(ast.Assign([node.target], load(item)), node.target)
        leave = getattr(node, "leave", None)
        node.body.insert(0, start)
        # A `break` after a `continue` is never reached and was dropped, so the body may not mention the
        # flag. `flow.for_` still looks it up among the variables, so it is always one of them.
        variables, write = self._changed([*node.body, *([load(leave)] if leave else [])], node)
        block, block_def = self._function("for", [item], node.body, variables.names, node)
        iterable = self.expressions.iterable(node.iter)
        run = call("for_", [iterable, block, variables.view, ast.Constant(leave)])
        return [block_def, write, at(ast.Expr(run), node)]

    def _function(
        self,
        kind: str,
        arguments: list[str],
        body: list[ast.stmt],
        changed: list[str],
        like: ast.stmt,
    ) -> tuple[ast.expr, ast.stmt]:
        """A block as a function: its name, and its definition."""
        name = self.scope.fresh(kind)
        start: list[ast.stmt] = [ast.Nonlocal(changed)] if changed else []
        definition = define(name, arguments, [*start, *(self.block(body) or [ast.Pass()])])
        return load(name), at(definition, like)

    def _changed(
        self, inside: Sequence[ast.AST], like: ast.stmt
    ) -> tuple[BlockVariables, ast.stmt]:
        """The variables that a block may change, and the function that writes them."""
        found = names.assigned(inside) | names.mutated(inside) | self.scope.inner
        changed = sorted(found & self.scope.own)
        # A variable that the block only hands on, as in `update(params)`, probably stays what it is.
        # But what is called may change a list or dict in place, so it has to be looked at afterwards.
        watched = sorted((names.handed_on(inside) & self.scope.own) - set(changed))
        grown = sorted(names.appended(inside) & self.scope.own)
        changed += watched
        view, write = self.view_of(changed, grown, watched, like)
        return BlockVariables(changed, view), write

    def view_of(
        self, changed: list[str], grown: list[str], watched: list[str], like: ast.stmt
    ) -> tuple[ast.expr, ast.stmt]:
        """The runtime's view of some variables, and the function that writes them."""
        name = self.scope.fresh("write")
        new = [f"{PREFIX}new_{one}" for one in changed]
        stores: list[ast.stmt] = [ast.Nonlocal(changed)] if changed else [ast.Pass()]
        stores += [
            ast.Assign([ast.Name(old, ast.Store())], load(value))
            for old, value in zip(changed, new, strict=True)
        ]
        reads = ast.Tuple([thunk(load(one)) for one in changed], ast.Load())
        constants = [texts(kind) for kind in (changed, grown, watched)]
        mutated = texts(sorted(self.scope.mutated & set(changed)))
        view = call("Variables", [reads, load(name), *constants, load(AROUND), mutated])
        return view, at(define(name, new, stores), like)
