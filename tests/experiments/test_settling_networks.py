"""The experiments on networks that settle: a small one of each, from its first epoch to its pictures."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import pytest
from matplotlib.figure import Figure

from tests.experiments.fed import fed
from toolkit.run.experiment import experiments, load

ROOT = Path(__file__).parents[2]


def _epochs(name: str, count: int, *words: str) -> Any:
    """(module, settings, program, the state after some epochs, their metrics)."""
    loaded = load.load(Path(f"configs/{name}.yaml"), list(words))
    module = experiments.load(loaded.experiment)
    settings = load.validate(module.Config, loaded.resolved, {})
    program = fed(module.build(settings))
    step, state, rows = jax.jit(program.step), program.init(jax.random.key(0)), []
    for k in range(count):
        state, metrics = step(state)
        rows.append({"step": k + 1, **{key: float(value) for key, value in metrics.items()}})
    return module, settings, program, state, rows


def test_an_analog_network_learns_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """With its pictures."""
    monkeypatch.chdir(ROOT)
    small = ("train_size=400", "hidden=8", "chips=2", "levels=[16]", "mismatches=[0.0,1.0]")
    with jax.enable_x64(False):  # as the runner has it
        module, settings, program, state, rows = _epochs("analog_network", 12, *small)
        final = program.finish(state)
    metrics = final.metrics
    assert final.params["in_place"].shape == (1, 2, 2)
    assert rows[-1]["loss_in_place_16"] < 0.3 * rows[0]["loss_in_place_16"]
    assert metrics["worst_cosine_in_place"] > 0.999  # float32
    assert metrics["cosine_backprop"] < 0.7
    assert metrics["accuracy_in_place"] > 0.85
    assert metrics["accuracy_in_place"] > metrics["accuracy_deployed"] + 0.05
    assert metrics["accuracy_deployed_first_mismatch"] > 0.85  # without mismatch it works
    _, figures = experiments.figures(Path(module.__file__), module)
    for figure in figures(settings, final.params, metrics, rows):
        canvas = Figure(layout="constrained")
        figure.draw(canvas)
        canvas.savefig(io.BytesIO(), format="png")


def test_a_hopfield_network_learns_from_two_nudges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with jax.enable_x64(False):
        small = ("train_size=400", "betas=[0.02,0.2]")
        module, _, program, state, rows = _epochs("equilibrium_propagation", 8, *small)
        monkeypatch.setattr(module, "SCHEMES", ("centered",))  # each takes seconds to compile
        final = program.finish(state)
    assert rows[-1]["loss"] < 0.5 * rows[0]["loss"]
    assert all(row["issues"] == 0 for row in rows)
    assert min(final.metrics[f"worst_cosine_layer{k}"] for k in (1, 2)) > 0.999
    small_nudge, large_nudge = final.params["errors"][0]
    assert (
        small_nudge < 1e-2 and large_nudge > 20 * small_nudge
    )  # O(beta^2), down to float32's rounding


@pytest.mark.slow
@pytest.mark.parametrize("name", ["analog_network", "equilibrium_propagation"])
def test_the_claims_of_the_config_hold(name: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "toolkit", "run", f"configs/{name}.yaml", "seed=1"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "run")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run/final/metrics.json").read_text())
    assert "not drawn" not in (tmp_path / "run/report.html").read_text()
