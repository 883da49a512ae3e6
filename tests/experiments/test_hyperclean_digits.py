"""The main job: small in CI, at its full size under `-m slow`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.experiments.fed import fed
from toolkit.run.experiment import experiments, load

ROOT = Path(__file__).parents[2]
KINDS = ["implicit", "unroll", "one_step", "stopped"]


def _run(out: Path, *words: str) -> dict[str, float]:
    command = [sys.executable, "-m", "toolkit", "run", *words, "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads((out / "final" / "metrics.json").read_text())


def test_tiny_finds_the_corruption_and_draws_its_page(tmp_path: Path) -> None:
    metrics = _run(tmp_path / "run", "configs/tiny.yaml", "steps=60", "solver.num_steps=20")
    for name in ("plain", "cleaned", "oracle"):
        assert 0 <= metrics[f"accuracy_{name}"] <= 1
    # Chance is precision 0.4; a run this short already tells most of them apart.
    assert metrics["f1"] > 0.7
    assert metrics["accuracy_cleaned"] > metrics["accuracy_plain"]
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    assert rows[-1]["step"] == 60
    assert rows[-1]["outer_loss"] < rows[0]["outer_loss"]
    page = (tmp_path / "run" / "report.html").read_text()
    for title in ("Losses", "Learned weights", "digits that are distrusted most"):
        assert title in page
    assert len(list((tmp_path / "run" / "checkpoints").iterdir())) == 3


def test_one_word_changes_the_derivative_and_not_the_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with jax.enable_x64(False):
        values, gradients = {}, {}
        for kind in KINDS:
            words = [f"adjoint.kind={kind}", "solver.num_steps=5", "hidden=8", "train_size=50"]
            loaded = load.load(Path("configs/tiny.yaml"), words)
            module = experiments.load(loaded.experiment)
            settings = load.validate(module.Config, loaded.resolved, {})
            program = fed(module.build(settings))
            state = jax.jit(program.init)(jax.random.key(0))
            _, metrics = jax.jit(program.step)(state)
            values[kind] = np.asarray(metrics["outer_loss"]).tobytes()
            gradients[kind] = float(metrics["gradient_norm"])
    assert len(set(values.values())) == 1
    assert gradients["stopped"] == 0
    assert len(set(gradients.values())) == len(KINDS)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_bars_of_the_main_job(tmp_path: Path, seed: int) -> None:
    metrics = _run(tmp_path / "run", "configs/hyperclean_digits.yaml", f"seed={seed}")
    assert metrics["f1"] >= 0.90
    assert metrics["gap_closed"] >= 0.70
    assert metrics["seconds"] < 60


@pytest.mark.slow
def test_bars_hold_by_unrolling(tmp_path: Path) -> None:
    words = ("configs/hyperclean_digits.yaml", "adjoint.kind=unroll")
    metrics = _run(tmp_path / "run", *words)
    assert metrics["f1"] >= 0.90
    assert metrics["gap_closed"] >= 0.70
