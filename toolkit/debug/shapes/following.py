"""What the user's variables hold, line by line, while JAX traces a function.

A jaxpr holds equations, not names. `w, b = params` leaves nothing in it, the last equation of a line
may be a cast inside `jax.numpy`, and a derivative adds equations of its own. But while a function is
traced, its own variables hold tracers with just the shapes and dtypes that each line computes. So its
calls are followed as a debugger does, by `sys.settrace`, for as long as the trace takes.
"""

from __future__ import annotations

import contextlib
import inspect
import itertools
import sys
import types
from collections import ChainMap, Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from jax.experimental.xla_metadata import set_xla_metadata

from toolkit.debug.shapes import syntax
from toolkit.debug.shapes.enclosing import Construct, Enclosing, construct, reduced
from toolkit.debug.shapes.syntax import RESULT, Function, Source, Statement
from toolkit.debug.shapes.values import Shape, shapes, text
from toolkit.errors.frames import is_installed

_GENERATOR = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
_WRITES = "_tk_new_"  # parameters of the functions with which @control_flow writes variables back

_contexts = itertools.count()

# JAX may trace the body of a loop several times until the types of the carry agree. Only the last trace is
# shown, so each assignment knows its try: (number of the construct, id of the code, how often the construct
# has called it).
Tries = tuple[tuple[int, int, int], ...]


class Assigned(NamedTuple):
    """What one execution of a line assigned."""

    file: str
    line: int
    what: str  # "assigned", "parameters", "lambda"
    text: str
    shapes: tuple[Shape, ...]
    around: tuple[Enclosing, ...]  # outermost first


@dataclass(frozen=True)
class Code:
    """A function of the user's."""

    source: Source
    function: Function | None  # None of a block of @control_flow, of a comprehension
    stored: frozenset[tuple[int, str]]
    # A generator is called at each resumption and returns at each `yield`, as `settrace` sees it.
    is_generator: bool


@dataclass
class _RunningCall:
    """A running call: of a function of the user's, or of a construct that calls such."""

    frame: types.FrameType
    code: Code | None = None
    construct: tuple[int, Construct, Enclosing] | None = None  # the first is its number
    context: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)  # of a construct
    around: tuple[Enclosing, ...] = ()
    tries: Tries = ()
    statement: Statement | None = None  # that runs
    returned: Statement | None = None  # the last `return` that was come to
    failed: bool = False


