"""Each line of a program gets the shape of what it assigns, and no other line gets any."""

from __future__ import annotations

import dataclasses
import functools
import html
import linecache
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import toolkit as tk
from tests.debug.nonfinite import odd_programs
from tests.debug.shapes import annotated
from tests.debug.shapes.annotated import KEY, PROGRAMS, ROW, W, X, spec
from toolkit.debug import annotate
from toolkit.debug.shapes.enclosing import Enclosing

EXPECTED = re.compile(r"# => (?:HELPER |METHOD )?(.*)$")
HERE = str(Path(__file__))


def as_written(block):
    """Whether each line says what its source says that it must, and at least one says something."""
    got = {line.line: line.comment for line in block.lines}
    wanted = [(line.line, EXPECTED.search(line.text)) for line in block.lines]
    assert got == {number: match[1] if match else "" for number, match in wanted}
    return any(got.values())


def comments(found):
    """The comments by the stripped line that they stand behind."""
    return {line.text.split("#")[0].strip(): line.comment for line in found.lines if line.comment}


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_each_line_gets_the_shape_of_what_it_assigns(program):
    assert as_written(annotate(program.fn, *program.specs).blocks[0])


X_ONES = jnp.ones((32, 8), jnp.float32)
MODEL = annotated.Model(2.0)


@pytest.mark.parametrize(
    ("fn", "specs"),
    [
        (MODEL, (X,)),
        (jax.jit(MODEL.__call__), (X,)),
        (jax.jit(functools.partial(jax.remat(functools.partial(annotated.plain, x=X_ONES)))), (W,)),
        (tk.debug.watch(jax.jit(annotated.plain)), (W, X)),
    ],
)
def test_wrappers(fn, specs):
    assert all(map(as_written, annotate(fn, *specs).blocks))


def test_methods_of_library_classes_show_the_users_lines():
    layer = annotated.Layer()
    params = jax.eval_shape(layer.init, jax.random.key(0), jnp.zeros((32, 8), jnp.float32))
    assert as_written(annotate(layer.apply, params, X).blocks[0])
    assert as_written(annotate(annotated.Net(nnx.Rngs(0)), X).blocks[0])


def test_callees_follow_and_other_files_are_listed():
    found = annotate(annotated.calls_others, X)
    assert [block.name for block in found.blocks] == ["calls_others", "helper"]
    assert all(map(as_written, found.blocks))
    (other,) = found.elsewhere
    assert [line.comment for line in other.lines] == ["x: float32[8]", "float32[]", "float32[]"]
    assert str(found).endswith(
        "# calls in other files, in .elsewhere: total (tests/debug/shapes/annotated_elsewhere.py:4)"
    )


def test_a_custom_rule_stands_for_its_function_under_grad():
    found = annotate(jax.grad(annotated.with_a_custom_rule_under_grad), ROW)
    assert [block.name for block in found.blocks][1:] == ["rounded_forward", "<lambda>"]
    assert comments(found)["return jnp.round(x), x.shape"] == "(float32[8], (int,))"


def test_lines_are_structured():
    found = annotate(annotated.unpacked, {"w": W, "b": spec(16)}, (X, spec(32)))
    line = found.lines[2]
    first = annotated.unpacked.__code__.co_firstlineno
    assert (line.file, line.line) == (annotated.__file__, first + 2)
    assert [(one.name, one.shape, one.dtype) for one in line.shapes] == [
        ("w", (8, 16), "float32"),
        ("b", (16,), "float32"),
    ]
    assert found.lines[1].shapes[1].name == "params['w']"
    assert found.lines[0].shapes == () == found.lines[0].inside
    nested = annotate(annotated.nested_loops, X)
    inside = next(line for line in nested.lines if "term =" in line.text).inside
    assert inside == ((Enclosing("scan", 32), Enclosing("fori_loop", 8)),)
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.blocks = ()


def test_the_text_is_aligned_and_still_the_source():
    text = str(annotate(annotated.unpacked, {"w": W, "b": spec(16)}, (X, spec(32))))
    assert text.startswith(
        f"# tests/debug/shapes/annotated.py:{annotated.unpacked.__code__.co_firstlineno}\n"
    )
    compile(text, "annotated", "exec")

    def short(x):
        a = x.T
        return a @ x

    lines = str(annotate(short, X)).splitlines()[1:]
    assert lines == [
        "def short(x):     # x: float32[32,8]",
        "    a = x.T       # float32[8,32]",
        "    return a @ x  # float32[8,8]",
    ]


