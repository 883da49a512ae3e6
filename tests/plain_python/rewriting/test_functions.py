"""Functions stay Python functions: closures, arguments, methods, recursion, names, and where their source lies."""

# The cases are written as users write.
# ruff: noqa: B023, F841

from __future__ import annotations

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import toolkit as tk
from tests.plain_python.cases import Table, X, check

case = Table()
SCALE = 2.0


@case(X)
def a_closure_reads_the_loop_variable(x):
    s = 0.0

    def read():
        return s + 10 * i

    for i in range(3):
        s = s + x[i]
        x = x + read()
    return x, read()


@case(X)
def functions_made_in_the_loop(x):
    s = x[0]
    for i in range(3):

        def f(y, c=i):
            return y * c + i + s

        s = f(s) + (lambda y: y * i)(2.0)
    return s


@case(X)
def lambdas_bind_late(x):
    fs = []
    for i in [1, 2, 3]:
        fs.append(lambda y: y * i)
    return [f(x[0]) for f in fs]


@case(X)
def inner_functions_are_converted(x):
    def clip(y, bound=0.6):
        if y > bound:
            return bound
        for i in range(2):
            if y < -0.2:
                return -0.2 + i
        return y

    s = clip(x[2], bound=0.5)
    for e in x:
        s = s * 2 + clip(e)
    return s, clip(x[1])


@case(X)
def nonlocal_from_inner_functions(x):
    total, calls = x[0], 0

    def add(y):
        nonlocal total, calls

        def count():
            nonlocal calls
            calls += 1

        count()
        total = total * 0.5 + y
        return total

    for i in range(3):
        add(x[i])
        if x[i] > 0:
            add(i)
    return total, calls


@case(X)
def nonlocal_in_a_conditional_expression(x):
    n = 0

    def bump(by):
        nonlocal n
        n += by
        return by * x[0]

    y = bump(1) if x[0] > 0 else bump(10)
    z = bump(100) if x[0] < 0 else bump(1000)
    return y, z, n


@case(X, refusable=True)
def nonlocal_behind_and(x):
    n = 0

    def bump():
        nonlocal n
        n += 1
        return True

    y = x[0] < 0 and bump()
    return y, n


@case(X)
def inner_recursion(x):
    def power(y, n):
        return y if n == 0 else y * power(y, n - 1)

    s = 0.0
    for i in range(2):
        s = s + power(x[i], 3)
    return s


@case(X)
def inner_functions_under_transformations(x):
    @jax.grad
    def slope(y):
        s = y
        for i in range(3):
            s = s * y + i
        return s

    @jax.jit
    def loss(w):
        total = 0.0
        for e in x:
            total = total + jnp.sum((w * e - 1) ** 2)
        return total

    w = jnp.ones(2)
    for _ in range(3):
        w = w - 0.1 * jax.grad(loss)(w) + 0.001 * jax.vmap(slope)(w)
    return w, slope(x[0])


@case(X)
def inner_generators(x):
    def pairs(n):
        for i in range(n):
            yield i, i * 2

    for i, j in pairs(3):
        x = x + i * j
    return x, sum(i for i, _ in pairs(4))


@case(X)
def starred_arguments(x):
    def f(a, /, b=2, *rest, c, d=3.0, **more):
        s = a * b + c - d
        for r in rest:
            s = s + r
        for i in range(2):
            s = s + more["e"] * i
        return s

    return f(x, 1.5, 2, 3, c=4, e=5.0), f(x, c=1, **{"e": 2, "d": 0})


@case(X)
def globals_and_builtins(x):
    for i in range(2):
        x = x * SCALE + abs(i - 1) + float(len(x)) + max(2, 3)
    return x


@case(X)
def shadowed_range(x):
    def range(n):
        return [n, n + 1.0]

    for i in range(2):
        x = x * i
    enumerate = zip = lambda v: [(5, 6.0)]
    for i, e in enumerate(x):
        x = x + i * e
    return x, i


@case(X)
def imports_inside(x):
    for i in range(2):
        import math

        x = x * math.pi + i
    from math import e as euler

    return x + euler


@case(X)
def unicode_names_and_columns(x):
    α, größe = "αβγ" and x[0], 0.0
    for ι in range(3):
        größe = größe + α * ι if x[1] < 0 else größe - α
    return größe, f"{'λ'}{1}" == "λ1"


class Base:
    def step(self, x):
        return x * 2


