"""What a suite declares, and what a contestant's process measures of itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

Function = Callable[..., Any]


class Missing(Exception):
    """A contestant's package is not installed."""


class Entry(NamedTuple):
    """A contestant: how it makes its program."""

    build: Callable[[], tuple[Function, tuple[Any, ...]]]  # -> a function for `jax.jit`, arguments
    against: str = "hand"  # the contestant that its ratios are taken to


class Suite(NamedTuple):
    """Contestants with one problem. The first entry is what the others are compared with."""

    title: str
    says: str  # the problem, in a sentence
    entries: Mapping[str, Entry]
    exact: str = ""  # the entry whose float64 gradient is the truth


class Ready(NamedTuple):
    """A contestant's program, compiled."""

    call: Callable[[], Any]
    compile_seconds: float  # CPU, of tracing, lowering and compiling
    temporary_bytes: int
    result: Any


def prepare(entry: Entry) -> Ready:
    """Compiles, and runs once."""
    import jax

    function, arguments = entry.build()
    jax.block_until_ready(arguments)
    began = time.process_time()
    compiled = jax.jit(function).lower(*arguments).compile()
    seconds = time.process_time() - began
    memory = compiled.memory_analysis()
    result = jax.block_until_ready(compiled(*arguments))
    bytes_ = memory.temp_size_in_bytes if memory is not None else 0
    return Ready(lambda: compiled(*arguments), seconds, bytes_, result)


def timed(ready: Ready, repeats: int) -> float:
    """CPU seconds of one call, over `repeats`."""
    import jax

    began = time.process_time()
    for _ in range(repeats):
        jax.block_until_ready(ready.call())
    return (time.process_time() - began) / repeats
