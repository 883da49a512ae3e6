"""The learned starts: each method's direction against its formula in CI, whole runs under `-m slow`."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from matplotlib.figure import Figure

import toolkit as tk
from experiments import maml_tasks
from tests.experiments.fed import fed
from tests.traces import counted
from toolkit.problems import few_shot
from toolkit.run.experiment import experiments, load
from toolkit.run.experiment.errors import RunError

ROOT = Path(__file__).parents[2]
CONFIG = "configs/maml.yaml"
MODULE = experiments.load(ROOT / "experiments" / "maml.py")
TASK = few_shot.wave_task(
    jax.random.key(1), few_shot.Wave(jnp.asarray(2.0), jnp.asarray(1.0)), 6, 9
)
STEP_SIZE, STEPS, PROXIMITY = 0.02, 3, 2.0


def _loaded(path: str, *words: str) -> tuple[Any, Any]:
    loaded = load.load(Path(path), list(words))
    module = experiments.load(loaded.experiment)
    return module, load.validate(module.Config, loaded.resolved, {})


def _run(out: Path, path: str, *words: str) -> dict[str, float]:
    command = [sys.executable, "-m", "toolkit", "run", path, *words, "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads((out / "final" / "metrics.json").read_text())


def descent(num_steps: int, step_size: float = STEP_SIZE) -> dict[str, Any]:
    return {"kind": "gradient_descent", "step_size": step_size, "num_steps": num_steps}


def method(adjoint: dict[str, Any], num_steps: int = STEPS, **fields: Any) -> Any:
    return MODULE.Method(
        adjoint=adjoint, solver={**descent(num_steps), **fields.pop("solver", {})}, **fields
    )


def random_theta(*sizes: int) -> Any:
    layers = []
    for i, (inputs, outputs) in enumerate(pairwise(sizes)):
        keys = jax.random.split(jax.random.key(i))
        layers.append(
            maml_tasks.Layer(
                jax.random.normal(keys[0], (inputs, outputs)),
                jax.random.normal(keys[1], (outputs,)),
            )
        )
    return tuple(layers)


NETWORK, LINE = random_theta(1, 5, 1), random_theta(1, 1)


def direction(chosen: Any, theta: Any) -> Any:
    return jax.jit(MODULE.directions(maml_tasks.squared_error, chosen))(theta, TASK)


def loss(theta: Any, examples: Any) -> jax.Array:
    return jnp.mean((maml_tasks.predict(theta, examples.inputs) - examples.targets) ** 2)


def descended(theta: Any, examples: Any, num_steps: int, layers: slice = slice(None)) -> Any:
    """Plain gradient descent, in the layers given."""
    for _ in range(num_steps):
        gradient = jax.grad(loss)(theta, examples)
        moved = jax.tree.map(lambda t, g: t - STEP_SIZE * g, theta, gradient)
        theta = tuple(
            moved[i] if i in range(len(theta))[layers] else theta[i] for i in range(len(theta))
        )
    return theta


def central_difference(fun: Any, theta: Any, along: Any) -> float:
    flat, unravel = ravel_pytree(theta)
    return (fun(unravel(flat + 1e-5 * along)) - fun(unravel(flat - 1e-5 * along))) / 2e-5


@pytest.mark.parametrize(("adapts", "layers"), [("all", slice(None)), ("head", slice(-1, None))])
def test_maml_and_anil_differentiate_the_loss_after_adaptation(adapts: str, layers: slice) -> None:
    def after(theta: Any) -> jax.Array:
        return loss(descended(theta, TASK.support, STEPS, layers), TASK.query)

    gradient, value, issues = direction(method({"kind": "unroll"}, adapts=adapts), NETWORK)
    np.testing.assert_allclose(value, after(NETWORK), rtol=1e-12)
    assert issues == 0
    flat, _ = ravel_pytree(gradient)
    for seed in range(3):
        along = jax.random.normal(jax.random.key(seed), flat.shape)
        difference = central_difference(jax.jit(after), NETWORK, along)
        np.testing.assert_allclose(flat @ along, difference, rtol=1e-6)


def test_anil_leaves_the_body_where_it_is() -> None:
    chosen = method({"kind": "stopped"}, adapts="head")
    solve = MODULE.adaptation(
        maml_tasks.squared_error, chosen, chosen.solver, tk.adjoint.Stopped(), TASK.support
    )
    delta = solve(MODULE.no_displacement(chosen, NETWORK), NETWORK).value
    body, head = maml_tasks.displaced(NETWORK, delta)
    np.testing.assert_array_equal(body.weights, NETWORK[0].weights)
    np.testing.assert_array_equal(body.bias, NETWORK[0].bias)
    assert not np.array_equal(head.weights, NETWORK[1].weights)


def test_first_order_maml_is_the_query_gradient_where_adaptation_ends() -> None:
    gradient, value, _ = direction(method({"kind": "stopped"}), NETWORK)
    adapted = descended(NETWORK, TASK.support, STEPS)
    expected, _ = ravel_pytree(jax.grad(loss)(adapted, TASK.query))
    np.testing.assert_allclose(ravel_pytree(gradient)[0], expected, rtol=1e-10)
    np.testing.assert_allclose(value, loss(adapted, TASK.query), rtol=1e-12)
    exact, *_ = direction(method({"kind": "unroll"}), NETWORK)
    assert not np.allclose(ravel_pytree(exact)[0], expected, rtol=0.01)


def test_one_step_of_maml_is_its_formula() -> None:
    gradient, *_ = direction(method({"kind": "unroll"}, num_steps=1), NETWORK)
    flat, unravel = ravel_pytree(NETWORK)
    hessian = jax.hessian(lambda t: loss(unravel(t), TASK.support))(flat)
    after = descended(NETWORK, TASK.support, 1)
    outer, _ = ravel_pytree(jax.grad(loss)(after, TASK.query))
    np.testing.assert_allclose(
        ravel_pytree(gradient)[0], outer - STEP_SIZE * hessian @ outer, rtol=1e-9
    )


def test_implicit_maml_is_its_closed_form_on_a_line() -> None:
    solver = {"step_size": 0.05, "num_steps": 600}
    linear = {"kind": "cg", "max_steps": 10, "tol": 1e-12}
    chosen = method(
        {"kind": "implicit", "linear_solver": linear}, proximity=PROXIMITY, solver=solver
    )
    gradient, value, issues = direction(chosen, LINE)
    flat, unravel = ravel_pytree(LINE)
    slope, hessian = (
        derivative(lambda t: loss(unravel(t), TASK.support))(flat)
        for derivative in (jax.grad, jax.hessian)
    )
    # The loss is quadratic: 0 = slope + hessian delta + proximity delta.
    floored = hessian + PROXIMITY * jnp.eye(len(flat))
    adapted = unravel(flat - jnp.linalg.solve(floored, slope))
    outer, _ = ravel_pytree(jax.grad(loss)(adapted, TASK.query))
    expected = PROXIMITY * jnp.linalg.solve(floored, outer)
    np.testing.assert_allclose(value, loss(adapted, TASK.query), rtol=1e-10)
    np.testing.assert_allclose(ravel_pytree(gradient)[0], expected, rtol=1e-8)
    assert issues == 0


def test_reptile_goes_where_adaptation_goes() -> None:
    chosen = method({"kind": "stopped"}, learns_from="displacement")
    gradient, value, issues = direction(chosen, NETWORK)
    both = few_shot.pooled(TASK)
    adapted = descended(NETWORK, both, STEPS)
    expected = jax.tree.map(jnp.subtract, NETWORK, adapted)
    for got, wanted in zip(jax.tree.leaves(gradient), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-9)
    np.testing.assert_allclose(value, loss(adapted, both), rtol=1e-12)
    assert issues == 0


def test_reptile_of_one_step_is_plain_training() -> None:
    chosen = method({"kind": "stopped"}, num_steps=1, learns_from="displacement")
    got, _ = ravel_pytree(direction(chosen, NETWORK)[0])
    plain, _ = ravel_pytree(jax.grad(loss)(NETWORK, few_shot.pooled(TASK)))
    np.testing.assert_allclose(got, STEP_SIZE * plain, rtol=1e-9)


def test_a_diverged_displacement_says_so() -> None:
    chosen = method({"kind": "stopped"}, learns_from="displacement", solver=descent(300, 10.0))
    assert direction(chosen, NETWORK)[2] == tk.Issue.NOT_FINITE


def test_methods_learn_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with jax.enable_x64(False):
        module, settings = _loaded(
            CONFIG,
            "methods={maml: {adjoint: {kind: unroll}, solver: {kind: gradient_descent, step_size: 0.01, "
            "num_steps: 1}}, joint: {learns_from: displacement, adjoint: {kind: stopped}, solver: "
            "{kind: gradient_descent, step_size: 0.01, num_steps: 1}}}",
            "hidden=[20]",
            "optimizer.learning_rate=0.01",
            "judged_tasks=50",
        )
        program = fed(module.build(settings))
        counting, traces = counted(program.step)
        step, state = jax.jit(counting), program.init(jax.random.key(0))
        rows = []
        for _ in range(100):
            state, metrics = step(state)
            rows.append({name: float(value) for name, value in metrics.items()})
        final = program.finish(state)
    assert len(traces) == 1
    assert all(row["issues/maml"] == row["issues/joint"] == 0 for row in rows)
    mean = final.params["mean"]
    assert mean["maml"][1] < 0.8 * mean["untrained"][1]
    # Above what no start without adaptation goes below.
    left = mean["joint"][0] - final.metrics["mse_known"]
    assert 0 < left < 0.7 * (mean["untrained"][0] - final.metrics["mse_known"])
    assert [name for name, _ in final.table][:3] == ["maml", "joint", "untrained"]
    drawn = [{"step": i + 1, **row} for i, row in enumerate(rows)]
    _, figures = experiments.figures(Path(module.__file__), module)
    for figure in figures(settings, final.params, final.metrics, drawn):
        figure.draw(Figure(layout="constrained"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("methods.reptile.adjoint.kind=unroll",),
            "must be {kind: stopped} where the start learns",
        ),
        (("problem={kind: digits, held_out: [3, 6]}",), "both of 6 and 9 or neither"),
        (("problem={kind: digits, held_out: [3], ways: 5}",), "at most 4 turns of the 1 digits"),
        (("methods={}",), "methods"),
        (
            (
                "methods.untrained={adjoint: {kind: stopped}, solver: {kind: lbfgs, max_steps: 1, tol: 1}}",
            ),
            "rename it",
        ),
    ],
)
def test_configs_that_make_no_sense_are_refused(
    monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(RunError) as caught:
        _loaded(CONFIG, *words)
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_one_step_from_the_learned_start_beats_what_does_not_adapt(
    tmp_path: Path, seed: int
) -> None:
    metrics = _run(tmp_path / "run", CONFIG, f"seed={seed}")
    assert metrics["ratio_start"] <= 0.6
    assert metrics["ratio_known"] <= 0.6
    after = {name: metrics[f"mse_1/{name}"] for name in ("maml", "first_order", "anil", "reptile")}
    assert after["maml"] == min(after.values())
    assert metrics["mse_10/reptile"] < 0.6 * metrics["mse_1/reptile"]
    assert after["first_order"] < after["anil"]
    assert "not drawn" not in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.slow
def test_held_out_digits_are_told_apart(tmp_path: Path) -> None:
    metrics = _run(tmp_path / "run", "configs/maml_digits.yaml")
    for name in ("maml", "first_order", "anil", "reptile"):
        assert metrics[f"accuracy_1/{name}"] > metrics["accuracy_1/untrained"] + 0.2
    assert metrics["accuracy_own/imaml"] > 0.9
    assert "not drawn" not in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.slow
def test_implicit_maml_learns_where_its_adaptation_ends_at_a_minimum(tmp_path: Path) -> None:
    metrics = _run(tmp_path / "run", "configs/maml_implicit.yaml", "steps=1000")
    assert metrics["mse_own/imaml"] < 0.6 * metrics["mse_known"]
