"""`break`, `continue` and early `return`, rewritten as flags and conditions.

Before:                      After:

    for a in x:                  left = False
        f(a)                     for a in x:       # runs the body only while `left` is False
        if a > 3:                    f(a)
            break                    if a > 3:
        y = a                            left = True
                                     else:
                                         y = a

A block that becomes the body of a scan cannot stop in the middle. So a jump sets a flag, and what it
would skip moves under `if not flag:`. Where one branch of an `if` certainly jumps, the statements
after the `if` move into the other branch instead. That needs no flag, and a value that is returned
on both paths is then defined in both branches.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import NamedTuple

from toolkit.plain_python.reserved import KEPT, PREFIX, RESULT, RETURNED
from toolkit.plain_python.rewriting import names
from toolkit.plain_python.rewriting.breaks import set_by_a_break
from toolkit.plain_python.rewriting.nodes import is_true


class Flags(NamedTuple):
    """The flags that leave a loop; the outermost "loop" is the function."""

    leave: str  # set by `break` and `return`, which leave the loop
    skip: str | None  # set by `continue`
    outer: Flags | None
    kept: tuple[str, ...] = ()  # variables whose values are kept aside where a `break` leaves

    def enclosing(self) -> list[Flags]:
        """These flags, and those of all loops around this one, up to the function's."""
        return [self, *(self.outer.enclosing() if self.outer else [])]


FUNCTION = Flags(RETURNED, None, None)


def has_early_return(body: Sequence[ast.stmt]) -> bool:
    """Whether a `return` stands anywhere but at the end."""
    early = body[:-1] if body and isinstance(body[-1], ast.Return) else body
    return names.contains(early, ast.Return)


def lower_jumps(body: Sequence[ast.stmt], flags: Flags = FUNCTION) -> list[ast.stmt]:
    """`body` without jumps."""
    lowered: list[ast.stmt] = []
    for position, statement in enumerate(body):
        rest = body[position + 1 :]
        if isinstance(statement, (ast.Return, ast.Break, ast.Continue)):
            return lowered + _jump(statement, flags)  # what follows is never reached
        # Asked before the statement is lowered, because lowering removes its jumps.
        asked = _asked(statement, flags)
        if isinstance(statement, (ast.For, ast.While)) and (kept := set_by_a_break(statement)):
            return lowered + _loop_and_rest(statement, rest, kept, asked, flags)
        if isinstance(statement, ast.If) and always_jumps(statement.body):
            return [*lowered, _if(statement, statement.body, [*statement.orelse, *rest], flags)]
        if isinstance(statement, ast.If) and always_jumps(statement.orelse):
            return [*lowered, _if(statement, [*statement.body, *rest], statement.orelse, flags)]
        lowered += _inside(statement, flags)
        if rest and asked:
            guarded = ast.If(_none_set(asked, statement), lower_jumps(rest, flags), [])
            return [*lowered, ast.copy_location(guarded, rest[0])]
    return lowered


def _jump(statement: ast.stmt, flags: Flags) -> list[ast.stmt]:
    if isinstance(statement, ast.Continue):
        assert flags.skip is not None
        return [_set(flags.skip, ast.Constant(True), statement)]
    if isinstance(statement, ast.Break):
        aside = [
            _set(KEPT + name, ast.copy_location(ast.Name(name, ast.Load()), statement), statement)
            for name in flags.kept
        ]
        return [*aside, _set(flags.leave, ast.Constant(True), statement)]
    assert isinstance(statement, ast.Return)
    value = statement.value or ast.Constant(None)
    # A `return` leaves every loop around it, and then the function.
    leaves = [_set(one.leave, ast.Constant(True), statement) for one in flags.enclosing()]
    return [_set(RESULT, value, statement), *leaves]


def _if(
    like: ast.If, body: Sequence[ast.stmt], orelse: Sequence[ast.stmt], flags: Flags
) -> ast.stmt:
    lowered = lower_jumps(body, flags) or [ast.copy_location(ast.Pass(), like)]
    return ast.copy_location(ast.If(like.test, lowered, lower_jumps(orelse, flags)), like)


def _inside(statement: ast.stmt, flags: Flags) -> list[ast.stmt]:
    """A statement with its bodies lowered."""
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return [statement]
    if isinstance(statement, ast.If):
        return [_if(statement, statement.body, statement.orelse, flags)]
    if isinstance(statement, (ast.For, ast.While)):
        return _loop(statement, flags)
    for field in ("body", "orelse", "finalbody"):
        if isinstance(getattr(statement, field, None), list):
            setattr(statement, field, lower_jumps(getattr(statement, field), flags))
    for case in (*getattr(statement, "handlers", ()), *getattr(statement, "cases", ())):
        case.body = lower_jumps(case.body, flags)
    return [statement]


def _loop_and_rest(
    loop: ast.For | ast.While,
    rest: Sequence[ast.stmt],
    kept: tuple[str, ...],
    asked: list[str],
    flags: Flags,
) -> list[ast.stmt]:
    """A loop after which `kept` have values if a `break` left it, and what follows it.

    In the loop such a variable has no value unless the `break` is reached. So its value is kept aside
    there, and given back behind the loop, where the flag of the `break` is known.
    """
    back = [
        _set(name, ast.copy_location(ast.Name(KEPT + name, ast.Load()), loop), loop)
        for name in kept
    ]
    orelse, loop.orelse = loop.orelse, []
    lowered = _loop(loop, flags, kept)
    if orelse:
        left = _not(_flags_of(loop, flags).leave, loop)
        back = [ast.copy_location(ast.If(left, orelse, back), orelse[0])]
    after = lower_jumps([*back, *rest], flags)
    if asked:
        after = [ast.copy_location(ast.If(_none_set(asked, loop), after, []), loop)]
    return [*lowered, *after]


