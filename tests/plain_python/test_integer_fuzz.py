"""Random programs of integers: compiled, each gives Python's integers, or is refused; none wraps."""

from __future__ import annotations

import signal
from collections import Counter
from typing import Any

import jax
import numpy as np
import pytest

import toolkit as tk
from tests.plain_python.integer_programs import source
from tests.plain_python.programs import load

INPUTS = ((0.5, 4), (-2.0, 0))
FAST = {"xla_backend_optimization_level": 0}
REFUSALS = (tk.control.ControlFlowError, UnboundLocalError)
# Python itself raises these, and a branch is traced even if its condition is false.
RAISED = (ZeroDivisionError, OverflowError, ValueError, TypeError)


class TooLong(Exception):
    """Python's integers grow so large in some programs that computing them takes minutes."""


def expected(seed: int, x: float, n: int) -> Any:
    """What Python gives, or None if it raises."""

    def stop(*_: Any) -> None:
        raise TooLong

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 2.0)
    try:
        return load(source(seed), f"plain integers {seed}")(x, n)
    except RAISED:
        return None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def verdict(seed: int) -> str:
    try:
        wanted = [expected(seed, *inputs) for inputs in INPUTS]
    except TooLong:
        return "too long"
    staged = tk.control_flow(load(source(seed), f"integers {seed}"))
    f = jax.jit(staged, compiler_options=FAST)
    try:
        got = [f(*inputs) for inputs in INPUTS]
    except REFUSALS:
        return "refused"
    except RAISED:
        return "raised"
    for want, found in zip(wanted, got, strict=True):
        for e, g in zip(want or (), found, strict=False):
            g = np.asarray(g)
            same = np.isclose(float(g), float(e)) if g.dtype.kind == "f" else int(g) == e
            assert same, f"seed {seed}: expected {want}, got {found}\n{source(seed)}"
    return "same"


def survey(seeds: range) -> Counter[str]:
    with jax.enable_x64(False):
        return Counter(map(verdict, seeds))


def test_random_integers_never_wrap() -> None:
    assert survey(range(12))["same"] >= 3


@pytest.mark.slow
@pytest.mark.parametrize("start", range(100, 500, 100))
def test_more_random_integers_never_wrap(start: int) -> None:
    assert survey(range(start, start + 100))["same"] >= 20
