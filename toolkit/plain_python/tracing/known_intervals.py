"""Where traced integers of Python's lie, as far as it is known while a function runs.

    k = 10**9 if x > 0 else 1       # a traced integer between 1 and 10**9
    return k * 4                    # may leave int32: refused where it is computed

Each table holds values of one trace, and is dropped with it.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from toolkit.plain_python.tracing.intervals import IntegerInterval, Known

# By the id of a value: the value, which stays alive so that no other gets its id, and where it lies.
_Table = ChainMap[int, tuple[Any, Known]]
_table: ContextVar[_Table | None] = ContextVar("table", default=None)


@contextmanager
def table(nested: bool) -> Iterator[None]:
    """A table of what becomes known inside.

    Args:
      nested: whether it ends with a trace. Else values may leave it, so a table that is there is kept.
    """
    before = _table.get()
    if before is not None and not nested:
        yield
        return
    token = _table.set(before.new_child() if before is not None else ChainMap())
    try:
        yield
    finally:
        _table.reset(token)


def note(value: Any, known: Known) -> Any:
    """`value`, which a block or an operation has made of Python's numbers, and where it lies, if that is known."""
    now = _table.get()
    weak = getattr(value, "weak_type", False)  # a PRNG key has none
    made = isinstance(value, jax.Array) and (weak or known is not None)
    if now is not None and made:
        whole = known is not None and jnp.issubdtype(value.dtype, jnp.integer)
        now[id(value)] = value, known.plain() if whole else None  # type: ignore[union-attr]
    return value


def is_made(value: Any) -> bool:
    """Whether a block has made this of a number of Python's."""
    now = _table.get()
    return now is not None and isinstance(value, jax.Array) and id(value) in now


def known_of(value: Any) -> Known:
    """Where an integer of Python's, or 64-bit ones of NumPy's, lie; None for anything else.

    NumPy's other integers wrap as JAX's do.
    """
    if type(value) in (int, bool):
        return IntegerInterval(int(value), int(value))
    now = _table.get()
    if isinstance(value, jax.Array):
        if value.dtype == jnp.bool_:
            return IntegerInterval(0, 1) if value.weak_type else None
        found = now.get(id(value)) if now is not None else None
        return found[1] if found is not None else None
    numpys = isinstance(value, (np.ndarray, np.integer)) and value.dtype.kind in "iu"
    if not numpys or value.dtype.itemsize < 8 or not value.size:
        return None
    return IntegerInterval(int(value.min()), int(value.max()))
