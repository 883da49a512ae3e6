"""Each method's first steps on the whole data against its equations; its own fixed points."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.bilevel.methods import quadratic as q
from toolkit.bilevel import (
    AID,
    BOME,
    BSA,
    DARTS,
    F2SA,
    FSLA,
    HOAG,
    ITD,
    MRBO,
    PZOBO,
    SABA,
    SAMA,
    SOBA,
    SRBA,
    SUSTAIN,
    T1T2,
    TTSA,
    VRBO,
    AmIGO,
    DoubleLoop,
    Problem,
    StocBiO,
    power_decay,
)
from toolkit.bilevel.parts import blocks

# Distinct on purpose: a step taken with another's size would show.
A_, C_, E_ = 0.2, 0.15, 0.1  # steps of y, of theta, of the linear system
N_, Q_ = 3, 2  # inner and linear steps
M = q.MEAN
Path = Iterator[tuple[np.ndarray, np.ndarray]]  # (y, x) after each step


class Reference(NamedTuple):
    """The derivatives of a problem, as functions of (y, x)."""

    g_y: Callable[..., Any]
    g_x: Callable[..., Any]
    f_y: Callable[..., Any]
    f_x: Callable[..., Any]
    H: Callable[..., Any]  # d2_yy g
    J: Callable[..., Any]  # d2_xy g, [M, N]

    def hyper(self, y: Any, x: Any, terms: int | None) -> Any:
        """With the inverse, or the series of so many terms at E_."""
        inverse = np.linalg.inv(self.H(y, x)) if terms is None else self.series(y, x, terms)
        return self.f_x(y, x) - self.J(y, x) @ inverse @ self.f_y(y, x)

    def series(self, y: Any, x: Any, terms: int) -> Any:
        power = np.eye(q.N) - E_ * self.H(y, x)
        return E_ * sum(np.linalg.matrix_power(power, k) for k in range(terms))

    def descended(self, y: Any, x: Any, steps: int) -> Any:
        for _ in range(steps):
            y = y - A_ * self.g_y(y, x)
        return y


QUADRATIC = Reference(
    lambda y, x: M["A"] @ y + M["C"].T @ x + M["a"],
    lambda y, x: M["C"] @ y,
    lambda y, x: M["F"] @ y + M["K"].T @ x + M["p"],
    lambda y, x: M["E"] @ x + M["K"] @ y + M["e"],
    lambda y, x: M["A"],
    lambda y, x: M["C"],
)


def curved_inner(y: Any, x: Any, batch: Any) -> Any:
    """Neither derivative of it is the same at two points."""
    mixed = jnp.sum(jnp.sin(x)) * jnp.sum(y**3) / 9 + jnp.sum(x**2) * jnp.sum(jnp.cos(y)) / 5
    return q.inner(y, x, batch) + jnp.sum(jnp.cosh(y)) / 3 + mixed + jnp.sum(x**4)


def curved_outer(y: Any, x: Any, batch: Any) -> Any:
    return q.outer(y, x, batch) + jnp.sum(jnp.sin(y)) * jnp.sum(jnp.cos(x))


def _curved() -> Reference:
    g = lambda y, x: curved_inner(y, x, q.INNER)
    f = lambda y, x: curved_outer(y, x, q.OUTER)
    made = (
        jax.grad(g), jax.grad(g, 1), jax.grad(f), jax.grad(f, 1), jax.hessian(g),
        jax.jacobian(jax.grad(g, 1)),
    )  # fmt: skip
    return Reference(*(lambda *at, d=jax.jit(d): np.asarray(d(*at)) for d in made))


PROBLEMS = {
    "quadratic": (q.problem(), QUADRATIC),
    "curved": (Problem(curved_inner, curved_outer, q.INNER, q.OUTER), _curved()),
}


def start() -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(q.Y0), np.asarray(q.X0)


# The analytic derivatives of the quadratic, for what follows.
g_y, g_x, f_y, f_x, _, _ = QUADRATIC
hyper, descended = QUADRATIC.hyper, QUADRATIC.descended


def soba(p: Reference) -> Path:
    (y, x), v = start(), np.zeros(q.N)
    while True:
        y, v, x = (
            y - A_ * p.g_y(y, x),
            v - E_ * (p.H(y, x) @ v - p.f_y(y, x)),
            x - C_ * (p.f_x(y, x) - p.J(y, x) @ v),
        )
        yield y, x


def amigo(p: Reference) -> Path:
    (y, x), v = start(), np.zeros(q.N)
    while True:
        y = p.descended(y, x, N_)
        for _ in range(Q_):
            v = v - E_ * (p.H(y, x) @ v - p.f_y(y, x))
        x = x - C_ * (p.f_x(y, x) - p.J(y, x) @ v)
        yield y, x


def fsla(p: Reference) -> Path:
    (y, x), v = start(), np.zeros(q.N)
    while True:
        y = y - A_ * p.g_y(y, x)
        v = v - E_ * (p.H(y, x) @ v - p.f_y(y, x))
        x = x - C_ * (p.f_x(y, x) - p.J(y, x) @ v)
        yield y, x


def double(inner_steps: int, terms: int | None) -> Callable[[Reference], Path]:
    """Inner steps, then theta."""

    def path(p: Reference) -> Path:
        y, x = start()
        while True:
            y = p.descended(y, x, inner_steps)
            x = x - C_ * p.hyper(y, x, terms)
            yield y, x

    return path


def single(terms: int) -> Callable[[Reference], Path]:
    """Both at once."""

    def path(p: Reference) -> Path:
        y, x = start()
        while True:
            y, x = y - A_ * p.g_y(y, x), x - C_ * p.hyper(y, x, terms)
            yield y, x

    return path


def vrbo(p: Reference) -> Path:
    y, x = start()
    while True:
        x = x - C_ * p.hyper(y, x, Q_ + 1)
        y = p.descended(y, x, N_)
        yield y, x


def itd(p: Reference) -> Path:
    y, x = start()
    while True:
        J = np.zeros((q.M, q.N))  # less the derivative of y in x, transposed
        for _ in range(N_):
            J = J @ (np.eye(q.N) - A_ * p.H(y, x)) + A_ * p.J(y, x)
            y = y - A_ * p.g_y(y, x)
        x = x - C_ * (p.f_x(y, x) - J @ p.f_y(y, x))
        yield y, x


def t1t2(p: Reference) -> Path:
    y, x = start()
    while True:
        J = p.J(y, x)
        y = y - A_ * p.g_y(y, x)
        x = x - C_ * (p.f_x(y, x) - A_ * J @ p.f_y(y, x))
        yield y, x


def sama(p: Reference) -> Path:
    """The product at y+."""
    y, x = start()
    while True:
        y = y - A_ * p.g_y(y, x)
        x = x - C_ * (p.f_x(y, x) - A_ * p.J(y, x) @ p.f_y(y, x))
        yield y, x


def darts(virtual: float) -> Callable[[Reference], Path]:
    def path(p: Reference) -> Path:
        y, x = start()
        while True:
            w = y - virtual * p.g_y(y, x)
            x = x - C_ * (p.f_x(w, x) - virtual * p.J(y, x) @ p.f_y(w, x))
            y = y - A_ * p.g_y(y, x)
            yield y, x

    return path


L_ = 7.0


def f2sa(p: Reference) -> Path:
    (y, x), z, e = start(), start()[0], A_ / (2 * L_)
    while True:
        for _ in range(N_):
            z, y = z - A_ * p.g_y(z, x), y - e * (p.f_y(y, x) + L_ * p.g_y(y, x))
        x = x - C_ * (p.f_x(y, x) + L_ * (p.g_x(y, x) - p.g_x(z, x)))
        yield y, x


def f3sa(p: Reference) -> Path:
    (y, x), z, e = start(), start()[0], 0.01
    while True:
        z, y, x = (
            z - A_ * p.g_y(z, x),
            y - e * (p.f_y(y, x) + L_ * p.g_y(y, x)),
            x - C_ * (p.f_x(y, x) + L_ * (p.g_x(y, x) - p.g_x(z, x))),
        )
        yield y, x


def bome(p: Reference) -> Path:
    y, x = start()
    while True:
        w = p.descended(y, x, N_)
        f, slope = np.append(p.f_y(y, x), p.f_x(y, x)), p.g_y(y, x)
        constraint = np.append(slope, p.g_x(y, x) - p.g_x(w, x))
        multiplier = max(0, 0.5 - f @ constraint / (constraint @ constraint))
        d = f + multiplier * constraint
        y, x = y - A_ * d[: q.N], x - C_ * d[q.N :]
        yield y, x


SERIES = {"linear_steps": Q_, "linear_step_size": E_}
CASES: dict[str, tuple[Any, Callable[[Reference], Path]]] = {
    "SOBA": (SOBA(A_, C_, linear_step_size=E_), soba),
    "SABA": (SABA(A_, C_, linear_step_size=E_), soba),
    "SRBA": (SRBA(A_, C_, linear_step_size=E_, period=3), soba),
    "AmIGO": (AmIGO(A_, C_, inner_steps=N_, **SERIES), amigo),
    "FSLA": (FSLA(A_, C_, linear_step_size=E_, momentum=0.3), fsla),
    "StocBiO": (StocBiO(A_, C_, inner_steps=N_, **SERIES), double(N_, Q_ + 1)),
    "BSA": (BSA(A_, C_, inner_steps=N_, **SERIES), double(N_, Q_)),
    "TTSA": (TTSA(A_, C_, **SERIES), double(1, Q_)),
    "SUSTAIN": (SUSTAIN(A_, C_, momentum=0.3, **SERIES), single(Q_)),
    "MRBO": (MRBO(A_, C_, momentum=0.3, **SERIES), single(Q_ + 1)),
    "VRBO": (VRBO(A_, C_, inner_steps=N_, period=2, **SERIES), vrbo),
    "AID": (AID(A_, C_, inner_steps=N_, linear_steps=Q_), double(N_, None)),
    "DoubleLoop": (DoubleLoop(A_, C_, inner_steps=N_), double(N_, None)),
    "ITD": (ITD(A_, C_, inner_steps=N_), itd),
    "T1T2": (T1T2(A_, C_), t1t2),
    "SAMA": (SAMA(A_, C_), sama),
    "DARTS": (DARTS(A_, C_), darts(A_)),
    "DARTS, another virtual step": (DARTS(A_, C_, virtual_step_size=0.05), darts(0.05)),
    "DARTS, first order": (DARTS(A_, C_, virtual_step_size=0), darts(0.0)),
    "F2SA": (F2SA(A_, C_, inner_steps=N_, penalty=L_), f2sa),
    "F3SA": (
        F2SA(A_, C_, inner_steps=1, penalty=L_, penalised_step_size=0.01, momentum=0.3),
        f3sa,
    ),
    "BOME": (BOME(A_, C_, inner_steps=N_), bome),
}


# On the curved problem: radii small enough for the central differences.
SMALL = {
    "SAMA": (SAMA(A_, C_, radius=1e-4), sama),
    "DARTS": (DARTS(A_, C_, radius=1e-4), darts(A_)),
    "DARTS, another virtual step": (
        DARTS(A_, C_, virtual_step_size=0.05, radius=1e-4),
        darts(0.05),
    ),
}


@pytest.mark.parametrize("kind", PROBLEMS)
@pytest.mark.parametrize("name", CASES)
def test_the_first_steps_are_those_of_the_equations(name: str, kind: str) -> None:
    settings, path = SMALL.get(name, CASES[name])
    problem, reference = PROBLEMS[kind]
    init, step = settings(problem)
    state, step = init(jax.random.key(0), q.Y0, q.X0), jax.jit(step)
    for t, (y, x) in zip(range(4), path(reference), strict=False):
        state, info = step(state)
        # Central differences of DARTS and SAMA round.
        tol = 1e-7 if name in SMALL else 1e-11
        np.testing.assert_allclose(state.y, y, rtol=tol)
        np.testing.assert_allclose(state.theta, x, rtol=tol)
        if t == 0 and "first order" not in name:
            expected = problem.inner(q.Y0, q.X0, q.INNER)
            np.testing.assert_allclose(info.inner_loss, expected, rtol=1e-12)


def test_outer_losses_are_where_the_outer_gradient_was_taken() -> None:
    """At the start for what moves at once, after the inner steps for what moves in turn."""
    y = descended(*start(), N_)
    for name, at in {"SOBA": q.Y0, "MRBO": q.Y0, "VRBO": q.Y0, "AID": y, "AmIGO": y}.items():
        init, step = CASES[name][0](q.problem())
        _, info = jax.jit(step)(init(jax.random.key(0), q.Y0, q.X0))
        np.testing.assert_allclose(info.outer_loss, q.outer(at, q.X0, q.OUTER), rtol=1e-11)


def test_schedules_are_those_of_the_step() -> None:
    """Every kind of setting that may be one; step t = 0, 1, ... takes c / (t + 1)^a."""
    c, a = (0.2, 0.15, 0.1, 5.0), (0.5, 0.3, 0.7, -0.25)
    rates = [power_decay(*pair) for pair in zip(c, a, strict=True)]
    at = lambda i, t: c[i] / (t + 1) ** a[i]
    init, step = SOBA(*rates[:2], linear_step_size=rates[2])(q.problem())
    state, step = init(jax.random.key(0), q.Y0, q.X0), jax.jit(step)
    (y, x), v = start(), np.zeros(q.N)
    for t in range(4):
        y, v, x = (
            y - at(0, t) * g_y(y, x),
            v - at(2, t) * (M["A"] @ v - f_y(y, x)),
            x - at(1, t) * (f_x(y, x) - M["C"] @ v),
        )
        state, _ = step(state)
        np.testing.assert_allclose(np.append(state.y, state.theta), np.append(y, x), rtol=1e-11)
    settings = F2SA(rates[0], rates[1], inner_steps=2, penalty=rates[3])
    init, step = settings(q.problem())
    state, step = init(jax.random.key(0), q.Y0, q.X0), jax.jit(step)
    (y, x), z = start(), start()[0]
    for t in range(4):
        penalty, e = at(3, t), at(0, t) / (2 * at(3, t))
        for _ in range(2):
            z, y = z - at(0, t) * g_y(z, x), y - e * (f_y(y, x) + penalty * g_y(y, x))
        x = x - at(1, t) * (f_x(y, x) + penalty * (g_x(y, x) - g_x(z, x)))
        state, _ = step(state)
        np.testing.assert_allclose(np.append(state.y, state.theta), np.append(y, x), rtol=1e-11)


def test_optimizers_with_a_memory_keep_it() -> None:
    """Three steps of Adam on both levels, by hand."""
    inner, outer = optax.adam(0.1), optax.adam(0.05)
    settings = SOBA(1.0, 1.0, linear_step_size=E_, inner_optimizer=inner, outer_optimizer=outer)
    init, step = settings(q.problem())
    state, step = init(jax.random.key(0), q.Y0, q.X0), jax.jit(step)
    (y, x), v = (q.Y0, q.X0), np.zeros(q.N)
    y_state, x_state = inner.init(y), outer.init(x)
    for _ in range(3):
        y_update, y_state = inner.update(jnp.asarray(g_y(y, x)), y_state)
        x_update, x_state = outer.update(jnp.asarray(f_x(y, x) - M["C"] @ v), x_state)
        v = v - E_ * (M["A"] @ v - f_y(y, x))
        y, x = y + y_update, x + x_update
        state, _ = step(state)
        np.testing.assert_allclose(state.y, y, rtol=1e-11)
        np.testing.assert_allclose(state.theta, x, rtol=1e-11)


def test_a_warm_linear_system_goes_on_where_a_cold_one_starts_again() -> None:
    """One product a step: exact in the end when warm, stuck at a bias when cold."""
    x, _ = q.solution()
    warm = _run(AID(A_, C_, inner_steps=5, linear_steps=1), 3000)
    np.testing.assert_allclose(warm.theta, x, rtol=1e-8)
    np.testing.assert_allclose(_run(HOAG(A_, C_, linear_steps=1), 3000).theta, x, rtol=1e-8)
    cold = AID(A_, C_, inner_steps=60, linear_steps=1, warm_start=False)
    assert np.linalg.norm(_run(cold, 3000).theta - x) > 1e-3
    state = _run(DoubleLoop(A_, C_, inner_steps=N_, warm_start=False), 1)
    np.testing.assert_allclose(state.y, descended(*start(), N_), rtol=1e-12)
    again = _run(DoubleLoop(A_, C_, inner_steps=N_, warm_start=False), 2)
    np.testing.assert_allclose(
        again.y, descended(start()[0], np.asarray(state.theta), N_), rtol=1e-12
    )


def test_srba_projects_v_on_its_ball() -> None:
    init, step = SRBA(A_, C_, linear_step_size=E_, radius=0.05)(q.problem())
    state, free = jax.jit(step)(init(jax.random.key(0), q.Y0, q.X0))[0], E_ * f_y(*start())
    assert np.linalg.norm(free) > 0.06
    np.testing.assert_allclose(state.v, 0.05 * free / np.linalg.norm(free), rtol=1e-12)


def test_bome_s_control_is_by_how_much_the_constraint_descends() -> None:
    steps = [_run(BOME(A_, C_, inner_steps=N_, control=control), 1).theta for control in (0.1, 2.0)]
    assert np.linalg.norm(steps[0] - steps[1]) > 1e-2
    y, x = start()
    w = descended(y, x, N_)
    f, q_slope = np.append(f_y(y, x), f_x(y, x)), np.append(g_y(y, x), g_x(y, x) - g_x(w, x))
    for control, theta in zip((0.1, 2.0), steps, strict=True):
        multiplier = max(0, control - f @ q_slope / (q_slope @ q_slope))
        expected = x - C_ * (f_x(y, x) + multiplier * q_slope[q.N :])
        np.testing.assert_allclose(theta, expected, rtol=1e-11)


def test_the_default_period_looks_at_half_of_the_batches() -> None:
    assert blocks.default_period(q.INNER, q.OUTER, None, 1) == 1
    data = {"x": np.zeros(100)}
    assert blocks.default_period(data, data, 10, 1) == 10
    assert blocks.default_period(data, data, 10, 4) == 2
    assert blocks.default_period(data, data, 90, 4) == 1


def test_hoag_keeps_its_tolerances_and_its_error_shrinks_with_them() -> None:
    """|direction - grad F| at most (1 / mu) (L + ...) eps; measured against grad F in closed form."""
    init, step = HOAG(0.2, 0.1, tol=0.1, decay=0.7)(q.problem())
    state, step = init(jax.random.key(0), q.Y0, q.X0), jax.jit(step)
    errors, tols = [], []
    for _ in range(40):
        before = np.asarray(state.theta)
        state, _ = step(state)
        assert state.memory.inner_residual <= state.memory.tol
        assert state.memory.linear_residual <= state.memory.tol * (1 + 1e-12)
        y = -np.linalg.solve(M["A"], M["C"].T @ before + M["a"])
        direction = (before - np.asarray(state.theta)) / 0.1
        errors.append(np.linalg.norm(direction - hyper(y, before, None)))
        tols.append(float(state.memory.tol))
    inverse, C = np.linalg.norm(np.linalg.inv(M["A"]), 2), np.linalg.norm(M["C"], 2)
    dv = inverse * (1 + np.linalg.norm(M["F"], 2) * inverse)
    bound = np.linalg.norm(M["K"], 2) * inverse + C * dv
    assert np.all(np.asarray(errors) <= bound * np.asarray(tols) + 1e-12)
    np.testing.assert_allclose(tols, 0.1 * 0.7 ** np.arange(40), rtol=1e-12)


def test_hoag_out_of_steps_says_so_in_its_memory() -> None:
    init, step = HOAG(0.01, 0.1, inner_steps=2, linear_steps=1, tol=1e-6)(q.problem())
    state, _ = jax.jit(step)(init(jax.random.key(0), q.Y0, q.X0))
    assert state.memory.inner_residual > state.memory.tol
    assert state.memory.linear_residual > state.memory.tol


def test_t1t2_and_sama_differentiate_the_optimizer_that_they_run() -> None:
    """One Adam update, against finite differences of the outer loss after it (SAMA: with J at y+)."""
    adam = optax.adam(0.05, eps_root=1e-8)
    problem = q.problem()

    @jax.jit
    def after(x: Any) -> Any:
        slope = jax.grad(q.inner)(q.Y0, x, q.INNER)
        updates, _ = adam.update(slope, adam.init(q.Y0), q.Y0)
        return q.outer(q.Y0 + updates, x, q.OUTER)

    h = 1e-5
    expected = [(after(q.X0 + h * e) - after(q.X0 - h * e)) / (2 * h) for e in jnp.eye(q.M)]
    # On this quadratic d2_thetay g is the same at y and at y+.
    for make in (T1T2, SAMA):
        init, step = make(1.0, 1.0, inner_optimizer=adam)(problem)
        state, _ = jax.jit(step)(init(jax.random.key(0), q.Y0, q.X0))
        np.testing.assert_allclose(q.X0 - state.theta, expected, rtol=1e-6)


def test_darts_differs_from_the_exact_product_by_the_square_of_its_radius() -> None:
    """On a quartic g, against T1-T2's product at the same point."""
    cubic = lambda y, x, _: (
        jnp.sum(jnp.cosh(y) * jnp.asarray([1.0, 2.0])) + jnp.sum(x) * jnp.sum(jnp.sin(2 * y))
    )
    square = lambda y, x, _: jnp.sum((y - 1.0) ** 2)
    problem = Problem(cubic, square)
    init, step = T1T2(A_, 1.0)(problem)
    exact = (
        init(jax.random.key(0), q.Y0, q.X0).theta
        - step(init(jax.random.key(0), q.Y0, q.X0))[0].theta
    )

    def direction(settings: Any) -> np.ndarray:
        init, step = settings(problem)
        state = init(jax.random.key(0), q.Y0, q.X0)
        return np.asarray(state.theta - jax.jit(step)(state)[0].theta)

    exact = direction(T1T2(A_, 1.0))
    radii = (0.2, 0.1, 0.05)
    gaps = [np.linalg.norm(direction(DARTS(A_, 1.0, radius=r)) - exact) for r in radii]
    # Of a slope, whose next term is of the order of radius^2: neighbours in order are 2 apart.
    np.testing.assert_allclose(np.log2(np.divide(gaps[:-1], gaps[1:])), 2, atol=0.05)


