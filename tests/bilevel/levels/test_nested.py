"""Nested levels, against eliminations in numpy, difference quotients, and formulas of each rule.

Letters: variables `x` [2], `y` [3], `z` [4], `w` [2], from the top down; sizes differ on purpose.
"""

from __future__ import annotations

import itertools
import sys
import textwrap
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import toolkit as tk
from toolkit.adjoint import (
    Forward,
    Implicit,
    Nudged,
    OneStep,
    Reversible,
    Stopped,
    Unroll,
)
from toolkit.bilevel import Level, nested, nested_hypergradient
from toolkit.linear import CG

SIZES = {"x": 2, "y": 3, "z": 4, "w": 2}
NAMES = tuple(SIZES)
EXACT = Implicit(CG(30, 1e-13))
STEP = 0.5
DESCENT = tk.solver.GradientDescent(STEP, 120, momentum=0.3)  # to rounding on all problems here
X = jnp.asarray([0.3, -0.5])
_random = np.random.default_rng(3)

# ------------------------------------------------------------------ quadratics, eliminated by numpy


class Quadratic(NamedTuple):
    """`u'Q u / 2 + q'u` of all variables in a row; positive definite."""

    Q: np.ndarray
    q: np.ndarray

    def at(self, **values: Any) -> jax.Array:
        u = jnp.concatenate([values[name] for name in NAMES if name in values])
        return u @ self.Q @ u / 2 + self.q @ u


def _quadratic(count: int) -> Quadratic:
    n = sum(itertools.islice(SIZES.values(), count))
    root = _random.normal(size=(n, n))
    return Quadratic(root @ root.T / n + 0.5 * np.eye(n), _random.normal(size=n))


def _blocks(count: int) -> list[slice]:
    ends = np.cumsum([0, *itertools.islice(SIZES.values(), count)])
    return [slice(*pair) for pair in itertools.pairwise(ends)]


def _eliminate(functions: list[Quadratic]) -> tuple[np.ndarray, np.ndarray]:
    """`(P, p)`: all variables are `P x + p` at the exact solution; `functions` from level y down."""
    blocks = _blocks(len(functions) + 1)
    P, p = np.eye(blocks[-1].stop), np.zeros(blocks[-1].stop)
    for block, (Q, q) in zip(reversed(blocks[1:]), reversed(functions), strict=True):
        reduced, slope = P.T @ Q @ P, P.T @ (Q @ p + q)
        own = np.linalg.inv(reduced[block, block])
        P, p = (
            P @ np.vstack([np.eye(block.start), -own @ reduced[block, : block.start]]),
            p + P[:, block] @ (-own @ slope[block]),
        )
    return P, p


def _levels(functions: list[Quadratic]) -> list[Level]:
    return [
        Level(name, function.at, DESCENT, jnp.zeros(SIZES[name]), EXACT)
        for name, function in zip(NAMES[1:], functions, strict=False)
    ]


