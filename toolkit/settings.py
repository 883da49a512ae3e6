"""Settings: one frozen class is both the Python argument and what a config writes as a `kind`.

    @settings("neumann")
    class Neumann:
        num_terms: Count
        step_size: Positive | None = None

    Neumann(num_terms=True)      # ValueError: `num_terms` must be an int of at least 1: got True.
    # linear_solver: {kind: neumann, num_terms: 20}      in a config gives Neumann(num_terms=20)

The annotations are the checks. Python checks them when an instance is made; a config is validated by
pydantic from the same annotations (`toolkit/vocabulary/kinds.py`), so the two cannot drift apart.
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

import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import Ge, Gt, Interval
from jax import Array

from toolkit import tree
from toolkit.errors.readable import readable
from toolkit.vocabulary import kinds

# A real array of shape [] may stand for a number. Its value is not checked, since it may be traced.
Number = float | Array
Count = Annotated[int, Ge(1)]
Natural = Annotated[int, Ge(0)]
Positive = Annotated[Number, Gt(0)]
NonNegative = Annotated[Number, Ge(0)]
Fraction = Annotated[Number, Interval(ge=0, lt=1)]
# No array: a tolerance ends a loop, which a derivative rule traces apart from its arguments. A traced
# tolerance would leak into that trace.
Tolerance = Annotated[float, Ge(0)]
Weight = Annotated[Number, Interval(gt=0, le=1)]

_C = TypeVar("_C")


@dataclasses.dataclass(frozen=True)
class Hint:
    """What to do instead of a value that is refused: `Annotated[Count, Hint("use Stopped()")]`."""

    remedy: str


@typing.dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
def settings(kind: str, own_kind: str | None = None) -> Callable[[type[_C]], type[_C]]:
    """Make a class a frozen dataclass of settings, which a config names by `kind`.

    Its instances are made by position, in the order of the fields, or by keyword. A value that the
    field's annotation does not admit is refused in one line, which names the field, what it must be,
    and what it got. After that a `__post_init__` of the class may check what concerns several fields.

    Args:
      kind: the name in a config, unique in its room; it becomes the class attribute `kind`.
      own_kind: for a class that has a field `kind` of its own, the word that a config writes for that field.

    Raises:
      ValueError: by the class, for a value that does not fit; or the `error` of a `kinds.Given`.
    """

    def decorate(cls: type[_C]) -> type[_C]:
        of_several_fields = getattr(cls, "__post_init__", None)

        @readable
        def __post_init__(self: Any) -> None:
            _check(self)
            if of_several_fields is not None:
                of_several_fields(self)

        # The tag is keyword-only, so that it takes no position, and hidden from the text of an instance.
        tag = dataclasses.field(default=kind, kw_only=True, repr=False)
        name = "kind" if own_kind is None else kinds.TAG_BESIDE_A_KIND
        setattr(cls, name, tag)
        cls.__annotations__ = {**inspect.get_annotations(cls), name: Literal[kind]}
        cls.own_kind = own_kind  # type: ignore[attr-defined]
        cls.__hash__ = _hash  # type: ignore[assignment]
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
    for field in dataclasses.fields(cls):
        # A config leaves out the fields that it cannot write. Read off the class, a function as a default
        # would become a method of the instance.
        if field.name not in vars(settings):
            object.__setattr__(settings, field.name, field.default)
    for name, annotation in kinds.field_types(cls).items():
        value = _plain(getattr(settings, name))
        require(name, value, annotation)
        object.__setattr__(settings, name, value)


def _hash(settings: Any) -> int:
    """By the values of the fields, of an array by the object that it is: `jax.jit(solve)` needs a hash."""
    leaves, structure = jax.tree.flatten(
        [getattr(settings, f.name) for f in dataclasses.fields(settings)]
    )
    return hash((structure, *(id(leaf) if _is_array(leaf) else leaf for leaf in leaves)))


def _plain(value: Any) -> Any:
    """A number of NumPy's as the Python number that it is; anything else as it is.

    `isinstance(np.int64(3), int)` is false, it prints as `np.int64(3)`, and `np.float32(0.1)` times a bfloat16
    array is float32: equal settings would act and print differently.
    """
    number = isinstance(value, np.generic | np.ndarray) and not value.shape
    if number and value.dtype.kind in "biuf" and value.dtype != np.longdouble:
        return value.item()
    if isinstance(value, Real) and not isinstance(value, int | float):
        return float(value)  # fractions; and `np.longdouble`, which has no Python number of its own
    return value


def _fits(value: Any, annotation: Any) -> bool:
    mark = kinds.given(annotation)
    if mark is not None:
        return mark.fits(value)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        # Bounds are checked on numbers only; an array may be traced, and has no value then.
        base, *bounds = arguments
        return _fits(value, base) and (_is_array(value) or _within(value, bounds))
    if len(kinds.members(annotation)) > 1:
        return any(_fits(value, member) for member in kinds.members(annotation))
    if origin is Literal:
        # In Python True == 1 == 1.0, so the types are compared as well.
        return any(type(value) is type(one) and value == one for one in arguments)
    if origin is tuple:
        return isinstance(value, tuple) and all(_fits(item, arguments[0]) for item in value)
    if annotation is Array:
        return _is_array(value) and not value.shape and not jnp.iscomplexobj(value)
    if annotation in _NUMBERS:
        return _NUMBERS[annotation](value)
    return isinstance(value, annotation)


def _is_number(value: Any) -> bool:
    """A finite real number. Python counts a bool as one; in a setting it is a slip."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


