"""The search over gates: its cell, its directions and its ranks in CI, the whole run under `-m slow`."""

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
from experiments import architecture_search_cells as cells
from tests.experiments.fed import fed
from tests.traces import counted
from toolkit.run.experiment import experiments, load
from toolkit.run.experiment.errors import RunError

ROOT = Path(__file__).parents[2]
CONFIG = "configs/architecture_search.yaml"
SMALL = ("draws=2", "train_size=30", "validation_size=40")


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def _loaded(*words: str) -> tuple[Any, Any]:
    loaded = load.load(Path(CONFIG), [*SMALL, *words])
    module = experiments.load(loaded.experiment)
    return module, load.validate(module.Config, loaded.resolved, {})


def _in_float64(module: Any, settings: Any) -> tuple[Any, Any, jax.Array]:
    """(data of the first draw, weights, theta), the last two at random."""
    with jax.enable_x64(False):
        data = module.load(settings)
    double = lambda leaf: leaf[0].astype(jnp.float64) if leaf.dtype == jnp.float32 else leaf[0]
    rng = np.random.default_rng(0)
    y = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) / 30), module.start())
    theta = jnp.asarray(rng.normal(size=(module.EDGES, len(cells.OPERATIONS))))
    return jax.tree.map(double, data), y, theta


def _run(out: Path, *words: str) -> dict[str, float]:
    command = [sys.executable, "-m", "toolkit", "run", CONFIG, *words, "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads((out / "final" / "metrics.json").read_text())


def test_operations_do_what_they_are_called() -> None:
    ramp = jnp.broadcast_to(jnp.arange(8.0), (1, 8, 8))  # grows to the right
    made = dict(zip(cells.OPERATIONS, cells.operations(ramp)[:, 0, 1:-1, 1:-1], strict=True))
    np.testing.assert_allclose(made["across"], made["across"][0, 0], rtol=1e-6)
    assert made["across"][0, 0] > 0
    np.testing.assert_allclose(made["down"], 0, atol=1e-6)
    np.testing.assert_allclose(made["blur"] / made["blur"][0, 0], ramp[0, 1:-1, 1:-1], rtol=1e-5)
    assert np.all(np.diff(made["squash"], 2) <= 1e-6)
    sizes = jnp.sqrt(jnp.mean(cells.operations(ramp - 3.3) ** 2, axis=(2, 3)))
    np.testing.assert_allclose(sizes, 1, rtol=1e-3)
    flipped = cells.operations(3.3 - ramp)[cells.OPERATIONS.index("size")]
    np.testing.assert_allclose(
        flipped, cells.operations(ramp - 3.3)[cells.OPERATIONS.index("size")], rtol=1e-6
    )


def test_a_closed_gate_leaves_the_chosen_operations() -> None:
    images = jnp.asarray(np.random.default_rng(0).uniform(size=(3, 64)))
    chosen = [cells.OPERATIONS.index(name) for name in ("down", "same", "blur")]
    made = cells.cell(jax.nn.one_hot(jnp.asarray(chosen), len(cells.OPERATIONS)), images)
    x = images.reshape(3, 8, 8)
    first = cells.unit(cells.operations(x)[chosen[0]])
    second = cells.unit(cells.operations(x)[chosen[1]] + cells.operations(first)[chosen[2]])
    expected = jnp.concatenate([first.reshape(3, 64), second.reshape(3, 64)], axis=1)
    np.testing.assert_allclose(made, expected, rtol=1e-10)


def test_what_is_kept_is_the_strongest_operation_of_each_edge() -> None:
    theta = np.random.default_rng(0).normal(size=(7, cells.EDGES, len(cells.OPERATIONS)))
    np.testing.assert_array_equal(
        cells.ARCHITECTURES[cells.kept(jnp.asarray(theta))], theta.argmax(axis=-1)
    )


def test_ranks_count_ties_as_half() -> None:
    accuracy = np.array([[0.9, 0.1], [0.8, 0.2], [0.8, 0.3], [0.7, 0.4], [0.6, 0.5]])
    all_of = {
        "test_accuracy": accuracy,
        "test_loss": 1 - accuracy,
        "validation_loss": 1 - accuracy,
    }
    metrics = cells.judged("mine", np.array([1, 4]), all_of)
    assert metrics["better_than_mine"] == pytest.approx((2.5 / 4 + 1) / 2)
    assert metrics["less_loss_than_mine"] == pytest.approx((2 / 4 + 1) / 2)
    assert metrics["rank_mine"] == pytest.approx((2 + 1) / 2)
    assert metrics["gain_mine"] == pytest.approx((0.04 + 0.2) / 2)


def test_one_step_rules_go_along_their_formulas() -> None:
    module, settings = _loaded()
    data, y, theta = _in_float64(module, settings)
    a = settings.inner_step_size
    g = lambda y, theta: module.penalised(y, jax.nn.softmax(theta), data.train, settings.l2)
    f = lambda y, theta: module.loss(y, jax.nn.softmax(theta), data.validation)

    @jax.jit
    def expected() -> dict[str, jax.Array]:
        stepped = jax.tree.map(lambda leaf, slope: leaf - a * slope, y, jax.grad(g)(y, theta))
        b, direct = jax.grad(f, (0, 1))(stepped, theta)
        _, along = jax.jvp(lambda y: jax.grad(g, 1)(y, theta), (y,), (b,))
        one_step = direct - a * along
        return {"t1t2": one_step, "darts": one_step, "first_order": jax.grad(f, 1)(y, theta)}

    @jax.jit
    def made() -> dict[str, jax.Array]:
        directions = {}
        for rule in ("t1t2", "darts", "first_order"):
            begun = module.rule_of(settings, data, rule).init()._replace(theta=theta)
            directions[rule] = module.from_trained(settings, data, rule, begun, y)
        return directions

    # DARTS: a difference over weights 0.01 apart, with an error of the order of its square.
    tolerances = {"t1t2": 1e-10, "darts": 1e-3, "first_order": 1e-10}
    directions, formulas = made(), expected()
    for rule, direction in directions.items():
        error = jnp.linalg.norm(direction - formulas[rule]) / jnp.linalg.norm(formulas[rule])
        assert error < tolerances[rule], rule
    assert module.cosine(formulas["t1t2"], formulas["first_order"]) < 0.9999


@pytest.mark.slow
def test_the_exact_rule_goes_along_the_differences_of_trained_losses() -> None:
    # Newton ends at the rounding of float64; what a solve leaves is noise of the differences.
    solver = tk.solver.Newton(
        max_steps=50, tol=1e-12, linear_solver=tk.linear.CG(max_steps=2000, tol=1e-12)
    )
    adjoint = tk.adjoint.Implicit(linear_solver=tk.linear.CG(max_steps=2000, tol=1e-12))
    module, settings = _loaded()
    data, y, theta = _in_float64(module, settings)
    descent = tk.solver.GradientDescent(step_size=0.1, num_steps=2000, momentum=0.9)
    nearly = settings.model_copy(update={"solver": descent, "adjoint": tk.adjoint.Stopped()})
    y = jax.jit(module.exactly(nearly, data))(y, theta).solution.value  # Newton must start nearby
    exact = settings.model_copy(update={"solver": solver, "adjoint": adjoint})
    hypergradient = jax.jit(module.exactly(exact, data))
    hg = hypergradient(y, theta)
    direction = jnp.asarray(np.random.default_rng(1).normal(size=theta.shape))
    e = 1e-4
    above, below = (hypergradient(y, theta + sign * e * direction).value for sign in (1, -1))
    np.testing.assert_allclose(
        jnp.sum(hg.gradient * direction), (above - below) / (2 * e), rtol=1e-6
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("rules=[t1t2, t1t2]",), "rules must name each rule once: got t1t2, t1t2"),
        (("rules=[exactly]",), "rules"),
        (("rules=[]",), "rules"),
        (("draws=1",), "draws"),
    ],
)
def test_what_makes_no_sense_is_refused(words: tuple[str, ...], said: str) -> None:
    with pytest.raises(RunError, match=said):
        _loaded(*words)


