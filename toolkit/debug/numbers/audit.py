"""`tk.debug.audit`: hidden hyperparameters, which decide what a program computes and no argument sets."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax

from toolkit import tree
from toolkit.debug.numbers.structural import Supplied, is_close
from toolkit.debug.numbers.walk import Found, Walk
from toolkit.debug.source_lines import NOWHERE, SourceLine, installed_name
from toolkit.errors.readable import readable


@dataclass(frozen=True)
class Constant:
    """A number in a computation that no argument supplies."""

    value: int | float | complex
    file: str | None  # of the user's line that it comes from, or that calls what it is a default of
    line: int | None
    operation: str  # what reads it: a primitive, a function of JAX, "loop length", "initial value"
    inside: SourceLine = NOWHERE  # the line of another package, where the number enters there

    def __str__(self) -> str:
        place = SourceLine(self.file, self.line)
        inside = f" (inside {installed_name(self.inside)})" if self.inside != NOWHERE else ""
        return f"{self.value:g} in `{self.operation}` at {place}{inside}: {place.source}"


@readable
def audit(fn: Callable[..., Any], *specs: Any) -> tuple[Constant, ...]:
    """The numbers in what `fn` computes that none of its arguments supplies.

    The program is traced, never run, and searched for numbers, in the bodies of loops, branches,
    jitted functions and derivative rules too: step sizes, thresholds, bounds, seeds, lengths of
    loops, initial values, and defaults of library functions (`eps=1e-8` of `optax.adam`, the slope
    0.01 of `jax.nn.leaky_relu`), which are reported at the user's line that calls the library.

    Structure is left out: integers of magnitude up to 2 (1.0 as well as 1), exponents, shapes,
    axes and indices, lengths of arrays and their inverses and roots (the n of a mean), limits of a
    dtype, infinities, multiples of pi and the like; and the numbers in the code of JAX, of other
    packages and of their derivative rules, as the 0.044715 of `jax.nn.gelu`. So are closed-over
    arrays, which are data; only one that is filled with one number is a number. Python computes
    before JAX sees anything: `2 * 0.05` is found as 0.1, and what it only decides is not found.

    Args:
      fn: the function, as `fn(*specs)`.
      specs: its arguments: arrays, `jax.ShapeDtypeStruct`s, or trees of either. Only shapes count.
        A Python number among them is supplied, too; what is no number stays as it is.

    Returns: `Constant(value, file, line, operation, inside)`, in the order of the program; one that
      the same operation reads at the same line several times is there once.

    Raises: TypeError where `fn` is not callable, and what `fn` raises.

    Cost: one trace of `fn`, no compilation.
    """
    return constants(fn, specs, ())


def constants(
    fn: Callable[..., Any], specs: Sequence[Any], supplied: Sequence[Any]
) -> tuple[Constant, ...]:
    """As `audit`, without the numbers that are in `supplied` or that programs commonly make of these."""
    if not callable(fn):
        raise TypeError(f"`fn` must be callable: got {type(fn).__name__}.")
    jaxpr, static = _traced(fn, specs)
    visible = Supplied([*static, *supplied])
    found = Walk(SourceLine(*_definition(fn))).of(jaxpr)
    kept = [one for one in found if not visible.explains(one.value)]
    return tuple(
        dict.fromkeys(
            Constant(one.value, *one.place, one.operation, one.inside)
            for one in kept
            if not _is_complement(one, kept)
        )
    )


def _traced(fn: Callable[..., Any], specs: Sequence[Any]) -> tuple[Any, list[Any]]:
    """The program, and the Python numbers that had to stay numbers, because they steer it."""
    leaves, structure = jax.tree.flatten(tuple(specs))

    def trace(is_input: list[bool]) -> Any:
        def flat(*arrays: Any) -> list[Any]:
            given = iter(arrays)
            whole = [next(given) if a else x for x, a in zip(leaves, is_input, strict=True)]
            results = jax.tree.leaves(fn(*jax.tree.unflatten(structure, whole)))
            return [result for result in results if tree.is_numeric(result)]

        inputs = [leaf for leaf, a in zip(leaves, is_input, strict=True) if a]
        return jax.make_jaxpr(flat)(*inputs)

    is_array = [hasattr(leaf, "dtype") for leaf in leaves]
    is_number = [isinstance(leaf, (int, float)) and not isinstance(leaf, bool) for leaf in leaves]
    # A Python number is best traced as an array: it is then an argument, and what is computed from it is no
    # constant. Some functions need it as a Python number. Then it is returned, so that its value can be left
    # out.
    if any(is_number):
        try:
            return trace([a or n for a, n in zip(is_array, is_number, strict=True)]), []
        except (jax.errors.JAXTypeError, TypeError):  # it is a length, an axis or a flag
            pass
    return trace(is_array), [x for x, is_one in zip(leaves, is_number, strict=True) if is_one]


def _is_complement(one: Found, others: Sequence[Found]) -> bool:
    """Whether it is the 1 - b of a package's moving average, `b * old + (1 - b) * new`: b is listed."""
    if one.inside == NOWHERE or isinstance(one.value, complex) or not 0 < one.value < 0.5:
        return False
    return any(
        other.inside == one.inside and is_close(other.value, 1 - one.value) for other in others
    )


def _definition(fn: Callable[..., Any]) -> SourceLine:
    code = getattr(inspect.unwrap(fn), "__code__", None)
    return NOWHERE if code is None else SourceLine(code.co_filename, code.co_firstlineno)
