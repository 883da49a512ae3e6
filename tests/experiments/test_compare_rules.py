"""The table of rules: complete, and drawn with the refused ones in it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import jax
import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from tests.experiments.fed import fed
from toolkit.run.experiment import experiments, load
from toolkit.vocabulary import kinds

ROOT = Path(__file__).parents[2]
CONFIG = "configs/compare_rules.yaml"
SMALL = ("train_size=50", "validation_size=50", "solver.num_steps=300", "log_penalty=-2.0")
FEW = ("unroll", "forward", "stopped")


@pytest.fixture(name="loaded")
def _loaded(monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    """The experiment and its config, with few rules, one of which is refused."""
    monkeypatch.chdir(ROOT)
    loaded = load.load(Path(CONFIG), [*SMALL, "adjoints.forward.max_tangents=9"])
    module = experiments.load(loaded.experiment)
    settings = load.validate(module.Config, loaded.resolved, {})
    few = {name: settings.adjoints[name] for name in FEW}
    return module, settings.model_copy(update={"adjoints": few})


def test_every_rule_is_in_the_config(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    rules = load.load(Path(CONFIG)).resolved["adjoints"].values()
    assert {rule["kind"] for rule in rules} == set(
        kinds.of_room("toolkit.adjoint", "differentiable")
    )
    schemes = {rule["scheme"] for rule in rules if rule["kind"] == "nudged"}
    assert schemes == {"one_sided", "centered", "holomorphic"}


def test_a_refused_rule_keeps_its_line_and_its_reason(loaded: tuple[Any, Any]) -> None:
    module, settings = loaded
    with jax.enable_x64(False):
        final = fed(module.build(settings)).finish(None)
    assert final.metrics["relative_error/unroll"] == 0
    assert final.metrics["relative_error/stopped"] == 1
    assert "relative_error/forward" not in final.metrics
    assert "max_tangents=9" in dict(final.table)["forward"]

    path, figures = experiments.figures(Path(module.__file__), module)
    measured_rows = sys.modules[f"experiments.{path.stem}"].measured_rows
    rows = {row.rule: row for row in measured_rows(settings, final.params)}
    assert list(rows) == list(FEW)
    assert rows["forward"].gradient is None
    assert "max_tangents=9" in rows["forward"].reason
    assert rows["unroll"].hvp_evals == 300
    assert np.isnan(rows["stopped"].cosine)

    drawn = Figure(layout="constrained")
    with matplotlib.rc_context():
        table, *others = figures(settings, final.params, final.metrics, [])
        table.draw(drawn)
    assert any("max_tangents=9" in text.get_text() for text in drawn.axes[0].texts)
    for figure in others:
        figure.draw(Figure(layout="constrained"))
