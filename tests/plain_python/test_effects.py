"""An effect happens as often as in Python, or is refused: never once in a loop, nor in a branch not taken."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

import toolkit as tk
from tests.plain_python import effects
from tests.plain_python.effects import AT, EFFECTS, KINDS, PLACES

REFUSALS = (tk.control.ControlFlowError, UnboundLocalError)


def counted(go: Any, kind: Any, compiled: bool) -> Any:
    effects.restore()
    act, read = kind()
    if compiled:
        jax.make_jaxpr(lambda x: tk.control_flow(go)(x, act))(AT)
    else:
        go(AT, act)
    return float(read())


@pytest.mark.parametrize("place", PLACES)
def test_an_effect_is_right_or_refused(place: Any) -> None:
    refused = 0
    for kind in KINDS:
        expected = counted(place, kind, compiled=False)
        try:
            assert counted(place, kind, compiled=True) == expected, kind.__name__
        except REFUSALS as refusal:
            assert "line" in str(refusal), kind.__name__
            refused += 1
    assert refused > 20, "the effects would not show"


@pytest.mark.parametrize("name", EFFECTS)
def test_as_in_python_or_refused(name: str) -> None:
    f = EFFECTS[name]
    expected = f(AT)
    try:
        got = jax.jit(tk.control_flow(f))(AT)
    except REFUSALS:
        return
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_what_is_refused_is_undone() -> None:
    """A refused trace leaves no trace: a second attempt, as Python, begins where the first one did."""
    for kind in KINDS:
        effects.restore()
        act, read = kind()
        try:
            jax.make_jaxpr(lambda x: tk.control_flow(effects.in_loop)(x, act))(AT)  # noqa: B023
        except REFUSALS as refusal:
            if "iterator" in str(refusal):
                continue  # it cannot be moved back
        else:
            continue
        left = read()
        effects.restore()
        _, untouched = kind()
        assert left == untouched(), kind.__name__


def prints(x, k):
    s = 0.1
    for i in range(3):
        print("at", i, f"{x:.2f} {s} {i:03d}", [i], sep="|")
        s = s + 0.1
        if x > i:
            print(f"{i=} is less")
        x > i + 0.5 and print("behind and", i)
        x < 0 or print("behind or")
        print("above") if x > 5 else print("below")
        x > 5 and jax.debug.print("never")
    while k > 0:
        print("down", k, end="!\n")
        k = k - 1
    return x


def test_print_prints_as_often_as_python(capfd: pytest.CaptureFixture[str]) -> None:
    prints(np.float32(1.25), 2)
    expected = capfd.readouterr().out
    jax.block_until_ready(jax.jit(tk.control_flow(prints))(np.float32(1.25), 2))
    jax.effects_barrier()
    # Lines of one iteration may change places. The last sum of tenths is not 0.3 in float64.
    expected = expected.replace("0.30000000000000004", "0.3")
    got = capfd.readouterr().out.replace("0.30000000000000004", "0.3")
    assert sorted(got.splitlines()) == sorted(expected.splitlines())


def test_an_operand_without_an_effect_needs_no_condition() -> None:
    """Two booleans are combined, as before; only what prints is put behind a condition."""

    @tk.control_flow
    def f(x):
        return x > 0 and jax.numpy.sum(x) < 3

    assert "cond" not in str(jax.make_jaxpr(f)(AT))
