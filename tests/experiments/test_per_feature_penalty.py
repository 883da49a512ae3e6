"""The learned penalties: their gradients and a short descent in CI, the whole runs under `-m slow`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import toolkit as tk
from tests.experiments.fed import fed
from tests.traces import counted
from toolkit.run.experiment import experiments, load

ROOT = Path(__file__).parents[2]
CONFIG = "configs/per_feature_penalty.yaml"
SMALL = ("dataset=breast_cancer", "products=false")


def _loaded(*words: str) -> tuple[Any, Any]:
    loaded = load.load(Path(CONFIG), [*SMALL, *words])
    module = experiments.load(loaded.experiment)
    return module, load.validate(module.Config, loaded.resolved, {})


def _run(out: Path, *words: str) -> dict[str, float]:
    command = [sys.executable, "-m", "toolkit", "run", CONFIG, *words, "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads((out / "final" / "metrics.json").read_text())


def test_penalties_descend_the_validation_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with jax.enable_x64(False):
        module, settings = _loaded()
        program = fed(module.build(settings))
        counting, traces = counted(program.step)
        step, state = jax.jit(counting), program.init(jax.random.key(0))
        rows = []
        for _ in range(15):
            state, metrics = step(state)
            rows.append({name: float(value) for name, value in metrics.items()})
    assert len(traces) == 1  # weak types in the first state would compile it again
    assert state.theta.shape == (30, 1)
    # The tolerances are met; the penalty of the bias is small enough to make more of what is left.
    assert int(state.issues) in (0, int(tk.Issue.INNER_NOT_CONVERGED))
    assert rows[-1]["validation_loss"] < 0.7 * rows[0]["validation_loss"]
    stopping = [row["stopping_loss"] for row in rows]
    assert int(state.best_step) == int(np.argmin(stopping))
    np.testing.assert_allclose(float(state.best_loss), min(stopping))


@pytest.mark.slow
def test_the_shared_penalty_gathers_the_gradients_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with jax.enable_x64(False):
        module, settings = _loaded("products=true")
        data = module.load(settings)
        solve = module.training(settings, data.train, settings.adjoint)
        hypergradient = tk.hypergradient(
            lambda u, theta: module.loss(module.weights_of(u, theta), data.validation), solve
        )
        gradients = {
            shape: jax.jit(hypergradient)(
                module.start(settings, data), jnp.full(shape, jnp.log(settings.penalty))
            ).gradient
            for shape in ((1, 1), (495, 1))
        }
    # The inner solve stops at a residual of 3e-4, the linear one at 1e-3.
    np.testing.assert_allclose(jnp.sum(gradients[495, 1]), gradients[1, 1][0, 0], rtol=2e-3)


def test_products_of_pairs_are_all_there() -> None:
    module = experiments.load(ROOT / "experiments" / "per_feature_penalty.py")
    features = module.with_products(jnp.asarray([[2.0, 3.0, 5.0]]))
    np.testing.assert_array_equal(features[0], [2, 3, 5, 4, 6, 10, 9, 15, 25])


@pytest.mark.slow
@pytest.mark.parametrize(
    # One learned penalty for all can only tie with the best of the grid, up to the solver's tolerance.
    ("words", "highest_ratio"),
    [
        pytest.param(SMALL, 0.9, id="features"),
        pytest.param(("penalties=shared",), 1.001, id="shared"),
    ],
)
def test_a_small_run_is_judged_and_drawn(
    tmp_path: Path, words: tuple[str, ...], highest_ratio: float
) -> None:
    out = tmp_path / "run"
    metrics = _run(out, *words)
    assert metrics["validation_loss_ratio"] <= highest_ratio
    page = (out / "report.html").read_text()
    assert "not drawn" not in page
    assert ("How much each feature is trusted" in page) == (words == SMALL)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_penalty_a_feature_beats_every_shared_one(tmp_path: Path, seed: int) -> None:
    metrics = _run(tmp_path / "run", f"seed={seed}")
    assert metrics["penalties"] == 2144
    assert metrics["validation_loss_ratio"] < 0.1
    assert metrics["test_loss_ratio"] < 1


@pytest.mark.slow
def test_one_word_gives_a_penalty_a_weight(tmp_path: Path) -> None:
    metrics = _run(tmp_path / "run", "penalties=weight")
    assert metrics["penalties"] == 21440
    assert metrics["validation_loss_ratio"] < 0.02
