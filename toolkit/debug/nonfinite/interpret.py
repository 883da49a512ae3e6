"""The replay: a computation run equation by equation on concrete values, with the origin of bad entries."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from toolkit.debug.nonfinite import origins
from toolkit.debug.nonfinite.origins import Birth, Masks, Value
from toolkit.debug.source_lines import NOWHERE, SourceLine, lines
from toolkit.jaxprs.classes import Literal
from toolkit.jaxprs.loops import branches, solve_parts
from toolkit.jaxprs.read import (
    called,
    evaluate_equation,
    first_reader,
    is_callback,
    literal,
    opened,
)
from toolkit.jaxprs.recorded_lines import transformations

# They mostly move or scale an operand. "made by sqrt" tells the user more than "made by reshape", so the
# maker of the operand counts as the maker of the result.
_MOVES = frozenset(
    {"broadcast_in_dim", "convert_element_type", "copy", "copy_p", "expand_dims", "neg", "reshape"}
    | {"rev", "slice", "squeeze", "stop_gradient", "transpose", "dynamic_slice", "gather", "mul"}
)

# The operations that derivative rules mostly consist of.
_SLOPES = frozenset({"add_any", "div", "integer_pow", "mul", "pow", "rsqrt"})


@dataclass(frozen=True)
class PlaceInProgram:
    """Where in the computation an equation stands."""

    order: tuple[int, ...] = ()
    equations: tuple[Any, ...] = ()  # the enclosing ones, outermost first, and itself
    iterations: tuple[tuple[str, int], ...] = ()  # of the enclosing loops

    def at(self, index: int, equation: Any) -> PlaceInProgram:
        return replace(self, order=(*self.order, index), equations=(*self.equations, equation))

    def iteration(self, loop: str, step: int, index: int) -> PlaceInProgram:
        """`step` is when it runs, `index` the position that the user knows it by."""
        iterations = (*self.iterations, (loop, index))
        return replace(self, order=(*self.order, step), iterations=iterations)

    @property
    def names(self) -> str:
        return "/".join(transformations(equation) for equation in self.equations)


Rule = Callable[["Replay", Any, Sequence[Value], PlaceInProgram], list[Value]]


@dataclass
class Replay:
    """What one replay has found so far."""

    rules: Mapping[str, Rule]  # of primitives that are read in another way than as one step
    is_reverse: bool  # the computation has a backward pass
    births: list[Birth] = field(default_factory=list)
    ends: list[frozenset[Birth]] = field(default_factory=list)  # of what leaves a differentiation
    dropped: list[frozenset[Birth]] = field(default_factory=list)  # of what nothing reads there

    def run(self, computation: Any, inputs: Sequence[Value], scope: PlaceInProgram) -> list[Value]:
        """Evaluate a jaxpr; each result with its origins."""
        jaxpr, consts = opened(computation)
        last_read = {
            id(atom): i for i, equation in enumerate(jaxpr.eqns) for atom in equation.invars
        }
        results = {id(atom) for atom in jaxpr.outvars}
        known: dict[int, Value] = {}
        for variable, const in zip(jaxpr.constvars, consts, strict=True):
            known[id(variable)] = self._constant(const, scope, *first_reader(jaxpr, variable))
        known |= {id(v): value for v, value in zip(jaxpr.invars, inputs, strict=True)}

        def read(atom: Any, where: PlaceInProgram) -> Value:
            if isinstance(atom, Literal):
                return self._constant(literal(atom), where)
            return known[id(atom)]

        # `jax.grad` computes the loss, and nothing reads it. So the loss is taken to be, among the values
        # before the backward pass that nothing reads, the last of those with the fewest axes.
        unread: list[Value] = []
        for index, equation in enumerate(jaxpr.eqns):
            here = scope.at(index, equation)
            if is_callback(equation):
                continue
            values = [read(atom, here) for atom in equation.invars]
            if not is_differentiated(here.names):
                self.note_ends(values)
            elif "transpose" in here.names:
                self.dropped += [value.spoilt_by for value in unread]
                unread = []
            made = self._equation(equation, values, here)
            for variable, value in zip(equation.outvars, made, strict=True):
                if id(variable) in last_read or id(variable) in results:
                    known[id(variable)] = value
                elif value.is_primal and (not unread or value.ndim <= unread[0].ndim):
                    unread = [value]
            # Forget what no later equation reads, or all intermediate arrays would stay in memory at once.
            for atom in equation.invars:
                if last_read[id(atom)] == index and id(atom) not in results:
                    known.pop(id(atom), None)
        self.dropped += [value.spoilt_by for value in unread]
        return [read(atom, scope) for atom in jaxpr.outvars]

    def evaluate(
        self,
        equation: Any,
        values: Sequence[Value],
        here: PlaceInProgram,
        bear: Callable[[bool], Birth] | None = None,
    ) -> list[Value]:
        """An equation as one step; `bear` as in `origins.attribute`, where it is no usual birth."""
        results = evaluate_equation(equation, [value.array for value in values])
        depends_on = frozenset[str]().union(*(value.depends_on for value in values))
        maker = _maker(equation, values)
        primal = is_primal(here.names)
        if all(map(origins.is_finite, results)):
            return [
                Value(
                    result, {}, depends_on, maker, primal, told_by=origins.told_by(values, result)
                )
                for result in results
            ]
        masks = origins.attribute(
            equation.primitive.name,
            lambda operands: evaluate_equation(equation, operands),
            values,
            results,
            bear or (lambda has_nan: self.bear(equation.primitive.name, values, here, has_nan)),
        )
        spoilt = frozenset[Birth]().union(*(value.spoilt_by for value in values))
        if equation.primitive.name == "select_n":
            deciders = values[0].told_by
            spoilt |= {birth for birth in deciders if is_primal(birth.names)}
            masks = [self._caused(own, deciders) for own in masks]
        return [
            Value(
                result,
                own,
                depends_on,
                maker,
                primal,
                frozenset(b for b in own if primal and (b in spoilt or b.order == here.order)),
                origins.told_by(values, result),
            )
            for result, own in zip(results, masks, strict=True)
        ]

    def note_ends(self, values: Sequence[Value]) -> None:
        """Values that leave the differentiated computation: its result, in forward mode slopes too."""
        self.ends += [value.spoilt_by for value in values if value.is_primal]

    @property
    def primal(self) -> frozenset[Birth]:
        """The births that reach the value of what is differentiated."""
        if self.is_reverse:
            return frozenset[Birth]().union(*(self.ends or self.dropped))
        ends = self.ends + self.dropped
        found = frozenset[Birth]().union(*ends)
        if all(ends):
            return found
        # In forward mode values and slopes leave the computation side by side, and nothing tells which is
        # which. Some are finite here, so the bad ones may be slopes: births by operations typical of slopes
        # are left out.
        return frozenset(birth for birth in found if birth.operation not in _SLOPES)

    def bear(
        self,
        operation: str,
        values: Sequence[Value],
        here: PlaceInProgram,
        has_nan: bool,
        note: str = "",
    ) -> Birth:
        """Record that the equation of `here` makes something non-finite."""
        place, inside = placed(here)
        birth = Birth(
            here.order,
            operation,
            place,
            inside,
            here.names,
            here.iterations,
            tuple(origins.describe(value.array) for value in values),
            tuple(value.maker for value in values),
            frozenset[str]().union(*(value.depends_on for value in values)),
            has_nan,
            causes=frozenset[Birth]().union(*(value.masks for value in values)),
            note=note,
        )
        self.births.append(birth)
        return birth

    def _equation(
        self, equation: Any, values: Sequence[Value], here: PlaceInProgram
    ) -> list[Value]:
        name = equation.primitive.name
        if (inner := called(equation)) is not None:
            return self.run(inner, values, here)
        if name == "cond":
            programs = branches(equation)
            # JAX clips an index that is out of range.
            taken = int(np.clip(int(values[0].array), 0, len(programs) - 1))
            results = self.run(programs[taken], values[1:], here)
            return [
                replace(value, masks=self._caused(value.masks, values[0].told_by))
                for value in results
            ]
        if name == "custom_linear_solve":
            parts = solve_parts(equation)
            return self.run(parts.solve, parts.of_solve(values), here)
        if name in self.rules:
            return self.rules[name](self, equation, values, here)
        return self.evaluate(equation, values, here)

    def _caused(self, masks: Masks, deciders: frozenset[Birth]) -> Masks:
        """`origins.of_their_cause`; a NaN that says what the deciders have done is no birth of its own."""
        found = origins.of_their_cause(masks, deciders)
        said = masks.keys() - found.keys()
        self.births = [birth for birth in self.births if birth not in said]
        return found

    def _constant(
        self, array: Any, where: PlaceInProgram, index: int = 0, reader: Any = None
    ) -> Value:
        """A literal or an array that the function closes over."""
        if origins.is_finite(array):
            return Value(array)
        here = where if reader is None else where.at(index, reader)
        place, inside = placed(here)
        has_nan = bool(origins.nans(array).any())
        operands = (origins.describe(array),)
        birth = Birth(
            here.order,
            "constant",
            place,
            inside,
            here.names,
            here.iterations,
            operands,
            has_nan=has_nan,
            legal=not has_nan,
            own_line=any(lines(equation)[0] != NOWHERE for equation in here.equations[-1:]),
        )
        self.births.append(birth)
        return Value(array, {birth: origins.nonfinite(array)})


def is_differentiated(names: str) -> bool:
    """Whether an equation belongs to a computation that is being differentiated."""
    return "jvp" in names or "transpose" in names


def is_primal(names: str) -> bool:
    """Whether an equation is in the forward part of a differentiated computation, its value or its slopes."""
    return "jvp" in names and "transpose" not in names


def placed(here: PlaceInProgram) -> tuple[SourceLine, SourceLine]:
    """The user's line of an equation, and the line of an installed package below it.

    Equations inside the wrappers of `jax.numpy` record no line. They get that of the enclosing call.
    """
    inside = NOWHERE
    for equation in reversed(here.equations):
        users, installed = lines(equation)
        inside = installed if inside == NOWHERE else inside
        if users != NOWHERE:
            return users, inside
    return inside, NOWHERE


def _maker(equation: Any, values: Sequence[Value]) -> str:
    """The last primitive on the way to a result that did more than move or scale it."""
    name = equation.primitive.name
    made = [value.maker for value in values if value.maker]
    return made[0] if name in _MOVES and len(set(made)) == 1 else name
