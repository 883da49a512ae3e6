"""What a result looks like where it is printed, and where a notebook shows it."""

from __future__ import annotations

import importlib
import xml.etree.ElementTree as ElementTree
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import toolkit as tk
from toolkit import tables
from toolkit.solve.comparison import Compared

NAN = float("nan")
SEEDS = jnp.arange(3.0)
OUTER = lambda y, theta: jnp.sum(y) + 0 * theta


def _compared(rule: str, error: float, status: tk.Issue, reason: str = "") -> Compared:
    gradient = np.ones(2) if not reason else None
    numbers = (0.5, gradient, error, 1.0, 2e-3, 2048, 12, 3)
    return Compared(rule, *numbers, int(status), reason or str(status))


COMPARISON = tk.Comparison(
    (
        _compared("implicit", 0.0, tk.Issue(0)),
        _compared("$unroll$ <b>", 2e-9, tk.Issue.NOT_FINITE | tk.Issue.NOT_REVERSED),
        _compared("nudged", NAN, tk.Issue(0), "a reason with <i> and & of more than forty letters"),
        _compared("one step", float("inf"), tk.Issue.NOT_FINITE),
    )
)


def _report(theta: Any = 2.0) -> tk.HypergradientReport:
    solve = tk.argmin(lambda y, t: jnp.sum((y - t) ** 2), tk.solver.GradientDescent(0.1, 3))
    return tk.hypergradient(OUTER, solve)(jnp.zeros(2), jnp.asarray(theta)).report


def _record(steps: int = 4) -> tk.bilevel.Record:
    problem = tk.bilevel.Problem(
        lambda y, t, _: 0.5 * jnp.sum((y - t) ** 2), lambda y, t, _: jnp.sum((y - 3) ** 2)
    )
    init, step = tk.bilevel.SOBA(0.1, 0.1)(problem)
    state = init(jax.random.key(0), jnp.zeros(2), jnp.zeros(2))
    return tk.bilevel.iterate(step, state, steps, observe=lambda s: {"<y>": s.y})[1]


RECORD = _record()
GRADIENTS = tk.debug.gradient_report({"<w>": jnp.ones(3), "b": jnp.zeros(2)})
NOT_FINITE = tk.debug.explain(lambda w: jnp.log(w) * (1 < 2), jnp.zeros(3))
SHOWN = {
    "Comparison": COMPARISON,
    "HypergradientReport": _report(),
    "Record": RECORD,
    "GradientReport": GRADIENTS,
    "NonFiniteReport": NOT_FINITE,
    "stacked": jax.vmap(_report)(SEEDS),
}
shown = pytest.mark.parametrize("result", SHOWN.values(), ids=SHOWN)


def _cells(page: str) -> list[list[str]]:
    """The rows of a page, which is well-formed; no text of ours has become a tag."""
    root = ElementTree.fromstring(page)
    assert {element.tag for element in root.iter()} <= {
        *("div", "table", "thead", "tbody"),
        *("tr", "th", "td"),
    }
    return [["".join(cell.itertext()) for cell in row] for row in root.iter("tr")]


@shown
def test_it_prints_as_it_is_shown_in_a_terminal(result: Any) -> None:
    assert repr(result) == str(result) == f"{result}"
    assert len(str(result).splitlines()) >= 3 and "Array(" not in str(result)


@shown
def test_the_page_says_what_the_text_says(result: Any) -> None:
    rows = _cells(result._repr_html_())
    words = " ".join(" ".join(row) for row in rows).replace(" ", "").replace(":", "")
    for line in str(result).splitlines():
        assert line.replace(" ", "").replace(":", "") in words or line.startswith("    "), line


def test_the_record_is_its_first_and_its_last_rows() -> None:
    head, *rows = _cells(RECORD._repr_html_())
    assert head[:3] == ["step", "inner_loss", "outer_loss"] and head[-1] == "observed['<y>']"
    assert [row[0] for row in rows] == ["1", "2", "3", "4"]
    first, second = RECORD.observed["<y>"][1]
    assert rows[1][-1] == f"[{first:.4g}, {second:.4g}]"
    long = _record(30)
    listed = [row[0] for row in _cells(long._repr_html_())[1:]]
    assert listed == ["1", "2", "3", "4", "5", "...", "26", "27", "28", "29", "30"]
    stacked = jax.tree.map(lambda leaf: np.stack([leaf, leaf]), RECORD)
    assert "observed['<y>']  float64[2,4,2] " in str(stacked)


def test_a_report_names_its_issues() -> None:
    lines = str(_report()).splitlines()
    assert lines[1].split() == ["status", "INNER_NOT_CONVERGED"] and "gradient evals   4" in lines
    assert len(lines) == 1 + len(tk.HypergradientReport._fields)
    mixed = _report()._replace(status=np.array([0, 5, 4]))
    assert "INNER_NOT_CONVERGED in 1 of 3, NOT_FINITE in 2 of 3" in str(mixed)
    assert str(_report()._replace(status=jnp.zeros(3, int))).splitlines()[1].split() == [
        "status",
        "none",
    ]