def test_notebooks_show_escaped_text_in_the_colours_of_the_page():
    def tagged(x):
        y = x < 3  # <script>alert(1)</script> & more
        return y

    page = annotate(tagged, ROW)._repr_html_()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert not re.search(r"color:(?! inherit)|#[0-9a-f]{3,6};", page)
    assert html.unescape(re.sub(r"<[^>]+>", "", page)) == str(annotate(tagged, ROW))


def test_a_failure_shows_what_was_known_until_then():
    def wrong(w, x):
        h = x @ w
        y = h @ w
        return y

    with pytest.raises(TypeError, match="dot_general") as caught:
        annotate(jax.jit(wrong), W, X)
    note = "".join(caught.value.__notes__)
    assert re.search(r"h = x @ w +# float32\[32,16\]\n    y = h @ w\n", note)
    assert sys.gettrace() is None or "coverage" in sys.modules


@pytest.mark.parametrize(
    ("fn", "words"),
    [
        (lambda x: jax.vmap(lambda x: x, in_axes=3)(x), "vmap"),
        (lambda x: jax.lax.scan(lambda c, x: (c, x), 0, x, length=3), "scan"),
        (lambda x: jax.lax.fori_loop(0.5, 3, lambda i, x: x, x), "fori_loop"),
    ],
)
def test_errors_are_those_of_jax(fn, words):
    with pytest.raises((TypeError, ValueError), match=words):
        annotate(fn, ROW)


def test_a_cell_of_a_notebook():
    text = "def f(x):\n    y = x[:3]\n    return y\n"
    name = "<ipython-input-7-0123456789ab>"
    linecache.cache[name] = (len(text), None, text.splitlines(True), name)
    space = {}
    exec(compile(text, name, "exec"), space)
    found = annotate(jax.jit(space["f"]), ROW)
    assert [line.comment for line in found.lines] == ["x: float32[8]", "float32[3]", "float32[3]"]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: 3, "must be callable: got int"),
        (lambda: len, "len is not written in Python"),
        (lambda: dict, "dict is a class"),
        (lambda: eval("lambda x: x"), r"<lambda> was defined by exec\(\) or in a bare REPL"),
        (lambda: jax.jit(_executed()), r"g was defined by exec\(\) or in a bare REPL"),
    ],
)
def test_without_source_one_clear_error(make, words):
    with pytest.raises(TypeError, match=words) as caught:
        annotate(make(), ROW)
    assert "\n" not in str(caught.value)


def _executed():
    space = {}
    exec("def g(x):\n    return x", space)
    return space["g"]


