"""What a suite declares, and what a contestant's process measures of itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, NamedTuple

Function = Callable[..., Any]
Build = Callable[[], tuple[Function, tuple[Any, ...]]]  # -> a function and its arguments


class NoCounterpart(Exception):
    """What a contestant raises that has no such program: the library lacks it."""


class Ready(NamedTuple):
    """A contestant's program, about to be timed."""

    call: Callable[[], Any]  # returns when the result is there
    compile_seconds: (
        float | None
    )  # CPU, of tracing, lowering and compiling; None: it has no such step
    temporary_bytes: int | None  # None: not known
    result: Any


def jitted(build: Build) -> Ready:
    """Compiles, and runs once."""
    import jax

    function, arguments = build()
    jax.block_until_ready(arguments)
    began = time.process_time()
    compiled = jax.jit(function).lower(*arguments).compile()
    seconds = time.process_time() - began
    memory = compiled.memory_analysis()
    call = lambda: jax.block_until_ready(compiled(*arguments))
    return Ready(call, seconds, memory and memory.temp_size_in_bytes, call())


class Entry(NamedTuple):
    """A contestant: how it makes its program."""

    build: Build
    against: str = "hand"  # the contestant that its ratios are taken to
    prepare: Callable[[Build], Ready] = jitted


class Suite(NamedTuple):
    """Contestants with one problem. The first entry is what the others are compared with."""

    title: str
    says: str  # the problem, in a sentence
    entries: Mapping[str, Entry]
    exact: str = ""  # the entry whose float64 gradient is the truth


def suite(name: str) -> Suite:
    """The suite of that name: a module of `benchmarks/suites`, or a `PACKAGE:NAME` of those in its `programs`."""
    package, _, within = name.rpartition(":")
    if package:
        return import_module(f"benchmarks.{package}.programs").SUITES[within]
    return import_module(f"benchmarks.suites.{name}").SUITE


def timed(ready: Ready, repeats: int) -> float:
    """CPU seconds of one call, over `repeats`."""
    began = time.process_time()
    for _ in range(repeats):
        ready.call()
    return (time.process_time() - began) / repeats