def test_what_is_not_computed_prints_too() -> None:
    texts: list[str] = []

    @jax.jit
    def inside(theta: Any) -> Any:
        report, gradients = _report(theta), tk.debug.gradient_report(theta)
        texts.extend(f"{one} {one._repr_html_()}" for one in (report, gradients))
        return report, gradients

    abstract = jax.eval_shape(inside, 2.0)
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), RECORD)
    assert "int32[]" in texts[0] and "not computed yet: print it outside jit" in texts[1]
    for one in (
        *abstract,
        shapes,
        jax.tree.map(lambda _: 1, RECORD),
        jax.tree.map(lambda _: None, RECORD),
        jax.tree.map(lambda _: None, GRADIENTS),
    ):
        assert str(one) and _cells(one._repr_html_())
    assert "stacked (3,)" in str(jax.vmap(tk.debug.gradient_report)(jnp.ones((3, 2))))


def test_what_was_donated_prints_too() -> None:
    report = jax.tree.map(jnp.copy, _report())
    jax.tree.map(lambda leaf: leaf.delete(), report)
    assert str(report).splitlines()[1].split() == ["status", "int32[]"]


def test_cells() -> None:
    told = {
        tables.cell(value): expected
        for value, expected in (
            (None, "-"),
            (True, "True"),
            (7, "7"),
            (1 / 3, "0.3333"),
            (np.float32(2), "2"),
            (jnp.asarray(1e-30), "1e-30"),
            (np.arange(3), "[0, 1, 2]"),
            (np.linspace(0, 1, 50), "float64[50] 0 to 1"),
            (np.array([[1, NAN]]), "float64[1,2] nan to nan"),
            (np.zeros((0, 9)), "float64[0,9]"),
            (np.ones((2, 3), complex), "complex128[2,3]"),
            (jnp.ones((2, 3), jnp.bfloat16), "bfloat16[2,3] 1 to 1"),
            (jax.random.key(0), "key<fry>[]"),
            (jax.ShapeDtypeStruct((3,), jnp.float32), "float32[3]"),
            ("text", "str"),
            (np.array(["a", "b"]), "<U1[2]"),
        )
    }
    assert [*told] == [*told.values()]


def test_issues_and_statuses_are_their_names() -> None:
    names = "CONVERGED STEP_LIMIT NOT_FINITE STALLED INFEASIBLE UNBOUNDED"
    assert [str(status) for status in tk.Status] == names.split()
    assert f"{tk.Status(1)} {tk.Status(1):d}" == "STEP_LIMIT 1"
    both = tk.Issue.NOT_FINITE | tk.Issue.INNER_NOT_CONVERGED
    assert str(both) == f"{both}" == "INNER_NOT_CONVERGED|NOT_FINITE" and f"{both:d}" == "5"
    assert str(tk.Issue(0)) == "none" and str(tk.Issue(64)) == "64"
    assert tk.Issue(4) == 4 and int(tk.Status(2)) == 2 and hash(both) == hash(5)


def test_a_comparison_is_drawn(tmp_path: Any) -> None:
    figure = COMPARISON.plot()
    figure.savefig(tmp_path / "rules.png")
    error, time, memory = figure.axes
    assert [label.get_text() for label in error.get_yticklabels()][:2] == [
        "implicit",
        r"\$unroll\$ <b>",
    ]
    assert error.get_yticklabels()[2].get_text().startswith("nudged\nfailed: a reason with <i>")
    assert [bar.get_width() for bar in error.patches] == [0, 2e-9, 0, 0]
    assert [bar.get_width() for bar in time.patches] == [2, 2, 0, 2]
    assert [bar.get_width() for bar in memory.patches] == [2, 2, 0, 2]
    assert [note.get_text().strip() for note in error.texts] == ["0", "nan", "inf"]
    import matplotlib.pyplot as plt

    assert not plt.get_fignums()  # a notebook would show it a second time


def _rooms() -> dict[str, ModuleType]:
    rooms = {
        name: importlib.import_module(f"toolkit.{name}")
        for name in tk.__all__
        if isinstance(getattr(tk, name), ModuleType)
    }
    return {"tk": tk, "run.pictures": tk.run.pictures, **rooms}


@pytest.mark.parametrize("name", _rooms())
def test_a_room_lists_what_is_public(name: str) -> None:
    room = _rooms()[name]
    assert dir(room) == sorted(room.__all__)
    for offered in room.__all__:
        assert hasattr(room, offered), offered
    assert len(_rooms()) > 17
