"""Refuses a staged loop in which an integer of Python's would overflow.

    k = 1
    for i in range(40):
        k = k * 2           # 2**40 in Python; in int32 it would wrap to 0

Python's integers have no bound, and JAX's wrap silently. So before a loop runs, the integers that
come from Python (an index, `k = 1` before the loop, a literal) are followed through its iterations as
intervals. Integers that come from arrays are JAX's from the start and may wrap; they are not followed.
NumPy's 64-bit integers are followed too where JAX has 32 bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import jax.numpy as jnp

from toolkit.errors.frames import is_installed, is_jax, rooms
from toolkit.jaxprs.classes import Literal
from toolkit.jaxprs.loops import branches, scan_parts, while_parts
from toolkit.jaxprs.operations import exponent, name_called, numbered
from toolkit.jaxprs.read import called, inner, opened
from toolkit.jaxprs.recorded_lines import frames, summary
from toolkit.plain_python.tracing.intervals import (
    RULES,
    IntegerInterval,
    Known,
    NotAsInPython,
    corners,
    together,
)
from toolkit.plain_python.tracing.narrowing import comparisons, narrowed
from toolkit.plain_python.tracing.repeated import at_most, moved, widened
from toolkit.plain_python.tracing.unlike_python import (
    CALLED,
    SHIFTS,
    Where,
    check_compared,
    check_fits,
    check_joined,
    is_integer,
)

_LOOPS = rooms("plain_python", "control")
_COMPARISONS = ("lt", "le", "gt", "ge", "eq", "ne")
# A loop of unknown length is taken to run at most so often, and the bounds of a range that are unknown to
# lie so near to 0. What grows by more than 127 a step is refused.
FARTHEST = 2**24
# After so many iterations the rest is not followed one by one, if an interval is found that no iteration
# leaves. After the last one the loop is refused, since following more would take long.
_LOOKOUTS = (2, 16, 128, 1024, 4096)
# An interval that still grows after `_PATIENCE` rounds is widened; after `_ROUNDS` the loop is refused.
_PATIENCE = 6
_ROUNDS = 40
# The item of the k-th iteration; for None an interval that covers the items of all iterations.
Items = Callable[[int | None], Sequence[Known]]


class After(NamedTuple):
    """What is known after one iteration, or after a loop."""

    carry: list[Known]
    results: list[Known]  # of the last iteration; empty if there was none


class Iteration(NamedTuple):
    """One iteration of a loop."""

    jaxpr: Any  # its inputs: `consts`, the variables, the item
    consts: Sequence[Known]
    items: Items
    outputs: Sequence[int | None]  # for each variable its next value, or None if it stays the same
    condition: Any = None  # of a loop that ends on a condition: a jaxpr
    condition_consts: Sequence[Known] = ()
    constants: Sequence[Known] = ()  # of the values that the jaxpr closes over
    exact: bool = True  # whether to refuse integers that a float they are compared with cannot hold

    def step(self, carry: Sequence[Known], k: int | None) -> After:
        inputs = [*self.consts, *carry, *self.items(k)]
        results = evaluate(self.jaxpr, inputs, self.exact, self.constants)
        following = [
            old if o is None else results[o] for old, o in zip(carry, self.outputs, strict=True)
        ]
        return After(following, results)

    def entering(
        self, carry: Sequence[Known]
    ) -> tuple[list[Known] | None, list[tuple[int, str, Known]]]:
        """The variables where the condition is true, and what it compares them with; None if it is never true."""
        if self.condition is None:
            return list(carry), []
        known = _known(self.condition, [*self.condition_consts, *carry], self.exact)
        found = comparisons(self.condition, self.condition.outvars[0])
        variables = self.condition.invars[len(self.condition_consts) :]
        about = [
            (k, one.operator, _read(known, one.right))
            for one in (*found, *(one.exchanged() for one in found))
            for k, variable in enumerate(variables)
            if one.left is variable
        ]
        return narrowed(found, lambda atom: _read(known, atom), variables), about


def follow(loop: Iteration, carry: Sequence[Known], length: int | None, most: int) -> After:
    """What is known of the variables after a loop.

    Args:
      carry: the variables before it.
      length: the number of iterations; None if it depends on data.
      most: a bound of it.

    Raises:
      NotAsInPython: if an integer leaves its type.
    """
    now = After(list(carry), [])
    if length is None:
        # How far its integers go is an assumption, and no reason to refuse a comparison with a float.
        return _settled(loop._replace(exact=most < FARTHEST), now.carry, 0, most)
    for k in range(length):
        if k in _LOOKOUTS:
            try:
                return _settled(loop, now.carry, length - k, length - k)
            except NotAsInPython:
                # Such an interval is wide. Following one by one may show that all is well.
                if k == _LOOKOUTS[-1]:
                    raise
        now = loop.step(now.carry, k)
    return now


def _settled(loop: Iteration, init: list[Known], least: int, most: int) -> After:
    """The variables after `least` to `most` iterations, by intervals that no iteration leaves."""
    bases = [object() for _ in init]
    entry = list(init)
    for number in range(_ROUNDS):
        entering, about = loop.entering(entry)
        if entering is None:
            return After(init, [])
        based = [
            one and one._replace(shifts={base: (0, 0)})
            for one, base in zip(entering, bases, strict=True)
        ]
        after, results = loop.step(based, None)
        count = at_most(most, about, init, bases, after)
        grown = [
            old.hull(moved(first, now, base, 0, max(count - 1, 0))).plain()
            if old and first and now
            else None
            for old, first, now, base in zip(entry, init, after, bases, strict=True)
        ]
        if grown == [one and one.plain() for one in entry]:
            final = [
                moved(first, now, base, least, count) if first and now else None
                for first, now, base in zip(init, after, bases, strict=True)
            ]
            return After(final, [one and one.plain() for one in results])
        entry = [
            widened(old, now) if number > _PATIENCE else now
            for old, now in zip(entry, grown, strict=True)
        ]
    raise NotAsInPython("a Python integer grows without a known bound in this staged loop")


def evaluate(
    jaxpr: Any, inputs: Sequence[Known], exact: bool, constants: Sequence[Known] = ()
) -> list[Known]:
    """The intervals of a jaxpr's results."""
    known = _known(jaxpr, inputs, exact, constants)
    return [_read(known, atom) for atom in jaxpr.outvars]