@pytest.mark.parametrize("count", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_quadratic_levels_are_the_elimination(count: int) -> None:
    """All values and the hypergradient, of three and of four levels, two x at a time."""
    functions = [_quadratic(count + 1) for _ in range(count)]
    outer = _quadratic(count + 1)
    P, p = _eliminate(functions)
    solve = nested(*_levels(functions))

    def value(x: jax.Array) -> tuple[jax.Array, Any]:
        at = solve(x=x)
        return outer.at(x=x, **at.values), at

    xs = jnp.stack([X, X + 1])
    (values, at), gradients = jax.jit(jax.vmap(jax.value_and_grad(value, has_aux=True)))(xs)
    for i, x in enumerate(np.asarray(xs)):
        u = P @ x + p
        for name, block in zip(NAMES[1:], _blocks(count + 1)[1:], strict=False):
            np.testing.assert_allclose(at.values[name][i], u[block], rtol=1e-9)
        np.testing.assert_allclose(values[i], u @ outer.Q @ u / 2 + outer.q @ u, rtol=1e-9)
        np.testing.assert_allclose(gradients[i], P.T @ (outer.Q @ u + outer.q), rtol=1e-9)
    np.testing.assert_array_equal(at.status, [0, 0])


# ------------------------------------------------------- rules, each against its own formula on them

H, G, F = (_quadratic(4 - 1) for _ in range(3))  # of levels z and y, and the outer function
AT_X, AT_Y, AT_Z = _blocks(3)
CURVATURE, BY_X, BY_Y = (H.Q[AT_Z, block] for block in (AT_Z, AT_X, AT_Y))


class Response(NamedTuple):
    """`z = at_x x + at_y y + constant` as computed, and its derivatives as the rules have them."""

    at_x: np.ndarray
    at_y: np.ndarray
    constant: np.ndarray
    by_x: np.ndarray
    by_y: np.ndarray


def _response(by_x: np.ndarray, by_y: np.ndarray, solved: np.ndarray | None = None) -> Response:
    """`z = -solved (BY_X x + BY_Y y + q)`, the exact one for None, with approximate inverses `by`."""
    solved = np.linalg.inv(CURVATURE) if solved is None else solved
    values = (-solved @ BY_X, -solved @ BY_Y, -solved @ H.q[AT_Z])
    return Response(*values, -by_x @ BY_X, -by_y @ BY_Y)


def _by_rules(z: Response, inverse: Callable = np.linalg.inv) -> tuple[np.ndarray, np.ndarray]:
    """(y, hypergradient) at X: y where `g_y + by_y' g_z` vanishes, the derivative by the rules."""

    def point(y: np.ndarray) -> np.ndarray:
        return np.concatenate([X, y, z.at_x @ X + z.at_y @ y + z.constant])

    with_y = np.vstack([np.zeros((2, 3)), np.eye(3), z.by_y])
    with_x = np.vstack([np.eye(2), np.zeros((3, 2)), z.by_x])
    condition = lambda y: with_y.T @ (G.Q @ point(y) + G.q)
    zero = condition(np.zeros(3))
    y = np.linalg.solve(np.stack([condition(e) - zero for e in np.eye(3)], axis=1), -zero)
    y_by_x = -inverse(with_y.T @ G.Q @ with_y) @ with_y.T @ G.Q @ with_x
    slope = F.Q @ point(y) + F.q
    return y, with_x.T @ slope + y_by_x.T @ (with_y.T @ slope)


def _relative(got: np.ndarray, to: np.ndarray) -> float:
    return float(np.linalg.norm(got - to) / np.linalg.norm(to))


INVERSE, NONE, ONE = np.linalg.inv(CURVATURE), np.zeros((4, 4)), STEP * np.eye(4)
DAMPED = np.linalg.inv(CURVATURE + 0.4 * np.eye(4))
SHORT = 5
ITERATED = 0.3 * sum(np.linalg.matrix_power(np.eye(4) - 0.3 * CURVATURE, k) for k in range(SHORT))
EXACT_Y, EXACT_GRADIENT = _by_rules(_response(INVERSE, INVERSE))


class Rules(NamedTuple):
    """Rules of levels z and y, and what they come to."""

    z: dict[str, Any]
    expected: Response
    y: dict[str, Any] = {"adjoint": EXACT}  # noqa: RUF012
    inverse: Callable = np.linalg.inv


def _one_step(matrix: np.ndarray) -> np.ndarray:
    return STEP * np.eye(len(matrix))


RULES = {
    "exact, but x to z stopped": Rules(
        {"adjoint": EXACT, "edges": {"x": Stopped()}}, _response(NONE, INVERSE)
    ),
    "exact, but y to z stopped": Rules(
        {"adjoint": EXACT, "edges": {"y": Stopped()}}, _response(INVERSE, NONE)
    ),
    "z stopped": Rules({"adjoint": Stopped()}, _response(NONE, NONE)),
    "z by one step": Rules({"adjoint": OneStep()}, _response(ONE, ONE)),
    "both by one step": Rules(
        {"adjoint": OneStep()}, _response(ONE, ONE), {"adjoint": OneStep()}, _one_step
    ),
    "z by a few steps": Rules(
        {"adjoint": Unroll(), "solver": tk.solver.GradientDescent(0.3, SHORT)},
        _response(ITERATED, ITERATED, ITERATED),
    ),
    "both unrolled": Rules(
        {"adjoint": Unroll()}, _response(INVERSE, INVERSE), {"adjoint": Unroll()}
    ),
    "z damped": Rules(
        {"adjoint": Implicit(CG(30, 1e-13), damping=0.4)},
        _response(DAMPED, DAMPED),
        {"adjoint": Implicit()},
    ),
    "z damped, y unrolled": Rules(
        {"adjoint": Implicit(CG(30, 1e-13), damping=0.4)},
        _response(DAMPED, DAMPED),
        {"adjoint": Unroll()},
    ),
    "a rule an edge": Rules(
        {"edges": {"x": OneStep(), "y": Unroll(forward_mode=True)}}, _response(ONE, INVERSE)
    ),
    "another rule an edge": Rules(
        {"adjoint": OneStep(), "edges": {"x": Forward()}}, _response(INVERSE, ONE)
    ),
}
QUICK = {"both by one step", "z by a few steps"}


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in RULES]
)
def test_a_rule_is_its_formula(name: str) -> None:
    rules = RULES[name]
    y = Level("y", G.at, **({"solver": DESCENT, "start": jnp.zeros(3)} | rules.y))
    z = Level("z", H.at, **({"solver": DESCENT, "start": jnp.zeros(4)} | rules.z))
    solve = nested(y, z)

    def value(x: jax.Array) -> tuple[jax.Array, Any]:
        values = solve(x=x).values
        return F.at(x=x, **values), values

    (_, values), gradient = jax.jit(jax.value_and_grad(value, has_aux=True))(X)
    expected_y, expected = _by_rules(rules.expected, rules.inverse)
    np.testing.assert_allclose(values["y"], expected_y, rtol=1e-9)
    np.testing.assert_allclose(gradient, expected, rtol=1e-8)


