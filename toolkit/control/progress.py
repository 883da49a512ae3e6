"""Messages on stderr about how far a loop has come."""

from __future__ import annotations

import sys

import jax
from jax import Array

from toolkit.derive.replay import Ticker

_LINES = 20


def printer(length: int) -> Ticker:
    """A ticker that prints `loop: 300/1000`, at most twenty times in a loop of `length` steps."""
    every = max(-(-length // _LINES), 1)

    def tick(done: Array, since: int) -> None:
        # Prints if a multiple of `every` was passed since the last call, which may lie several steps back,
        # and at the end. A callback in every step would slow the loop down.
        jax.lax.cond(
            (done // every > (done - since) // every) | (done == length),
            lambda: jax.debug.callback(_print, done, length),
            lambda: None,
        )

    return tick


def _print(done: Array, length: int) -> None:
    print(f"loop: {done}/{length}", file=sys.stderr, flush=True)
