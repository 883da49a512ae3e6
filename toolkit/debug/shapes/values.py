"""Arrays and trees of them as short text, from shapes and dtypes alone."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
from jax.tree_util import keystr, tree_flatten_with_path

_LONGEST = 60  # characters of a tree; a longer one is counted


class Shape(NamedTuple):
    """An array behind a line."""

    name: str  # what the line calls it, with its path there: "params['w']"; "return", "lambda"
    shape: tuple[int, ...]
    dtype: str

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


def shapes(name: str, value: Any) -> tuple[Shape, ...]:
    """The arrays in a value."""
    if is_array(value):
        return (_shape(name, value),)
    if value is None or isinstance(value, (str, bytes, int, float, complex)):
        return ()
    try:
        leaves = tree_flatten_with_path(value)[0]
    except Exception:  # a registered class may refuse to be flattened half-made
        return ()
    return tuple(_shape(f"{name}{keystr(path)}", leaf) for path, leaf in leaves if is_array(leaf))


def text(value: Any) -> str:
    """A value as `float32[32,16]`, or a tree of such; "" where no array is in it."""
    found = shapes("", value)
    if is_array(value):
        return str(found[0])
    if not found:
        return ""
    whole = _tree(value)
    if len(whole) <= _LONGEST:
        return whole
    numbers = sum(math.prod(one.shape) for one in found)
    return f"{type(value).__name__} of {len(found)} arrays, {numbers:,} numbers"


def is_array(value: Any) -> bool:
    """Whether it has a shape and a dtype, as arrays, tracers and `jax.ShapeDtypeStruct`s have."""
    if isinstance(value, type):
        return False
    if isinstance(value, jax.Array):
        return True
    # The class is asked first. An object of the user's may compute its attributes, or answer to any name.
    held = getattr(type(value), "shape", None) is not None and hasattr(type(value), "dtype")
    return held and isinstance(getattr(value, "shape", None), tuple)


def _shape(name: str, array: Any) -> Shape:
    return Shape(name, tuple(array.shape), str(array.dtype))


def _tree(value: Any) -> str:
    if is_array(value):
        return str(_shape("", value))
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key!r}: {_tree(one)}' for key, one in value.items())}}}"
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        named = zip(value._fields, value, strict=True)
        return f"{type(value).__name__}({', '.join(f'{key}={_tree(one)}' for key, one in named)})"
    if isinstance(value, tuple):
        return f"({', '.join(map(_tree, value))}{',' if len(value) == 1 else ''})"
    if isinstance(value, list):
        return f"[{', '.join(map(_tree, value))}]"
    if value is None:
        return "None"
    inside = list(_registered(value))
    return f"{type(value).__name__}({', '.join(inside)})" if inside else type(value).__name__


def _registered(value: Any) -> Iterator[str]:
    """The arrays of a class that is registered as a tree."""
    for one in shapes("", value):
        yield f"{one.name.lstrip('.')}={one}"
