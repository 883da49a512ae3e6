"""What a config may write where Python takes settings: the kinds of a room, the functions of a module.

pydantic calls the hooks below when it builds the model of a config. They import it only then, so that
settings which no config uses do without it.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import operator
import types
import typing
from collections.abc import Callable
from importlib import import_module
from typing import Annotated, Any, Literal, Union, get_args, get_origin

_NONE: Any = type(None)
_PLAIN = (bool, int, float, str, _NONE)
# The tag of an object that Python code made itself and that is of no kind. A number, because the tags
# of a config are texts: no config can write this one.
_OWN = 0
# The tag's field in a class that has a field `kind` of its own; in others the tag's field is `kind`.
TAG_BESIDE_A_KIND = "config_kind"


@dataclasses.dataclass(frozen=True)
class Given:
    """A value that only Python code can make: a callable, or an object with certain methods.

    Used as `Annotated[Any, Given(...)]`. Where `room` or `names` is set, a config writes a name in place
    of the object. Otherwise a config cannot write this member of the annotation, only the others.

    Args:
      expected: what the value must be, in the words of a message.
      fits: whether a value is that.
      room: the module whose settings classes a config may name by `kind`.
      member: the method that a settings class of `room` must have to be one of these.
      names: the module whose functions a config may name.
      error: the exception that refuses a value.
    """

    expected: str
    fits: Callable[[Any], bool]
    room: str = ""
    member: str = "__call__"
    names: str = ""
    error: type[Exception] = ValueError

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        return _function_schema(self.names) if self.names else _room_schema(self, handler)

    def __get_pydantic_json_schema__(self, core: Any, handler: Any) -> Any:
        if self.names:
            return {"enum": list(functions(self.names))}
        choices = [one for one in handler(core)["oneOf"] if one]  # {} admits an object of no kind
        tags = of_room(self.room, self.member)
        mapping = {tag: one["$ref"] for tag, one in zip(tags, choices, strict=True)}
        return {"oneOf": choices, "discriminator": {"propertyName": "kind", "mapping": mapping}}


def of_room(room: str, member: str = "__call__") -> dict[str, type]:
    """The settings classes that a module offers, by kind: those with the method `member`."""
    offered = vars(import_module(room)).values()
    return {tag_of(one): one for one in offered if is_kind(one) and _has(one, member)}


def _has(cls: type, member: str) -> bool:
    # `hasattr` would find the `__call__` of `type`, by which any class can be called.
    return any(member in vars(base) for base in cls.__mro__)


def is_kind(value: Any) -> bool:
    """Whether a value is a settings class (the class, not an instance)."""
    return isinstance(value, type) and hasattr(value, "own_kind")


def tag_of(cls: Any) -> str:
    """What a config writes as `kind` for a settings class."""
    return getattr(cls, _tag_field(cls))


def _tag_field(cls: Any) -> str:
    return "kind" if cls.own_kind is None else TAG_BESIDE_A_KIND


def functions(module: str) -> dict[str, Callable[..., Any]]:
    """The public functions that a module or a room defines, by name.

    Not those that need a keyword argument: a config has no place to write it.
    """
    defined = inspect.getmembers(import_module(module), inspect.isfunction)
    own = {n: f for n, f in defined if f"{f.__module__}.".startswith(f"{module}.")}
    return {n: f for n, f in own.items() if not n.startswith("_") and not _needs_keyword(f)}


def _needs_keyword(function: Callable[..., Any]) -> bool:
    parameters = inspect.signature(function).parameters.values()
    return any(p.kind is p.KEYWORD_ONLY and p.default is p.empty for p in parameters)


@functools.cache
def field_types(cls: Any) -> dict[str, Any]:
    """The annotations of the fields of a settings class, as objects."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def members(annotation: Any) -> tuple[Any, ...]:
    """The members of a union; anything else is its own only member."""
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(one for member in get_args(annotation) for one in members(member))
    return (annotation,)


def given(annotation: Any) -> Given | None:
    """The `Given` of `Annotated[..., Given(...)]`, or None."""
    marks = getattr(annotation, "__metadata__", ())
    return next((mark for mark in marks if isinstance(mark, Given)), None)


def dump(settings: Any) -> Any:
    """Settings as a config writes them: JSON types only, `kind` first."""
    from pydantic import TypeAdapter

    return TypeAdapter(type(settings)).dump_python(settings, mode="json", by_alias=True)