def _flags_of(loop: ast.For | ast.While, outer: Flags, kept: tuple[str, ...] = ()) -> Flags:
    # Nested loops need flags of their own: the place in the source makes the names differ.
    suffix = f"{loop.lineno}_{loop.col_offset}"
    return Flags(PREFIX + "break_" + suffix, PREFIX + "continue_" + suffix, outer, kept)


def _loop(loop: ast.For | ast.While, flags: Flags, kept: tuple[str, ...] = ()) -> list[ast.stmt]:
    """The loop with flags for its jumps, and its `else` after it."""
    breaks, continues = _own_jumps(loop.body)
    leaves = breaks or names.contains(loop.body, ast.Return)
    inner = _flags_of(loop, flags, kept)
    body = lower_jumps(loop.body, inner)
    if continues:
        assert inner.skip is not None
        body = _with_skip(inner.skip, body)
    orelse = lower_jumps(loop.orelse, flags)
    if not leaves:
        loop.body, loop.orelse = body, []
        return [loop, *orelse]
    if isinstance(loop, ast.While):
        # Python does not evaluate the test after a `break`, so the flag comes first in an `and`.
        test = ast.BoolOp(ast.And(), [_not(inner.leave, loop), loop.test])
        loop.test = ast.copy_location(test, loop.test)
    else:
        loop.leave = inner.leave  # type: ignore[attr-defined]  # `runtime.statements.for_` reads this flag
    loop.body, loop.orelse = body, []
    # The `else` of a loop runs if no `break` left it.
    after: list[ast.stmt] = []
    if orelse:
        after = [ast.copy_location(ast.If(_not(inner.leave, loop), orelse, []), orelse[0])]
    return [_set(inner.leave, ast.Constant(False), loop), loop, *after]


def _with_skip(flag: str, body: list[ast.stmt]) -> list[ast.stmt]:
    """`body`, which first sets its `continue` flag to False; without the flag if nothing reads it.

    An unread flag would be one more variable that the scan carries.
    """
    asked = any(
        isinstance(node, ast.Name) and node.id == flag and isinstance(node.ctx, ast.Load)
        for statement in body
        for node in ast.walk(statement)
    )
    if asked:
        return [_set(flag, ast.Constant(False), body[0]), *body]
    return [_Without(flag).visit(statement) for statement in body]


class _Without(ast.NodeTransformer):
    """Drops the assignments to a flag."""

    def __init__(self, flag: str) -> None:
        self.flag = flag

    def visit_Assign(self, node: ast.Assign) -> ast.stmt:
        if getattr(node.targets[0], "id", None) == self.flag:
            return ast.copy_location(ast.Pass(), node)
        return node


def _asked(after: ast.stmt, flags: Flags) -> list[str]:
    """The flags that may be True after a statement; the rest of the body is skipped then."""
    breaks, continues = _own_jumps([after])
    asked = [flags.leave] if breaks or names.contains([after], ast.Return) else []
    return [*asked, flags.skip] if continues and flags.skip else asked


def _none_set(flags: list[str], like: ast.AST) -> ast.expr:
    """The test that no flag is True."""
    tests = [_not(flag, like) for flag in flags]
    test = tests[0] if len(tests) == 1 else ast.BoolOp(ast.And(), tests)
    return ast.copy_location(test, like)


def _not(flag: str, like: ast.AST) -> ast.expr:
    test = ast.UnaryOp(ast.Not(), ast.copy_location(ast.Name(flag, ast.Load()), like))
    return ast.copy_location(test, like)


def _set(flag: str, value: ast.expr, like: ast.stmt) -> ast.stmt:
    target = ast.copy_location(ast.Name(flag, ast.Store()), like)
    if not hasattr(value, "lineno"):
        value = ast.copy_location(value, like)
    return ast.copy_location(ast.Assign([target], value), like)


def _own_jumps(body: Sequence[ast.stmt]) -> tuple[bool, bool]:
    """Whether the loop around `body` is left, or continued, from inside it.

    A jump in the body of a nested loop belongs to that loop; one in its `else` belongs to this loop.
    """
    found = [False, False]
    for statement in body:
        found[0] |= isinstance(statement, ast.Break)
        found[1] |= isinstance(statement, ast.Continue)
        blocks = (
            [statement.orelse]
            if isinstance(statement, (ast.For, ast.While))
            else _blocks(statement)
        )
        for block in blocks:
            inner = _own_jumps(block)
            found = [found[0] or inner[0], found[1] or inner[1]]
    return found[0], found[1]


def _blocks(statement: ast.stmt) -> list[list[ast.stmt]]:
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return []
    fields = [getattr(statement, field, []) for field in ("body", "orelse", "finalbody")]
    inner = [*getattr(statement, "handlers", ()), *getattr(statement, "cases", ())]
    return [*fields, *(one.body for one in inner)]


def always_jumps(body: Sequence[ast.stmt]) -> bool:
    """Whether the end of `body` is never reached."""
    for statement in body:
        if isinstance(statement, (ast.Return, ast.Break, ast.Continue)):
            return True
        if (
            isinstance(statement, ast.If)
            and statement.orelse
            and always_jumps(statement.body)
            and always_jumps(statement.orelse)
        ):
            return True
        if isinstance(statement, (ast.For, ast.While)) and not _own_jumps(statement.body)[0]:
            # A loop without a `break` runs to its end, and then its `else` runs.
            endless = isinstance(statement, ast.While) and is_true(statement.test)
            if endless or always_jumps(statement.orelse):
                return True
    return False