def _known(
    jaxpr: Any, inputs: Sequence[Known], exact: bool, constants: Sequence[Known] = ()
) -> dict[Any, Known]:
    """The intervals of a jaxpr's variables."""
    known: dict[Any, Known] = dict(zip(jaxpr.invars, inputs, strict=True))
    known.update(zip(jaxpr.constvars, constants, strict=False))
    for equation in _about_integers(jaxpr):
        values = _apply(jaxpr, equation, known, exact)
        for variable, value in zip(equation.outvars, values, strict=True):
            if value is not None:
                check_fits(equation.primitive.name, _where(equation), variable.aval.dtype, value)
                known[variable] = value
    return known


# A body is evaluated several times, and each loop in it several times in each. Most of its operations make
# floats, and are left out.
_kept: WeakKeyDictionary[Any, list[Any]] = WeakKeyDictionary()


def _about_integers(jaxpr: Any) -> list[Any]:
    """The operations of a jaxpr that make or read integers."""
    if jaxpr not in _kept:
        _kept[jaxpr] = [equation for equation in jaxpr.eqns if _is_about_integers(equation)]
    return _kept[jaxpr]


def _is_about_integers(equation: Any) -> bool:
    name = equation.primitive.name
    read = equation.invars if name == "convert_element_type" else ()
    atoms = [*read, *equation.outvars]
    if name in _COMPARISONS or any(is_integer(atom.aval) for atom in atoms):
        return True
    return any(_about_integers(opened(program)[0]) for program in inner(equation))


def _read(known: dict[Any, Known], atom: Any) -> Known:
    # A literal, such as the 2 of `2 * k`, counts as an integer of Python's.
    if isinstance(atom, Literal):
        aval: Any = atom.aval
        whole = (is_integer(aval) or aval.dtype == jnp.bool_) and aval.shape == ()
        return IntegerInterval(int(atom.val), int(atom.val)) if whole else None
    return known.get(atom)


