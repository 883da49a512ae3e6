"""Dead hyperparameters are seen through solves and loops, under every rule."""

from __future__ import annotations

import inspect
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import toolkit as tk
from tests.debug.dead.planted import SCALAR, VECTOR, dead_line
from toolkit.debug import dead_gradients
from toolkit.solver import GradientDescent

HERE = str(Path(__file__))


def inner_loss(y, theta):
    """Only `weight` can be learned: the two others are killed on the way."""
    degree = jnp.floor(theta["degree"])  # floored
    fixed = jax.lax.stop_gradient(theta["fixed"])  # fixed
    return jnp.sum((y - theta["weight"] * degree) ** 2) + 0.1 * jnp.sum((y - fixed) ** 2)


THETA = {"degree": SCALAR, "fixed": VECTOR, "weight": VECTOR}
DESCENT = GradientDescent(0.1, 8, 0.5)
ADJOINTS = {
    "implicit": tk.adjoint.Implicit(),
    "cg": tk.adjoint.Implicit(tk.linear.CG(5, 1e-6), damping=0.1),
    "dense": tk.adjoint.Implicit(tk.linear.Dense()),
    "unroll": tk.adjoint.Unroll(),
    "sqrt": tk.adjoint.Unroll(checkpoint="sqrt"),
    "unroll_forward": tk.adjoint.Unroll(forward_mode=True),
    "truncated": tk.adjoint.Truncated(3),
    "one_step": tk.adjoint.OneStep(),
    "forward": tk.adjoint.Forward(),
    "reversible": tk.adjoint.Reversible(),
    "centered": tk.adjoint.Nudged(0.1),
    "holomorphic": tk.adjoint.Nudged(0.1, "holomorphic"),
}


def _outer(y, theta):
    return jnp.sum((y - 1) ** 2)


def _inner_line(mark: str) -> int:
    lines, first = inspect.getsourcelines(inner_loss)
    return first + next(i for i, line in enumerate(lines) if line.rstrip().endswith(f"# {mark}"))


def _hyper_objective(solve, theta, y0):
    return _outer(solve(y0, theta).value, theta)


def _through_hypergradient(solve, theta, y0):
    return tk.hypergradient(_outer, solve)(y0, theta).value


@pytest.mark.parametrize("objective", [_hyper_objective, _through_hypergradient])
@pytest.mark.parametrize("rule", ADJOINTS)
def test_hyperparameters_killed_in_the_inner_objective(rule: str, objective: Any):
    solve = tk.argmin(inner_loss, DESCENT, adjoint=ADJOINTS[rule])
    found = dead_gradients(partial(objective, solve), THETA, VECTOR)
    assert [dead.path for dead in found] == ["theta['degree']", "theta['fixed']"]
    assert [dead.line for dead in found] == [_inner_line("floored"), _inner_line("fixed")]
    assert "`floor`" in found[0].reason
    assert "`stop_gradient`" in found[1].reason
    assert all(dead.file == HERE for dead in found)


@pytest.mark.parametrize("rule", ["implicit", "unroll", "one_step", "centered"])
def test_hypergradients_agree(rule: str):
    solve = tk.argmin(inner_loss, GradientDescent(0.1, 100, 0.5), adjoint=ADJOINTS[rule])
    theta = {"degree": jnp.array(2.5), "fixed": jnp.arange(3.0), "weight": jnp.ones(3)}
    gradient = jax.grad(partial(_hyper_objective, solve))(theta, jnp.zeros(3))
    assert not np.any(gradient["degree"]) and not np.any(gradient["fixed"])
    assert np.all(gradient["weight"])


def test_a_start_is_dead_by_theory_under_the_implicit_rule():
    solve = tk.argmin(inner_loss, DESCENT)

    def objective(y0, theta):
        return _outer(solve(y0, theta).value, theta)  # dead

    (found,) = dead_gradients(objective, VECTOR, THETA)
    assert (found.path, found.file, found.line) == ("y0", HERE, dead_line(objective))
    assert "toolkit.adjoint.implicit" in found.reason
    unrolled = tk.argmin(inner_loss, DESCENT, adjoint=tk.adjoint.Unroll())
    assert dead_gradients(lambda y0, t: _outer(unrolled(y0, t).value, t), VECTOR, THETA) == ()


def test_a_stopped_solve_is_named_at_its_call():
    solve = tk.argmin(inner_loss, DESCENT, adjoint=tk.adjoint.Stopped())
    found = {d.path: d for d in dead_gradients(partial(_hyper_objective, solve), THETA, VECTOR)}
    assert set(found) == {"theta['degree']", "theta['fixed']", "theta['weight']"}
    assert found["theta['degree']"].line == _inner_line("floored")
    weight = found["theta['weight']"]
    assert "toolkit.adjoint.stopped" in weight.reason
    assert weight.line == _hyper_objective.__code__.co_firstlineno + 1


def test_step_sizes_are_dead_by_theory_under_the_implicit_rule():
    solver = GradientDescent(lambda theta, step: theta["rate"], 8)
    fun = lambda y, theta: jax.nn.logsumexp(y) + jnp.sum((y - theta["weight"]) ** 2)
    theta = {"rate": SCALAR, "weight": VECTOR}
    objective = partial(_hyper_objective, tk.argmin(fun, solver))
    (found,) = dead_gradients(objective, theta, VECTOR)
    assert found.path == "theta['rate']"
    assert "`stop_gradient` of toolkit.adjoint.implicit" in found.reason
    unrolled = tk.argmin(fun, solver, adjoint=tk.adjoint.Unroll())
    assert dead_gradients(partial(_hyper_objective, unrolled), theta, VECTOR) == ()


def test_no_warning_is_used_up(recwarn):
    solve = tk.argmin(lambda y, t: jnp.sum((y - t) ** 2), DESCENT)
    dead_gradients(lambda y0, t: _outer(solve(y0, t).value, t), VECTOR, VECTOR)
    assert not recwarn


@pytest.mark.parametrize("kind", ["root", "fixed_point"])
def test_other_solves(kind: str):
    if kind == "root":
        solve = tk.root(lambda y, t: y**3 + t["a"] - jnp.round(t["b"]), tk.solver.Newton(5, 1e-6))
    else:
        step = lambda y, t: 0.5 * jnp.cos(y * t["a"]) + jnp.round(t["b"])
        solve = tk.fixed_point(step, tk.solver.FixedPointIteration(20, 1e-6))
    theta = {"a": VECTOR, "b": VECTOR}
    (found,) = dead_gradients(lambda t: jnp.sum(solve(jnp.ones(3), t).value), theta)
    assert found.path == "t['b']"
    assert "`round`" in found.reason


@pytest.mark.parametrize(
    "policy",
    [tk.control.store(), tk.control.checkpoint(), tk.control.truncate(2), tk.control.forward()],
    ids=lambda policy: type(policy).__name__,
)
def test_loops_with_policies(policy: Any):
    def loss(theta):
        def body(carry, t):
            return carry * theta["a"] + jnp.floor(theta["b"]) * t, None  # dead

        return tk.loop(body, jnp.ones(()), jnp.arange(5.0), gradient=policy)[0]

    (found,) = dead_gradients(loss, {"a": SCALAR, "b": SCALAR})
    assert (found.path, found.line) == ("theta['b']", dead_line(loss))
