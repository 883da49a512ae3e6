"""Where a program stands stays visible: in tracebacks, in jaxprs, under pdb; and code without source is refused."""

# The cases are written as users write.
# ruff: noqa: B007

from __future__ import annotations

import functools
import inspect
import io
import linecache
import pdb
import sys
import textwrap
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import source_info_util

import toolkit as tk
from tests.plain_python.cases import X

HERE = Path(__file__).name


def line_of(function: Callable[..., Any], text: str) -> int:
    """The line of the file on which `function` says `text`."""
    lines, start = inspect.getsourcelines(function)
    (offset,) = (n for n, line in enumerate(lines) if text in line)
    return start + offset


def equations(jaxpr: Any) -> Iterator[Any]:
    """Every equation, also those inside."""
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            for inner in value if isinstance(value, (tuple, list)) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from equations(inner)


def ops(x):
    s = x
    for i in range(3):
        s = jnp.tanh(s)  # in the loop
        if s[0] > 0:
            s = jnp.sin(s)  # under a condition
        while s[1] > 0:
            s = jnp.cosh(s)  # in a while
    ys = jnp.arctan(s) if x[0] > 0 else x  # in an expression
    return ys


@pytest.mark.parametrize(
    ("primitive", "text"),
    [
        ("tanh", "# in the loop"),
        ("sin", "# under a condition"),
        ("cosh", "# in a while"),
        ("atan", "# in an expression"),
    ],
)
def test_an_operation_knows_its_line(primitive: str, text: str) -> None:
    jaxpr = jax.make_jaxpr(tk.control_flow(ops))(X)
    found = [e for e in equations(jaxpr.jaxpr) if e.primitive.name == primitive]
    assert found
    for equation in found:
        # "file:line:column (function)"
        place, name = source_info_util.summarize(equation.source_info).split(" ")
        assert place.split(":")[:2] == [__file__, str(line_of(ops, text))]
        assert name.strip("()").split(".")[-1] == "ops"


def broken(x):
    s = x
    for i in range(3):
        s = s + i
        if s[0] > 0:
            s = s + jnp.ones(7)  # wrong shape
    return s


def test_a_traceback_ends_at_the_users_line() -> None:
    with pytest.raises(TypeError) as caught:
        jax.jit(tk.control_flow(broken))(X)
    frames = [f for f in traceback.extract_tb(caught.value.__traceback__) if HERE in f.filename]
    assert frames[-1].lineno == line_of(broken, "wrong shape")
    assert frames[-1].name == "broken"
    assert frames[-1].line == "s = s + jnp.ones(7)  # wrong shape"
    ours = [
        f
        for f in traceback.extract_tb(caught.value.__traceback__)
        if "toolkit/control" in f.filename or "toolkit/plain_python" in f.filename
    ]
    assert not ours


def test_a_traceback_in_an_inner_function_names_it() -> None:
    @tk.control_flow
    def outer(x):
        def inner(y):
            for _ in range(2):
                y = y @ jnp.ones((5, 5))  # deep
            return y

        for _ in range(2):
            x = inner(x)
        return x

    with pytest.raises(TypeError) as caught:
        jax.make_jaxpr(outer)(X)
    frames = [f for f in traceback.extract_tb(caught.value.__traceback__) if HERE in f.filename]
    assert [f.name for f in frames[-2:]] == ["outer", "inner"] or frames[-1].name == "inner"
    assert "# deep" in (frames[-1].line or "")


def test_errors_of_the_user_pass_through() -> None:
    @tk.control_flow
    def f(x):
        for _ in range(2):
            x = x + {}["missing"]
        return x

    with pytest.raises(KeyError, match="missing"):
        f(X)


def test_as_python_runs_every_iteration() -> None:
    seen: list[Any] = []

    @tk.control_flow
    def f(x):
        for i in range(3):
            seen.append(i)
            if x[0] > 0:
                x = x - 0.4
        while x[0] < 1:
            x = x + 1
            seen.append("while")
        return x

    for context in (tk.control.as_python, jax.disable_jit):
        seen.clear()
        with context():
            value = f(X)
        assert seen == [0, 1, 2, "while", "while"] and all(type(i) in (int, str) for i in seen)
        np.testing.assert_allclose(value, X - 0.8 + 2, rtol=1e-12)


def test_as_python_ends_with_its_block() -> None:
    count: list[int] = []

    @tk.control_flow
    def f(x):
        for _ in range(3):
            count.append(1) if x.shape else None
            x = x * 2
        return x

    with pytest.raises(RuntimeError), tk.control.as_python(), tk.control.as_python():
        raise RuntimeError
    with tk.control.as_python(), tk.control.as_python():
        pass
    x = jax.jit(tk.control_flow(ops))(X)  # would be a TracerBoolConversionError as Python
    assert x.shape == (3,)


def test_pdb_steps_through_the_users_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    f = tk.control_flow(ops)
    line = line_of(ops, "in the loop")
    commands = io.StringIO(
        f"b {__file__}:{line}\nc\np 'i is', i\nn\np s.shape\nc\np 'i is', i\nq\n"
    )
    out = io.StringIO()
    debugger = pdb.Pdb(stdin=commands, stdout=out, nosigint=True, readrc=False)
    old = sys.gettrace()
    try:
        with tk.control.as_python():
            debugger.runcall(f, X)
    except Exception as error:  # leaving with q
        assert type(error).__name__ == "BdbQuit"
    finally:
        sys.settrace(old)
    said = out.getvalue()
    assert "('i is', 0)" in said and "('i is', 1)" in said and "(3,)" in said
    assert f"{HERE}({line})ops()" in said


