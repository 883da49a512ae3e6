"""`range`, `enumerate`, `zip` and `reversed` with traced parts, and the settings of a loop.

`for i in tk.control.steps(range(n), gradient=tk.control.checkpoint())` sets the memory policy of a
loop; `for i in tk.control.unroll(range(3))` runs it as Python.
"""

from __future__ import annotations

import builtins
import operator
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from toolkit.control.policies.reversible import reversible
from toolkit.control.policies.store import store
from toolkit.plain_python.carried.lists import StackedList
from toolkit.plain_python.carried.typed_arrays import holds, is_traced
from toolkit.plain_python.refusals import refuse
from toolkit.plain_python.staging.items import Enumerate, TracedRange, Zip, is_array


class LoopSettings(NamedTuple):
    """An iterable with the settings of its loop."""

    part: Any
    gradient: Any
    progress: bool
    max_steps: int | None

    def __iter__(self) -> Iterator[Any]:
        return iter(self.part)


class UnrolledIterable(NamedTuple):
    """An iterable whose loop runs as Python."""

    part: Any

    def __iter__(self) -> Iterator[Any]:
        return iter(self.part)


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
        range that is longer makes every floating variable of the loop NaN, and every integer the
        smallest of its type (of unsigned ones the largest).

    Returns: `iterable` with these settings. Outside `@control_flow` it gives the items of `iterable`.

    Raises:
      ControlFlowError: `gradient` is `reversible(...)`; or, once the loop is reached, `iterable` is
        something that is not staged, such as a list.

    Differentiation, Cost: the policy's, as for `tk.loop`.
    """
    if isinstance(gradient, reversible):
        raise refuse(
            "`gradient`: reversible(inverse) undoes a carry, which a Python loop does not name: use "
            "tk.loop(body, init, gradient=tk.control.reversible(inverse))."
        )
    return LoopSettings(iterable, gradient, progress, max_steps)


def unroll(iterable: Iterable[Any]) -> Any:
    """Run the loop over `iterable` as Python does, one copy of its body an item.

        for i in tk.control.unroll(range(3)):  # i is a Python int

    For short loops whose index has to be a Python value: a key, a shape, a layer of a list.

    Args:
      iterable: whatever Python's `for` accepts.

    Cost: the body is traced and compiled once an item.
    """
    return UnrolledIterable(iterable)


def make_range(*bounds: Any) -> Any:
    """`range`, where bounds may be traced."""
    # Python's `range` takes all integers that are known, arrays of shape () included.
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
    known = [operator.index(bound) if not is_traced(bound) else bound for bound in bounds]
    widest = jax.dtypes.canonicalize_dtype(int)
    for bound in known:
        if isinstance(bound, int) and not holds(widest, bound):
            raise refuse(f"the bound {bound} of this `range` does not fit into {widest}.")
        if not isinstance(bound, int) and jnp.iinfo(bound.dtype).max > jnp.iinfo(widest).max:
            raise refuse(
                f"the bounds of this `range` are {bound.dtype}, of which {widest} cannot hold all: "
                f"convert them, `n.astype(jnp.{widest})`."
            )
    start, stop, step = (0, *known, 1) if len(known) == 1 else (*known, 1)[:3]
    try:
        step = int(step)
    except jax.errors.ConcretizationTypeError:
        raise refuse("the step of a `range` must be known before the loop is traced.") from None
    if step == 0:
        raise ValueError("range() arg 3 must not be zero")
    return TracedRange.of(start, stop, step)


def make_reversed(part: Any) -> Any:
    """`reversed`, of what is staged as well."""
    if isinstance(part, range):
        return part[::-1]
    if is_array(part):
        return part[::-1]
    if isinstance(part, TracedRange):
        return part.reversed()
    if isinstance(part, StackedList):
        return builtins.reversed(part.as_list())
    if isinstance(part, (Enumerate, Zip)):
        raise TypeError(f"'{type(part).__name__.lower()}' object is not reversible")
    return builtins.reversed(part)


# The rewriting knows a call of `range` by its name only, which may be the user's own. So the function
# itself is passed, and compared with Python's.
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
