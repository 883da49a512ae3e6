"""`QuadraticProgram`: values against conditions and other solvers, derivatives in closed form, honest ends."""

from __future__ import annotations

import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import toolkit as tk
from toolkit.linear.least_norm import least_norm
from toolkit.solver import QuadraticProgram

pytest.importorskip("clarabel")
Status = tk.Status
_random = np.random.default_rng(0)
N = 5
ROOT = _random.normal(size=(N, N))
# At the solution AT the second inequality, the lower bound of y[3] and the upper bound of y[2] are active, with the
# forces 1.5, 0.7 and 0.4.
AT = _random.normal(size=N)
Q, E, G = ROOT @ ROOT.T + np.eye(N), _random.normal(size=(1, N)), _random.normal(size=(3, N))
UNITS = np.eye(N)
THETA: dict[str, Any] = jax.tree.map(
    jnp.asarray,
    {
        "Q": Q,
        "c": -Q @ AT - 0.3 * E[0] - 1.5 * G[1] + 0.7 * UNITS[3] - 0.4 * UNITS[2],
        "E": E,
        "e": E @ AT,
        "G": G,
        "g": G @ AT + np.array([1.0, 0.0, 2.0]),
        "lower": np.array([-np.inf, AT[1] - 1, AT[2] - 1, AT[3], -np.inf]),
        "upper": np.array([np.inf, np.inf, AT[2], AT[3] + 2, AT[4] + 1]),
    },
)


def quadratic(y: Any, t: Any) -> Any:
    return y @ (t["Q"] @ y) / 2 + t["c"] @ y


FROM_THETA = QuadraticProgram(
    lambda y, t: t["E"] @ y - t["e"],
    lambda y, t: t["G"] @ y - t["g"],
    lambda t: (t["lower"], t["upper"]),
)
SOLVE = tk.argmin(quadratic, FROM_THETA)
START = jnp.zeros(N)
outer = lambda y: jnp.sum(jnp.arange(1.0, N + 1) * jnp.sin(y))


def exact(t: Any) -> Any:
    """The solution, with the active constraints as equations."""
    rows = jnp.concatenate([t["E"], t["G"][1:2], -jnp.eye(N)[3:4], jnp.eye(N)[2:3]])
    right = jnp.concatenate([t["e"], t["g"][1:2], -t["lower"][3:4], t["upper"][2:3]])
    symmetric = (t["Q"] + t["Q"].T) / 2
    system = jnp.block([[symmetric, rows.T], [rows, jnp.zeros((4, 4))]])
    return jnp.linalg.solve(system, jnp.concatenate([-t["c"], right]))[:N]


def from_theta(t: Any) -> Any:
    return outer(SOLVE(START, t).value)


def closed_over(t: Any) -> Any:
    """The same program, nothing of which is in theta."""
    solver = QuadraticProgram(
        lambda y, _: t["E"] @ y - t["e"],
        lambda y, _: {"all": t["G"] @ y - t["g"]},
        (t["lower"], t["upper"]),
    )
    return outer(tk.argmin(lambda y, _: quadratic(y, t), solver)(START).value)


close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9)


def test_solution_and_multipliers_solve_the_conditions() -> None:
    y, info, _ = jax.jit(SOLVE)(START, THETA)
    assert info.status == Status.CONVERGED and info.residual < 1e-12
    close(y, AT)
    close(exact(THETA), AT)
    equality, inequality, lower, upper = info.multipliers
    close(equality, [0.3])
    close(inequality, [0.0, 1.5, 0.0])
    close(lower, 0.7 * UNITS[3])
    close(upper, 0.4 * UNITS[2])


@pytest.mark.parametrize("value", [from_theta, closed_over])
def test_gradients_with_respect_to_everything(value: Any) -> None:
    slope = jax.jit(jax.grad(value))(THETA)
    jax.tree.map(close, slope, jax.grad(lambda t: outer(exact(t)))(THETA))


