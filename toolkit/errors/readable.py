"""Errors cut down to the user's own lines, with the shapes that meet there.

JAX and this package put 20 to 50 lines between the call that failed and the line that is wrong. Public
functions are decorated with `readable`. An error that leaves one keeps its type and its message, loses
the frames of JAX and of this package, and gains notes: what the user's function was given, and the
values on the line that failed. This costs nothing before there is an error.
`JAX_TRACEBACK_FILTERING=off` brings every frame back.
"""

from __future__ import annotations

import contextlib
import dis
import functools
import inspect
import linecache
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType, TracebackType
from typing import Any, TypeVar

import jax

from toolkit.errors import failed_line
from toolkit.errors.frames import JAX, OPERANDS, OURS, SITE, STDLIB, WRAPPERS

_F = TypeVar("_F", bound=Callable[..., Any])
_E = TypeVar("_E", bound=Exception)

_BETWEEN = (JAX, *WRAPPERS)
# An error may pass through several readable functions. This attribute tells the outer ones that it has its
# notes already.
_SEEN = "_shortened_by_toolkit"
_LINES = 12  # that an error prints at most, if the call of the public function takes one line
_REMEDIES = {
    jax.errors.TracerBoolConversionError: "use jnp.where or jax.lax.cond, or decorate it with @tk.control_flow",
    jax.errors.TracerIntegerConversionError: "let the function close over a Python int, or index a jax array",
    jax.errors.TracerArrayConversionError: "use jax.numpy in place of numpy",
    jax.errors.NonConcreteBooleanIndexError: "use jnp.where(mask, x, 0): shapes cannot depend on values",
    jax.errors.ConcretizationTypeError: "keep it an array, or let the function close over a Python number",
}


def readable(function: _F) -> _F:
    """`function`, whose errors are shortened."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            shorten(error)
            raise

    return call  # type: ignore[return-value]


def cause(error: Exception) -> Exception | None:
    """The cause of a refusal, for `raise refusal from cause(error)`: None, as the refusal says all.

    It is `error` itself where the user has asked for every frame.
    """
    return error if _shows_all() else None


def shorten(error: Exception) -> None:
    """Take the frames of this package and of JAX out of an error that is passing through.

    This is done for mistakes in the user's code and for refusals, which this package raises on purpose.
    Any other error in this package's own code is a bug of ours. It stays whole, as its frames are needed.
    """
    # Shortening may fail itself, for example where an exception takes no attributes. The user then sees
    # the error as it is, and never one about the shortening.
    with contextlib.suppress(Exception):
        _shorten(error)


def _shorten(error: Exception) -> None:
    if _shows_all():
        return
    steps = _without_operators(list(_steps(error.__traceback__)))
    outside_jax = [step for step in steps if not _file(step).startswith(_BETWEEN)]
    if not outside_jax:
        return
    last, leak, seen = outside_jax[-1], _is_leak(error), hasattr(error, _SEEN)
    refused = _file(last).startswith(OURS)
    # The error arose in our code, but no `raise` of ours made it: a bug of ours. If there is one frame only,
    # that of `readable` itself, then the user has called the public function with arguments that it does not
    # take.
    if refused and len(outside_jax) > 1 and not (seen or leak or _is_refusal(error, last)):
        return
    setattr(error, _SEEN, True)
    users = [step for step in outside_jax if not _file(step).startswith(OURS)]
    # An error deep in the user's functions shows the first and the last of them; a note names the others.
    shown = users if refused else _ends(users)
    error.__traceback__ = _chain(shown)
    _reword(error)
    # JAX's note says that it has removed frames, and how to see them. Ours says so of both.
    notes = [note for note in getattr(error, "__notes__", ()) if "JAX has removed" not in note]
    if leak and not seen:
        notes.append("  return it from the function that makes it: keep no traced value elsewhere")
    if users and not refused and not seen:
        others = [step for step in users if step not in shown]
        said = [*_shapes(shown), *_remedy(error), _left_out(others)]
        # Python prints four lines for the call and three for each frame, then the message. The notes get the
        # rest.
        room = _LINES - 4 - 3 * len(shown) - str(error).count("\n") - 1
        notes += _joined([part for part in said if part], max(room, 1))
    error.__notes__ = notes


def call_as(name: str, function: Callable[..., Any], expected: str, *args: Any) -> Any:
    """`function(*args)`; where the function cannot be called so, a TypeError about the argument `name`.

    Args:
      name: of the public function's argument that `function` is.
      expected: the parameters that it must take, in words.

    Raises: TypeError where the arguments do not fit the signature; else what `function` raises.
    """
    try:
        return function(*args)
    except TypeError:
        # The function itself may have raised the TypeError. It is to blame only if its signature does not
        # fit.
        try:
            signature = inspect.signature(function)
            signature.bind(*args)
        except ValueError:  # some builtins have no signature
            pass
        except TypeError:
            refusal = TypeError(f"`{name}` must take {expected}: got {signature}.")
            raise _placed(refusal, function, lambda code: code.co_firstlineno) from None
        raise


def returned_by(function: Any, error: _E) -> _E:
    """`error`, which is about what `function` returns, with the line of its `return` as a note."""
    return _placed(error, function, _line_of_return)


def _placed(error: _E, function: Any, line_in: Callable[[CodeType], int]) -> _E:
    """`error` with a line of `function` as a note, written as Python writes a frame."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    if isinstance(code, CodeType):
        line = line_in(code)
        source = linecache.getline(code.co_filename, line).strip()
        place = f'  File "{code.co_filename}", line {line}, in {code.co_name}'
        error.add_note(f"{place}\n    {source}" if source else place)
    return error


