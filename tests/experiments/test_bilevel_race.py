"""The race: runs of it only under `-m slow`; tests/bilevel holds its methods to their formulas."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs" / "bilevel_race.yaml"


def _run(config: Path, out: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "toolkit", "run", str(config), *words, "--out", str(out)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def _few(folder: Path, *methods: str) -> Path:
    """The config with these methods only, and little to clean."""
    config = yaml.safe_load(CONFIG.read_text())
    config["cleaning"] = {"train_size": 50, "validation_size": 40}
    config |= {"steps": 6, "checkpoint_every": 3}
    config["on_quadratic"] = {name: config["on_quadratic"][name] for name in methods}
    config["on_cleaning"] = {"SOBA": config["on_cleaning"]["SOBA"]}
    path = folder / "few.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.mark.slow
def test_methods_spend_the_same_calls_and_variance_reduction_wins(tmp_path: Path) -> None:
    done = _run(_few(tmp_path, "SOBA", "SABA"), tmp_path / "run")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert rows[-1]["quadratic_SABA"] < 0.1 * rows[-1]["quadratic_SOBA"]
    assert rows[-1]["quadratic_SABA"] < 0.01 * rows[0]["quadratic_SABA"]
    page = (tmp_path / "run" / "report.html").read_text()
    assert "quadratic: against calls" in page and "cleaning: against time" in page


@pytest.mark.slow
def test_a_method_that_diverges_ends_the_run_with_its_name_and_step(tmp_path: Path) -> None:
    config = _few(tmp_path, "SOBA")
    done = _run(config, tmp_path / "run", "on_quadratic.SOBA.inner_step_size=1000")
    assert done.returncode == 6
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "step 1: quadratic_SOBA and" in done.stderr


def test_a_method_s_name_is_one_word(tmp_path: Path) -> None:
    config = yaml.safe_load(CONFIG.read_text())
    config["on_cleaning"] = {"my method": config["on_cleaning"]["SOBA"]}
    path = tmp_path / "named.yaml"
    path.write_text(yaml.safe_dump(config))
    done = _run(path, tmp_path / "run")
    assert done.returncode == 2
    assert "on_cleaning" in done.stderr and "my method" in done.stderr


def test_an_unknown_method_is_told_which_there_are(tmp_path: Path) -> None:
    done = _run(CONFIG, tmp_path / "run", "on_quadratic.SOBA.kind=sobaa")
    assert done.returncode == 2
    assert 'unknown kind, got "sobaa", expected one of ' in done.stderr
    assert "(did you mean `soba`?)" in done.stderr


@pytest.mark.slow
def test_the_whole_race_ends_as_the_experiment_says(tmp_path: Path) -> None:
    done = _run(CONFIG, tmp_path / "run")
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "run" / "final" / "metrics.json").read_text())
    exact = {name: metrics[f"quadratic_{name}"] for name in ("SABA", "SRBA", "HOAG")}
    assert exact["SABA"] < 1e-11 and exact["SRBA"] < 1e-9 and exact["HOAG"] < 1e-6
    others = {name for name in metrics if name.startswith("quadratic_")}
    others -= {f"quadratic_{name}" for name in exact}
    assert len(others) == 18
    assert min(metrics[name] for name in others) > 1e-4
