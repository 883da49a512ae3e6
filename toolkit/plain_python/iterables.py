"""What a `for` goes over: `range` and its like, where parts may be traced, and loop settings."""

from __future__ import annotations

import builtins
import operator
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from toolkit.control.policies import store
from toolkit.control.reversal import reversible
from toolkit.plain_python.errors import refuse
from toolkit.plain_python.lists import Stacked


class TracedRange(NamedTuple):
    """`range(start, stop, step)` with traced bounds; the step is known."""

    start: Any
    stop: Any
    step: int

    def length(self) -> Any:
        """[] integer, the number of iterations."""
        gap = self.stop - self.start
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


class Steps(NamedTuple):
    """An iterable with the settings of its loop."""

    part: Any
    gradient: Any
    progress: bool
    max_steps: int | None

    def __iter__(self) -> Iterator[Any]:
        return iter(self.part)


class Unrolled(NamedTuple):
    """An iterable whose loop runs as Python."""

    part: Any

    def __iter__(self) -> Iterator[Any]:
        return iter(self.part)


class Staged(NamedTuple):
    """An iterable as a scan sees it."""

    length: int
    xs: Any  # tree of arrays [length, ...]
    examples: Any  # the same tree of one item's types; a Python int where Python has an int
    item: Callable[[Any], Any]  # the item as the user's loop gets it
    known: Callable[[int], Any]  # the k-th item outside a scan: of a range a Python int


def steps(
    iterable: Iterable[Any],
    gradient: Any = store(),
    progress: bool = False,
    max_steps: int | None = None,
) -> Any:
    """Say how the loop over `iterable` makes its derivative.

        for i in tk.control.steps(range(1000), gradient=tk.control.checkpoint()):

    Args:
      iterable: what `@control_flow` stages: a range, an array, or `enumerate`, `zip`, `reversed`.
      gradient: a policy, as of `tk.loop`: another memory and time, the same value.
      progress: print how far the loop is.
      max_steps: where the range's bounds are traced, a limit that makes reverse mode possible. A
        range that is longer makes every floating variable of the loop NaN.

    Outside `@control_flow` it is `iterable`.
    """
    if isinstance(gradient, reversible):
        raise refuse(
            "`gradient`: reversible(inverse) undoes a carry, which a Python loop does not name: use "
            "tk.loop(body, init, gradient=tk.control.reversible(inverse))."
        )
    return Steps(iterable, gradient, progress, max_steps)


def unroll(iterable: Iterable[Any]) -> Any:
    """Run the loop over `iterable` as Python does, one copy of its body an item.

        for i in tk.control.unroll(range(3)):  # i is a Python int

    For short loops whose index has to be a Python value: a key, a shape, a layer of a list.
    """
    return Unrolled(iterable)


def make_range(*bounds: Any) -> Any:
    """`range`, where bounds may be traced."""
    try:
        return range(*bounds)
    except jax.errors.TracerIntegerConversionError:
        pass
    for bound in bounds:
        if getattr(bound, "shape", ()) != () or not jnp.issubdtype(
            jnp.result_type(bound), jnp.integer
        ):
            raise refuse(
                "the bounds of `range` must be integers: got "
                f"{jnp.result_type(bound)}{list(jnp.shape(bound))}."
            )
    start, stop, step = (0, *bounds, 1) if len(bounds) == 1 else (*bounds, 1)[:3]
    try:
        step = int(step)
    except jax.errors.ConcretizationTypeError:
        raise refuse("the step of a `range` must be known before the loop is traced.") from None
    if step == 0:
        raise ValueError("range() arg 3 must not be zero")
    return TracedRange(start, stop, step)


def make_reversed(part: Any) -> Any:
    """`reversed`, of what is staged as well."""
    if isinstance(part, range):
        return part[::-1]
    if is_array(part):
        return part[::-1]
    if isinstance(part, TracedRange):
        last = part.start + (part.length() - 1) * part.step
        return TracedRange(last, last - part.length() * part.step, -part.step)
    if isinstance(part, Stacked):
        return builtins.reversed(part.as_list())
    if isinstance(part, (Enumerate, Zip)):
        raise TypeError(f"'{type(part).__name__.lower()}' object is not reversible")
    return builtins.reversed(part)


def is_array(part: Any) -> bool:
    """Whether a `for` over `part` goes over the leading axis of an array."""
    if isinstance(part, np.ndarray):
        return part.ndim > 0 and part.dtype.kind not in "OSUMm"
    return isinstance(part, jax.Array) and part.ndim > 0


def staged(part: Any) -> Staged | None:
    """`part` as a scan sees it; None where the loop over it is Python's."""
    if isinstance(part, Stacked) and part.arrays() is not None:
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
        count = Staged(inner.length, index, 0, lambda x: x, lambda k: part.start + k)
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


def _of_arrays(length: int, arrays: Any) -> Staged:
    examples = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), arrays)
    at = lambda k: jax.tree.map(lambda leaf: leaf[k], arrays)
    return Staged(length, arrays, examples, lambda x: x, at)


def _of_range(part: range) -> Staged:
    dtype = jax.dtypes.canonicalize_dtype(int)
    largest = max((abs(part[0]), abs(part[-1])), default=0) if len(part) else 0
    if largest > jnp.iinfo(dtype).max:
        raise refuse(
            f"{part} does not fit into {dtype}: enable jax_enable_x64, or scale the index."
        )
    index = part.start + part.step * jnp.arange(len(part), dtype=dtype)
    return Staged(len(part), index, 0, lambda x: x, lambda k: part[k])


def _together(parts: list[Staged]) -> Staged:
    length = min(one.length for one in parts)
    xs = tuple(jax.tree.map(lambda leaf: leaf[:length], one.xs) for one in parts)

    def item(x: Any) -> Any:
        return tuple(one.item(part) for one, part in zip(parts, x, strict=True))

    examples = tuple(one.examples for one in parts)
    return Staged(length, xs, examples, item, lambda k: tuple(one.known(k) for one in parts))


# In a `for`; the name may be the user's own.


def range_(function: Any, *args: Any, **kwargs: Any) -> Any:
    """`range`, where bounds may be traced."""
    return (make_range if function is builtins.range else function)(*args, **kwargs)


def enumerate_(function: Any, *args: Any, **kwargs: Any) -> Any:
    """`enumerate`."""
    return (Enumerate.of if function is builtins.enumerate else function)(*args, **kwargs)


def zip_(function: Any, *args: Any, **kwargs: Any) -> Any:
    """`zip`."""
    return (Zip.of if function is builtins.zip else function)(*args, **kwargs)


def reversed_(function: Any, *args: Any, **kwargs: Any) -> Any:
    """`reversed`."""
    return (make_reversed if function is builtins.reversed else function)(*args, **kwargs)
