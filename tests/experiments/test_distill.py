"""The distilled images: rules and a short descent in CI, the whole runs under `-m slow`."""

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

from tests.experiments.fed import fed
from toolkit.data import Labelled
from toolkit.run.experiment import experiments, load

ROOT = Path(__file__).parents[2]
CONFIG = "configs/distill.yaml"
SMALL = ("train_size=200", "hidden=8", "starts=2", "solver.num_steps=10")


def _loaded(*words: str) -> tuple[Any, Any]:
    loaded = load.load(Path(CONFIG), [*SMALL, *words])
    module = experiments.load(loaded.experiment)
    return module, load.validate(module.Config, loaded.resolved, {})


def _run(out: Path, *words: str) -> dict[str, float]:
    command = [sys.executable, "-m", "toolkit", "run", CONFIG, *words, "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads((out / "final" / "metrics.json").read_text())


def test_images_descend_the_loss_on_real_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with jax.enable_x64(False):
        module, settings = _loaded("optimizer.learning_rate=0.1")
        program = fed(module.build(settings))
        step, state = jax.jit(program.step), program.init(jax.random.key(0))
        rows = []
        for _ in range(20):
            state, metrics = step(state)
            rows.append({name: float(value) for name, value in metrics.items()})
    assert all(row["issues"] == 0 for row in rows)
    assert rows[-1]["outer_loss"] < 0.7 * rows[0]["outer_loss"]
    assert rows[-1]["accuracy"] > rows[0]["accuracy"] + 0.2


@pytest.mark.slow
def test_exact_reversal_gives_the_gradient_of_unrolling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    norms = {}
    with jax.enable_x64(False):
        for kind in ("unroll", "reversible"):
            module, settings = _loaded(f"adjoint.kind={kind}")
            program = fed(module.build(settings))
            _, metrics = jax.jit(program.step)(program.init(jax.random.key(0)))
            norms[kind] = float(metrics["gradient_norm"])
            assert int(metrics["issues"]) == 0
    # Both in float32; the iterates of the one lie on a grid.
    np.testing.assert_allclose(norms["reversible"], norms["unroll"], rtol=1e-4)


def test_starts_are_drawn_anew_or_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    losses = {}
    with jax.enable_x64(False):
        for word in ("true", "false"):
            module, settings = _loaded(
                f"new_starts={word}", "adjoint.kind=stopped", "solver.num_steps=1"
            )
            program = fed(module.build(settings))
            state, step = program.init(jax.random.key(0)), jax.jit(program.step)
            first = step(state)[1]["outer_loss"]
            second = step(state._replace(step=state.step + 1))[1]["outer_loss"]
            losses[word] = float(first), float(second)
    assert losses["true"][0] == losses["false"][0] == losses["false"][1]
    assert losses["true"][1] != losses["true"][0]


def test_a_draw_has_one_example_a_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    module, _ = _loaded()
    labels = jnp.asarray(np.random.default_rng(0).permutation(np.repeat(np.arange(10), 7)))
    data = Labelled(jnp.zeros((70, 1)), labels)
    first, second = (module.one_a_class(jax.random.key(seed), data) for seed in (0, 1))
    np.testing.assert_array_equal(labels[first], np.arange(10))
    assert not np.array_equal(first, second)


@pytest.mark.slow
def test_a_short_run_is_judged_and_drawn(tmp_path: Path) -> None:
    out = tmp_path / "run"
    metrics = _run(out, "steps=200", "claims.accuracy_gain.at_least=0.1")
    assert metrics["accuracy_distilled"] > metrics["accuracy_means"]
    assert "not drawn" not in (out / "report.html").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_distilled_images_beat_real_ones(tmp_path: Path, seed: int) -> None:
    metrics = _run(tmp_path / "run", f"seed={seed}")
    assert metrics["accuracy_distilled"] > 0.9
    assert metrics["accuracy_distilled_worst"] > metrics["accuracy_random_best"]
    assert metrics["accuracy_distilled"] > metrics["accuracy_means"] + 0.03