def test_the_classic_mistakes_are_far_from_the_exact_derivative() -> None:
    """So that the exact numbers cannot be met by z held constant where level y looks."""
    P, p = _eliminate([G, H])
    u = P @ X + p
    np.testing.assert_allclose(EXACT_Y, u[AT_Y], rtol=1e-12)
    np.testing.assert_allclose(EXACT_GRADIENT, P.T @ (F.Q @ u + F.q), rtol=1e-12)
    y, gradient = _by_rules(_response(NONE, NONE))  # z constant in level y: another equilibrium
    assert _relative(y, EXACT_Y) > 0.01 and _relative(gradient, EXACT_GRADIENT) > 0.01
    half = lambda _: np.linalg.inv(G.Q[AT_Y, AT_Y])  # g_yy where G_yy belongs, at the exact y
    assert _relative(_by_rules(_response(INVERSE, INVERSE), half)[1], EXACT_GRADIENT) > 0.01


def test_identities_for_inverse_hessians_are_biased() -> None:
    """One-step rules on every edge, as Betty's: the bias is that of their formula."""
    y, gradient = _by_rules(_response(ONE, ONE), _one_step)
    assert 0.1 < _relative(y, EXACT_Y) < 0.2 and 0.1 < _relative(gradient, EXACT_GRADIENT) < 0.2


# --------------------------------------------------------------------------- beyond quadratics


def _h(x: Any, y: Any, z: Any) -> jax.Array:
    mixed = jnp.sin(jnp.asarray(BY_Y) @ y + jnp.asarray(BY_X) @ x)
    return (
        0.5 * jnp.sum((z - mixed) ** 2)
        + 0.1 * jnp.sum(z**4)
        + 0.2 * jnp.sum(z * jnp.roll(z, 1) * mixed)
    )


def _g(x: Any, y: Any, z: Any) -> jax.Array:
    pull = jnp.sum((y - jnp.tanh(jnp.asarray(G.Q[AT_Y, AT_X]) @ x)) ** 2)
    return pull + 0.3 * jnp.sum(jnp.cos(z) * (1 + y[0] * y[1])) + 0.05 * jnp.sum(z**3)


def _f(x: Any, y: Any, z: Any) -> jax.Array:
    return jnp.sum((y - 1) ** 2) + jnp.sum(z**3) + jnp.sum(x**2) * jnp.sum(z)