def _run(settings: Any, steps: int) -> Any:
    init, step = settings(q.problem())
    run = jax.jit(lambda s: jax.lax.scan(lambda s, _: (step(s)[0], None), s, length=steps)[0])
    return run(init(jax.random.key(0), q.Y0, q.X0))


def _penalised_solution(penalty: float) -> np.ndarray:
    """x where (y, z, x) is stationary for `f + penalty (g - g at z)`, y the minimiser, z that of g."""
    dims = q.N + q.N + q.M

    def residual(u: np.ndarray) -> np.ndarray:
        y, z, x = u[: q.N], u[q.N : 2 * q.N], u[2 * q.N :]
        return np.concatenate(
            [
                f_y(y, x) + penalty * g_y(y, x),
                g_y(z, x),
                f_x(y, x) + penalty * (g_x(y, x) - g_x(z, x)),
            ]
        )

    at_0 = residual(np.zeros(dims))
    return np.linalg.solve(np.stack([residual(e) - at_0 for e in np.eye(dims)], 1), -at_0)[
        2 * q.N :
    ]


@pytest.mark.parametrize("momentum", [None, 0.3])
def test_f2sa_arrives_at_the_penalised_solution(momentum: float | None) -> None:
    """And that is off by O(1 / penalty)."""
    steps = {"inner_steps": 1 if momentum else 5, "momentum": momentum}
    state = _run(F2SA(0.3, 0.01, penalty=10.0, **steps), 20_000)
    np.testing.assert_allclose(state.theta, _penalised_solution(10.0), rtol=1e-8)
    x, _ = q.solution()
    gaps = [np.linalg.norm(_penalised_solution(p) - x) for p in (10.0, 1e3, 1e4)]
    assert gaps[0] > 1e-3
    # Of a ratio, whose next term is of the order of L / (mu penalty), about 1e-2 at a penalty of 1e3.
    np.testing.assert_allclose(gaps[1] / gaps[2], 10, rtol=0.02)


