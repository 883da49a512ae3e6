"""A program searched for numbers, equation by equation; nothing is run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from toolkit.debug.numbers.handed_numbers import CALLS, inner_programs, name_of
from toolkit.debug.numbers.owners import Calls, Frame, calls, is_formula, is_of_jax, is_written
from toolkit.debug.numbers.structural import is_close, is_structure, of_shapes, scalar
from toolkit.debug.source_lines import NOWHERE, SourceLine
from toolkit.jaxprs.loops import scan_parts, while_parts
from toolkit.jaxprs.read import inner, opened
from toolkit.jaxprs.recorded_lines import transformations

# The position of the first operand that is an index, an exponent or a key: from there on numbers are
# structure.
_STRUCTURAL = {
    "dynamic_slice": 1,
    "dynamic_update_slice": 2,
    "pow": 1,
    "power": 1,
    "float_power": 1,
    "random_fold_in": 1,
    "take": 1,
    "roll": 1,
    "_roll_dynamic": 1,
    "threefry2x32": 0,
    "random_wrap": 0,
}
_INDICES = {"gather": (1,), "scatter": (1,), "scatter-add": (1,), "scatter-mul": (1,)}
# Operations that pass a number on unchanged.
_MOVES = frozenset(
    {"broadcast_in_dim", "convert_element_type", "copy", "expand_dims", "reshape", "squeeze"}
)
LENGTH = "loop length"
INITIAL = "initial value"


class Found(NamedTuple):
    """A number, and what reads it where."""

    value: Any
    place: SourceLine
    operation: str
    inside: SourceLine


@dataclass
class Move:
    """A number on its way from the line where it was made into an array."""

    value: Any
    found: Found  # what is reported if nothing at that line reads it
    read: bool = False


@dataclass(frozen=True)
class SearchScope:
    """What surrounds an equation."""

    place: SourceLine
    inside: SourceLine = NOWHERE
    key: tuple[Any, ...] = ()
    differentiated: bool = False
    shapes: frozenset[float] = frozenset()  # what is made of those of arguments
    results: frozenset[float] = frozenset()  # and of results
    caller: Frame | None = None  # where the user's code goes on into what surrounds it


@dataclass
class Walk:
    """What one search has found so far."""

    definition: SourceLine
    found: list[Found] = field(default_factory=list)
    seen: set[tuple[Any, ...]] = field(default_factory=set)  # operations that were searched

    def of(self, closed: Any) -> list[Found]:
        """All numbers in a traced function."""
        self.search(closed, [None] * len(closed.in_avals), SearchScope(self.definition))
        return self.found

    def search(self, computation: Any, arguments: Sequence[Any], scope: SearchScope) -> None:
        """Look through a jaxpr (closed or open) whose arguments are numbers or None."""
        jaxpr, consts = opened(computation)
        shapes = tuple(v.aval.shape for v in (*jaxpr.invars, *jaxpr.constvars))
        made = tuple(getattr(v.aval, "shape", ()) for v in jaxpr.outvars)
        scope = replace(
            scope,
            shapes=scope.shapes | of_shapes(shapes),
            results=scope.results | of_shapes(made),
        )
        known: dict[Any, Any] = dict(zip(jaxpr.constvars, map(_scalar, consts), strict=False))
        known |= dict(zip(jaxpr.invars, arguments, strict=True))
        moves: dict[Any, Move] = {}
        counters: set[Any] = set()
        for equation in jaxpr.eqns:
            self._equation(equation, known, moves, counters, scope)
            if _counts(equation, counters):
                counters.update(equation.outvars)
        for atom in jaxpr.outvars:
            if hasattr(atom, "val") and not is_of_jax(computation):
                self._result(atom, scope)
        self.found += [move.found for move in moves.values() if not move.read]

    def _equation(
        self,
        equation: Any,
        known: dict[Any, Any],
        moves: dict[Any, Move],
        counters: set[Any],
        scope: SearchScope,
    ) -> None:
        made_by = calls(equation)
        at = _scope_of(equation, made_by, scope)
        # The derivative of an operation contains the numbers of the operation once more. They are reported
        # once.
        again = at.differentiated and at.key in self.seen and not made_by.rule
        self.seen.add(at.key)
        numbers = [_number(atom, known, moves) for atom in equation.invars]
        read = _read(equation, numbers, made_by, counters)
        for operation, value, position in [] if again else read:
            # Packages negate numbers that were given to them: a step of descent is `-lr * g`.
            if made_by.packages and operation == "mul" and not isinstance(value, complex):
                value = abs(value)
            one = Found(value, at.place, operation, at.inside)
            atom = equation.invars[position] if position is not None else None
            if _is_news(one, atom, equation, made_by, at):
                self._note(one, atom, equation, moves)
        # A number that was found at the call, or on its way into an array, is not handed on to the program
        # that is called: it would be found there again, at a line that says less.
        is_call = equation.primitive.name in CALLS and not made_by.packages
        handed = [
            None if (atom in moves if _is_variable(atom) else is_call) else number
            for atom, number in zip(equation.invars, numbers, strict=True)
        ]
        for program, arguments in inner_programs(equation, handed):
            self.search(program, arguments, at)

    def _note(self, one: Found, atom: Any, equation: Any, moves: dict[Any, Move]) -> None:
        """Report a number, or wait for what reads it where the equation only moves it into an array."""
        move = moves.get(atom) if _is_variable(atom) else None
        if equation.primitive.name in _MOVES:
            moves[equation.outvars[0]] = move or Move(one.value, one)
        elif move is None:
            self.found.append(one)
        elif move.found.place == one.place:
            move.read = True
            self.found.append(one)

    def _result(self, atom: Any, scope: SearchScope) -> None:
        """A number that a branch or a function returns."""
        value = _scalar(atom.val)
        if value is None or is_structure(value, atom.aval.dtype) or _is_length(value, scope.shapes):
            return
        # An integer that a branch in a package returns mostly tells which case was met. It is no setting.
        if scope.inside == NOWHERE or not isinstance(value, int):
            self.found.append(Found(value, scope.place, "result", scope.inside))


def _scope_of(equation: Any, made_by: Calls, scope: SearchScope) -> SearchScope:
    """What surrounds the programs inside of an equation."""
    place, inside = made_by.place, made_by.inside
    if not made_by.user:  # in a jitted function of another package: the line that calls it
        place, inside = scope.place, scope.inside if inside == NOWHERE else inside
    return replace(
        scope,
        place=place,
        inside=inside,
        key=(*scope.key, made_by.key),
        differentiated=scope.differentiated or _is_derivative(equation),
        caller=made_by.user or scope.caller,
    )


def _is_news(one: Found, atom: Any, equation: Any, made_by: Calls, scope: SearchScope) -> bool:
    """Whether a number is reported: neither structure, nor part of a library's formula, nor made of lengths.

    A number that the user has written out on the line is reported even if it equals some length.
    """
    dtype = np.dtype(int) if atom is None else atom.aval.dtype
    called = one.operation if equation.primitive.name in CALLS else ""
    if is_structure(one.value, dtype) or is_formula(
        one.value, dtype, made_by, called, scope.caller
    ):
        return False
    if is_written(one.value, made_by.user):
        return True
    # The length of a loop is that of what it reads and stacks in any case.
    if one.operation == LENGTH:
        return not _is_length(one.value, scope.shapes)
    read = of_shapes(tuple(getattr(operand.aval, "shape", ()) for operand in equation.invars))
    return not _is_length(one.value, scope.shapes | scope.results | read)


def _is_length(value: Any, forms: frozenset[float]) -> bool:
    return any(is_close(abs(value), form) for form in forms)


def _read(
    equation: Any, numbers: Sequence[Any], made_by: Calls, counters: set[Any]
) -> Iterator[tuple[str, Any, int | None]]:
    """(operation, value, position) of the numbers that an equation reads."""
    name = equation.primitive.name
    operation = name_of(equation)
    if name == "scan":
        loop = scan_parts(equation)
        first = loop.constants + loop.carried
        if all(atom in counters for atom in equation.invars[first:]):
            yield LENGTH, loop.length, None
        for i in range(loop.constants, first):
            if numbers[i] is not None:
                yield INITIAL, numbers[i], i
    elif name == "while":
        # The carry of a `fori_loop` begins with the counter and its bound.
        first = len(numbers) - len(while_parts(equation).parted(numbers)[2])
        bound = any(frame.code.co_name == "fori_loop" for frame in made_by.jax)
        for i in range(first, len(numbers)):
            if numbers[i] is not None:
                yield LENGTH if bound and i < first + 2 else INITIAL, numbers[i], i
    elif name in CALLS or not any(True for _ in inner_programs(equation, numbers)):
        last = _STRUCTURAL.get(operation, len(numbers))
        for i, number in enumerate(numbers[:last]):
            is_literal = hasattr(equation.invars[i], "val")
            if number is None or i in _INDICES.get(name, ()):
                continue
            # Other numbers are looked for inside, where they are read.
            written = is_literal and not made_by.packages
            if name not in CALLS or written or _is_of_jax(equation):
                yield operation, number, i


def _counts(equation: Any, counters: set[Any]) -> bool:
    """Whether an equation makes an array that holds no data, as `arange` and `split` of a key do.

    A scan over such arrays alone has a length that the code sets, not the data.
    """
    name = equation.primitive.name
    if name == "random_split":
        return True
    atoms = [atom for atom in equation.invars if not hasattr(atom, "val")]
    return (name == "iota" or bool(atoms)) and all(atom in counters for atom in atoms)


def _is_of_jax(equation: Any) -> bool:
    return any(map(is_of_jax, inner(equation)))


def _is_derivative(equation: Any) -> bool:
    names = transformations(equation)
    return "jvp" in names or "transpose" in names


def _is_variable(atom: Any) -> bool:
    return atom is not None and not hasattr(atom, "val")


def _number(atom: Any, known: dict[Any, Any], moves: dict[Any, Move]) -> Any:
    if hasattr(atom, "val"):
        return _scalar(atom.val)
    if atom in moves:
        return moves[atom].value
    return known.get(atom)


def _scalar(constant: Any) -> Any:
    try:
        return scalar(constant)
    except TypeError:  # a key
        return None