def _apply(jaxpr: Any, equation: Any, known: dict[Any, Known], exact: bool) -> list[Known]:
    """The intervals of one operation's results; None for what is not an integer of Python's."""
    name = equation.primitive.name
    inputs = [_read(known, atom) for atom in equation.invars]
    if name == "scan":
        return _scan(equation, inputs, exact)
    if name == "while" and _is_a_library_s(equation):
        return [None] * len(equation.outvars)
    if name == "while":
        return _while(equation, inputs)
    if name == "cond":
        return _cond(jaxpr, equation, known, exact)
    if exact and name in _COMPARISONS:
        check_compared(_where(equation), equation, inputs)
    if (program := called(equation)) is not None:
        rule = CALLED.get(name_called(equation))
        if rule is None or not (all(inputs) or name_called(equation) == "python_power"):
            return evaluate(opened(program)[0], inputs, exact)
        return [rule(_where(equation), *inputs)]
    nothing: list[Known] = [None] * len(equation.outvars)
    if not equation.outvars or len(nothing) != 1:
        return nothing
    return [_operation(equation, name, inputs)]


def _is_a_library_s(equation: Any) -> bool:
    """Whether a loop on data was written in a library: its integers are those of arrays.

    The rooms that make loops of the user's own statements are no such library.
    """
    file = next((file for file, _ in frames(equation) if not is_jax(file)), "")
    return is_installed(file) and not file.startswith(_LOOPS)


def _where(equation: Any) -> Where:
    return lambda: f"at {summary(equation)}"


def _operation(equation: Any, name: str, inputs: list[Known]) -> Known:
    """The interval of the result of one operation that runs no program."""
    aval = equation.outvars[0].aval
    if name == "iota" and is_integer(aval):
        return IntegerInterval(0, max(numbered(equation) - 1, 0))
    if name == "select_n":
        return together(inputs[1:])
    if name in ("dynamic_slice", "gather"):
        return inputs[0]
    if name == "dynamic_update_slice":
        return together(inputs[:2])
    if name == "convert_element_type":
        # Whether a bool is true is not known, but as an integer it is 0 or 1.
        truth = equation.invars[0].aval.dtype == jnp.bool_ and is_integer(aval)
        return IntegerInterval(0, 1) if truth and inputs[0] is None else inputs[0]
    ints = [one for one in inputs if one is not None]
    if len(ints) < len(inputs) or not inputs or not is_integer(aval):
        return None
    if name == "integer_pow":
        return corners(lambda a: a ** exponent(equation), *ints)
    if name in SHIFTS:
        return SHIFTS[name](_where(equation), *ints)
    return RULES[name](*ints) if name in RULES else None


def _scan(equation: Any, inputs: list[Known], exact: bool) -> list[Known]:
    """An inner loop, followed in the same way."""
    loop = scan_parts(equation)
    consts, carry, items = loop.parted(inputs)
    body = Iteration(
        opened(loop.body)[0], consts, lambda _: items, range(loop.carried), exact=exact
    )
    found = follow(body, carry, loop.length, loop.length).carry
    return [*found, *([None] * (len(equation.outvars) - loop.carried))]


def _while(equation: Any, inputs: list[Known]) -> list[Known]:
    """An inner loop whose length depends on data."""
    loop = while_parts(equation)
    condition_consts, consts, carry = loop.parted(inputs)
    jaxprs = opened(loop.body)[0], opened(loop.condition)[0]
    body = Iteration(
        jaxprs[0], consts, lambda _: (), range(len(carry)), jaxprs[1], condition_consts
    )
    return follow(body, carry, None, FARTHEST).carry


def _cond(jaxpr: Any, equation: Any, known: dict[Any, Known], exact: bool) -> list[Known]:
    """A condition: each branch with what is known where it runs."""
    operands, programs = equation.invars[1:], branches(equation)
    read = lambda atom: _read(known, atom)
    found = []
    for number, branch in enumerate(programs):
        said = (
            comparisons(jaxpr, equation.invars[0], holds=number == 1) if len(programs) == 2 else []
        )
        given = narrowed(said, read, operands)
        if given is not None:
            found.append(evaluate(opened(branch)[0], given, exact))
            for variable, value in zip(equation.outvars, found[-1], strict=True):
                if exact and value is not None:
                    check_joined(_where(equation), variable.aval.dtype, value)
    # If no branch seems to run, what is known contradicts itself, and so nothing is.
    return [together(values) for values in zip(*found, strict=True)] or [None] * len(
        equation.outvars
    )