def _wrapped(value: jax.Array) -> dict[str, Any]:
    return {"first": value[:1], "rest": value[1:], "count": 3, "label": None}


def _flat(value: Any) -> jax.Array:
    return jnp.concatenate([value["first"], value["rest"]])


@pytest.mark.slow
def test_beyond_quadratics_the_difference_quotient() -> None:
    """On trees with carried leaves."""
    of_trees = lambda fun: lambda x, y, z: fun(_flat(x), _flat(y), _flat(z))
    y = Level("y", of_trees(_g), DESCENT, _wrapped(jnp.zeros(3)), EXACT)
    z = Level("z", of_trees(_h), DESCENT, _wrapped(jnp.zeros(4)), EXACT)

    def value(x: jax.Array) -> tuple[jax.Array, Any]:
        at = nested(y, z)(x=_wrapped(x))
        counts = (at.values["y"]["count"], at.values["z"]["count"])
        return of_trees(_f)(x=_wrapped(x), **at.values), (at.status, counts)

    (_, (status, counts)), gradient = jax.jit(jax.value_and_grad(value, has_aux=True))(X)
    assert status == 0 and counts == (3, 3)
    h, steps = 1e-4, 1e-4 * np.eye(2)
    values, _ = jax.jit(jax.vmap(value))(jnp.concatenate([X + steps, X - steps]))
    # h^2 f''' / 6 and rounding / h are both about 1e-9.
    np.testing.assert_allclose(gradient, (values[:2] - values[2:]) / (2 * h), rtol=1e-6)


def _tangents(damping: float, x: Any, y: Any, z: Any) -> tuple[jax.Array, jax.Array]:
    """`-(h_zz + damping)^{-1}` times h_zx and h_zy, written out."""
    slope = jax.grad(_h, 2)
    curvature = jax.jacobian(slope, 2)(x, y, z) + damping * jnp.eye(4)
    return tuple(-jnp.linalg.solve(curvature, jax.jacobian(slope, i)(x, y, z)) for i in (0, 1))


def _by_tangents(damping: float, one_step_x: bool, y: Any, z: Any) -> tuple[Any, Any]:
    """(residual of level y, hypergradient), by Jacobians of explicit functions.

    `z_own` is where z enters through the rule along y, whose derivative is its own along all edges.
    """

    def condition(x: Any, y: Any, z: Any, z_own: Any) -> jax.Array:
        by_y = _tangents(damping, x, y, z_own)[1]
        return jax.grad(_g, 1)(x, y, z) + by_y.T @ jax.grad(_g, 2)(x, y, z)

    own_x, by_y = _tangents(damping, X, y, z)
    by_x = -STEP * jax.jacobian(jax.grad(_h, 2), 0)(X, y, z) if one_step_x else own_x
    in_x, in_y, in_z, in_own = jax.jacobian(condition, (0, 1, 2, 3))(X, y, z, z)
    matrix = in_y + (in_z + in_own) @ by_y
    y_by_x = -jnp.linalg.solve(matrix, in_x + in_z @ by_x + in_own @ own_x)
    f_x, f_y, f_z = jax.grad(_f, (0, 1, 2))(X, y, z)
    gradient = f_x + by_x.T @ f_z + y_by_x.T @ (f_y + by_y.T @ f_z)
    return condition(X, y, z, z), gradient


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damping", "edges"), [(0.7, {"x": OneStep()}), (0.7, {}), (0.0, {"x": Implicit()})]
)
def test_approximate_rules_beyond_quadratics(damping: float, edges: Any) -> None:
    """A damped rule along one edge, and another along the other."""
    one_step_x = isinstance(edges.get("x"), OneStep)
    z_rule = Implicit(damping=damping)
    y_level = Level("y", _g, DESCENT, jnp.zeros(3), EXACT)
    solve = nested(y_level, Level("z", _h, DESCENT, jnp.zeros(4), z_rule, edges))

    def value(x: jax.Array) -> tuple[jax.Array, Any]:
        at = solve(x=x)
        return _f(x, **at.values), at

    (_, at), gradient = jax.jit(jax.value_and_grad(value, has_aux=True))(X)
    residual, expected = jax.jit(_by_tangents, static_argnums=(0, 1))(
        damping, one_step_x, at.values["y"], at.values["z"]
    )
    assert at.status == 0
    np.testing.assert_allclose(residual, 0, atol=1e-10)
    np.testing.assert_allclose(gradient, expected, rtol=1e-7)


