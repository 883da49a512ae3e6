"""Errors at public functions: the user's own arrive as they are, ours stay whole, and programs that work are not refused."""

from __future__ import annotations

import functools
import os
import textwrap
import traceback
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import toolkit as tk
from toolkit import tree
from toolkit.control import prepared
from toolkit.errors import readable
from toolkit.solve import maps, preparation

ROOT = Path(__file__).parents[2]


class Frozen(Exception):
    def __setattr__(self, name: str, value: object) -> None:
        if not name.startswith("__"):  # which JAX sets
            raise AttributeError(name)


def quadratic(y, theta):
    return jnp.sum((y - theta) ** 2)


class Model:
    def loss(self, y, theta):
        return quadratic(y, theta)

    def __call__(self, y, theta, *rest, **options):
        return quadratic(y, theta)


def tolerant(y, theta):
    try:
        return quadratic(y, theta["missing"])
    except (KeyError, IndexError, TypeError):
        return quadratic(y, theta)


def solved(fun, y0=jnp.ones(2), theta=0.5):
    return tk.argmin(fun, tk.solver.GradientDescent(0.5, 1))(y0, theta).value


ODD = {
    "a default argument": lambda: solved(lambda y, theta, scale=1.0: scale * quadratic(y, theta)),
    "a partial": lambda: solved(
        functools.partial(lambda k, y, theta: k * quadratic(y, theta), 1.0)
    ),
    "a method": lambda: solved(Model().loss),
    "a callable object": lambda: solved(Model()),
    "a compiled function": lambda: solved(jax.jit(quadratic)),
    "any arguments": lambda: solved(lambda *args: quadratic(*args)),
    "an error that is caught inside": lambda: solved(tolerant),
    "a start of Python numbers": lambda: jnp.stack(
        solved(lambda y, t: (y[0] - t) ** 2 + (y[1] - t) ** 2, [1.0, 1.0])
    ),
    "a theta in float64 NumPy": lambda: solved(quadratic, theta=np.full(2, 0.5)),
    "no theta": lambda: solved(lambda y, theta: quadratic(y, 0.5), theta=None),
    "a pair as a list": lambda: tk.loop(lambda c, x: [c * 0.5, None], jnp.ones(2), length=1)[0],
    "a condition of Python's": lambda: tk.while_loop(
        lambda c: True, lambda c: c / 2, jnp.ones(2), 1
    ),
    "a ufunc for a product": lambda: (
        -0.5 * tk.linear.CG(5, 1e-6)(jnp.negative, jnp.ones(2))[0] * -1 * -1
    ),
    "a NumPy product": lambda: tk.linear.Dense()(lambda v: 2 * jnp.asarray(v), jnp.ones(2))[0],
    "an old key of NumPy": lambda: (
        0.5
        + 0
        * tk.estimator.EvolutionStrategies(0.1, 1)(lambda theta: jnp.sum(theta))(
            jnp.ones(2), np.array([0, 1], np.uint32)
        ).gradient
    ),
}


@pytest.mark.parametrize("name", ODD)
def test_an_odd_program_is_not_refused(name: str) -> None:
    np.testing.assert_allclose(ODD[name](), [0.5, 0.5], rtol=1e-6)


def raising(error: Exception):
    def fun(y, theta):
        raise error

    return tk.argmin(fun, tk.solver.GradientDescent(0.5, 1))


@pytest.mark.parametrize(
    "error",
    [
        KeyError("a"),
        OSError(2, "gone"),
        StopIteration(3),
        UnicodeDecodeError("utf8", b"", 0, 1, ""),
    ],
    ids=lambda error: type(error).__name__,
)
def test_the_users_own_error_arrives_as_it_is(error: Exception) -> None:
    args = error.args
    with pytest.raises(type(error)) as caught:
        raising(error)(jnp.ones(2), 0.5)
    assert caught.value is error
    assert caught.value.args == args


