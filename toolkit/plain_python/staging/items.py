"""What a `for` goes over, as a scan sees it.

`enumerate(x)` over an array `x` of length `n` becomes the arrays `(arange(n), x)`, and the loop's item
is the pair of their k-th entries. Python's own `enumerate`, `zip` and `range` take no traced values,
so classes here stand for them.
"""

from __future__ import annotations

import builtins
import operator
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from toolkit.plain_python.carried.lists import StackedList
from toolkit.plain_python.refusals import refuse


class TracedRange(NamedTuple):
    """`range(start, stop, step)` with traced bounds; the step is known."""

    start: Any
    stop: Any
    step: int

    def length(self) -> Any:
        """[] integer, the number of iterations."""
        gap = self.stop - self.start
        # The quotient is rounded up for either sign of the step: `range(0, 5, 2)` has 3 items.
        past = gap + self.step - (1 if self.step > 0 else -1)
        return jnp.maximum(past // self.step, 0).astype(jax.dtypes.canonicalize_dtype(int))


class Zip(NamedTuple):
    """`zip(*parts)`."""

    parts: tuple[Any, ...]
    strict: bool

    @classmethod
    def of(cls, *parts: Any, strict: bool = False) -> Zip:
        return cls(parts, strict)

    def __iter__(self) -> Iterator[Any]:
        return builtins.zip(*self.parts, strict=self.strict)


class Enumerate(NamedTuple):
    """`enumerate(part, start)`."""

    part: Any
    start: Any

    @classmethod
    def of(cls, iterable: Any, start: Any = 0) -> Enumerate:
        return cls(iterable, start if isinstance(start, jax.Array) else operator.index(start))

    def __iter__(self) -> Iterator[Any]:
        return builtins.enumerate(self.part, self.start)


class ScanItems(NamedTuple):
    """The items of a loop as arrays."""

    length: int
    xs: Any  # tree of arrays [length, ...]
    examples: Any  # the types of one entry of `xs`; a Python int where Python has an int
    item: Callable[[Any], Any]  # from an entry of `xs` to the item that the user's loop gets
    known: Callable[[int], Any]  # the k-th item outside a scan; an int for a range


def is_array(part: Any) -> bool:
    """Whether a `for` over `part` goes over the leading axis of an array."""
    # Objects, strings and dates are no arrays for JAX, so a loop over them runs as Python.
    if isinstance(part, np.ndarray):
        return part.ndim > 0 and part.dtype.kind not in "OSUMm"
    return isinstance(part, jax.Array) and part.ndim > 0


def staged(part: Any) -> ScanItems | None:
    """`part` as arrays; None if the loop over it runs as Python (a list, a dict, a generator)."""
    if isinstance(part, StackedList) and part.arrays() is not None:
        return _of_arrays(len(part), part.arrays())
    if is_array(part):
        return _of_arrays(len(part), jnp.asarray(part))
    if isinstance(part, range):
        return _of_range(part)
    if isinstance(part, Enumerate):
        inner = staged(part.part)
        if inner is None:
            return None
        index = part.start + jnp.arange(inner.length, dtype=jax.dtypes.canonicalize_dtype(int))
        count = ScanItems(inner.length, index, 0, lambda x: x, lambda k: part.start + k)
        return _together([count, inner])
    if isinstance(part, Zip):
        parts = [staged(one) for one in part.parts]
        known = [one for one in parts if one is not None]
        if not known or len(known) < len(parts):
            return None
        lengths = {one.length for one in known}
        if part.strict and len(lengths) > 1:
            raise ValueError(f"zip() arguments have different lengths: {sorted(lengths)}")
        return _together(known)
    return None


def _of_arrays(length: int, arrays: Any) -> ScanItems:
    examples = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), arrays)
    at = lambda k: jax.tree.map(lambda leaf: leaf[k], arrays)
    return ScanItems(length, arrays, examples, lambda x: x, at)


def _of_range(part: range) -> ScanItems:
    dtype = jax.dtypes.canonicalize_dtype(int)
    largest = max((abs(part[0]), abs(part[-1])), default=0) if len(part) else 0
    if largest > jnp.iinfo(dtype).max:
        raise refuse(
            f"{part} does not fit into {dtype}: enable jax_enable_x64, or scale the index."
        )
    index = part.start + part.step * jnp.arange(len(part), dtype=dtype)
    return ScanItems(len(part), index, 0, lambda x: x, lambda k: part[k])


def _together(parts: list[ScanItems]) -> ScanItems:
    """Tuples of one item from each part, as many as the shortest part has."""
    length = min(one.length for one in parts)
    xs = tuple(jax.tree.map(lambda leaf: leaf[:length], one.xs) for one in parts)

    def item(x: Any) -> Any:
        return tuple(one.item(part) for one, part in zip(parts, x, strict=True))

    examples = tuple(one.examples for one in parts)
    return ScanItems(length, xs, examples, item, lambda k: tuple(one.known(k) for one in parts))
