"""Settings: one frozen class is both the Python argument and what a config writes as a `kind`.

    @settings("neumann")
    class Neumann:
        num_terms: Count
        step_size: Positive | None = None

    Neumann(num_terms=True)      # ValueError: `num_terms` must be an int of at least 1: got True.
    # linear_solver: {kind: neumann, num_terms: 20}      in a config gives Neumann(num_terms=20)

The annotations are the checks. Python checks them when an instance is made; a config is validated by
pydantic from the same annotations (`toolkit/kinds.py`), so the two cannot drift apart.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import reprlib
import typing
from collections.abc import Callable
from numbers import Integral, Real
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import jax.numpy as jnp
import numpy as np
from annotated_types import Ge, Gt, Interval
from jax import Array

from toolkit import kinds, tree
from toolkit.errors.readable import readable

# An array may stand for a number: real, of shape []. Its value is not looked into, since it may be traced.
Number = float | Array
Count = Annotated[int, Ge(1)]
Natural = Annotated[int, Ge(0)]
Positive = Annotated[Number, Gt(0)]
NonNegative = Annotated[Number, Ge(0)]
Fraction = Annotated[Number, Interval(ge=0, lt=1)]
Tolerance = Annotated[
    float, Ge(0)
]  # no array: it ends a loop, which a derivative rule traces apart from its arguments
Weight = Annotated[Number, Interval(gt=0, le=1)]

_C = TypeVar("_C")


@dataclasses.dataclass(frozen=True)
class Hint:
    """What to do instead of a value that is refused: `Annotated[Count, Hint("use Stopped()")]`."""

    remedy: str


@typing.dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
def settings(kind: str) -> Callable[[type[_C]], type[_C]]:
    """Makes a class frozen settings that a config names by `kind`.

    The fields stand in the order of the class, by position or by keyword. A value that its annotation
    does not admit is refused in one line that names the field, what it must be, and what came. A
    `__post_init__` of the class checks what concerns several fields; it runs after that.

    Raises: by the class, ValueError (or the `error` of a `kinds.Given`) for a value that does not fit.
    """

    def decorate(cls: type[_C]) -> type[_C]:
        of_several_fields = getattr(cls, "__post_init__", None)

        @readable
        def __post_init__(self: Any) -> None:
            _check(self)
            if of_several_fields is not None:
                of_several_fields(self)

        # `kind` is keyword-only, so that it takes no position, and hidden from the text of an instance.
        cls.kind = dataclasses.field(default=kind, kw_only=True, repr=False)  # type: ignore[attr-defined]
        cls.__annotations__ = {**inspect.get_annotations(cls), "kind": Literal[kind]}
        cls.__post_init__ = __post_init__  # type: ignore[attr-defined]
        cls.__get_pydantic_core_schema__ = classmethod(kinds.schema)  # type: ignore[attr-defined]
        cls.__pydantic_config__ = {"extra": "forbid"}  # type: ignore[attr-defined]  # in the JSON schema
        return dataclasses.dataclass(frozen=True)(cls)

    return decorate


def require(name: str, value: Any, annotation: Any) -> None:
    """Refuse the argument `name` of a function where its annotation does not admit the value."""
    if not _fits(value, annotation):
        shown = tree.describe(value) if _is_array(value) else reprlib.repr(value)
        said = "".join(f"; {hint.remedy}" for hint in _hints(annotation))
        raise _error(annotation)(f"`{name}` must be {_words(annotation)}: got {shown}{said}.")


def _check(settings: Any) -> None:
    cls: Any = type(settings)
    for name, annotation in kinds.field_types(cls).items():
        value = getattr(settings, name)
        require(name, value, annotation)
        if isinstance(value, np.integer | np.bool_):
            # Python's own number sizes a loop, is hashed and printed like any other; NumPy's is not.
            object.__setattr__(settings, name, value.item())


def _fits(value: Any, annotation: Any) -> bool:
    mark = kinds.given(annotation)
    if mark is not None:
        return mark.fits(value)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        base, *bounds = arguments
        return _fits(value, base) and (_is_array(value) or _within(value, bounds))
    if len(kinds.members(annotation)) > 1:
        return any(_fits(value, member) for member in kinds.members(annotation))
    if origin is Literal:
        return any(type(value) is type(one) and value == one for one in arguments)
    if origin is tuple:
        return isinstance(value, tuple) and all(_fits(item, arguments[0]) for item in value)
    if annotation is Array:
        return _is_array(value) and not value.shape and not jnp.iscomplexobj(value)
    if annotation in _NUMBERS:
        return _NUMBERS[annotation](value)
    return isinstance(value, annotation)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


_NUMBERS: dict[Any, Callable[[Any], bool]] = {
    bool: lambda value: isinstance(value, bool | np.bool_),
    int: lambda value: isinstance(value, Integral) and not isinstance(value, bool),
    float: _is_number,
}


def _is_array(value: Any) -> bool:
    return isinstance(value, Array | np.ndarray)


def _within(value: Any, bounds: list[Any]) -> bool:
    if isinstance(value, tuple):
        return len(value) >= (_bound(bounds, "min_length") or 0)
    gt, ge, lt, le = (_bound(bounds, name) for name in ("gt", "ge", "lt", "le"))
    above = (gt is None or value > gt) and (ge is None or value >= ge)
    return above and (lt is None or value < lt) and (le is None or value <= le)


def _bound(bounds: list[Any], name: str) -> Any:
    return next((found for b in bounds if (found := getattr(b, name, None)) is not None), None)


def _words(annotation: Any) -> str:
    """What an annotation admits, as a message says it."""
    members = kinds.members(annotation)
    others = [one for one in members if one is not type(None)]
    parts = list(dict.fromkeys(_word(one) for one in others if one is not Array))
    said = (", or " if any("," in part for part in parts) else " or ").join(parts)
    # None is named in a list of what is admitted; beside a single type it would only blur the message.
    return f"None, {said}" if len(others) < len(members) and ", or " in said else said


def _word(annotation: Any) -> str:
    mark = kinds.given(annotation)
    if mark is not None:
        return mark.expected
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        base, *bounds = arguments
        return _word(base) if get_origin(base) is tuple else _range(base, bounds)
    if origin is Literal:
        return (
            f"one of {', '.join(map(repr, arguments))}" if len(arguments) > 1 else repr(*arguments)
        )
    if origin is tuple:
        return f"a tuple of at least one item, each {_word(arguments[0])}"
    words = {bool: "True or False", int: "an int", float: "a number", str: "a text"}
    return words.get(annotation) or f"a {annotation.__name__}"


def _range(base: Any, bounds: list[Any]) -> str:
    gt, ge, lt, le = (_bound(bounds, name) for name in ("gt", "ge", "lt", "le"))
    noun = "an int" if base is int else "a number"
    if lt is None and le is None:
        if base is not int and 0 in (gt, ge):
            return "a positive number" if gt == 0 else "a nonnegative number"
        return f"{noun} above {gt}" if ge is None else f"{noun} of at least {ge}"
    opening = f"({gt}" if ge is None else f"[{ge}"
    return f"{noun} in {opening}, " + (f"{lt})" if le is None else f"{le}]")


def _hints(annotation: Any) -> list[Hint]:
    marks = [m for one in kinds.members(annotation) for m in getattr(one, "__metadata__", ())]
    return [mark for mark in marks if isinstance(mark, Hint)]


def _error(annotation: Any) -> type[Exception]:
    marks = (kinds.given(member) for member in kinds.members(annotation))
    return next((mark.error for mark in marks if mark is not None), ValueError)