@dataclass
class FollowedCalls:
    """The calls that are followed, and what they have assigned."""

    own: types.CodeType  # the function asked for, wherever it stands
    codes: list[Code] = field(default_factory=list)  # that have run
    _calls: list[_RunningCall] = field(default_factory=list)
    _known: dict[int, tuple[types.CodeType, Code | Construct | None]] = field(default_factory=dict)
    _sources: dict[str, Source | None] = field(default_factory=dict)
    _constructs: int = 0
    _tries: Counter[tuple[int, int]] = field(default_factory=Counter)
    _found: dict[tuple[Assigned, Tries], None] = field(default_factory=dict)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Follow the calls of this thread; a debugger's own trace function is put back at the end."""
        before = sys.gettrace()
        with _unmet_context():
            sys.settrace(self._on_call)
            try:
                yield
            finally:
                sys.settrace(before)
                while self._calls:
                    self._calls.pop().context.close()

    def seen(self) -> list[Assigned]:
        """What was assigned, without the calls that JAX made only to find types."""
        last = (
            one
            for one, tries in self._found
            if all(self._tries[where, code] == count for where, code, count in tries)
        )
        return list(dict.fromkeys(last))

    def _on_call(self, frame: types.FrameType, event: str, _: Any) -> Any:
        code = frame.f_code
        # Code objects are compared by what they do, so two functions of the same text may be equal. Their ids
        # are the keys, and the objects are kept, so that no id is given away again.
        if id(code) not in self._known:
            self._known[id(code)] = (code, self._kind(code))
        kind = self._known[id(code)][1]
        if kind is None or event != "call":
            return None
        if isinstance(kind, Construct):
            frame.f_trace_lines = False
            self._constructs += 1
            made = (self._constructs, kind, kind.around(frame.f_locals))
            call = _RunningCall(frame, construct=made)
            outer = self._calls[-1].construct if self._calls else None
            # A loop of this package consists of loops of JAX, which need no context of their own.
            if outer is None or not outer[1].ours:
                call.context.enter_context(_unmet_context())
            self._calls.append(call)
            return self._in_construct
        call = self._entered(frame, kind)
        self._calls.append(call)
        if kind.function is not None and not kind.is_generator:
            self._note_parameters(call, kind, kind.function)
        return lambda _, event, value: self._in_function(call, kind, event, value)

    def _kind(self, code: types.CodeType) -> Code | Construct | None:
        found = construct(code)
        if found is not None:
            return found
        is_function = code.co_flags & inspect.CO_OPTIMIZED  # neither a module nor a class body
        if not is_function or (is_installed(code.co_filename) and code is not self.own):
            return None
        if any(name.startswith(_WRITES) for name in code.co_varnames[: code.co_argcount]):
            return None
        if code.co_filename not in self._sources:
            self._sources[code.co_filename] = syntax.read(code.co_filename)
        source = self._sources[code.co_filename]
        if source is None:
            return None
        is_generator = bool(code.co_flags & _GENERATOR)
        made = Code(source, source.function(code), syntax.stored(code), is_generator)
        if made.function is not None:
            self.codes.append(made)
        return made

    def _entered(self, frame: types.FrameType, code: Code) -> _RunningCall:
        """A new call with what is around it, as the calls that are running tell."""
        between = []
        parent: _RunningCall | None = None
        for one in reversed(self._calls):
            if one.construct is None:
                parent = one
                break
            between.append(one.construct)
        between.reverse()
        if between and between[-1][2].name == "if" and not _is_condition(frame, code):
            # `@control_flow` puts what follows an early `return` into a block of its own, as if behind an
            # `if`. The user has written no `if` there.
            between.pop()
        around, tries = (parent.around, parent.tries) if parent else ((), ())
        if between:
            around += reduced([(kind, described) for _, kind, described in between])
        if not code.is_generator:
            for number, kind, _ in between:
                if kind.retraces:
                    self._tries[number, id(frame.f_code)] += 1
                    count = self._tries[number, id(frame.f_code)]
                    tries += ((number, id(frame.f_code), count),)
        return _RunningCall(frame, code, around=around, tries=tries)

    def _in_construct(self, frame: types.FrameType, event: str, _: Any) -> Any:
        if event == "return":
            self._left(frame)
        return self._in_construct

    def _in_function(self, call: _RunningCall, code: Code, event: str, value: Any) -> Any:
        if event == "exception":
            call.failed = True
        elif event == "line":
            now = code.source.statements.get(call.frame.f_lineno)
            # A statement of several lines has an event for each of them. A statement of one line that comes
            # again runs again, as in a loop.
            repeats = now is call.statement and now is not None and now.first == now.last
            if now is not call.statement or repeats:
                self._note_targets(call, code)
                call.statement = now
                call.returned = now if now is not None and now.returns else call.returned
            call.failed = False
        elif event == "return":
            self._note_targets(call, code)
            if value is not None and not code.is_generator:
                self._note_result(call, code, value)
            self._left(call.frame)
        return lambda _, event, value: self._in_function(call, code, event, value)

    def _left(self, frame: types.FrameType) -> None:
        # A generator that is not run to its end never returns. Its call is dropped when the call below it
        # returns.
        if any(one.frame is frame for one in self._calls):
            last = None
            while last is not frame:
                call = self._calls.pop()
                call.context.close()
                last = call.frame

    def _note_parameters(self, call: _RunningCall, code: Code, function: Function) -> None:
        variables = call.frame.f_locals
        by_line: dict[int, list[tuple[str, Any]]] = {}
        for name, line in function.parameters:
            by_line.setdefault(line, []).append((name, variables.get(name)))
        if function.name != "<lambda>":
            for line, named in by_line.items():
                self._note(call, code, line, "parameters", named, always_named=True)

    def _note_targets(self, call: _RunningCall, code: Code) -> None:
        """What the statement that has just ended has assigned."""
        statement = call.statement
        if statement is None or call.failed:
            return
        variables = ChainMap(call.frame.f_locals, call.frame.f_globals)
        named = [
            (target.text, syntax.value_of(target.node, variables))
            for target in statement.targets
            if syntax.assigns(code.stored, statement, target.node)
        ]
        if statement.returns and syntax.assigns_name(code.stored, statement, RESULT):
            named = [("return", variables.get(RESULT))]
        self._note(call, code, statement.first, "assigned", named)

    def _note_result(self, call: _RunningCall, code: Code, value: Any) -> None:
        if code.function is None:
            return
        if code.function.name == "<lambda>":
            self._note(call, code, code.function.first, "lambda", [("lambda", value)], True)
        elif call.returned is not None:
            self._note(call, code, call.returned.first, "assigned", [("return", value)])

    def _note(
        self,
        call: _RunningCall,
        code: Code,
        line: int,
        what: str,
        named: list[tuple[str, Any]],
        always_named: bool = False,
    ) -> None:
        texts = [(name, text(value)) for name, value in named]
        texts = [(name, one) for name, one in texts if one]
        if not texts:
            return
        bare = len(texts) == 1 and not always_named
        joined = texts[0][1] if bare else ", ".join(f"{name}: {one}" for name, one in texts)
        found = tuple(shape for name, value in named for shape in shapes(name, value))
        self._found[
            Assigned(code.source.file, line, what, joined, found, call.around), call.tries
        ] = None


def _unmet_context() -> contextlib.AbstractContextManager[Any]:
    """A context in which JAX has never traced anything.

    JAX caches what it has traced, and does not run the Python code of such a function again: its lines would
    show nothing. The metadata of XLA is part of the key of these caches, so with a new value all code runs.
    """
    return set_xla_metadata(toolkit_annotate=str(next(_contexts)))


def _is_condition(frame: types.FrameType, code: Code) -> bool:
    """Whether a block of @control_flow begins at an `if`, `elif` or `else` of the user's."""
    head = code.source.lines[frame.f_code.co_firstlineno - 1].lstrip()
    return head.startswith(("if", "elif", "else"))
