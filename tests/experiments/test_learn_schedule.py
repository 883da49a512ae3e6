"""The learned schedule: small in CI, at its full size under `-m slow`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONFIG = "configs/learn_schedule.yaml"


def _run(out: Path, *words: str) -> dict[str, float]:
    command = [sys.executable, "-m", "toolkit", "run", CONFIG, *words, "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads((out / "final" / "metrics.json").read_text())


@pytest.mark.slow
def test_a_short_run_beats_the_grid_and_draws_the_schedule(tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ("steps=40", "num_steps=20", "hidden=16", "step_size=0.3")
    metrics = _run(out, *words, "claims.loss_ratio.at_most=1.0")
    assert metrics["loss_ratio"] < 1
    rows = [json.loads(line) for line in (out / "metrics.jsonl").open()]
    assert all(row["issues"] == 0 for row in rows)
    assert "The learned schedule" in (out / "report.html").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_learned_schedule_beats_every_constant_rate(tmp_path: Path, seed: int) -> None:
    metrics = _run(tmp_path / "run", f"seed={seed}")
    assert metrics["loss_ratio"] <= 0.8
    assert metrics["accuracy_learned"] > metrics["accuracy_constant"]
