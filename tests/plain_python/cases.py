"""Small functions that mean something in Python, and have to mean it under `@tk.control_flow` too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import toolkit as tk

X = jnp.asarray([0.5, -0.3, 0.8])
Function = Callable[..., Any]


class Case(NamedTuple):
    """A function and its arguments.

    `plain` is what to compare with where the function itself is none: `x[i] = v` on an array of JAX.
    `refusable`: a refusal is as good as the right answer.
    """

    function: Function
    arguments: tuple[Any, ...]
    plain: Function
    refusable: bool


class Table:
    """Collects cases: `@table(x, k)` stands above each."""

    def __init__(self) -> None:
        self.cases: dict[str, Case] = {}

    def __call__(self, *arguments: Any, plain: Function | None = None, refusable: bool = False):
        def add(function: Function) -> Function:
            assert function.__name__ not in self.cases, function.__name__
            self.cases[function.__name__] = Case(function, arguments, plain or function, refusable)
            return function

        return add


def assert_same(expected: Any, got: Any) -> None:
    """Structure, types and values; in float64 up to the order of additions."""
    assert jax.tree.structure(expected) == jax.tree.structure(got)
    for e, g in zip(jax.tree.leaves(expected), jax.tree.leaves(got), strict=True):
        e, g = jnp.asarray(e), jnp.asarray(g)
        assert (e.dtype, e.shape) == (g.dtype, g.shape)
        if jnp.issubdtype(e.dtype, jax.dtypes.prng_key):
            e, g = jax.random.key_data(e), jax.random.key_data(g)
        rtol = 1e-12 if e.dtype in (jnp.float64, jnp.complex128) else 1e-6
        rtol = (
            1e-2 if e.dtype == jnp.bfloat16 else rtol
        )  # 8 bits: one unit in the last place is 0.8 %
        np.testing.assert_allclose(np.asarray(g, complex), np.asarray(e, complex), rtol, rtol)


def check(case: Case) -> None:
    """Compiled (every array and number traced), eagerly, and as ordinary Python."""
    expected = case.plain(*case.arguments)
    try:
        f = tk.control_flow(case.function)
        assert_same(expected, jax.jit(f)(*case.arguments))
        assert_same(expected, f(*case.arguments))
    except (tk.control.ControlFlowError, UnboundLocalError):
        if not case.refusable:
            raise
        return
    if case.plain is case.function:
        with tk.control.as_python():
            assert_same(expected, f(*case.arguments))