class Model(Base):
    __rate = 0.5

    def __init__(self, width):
        self.width = width

    @tk.control_flow
    def step(self, x):
        for i in range(3):
            x = super().step(x) * self.__rate + i
            if x[0] > 1:
                x = super().step(x)
        return x + self.width + (__class__ is Model)

    @classmethod
    @tk.control_flow
    def make(cls, x):
        for i in range(2):
            x = x + cls.__rate * i
        return x

    @staticmethod
    @tk.control_flow
    def twice(x):
        for _ in range(2):
            x = x * 2
        return x

    @property
    @tk.control_flow
    def area(self):
        s = 0
        for i in range(3):
            s += i * self.width
        return s

    @tk.control_flow
    def __call__(self, x):
        for _ in range(2):
            x = self.__inner(x)
        return x

    def __inner(self, x):
        return x * 2 + self.width


def test_methods() -> None:
    model = Model(4.0)
    x = X
    for i in range(3):
        x = x * 2 * 0.5 + i
        if x[0] > 1:
            x = x * 2
    np.testing.assert_allclose(jax.jit(model.step)(X), x + 5.0, rtol=1e-12)
    np.testing.assert_allclose(jax.jit(Model.make)(X), X + 0.5, rtol=1e-12)
    np.testing.assert_allclose(jax.jit(Model(1).twice)(X), X * 4, rtol=1e-12)
    np.testing.assert_allclose(jax.jit(model)(X), X * 4 + 12, rtol=1e-12)
    assert model.area == 12.0


def test_recursion_through_the_global_name() -> None:
    np.testing.assert_allclose(jax.jit(tower, static_argnums=1)(X, 3), X * 2.0**6, rtol=1e-12)


@tk.control_flow
def tower(x, n):
    if n == 0:
        return x
    for _ in range(2):
        x = x * 2
    return tower(x, n - 1)


def test_decorated_functions_call_each_other_in_loops() -> None:
    def f(x):
        for _ in range(2):
            x = tower(x, 1) if x[0] > 0 else tower(x, 2)
        return x

    np.testing.assert_allclose(jax.jit(tk.control_flow(f))(X), X * 16, rtol=1e-12)


def test_defaults_are_those_of_the_definition() -> None:
    log, n = [], 2

    def f(x, times=n, *, seen=log):
        for i in range(times):
            x = x + i
        seen.append(len(seen))
        return x

    g = tk.control_flow(f)
    n = 5
    np.testing.assert_allclose(g(X), X + 1, rtol=1e-15)
    np.testing.assert_allclose(g(X, 3), X + 3, rtol=1e-15)
    assert log == [0, 1]

    assert inspect.signature(g) == inspect.signature(f)
    assert (g.__name__, g.__qualname__, g.__module__) == (f.__name__, f.__qualname__, f.__module__)


def test_globals_and_cells_are_read_when_called(monkeypatch: pytest.MonkeyPatch) -> None:
    offset = 1.0

    @tk.control_flow
    def f(x):
        for _ in range(2):
            x = x * SCALE + offset
        return x

    np.testing.assert_allclose(f(X), X * 4 + 3, rtol=1e-15)
    offset = 10.0
    monkeypatch.setitem(globals(), "SCALE", 3.0)
    np.testing.assert_allclose(f(X), X * 9 + 40, rtol=1e-15)


def test_a_variable_of_the_function_outside_is_not_written() -> None:
    """Compiled code cannot: the second call runs no Python, and a traced value would stay there."""
    steps = 0

    def directly(x):
        nonlocal steps
        steps = steps + 1
        return x

    def from_an_inner_function(x):
        def count():
            nonlocal steps
            steps += 1

        count()
        return x

    def own(x):
        n = 0

        def count(steps):
            def more():
                nonlocal n, steps
                n, steps = n + 1, 0

            more()

        for _ in range(3):
            count(0)
        return x * n

    for function in (directly, from_an_inner_function):
        with pytest.raises(tk.control.ControlFlowError, match="nonlocal steps"):
            tk.control_flow(function)
    np.testing.assert_allclose(tk.control_flow(own)(X), X * 3)
    assert steps == 0


def test_decorators_above() -> None:
    @jax.jit
    @jax.value_and_grad
    @tk.control_flow
    def f(x):
        s = 0.0
        for e in [1.0, 2.0]:
            for i in range(2):
                if x[i] > 0:
                    s = s + e * x[i] ** 2
        return s

    value, gradient = f(X)
    np.testing.assert_allclose(value, 0.75, rtol=1e-12)
    np.testing.assert_allclose(gradient, [3.0, 0.0, 0.0], rtol=1e-12)

    @functools.partial(jax.jit, static_argnames="n")
    @tk.control_flow
    def g(x, n):
        for _ in range(n):
            x = x + n
        return x

    np.testing.assert_allclose(g(X, n=3), X + 9, rtol=1e-12)


@pytest.mark.parametrize("name", case.cases)
def test_as_in_python(name: str) -> None:
    check(case.cases[name])