def reason_of(error: Exception) -> str:
    """An error in one line; where it arose in the user's code, with its type and the user's line."""
    said = str(error).strip().partition("\n")[0]
    steps = [step for step in _steps(error.__traceback__) if not _hidden(step)]
    if not steps:
        return said
    return f"{type(error).__name__}: {said} ({Path(_file(steps[-1])).name}:{steps[-1].tb_lineno})"


def _line_of_return(code: CodeType) -> int:
    """The line of the `return` if there is only one, else that of the `def`."""
    # Python 3.12 and 3.13 return a constant by RETURN_CONST. A `return` in a nested function is not among
    # these.
    lines = {
        instruction.positions.lineno
        for instruction in dis.get_instructions(code)
        if instruction.opname in ("RETURN_VALUE", "RETURN_CONST") and instruction.positions
    } - {None}
    return lines.pop() or 0 if len(lines) == 1 else code.co_firstlineno


def _shows_all() -> bool:
    return jax.config.jax_traceback_filtering == "off"  # type: ignore[attr-defined]


def _is_leak(error: Exception) -> bool:
    """Whether the user has kept a traced value after its trace: no bug of ours, even if our code meets it."""
    return isinstance(error, jax.errors.UnexpectedTracerError) and OURS not in str(error)


def _inside_jax() -> bool:
    """Whether a function of JAX's is waiting for the public call to return."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and not frame.f_code.co_filename.startswith(JAX):
        frame = frame.f_back
    return frame is not None


def _steps(traceback: TracebackType | None) -> Iterator[TracebackType]:
    while traceback is not None:
        yield traceback
        traceback = traceback.tb_next


def _file(step: TracebackType) -> str:
    return step.tb_frame.f_code.co_filename


def _hidden(step: TracebackType) -> bool:
    return _file(step).startswith((OURS, *_BETWEEN))


def _without_operators(steps: list[TracebackType]) -> list[TracebackType]:
    """The steps without the functions for single operators, and without what called them.

    Such a function stands on the same line as the expression that it is part of, but has none of its variables.
    """
    made = [_parameters(step)[:1] == OPERANDS[:1] for step in steps]
    called = [*made[1:], False]
    return [step for step, *drop in zip(steps, made, called, strict=True) if not any(drop)]


def _parameters(step: TracebackType) -> tuple[str, ...]:
    code = step.tb_frame.f_code
    return code.co_varnames[: code.co_argcount]


def _is_refusal(error: Exception, last: TracebackType) -> bool:
    """Whether a `raise` with a message made the error in this frame.

    Python's own errors, such as that of a missing key, end on another instruction; an `assert` without a
    message has no arguments.
    """
    operation = dis.opname[last.tb_frame.f_code.co_code[last.tb_lasti]]
    return operation == "RAISE_VARARGS" and bool(error.args)


def _ends(users: list[TracebackType]) -> list[TracebackType]:
    """The first of the user's frames, and the last one outside installed packages."""
    own = [step for step in users if not _file(step).startswith((STDLIB, *SITE))] or users
    return own if len(own) == 1 else [own[0], own[-1]]


