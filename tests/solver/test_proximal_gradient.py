"""Constrained and non-smooth minima: closed forms of the solution, its gradient and its Hessian."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import toolkit as tk
from toolkit.adjoint import Implicit, Nudged, OneStep, Reversible, Truncated, Unroll
from toolkit.linear import CG, GMRES
from toolkit.solver import ProjectedGradient, ProximalGradient

_random = np.random.default_rng(1)
H = jnp.asarray(np.diag([1.0, 2.0, 1.5, 0.7]) + 0.2)  # positive definite
C = jnp.asarray([2.0, -1.0, 0.2, -0.9])
ROW = jnp.asarray([[1.0, 0.5, -1.0, 0.2], [0.0, 1.0, 1.0, 1.0]])
STEP_SIZE, STEPS, TOL = 0.4, 400, 1e-13


def quadratic(y: jax.Array, theta: Any) -> jax.Array:
    return 0.5 * y @ H @ y - C @ y


def outer(y: jax.Array, theta: Any) -> jax.Array:
    return jnp.sum(jnp.cos(jnp.arange(y.size) + y)) + jnp.sum(y**3)


class Constrained(NamedTuple):
    """A quadratic with a term by its proximal map, and its solution by another computation."""

    solver: Any
    theta: Any
    exact: Callable[[Any], jax.Array]


def _lasso_exact(theta: dict) -> jax.Array:
    """The solution on its support, whose signs are those of this file's numbers."""
    on, signs = np.asarray([0, 1, 3]), jnp.asarray([1.0, -1.0, -1.0])
    curvature = H + theta["l2"] * jnp.eye(4)
    y = jnp.linalg.solve(curvature[np.ix_(on, on)], C[on] - theta["l1"] * signs)
    return jnp.zeros(4).at[on].set(y)


def _group_exact(theta: jax.Array) -> jax.Array:
    """Only the first pair is on: Newton on `H y - C + theta y / |y| = 0`, to rounding."""
    on = slice(0, 2)
    condition = lambda y: H[on, on] @ y - C[on] + theta * y / jnp.sqrt(y @ y)
    y = jnp.asarray([1.0, -0.3])
    for _ in range(12):
        y = y - jnp.linalg.solve(jax.jacobian(condition)(y), condition(y))
    return jnp.zeros(4).at[on].set(y)


def _box_exact(theta: dict) -> jax.Array:
    """The first entry is at its upper bound, the last at its lower one."""
    at_bound, free = np.asarray([0, 3]), np.asarray([1, 2])
    fixed = jnp.stack([theta["upper"][0], theta["lower"]])
    y = jnp.linalg.solve(H[np.ix_(free, free)], C[free] - H[np.ix_(free, at_bound)] @ fixed)
    return jnp.zeros(4).at[free].set(y).at[at_bound].set(fixed)


def _simplex_exact(scale: jax.Array) -> jax.Array:
    """Two entries are positive; they sum to `scale`."""
    on = np.asarray([0, 2])
    system = jnp.block(
        [[H[np.ix_(on, on)], jnp.ones((2, 1))], [jnp.ones((1, 2)), jnp.zeros((1, 1))]]
    )
    y = jnp.linalg.solve(system, jnp.append(C[on], scale))[:2]
    return jnp.zeros(4).at[on].set(y)


def _ball_exact(radius: jax.Array) -> jax.Array:
    """`(H + m I) y = C` with the multiplier m of `|y| = radius`, by Newton."""
    shifted = lambda m: jnp.linalg.solve(H + m * jnp.eye(4), C)
    excess = lambda m: jnp.sum(shifted(m) ** 2) - radius**2
    m = jnp.asarray(1.0)
    for _ in range(30):
        m = m - excess(m) / jax.grad(excess)(m)
    return shifted(m)


def _affine_exact(b: jax.Array) -> jax.Array:
    system = jnp.block([[H, ROW.T], [ROW, jnp.zeros((2, 2))]])
    return jnp.linalg.solve(system, jnp.concatenate([C, b]))[:4]


def _proximal(prox: Callable) -> ProximalGradient:
    return ProximalGradient(prox, STEP_SIZE, STEPS, TOL)


def _projected(projection: Callable) -> ProjectedGradient:
    return ProjectedGradient(projection, STEP_SIZE, STEPS, TOL)


def _group(y: jax.Array, theta: jax.Array, s: jax.Array) -> jax.Array:
    return tk.prox.group_lasso(y.reshape(2, 2), theta, s).reshape(4)