_NUMBERS: dict[Any, Callable[[Any], bool]] = {
    bool: lambda value: isinstance(value, bool | np.bool_),
    int: lambda value: isinstance(value, Integral) and not isinstance(value, bool),
    float: _is_number,
}


def _is_array(value: Any) -> bool:
    return isinstance(value, Array | np.ndarray)


def _within(value: Any, bounds: list[Any]) -> bool:
    """Whether a number lies in its bounds, or a tuple has as many items as its `MinLen` or `Len` says."""
    if isinstance(value, tuple):
        most = _bound(bounds, "max_length")
        return len(value) >= (_bound(bounds, "min_length") or 0) and (
            most is None or len(value) <= most
        )
    gt, ge, lt, le = (_bound(bounds, name) for name in ("gt", "ge", "lt", "le"))
    above = (gt is None or value > gt) and (ge is None or value >= ge)
    return above and (lt is None or value < lt) and (le is None or value <= le)


def _bound(bounds: list[Any], name: str) -> Any:
    """The bound `gt`, `ge`, `lt`, `le` or `min_length` that some mark of the annotation sets, or None."""
    return next((found for b in bounds if (found := getattr(b, name, None)) is not None), None)


def _words(annotation: Any) -> str:
    """What an annotation admits, as a message says it."""
    members = kinds.members(annotation)
    others = [one for one in members if one is not type(None)]
    parts = list(dict.fromkeys(_word(one) for one in others if one is not Array))
    said = (", or " if any("," in part for part in parts) else " or ").join(parts)
    # None is named where a message lists several things. Beside a single type it is left out: whoever gave
    # a wrong number wants to read which numbers are right.
    return f"None, {said}" if len(others) < len(members) and ", or " in said else said


def _word(annotation: Any) -> str:
    """What one member of an annotation admits, as a message says it."""
    mark = kinds.given(annotation)
    if mark is not None:
        return mark.expected
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        base, *bounds = arguments
        return _tuple(base, bounds) if get_origin(base) is tuple else _range(base, bounds)
    if origin is Literal:
        return (
            f"one of {', '.join(map(repr, arguments))}" if len(arguments) > 1 else repr(*arguments)
        )
    if origin is tuple:
        return _tuple(annotation, [])
    words = {bool: "True or False", int: "an int", float: "a number", str: "a text"}
    return words.get(annotation) or f"a {annotation.__name__}"


def _tuple(annotation: Any, bounds: list[Any]) -> str:
    most = _bound(bounds, "max_length")
    many = "at least one item" if most is None else f"{most} items"
    return f"a tuple of {many}, each {_word(get_args(annotation)[0])}"


def _range(base: Any, bounds: list[Any]) -> str:
    """A number and its bounds, as a message says them: "a number in [0, 1)"."""
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
