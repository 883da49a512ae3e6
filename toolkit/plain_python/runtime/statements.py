"""The statements of rewritten code: each decides whether it is staged or runs as Python.

`flow.if_(test, then, orelse, variables)` calls one of the two blocks if the test is known, and traces
both if it is traced. `flow.for_` stages a loop over a range or an array, and goes over anything else
as Python does.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from toolkit.control.policies.store import store
from toolkit.errors.readable import cause
from toolkit.plain_python import mode
from toolkit.plain_python.carried.typed_arrays import is_traced
from toolkit.plain_python.carried.undefined import UndefinedRead
from toolkit.plain_python.carried.variables import Variables
from toolkit.plain_python.refusals import ControlFlowError, here, refuse
from toolkit.plain_python.reserved import RESULT
from toolkit.plain_python.runtime.iterables import LoopSettings, UnrolledIterable
from toolkit.plain_python.runtime.variables_and_items import read
from toolkit.plain_python.staging.branching import branch
from toolkit.plain_python.staging.items import Enumerate, TracedRange, Zip, staged
from toolkit.plain_python.staging.staged_for import UserFor, for_static, for_traced
from toolkit.plain_python.staging.staged_while import while_from_the_start, while_traced
from toolkit.plain_python.staging.truth import truth
from toolkit.plain_python.tracing.needs_python import explained, needs_python

_LONG = 100  # iterations of a Python `while` under a trace after which a warning says so


def for_(iterable: Any, body: Callable[[Any], None], state: Variables, leave: str | None) -> None:
    """`for item in iterable: body(item)`; `leave`: the flag that a `break` or `return` sets."""
    settings = (
        iterable
        if isinstance(iterable, LoopSettings)
        else LoopSettings(iterable, None, False, None)
    )
    part = settings.part
    user = UserFor(state, body, leave)
    if mode.runs_as_python():
        return _for_python(part, user)
    gradient = settings.gradient or store()
    if isinstance(part, TracedRange):
        return for_traced(user, part, gradient, settings.max_steps)
    items = None if isinstance(part, UnrolledIterable) else staged(part)
    if items is not None:
        return for_static(user, items, gradient, settings.progress)
    # If a loop with settings ran as Python, its policy or limit would be ignored in silence.
    if settings is iterable:
        raise refuse(
            "tk.control.steps goes over a range, an array, or enumerate, zip and reversed of those: "
            f"got {type(part).__name__}, over which the loop runs as Python."
        )
    return _for_python(part, user)


def _for_python(iterable: Any, user: UserFor) -> None:
    """A loop that runs as Python, one copy of its body an item.

    If a traced `break` may have left it, the rest of the items run under a traced condition.
    """
    for item in iterable:
        left = user.left() if user.leave else False
        if not is_traced(left):
            user.body(item)
            if user.leave and user.left() is True:
                break
            continue
        # From here every further item is traced. Python would stop at the `break`, which tracing cannot
        # see, so an endless iterator would never end.
        if not hasattr(iterable, "__len__") and not isinstance(
            iterable, (Zip, Enumerate, UnrolledIterable)
        ):
            raise refuse(
                "this loop goes over an iterator that may be endless, and is left by a traced "
                "`break` or `return`: go over a list or a range, or write `while True:`."
            )
        going = jnp.logical_not(left)
        branch(user.variables, going, lambda: user.body(item), lambda: None)  # noqa: B023


def while_(
    test: Callable[[], Any], body: Callable[[], None], state: Variables, private: tuple[str, ...]
) -> None:
    """`while test(): body()`; `private`: variables that nothing outside the body reads."""
    count = 0
    while True:
        asked = test()
        # Even a known JAX value in the test says that later ones may be traced: `i < 10` with
        # `i = jnp.int32(0)`.
        if isinstance(asked, jax.Array) and not mode.runs_as_python():
            return while_traced(state, test, body)
        if not asked:
            return
        first = not (count or mode.runs_as_python())
        if first and while_from_the_start(state, test, body, private):
            return
        body()
        count += 1
        if count == _LONG and _is_tracing(state):
            warnings.warn(
                here().said(
                    f"this `while` has run {_LONG} times as Python, because its test is a Python "
                    "value: each iteration is compiled. Make what it tests a JAX value "
                    "(`i = jnp.int32(0)`), or write `for`."
                ),
                stacklevel=2,
            )


def _is_tracing(state: Variables) -> bool:
    """Whether some variable holds a tracer now."""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(state.values()))


def if_(test: Any, then: Callable[[], None], orelse: Callable[[], None], state: Variables) -> None:
    """`if test: then() else: orelse()`."""
    condition = truth(test)
    if condition is True:
        then()
    elif condition is False:
        orelse()
    else:
        branch(state, condition, then, orelse)


def returned(flag: Any, result: Any, always: bool) -> Any:
    """The value of a function with an early `return`.

    Args:
      flag: whether a `return` was reached; may be traced.
      always: whether every path through the function ends in a `return`.
    """
    if flag is False and not always:
        return None
    if is_traced(flag) and not always:
        # A bare `return` gives None, as does the end of the function.
        if result is None:
            return None
        raise refuse(
            "the function returns a value on one path and reaches its end without `return`, which is "
            "None, on another: the branches of a traced condition must return alike."
        )
    return read(result, RESULT)


def forbid_attribute(place: str) -> None:
    """Refuse `self.x = v` inside a staged block."""
    if mode.is_staged():
        raise refuse(
            f"attribute assignment `{place} = ...` inside a staged loop or condition would leak a "
            "tracer: use a local name and assign it after, or run the loop as Python with "
            "`tk.control.unroll(...)`."
        )


def forbid_delete() -> None:
    """Refuse `del` inside a staged block."""
    if mode.is_staged():
        raise refuse("`del` inside a staged loop or condition cannot depend on data: leave it out.")


def forbid_raise() -> None:
    """Refuse `raise` in a block that may not run."""
    if mode.is_conditional():
        raise refuse(
            "`raise` under a traced condition would run at trace time, always. Use "
            "jax.experimental.checkify.check(cond, message), or return a status."
        )


def caught() -> None:
    """At the start of a user's `except`, raise again the errors that it must not catch.

    These are the toolkit's refusals, and errors that occur only because a value is traced: Python
    would have known it and gone on.
    """
    error = sys.exception()
    if isinstance(error, ControlFlowError):
        raise error
    # Python would raise an UnboundLocalError for a variable that was never assigned, and the user may
    # catch it. One that has no value because of a traced condition is a matter of staging.
    if isinstance(error, UndefinedRead) and (error.undefined.reason or mode.is_staged()):
        raise error
    if mode.is_staged() and isinstance(error, Exception) and needs_python(error):
        raise explained(error) from cause(error)


def matchable(subject: Any) -> Any:
    """The subject of a `match`, which Python takes apart."""
    if is_traced(subject):
        raise refuse("`match` on a traced value: use if/elif, or jax.lax.switch.")
    return subject