BOUNDS = {"lower": jnp.asarray(-0.5), "upper": jnp.asarray([0.6, 5.0, 5.0, 5.0])}
CASES = {
    "elastic_net": Constrained(
        _proximal(lambda y, t, s: tk.prox.elastic_net(y, (t["l1"], t["l2"]), s)),
        {"l1": jnp.asarray(0.3), "l2": jnp.asarray(0.2)},
        _lasso_exact,
    ),
    "group_lasso": Constrained(_proximal(_group), jnp.asarray(1.2), _group_exact),
    "prox_box": Constrained(
        _proximal(lambda y, t, s: tk.prox.box(y, (t["lower"], t["upper"]), s)), BOUNDS, _box_exact
    ),
    "projection_box": Constrained(
        _projected(lambda y, t: optax.projections.projection_box(y, t["lower"], t["upper"])),
        BOUNDS,
        _box_exact,
    ),
    "simplex": Constrained(
        _projected(optax.projections.projection_simplex), jnp.asarray(3.0), _simplex_exact
    ),
    "ball": Constrained(
        _projected(optax.projections.projection_l2_ball), jnp.asarray(0.8), _ball_exact
    ),
    "affine": Constrained(
        _projected(lambda y, b: tk.prox.affine(y, (ROW, b))),
        jnp.asarray([0.3, -0.2]),
        _affine_exact,
    ),
}
RULES = {
    "dense": Implicit(),
    "cg": Implicit(CG(20, 1e-13)),
    "gmres": Implicit(GMRES(20, 1e-13)),
    "unroll": Unroll(),
}
# Compiled with their Hessians, which takes seconds: every rule once, two for most cases.
QUICK = {name: {"cg", "unroll"} for name in CASES} | {
    "affine": set(RULES), "group_lasso": {"unroll"}, "ball": {"unroll"},
}  # fmt: skip


def _close(got: Any, expected: Any, rtol: float = 1e-6, atol: float = 1e-9) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), got, expected)


def _composed(case: Constrained, rule: Any) -> Callable:
    solve = tk.argmin(quadratic, case.solver, adjoint=rule)
    return lambda theta: outer(solve(jnp.full(4, 0.1), theta).value, theta)


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        pytest.param(name, rule, marks=[] if rule in QUICK[name] else [pytest.mark.slow])
        for name in CASES
        for rule in RULES
    ],
)
def test_gradient_and_hessian_are_the_closed_forms(name: str, rule: str) -> None:
    case = CASES[name]
    composed, exact = _composed(case, RULES[rule]), lambda t: outer(case.exact(t), t)

    def both(f: Callable) -> Callable:
        return lambda t: (f(t), jax.grad(f)(t), jax.hessian(f)(t))

    _close(jax.jit(both(composed))(case.theta), both(exact)(case.theta))


@pytest.mark.parametrize("name", ["simplex", "elastic_net"])
def test_vmap_forward_mode_and_third_derivative(name: str) -> None:
    case = CASES[name]
    composed, exact = _composed(case, RULES["cg"]), lambda t: outer(case.exact(t), t)
    one = lambda t: jax.tree.map(jnp.ones_like, t)
    slope = lambda f: lambda t: jax.jvp(f, (t,), (one(t),))[1]
    thetas = jax.tree.map(lambda leaf: leaf * jnp.asarray([0.95, 1.0, 1.05]), case.theta)
    for derivative in (slope, lambda f: slope(slope(slope(f)))):
        _close(jax.jit(jax.vmap(derivative(composed)))(thetas), jax.vmap(derivative(exact))(thetas))


def test_what_prox_and_step_size_close_over_is_differentiated() -> None:
    def solution(penalty: jax.Array, rule: Any) -> jax.Array:
        step = jnp.asarray(STEP_SIZE) * (1 + 0 * penalty)
        prox = lambda y, _, s: tk.prox.elastic_net(y, (penalty, 0.2), s)
        solver = ProximalGradient(prox, lambda _, t: step, STEPS, TOL)
        return outer(tk.argmin(quadratic, solver, adjoint=rule)(jnp.zeros(4)).value, None)

    exact = lambda l1: outer(_lasso_exact({"l1": l1, "l2": 0.2}), None)
    expected = jax.grad(exact)(0.3)
    for rule in (Implicit(), Implicit(CG(20, 1e-13)), Unroll(), Truncated(200)):
        _close(jax.jit(jax.grad(solution), static_argnums=1)(jnp.asarray(0.3), rule), expected)