def test_second_derivatives_and_forward_mode() -> None:
    along = jnp.asarray([0.3, -0.2, 0.5, 1.0, -0.4])

    def product(value: Any) -> Any:
        of = lambda c: value(THETA | {"c": c})
        return jax.jvp(jax.grad(of), (THETA["c"],), (along,))[1]

    close(product(from_theta), product(lambda t: outer(exact(t))))


def made(n: int, p: int, m: int, rank: int, redundant: bool) -> tuple[Any, np.ndarray]:
    """A program with a known solution, by choosing that and the multipliers first."""
    root, x = _random.normal(size=(n, rank)), _random.normal(size=n)
    P, E, G = root @ root.T, _random.normal(size=(p, n)), _random.normal(size=(m, n))
    slack = np.where(_random.random(m) < 0.5, 0, _random.random(m))
    if redundant:
        E[1], G[1], slack[1] = 2 * E[0], 3 * G[0], 3 * slack[0]
    forces = np.where(slack == 0, _random.random(m) + 0.1, 0)
    q = -P @ x + E.T @ _random.normal(size=p) - G.T @ forces
    side = lambda: np.where(_random.random(n) < 0.5, _random.random(n), np.inf)
    arrays = {"Q": P, "c": q, "E": E, "e": E @ x, "G": G, "g": G @ x + slack}
    arrays |= {"lower": x - side(), "upper": x + side()}
    return jax.tree.map(jnp.asarray, arrays), x


def test_programs_of_any_rank_with_redundant_constraints() -> None:
    solve = jax.jit(SOLVE)
    for number in range(12):
        theta, x = made(12, 3, 10, [12, 4, 0][number % 3], redundant=number % 2 == 0)
        y, info, _ = solve(jnp.zeros(12), theta)
        assert info.status == Status.CONVERGED and info.residual < 1e-8
        np.testing.assert_allclose(quadratic(y, theta), quadratic(x, theta), rtol=1e-8, atol=1e-8)


def test_linear_programs_end_as_another_solver_says() -> None:
    solver = QuadraticProgram(inequality=lambda y, t: t["G"] @ y - t["g"])
    solve = jax.jit(tk.argmin(lambda y, t: t["c"] @ y, solver))
    seen = set()
    for rows in (3, 14) * 6:
        G, g, c = _random.normal(size=(rows, 4)), _random.random(rows), _random.normal(size=4)
        if rows == 3:
            G[2], g[2] = -G[0], -g[0] - _random.choice([-1.0, 1.0])
        found = scipy.optimize.linprog(c, G, g, bounds=(None, None))
        # With both of no point and no least value either name is right there.
        theta = {"G": jnp.pad(G, ((0, 14 - rows), (0, 0))), "g": jnp.pad(g, (0, 14 - rows)), "c": c}
        y, info, _ = solve(jnp.zeros(4), theta)
        feasible = scipy.optimize.linprog(0 * c, G, g, bounds=(None, None)).status == 0
        expected = {0: Status.CONVERGED}.get(found.status, Status.UNBOUNDED)
        expected = expected if feasible else Status.INFEASIBLE
        assert info.status == expected
        seen.add(expected)
        if found.status == 0:
            np.testing.assert_allclose(c @ y, found.fun, rtol=1e-8, atol=1e-10)
    assert len(seen) == 3


def distance(y: Any, t: Any) -> Any:
    return jnp.sum((y - t) ** 2)


EMPTY = {"inequality": lambda y, t: jnp.stack([y[0] - t[0], t[0] + 1 - y[0]])}
WITHOUT_SOLUTION = {
    "equations": (
        distance,
        {"equality": lambda y, t: jnp.stack([y[0], y[0] - 1])},
        Status.INFEASIBLE,
    ),
    "inequalities": (distance, EMPTY, Status.INFEASIBLE),
    "bounds": (distance, {"bounds": (1.0, 0.0)}, Status.INFEASIBLE),
    "without end": (lambda y, t: t @ y, {"bounds": (0.0, jnp.inf)}, Status.UNBOUNDED),
    "flat": (lambda y, t: t @ y + y[0] ** 2, {}, Status.UNBOUNDED),
    "neither": (lambda y, t: t @ y, EMPTY, Status.INFEASIBLE),
    "not convex": (lambda y, t: t @ y - y[0] ** 2, {"bounds": (-1.0, 1.0)}, Status.STALLED),
    "not finite": (lambda y, t: jnp.sum(jnp.sqrt(-jnp.abs(t)) * y**2), {}, Status.NOT_FINITE),
}


