"""Every refusal says where, which variable, and what to write instead."""

# The cases are written as users write.
# ruff: noqa: B007

from __future__ import annotations

import contextlib
import functools
import inspect
import linecache
import re
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import toolkit as tk
from tests.plain_python.cases import X
from tests.plain_python.programs import load

Function = Callable[..., Any]
# Each refused function marks its line with `# HERE`, and is listed with the words its message must hold.
REFUSED: dict[str, tuple[Function, tuple[Any, ...], tuple[str, ...]]] = {}


def says(*words: str, at: tuple[Any, ...] = (X, 3)) -> Callable[[Function], Function]:
    def add(function: Function) -> Function:
        assert function.__name__ not in REFUSED
        REFUSED[function.__name__] = (function, at, words)
        return function

    return add


@says("type", "'x'", "float64[", "before", "after one iteration", at=(jnp.ones(4), 3))
def a_shape_that_grows(x, k):
    for i in range(9):  # HERE
        x = jnp.concatenate([x, x[:4]])
    return x


@says("type", "'x'", "float64[3]", "float64[6]", "zero times", "before the loop")
def a_shape_that_grows_in_a_while(x, k):
    while x[0] < 3:  # HERE
        x = jnp.concatenate([x, x])
    return x


@says("'s'", "zero times", "before the loop")
def a_number_that_becomes_a_vector_in_a_loop_of_traced_length(x, k):
    s = 0
    for i in range(k):  # HERE
        s = s + x
    return s


@says("'y'", "before assignment", "if branch", "before the if")
def assigned_in_one_branch(x, k):
    if k > 1:
        y = x * 2
    return y  # HERE


@says("'y'", "before assignment", "else branch", "before the if")
def assigned_in_the_other_branch(x, k):
    if k > 1:
        pass
    else:
        y = x * 2
    return y + 1  # HERE


@says("'y'", "loop", "before the loop")
def assigned_in_a_loop_of_traced_length(x, k):
    for i in range(k):
        y = x * i
    return y  # HERE


@says("'i'", "loop", "before the loop")
def the_variable_of_a_loop_of_traced_length(x, k):
    for i in range(k):
        x = x * 2
    return x * i  # HERE


@says("'y'", "loop", "before the loop")
def assigned_in_a_while(x, k):
    while x[0] < 3:
        y = x
        x = x * 2
    return y  # HERE


@says("'y'", "shape", "(3,)", "(4,)", "if branch", "else branch")
def branches_with_two_shapes(x, k):
    if k > 1:
        y = x
    else:
        y = jnp.ones(4)
    return y  # HERE


@says("'y'", "structure", "branches")
def branches_with_two_structures(x, k):
    if k > 1:
        y = (x, x)
    else:
        y = {"a": x}
    return y  # HERE


@says("'a'", "'b'", "condition")
def branches_with_two_texts(x, k):
    mode = "a" if k > 1 else "b"  # HERE
    return x if mode == "a" else -x


@says("(3,)", "jnp.any", "jnp.all", "jnp.where")
def a_condition_on_a_vector(x, k):
    if x > 0:  # HERE
        x = x * 2
    return x


@says("(3,)", "jnp.any", "jnp.all")
def a_while_on_a_vector(x, k):
    while x < 3:  # HERE
        x = x * 2
    return x


@says("(3,)", "jnp.any", "jnp.all")
def a_conditional_expression_on_a_vector(x, k):
    return x if x > 0 else -x  # HERE


@says("(3,)", "jnp.any", "jnp.all")
def and_on_vectors(x, k):
    y = x > 0 and k > 1  # HERE
    return y


@says("raise", "trace time")
def raise_under_a_condition(x, k):
    if k > 1:
        raise ValueError("large")  # HERE
    return x


@says("ys.append", "length", "jnp.where")
def append_under_a_condition(x, k):
    ys = []
    for i in range(3):
        if x[i] > 0:  # HERE
            ys.append(x[i])  # HERE
    return ys


@says("ys", "length", "jnp.where")
def append_after_a_break(x, k):
    ys = []
    for i in range(3):
        if x[i] > 0:  # HERE
            break
        ys.append(x[i])  # HERE
    return ys


@says("ys", "length")
def append_in_a_while(x, k):
    ys = []
    while x[0] < 4:  # HERE
        x = x * 2
        ys.append(x)  # HERE
    return ys


@says("'mode'", "Python value", "becomes", "only arrays and numbers can change")
def a_text_that_grows(x, k):
    mode = "a"
    for i in range(9):  # HERE
        mode = mode + "b"
        x = x * 2
    return x, mode


class Holder:
    value: Any = 0.0


