"""Rules, solvers and linear solvers of one's own: a plain class with the members of the role is enough.

What lacks a member is refused where it is handed over, and the message names the member.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import toolkit as tk
from toolkit import tree
from toolkit.linear import LinearInfo

Y0, THETA = jnp.zeros(3), jnp.asarray([0.5, -1.0, 2.0])
DESCENT = tk.solver.GradientDescent(0.2, 80)


def fun(y: Any, theta: Any) -> jax.Array:
    return jnp.sum((y - theta) ** 2) + 0.5 * jnp.sum(y**2)


def outer(y: Any, theta: Any) -> jax.Array:
    return jnp.sum(jnp.cos(y))


class GradientStep:
    """The rule of the docstring of `toolkit.types.Adjoint`."""

    presumes_solution = True

    def differentiable(self, problem, primal):
        def run(y0, theta, xs):
            y, steps = primal.run(*jax.lax.stop_gradient((y0, theta, xs)))
            slope = problem.evaluate(y, theta, None)
            moved = jax.tree.map(lambda a, g: a - 0.1 * g, y, slope)
            return tree.graft(y, moved), steps

        return run

    def hvp_evals(self, steps, hyperparameters):
        return 1


class NoTangents(GradientStep):
    forward_mode = False


class OfFunctions(GradientStep):
    needs_objective = True


def test_a_plain_class_of_three_members_is_a_rule() -> None:
    solve = tk.argmin(fun, DESCENT, adjoint=GradientStep())
    hg = jax.jit(tk.hypergradient(outer, solve))(Y0, THETA)
    value = tk.argmin(fun, DESCENT)(Y0, THETA).value
    np.testing.assert_array_equal(jax.jit(solve)(Y0, THETA).value, hg.solution.value)
    np.testing.assert_allclose(value, 2 * THETA / 3, rtol=1e-12)
    # d(y - 0.1 grad)/dtheta = 0.2 at a constant y.
    np.testing.assert_allclose(hg.gradient, -0.2 * np.sin(2 * THETA / 3), rtol=1e-12)
    assert hg.report.status == 0 and hg.report.hvp_evals == 1


def test_a_plain_class_serves_between_levels() -> None:
    """No optional member is needed along an edge either."""
    x0 = jnp.asarray(0.3)
    lower = lambda x, y, z: (z - x * y) ** 2
    upper = lambda x, y, z: (y - x) ** 2 + 0.1 * z**2
    for rule in (GradientStep(), tk.adjoint.OneStep()):
        z = tk.bilevel.Level("z", lower, DESCENT, jnp.zeros(()), edges={"x": rule})
        y = tk.bilevel.Level("y", upper, tk.solver.Newton(5, 1e-9), jnp.zeros(()))
        solve = tk.bilevel.nested(y, z)
        gradient = jax.grad(lambda x, s=solve: s(x=x).values["z"])(x0)
        assert jnp.isfinite(gradient)


def test_what_a_rule_cannot_do_is_asked_of_it() -> None:
    """Optional members: `forward_mode`, `needs_objective`."""
    one = jnp.ones(())
    level = lambda name, fun, **k: tk.bilevel.Level(name, fun, DESCENT, one, **k)
    y = level("y", lambda x, y, z: (y - x * z) ** 2)
    z = level("z", lambda y, z: (z - y) ** 2, edges={"y": NoTangents()})
    with pytest.raises(ValueError, match=r"along `y` must have forward mode.*NoTangents"):
        tk.bilevel.nested(y, z)(x=one)
    y = level("y", lambda x, y, w: (x * y * w) ** 2, adjoint=OfFunctions())
    z = level("z", lambda y, z: (y - z) ** 2)
    w = level("w", lambda y, z, w: (w - y * z) ** 2, edges={"y": GradientStep()})
    with pytest.raises(ValueError, match="`adjoint` of level `y` must not be OfFunctions"):
        tk.bilevel.nested(y, z, w)(x=one)


def without(member: str) -> Any:
    """An instance of the rule above without one of its members."""
    members = {name: value for name, value in vars(GradientStep).items() if name != member}
    return type("Partial", (), members)()


@pytest.mark.parametrize("make", [tk.argmin, tk.root, tk.fixed_point])
@pytest.mark.parametrize("member", ["presumes_solution", "differentiable", "hvp_evals"])
def test_a_missing_member_of_a_rule_is_named(make: Any, member: str) -> None:
    with pytest.raises(
        TypeError, match=rf"^`adjoint` must have `{member}`, a .*: Partial lacks it\.$"
    ):
        make(fun, tk.solver.Newton(5, 1e-6), adjoint=without(member))


WRONG_MEMBERS = {
    "a rule that is a method": ({"presumes_solution": lambda self: False}, "`presumes_solution`"),
    "differentiable that is data": ({"differentiable": 3}, "`differentiable`.*has 3"),
    "hvp_evals that is data": ({"hvp_evals": 0}, "`hvp_evals`.*has 0"),
}


@pytest.mark.parametrize("name", WRONG_MEMBERS)
def test_a_member_of_the_wrong_kind_is_named(name: str) -> None:
    members, message = WRONG_MEMBERS[name]
    rule = type("Wrong", (GradientStep,), members)()
    with pytest.raises(TypeError, match=rf"^`adjoint` must have {message}"):
        tk.argmin(fun, DESCENT, adjoint=rule)


# ---------------------------------------------------------------------------------------- solvers


class Halving:
    """A solver of one's own that shows its steps: it forwards to gradient descent."""

    def bind(self, problem):
        return DESCENT.bind(problem)


