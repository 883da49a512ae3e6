"""Who wrote a number that an equation reads: the user, the default of a library, or a formula inside one.

An equation remembers the calls that led to it: the user's line, then functions of other packages and
of JAX that were called from there. A number in the code of one of these functions is part of the
formula that it computes (0.044715 in `gelu`). A number that is not in their code came in from outside:
the user passed it, or left the default of a parameter.
"""

from __future__ import annotations

import ast
import functools
import inspect
import io
import itertools
import linecache
import sys
import tokenize
from collections.abc import Iterable, Sequence
from types import CodeType
from typing import Any, NamedTuple

import jax
import jax.scipy.special

from toolkit.debug.numbers.structural import is_close, is_guard
from toolkit.debug.source_lines import ASKED, NOWHERE, SourceLine
from toolkit.errors.frames import SITE, STDLIB, is_installed, is_jax
from toolkit.jaxprs import hidden
from toolkit.jaxprs.recorded_lines import codes, definition


class Frame(NamedTuple):
    """A call on the way to an equation."""

    code: CodeType
    at: int  # offset of the instruction that went on

    @property
    def file(self) -> str:
        return self.code.co_filename

    @property
    def place(self) -> SourceLine:
        return SourceLine(self.file, self._positions[0])

    @property
    def segment(self) -> str:
        """The source of the expression that went on."""
        first, last, start, end = self._positions
        lines = linecache.getlines(self.file)[(first or 1) - 1 : last or first or 0]
        if not lines or start is None or end is None:
            return "".join(lines)
        # Columns are counted in bytes of UTF-8, so lines are cut as bytes: the last first, as it may be the
        # only one.
        encoded = [line.encode() for line in lines]
        encoded[-1] = encoded[-1][:end]
        encoded[0] = encoded[0][start:]
        return b"".join(encoded).decode(errors="replace")

    @property
    def _positions(self) -> tuple[int | None, int | None, int | None, int | None]:
        # `co_positions` has an entry for each instruction, and an instruction takes two bytes.
        return next(itertools.islice(self.code.co_positions(), self.at // 2, None))


class Calls(NamedTuple):
    """The calls that led to an equation, innermost first in each part."""

    jax: tuple[Frame, ...]  # functions of JAX
    packages: tuple[Frame, ...]  # then functions of other installed packages
    user: Frame | None
    key: tuple[Any, ...]  # names the operation that the user called; its derivative has the same
    rule: bool  # whether the equation may belong to the derivative rule of a function that the user called

    @property
    def place(self) -> SourceLine:
        return self.user.place if self.user else NOWHERE

    @property
    def inside(self) -> SourceLine:
        return self.packages[0].place if self.packages else NOWHERE


def calls(equation: Any) -> Calls:
    """The calls that led to `equation`."""
    frames = _frames(equation)
    inner = list(itertools.takewhile(lambda frame: is_jax(frame.file), frames))
    # Frames within a derivative rule differ from those of the operation itself. They are cut off the key,
    # so that an operation and its derivative have the same one.
    rules = [i for i, frame in enumerate(inner) if frame.file == hidden.DIFFERENTIATION]
    cut = rules[-1] + 1 if rules else 0
    key = tuple((id(frame.code), frame.at) for frame in frames[cut:] if not _is_between(frame))
    kept = [frame for frame in frames if not _is_between(frame)]
    of_jax = tuple(itertools.takewhile(lambda frame: is_jax(frame.file), kept))
    rest = kept[len(of_jax) :]
    others = tuple(itertools.takewhile(lambda frame: is_installed(frame.file), rest))
    users = [frame for frame in rest if not is_installed(frame.file)]
    user = users[0] if users else None
    direct = bool(user) and not others and not of_jax
    # The user's line calls a function with a derivative rule of its own. JAX has such functions too, as
    # `jax.nn.relu`, and the numbers in their rules are not the user's.
    ruled = direct and any(frame.file == hidden.CUSTOM_RULES for frame in inner[cut:])
    rule = ruled and _callee(users[0]) not in _names_in_jax()
    return Calls(of_jax, others, user, key, rule)


def is_formula(
    value: Any, dtype: Any, found: Calls, called: str = "", outside: Frame | None = None
) -> bool:
    """Whether `value` belongs to a function of JAX or of a package, not to who called it.

    `called` is the jitted function that it is an argument of, or "". `outside` is who called the
    jitted function that the equation stands in.
    """
    inside = (*found.jax, *found.packages)
    if any(is_close(value, known) for frame in inside for known in defaults(frame.code)):
        return False
    if not found.user and not found.packages:
        # The equation stands in a function that JAX itself has jitted. Its arguments are variables there,
        # so that a number was either written in JAX's code or passed as a static argument.
        return abs(value) == round(abs(value)) or not is_passed(value, outside)
    if any(is_close(abs(value), known) for frame in inside for known in literals(frame.code)):
        return True
    if found.packages and is_guard(value, dtype):
        return True
    # Other functions of JAX compute numbers from lengths or by formulas. Of theirs only those count that
    # the caller has written out.
    if all(_hands_on(frame, called) for frame in found.jax):
        return False
    caller = found.packages[0] if found.packages else found.user
    is_whole = not isinstance(value, complex) and value == round(value)
    return is_whole or not is_written(value, caller)


def _hands_on(frame: Frame, called: str) -> bool:
    """Whether a function of JAX uses numbers only as its caller gave them."""
    name = frame.code.co_name
    if name == "switch":  # it clips the index by the number of branches, which nobody has written
        return False
    if name in hidden.SEEDED:
        return True
    return frame.file.startswith(hidden.HAND_ON) or (bool(called) and name.lstrip("_") == called)


def is_written(value: Any, frame: Frame | None) -> bool:
    """Whether the number itself stands in the expression that a frame was at."""
    if frame is None:
        return False
    return any(is_close(abs(value), number) for number in _numbers(frame.segment))


def is_passed(value: Any, frame: Frame | None) -> bool:
    """Whether the number itself is an argument of the call that a frame was at."""
    call = _call(frame)
    given = [*call.args, *(keyword.value for keyword in call.keywords)] if call else []
    numbers = [number for one in given for number in _numbers(ast.unparse(one)) if _is_number(one)]
    return any(is_close(abs(value), number) for number in numbers)


def _call(frame: Frame | None) -> ast.Call | None:
    try:
        node = ast.parse(frame.segment.strip(), mode="eval").body if frame else None
    except SyntaxError:
        return None
    return node if isinstance(node, ast.Call) else None


def _callee(frame: Frame) -> str:
    """The last name of what the call at a frame calls."""
    call = _call(frame)
    return getattr(call.func, "attr", getattr(call.func, "id", "")) if call else ""


@functools.cache
def _names_in_jax() -> frozenset[str]:
    return frozenset({*dir(jax.nn), *dir(jax.numpy), *dir(jax.lax), *dir(jax.scipy.special)})


def _is_number(node: ast.expr) -> bool:
    inner = node.operand if isinstance(node, ast.UnaryOp) else node
    return isinstance(inner, ast.Constant)


def is_of_jax(computation: Any) -> bool:
    """Whether a jitted or custom function is one of JAX."""
    return is_jax(definition(computation).place)


@functools.cache
def literals(code: CodeType) -> frozenset[float]:
    """Absolute values of the numbers in a function's code, and of the module's constants that it names."""
    module = vars(_module(code)) if _module(code) else {}
    named = [module.get(name) for name in code.co_names]
    return frozenset(abs(number) for number in _flat((*code.co_consts, *named)))


@functools.cache
def defaults(code: CodeType) -> frozenset[float]:
    """The fractional defaults of the parameters of a public function, given its code.

    They are numbers that the user could have passed and did not, as the 0.01 of `jax.nn.leaky_relu`.
    """
    if code.co_filename.startswith(hidden.RANDOM):  # a fair coin is no choice
        return frozenset()
    function = getattr(_module(code), code.co_name, None)
    try:
        if inspect.unwrap(function).__code__ is not code:  # type: ignore[arg-type]
            return frozenset()
        parameters = inspect.signature(function).parameters.values()  # type: ignore[arg-type]
    except (AttributeError, TypeError, ValueError):
        return frozenset()
    values = [p.default for p in parameters if isinstance(p.default, float)]
    return frozenset(value for value in values if value != round(value))


@functools.cache
def _module(code: CodeType) -> Any:
    return next((m for m in list(sys.modules.values()) if _file(m) == code.co_filename), None)


def _file(module: Any) -> Any:
    return getattr(module, "__file__", None)


def _flat(constants: Iterable[Any]) -> Iterable[float]:
    for constant in constants:
        if isinstance(constant, tuple):
            yield from _flat(constant)
        elif isinstance(constant, (int, float)) and not isinstance(constant, bool):
            yield constant


def _numbers(source: str) -> list[float]:
    found = []
    try:
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.NUMBER:
                found.append(abs(ast.literal_eval(token.string)))
    except (tokenize.TokenError, IndentationError, SyntaxError, ValueError):
        pass  # a part of a line: what was read counts
    return found


def _is_between(frame: Frame) -> bool:
    """Whether a frame is machinery that may lie between any two calls: JAX's tracing, or Python itself."""
    file = frame.file
    if file.startswith(hidden.MACHINERY) or file.startswith("<frozen"):
        return True
    return file.startswith(STDLIB) and not file.startswith(SITE)


def _frames(equation: Any) -> Sequence[Frame]:
    """The calls that led to an equation, innermost first, up to where the report was asked for."""
    frames = [Frame(*one) for one in codes(equation)]
    return list(itertools.takewhile(lambda frame: not frame.file.startswith(ASKED), frames))
