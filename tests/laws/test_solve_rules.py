"""Every derivative rule of a solve, against the laws that all of them obey.

A new rule is one row in RULES; `test_rooms.py` fails until it has one.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import toolkit as tk
from tests.cases import CASES, outer
from toolkit.adjoint import (
    Forward,
    Implicit,
    Nudged,
    OneStep,
    Reversible,
    Stopped,
    Truncated,
    Unroll,
)
from toolkit.linear import CG, GMRES, BiCGStab, Dense, Neumann

SMOOTH = {"ridge", "ridge_per_feature", "quadratic"}
SYMMETRIC = SMOOTH | {"lasso_per_feature"}
GENERAL = {"cubic_root", "linear_fixed_point", "tanh_equilibrium"}
LINE_SEARCH = {"quadratic"}  # solved by L-BFGS, whose line search reverse mode cannot cross


class Rule(NamedTuple):
    adjoint: Any
    cases: set[str]  # where it gives the derivative of the exact solution
    forward_mode: bool = True
    rtol: float = 1e-6  # first derivatives; a looser one gives its reason
    hessian: bool = True
    value_atol: float = 0.0  # of the value; 0: the same as every other rule's, to the bit


BIT_CASES = {"ridge_per_feature", "linear_fixed_point"}  # compared while differentiated, too
EVERY = SYMMETRIC | GENERAL
RULES = {
    "implicit": Rule(Implicit(), EVERY),
    "implicit_cg": Rule(Implicit(CG(50, 1e-13)), SYMMETRIC),
    "implicit_gmres": Rule(Implicit(GMRES(50, 1e-13)), EVERY),
    "implicit_bicgstab": Rule(Implicit(BiCGStab(50, 1e-13)), EVERY),
    "implicit_neumann": Rule(Implicit(Neumann(200)), SYMMETRIC),
    "implicit_dense": Rule(Implicit(Dense()), EVERY),
    "unroll": Rule(Unroll(), EVERY - LINE_SEARCH, forward_mode=False),
    "unroll_sqrt": Rule(Unroll(checkpoint="sqrt"), EVERY - LINE_SEARCH, forward_mode=False),
    "unroll_7": Rule(Unroll(checkpoint=7), EVERY - LINE_SEARCH, forward_mode=False),
    "unroll_forward": Rule(Unroll(forward_mode=True), EVERY - LINE_SEARCH),
    "forward": Rule(Forward(), EVERY),
    # 150 of 250 steps: the missing head is (contraction 0.85)^150 = 3e-11.
    "truncated": Rule(Truncated(150), EVERY - LINE_SEARCH, forward_mode=False),
    # Momentum gradient descent alone, its state on a grid of 2^-40.
    "reversible": Rule(
        Reversible(),
        {"ridge", "ridge_per_feature"},
        forward_mode=False,
        hessian=False,
        value_atol=1e-5,
    ),
    # Energies quadratic in y: exact at any beta.
    "nudged": Rule(Nudged(0.5), SMOOTH, forward_mode=False, hessian=False),
    "nudged_holomorphic": Rule(
        Nudged(0.5, "holomorphic"), SMOOTH - LINE_SEARCH, forward_mode=False, hessian=False
    ),
}
# Rules without the derivative of the exact solution: only the laws about the value hold for them.
VALUE_RULES = {"stopped": Stopped(), "one_step": OneStep()}
PAIRS = [(rule, case) for rule in RULES for case in sorted(RULES[rule].cases)]
# Rules whose code another rule of the table runs too: two cases each are enough for every day, one
# curved argmin and one non-symmetric map. The others follow under `-m slow`.
SAME_CODE = {"implicit_neumann", "implicit_bicgstab", "implicit_dense", "unroll_7"}
SAME_CODE |= {"implicit_gmres", "unroll_sqrt", "truncated"}
TELLING = {"ridge_per_feature", "tanh_equilibrium"}
all_pairs = pytest.mark.parametrize(
    ("rule", "case"),
    [
        pytest.param(
            rule,
            case,
            marks=[pytest.mark.slow] if rule in SAME_CODE and case not in TELLING else [],
        )
        for rule, case in PAIRS
    ],
)
# Laws about transformations: the two cases, and one rule of each kind of code.
some_pairs = pytest.mark.parametrize(
    ("rule", "case"),
    [
        pytest.param(rule, case, marks=[pytest.mark.slow] if rule in SAME_CODE else [])
        for rule, case in PAIRS
        if case in TELLING
    ],
)


def _functions(rule: str, case: str) -> tuple:
    problem = CASES[case]
    solve = problem.solve(RULES[rule].adjoint)

    def composed(theta: Any) -> jax.Array:
        return outer(solve(problem.y0, theta).value, theta)

    def exact(theta: Any) -> jax.Array:
        return outer(problem.exact(theta), theta)

    return composed, exact, problem.theta


def _close(got: Any, expected: Any, rtol: float, atol: float = 0.0) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), got, expected)


@all_pairs
def test_gradient_is_the_closed_form(rule: str, case: str) -> None:
    composed, exact, theta = _functions(rule, case)
    expected = jax.grad(exact)(theta)
    got = jax.jit(jax.grad(composed))(theta)
    _close(got, expected, RULES[rule].rtol)


@pytest.mark.parametrize("case", sorted(CASES))
def test_value_is_the_same_to_the_bit_under_every_rule(case: str) -> None:
    problem = CASES[case]
    adjoints = {
        name: rule.adjoint
        for name, rule in RULES.items()
        if case in rule.cases and rule.value_atol == 0
    }
    adjoints |= {
        name: rule
        for name, rule in VALUE_RULES.items()
        if name != "one_step" or case not in LINE_SEARCH
    }
    differentiated = lambda f: jax.jit(lambda t: jax.value_and_grad(f)(t)[0])
    for transform in (jax.jit, differentiated) if case in BIT_CASES else (jax.jit,):
        values = {
            name: np.asarray(
                transform(lambda t, a=adjoint: outer(problem.solve(a)(problem.y0, t).value, t))(
                    problem.theta
                )
            ).tobytes()
            for name, adjoint in adjoints.items()
        }
        assert len(set(values.values())) == 1, values


@pytest.mark.parametrize(
    ("rule", "case"),
    [
        (name, case)
        for name, rule in RULES.items()
        if rule.value_atol
        for case in sorted(rule.cases)
    ],
)
def test_value_of_a_rule_with_steps_of_its_own(rule: str, case: str) -> None:
    problem, atol = CASES[case], RULES[rule].value_atol
    got, expected = (
        jax.jit(lambda t, a=a: problem.solve(a)(problem.y0, t).value)(problem.theta)
        for a in (RULES[rule].adjoint, Unroll())
    )
    _close(got, expected, 0.0, atol)


@some_pairs
def test_hessian_is_the_closed_form_or_is_refused_by_name(rule: str, case: str) -> None:
    composed, exact, theta = _functions(rule, case)
    if not RULES[rule].hessian:
        with pytest.raises(TypeError, match=r"first derivatives only.*use (Unroll|Implicit)\(\)"):
            jax.jit(jax.hessian(composed))(theta)
        return
    expected = jax.hessian(exact)(theta)
    # Second derivatives of an iterate converge later than the iterate: 1e-5 of the largest entry.
    scale = max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(expected))
    _close(jax.jit(jax.hessian(composed))(theta), expected, 1e-6, 1e-6 * scale)


@pytest.mark.parametrize("rule", ["implicit", "implicit_cg", "unroll", "unroll_sqrt"])
def test_reverse_over_reverse_is_the_closed_form(rule: str) -> None:
    composed, exact, theta = _functions(rule, "ridge_per_feature")
    expected = jax.jacrev(jax.grad(exact))(theta)
    scale = max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(expected))
    _close(jax.jit(jax.jacrev(jax.grad(composed)))(theta), expected, 1e-6, 1e-6 * scale)


@pytest.mark.parametrize("rule", ["implicit", "implicit_cg", "unroll_forward", "forward"])
def test_third_derivative_is_the_closed_form(rule: str) -> None:
    composed, exact, theta = _functions(rule, "ridge")
    third = lambda f: jax.jacfwd(jax.jacfwd(jax.grad(f)))
    _close(jax.jit(third(composed))(theta), third(exact)(theta), 1e-6)


@some_pairs
def test_forward_mode_agrees_or_is_refused_by_name(rule: str, case: str) -> None:
    composed, exact, theta = _functions(rule, case)
    tangent = jax.tree.map(lambda leaf: jnp.cos(leaf) + 1, theta)
    push = jax.jit(lambda t: jax.jvp(composed, (t,), (tangent,))[1])
    if RULES[rule].forward_mode:
        _close(push(theta), jax.jvp(exact, (theta,), (tangent,))[1], RULES[rule].rtol)
        return
    for refused in (push, jax.jacfwd(composed)):
        with pytest.raises(
            TypeError, match=r"no forward mode.*use (Unroll\(forward_mode=True\)|Implicit\(\))"
        ):
            refused(theta)


@some_pairs
def test_vmap_over_theta_and_start(rule: str, case: str) -> None:
    _, exact, theta = _functions(rule, case)
    problem = CASES[case]
    shifts = jnp.asarray([-0.1, 0.0, 0.1])
    thetas = jax.tree.map(lambda leaf: leaf + shifts.reshape(-1, *[1] * leaf.ndim), theta)
    starts = jax.tree.map(
        lambda leaf: leaf + 0.1 * shifts.reshape(-1, *[1] * leaf.ndim), problem.y0
    )
    solve = problem.solve(RULES[rule].adjoint)
    batched = jax.vmap(
        jax.grad(lambda theta, y0: outer(solve(y0, theta).value, theta)), in_axes=(0, 0)
    )
    _close(jax.jit(batched)(thetas, starts), jax.vmap(jax.grad(exact))(thetas), RULES[rule].rtol)


@some_pairs
def test_gradient_of_jit_and_inside_scan(rule: str, case: str) -> None:
    composed, exact, theta = _functions(rule, case)
    _close(jax.grad(jax.jit(composed))(theta), jax.grad(exact)(theta), RULES[rule].rtol)

    def descend(f: Any) -> Any:
        def step(t: Any, _: None) -> tuple[Any, None]:
            return jax.tree.map(lambda a, g: a - 1e-3 * g, t, jax.grad(f)(t)), None

        return jax.jit(lambda t: jax.lax.scan(step, t, None, 3)[0])(theta)

    _close(descend(composed), descend(exact), RULES[rule].rtol)


@pytest.mark.parametrize("rule", sorted(RULES))
def test_rule_is_not_the_code_it_is_compared_with(rule: str) -> None:
    case = "ridge_per_feature"
    composed, exact, theta = _functions(rule, case)
    problem = CASES[case]
    naive = lambda t: outer(_plain_descent(problem, t), t)
    programs = [str(jax.make_jaxpr(jax.grad(f))(theta)) for f in (composed, exact, naive)]
    assert len(set(programs)) == 3


def _plain_descent(problem: Any, theta: Any) -> Any:
    def step(carry: tuple, _: None) -> tuple:
        y, v = carry
        gradient = jax.grad(problem.fun)(y, theta)
        v = jax.tree.map(lambda v, g: 0.2 * v - g, v, gradient)
        return (jax.tree.map(lambda y, v: y + 0.15 * v, y, v), v), None

    zeros = jax.tree.map(jnp.zeros_like, problem.y0)
    return jax.lax.scan(step, (problem.y0, zeros), None, 250)[0][0]


@pytest.mark.parametrize("rule", ["unroll", "unroll_sqrt", "unroll_forward", "implicit"])
def test_value_is_that_of_a_plain_loop(rule: str) -> None:
    problem = CASES["ridge_per_feature"]
    solve = problem.solve(RULES[rule].adjoint)
    # The loop above in other words; XLA may contract multiply-adds differently: a few ulps.
    _close(
        jax.jit(lambda t: solve(problem.y0, t).value)(problem.theta),
        jax.jit(lambda t: _plain_descent(problem, t))(problem.theta),
        1e-14,
    )


def test_stopped_keeps_only_the_direct_derivative() -> None:
    problem = CASES["ridge_per_feature"]
    solve = problem.solve(Stopped())
    got = jax.grad(lambda t: outer(solve(problem.y0, t).value, t))(problem.theta)
    _close(got, {"log_l2": 0.9 * problem.theta["log_l2"] ** 2}, 1e-12)


@pytest.mark.parametrize("adjoint", [Unroll(), Truncated(3)])
def test_line_search_is_refused_where_steps_are_differentiated(adjoint: Any) -> None:
    problem = CASES["quadratic"]
    with pytest.raises(ValueError, match="LBFGS, whose steps contain a data-dependent loop"):
        problem.solve(adjoint)(problem.y0, problem.theta)


@pytest.mark.parametrize(
    "derivative",
    [
        jax.grad,
        pytest.param(lambda f: jax.jacfwd(jax.grad(f)), id="second", marks=pytest.mark.slow),
    ],
)
def test_three_levels_of_nesting_are_exact(derivative: Any) -> None:
    """y*(a) = (b + a) / 2 inside z*(b) inside w: each level's minimiser known by hand."""
    newton = tk.solver.Newton(max_steps=5, tol=1e-12)
    one = jnp.ones(())

    def y_of(z: jax.Array, w: jax.Array) -> jax.Array:
        inner = tk.argmin(lambda y, t: jnp.sum((y - t[0] * t[1]) ** 2), newton)
        return inner(one, (z, w)).value  # y = z w

    def z_of(w: jax.Array) -> jax.Array:
        middle = tk.argmin(lambda z, t: 0.5 * (y_of(z, t) - 3.0) ** 2 + 0.5 * z**2, newton)
        return middle(one, w).value  # minimise (z w - 3)^2 / 2 + z^2 / 2: z = 3 w / (w^2 + 1)

    def top(w: jax.Array) -> jax.Array:
        return (z_of(w) - 1.0) ** 2 + 0.1 * y_of(z_of(w), w) + w**2

    def exact(w: jax.Array) -> jax.Array:
        z = 3 * w / (w**2 + 1)
        return (z - 1.0) ** 2 + 0.1 * z * w + w**2

    w = jnp.asarray(0.7)
    _close(jax.jit(derivative(top))(w), derivative(exact)(w), 1e-8)


@pytest.mark.slow
def test_a_solve_of_a_solve_finds_its_minimum() -> None:
    newton = tk.solver.Newton(max_steps=5, tol=1e-12)

    def z_of(w: jax.Array) -> jax.Array:  # minimise (z w - 3)^2 / 2 + z^2 / 2: z = 3 w / (w^2 + 1)
        middle = tk.argmin(lambda z, t: 0.5 * (z * t - 3.0) ** 2 + 0.5 * z**2, newton)
        return middle(jnp.ones(()), w).value

    def top(w: jax.Array) -> jax.Array:
        return (z_of(w) - 1.0) ** 2 + 0.1 * z_of(w) * w + w**2

    def exact(w: jax.Array) -> jax.Array:
        z = 3 * w / (w**2 + 1)
        return (z - 1.0) ** 2 + 0.1 * z * w + w**2

    w = jnp.asarray(0.7)
    solution = tk.argmin(lambda w, _: top(w), tk.solver.Newton(max_steps=20, tol=1e-9))(w)
    assert solution.info.status == tk.Status.CONVERGED
    np.testing.assert_allclose(jax.grad(exact)(solution.value), 0, atol=2e-9)
