"""A new experiment is one new file and one new config: it is listed, checked, run and drawn, and nothing else is touched."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

EXPERIMENT = '''"""How much weight decay does a small network need? One number, learned on held-out digits.

    toolkit run configs/one_penalty.yaml        about 5 s on 2 cores; expect penalty_ratio below 1
"""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from pydantic import Field

import toolkit as tk
from toolkit import run


class Config(run.Settings):
    """What this experiment can be asked."""

    train_size: Annotated[int, Field(ge=10)] = 50
    hidden: Annotated[int, Field(ge=1)] = 8
    rate: Annotated[float, Field(gt=0)] = 0.5


class State(NamedTuple):
    """All that is carried from one outer step to the next."""

    y: Any
    theta: jax.Array  # [] log penalty


def build(config: Config) -> run.Program:
    """The functions that the runner drives."""
    network = tk.models.mlp((64, config.hidden, 10), jnp.tanh)

    def loss(y, data):
        logits = network.apply(y, data.images)
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, data.labels))

    def levels(data):
        def inner(y, theta):
            return loss(y, data["train"]) + jnp.exp(theta) / 2 * optax.tree.norm(y, squared=True)

        descent = tk.solver.GradientDescent(0.1, 20)
        solve = tk.argmin(inner, descent, adjoint=tk.adjoint.Unroll())
        return lambda y, theta: loss(y, data["held_out"]), solve

    def init(key):
        return State(network.init(key), jnp.asarray(-2.0))

    def step(state, data):
        hg = tk.hypergradient(*levels(data))(state.y, state.theta)
        theta = state.theta - config.rate * hg.gradient
        return State(hg.solution.value, theta), {"held_out_loss": hg.value}

    def finish(state):
        ratio = float(jnp.exp(state.theta + 2))
        return run.Final({"theta": state.theta}, {"penalty_ratio": ratio})

    key = jax.random.key(config.seed)
    train, held_out = tk.data.split(key, tk.data.digits(), config.train_size)
    return run.Program(init, step, finish, data={"train": train, "held_out": held_out})


def figures(config, params, metrics, rows):
    """The picture of the report."""
    draw = run.pictures
    line = draw.Curve(draw.column(rows, "step"), draw.column(rows, "held_out_loss"))
    return (draw.curves("Learning", "", {"held-out loss": line}, xlabel="outer step"),)
'''

CONFIG = """# toolkit run configs/one_penalty.yaml
# about 5 s on 2 cores; expect penalty_ratio below 1
experiment: one_penalty
seed: 0
steps: 4
log_every: 1
checkpoint_every: 2
claims:
  penalty_ratio: {at_most: 1}
"""


@pytest.fixture(scope="module", name="copy")
def _copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what ships, with the two new files in it."""
    work = tmp_path_factory.mktemp("copy")
    for folder in ("experiments", "configs"):
        shutil.copytree(ROOT / folder, work / folder)
    (work / "experiments" / "one_penalty.py").write_text(EXPERIMENT)
    (work / "configs" / "one_penalty.yaml").write_text(CONFIG)
    return work


def _toolkit(work: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "toolkit", *words],
        cwd=work,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def _said(work: Path, *words: str) -> str:
    """What a command prints that succeeds."""
    done = _toolkit(work, *words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_is_listed_with_its_question(copy: Path) -> None:
    listed = _said(copy, "list", "experiments")
    assert "one_penalty" in listed
    assert "How much weight decay does a small network need?" in listed
    assert "maml " in listed and "_figures" not in listed


def test_it_is_checked(copy: Path) -> None:
    assert "ok: experiments/one_penalty.py" in _said(copy, "check", "configs/one_penalty.yaml")


def test_it_runs_and_is_drawn(copy: Path) -> None:
    _said(copy, "run", "configs/one_penalty.yaml", "--out", "out")
    metrics = json.loads((copy / "out/final/metrics.json").read_text())
    assert 0 < metrics["penalty_ratio"] < 1
    assert "Learning" in (copy / "out/report.html").read_text()


def test_a_wrong_value_is_told_with_its_line(copy: Path) -> None:
    config = copy / "configs" / "wrong.yaml"
    config.write_text(CONFIG + "hiden: 3\n")
    done = _toolkit(copy, "run", "configs/wrong.yaml", "--out", "wrong")
    assert done.returncode == 2
    assert re.search(r"wrong\.yaml:10: hiden.*did you mean `hidden`", done.stderr)