@pytest.mark.slow
def test_reverse_mode_is_forward_mode_above_edges_of_different_rules() -> None:
    """What level y follows has then a derivative that is not symmetric; the two modes transpose it."""
    at_y, at_z = jnp.asarray(BY_Y[:2, :2]), jnp.asarray(BY_Y[:2, 1:3])
    fun_w = lambda y, z, w: (
        0.5 * jnp.sum((w - jnp.sin(at_y @ y + at_z @ z)) ** 2) + 0.1 * jnp.sum(w**4)
    )
    fun_z = lambda x, y, z, w: jnp.sum((z - jnp.tanh(x * y)) ** 2) + 0.3 * jnp.sum(jnp.cos(w) * z)
    fun_y = lambda x, y, z, w: jnp.sum((y - x) ** 2) + 0.3 * z[0] * z[1] + jnp.sum(jnp.sin(w + 1))
    solver = tk.solver.GradientDescent(0.4, 50)
    start = jnp.zeros(2)
    levels = (
        Level("y", fun_y, solver, start, Implicit()),
        Level("z", fun_z, solver, start, OneStep()),
        Level("w", fun_w, solver, start, OneStep(), {"y": Stopped()}),
    )
    value = lambda x: (1.0 + x) @ nested(*levels)(x=x).values["y"]
    reverse, forward = jax.jit(jax.grad(value))(X), jax.jit(jax.jacfwd(value))(X)
    np.testing.assert_allclose(reverse, forward, rtol=1e-8)


# ----------------------------------------------------------------- starts, statuses, traces, names

QUICK_DESCENT = tk.solver.GradientDescent(STEP, 200, momentum=0.3, tol=1e-10)


def _pair(**of_z: Any) -> tuple[Level, Level]:
    z = {"solver": QUICK_DESCENT, "start": jnp.zeros(4)} | of_z
    return Level("y", G.at, QUICK_DESCENT, jnp.zeros(3)), Level("z", H.at, **z)


def test_a_warm_start_is_where_every_level_starts() -> None:
    solve = jax.jit(lambda starts, x: nested(*_pair())(starts, x=x))
    cold = solve({"y": jnp.zeros(3), "z": jnp.zeros(4)}, X)
    warm = solve(cold.values, X)
    assert cold.status == warm.status == 0
    assert all(cold.info[name].steps > 10 and warm.info[name].steps == 0 for name in "yz")
    near = solve(cold.values, X + 1e-6)
    assert all(0 < near.info[name].steps < cold.info[name].steps for name in "yz")


def test_every_level_says_how_it_went() -> None:
    levels = _pair(solver=tk.solver.GradientDescent(STEP, 2, tol=1e-10))
    solve = jax.jit(lambda start: nested(*levels)({"z": start}, x=X))
    short, lost = solve(jnp.zeros(4)), solve(jnp.full(4, jnp.nan))
    assert short.info["z"].status == short.status == tk.Status.STEP_LIMIT
    assert short.info["y"].status == tk.Status.CONVERGED
    assert lost.status == lost.info["y"].status == tk.Status.NOT_FINITE
    assert np.all(np.isnan(lost.values["y"]))


def test_the_hypergradient_says_which_level_and_which_part_failed() -> None:
    y = Level("y", G.at, tk.solver.GradientDescent(STEP, 3), jnp.zeros(3), OneStep())
    z = Level("z", H.at, DESCENT, jnp.zeros(4), Implicit(CG(1, 1e-12)))
    hg = jax.jit(nested_hypergradient(F.at, y, z))(x=X)
    assert hg.reports["y"].status == tk.Issue.INNER_NOT_CONVERGED
    assert hg.reports["z"].status == tk.Issue.LINEAR_NOT_CONVERGED
    assert hg.status == tk.Issue.LINEAR_NOT_CONVERGED | tk.Issue.INNER_NOT_CONVERGED


