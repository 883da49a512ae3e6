"""The report of `tk.debug.explain`, and how it prints."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from toolkit import tables
from toolkit.debug.nonfinite.origins import Birth, Operand
from toolkit.debug.source_lines import NOWHERE, SourceLine

# Primitives whose name is no word. The name stays behind the words, because JAX's own messages use it.
_WORDS = {
    "acos": "arc cosine (acos)",
    "add": "addition (add)",
    "add_any": "sum of gradients (add_any)",
    "asin": "arc sine (asin)",
    "atan2": "arc tangent (atan2)",
    "constant": "constant",
    "convert_element_type": "cast (convert_element_type)",
    "cumlogsumexp": "running logsumexp (cumlogsumexp)",
    "cumprod": "running product (cumprod)",
    "cumsum": "running sum (cumsum)",
    "div": "division (div)",
    "dot_general": "matrix product (dot_general)",
    "input": "input",
    "integer_pow": "power (integer_pow)",
    "mul": "multiplication (mul)",
    "pow": "power (pow)",
    "reduce_prod": "product (reduce_prod)",
    "reduce_sum": "sum (reduce_sum)",
    "rem": "remainder (rem)",
    "rsqrt": "1/sqrt (rsqrt)",
    "scatter-add": "sum into entries (scatter-add)",
    "sub": "subtraction (sub)",
}
_PHASES = {
    "forward": "",
    "derivative": ", in the derivative",
    "backward": ", in the backward pass",
}
_IN_SENTENCES = ("try:", "note:")  # long enough to be wrapped
_LISTED = 3  # masked places that are printed


class Masked(NamedTuple):
    """A place that made something non-finite which reached no output."""

    file: str | None
    line: int | None
    operation: str
    iterations: tuple[tuple[str, int], ...]
    path: str = ""  # of the argument, where the operation is "input"

    def __str__(self) -> str:
        if self.path:
            return f"{self.operation} {self.path}"
        return f"{self.operation} at {SourceLine(self.file, self.line)}{_printed(self.iterations)}"


@dataclass(frozen=True)
class NonFiniteReport:
    """The first equation that made a non-finite value which reaches an output; a table in a notebook."""

    file: str | None  # of the user's line; None where JAX knows none
    line: int | None
    source: str  # that line, stripped
    operation: str  # in words, with the primitive's name; "input" for an argument, "constant"
    phase: str  # "forward", "derivative" (a slope, while the value is finite), "backward"
    iterations: tuple[tuple[str, int], ...]  # of the enclosing loops, outermost first, from 0
    operands: tuple[Operand, ...]  # what the equation read
    depends_on: tuple[str, ...]  # paths of the arguments that the operands depend on
    suggestion: str | None  # what usually helps
    masked: tuple[Masked, ...]  # other places that made something non-finite, without effect
    outputs: tuple[str, ...] = ()  # paths of the bad results
    inside: str = ""  # the line of an installed package below the user's
    note: str = ""  # how the answer was found, where that was not by replaying

    def __repr__(self) -> str:
        lines = [self._first()]
        if self.source:
            lines.append(f"    {self.source}")
        for name, told in self._details():
            line = f"{name} {told}"
            lines += _wrapped(line) if name in _IN_SENTENCES else [f"  {line}"]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        source = [("line", self.source)] if self.source else []
        details = [(name.rstrip(":"), told) for name, told in self._details()]
        return tables.page([self._first()], [*source, *details])

    def _first(self) -> str:
        """What was not finite, where, and when."""
        first = "non-finite input"
        if self.operation != "input":
            place = SourceLine(self.file, self.line)
            first = f"first non-finite value in {self.operation} at {place}"
        return f"{first}{_printed(self.iterations)}{_PHASES[self.phase]}"

    def _details(self) -> Iterator[tuple[str, str]]:
        """All else that is known, by its name."""
        if self.inside:
            yield "within", self.inside
        for i, operand in enumerate(self.operands[:3]):
            yield f"operand {i}:", str(operand)
        if self.depends_on:
            yield "depends on", _listed(self.depends_on)
        if self.outputs:
            yield "reaches", _listed(self.outputs)
        if self.suggestion:
            yield "try:", self.suggestion
        if self.masked:
            yield "without effect:", _listed(tuple(map(str, self.masked)), _LISTED)
        if self.note:
            yield "note:", self.note


def in_words(operation: str) -> str:
    """A primitive's name with what it does."""
    return _WORDS.get(operation, operation)


def report(
    birth: Birth,
    phase: str,
    outputs: tuple[str, ...],
    suggestion: str | None,
    others: tuple[Birth, ...],
    note: str = "",
) -> NonFiniteReport:
    """The report of one birth; `others` had no effect."""
    return NonFiniteReport(
        file=birth.place.file,
        line=birth.place.line,
        source=birth.place.source,
        operation=in_words(birth.operation),
        phase=phase,
        iterations=birth.iterations,
        operands=birth.operands,
        depends_on=tuple(sorted(birth.depends_on)),
        suggestion=suggestion,
        masked=_first_each(others),
        outputs=outputs,
        inside="" if birth.inside == NOWHERE else str(birth.inside),
        note=note or birth.note,
    )


def _first_each(births: tuple[Birth, ...]) -> tuple[Masked, ...]:
    """One of each place and operation: a line in a loop of a thousand steps is listed once."""
    listed: dict[tuple[SourceLine, str, str], Masked] = {}
    for birth in births:
        path = next(iter(birth.depends_on), "") if birth.operation == "input" else ""
        place, words = birth.place, in_words(birth.operation)
        one = Masked(place.file, place.line, words, birth.iterations, path)
        listed.setdefault((place, words, path), one)
    return tuple(listed.values())


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 100, initial_indent="  ", subsequent_indent="    ")


def _printed(iterations: tuple[tuple[str, int], ...]) -> str:
    return "".join(f", {loop} iteration {step}" for loop, step in iterations)


def _listed(items: tuple[str, ...], limit: int = 6) -> str:
    more = f" and {len(items) - limit} more" if len(items) > limit else ""
    return ", ".join(items[:limit]) + more