def _chain(steps: list[TracebackType]) -> TracebackType | None:
    """A new traceback of these steps only; each keeps its frame and its line."""
    chained: TracebackType | None = None
    for step in reversed(steps):
        chained = TracebackType(chained, step.tb_frame, step.tb_lasti, step.tb_lineno)
    return chained


def _joined(parts: list[str], room: int) -> list[str]:
    """The parts as at most `room` lines: those that do not fit share the last one."""
    lines = (*parts[: room - 1], "; ".join(parts[room - 1 :]))
    return [f"  {line}" for line in lines if line]


def _shapes(users: list[TracebackType]) -> list[str]:
    """What the user's function was given, and what meets on the line that failed."""
    with contextlib.suppress(Exception):  # values of the user's that cannot be described
        entry, last = users[0].tb_frame, users[-1].tb_frame
        code = entry.f_code
        names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        given = {name: entry.f_locals[name] for name in names if name in entry.f_locals}
        found = failed_line.values(failed_line.at(users[-1]), last)
        if last is entry:
            found = {name: value for name, value in found.items() if name not in given}
        has = f"{code.co_name} has {failed_line.described(given)}" if given else ""
        here = f"here {failed_line.described(found, failed_line.paths(given))}" if found else ""
        return [has, here]
    return []


def _left_out(others: list[TracebackType]) -> str:
    """The other functions on the way, and how to see all frames."""
    ways = [f"{s.tb_frame.f_code.co_name} ({Path(_file(s)).name}:{s.tb_lineno})" for s in others]
    said = [f"also in {', '.join(ways)}"] if ways else []
    if not _inside_jax():  # a function of JAX outside adds a note of its own that says this
        said.append("JAX_TRACEBACK_FILTERING=off shows the frames of toolkit and JAX")
    return "; ".join(said)


def _remedy(error: Exception) -> list[str]:
    kinds = [kind for kind in _REMEDIES if isinstance(error, kind)]
    return [_REMEDIES[kinds[0]]] if kinds else []


# Parts of JAX's messages that say nothing to a user of this package: where to read on, how the trace
# came about, and how to look for a leak.
_SEE = re.compile(r"\s*See https://\S+\s*$")
_TRACED = re.compile(
    r"\n?The error occurred while tracing .*?\. This concrete value was not available in Python because it depends on"
)
_LEAKED = re.compile(
    r"^(JAX transformations require|When the value was|-+$|To catch the leak|The leaked .* line \. $)"
)


def _reword(error: Exception) -> None:
    """JAX's message on a traced value, in fewer lines and with the user's names."""
    if not (error.args and isinstance(error.args[0], str)):
        return
    said, known = error.args[0], isinstance(error, (*_REMEDIES, jax.errors.UnexpectedTracerError))
    if not (known or _TRACED.search(said)):
        return
    said = _TRACED.sub(" It depends on", _SEE.sub("", said))
    # The package traces the user's function with all operands in one struct; the user knows their names.
    said = re.sub(r"\boperands\.(carried\.)?(theta|y)\b", r"\2", said)
    lines = [line.strip() for line in said.splitlines()]
    error.args = (" ".join(line for line in lines if line and not _LEAKED.match(line)),)