@pytest.mark.parametrize(
    ("fun", "constraints", "status"), WITHOUT_SOLUTION.values(), ids=WITHOUT_SOLUTION
)
def test_no_solution_is_named_and_nan(fun: Any, constraints: Any, status: Status) -> None:
    solve = tk.argmin(fun, QuadraticProgram(**constraints))

    def summed(t: Any) -> Any:
        solution = solve(jnp.zeros(2), t)
        return jnp.sum(solution.value), solution

    slope, (y, info, _) = jax.grad(summed, has_aux=True)(jnp.asarray([1.0, -2.0]))
    assert info.status == status
    assert jnp.all(jnp.isnan(y)) and jnp.isnan(info.residual) and jnp.all(jnp.isnan(slope))


def test_what_is_no_quadratic_program_shows_in_the_residual() -> None:
    theta = jnp.asarray([1.0, -2.0])
    for fun, constraint in (
        (lambda y, t: jnp.sum((y - t) ** 4), lambda y, t: jnp.sum(y) - 9),
        (distance, lambda y, t: jnp.sum(y**2) + y[0] - 1),
    ):
        info = tk.argmin(fun, QuadraticProgram(inequality=constraint))(jnp.zeros(2), theta).info
        assert info.status == Status.STALLED and info.residual > 0.1


def test_single_precision_is_judged_as_it_is() -> None:
    theta = jnp.asarray([1.0, -2.0, 3.0], jnp.float32)
    budget = lambda y, t: jnp.sum(y) - 1
    for tol, status in ((1e-5, Status.CONVERGED), (1e-9, Status.STALLED)):
        solver = QuadraticProgram(inequality=budget, tol=tol)
        y, info, _ = tk.argmin(distance, solver)(jnp.zeros(3, jnp.float32), theta)
        assert y.dtype == jnp.float32 and info.status == status
        assert 1e-9 < info.residual <= 1e-5
        np.testing.assert_allclose(y, theta - 1 / 3, rtol=1e-6)


def test_lanes_have_their_own_status_and_one_trace() -> None:
    traced = []

    def fun(y: Any, t: Any) -> Any:
        traced.append(1)
        return distance(y, t)

    def value(u: Any) -> Any:
        solver = QuadraticProgram(inequality=lambda y, t: jnp.stack([y[0] - u, -y[0]]))
        solution = tk.argmin(fun, solver)(jnp.zeros(2), jnp.asarray([1.0, -2.0]))
        return jnp.sum(solution.value), solution

    run = jax.jit(jax.vmap(jax.grad(value, has_aux=True)))
    slopes, (y, info, _) = run(jnp.asarray([-1.0, 0.5, 2.0]))
    run(jnp.asarray([-2.0, 0.2, 9.0]))
    assert len(traced) == 1
    np.testing.assert_array_equal(info.status, [Status.INFEASIBLE, 0, 0])
    np.testing.assert_allclose(y, [[np.nan] * 2, [0.5, -2.0], [1.0, -2.0]], rtol=1e-9)
    np.testing.assert_allclose(slopes, [np.nan, 1.0, 0.0], atol=1e-9)
    np.testing.assert_allclose(info.multipliers.inequality[1], [1.0, 0.0], rtol=1e-9)
    assert info.multipliers.equality is None and info.multipliers.lower is None


