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

from toolkit.jaxprs.hidden import converted
from toolkit.plain_python.carried.lists import StackedList
from toolkit.plain_python.carried.typed_arrays import fitting
from toolkit.plain_python.refusals import refuse
from toolkit.plain_python.tracing import intervals
from toolkit.plain_python.tracing.integers import FARTHEST
from toolkit.plain_python.tracing.intervals import IntegerInterval, Known
from toolkit.plain_python.tracing.known_intervals import known_of


class TracedRange(NamedTuple):
    """`range(start, stop, step)` with traced bounds; the step is known."""

    start: Any  # like Python's integers weakly typed, whatever the types of the bounds were
    stop: Any
    step: int
    spans: tuple[IntegerInterval, IntegerInterval]  # where `start` and `stop` lie

    @classmethod
    def of(cls, start: Any, stop: Any, step: int) -> TracedRange:
        spans = _span_of_bound(start), _span_of_bound(stop)
        return cls(_as_int(start), _as_int(stop), step, spans)

    def length(self) -> Any:
        """[] integer, the number of iterations."""
        return range_length(self.start, self.stop, self.step)

    def longest(self) -> int:
        """A bound of the number of iterations."""
        step = IntegerInterval(self.step, self.step)
        return intervals.range_length(*self.spans, step).high

    def span(self, length: int) -> IntegerInterval:
        """Where the items of at most `length` iterations lie."""
        last = self.step * max(length - 1, 0)
        start = self.spans[0]
        return start.moved(min(last, 0), max(last, 0)).plain()

    def reversed(self) -> TracedRange:
        """The same items from the last to the first."""
        length = self.length()
        last = self.start + (length - 1) * self.step
        # A range excludes its stop, so the new stop lies one step before the old start.
        ends = self.spans[0].hull(self.spans[1])
        wide = IntegerInterval(ends.low - abs(self.step), ends.high + abs(self.step))
        return TracedRange(last, last - length * self.step, -self.step, (wide, wide))


@jax.jit
def range_length(start: Any, stop: Any, step: Any) -> Any:
    """The length of `range(start, stop, step)` for integers of one type.

    `jit` keeps it in the jaxpr as one call, which `tracing.integers` finds by the name of this function.
    """
    up = step > 0
    # The distance of two int32 may need 32 bits without a sign, where it does not wrap.
    unsigned = jnp.dtype(f"uint{8 * start.dtype.itemsize}")
    gap = jnp.where(up, stop - start, start - stop).astype(unsigned)
    count = (gap + (jnp.abs(step) - 1).astype(unsigned)) // jnp.abs(step).astype(unsigned)
    count = jnp.minimum(count, jnp.iinfo(start.dtype).max).astype(start.dtype)
    return jnp.where(jnp.where(up, stop > start, stop < start), count, 0)


def _as_int(bound: Any) -> Any:
    """A bound as a traced integer of the width of Python's; in its own dtype `start + step` might wrap."""
    return converted(jnp.asarray(bound), jax.dtypes.canonicalize_dtype(int), True)


def _span_of_bound(bound: Any) -> IntegerInterval:
    if isinstance(bound, int):
        return IntegerInterval(bound, bound)
    limits = jnp.iinfo(bound.dtype)
    return IntegerInterval(max(limits.min, -FARTHEST), min(limits.max, FARTHEST))


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
    # The intervals of its leaves, as `tracing.integers` follows them; for None of the items from a first one on.
    spans: Callable[[int, int | None], list[Known]]


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
        return _of_arrays(len(part), jnp.asarray(fitting(part)), part)
    if isinstance(part, range):
        return _of_range(part)
    if isinstance(part, Enumerate):
        inner = staged(part.part)
        if inner is None:
            return None
        if isinstance(part.start, int):
            return _together([_of_range(range(part.start, part.start + inner.length)), inner])
        index = _as_int(part.start) + jnp.arange(inner.length)
        span = _span_of_bound(part.start).moved(0, max(inner.length - 1, 0))
        at = lambda k: part.start + k
        count = ScanItems(inner.length, index, 0, lambda x: x, at, lambda *_: [span])
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


def _of_arrays(length: int, arrays: Any, given: Any = None) -> ScanItems:
    examples = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), arrays)
    at = lambda k: jax.tree.map(lambda leaf: leaf[k], arrays)

    def spans(first: int, after: int | None) -> list[Known]:
        if isinstance(given, np.ndarray):
            return [known_of(given[first:after])]
        return [None] * len(jax.tree.leaves(arrays))

    return ScanItems(length, arrays, examples, lambda x: x, at, spans)


def _of_range(part: range) -> ScanItems:
    dtype = jax.dtypes.canonicalize_dtype(int)
    largest = max((abs(part[0]), abs(part[-1])), default=0) if len(part) else 0
    if largest > jnp.iinfo(dtype).max:
        raise refuse(
            f"{part} does not fit into {dtype}: enable jax_enable_x64, or scale the index."
        )
    index = part.start + part.step * jnp.arange(len(part), dtype=dtype)

    def spans(first: int, after: int | None) -> list[Known]:
        ends = part[first:after]
        return [IntegerInterval(min(ends[0], ends[-1]), max(ends[0], ends[-1]))]

    return ScanItems(len(part), index, 0, lambda x: x, lambda k: part[k], spans)


def _together(parts: list[ScanItems]) -> ScanItems:
    """Tuples of one item from each part, as many as the shortest part has."""
    length = min(one.length for one in parts)
    xs = tuple(jax.tree.map(lambda leaf: leaf[:length], one.xs) for one in parts)

    def item(x: Any) -> Any:
        return tuple(one.item(part) for one, part in zip(parts, x, strict=True))

    examples = tuple(one.examples for one in parts)

    def spans(first: int, after: int | None) -> list[Known]:
        end = length if after is None else after
        return [span for one in parts for span in one.spans(first, end)]

    return ScanItems(
        length, xs, examples, item, lambda k: tuple(one.known(k) for one in parts), spans
    )
