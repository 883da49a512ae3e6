"""The statements of a source file: which lines belong to each, and what it assigns."""

from __future__ import annotations

import ast
import dis
import inspect
import linecache
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

RESULT = "_tk_result"  # where @control_flow puts what a `return` inside a loop or an `if` returns
_ENTRIES: dict[type[ast.AST], str] = {ast.Attribute: ".", ast.Subscript: "[]"}
# Code without a file. Python 3.13 keeps a source under these names, but it may be that of other code.
_UNNAMED = ("<string>", "<stdin>")
_Scope = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
_Compound = ast.For | ast.AsyncFor | ast.While | ast.If | ast.With | ast.AsyncWith | ast.Match


class Target(NamedTuple):
    """What a statement assigns: a name, or an entry of something that has one."""

    text: str
    node: ast.expr


@dataclass(frozen=True)
class Statement:
    """The lines of a statement; of a compound one those of its head."""

    first: int
    last: int
    targets: tuple[Target, ...] = ()
    returns: bool = False


class Function(NamedTuple):
    """A `def` or a lambda, with its decorators."""

    name: str
    first: int
    defined: int  # the line of the `def`, below its decorators
    last: int
    parameters: tuple[tuple[str, int], ...]  # name and line


@dataclass(frozen=True)
class Source:
    """A file, or a cell of a notebook."""

    file: str
    lines: Sequence[str]
    statements: Mapping[int, Statement]  # by every line of it
    functions: Sequence[Function]

    def function(self, code: types.CodeType) -> Function | None:
        """The `def` or lambda that `code` is the body of; None of a block or a comprehension."""
        # Several lambdas may stand on one line; their parameters tell them apart.
        given = _parameters(code)
        for one in self.functions:
            named = one.name == code.co_name and code.co_firstlineno in (one.first, one.defined)
            if named and given == {name for name, _ in one.parameters}:
                return one
        return None

    def around(self, line: int) -> Function | None:
        """The innermost function that a line belongs to."""
        found = [one for one in self.functions if one.first <= line <= one.last]
        return max(found, key=lambda one: (one.first, -one.last), default=None)


def read(file: str) -> Source | None:
    """The source of a file as it is now; None where there is none that can be read."""
    if file in _UNNAMED:
        return None
    linecache.checkcache(file)
    lines = [line.rstrip("\n") for line in linecache.getlines(file)]
    try:
        module = ast.parse("\n".join(lines))
    except (SyntaxError, ValueError):
        return None
    if not lines:
        return None
    statements = {
        line: one
        for one in _merged(sorted(_statements(module), key=lambda one: one.first))
        for line in range(one.first, one.last + 1)
    }
    return Source(file, lines, statements, list(_functions(module)))


def stored(code: types.CodeType) -> frozenset[tuple[int, str]]:
    """Line and name of all that `code` itself assigns; what functions inside it assign is left out.

    The name of an attribute is ".", that of an entry "[]".
    """
    found = set()
    for one in dis.get_instructions(code):
        line = one.positions.lineno if one.positions else None
        if line is None or not one.opname.startswith("STORE_"):
            continue
        if one.opname in ("STORE_ATTR", "STORE_SUBSCR"):
            names: Sequence[str] = (".",) if one.opname == "STORE_ATTR" else ("[]",)
        elif isinstance(one.argval, tuple):  # two instructions in one, since Python 3.13
            names = one.argval if one.opname.count("STORE") == 2 else one.argval[:1]
        else:
            names = (one.argval,)
        found |= {(line, str(name)) for name in names}
    return frozenset(found)


def assigns(names: frozenset[tuple[int, str]], statement: Statement, target: ast.expr) -> bool:
    """Whether the code with these `stored` names is what assigns the target."""
    name = target.id if isinstance(target, ast.Name) else _ENTRIES[type(target)]
    return assigns_name(names, statement, name)


def assigns_name(names: frozenset[tuple[int, str]], statement: Statement, name: str) -> bool:
    """As `assigns`, of a name."""
    return any((line, name) in names for line in range(statement.first, statement.last + 1))