def test_derivatives_of_redundant_open_and_degenerate_programs() -> None:
    theta = jnp.asarray([1.0, -2.0, 3.0])
    jacobian = lambda fun, **constraints: jax.jacrev(
        lambda t: tk.argmin(fun, QuadraticProgram(**constraints))(jnp.zeros(3), t).value
    )(theta)
    # On y[0] + y[1] = 1, said three times: the projection.
    thrice = lambda y, t: jnp.asarray([1.0, 1.0, 2.0]) * (y[0] + y[1] - 1)
    projection = np.array([[0.5, -0.5, 0.0], [-0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])
    np.testing.assert_allclose(jacobian(distance, equality=thrice), projection, atol=1e-9)
    # y[2] alone is determined.
    only = lambda y, t: (y[2] - t[2]) ** 2 + t[0] * (y[0] + y[1])
    found = jacobian(only, inequality=lambda y, t: 1 - y[0] - y[1])
    assert np.all(np.isnan(found[:2, 0]))
    # A bound that is met with a multiplier of 0: one of both sides.
    found = jacobian(distance, bounds=(1.0, jnp.inf))
    assert found[0, 0] in (0.0, 1.0)
    np.testing.assert_allclose(np.diag(found)[1:], [0.0, 1.0], atol=1e-12)


def test_trees_of_any_leaves() -> None:
    def fun(y: Any, t: Any) -> Any:
        return jnp.sum((y["a"] - t) ** 2) + (y["b"].astype(t.dtype) - 1) ** 2 + y["n"][1]

    solver = QuadraticProgram(
        lambda y, t: {"sum": jnp.sum(y["a"]) + y["b"] - t[0]},
        lambda y, t: (y["a"][:1] - 0.3, y["b"] - 0.2),
        (-9.0, {"a": jnp.ones(3), "b": 2, "n": None}),
        tol=1e-5,
    )
    start = {"a": jnp.zeros(3), "b": jnp.zeros((), jnp.float32), "n": jnp.arange(2)}
    solution = tk.argmin(fun, solver)(start, jnp.asarray([1.0, -2.0, 3.0]))
    assert solution.info.status == Status.CONVERGED
    np.testing.assert_allclose(solution.value["a"], [0.3, -0.5, 1.0], rtol=1e-6)
    assert solution.value["b"].dtype == jnp.float32 and solution.value["n"][1] == 1
    forces = solution.info.multipliers
    assert forces.inequality[0].shape == (1,) and forces.upper["n"] is None
    np.testing.assert_allclose(forces.upper["a"][2], 7.0, rtol=1e-6)


def test_least_squares_under_constraints() -> None:
    rows = jnp.asarray(_random.normal(size=(8, 3)))
    solver = QuadraticProgram(bounds=(0.0, jnp.inf))
    solve = tk.least_squares(lambda y, t: rows @ y - t, solver, curvature="gauss_newton")
    data = jnp.asarray(_random.normal(size=8))
    expected, _ = scipy.optimize.nnls(np.asarray(rows), np.asarray(data))
    np.testing.assert_allclose(solve(jnp.ones(3), data).value, expected, atol=1e-9)


def refused(**changes: Any) -> Any:
    solver = QuadraticProgram(**changes)
    return tk.argmin(lambda y, t: jnp.sum(jnp.abs(y) ** 2), solver)


REFUSED = {
    "no function": (
        lambda: refused(equality=3.0),
        ValueError,
        r"`equality` must be a callable \(y, theta\) -> tree of arrays: got 3\.0\.",
    ),
    "a comparison": (
        lambda: refused(inequality=lambda y, t: y > 0)(START),
        ValueError,
        r"`inequality` must return real floating arrays, at most zero where it holds: got bool\[5\]; for a <= b "
        r"return a - b\.",
    ),
    "another signature": (
        lambda: refused(equality=lambda y: y)(START),
        TypeError,
        r"`equality` must take \(y, theta\): got \(y\)\.",
    ),
    "complex": (
        lambda: refused()(START + 0j),
        ValueError,
        r"`y0` must be real under QuadraticProgram: got complex128\[5\]",
    ),
    "an equation": (
        lambda: tk.root(lambda y, t: y, QuadraticProgram())(START),
        ValueError,
        r"`solver` must solve `root`: got QuadraticProgram, which solves `argmin`",
    ),
    "steps": (
        lambda: refused().steps()[0](START),
        ValueError,
        r"`solver` must show its steps: got QuadraticProgram, whose loop is its own",
    ),
    "per-step inputs": (
        lambda: tk.argmin(lambda y, t, x: distance(y, x), QuadraticProgram())(
            START, None, jnp.ones((2, N))
        ),
        ValueError,
        "`xs` must be None with QuadraticProgram",
    ),
}


@pytest.mark.parametrize(("call", "error", "message"), REFUSED.values(), ids=REFUSED)
def test_refusals(call: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_rules_that_follow_steps_are_refused() -> None:
    for rule in (tk.adjoint.Unroll(), tk.adjoint.Truncated(3), tk.adjoint.OneStep()):
        solve = tk.argmin(quadratic, FROM_THETA, adjoint=rule)
        with pytest.raises(ValueError, match=rf"under {type(rule).__name__}: got QuadraticProgram"):
            jax.grad(lambda t, solve=solve: jnp.sum(solve(START, t).value))(THETA)


def test_inside_shard_map_it_is_refused_by_name() -> None:
    mesh = jax.make_mesh((1,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("d")
    inside = lambda t: tk.argmin(distance, QuadraticProgram())(jnp.zeros(2), t).value
    with pytest.raises(ValueError, match="must not be QuadraticProgram inside jax"):
        jax.shard_map(inside, mesh=mesh, in_specs=spec, out_specs=spec)(jnp.ones(2))


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "clarabel", None)
    with pytest.raises(
        ImportError, match=r'clarabel, which is not installed: pip install "toolkit-jax\[solvers\]"'
    ):
        SOLVE(START, THETA)


def test_hypergradient_reports_the_solve() -> None:
    hypergradient = jax.jit(tk.hypergradient(lambda y, t: outer(y), SOLVE))
    hg = hypergradient(START, THETA)
    assert hg.report.status == 0
    jax.tree.map(close, hg.gradient, jax.grad(lambda t: outer(exact(t)))(THETA))
    failed = hypergradient(START, THETA | {"lower": THETA["upper"] + 1})
    assert failed.report.status & tk.Issue.NOT_FINITE


def test_no_trace_leaks() -> None:
    def value(lower: Any) -> Any:
        solver = QuadraticProgram(lambda y, t: jnp.sum(y) - lower, bounds=(lower, 9.0))
        return jnp.sum(tk.argmin(distance, solver)(jnp.zeros(2), jnp.ones(2)).value ** 2)

    with jax.checking_leaks():
        assert jnp.isfinite(jax.jit(jax.grad(value))(-0.2))


@pytest.mark.slow
def test_200_unknowns_and_300_inequalities() -> None:
    theta, x = made(200, 20, 300, 200, redundant=False)
    theta |= {"lower": jnp.full(200, -jnp.inf), "upper": jnp.full(200, jnp.inf)}
    solve = jax.jit(SOLVE)
    y, info, _ = solve(jnp.zeros(200), theta)
    assert info.status == Status.CONVERGED
    np.testing.assert_allclose(y, x, rtol=1e-6, atol=1e-8)
    value = lambda c: jnp.sum(jnp.sin(solve(jnp.zeros(200), theta | {"c": c}).value))
    way, step = jnp.asarray(_random.normal(size=200)), 1e-6
    difference = value(theta["c"] + step * way) - value(theta["c"] - step * way)
    slope = jax.jit(jax.grad(value))(theta["c"])
    np.testing.assert_allclose(slope @ way, difference / (2 * step), rtol=1e-5)


def test_least_norm_of_a_singular_system() -> None:
    matrix = jnp.asarray([[2.0, 1.0, 1.0], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    x, info = least_norm(lambda v: matrix @ v, jnp.asarray([3.0, 1.0, 1.0]))
    np.testing.assert_allclose(x, [1.0, 0.5, 0.5], rtol=1e-9)
    assert info.status == Status.CONVERGED
    x, info = least_norm(lambda v: matrix @ v, jnp.asarray([3.0, 1.0, 2.0]))
    assert jnp.all(jnp.isnan(x)) and info.status != Status.CONVERGED
