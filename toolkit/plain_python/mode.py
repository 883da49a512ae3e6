"""Whether decorated functions run as ordinary Python now, and whether a block is being traced.

Both are context variables, so that threads and asyncio tasks do not see each other's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp

_as_python: ContextVar[bool] = ContextVar("as_python", default=False)
_staged: ContextVar[int] = ContextVar("staged", default=0)
_conditional: ContextVar[int] = ContextVar("conditional", default=0)
_looped: ContextVar[int] = ContextVar("looped", default=0)
_taken: ContextVar[tuple[Any, ...]] = ContextVar("taken", default=())


@contextmanager
def as_python() -> Iterator[None]:
    """Run `@control_flow` functions as ordinary Python: for pdb, prints and stepping by line.

    `jax.disable_jit()` does the same. Under `jit` the loops are then unrolled, and a condition on
    a traced value is JAX's own error.
    """
    token = _as_python.set(True)
    try:
        yield
    finally:
        _as_python.reset(token)


def runs_as_python() -> bool:
    """Whether nothing is staged now."""
    return _as_python.get() or bool(getattr(jax.config, "jax_disable_jit"))  # noqa: B009  (its stubs lack it)


@contextmanager
def staging(conditional: bool, loop: bool) -> Iterator[None]:
    """Mark that a block is being traced.

    Args:
      conditional: whether the compiled program may skip it.
      loop: whether it is the body of a loop.
    """
    # Counts, because blocks nest: a block that certainly runs, inside one that may be skipped, may be
    # skipped too.
    staged = _staged.set(_staged.get() + 1)
    maybe = _conditional.set(_conditional.get() + int(conditional))
    looped = _looped.set(_looped.get() + int(loop))
    try:
        yield
    finally:
        _looped.reset(looped)
        _conditional.reset(maybe)
        _staged.reset(staged)


def is_staged() -> bool:
    """Whether a block is being traced. Its side effects would then happen once, not in each run."""
    return _staged.get() > 0


def is_conditional() -> bool:
    """Whether the compiled program may skip the block that is being traced."""
    return _conditional.get() > 0


def is_in_loop() -> bool:
    """Whether the body of a loop is being traced."""
    return _looped.get() > 0


@contextmanager
def taken(condition: Any, when: bool = True, alone: bool = False) -> Iterator[None]:
    """Mark that the block that is being traced counts only where `condition`, a traced scalar, is `when`.

    Args:
      alone: whether it implies the conditions of the blocks around.
    """
    one = condition, when
    token = _taken.set((one,) if alone else (*_taken.get(), one))
    try:
        yield
    finally:
        _taken.reset(token)


def is_taken() -> Any:
    """Whether what is being traced counts: a traced scalar; True where it always does.

    Under `vmap` both branches of a condition run for each element of the batch. A loop in the branch
    that an element does not take might never end, so it asks this too.
    """
    found: Any = True
    for condition, when in _taken.get():
        holds = condition if when else jnp.logical_not(condition)
        found = holds if found is True else jnp.logical_and(found, holds)
    return found