@says("holder.value", "local", "unroll")
def an_attribute_in_a_loop(x, k):
    holder = Holder()
    for i in range(3):
        holder.value = x * i  # HERE
    return holder.value


@says("holder.value", "local")
def an_attribute_under_a_condition(x, k):
    holder = Holder()
    if k > 1:
        holder.value = x  # HERE
    return holder.value


@says("reaches its end without `return`")
def a_value_or_nothing_is_returned(x, k):
    if k > 1:  # HERE
        return x  # HERE


@says("return", "branches")
def two_structures_are_returned(x, k):
    for i in range(3):  # HERE
        if x[i] > k:  # HERE
            return x, i
    return x  # HERE


@says("'last'", "structure", "branches")
def nothing_until_a_condition_holds(x, k):
    last = None
    for e in x:
        if e > k:
            last = e
    return last  # HERE


@says("unroll", "jnp.asarray")
def a_list_indexed_by_a_traced_number(x, k):
    scales = [1.0, 2.0, 3.0]
    for i in range(3):
        x = x * scales[i]  # HERE
    return x


@says("match", "traced")
def match_on_a_traced_value(x, k):
    for i in range(2):
        match k:  # HERE
            case 1:
                x = x * 2
            case _:
                x = x * 3
    return x


@says("del")
def del_in_a_staged_loop(x, k):
    d = {"a": x, "b": x}
    for i in range(2):
        y = x * 2
        del y  # HERE
    return d


@says("returned value", "structure", "if branch", "else branch")
def three_returns_of_two_kinds(x, k):
    if k > 5:
        return x
    if k > 1:
        return x, x
    return x * 2  # HERE


@says("`log`", "changed in place", "would change once", "by its name")
def an_operand_that_changes_a_list(x, k):
    log = []
    fine = k > 5 and (log.append(1) or True)  # HERE
    return x if fine else -x


@says("`n` of `bump`", "changed in place", "once")
def a_closure_that_counts(x, k):
    bump = _counter()
    for _ in range(3):  # HERE
        x = x * bump()
    return x


@says("`NUMBERS`", "an iterator in", "Go over a list")
def a_generator_that_moves_on(x, k):
    for _ in range(3):  # HERE
        x = x * _next_number()
    return x


@says("np.random", "changed in place", "jax.random", "key")
def noise_of_numpy(x, k):
    for _ in range(3):  # HERE
        x = x + np.random.rand()
    return x


@says("perf_counter", "once", "jax.debug.callback", "unroll")
def a_clock(x, k):
    times = 0.0
    for _ in range(3):
        times = times + time.perf_counter()  # HERE
    return x, times


@says("ValueError leaves", "caught outside", "whatever the data")
def an_error_that_is_caught_outside(x, k):
    with contextlib.suppress(ValueError):
        if k > 1:  # HERE
            int("no number")
    return x


@says("'found'", "before assignment", "`break` at line")
def a_break_without_a_value(x, k):
    for e in x:
        if e > 2:
            found = e
            break
        if e < -2:
            break
    else:
        found = 0.0
    return found  # HERE


def _counter():
    n = 0

    def bump():
        nonlocal n
        n += 1
        return n

    return bump


NUMBERS = iter([1.0] * 100)


def _next_number():
    return next(NUMBERS)


def _lines(function: Function) -> set[int]:
    """Those that a message may name: the statement itself, or the block that makes it impossible."""
    lines, start = inspect.getsourcelines(function)
    return {start + n for n, line in enumerate(lines) if "# HERE" in line}


@pytest.mark.parametrize("name", REFUSED)
def test_says_where_what_and_what_to_do(name: str) -> None:
    function, arguments, words = REFUSED[name]
    with pytest.raises((tk.control.ControlFlowError, UnboundLocalError)) as caught:
        jax.make_jaxpr(tk.control_flow(function))(*arguments)
    message = str(caught.value)
    place, source, *_ = message.splitlines()
    found = re.fullmatch(rf'File "{re.escape(__file__)}", line (\d+), in {name}', place)
    assert found and int(found[1]) in _lines(function)
    assert source == "    " + linecache.getline(__file__, int(found[1])).strip()
    assert [word for word in words if word not in message] == []
    assert "_tk_" not in message  # names of ours mean nothing to the reader


def test_the_message_names_the_line_of_the_branch() -> None:
    def f(x, k):
        if k > 1:
            y = x
        return y

    with pytest.raises(UnboundLocalError) as caught:
        jax.make_jaxpr(tk.control_flow(f))(X, 2)
    start = inspect.getsourcelines(f)[1]
    assert f"line {start + 1}" in str(caught.value).split("\n", 2)[2]