def value_of(target: ast.expr, variables: Mapping[str, Any]) -> Any:
    """What a target holds, looked up without running anything of the user's; None where unknown."""
    if isinstance(target, ast.Name):
        return variables.get(target.id)
    if isinstance(target, ast.Attribute):
        return getattr(value_of(target.value, variables), "__dict__", {}).get(target.attr)
    if isinstance(target, ast.Subscript):
        holder = value_of(target.value, variables)
        key = target.slice.value if isinstance(target.slice, ast.Constant) else None
        if isinstance(target.slice, ast.Name):
            key = variables.get(target.slice.id)
        # Only plain dicts and lists: looking up an entry of another class may run code of the user's.
        if type(holder) is dict and isinstance(key, (str, int)):
            return holder.get(key)
        if type(holder) is list and isinstance(key, int) and -len(holder) <= key < len(holder):
            return holder[key]
    return None


def _parameters(code: types.CodeType) -> set[str]:
    count = code.co_argcount + code.co_kwonlyargcount
    count += bool(code.co_flags & inspect.CO_VARARGS) + bool(code.co_flags & inspect.CO_VARKEYWORDS)
    return set(code.co_varnames[:count])


def _statements(module: ast.Module) -> Iterator[Statement]:
    for node in ast.walk(module):
        # The head of a `def` or a `class` ends above the first statement of its body.
        if isinstance(node, _Scope):
            yield Statement(node.lineno, max(node.lineno, node.body[0].lineno - 1))
        elif isinstance(node, _Compound):
            heads = list(_head(node))
            last = max(one.end_lineno or node.lineno for one in heads)
            yield Statement(node.lineno, last, tuple(_targets(heads)))
        elif isinstance(node, ast.match_case):
            yield Statement(node.pattern.lineno, node.pattern.end_lineno or node.pattern.lineno)
        elif isinstance(node, ast.stmt) and not isinstance(node, (ast.Try, ast.TryStar)):
            targets = tuple(_targets([node]))
            last = node.end_lineno or node.lineno
            yield Statement(node.lineno, last, targets, isinstance(node, ast.Return))


def _head(node: _Compound) -> Iterator[ast.expr]:
    """The parts of a compound statement before its body."""
    if isinstance(node, (ast.For, ast.AsyncFor)):
        yield from (node.target, node.iter)
    elif isinstance(node, (ast.While, ast.If)):
        yield node.test
    elif isinstance(node, ast.Match):
        yield node.subject
    else:
        for item in node.items:
            yield item.context_expr
            if item.optional_vars is not None:
                yield item.optional_vars


def _targets(nodes: Sequence[ast.AST]) -> Iterator[Target]:
    """What is assigned, in the order of the text, without what lambdas and comprehensions bind."""
    for node in nodes:
        if isinstance(
            node, (ast.Lambda, ast.GeneratorExp, ast.ListComp, ast.SetComp, ast.DictComp)
        ):
            continue
        context = getattr(node, "ctx", None)
        if isinstance(node, (ast.Name, ast.Attribute, ast.Subscript)) and isinstance(
            context, ast.Store
        ):
            yield Target(ast.unparse(node), node)
        else:
            yield from _targets(list(ast.iter_child_nodes(node)))


def _merged(statements: Sequence[Statement]) -> Iterator[Statement]:
    """The statements, those that share a line merged into one: a trace event tells only the line."""
    pending: Statement | None = None
    for one in statements:
        if pending is None or one.first > pending.last:
            if pending is not None:
                yield pending
            pending = one
        else:
            # A name that both assign is listed once; what it holds is looked up after both have run.
            targets = dict.fromkeys([*pending.targets, *one.targets])
            by_text = {target.text: target for target in targets}
            pending = Statement(
                pending.first,
                max(pending.last, one.last),
                tuple(by_text.values()),
                pending.returns or one.returns,
            )
    if pending is not None:
        yield pending


def _functions(module: ast.Module) -> Iterator[Function]:
    for node in ast.walk(module):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        given = node.args
        parameters = [*given.posonlyargs, *given.args, *given.kwonlyargs]
        parameters += [one for one in (given.vararg, given.kwarg) if one]
        name, first = "<lambda>", node.lineno
        if not isinstance(node, ast.Lambda):
            name = node.name
            first = min([node.lineno, *(one.lineno for one in node.decorator_list)])
        lines = tuple((one.arg, one.lineno) for one in parameters)
        yield Function(name, first, node.lineno, node.end_lineno or first, lines)
