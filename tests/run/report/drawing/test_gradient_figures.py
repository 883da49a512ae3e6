"""`diagnostics.gradients_every`: gradients leaf by leaf in the rows and on the page, and free where it is off."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure as Canvas

from tests.run.conftest import EXPERIMENT, outcome, rows
from tests.run.drive.test_runs import Killed, killed_at
from tests.run.report.test_page import parsed
from toolkit.run.report import draw
from toolkit.run.report.drawing import gradient_figures
from toolkit.run.store import environment, metrics

METRICS = '"norm": jnp.linalg.norm(w)}'
REPORTING = EXPERIMENT.replace(
    METRICS,
    '"norm": jnp.linalg.norm(w), "w": run.Gradients({"<b>": gradient, "bad": jnp.full(2, jnp.nan)}, '
    '{"<b>": state.w, "bad": jnp.zeros(2)}, {"<b>": w - state.w, "bad": jnp.ones(2)})}',
)
LEAF, BAD = "w['<b>']", "w['bad']"


@pytest.fixture(autouse=True)
def constant_package(monkeypatch):
    # A source file saved while the tests run is no drift of theirs.
    monkeypatch.setattr(environment, "_package_hash", lambda: "constant")


@pytest.fixture
def reporting(work):
    (work / "experiments/toy.py").write_text(REPORTING)
    return work


def test_rows_and_page_tell_the_gradients(toolkit, reporting):
    assert (
        toolkit("run", "toy.yaml", "diagnostics.gradients_every=7", "broken=true", "--out", "x")[0]
        == 0
    )
    found = rows("x")
    due = [row for row in found if "gradients" in row]
    assert [row["step"] for row in due] == [7, 14, 20]
    assert [row["step"] for row in found] == [2, 4, 6, 7, 8, 10, 12, 14, 16, 18, 20]
    for row in due:
        assert set(row) == {"step", "loss", "norm", "gradients"}
        leaf, bad = row["gradients"][LEAF], row["gradients"][BAD]
        assert 0 < leaf["max_abs"] <= leaf["norm"] <= 2 * leaf["max_abs"]
        assert 0.01 < leaf["update_ratio"] < 1
        assert (leaf["zero_fraction"], leaf["nonfinite"]) == (0, 0)
        assert bad == {
            "norm": 0, "max_abs": 0, "zero_fraction": 0, "nonfinite": 2, "update_ratio": None,
        }  # fmt: skip
    text = Path("x/report.html").read_text()
    parsed("x/report.html")
    for words in (
        "Gradient norm",
        "relative to the parameter",
        "that is zero",
        "Gradients at step 20",
    ):
        assert words in text
    assert '<tr><th scope="row">w[&#x27;&lt;b&gt;&#x27;]' in text
    assert '<tr class="bad-text"><th scope="row">w[&#x27;bad&#x27;]' in text
    assert text.count("<svg") == 6  # one figure of two, two curves, three of gradients
    assert text.count("not drawn") == 1
    assert toolkit("report", "x", "x", "--out", "both.html")[0] == 0
    parsed("both.html")


@pytest.fixture
def undrawn(monkeypatch):
    """Leaves out the report, most of a small run's time."""
    monkeypatch.setattr(draw, "write", lambda *_: [])


def test_off_it_changes_no_bit(toolkit, work, undrawn):
    assert toolkit("run", "toy.yaml", "--out", "x")[0] == 0
    (work / "experiments/toy.py").write_text(REPORTING)
    assert toolkit("run", "toy.yaml", "--out", "y")[0] == 0
    assert outcome("x") == outcome("y")
    assert "gradients" not in Path("y/metrics.jsonl").read_text()