def test_an_error_that_cannot_be_changed_arrives_whole() -> None:
    with pytest.raises(Frozen):
        raising(Frozen())(jnp.ones(2), 0.5)


def test_a_second_way_through_adds_nothing() -> None:
    inner = raising(KeyError("a"))
    outer = tk.argmin(
        lambda y, theta: jnp.sum(inner(y, theta).value), tk.solver.GradientDescent(0.5, 1)
    )
    with pytest.raises(KeyError) as caught:
        outer(jnp.ones(2), 0.5)
    notes = "\n".join(caught.value.__notes__)
    assert notes.count("fun has y: float64[2], theta: float64[]") == 1
    assert notes.count("JAX_TRACEBACK_FILTERING") <= 1


def frames(error: BaseException) -> list[str]:
    return [frame.filename for frame in traceback.extract_tb(error.__traceback__)]


def test_a_fault_of_ours_stays_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparation, "bind", None)
    with pytest.raises(TypeError) as caught:
        solved(quadratic)
    assert frames(caught.value)[-1] == preparation.__file__


def test_a_broken_assertion_of_ours_stays_whole() -> None:
    nothing: Any = None
    unbounded = prepared.PreparedWhile(
        nothing, nothing, (), nothing, None, rules=nothing, effects=frozenset()
    )
    with pytest.raises(AssertionError) as caught:
        readable.readable(lambda: unbounded.bound)()
    assert prepared.__file__ in frames(caught.value)


def test_a_fault_of_ours_inside_jax_stays_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree, "norm", jnp.linalg.inv)
    with pytest.raises(TypeError) as caught:
        solved(lambda y, theta: quadratic(y["w"], theta), {"w": jnp.ones(2)})
    assert maps.__file__ in frames(caught.value)


def test_every_frame_comes_back_on_demand(monkeypatch: pytest.MonkeyPatch) -> None:
    before = jax.config.jax_traceback_filtering
    jax.config.update("jax_traceback_filtering", "off")
    try:
        with pytest.raises(KeyError) as caught:
            raising(KeyError("a"))(jnp.ones(2), 0.5)
    finally:
        jax.config.update("jax_traceback_filtering", before)
    found = frames(caught.value)
    assert any(str(ROOT / "toolkit") in name for name in found)
    assert any(f"jax{os.sep}_src" in name for name in found)


def test_rules_that_fail_say_where() -> None:
    def fun(y, theta):
        return quadratic(y, theta["missing"])

    solver, rules = tk.solver.GradientDescent(0.5, 1), {"implicit": tk.adjoint.Implicit()}
    [row] = tk.compare_adjoints(
        fun, lambda y, theta: jnp.sum(y), solver, jnp.ones(2), {"a": 0.5}, rules
    ).to_rows()
    line = fun.__code__.co_firstlineno + 1
    assert row["reason"] == f"KeyError: 'missing' (test_readable.py:{line})"


def test_nothing_is_traced_again() -> None:
    traced = []

    def fun(y, theta):
        traced.append(1)
        return quadratic(y, theta)

    solve = jax.jit(tk.argmin(fun, tk.solver.GradientDescent(0.5, 3)))
    for theta in (0.1, 0.2, 0.3):
        solve(jnp.ones(2), theta)
    assert len(traced) == 1


def test_long_trees_are_cut() -> None:
    def fun(y, theta):
        return y["missing"]

    with pytest.raises(KeyError) as caught:
        tk.argmin(fun, tk.solver.GradientDescent(0.5, 1))(
            {f"layer{i}": jnp.ones(2) for i in range(99)}
        )
    assert max(map(len, caught.value.__notes__)) < 400


def test_docstrings_and_signatures_survive() -> None:
    assert "minimiser" in tk.argmin.__doc__
    assert textwrap.dedent(tk.loop.__doc__)
    assert readable.readable(quadratic).__wrapped__ is quadratic