def schema(cls: type, source: Any, handler: Any) -> Any:
    """pydantic's schema of a settings class: its fields as a config may write them, `kind` first."""
    from pydantic_core import core_schema

    fields = []
    for field, admitted in writable_fields(cls):
        inner = handler.generate_schema(admitted)
        if field.default is not dataclasses.MISSING:
            inner = _with_default(core_schema, inner, field.default)
        alias = name_in_config(cls, field.name)
        fields.append(
            core_schema.dataclass_field(
                field.name,
                inner,
                kw_only=True,
                validation_alias=alias,
                serialization_alias=alias,
            )
        )
    return core_schema.dataclass_schema(
        cls,
        core_schema.dataclass_args_schema(cls.__name__, fields, extra_behavior="forbid"),
        [field["name"] for field in fields],
        post_init=True,  # what concerns several fields is told with the line of the config too
        config=core_schema.CoreConfig(allow_inf_nan=False),
        ref=f"{cls.__module__}.{cls.__qualname__}",
    )


def _with_default(core_schema: Any, inner: Any, default: Any) -> Any:
    # A function as a default could not be written to a JSON schema; its name can, and is looked up again.
    if inspect.isfunction(default):
        name = default.__name__
        return core_schema.with_default_schema(inner, default=name, validate_default=True)
    return core_schema.with_default_schema(inner, default=default)


def writable_fields(cls: Any) -> list[tuple[dataclasses.Field[Any], Any]]:
    """The fields that a config may write, each with what it may write there; the tag first."""
    tag = _tag_field(cls)
    found = []
    for field in sorted(dataclasses.fields(cls), key=lambda field: field.name != tag):
        admitted = _writable(field_types(cls)[field.name])
        if admitted is not None or field.default is dataclasses.MISSING:
            found.append(
                (field, admitted)
            )  # others Python code may set; a config has nothing to say
    return found


def name_in_config(cls: Any, field: str) -> str:
    """What a config writes for a field: its name, but for a field `kind` beside the tag."""
    if cls.own_kind is None:
        return field
    return {TAG_BESIDE_A_KIND: "kind", "kind": cls.own_kind}.get(field, field)


def _writable(annotation: Any) -> Any:
    """The part of an annotation that a config can write, or None."""
    # What stays are plain types with their bounds, and roles whose kinds a config can name. Arrays and
    # other objects are left out.
    admitted = []
    for member in members(annotation):
        mark = given(member)
        if mark is not None:
            admitted += [Annotated[Any, mark]] if mark.room or mark.names else []
        elif get_origin(member) is Annotated:
            base, *marks = get_args(member)
            if (base := _writable(base)) is not None:
                admitted.append(functools.reduce(lambda one, m: Annotated[one, m], marks, base))
        elif get_origin(member) in (Literal, tuple) or member in _PLAIN:
            admitted.append(member)
    # A union of which None alone is left says nothing that a config could set.
    wholly_none = all(member is _NONE for member in admitted)
    return None if wholly_none else functools.reduce(operator.or_, admitted)


def _function_schema(module: str) -> Any:
    from pydantic_core import PydanticKnownError, core_schema

    def named(value: Any) -> Any:
        if callable(value):
            return value
        known = functions(module)
        if isinstance(value, str) and value in known:
            return known[value]
        raise PydanticKnownError("literal_error", {"expected": f"one of {', '.join(known)}"})

    name = core_schema.plain_serializer_function_ser_schema(lambda function: function.__name__)
    return core_schema.no_info_plain_validator_function(named, serialization=name)


def _room_schema(mark: Given, handler: Any) -> Any:
    from pydantic_core import core_schema

    # pydantic picks the choice with this tag, and refuses a value whose tag is None or unknown.
    def tag(value: Any) -> Any:
        if isinstance(value, dict):
            # A `kind` that is no text is made one: a config's `kind: 0` must not pass as `_OWN`.
            kind = value.get("kind")
            return kind if kind is None or isinstance(kind, str) else repr(kind)
        if is_kind(type(value)) and tag_of(value) in choices:
            return tag_of(value)
        return _OWN if mark.fits(value) else None

    choices: dict[Any, Any] = {
        kind: handler.generate_schema(cls) for kind, cls in of_room(mark.room, mark.member).items()
    }
    return core_schema.tagged_union_schema({**choices, _OWN: core_schema.any_schema()}, tag)
