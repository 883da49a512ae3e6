"""What is looked at before a trace: what is large hides nothing, and odd objects do no harm."""

# The cases are written as users write.
# ruff: noqa: B007

from __future__ import annotations

import functools
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import toolkit as tk

LARGE = list(range(300_000))
WORDS = {str(k): k for k in range(200_000)}
TABLE = np.zeros((1000, 1000, 10))


class Odd:
    """Raises at every question that Python lets it answer."""

    def __getattr__(self, name):
        raise RuntimeError(name)

    def __len__(self):
        raise RuntimeError

    def __eq__(self, other):
        raise RuntimeError

    __hash__ = None


class OddList(list):
    def __iter__(self):
        raise RuntimeError

    def __len__(self):
        raise RuntimeError


def test_what_is_large_hides_nothing() -> None:
    @tk.control_flow
    def f(x):
        log = []
        note = functools.partial(log.append, 1)
        sizes = len(LARGE) + len(WORDS) + TABLE.size
        for i in range(3):
            note()
        return x + sizes * 0 + len(log)

    with pytest.raises(tk.control.ControlFlowError, match="`log` is changed in place"):
        jax.make_jaxpr(f)(1.0)


def test_odd_objects_are_passed_by() -> None:
    @tk.control_flow
    def f(x, odd, items):
        for i in range(3):
            x = x + (0.0 if odd is items else 1.0)
        return x

    assert f(1.0, Odd(), OddList([Odd()])) == 4.0


def test_what_is_computed_once_is_no_change() -> None:
    class Lazy:
        @functools.cached_property
        def value(self):
            return 3.0

    @tk.control_flow
    def f(x):
        lazy = Lazy()
        for i in range(2):
            x = x * lazy.value
        return x

    assert jax.jit(f)(1.0) == 9.0


def test_other_variables_of_a_module_may_change() -> None:
    """Only what the code can get at counts: another thread may go on with its own."""
    theirs: list[int] = []
    going = threading.Event()

    def write():
        while not going.is_set():
            theirs.append(1)
            going.wait(1e-4)

    @tk.control_flow
    def f(x):
        for i in range(2):
            x = jnp.sin(x) if x > i else x
        return x

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for shift in range(5):
            jax.make_jaxpr(lambda x: f(x + shift))(1.0)  # noqa: B023
    finally:
        going.set()
        thread.join()
    assert theirs