def test_step_size_is_a_hyperparameter_of_the_steps_and_none_of_the_solution() -> None:
    def after(theta: jax.Array, rule: Any, steps: int) -> jax.Array:
        solver = ProximalGradient(
            lambda y, _, s: tk.prox.lasso(y, 0.3, s), lambda t, step: t / (1 + step), steps, 0.0
        )
        return outer(tk.argmin(quadratic, solver, adjoint=rule)(jnp.ones(4), theta).value, None)

    def by_hand(theta: jax.Array) -> jax.Array:
        y = jnp.ones(4)
        for step in range(3):
            s = theta / (1 + step)
            z = y - s * (H @ y - C)
            y = jnp.sign(z) * jnp.maximum(jnp.abs(z) - 0.3 * s, 0)
        return outer(y, None)

    theta = jnp.asarray(0.4)
    _close(jax.grad(after)(theta, Unroll(), 3), jax.grad(by_hand)(theta))
    assert jax.grad(after)(theta, Implicit(), 3) == 0


def test_one_step_is_the_derivative_of_one_step() -> None:
    case = CASES["prox_box"]
    y = case.exact(case.theta)
    _close(
        jax.grad(_composed(case, OneStep()))(case.theta),
        jax.grad(lambda t: outer(jnp.clip(y - STEP_SIZE * (H @ y - C), t["lower"], t["upper"]), t))(
            case.theta
        ),
    )


def test_only_the_support_need_be_curved_and_only_it_costs() -> None:
    """40 examples, 300 features: the whole Hessian is singular, that on the support is not."""
    rng = np.random.default_rng(0)
    X = jnp.asarray(rng.normal(size=(40, 300)))
    truth = jnp.zeros(300).at[:5].set(jnp.asarray([3.0, -2.0, 2.0, 4.0, -3.0]))
    targets = X @ truth + 0.1 * jnp.asarray(rng.normal(size=40))
    step_size = 1 / float(jnp.linalg.norm(X, 2) ** 2 / 40)
    solve = tk.argmin(
        lambda y, _: 0.5 * jnp.mean((X @ y - targets) ** 2),
        ProximalGradient(tk.prox.lasso, step_size, 20_000, 1e-11),
        adjoint=Implicit(CG(50, 1e-9)),
    )
    error = lambda y, _: jnp.sum((y - truth) ** 2)
    hg = jax.jit(tk.hypergradient(error, solve))(jnp.zeros(300), jnp.asarray(0.1))
    y = np.asarray(hg.solution.value)
    on = np.flatnonzero(y)
    moves = -np.linalg.solve(X[:, on].T @ X[:, on] / 40, np.sign(y[on]))
    _close(hg.gradient, 2 * (y - truth)[on] @ moves, rtol=1e-8)
    assert hg.report.status == 0 and hg.solution.info.status == tk.Status.CONVERGED
    assert 5 <= on.size < 20 and hg.report.linear_steps <= on.size + 1


def test_residual_status_and_exact_zeros() -> None:
    case = CASES["elastic_net"]
    solve = tk.argmin(quadratic, case.solver)
    got = solve(jnp.ones(4), case.theta)
    assert got.value[2] == 0 and got.info.status == tk.Status.CONVERGED
    capped = tk.argmin(quadratic, ProximalGradient(case.solver.prox, STEP_SIZE, 3, TOL))(
        jnp.ones(4), case.theta
    )
    z = capped.value - STEP_SIZE * (H @ capped.value - C)
    step = capped.value - tk.prox.elastic_net(z, (0.3, 0.2), STEP_SIZE)
    _close(capped.info.residual, jnp.linalg.norm(step) / STEP_SIZE)
    assert capped.info.status == tk.Status.STEP_LIMIT and capped.info.steps == 3
    one = tk.argmin(quadratic, ProximalGradient(case.solver.prox, STEP_SIZE, 1, TOL))
    assert one(jnp.ones(4), case.theta).info.status == tk.Status.STEP_LIMIT
    broken = solve(jnp.ones(4).at[2].set(jnp.nan), case.theta)
    assert broken.info.status == tk.Status.NOT_FINITE and not jnp.all(jnp.isfinite(broken.value))