def test_a_plain_class_with_bind_is_a_solver() -> None:
    np.testing.assert_array_equal(
        tk.argmin(fun, Halving(), adjoint=tk.adjoint.Unroll())(Y0, THETA).value,
        tk.argmin(fun, DESCENT, adjoint=tk.adjoint.Unroll())(Y0, THETA).value,
    )


def test_what_is_no_solver_is_refused_where_it_is_handed_over() -> None:
    no_bind = type("NoBind", (), {})()
    with pytest.raises(TypeError, match=r"`solver` must be .*bind\(problem\).*got <.*NoBind"):
        tk.argmin(fun, no_bind)
    data = type("Data", (), {"bind": 3})()
    with pytest.raises(TypeError, match=r"`solver` must have a method bind\(problem\): got Data"):
        tk.argmin(fun, data)
    other = type("Other", (), {"bind": lambda self, problem: {"init": 0}})()
    with pytest.raises(TypeError, match=r"bind\(problem\) -> toolkit.types.Method: .*Other.*dict"):
        tk.argmin(fun, other)(Y0, THETA)


# --------------------------------------------------------------------------------- linear solvers


def direct(matvec: Any, b: Any, x0: Any = None) -> Any:
    """A linear solver of one's own: A is 3 I here."""
    return b / 3, LinearInfo(jnp.int32(0), jnp.int32(1), jnp.zeros(()))


def test_a_function_is_a_linear_solver() -> None:
    solve = tk.argmin(fun, DESCENT, adjoint=tk.adjoint.Implicit(direct))
    hg = tk.hypergradient(outer, solve)(Y0, THETA)
    np.testing.assert_allclose(hg.gradient, -2 / 3 * np.sin(2 * THETA / 3), rtol=1e-9)


class Short:
    """The info of a linear solve that forgot its last fields."""

    status = steps = residual = jnp.int32(0)


BAD_LINEAR = {
    "x alone": (lambda matvec, b, x0=None: b, r"<lambda> returned float64\[3\]"),
    "no residual": (
        lambda matvec, b, x0=None: (b, (0, 1)),
        "<lambda> has an info without `status`",
    ),
    "short info": (
        lambda matvec, b, x0=None: (b, Short()),
        "<lambda> has an info without `negative_curvature`",
    ),
    "another shape": (
        lambda matvec, b, x0=None: (b[:2], direct(matvec, b)[1]),
        r"returned an x of float64\[2\] for a b of float64\[3\]",
    ),
    "no start": (lambda matvec: None, r"`linear_solver` must take \(matvec, b, x0=None\)"),
}


@pytest.mark.parametrize("name", BAD_LINEAR)
@pytest.mark.parametrize("way", ["grad", "hypergradient", "newton"])
def test_what_a_linear_solver_lacks_is_named(name: str, way: str) -> None:
    linear_solver, message = BAD_LINEAR[name]
    with pytest.raises(TypeError, match=message):
        if way == "newton":
            tk.argmin(fun, tk.solver.Newton(2, 1e-6, linear_solver))(Y0, THETA)
            return
        solve = tk.argmin(fun, DESCENT, adjoint=tk.adjoint.Implicit(linear_solver))
        if way == "grad":
            jax.grad(lambda t: outer(solve(Y0, t).value, t))(THETA)
        else:
            tk.hypergradient(outer, solve)(Y0, THETA)


@pytest.mark.parametrize("wrong", [tk.linear.CG, "cg"], ids=str)
def test_what_is_no_linear_solver_is_refused_where_it_is_handed_over(wrong: Any) -> None:
    for make in (tk.adjoint.Implicit, lambda s: tk.solver.Newton(2, 1e-6, s)):
        with pytest.raises(TypeError, match="`linear_solver` must be"):
            make(wrong)