def test_bome_nears_the_truncated_solution_as_its_steps_shrink() -> None:
    """At a distance proportional to the steps."""
    x, _ = q.solution(q.truncated(0.3, 3))
    exact, _ = q.solution()
    gaps = []
    for shrink in (1.0, 0.1):
        settings = BOME(
            0.3,
            0.02 * shrink,
            inner_steps=3,
            inner_optimizer=optax.sgd(0.02 * shrink),
        )
        gaps.append(np.linalg.norm(_run(settings, int(20_000 / shrink)).theta - x))
    assert gaps[1] < gaps[0] / 5
    assert gaps[1] < np.linalg.norm(x - exact) / 5


def test_bome_at_the_inner_minimum_takes_no_multiplier() -> None:
    """Where the codes that are known divide 0 by 0; and NaN stays NaN."""
    y = -np.linalg.solve(M["A"], M["C"].T @ np.asarray(q.X0) + M["a"])
    flat = q.problem(
        {**q.INNER, "A": 0 * q.INNER["A"], "C": 0 * q.INNER["C"], "a": 0 * q.INNER["a"]}
    )
    init, step = BOME(A_, C_, inner_steps=N_)(flat)
    state, _ = step(init(jax.random.key(0), jnp.asarray(y), q.X0))
    np.testing.assert_allclose(state.theta, q.X0 - C_ * f_x(y, np.asarray(q.X0)), rtol=1e-12)
    state, _ = step(init(jax.random.key(0), jnp.asarray(y) * jnp.nan, q.X0))
    assert np.all(np.isnan(state.theta))


def test_pzobo_s_mean_is_the_gradient_of_the_unrolled_loop() -> None:
    """Over 60,000 draws of the directions, within 5 standard errors, for any radius."""
    y = descended(*start(), N_)
    x = start()[1]
    expected = f_x(y, x) - M["C"] @ q.truncated(A_, N_) @ f_y(y, x)
    for radius in (0.1, 3.0):
        init, step = PZOBO(A_, 1.0, inner_steps=N_, directions=2, radius=radius)(q.problem())

        def direction(key: jax.Array, init: Any = init, step: Any = step) -> jax.Array:
            return q.X0 - step(init(key, q.Y0, q.X0))[0].theta

        draws = jax.jit(jax.vmap(direction))(jax.random.split(jax.random.key(3), 60_000))
        error = np.mean(draws, axis=0) - expected
        assert np.all(np.abs(error) < 5 * np.std(draws, axis=0) / 60_000**0.5)
        # The error bar tells it from the exact hypergradient and from the one without response.
        assert np.any(
            np.abs(expected - hyper(y, x, None)) > 10 * np.std(draws, axis=0) / 60_000**0.5
        )