def test_a_notebook_cell_is_converted() -> None:
    source = "def cell(x):\n    for i in range(3):\n        x = x * 2 + y\n    return x\n"
    file = "/tmp/ipykernel_7/123.py"
    linecache.cache[file] = (len(source), None, source.splitlines(True), file)
    scope: dict[str, Any] = {"y": 1.0, "__name__": "__main__"}
    exec(compile(source, file, "exec"), scope)
    f = tk.control_flow(scope["cell"])
    np.testing.assert_allclose(jax.jit(f)(X), X * 8 + 7, rtol=1e-12)
    scope["y"] = 0.0
    np.testing.assert_allclose(f(X), X * 8, rtol=1e-12)


def module(path: Path, source: str) -> dict[str, Any]:
    """The names of a file that was just written and run."""
    path.write_text(textwrap.dedent(source))
    scope: dict[str, Any] = {"__name__": "edited", "__file__": str(path), "jax": jax, "tk": tk}
    exec(compile(path.read_text(), str(path), "exec"), scope)
    return scope


def test_tabs_crlf_and_a_last_line_without_an_end(tmp_path: Path) -> None:
    path = tmp_path / "odd.py"
    path.write_bytes(b"def f(x):\r\n\tfor i in range(2):\r\n\t\tx = x + i\r\n\treturn x")
    scope: dict[str, Any] = {}
    exec(compile(path.read_bytes(), str(path), "exec"), scope)
    np.testing.assert_allclose(tk.control_flow(scope["f"])(X), X + 1, rtol=1e-12)


ODD = '''
if True:
    def f(x):
        # Below stand lines that begin in the first column.
        message = """
first column
  second
"""
# a comment in the first column
        for i in range(len(message.split())): x = x + i; x = x * 2
        y = x + \\
  1
        if x[0] > 0: y = y * 2
        else: y = -y
        return x, y, (
len(message))
'''


def test_lines_in_the_first_column(tmp_path: Path) -> None:
    f = module(tmp_path / "odd.py", ODD)["f"]
    x, y, n = jax.jit(tk.control_flow(f))(X)
    plain = f(X)
    np.testing.assert_allclose(x, plain[0], rtol=1e-12)
    np.testing.assert_allclose(y, plain[1], rtol=1e-12)
    assert n == len("\nfirst column\n  second\n")


@pytest.mark.skipif(sys.version_info < (3, 12), reason="type parameters came with Python 3.12")
def test_type_parameters(tmp_path: Path) -> None:
    source = """
    def f[T](x: T) -> T:
        for i in range(2):
            x = x + i
        return x
    """
    np.testing.assert_allclose(tk.control_flow(module(tmp_path / "t.py", source)["f"])(X), X + 1)


def test_future_annotations_are_not_evaluated(tmp_path: Path) -> None:
    source = """
    from __future__ import annotations

    def f(x: Missing) -> AlsoMissing:
        for i in range(2):
            y: Nowhere = x + i
            x = y
        return x
    """
    f = tk.control_flow(module(tmp_path / "a.py", source)["f"])
    np.testing.assert_allclose(f(X), X + 1)
    assert f.__annotations__ == {"x": "Missing", "return": "AlsoMissing"}


def test_source_edited_since_the_import_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "edited.py"
    scope = module(path, "def f(x):\n    for i in range(2):\n        x = x + i\n    return x\n")
    path.write_text("def f(x):\n    for i in range(2):\n        x = x * i\n    return x\n")
    linecache.checkcache()
    with pytest.raises(tk.control.ControlFlowError, match=r"(?i)edited|changed|stale|source"):
        tk.control_flow(scope["f"])


@pytest.mark.parametrize("imported", ["ignore", "error"])
def test_a_constant_of_which_python_warns_is_no_edit(tmp_path: Path, imported: str) -> None:
    source = "def f(x):\n    for i in range(2):\n        x = x + ~True\n    return x\n"
    with warnings.catch_warnings():
        # As an error the warning keeps Python from computing the constant, and the code is another.
        warnings.simplefilter(imported, DeprecationWarning)
        scope = module(tmp_path / "warned.py", source)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # what was told at the import is not told again
        f = tk.control_flow(scope["f"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        np.testing.assert_allclose(f(X), X - 4)


def test_lines_moved_since_the_import_are_refused_or_right(tmp_path: Path) -> None:
    path = tmp_path / "moved.py"
    f = "def f(x):\n    for i in range(2):\n        x = x + i\n    return x\n"
    scope = module(path, f)
    path.write_text("def g(x):\n    return x * 100\n\n" + f)
    linecache.checkcache()
    try:
        got = tk.control_flow(scope["f"])(X)
    except tk.control.ControlFlowError:
        return
    np.testing.assert_allclose(got, X + 1)


def test_coverage_of_lines_is_true() -> None:
    """Each line that runs is seen at its number by a trace function, and no other line of the file."""
    f, seen = tk.control_flow(ops), set()

    def watch(frame: Any, event: str, arg: Any) -> Any:
        if Path(frame.f_code.co_filename).name == HERE and event == "line":
            seen.add(frame.f_lineno)
        return watch

    old = sys.gettrace()
    sys.settrace(watch)
    try:
        jax.make_jaxpr(f)(X)
    finally:
        sys.settrace(old)
    lines, start = inspect.getsourcelines(ops)
    body = {start + n for n in range(1, len(lines)) if lines[n].strip()}
    assert body <= seen
    assert {n for n in seen if start <= n < start + len(lines)} <= body | {start}


@pytest.mark.parametrize(
    "thing",
    [jax.jit(ops), functools.partial(ops, X), jnp.sin, len, int, jax.vmap(ops)],
    ids=["jit", "partial", "ufunc", "builtin", "type", "vmap"],
)
def test_only_plain_functions(thing: Any) -> None:
    with pytest.raises(tk.control.ControlFlowError, match="control_flow"):
        tk.control_flow(thing)