@pytest.mark.slow
def test_the_hypergradient_is_exact_and_its_reports_are_clean() -> None:
    fun = lambda x, y, z: F.at(x=x["a"], y=y, z=z)
    y = Level("y", lambda x, y, z: G.at(x=x["a"], y=y, z=z), DESCENT, jnp.zeros(3), EXACT)
    z = Level("z", lambda x, y, z: H.at(x=x["a"], y=y, z=z), DESCENT, jnp.zeros(4), EXACT)
    hg = jax.jit(nested_hypergradient(fun, y, z))(x={"a": X, "n": 2})
    np.testing.assert_allclose(hg.gradient["x"]["a"], EXACT_GRADIENT, rtol=1e-9)
    np.testing.assert_allclose(hg.solution.values["y"], EXACT_Y, rtol=1e-9)
    assert hg.gradient["x"]["n"] is None and hg.status == 0
    assert all(report.error_estimate < 1e-9 for report in hg.reports.values())
    assert all(report.linear_steps > 0 for report in hg.reports.values())


def test_what_a_level_closes_over_and_its_start_count_once() -> None:
    """With a rule an edge: lam and the start belong to the level's own rule."""

    def solved(lam: jax.Array, start: jax.Array, x: jax.Array) -> jax.Array:
        fun = lambda x, y: 0.5 * jnp.sum((y - lam * x) ** 2)
        edges = {"x": Implicit()}
        solver = tk.solver.GradientDescent(STEP, 3)
        return jnp.sum(nested(Level("y", fun, solver, start, Unroll(), edges))(x=x).values["y"])

    lam, x = jnp.asarray([2.0, 3.0]), jnp.asarray([0.5, 0.7])
    by_lam, by_start, by_x = jax.jit(jax.grad(solved, (0, 1, 2)))(lam, jnp.zeros(2), x)
    left = (1 - STEP) ** 3  # of the start after three steps
    np.testing.assert_allclose(by_lam, (1 - left) * x, rtol=1e-12)
    np.testing.assert_allclose(by_start, [left, left], rtol=1e-12)
    np.testing.assert_allclose(by_x, lam, rtol=1e-12)


def test_a_chain_is_solved_through_levels_that_are_not_named() -> None:
    """Level y takes z, whose function takes w; and each function is traced a known number of times."""
    traces = dict.fromkeys("yzw", 0)

    def counted(name: str, value: jax.Array) -> jax.Array:
        traces[name] += 1
        return value

    fun_y = lambda x, y, z: counted("y", jnp.sum((y - x) ** 2) + jnp.sum((z - 1) ** 2))
    fun_z = lambda y, z, w: counted("z", jnp.sum((z - y) ** 2) + jnp.sum(w**2))
    fun_w = lambda z, w: counted("w", jnp.sum((w - z) ** 2))
    solver = tk.solver.GradientDescent(0.2, 60)
    levels = [
        Level(n, f, solver, jnp.zeros(2), EXACT)
        for n, f in zip("yzw", (fun_y, fun_z, fun_w), strict=True)
    ]
    solve = jax.jit(nested(*levels))
    # w = z;  min (z - y)^2 + z^2: z = y / 2;  min (y - x)^2 + (y / 2 - 1)^2: y = (2 x + 1) / 2.5
    y = (2 * X + 1) / 2.5
    for _ in range(2):
        values = solve(x=X).values
    for name, expected in {"y": y, "z": y / 2, "w": y / 2}.items():
        np.testing.assert_allclose(values[name], expected, rtol=1e-9, atol=1e-12)
    assert traces == {"y": 1, "z": 2, "w": 3}


def test_the_example_runs_and_its_gradient_is_the_difference_quotient(capsys: Any) -> None:
    module = sys.modules[nested.__module__]
    example = textwrap.dedent(module.__doc__.split("\n\n", 1)[1])
    scope: dict = {}
    exec(compile(example, module.__file__, "exec"), scope)
    printed = [float(word) for word in capsys.readouterr().out.strip(" []\n").split()]
    value = jax.jit(lambda x: scope["f"](**scope["solve"](x=x).values))
    h = 1e-4 * np.eye(3)
    quotient = [(value(1 + e) - value(1 - e)) / 2e-4 for e in h]
    np.testing.assert_allclose(printed, quotient, rtol=1e-6)


