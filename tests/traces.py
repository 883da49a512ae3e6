"""How often JAX traces a function, which is how often it would compile it.

The size of a jitted function's cache is no such count: all functions share that cache, and in a long
suite an entry may have been evicted by the time that a test looks.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any


def counted(fun: Callable) -> tuple[Callable, list[None]]:
    """`fun`, and a list that grows by one entry each time that `fun` is traced (or called)."""
    traces: list[None] = []

    @functools.wraps(fun)
    def counting(*args: Any) -> Any:
        traces.append(None)
        return fun(*args)

    return counting, traces