def test_a_plain_unbound_variable_is_pythons_error() -> None:
    def f(x):
        for i in range(0):
            y = x
        return y

    with pytest.raises(UnboundLocalError, match="'y'"):
        jax.make_jaxpr(tk.control_flow(f))(X)


@pytest.mark.parametrize("body", ["return b", "for i in range(3): x = x + b", "b += 1; return b"])
def test_a_name_before_its_assignment(body: str) -> None:
    source = f"def f(x):\n    if x is None: b = 1\n    {body}\n"
    with pytest.raises(UnboundLocalError, match="'b'"):
        jax.make_jaxpr(tk.control_flow(load(source, f"unbound {body}")))(X)


SYNTAX = {
    "generator": (
        "def f(x):\n    for i in range(3):\n        yield x",
        ("generator", "line 1", "list"),
    ),
    "async": ("async def f(x):\n    return x", ("f", "line 1")),
    "global": (
        "def f(x):\n    global y\n    y = x\n    return x",
        ("global y", "line 2", "return"),
    ),
    "while walrus": (
        "def f(x):\n    while (y := x[0]) < 3:\n        x = x * 2\n    return y",
        (":=", "line 2"),
    ),
    "break in try": (
        "def f(x):\n    for i in range(3):\n        try:\n            break\n        finally:\n"
        "            pass\n    return x",
        ("break", "try", "line 4", "after"),
    ),
    "return in try": (
        "def f(x):\n    try:\n        if x[0] > 0:\n            return x\n    except KeyError:\n"
        "        return x\n    return -x",
        ("return", "try", "line 4"),
    ),
}


@pytest.mark.parametrize("name", SYNTAX)
def test_syntax_that_is_refused_at_the_decorator(name: str) -> None:
    source, words = SYNTAX[name]
    with pytest.raises(tk.control.ControlFlowError) as caught:
        tk.control_flow(load(source, name))
    message = str(caught.value)
    assert message.startswith(f'File "<{name}>", line ')
    assert [word for word in words if word not in message] == []


def test_a_lambda_is_refused() -> None:
    with pytest.raises(tk.control.ControlFlowError, match="lambda"):
        tk.control_flow(lambda x: x)


@pytest.mark.parametrize("cached", [[], ["another = 1\n"]])
def test_code_without_source(cached: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    # Python 3.13 may keep the source of another piece of code under this name.
    monkeypatch.setitem(linecache.cache, "<string>", (1, None, cached, "<string>"))
    scope: dict[str, Any] = {}
    exec("def nowhere(x):\n    return x", scope)
    with pytest.raises(tk.control.ControlFlowError, match=r"source of nowhere.*exec"):
        tk.control_flow(scope["nowhere"])


def _logged(function: Function) -> Function:
    @functools.wraps(function)
    def call(*args: Any) -> Any:
        return function(*args)

    return call


def _renamed(function: Function) -> Function:
    return function


def test_a_decorator_below_is_refused() -> None:
    with pytest.raises(tk.control.ControlFlowError, match=r"closest to def.*below jit"):

        @tk.control_flow
        @jax.jit
        def f(x):
            return x

    with pytest.raises(tk.control.ControlFlowError, match="closest to def"):

        @tk.control_flow
        @_logged
        def g(x):
            return x

    # Nothing on the function tells of this one; the source does.
    with pytest.raises(tk.control.ControlFlowError, match=r"closest to def.*_renamed"):

        @tk.control_flow
        @_renamed
        def h(x):
            return x


def test_a_staticmethod_below_is_refused() -> None:
    with pytest.raises(tk.control.ControlFlowError, match="closest to def"):

        class _:
            @tk.control_flow
            @staticmethod
            def f(x):
                return x


def _until(x):
    while jnp.sum(x) < 9:
        x = x * 2
    return jnp.sum(x)


def _times(x, k=jnp.asarray(3)):
    for _ in range(k):
        x = x * 2
    return jnp.sum(x)


@pytest.mark.parametrize("function", [_until, _times])
def test_reverse_mode_through_a_loop_of_traced_length(function: Function) -> None:
    f = tk.control_flow(function)
    with pytest.raises(Exception, match=r"(?s)(static|max_steps|bound)") as caught:
        jax.make_jaxpr(jax.grad(lambda x, k: f(x) if function is _until else f(x, k)))(X, 3)
    assert "everse" in str(caught.value)


def test_an_undecorated_callee_is_named() -> None:
    def helper(x):
        return x if x[0] > 0 else -x

    def f(x):
        for _ in range(2):
            x = helper(x)
        return x

    with pytest.raises(
        tk.control.ControlFlowError, match=r"in helper\n.*\n.*needs @tk.control_flow"
    ):
        jax.make_jaxpr(tk.control_flow(f))(X)