def test_a_file_that_was_edited_is_refused(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "edited_module.py"
    file.write_text("def f(x):\n    return x\n")
    import edited_module

    assert annotate(edited_module.f, ROW).lines[1].comment == "float32[8]"
    file.write_text("\n\n\ndef f(x):\n    return x\n# another size\n")
    with pytest.raises(
        TypeError, match=r"f has changed in .*edited_module.py since it was imported"
    ):
        annotate(edited_module.f, ROW)


def test_nothing_runs_and_no_cache_is_touched():
    traces, calls = [], []

    @jax.jit
    def f(x):
        traces.append(x)
        y = x * 2
        jax.debug.callback(calls.append, y)
        return y

    f(jnp.ones(3))
    jax.effects_barrier()
    for _ in range(2):
        assert comments(annotate(f, jnp.ones(3)))["y = x * 2"] == "float64[3]"
    jax.effects_barrier()
    assert len(calls) == 1
    watched = tk.debug.watch(f)
    annotate(watched, jnp.ones(3))
    traced = len(traces)
    watched(jnp.ones(3))  # f is still compiled for this shape
    assert (len(traces), watched.reasons) == (traced, ())


def test_the_trace_function_of_a_debugger_is_put_back():
    mine = lambda *_: None
    before = sys.gettrace()
    sys.settrace(mine)
    try:
        annotate(annotated.plain, W, X)
        assert sys.gettrace() is mine
    finally:
        sys.settrace(before)


HEALTHY = [
    (odd_programs.fails_midway, {"y = x[:2]": "float32[2]", "return y": "float32[2]"}),
    (
        odd_programs.retries,
        {"y = x[: 2 + k] @ x[:4]": "float32[]", "z = x[k]": "float32[]", "return y": "float32[]"},
    ),
    (
        odd_programs.recursive,
        {
            "def recursive(x):": "x: float32[8] | x: float32[4] | x: float32[2] | 1 more",
            "return x[0]": "float32[]",
            "half = x[: x.shape[0] // 2]": "float32[4] | float32[2] | float32[1]",
            "return recursive(half)": "float32[]",
        },
    ),
    (odd_programs.without_arrays, {}),
    (
        odd_programs.keeps_state,
        {
            "keeps_state.last = x[:2]": "float32[2]",
            "_LEFT = x[:3]": "float32[3]",
            "return x": "float32[8]",
        },
    ),
    (
        odd_programs.deletes,
        {"z = w = x[:3]": "z: float32[3], w: float32[3]", "return w": "float32[3]"},
    ),
    (
        odd_programs.closes_over,
        {"y = x[:2]": "float32[2]", "y = x[:3]": "float32[3]", "return y": "float32[3]"},
    ),
    (odd_programs.matches, {"y = x[: n - 1]": "float32[7]", "return y": "float32[7]"}),
    (
        odd_programs.sharded,
        {
            "def part(x):": "x: float32[8], inside shard_map",
            "y = x * 2": "float32[8], inside shard_map",
            "return y": "float32[8], inside shard_map",
            'return jax.shard_map(part, mesh=mesh, in_specs=P("d"), out_specs=P("d"))(x)': "float32[8]",
        },
    ),
    (
        odd_programs.trained,
        {
            "state = optimizer.init(x)": "tuple of 3 arrays, 17 numbers",
            "g = jax.grad(lambda x: jnp.sum(x**2))(x)": "float32[8]",
            "updates, state = optimizer.update(g, state)": "updates: float32[8], state: tuple of 3 arrays, 17 numbers",
            "x = optax.apply_updates(x, updates)": "float32[8]",
            "return x": "float32[8]",
        },
    ),
    (
        odd_programs.summed_by_scan,
        {"return jax.lax.associative_scan(lambda a, b: a + b, x)": "float32[8]"},
    ),
    (odd_programs.empty, {}),
    (odd_programs.in_with, {"y = x.sum()": "float32[]", "return y": "float32[]"}),
    (
        odd_programs.carried_scan,
        {
            "def body(c, _):": "c: float32[8], x2 inside scan; also x3 inside scan",
            "c = c * 2": "float32[8], x2 inside scan; also x3 inside scan",
            "return c, None": "(float32[8], None), x2 inside scan; also x3 inside scan",
            "x = jax.lax.scan(body, x, length=n)[0]": "float32[8]",
            "return x": "float32[8]",
        },
    ),
]


@pytest.mark.parametrize(
    ("fn", "wanted"), HEALTHY, ids=lambda value: getattr(value, "__name__", "")
)
def test_odd_programs(fn, wanted):
    got = comments(annotate(fn, ROW))
    first = f"def {fn.__name__}(x):"
    assert got == {first: "x: float32[8]", **wanted}


def test_a_lambda_and_static_arguments():
    assert annotate(lambda x, n: x[:n], ROW, 3).lines[0].comment == "lambda: float32[3]"
    assert (
        annotate(jax.jit(lambda x, n: x[:n], static_argnums=1), ROW, 3).lines[0].comment
        == "lambda: float32[3]"
    )
    assert (
        annotate(lambda k: jax.random.normal(k, (2,)), KEY).lines[0].comment == "lambda: float64[2]"
    )
    assert annotate(lambda x: x, np.ones(3, np.int8)).lines[0].comment == "lambda: int8[3]"


def test_inside_another_trace():
    seen = []

    @jax.jit
    def f(x):
        seen.append(comments(annotate(annotated.helper, x)))
        return x

    f(jnp.ones((4, 3)))
    assert seen[0]["return x * 2"] == "float64[4,3]"