def test_a_capped_solve_is_reported_and_an_indefinite_one_too() -> None:
    case = CASES["elastic_net"]
    capped = ProximalGradient(case.solver.prox, STEP_SIZE, 3, TOL)
    hg = tk.hypergradient(outer, tk.argmin(quadratic, capped))(jnp.ones(4), case.theta)
    assert hg.report.status == tk.Issue.INNER_NOT_CONVERGED
    saddle = lambda y, t: quadratic(y, t) - 3.0 * y[0] ** 2  # stays at 0 from 0 under a penalty
    box = ProjectedGradient(lambda y, t: tk.prox.box(y, (-1.0, 1.0)), 0.1, 1, TOL)
    hg = tk.hypergradient(outer, tk.argmin(saddle, box, adjoint=Implicit(CG(20, 1e-10))))(
        jnp.zeros(4), jnp.asarray(0.0)
    )
    assert hg.report.status & tk.Issue.NEGATIVE_CURVATURE


def test_the_kink_takes_the_side_that_is_stated() -> None:
    # f = (y - c)^2 / 2: the lasso's kink is at |c| = l1, the box's at c = upper.
    def slope(prox: Callable, theta: float) -> float:
        solve = tk.argmin(
            lambda y, t: 0.5 * jnp.sum((y - t) ** 2), ProximalGradient(prox, 1.0, 5, 0.0)
        )
        return jax.grad(lambda t: solve(jnp.zeros(1), t).value[0])(theta)

    lasso, box = (
        (lambda y, _, s: tk.prox.lasso(y, 1.0, s)),
        (lambda y, _, s: tk.prox.box(y, (-1.0, 1.0))),
    )
    assert slope(lasso, 1.0) == 0 and slope(lasso, 1.5) == 1
    assert slope(box, 1.0) == 1 and slope(box, 1.5) == 0
    optax_box = lambda y, _, s: optax.projections.projection_box(y, -1.0, 1.0)
    assert slope(optax_box, 1.0) == 0.5  # as ProjectedGradient says


def test_complex_lasso_and_trees() -> None:
    target = {"a": jnp.asarray([1.0 + 1.0j, 0.1j]), "b": jnp.asarray(-2.0)}

    def fun(y: dict, _: Any) -> jax.Array:
        return 0.5 * sum(jnp.sum(jnp.abs(y[k] - target[k]) ** 2) for k in y)

    def norm(l1: Any) -> jax.Array:
        solve = tk.argmin(fun, ProximalGradient(tk.prox.lasso, 0.5, 200, 1e-14))
        value = solve(jax.tree.map(jnp.zeros_like, target), l1).value
        return jnp.abs(value["a"][0]) ** 2 + value["b"] ** 2

    # |1 + 1j| - l1 keeps its phase; -2 shrinks to -(2 - l1).
    exact = lambda l1: (jnp.sqrt(2.0) - l1["a"]) ** 2 + (2.0 - l1["b"]) ** 2
    l1 = {"a": jnp.asarray(0.3), "b": jnp.asarray(0.4)}
    _close(jax.value_and_grad(norm)(l1), jax.value_and_grad(exact)(l1))


def test_refusals_name_the_remedy() -> None:
    lasso = ProximalGradient(tk.prox.lasso, 0.1, 5, 1e-6)
    theta = jnp.asarray(0.1)
    solve = lambda rule: jax.grad(
        lambda t: jnp.sum(tk.argmin(quadratic, lasso, adjoint=rule)(jnp.zeros(4), t).value)
    )(theta)
    with pytest.raises(ValueError, match=r"ProximalGradient; use the adjoint Implicit"):
        solve(Nudged(0.1))
    with pytest.raises(ValueError, match=r"ProximalGradient.*Unroll"):
        solve(Reversible())
    with pytest.raises(ValueError, match=r"`solver` must solve `root`"):
        tk.root(lambda y, t: y, lasso)(jnp.zeros(4), theta)
    with pytest.raises(ValueError, match=r"`prox` must return a tree like its first argument"):
        tk.argmin(quadratic, ProximalGradient(lambda y, t, s: y[:2], 0.1, 5, 1e-6))(jnp.zeros(4))
    with pytest.raises(ValueError, match=r"`prox` must be a callable"):
        ProximalGradient(0.1, 0.1, 5, 1e-6)
    with pytest.raises(ValueError, match=r"`projection` must be a callable"):
        ProjectedGradient("simplex", 0.1, 5, 1e-6)
    with pytest.raises(ValueError, match=r"`max_steps` must be an int of at least 1: got -1"):
        ProximalGradient(tk.prox.lasso, 0.1, -1, 1e-6)
