"""`compare_adjoints` on a problem whose every rule has a closed form."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import toolkit as tk
from tests.cases import B, H
from toolkit.adjoint import Implicit, OneStep, Stopped, Unroll
from toolkit.linear import CG

STEP_SIZE, STEPS = 0.05, 40
Y0, THETA = jnp.zeros(3), jnp.asarray([0.5, -1.0])


def _fun(y, theta):
    return 0.5 * y @ H @ y - y @ (B @ theta)


def _outer(y, theta):
    return jnp.sum(y)


def _compare(solver) -> tk.Comparison:
    adjoints = {
        "exact": Implicit(),
        "capped": Implicit(CG(1, 1e-12)),
        "unroll": Unroll(),
        "one step": OneStep(),
        "stopped": Stopped(),
    }
    return tk.compare_adjoints(_fun, _outer, solver, Y0, THETA, adjoints)


def test_errors_and_cosines_are_those_of_the_closed_forms() -> None:
    rows = {
        row["rule"]: row for row in _compare(tk.solver.GradientDescent(STEP_SIZE, STEPS)).to_rows()
    }
    powers = [np.linalg.matrix_power(np.eye(3) - STEP_SIZE * H, k) for k in range(STEPS)]
    ones = np.ones(3)
    exact = ones @ np.linalg.solve(H, B)
    expected = {
        "exact": exact,
        "unroll": STEP_SIZE * ones @ sum(powers) @ B,
        "one step": STEP_SIZE * ones @ B,
        "stopped": np.zeros(2),
    }
    for rule, gradient in expected.items():
        np.testing.assert_allclose(rows[rule]["gradient"], gradient, rtol=1e-10, atol=1e-14)
        error = np.linalg.norm(gradient - exact) / np.linalg.norm(exact)
        np.testing.assert_allclose(rows[rule]["relative_error"], error, rtol=1e-6, atol=1e-12)
    cosine = expected["one step"] @ exact / np.linalg.norm(exact)
    np.testing.assert_allclose(
        rows["one step"]["cosine"], cosine / np.linalg.norm(expected["one step"]), rtol=1e-9
    )
    assert math.isnan(rows["stopped"]["cosine"])
    assert len({row["value"] for row in rows.values()}) == 1


def test_costs_and_statuses() -> None:
    rows = {
        row["rule"]: row for row in _compare(tk.solver.GradientDescent(STEP_SIZE, STEPS)).to_rows()
    }
    # Dense: 3 columns, the residual, and the product with the mixed derivative.
    counts = {rule: row["hvp_evals"] for rule, row in rows.items()}
    assert counts == {"exact": 5, "capped": 3, "unroll": STEPS, "one step": 1, "stopped": 0}
    assert all(row["gradient_evals"] == STEPS + 1 for row in rows.values())
    assert rows["capped"]["status"] == tk.Issue.LINEAR_NOT_CONVERGED | tk.Issue.INNER_NOT_CONVERGED
    assert rows["unroll"]["status"] == 0
    assert all(row["seconds"] > 0 for row in rows.values())
    assert rows["unroll"]["temp_bytes"] > rows["stopped"]["temp_bytes"]


def test_a_rule_that_fails_has_its_reason_and_the_others_their_numbers() -> None:
    comparison = _compare(tk.solver.LBFGS(50, 1e-10))
    rows = {row["rule"]: row for row in comparison.to_rows()}
    assert "LBFGS, whose steps contain a data-dependent loop" in rows["unroll"]["reason"]
    assert rows["unroll"]["gradient"] is None
    assert rows["exact"]["relative_error"] == 0
    text = str(comparison)
    assert len(text.splitlines()) == 6
    assert "data-dependent loop" in text
    assert text.splitlines()[0].split()[:2] == ["rule", "value"]


@pytest.mark.parametrize("name", ["check_hypergradient", "compare_adjoints"])
def test_what_tells_of_numbers_cannot_be_traced(name):
    inner, outer = lambda y, t: jnp.sum((y - t) ** 2), lambda y, t: jnp.sum(y**2)
    solver = tk.solver.GradientDescent(0.1, 3)

    def asked(theta):
        if name == "check_hypergradient":
            tk.check_hypergradient(outer, tk.argmin(inner, solver), jnp.zeros(2), theta)
        else:
            tk.compare_adjoints(
                inner, outer, solver, jnp.zeros(2), theta, {"a": tk.adjoint.Unroll()}
            )
        return jnp.sum(theta)

    for transformed in (jax.jit(asked), jax.grad(asked)):
        with pytest.raises(TypeError, match=rf"tk.{name} takes numbers and cannot be traced"):
            transformed(jnp.ones(2))