FUN = lambda x, y: jnp.sum((y - x) ** 2)
ZERO = jnp.zeros(2)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Level("1y", FUN, DESCENT, ZERO), ValueError, "`name` .* '1y'"),
        (lambda: Level("y", 3, DESCENT, ZERO), TypeError, "`fun` must be callable: got int"),
        (lambda: Level("y", FUN, 3, ZERO), TypeError, "`solver` must be"),
        (lambda: Level("y", FUN, DESCENT, ZERO, Implicit), TypeError, "`adjoint` must be"),
        (
            lambda: Level("y", FUN, DESCENT, ZERO, edges=Stopped()),
            TypeError,
            "`edges` of level `y`",
        ),
        (lambda: Level("y", FUN, DESCENT, ZERO, edges={"x": 1}), TypeError, "`adjoint` must be"),
        (lambda: Level("z", FUN, DESCENT, ZERO), ValueError, "must take `z` .*got .*x, y"),
        (lambda: Level("y", FUN, DESCENT, [1, None]), ValueError, "`start` of level `y`"),
        (lambda: nested(), ValueError, "at least one"),
        (lambda: nested(FUN), TypeError, "tk.bilevel.Level"),
        (lambda: nested(*[Level("y", FUN, DESCENT, ZERO)] * 2), ValueError, r"got \(y, y\)"),
        (lambda: nested_hypergradient(3, *_pair()), TypeError, "`outer` must be callable"),
    ],
)
def test_bad_levels_are_refused(make: Callable, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        make()


def _solve(level: Level, *args: Any, **tops: Any) -> Callable:
    return lambda: nested(level)(*args, **tops)


PLAIN = Level("y", FUN, DESCENT, ZERO)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (_solve(PLAIN), "`fun` of level `y` .* parameter `x`"),
        (_solve(PLAIN, x=X, t=X), "got `t`, which none takes"),
        (_solve(PLAIN, x=X, y=X), "got `y`, which is a level"),
        (_solve(PLAIN, X, x=X), "`starts` must map"),
        (_solve(PLAIN, {"x": X}, x=X), "`starts` must map"),
        (_solve(PLAIN, {"y": jnp.zeros(3)}, x=X), r"`starts\['y'\]` .*float64\[3\].*float64\[2\]"),
        (
            _solve(Level("y", FUN, DESCENT, ZERO, edges={"u": OneStep()}), x=X),
            "above it .x.: got `u`",
        ),
        (_solve(Level("y", lambda x, y: y - x, DESCENT, ZERO), x=X), r"level `y` .*float64\[2\]"),
        (lambda: nested(*_pair(edges={"z": OneStep()}))(x=X), r"above it \(x, y\): got `z`"),
        (lambda: nested(*_pair(edges={"y": Unroll()}))(x=X), "along `y` must have forward mode"),
        (lambda: nested(*_pair(adjoint=Nudged(0.1), edges={"x": OneStep()}))(x=X), "along `y`"),
        (lambda: nested_hypergradient(lambda u: u, PLAIN)(x=X), "`outer` .* parameter `u`"),
        (lambda: nested_hypergradient(FUN, PLAIN)(x=3), "a top variable must have"),
        (
            lambda: nested_hypergradient(lambda y: y, PLAIN)(x=X),
            "`outer` must return a real scalar",
        ),
    ],
)
def test_bad_calls_are_refused(call: Callable, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_reversible_above_edges_of_different_rules_is_refused() -> None:
    y = Level("y", lambda x, y, w: jnp.sum(x * y * w), DESCENT, ZERO, Reversible())
    z = Level("z", lambda y, z: jnp.sum(y * z), DESCENT, ZERO)
    w = Level("w", lambda y, z, w: jnp.sum(y * z * w), DESCENT, ZERO, edges={"y": OneStep()})
    with pytest.raises(ValueError, match="`adjoint` of level `y` must not be Reversible"):
        nested(y, z, w)(x=X)