@pytest.mark.slow
def test_a_search_descends_and_knows_its_angles() -> None:
    with jax.enable_x64(False):
        # Compiled in a third of the time that LBFGS takes.
        descent = "solver={kind: gradient_descent, step_size: 0.1, num_steps: 300, momentum: 0.9}"
        module, settings = _loaded("rules=[exact, first_order]", "updates=3", descent)
        program = fed(module.build(settings))
        counting, traces = counted(program.step)
        step, state = jax.jit(counting), program.init(jax.random.key(0))
        rows = []
        for _ in range(8):
            state, metrics = step(state)
            rows.append({name: float(value) for name, value in metrics.items()})
    assert len(traces) == 1  # weak types in the first state would compile it again
    np.testing.assert_array_equal(state["first_order"].carried.step, [24, 24])
    losses = [row["loss_exact"] for row in rows]
    assert losses[-1] < losses[0] - 0.02
    assert rows[0]["open_gate_exact"] < 0.25 < rows[-1]["open_gate_exact"]
    assert all(-1 <= row["cosine_first_order"] <= 1 for row in rows)
    # Weights of 3 steps say less than trained ones.
    assert rows[0]["cosine_first_order"] < rows[0]["cosine_trained_first_order"]
    assert "cosine_exact" not in rows[0]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_exact_search_descends_further(tmp_path: Path, seed: int) -> None:
    out = tmp_path / "run"
    metrics = _run(out, f"seed={seed}")
    assert metrics["not_converged"] == 0
    last = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
    for rule in ("t1t2", "darts", "first_order"):
        assert last["loss_exact"] < last[f"loss_{rule}"]
    assert metrics["gain_exact"] > 0
    page = (out / "report.html").read_text()
    assert "not drawn" not in page
    assert "How far off are the cheap directions?" in page


@pytest.mark.slow
def test_one_rule_alone_is_judged_and_drawn(tmp_path: Path) -> None:
    out = tmp_path / "run"
    metrics = _run(out, *SMALL, "rules=[exact]", "steps=4", "claims={}")
    assert "accuracy_exact" in metrics
    page = (out / "report.html").read_text()
    assert "not drawn" not in page
    assert "How far off" not in page