def test_off_it_is_not_computed(reporting):
    import jax

    from toolkit.run.experiment import experiments, load
    from toolkit.run.program.compiled import trace
    from toolkit.run.program.data import driven
    from toolkit.run.program.seeds_on_cores import compile_program

    loaded = load.load(Path("toy.yaml"))
    program = experiments.load(loaded.experiment).build(loaded.settings)
    program = driven(program, loaded.experiment)
    off, on = (
        compile_program(trace(program, 0, loaded.experiment, gradients), loaded.experiment)
        for gradients in (False, True)
    )
    assert off.reporting is None
    assert on.reporting is not None
    assert on.advance.func.as_text() == off.advance.func.as_text()
    one = np.int32(1)
    made, expected = on.reporting(on.init(), one, one), off.advance(off.init(), one, one)
    assert [*made.reports] == ["w"]
    assert int(made.reports["w"].nonfinite.sum()) == 2
    same = lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-6)
    first = {name: rows[:1] for name, rows in expected.values.items()}
    jax.tree.map(same, jax.device_get((made.state.w, made.values)), (expected.state.w, first))


def test_a_killed_run_continues_to_the_same_rows(toolkit, reporting, undrawn, monkeypatch):
    words = ("run", "toy.yaml", "diagnostics.gradients_every=3", "--out")
    assert toolkit(*words, "whole")[0] == 0
    with monkeypatch.context() as patch:
        killed_at(patch, metrics, "append", 11)
        with pytest.raises(Killed):
            toolkit(*words, "x")
    assert toolkit("resume", "x")[0] == 0
    assert outcome("x") == outcome("whole")


def test_the_figures_are_of_the_largest_leaves():
    leaf = {"max_abs": 1.0, "zero_fraction": 0.0, "nonfinite": 0, "update_ratio": None}
    found = [
        {"step": step, "gradients": {f"g[{i}]": {**leaf, "norm": i * step} for i in range(12)}}
        for step in (1, 2, 3)
    ]
    norm, zeros = gradient_figures.figures([{"step": 0}, *found])
    assert norm.caption == "The 8 of 12 leaves whose last gradient is largest."
    assert (norm.title, zeros.title) == ("Gradient norm", "Part of the gradient that is zero")
    canvas = Canvas()
    norm.draw(canvas)
    (axes,) = canvas.axes
    assert [line.get_label() for line in axes.lines] == [f"g[{i}]" for i in range(4, 12)]
    np.testing.assert_array_equal(axes.lines[0].get_xydata(), [[1, 4], [2, 8], [3, 12]])
    assert gradient_figures.figures([{"step": 0}]) == ()


@pytest.mark.parametrize(
    ("metric", "words", "line"),
    [
        ("", ["diagnostics.gradients_every=5"],
         "experiments/toy.py: diagnostics.gradients_every: nothing to report, got the metrics loss, norm, "
         "expected a toolkit.run.Gradients among the metrics of `step`, or 0"),
        (', "g": run.Gradients({"a": w}, {"b": w})', [],
         "step: bad gradients, got ValueError: `params` must be like `grads`: at ['a'] got no floating leaf"),
        (', "g": run.Gradients({"a": w}, None, {"a": w[:1]})', [], "`updates` must be like `grads`: at ['a']"),
        (', "g": run.Gradients({"a": 1})', [], "`grads` must have a floating or complex leaf"),
        (', "gradients": loss', [], "names other than step, seconds, nonfinite, drift, gradients"),
        ("", ["diagnostics.gradients_every=-1"], "diagnostics.gradients_every: wrong value, got -1"),
        ("", ["diagnostics.gradients_every=2.5"], "diagnostics.gradients_every: wrong value, got 2.5"),
        ("", ["diagnostics.gradient_every=5"], "(did you mean `gradients_every`?)"),
    ],
)  # fmt: skip
def test_mistakes_are_named(toolkit, work, metric, words, line):
    source = EXPERIMENT.replace(METRICS, f"{METRICS[:-1]}{metric}}}")
    (work / "experiments/toy.py").write_text(source)
    code, _, err = toolkit("check", "toy.yaml", *words)
    assert (code, len(err)) == (2, 1)
    assert line in err[0]
