"""Each method's first steps on the whole data against its equations in numpy; its own fixed points."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.bilevel import quadratic as q
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
)

# Distinct on purpose: a step taken with another's size would show.
A_, C_, E_ = 0.2, 0.15, 0.1  # steps of y, of theta, of the linear system
N_, Q_ = 3, 2  # inner and linear steps
M = q.MEAN
Path = Iterator[tuple[np.ndarray, np.ndarray]]  # (y, x) after each step


def g_y(y: Any, x: Any) -> Any:
    return M["A"] @ y + M["C"].T @ x + M["a"]


def g_x(y: Any, x: Any) -> Any:
    return M["C"] @ y


def f_y(y: Any, x: Any) -> Any:
    return M["F"] @ y + M["K"].T @ x + M["p"]


def f_x(y: Any, x: Any) -> Any:
    return M["E"] @ x + M["K"] @ y + M["e"]


def start() -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(q.Y0), np.asarray(q.X0)


def descended(y: Any, x: Any, steps: int) -> Any:
    for _ in range(steps):
        y = y - A_ * g_y(y, x)
    return y


def hyper(y: Any, x: Any, terms: int | None) -> Any:
    """With the inverse, or the series of so many terms at E_."""
    inverse = np.linalg.inv(M["A"]) if terms is None else q.truncated(E_, terms)
    return f_x(y, x) - M["C"] @ inverse @ f_y(y, x)


def soba() -> Path:
    (y, x), v = start(), np.zeros(q.N)
    while True:
        y, v, x = (
            y - A_ * g_y(y, x),
            v - E_ * (M["A"] @ v - f_y(y, x)),
            x - C_ * (f_x(y, x) - M["C"] @ v),
        )
        yield y, x


def amigo() -> Path:
    (y, x), v = start(), np.zeros(q.N)
    while True:
        y = descended(y, x, N_)
        for _ in range(Q_):
            v = v - E_ * (M["A"] @ v - f_y(y, x))
        x = x - C_ * (f_x(y, x) - M["C"] @ v)
        yield y, x


def fsla() -> Path:
    (y, x), v = start(), np.zeros(q.N)
    while True:
        y = y - A_ * g_y(y, x)
        v = v - E_ * (M["A"] @ v - f_y(y, x))
        x = x - C_ * (f_x(y, x) - M["C"] @ v)
        yield y, x


def double(inner_steps: int, terms: int | None) -> Callable[[], Path]:
    """Inner steps, then theta."""

    def path() -> Path:
        y, x = start()
        while True:
            y = descended(y, x, inner_steps)
            x = x - C_ * hyper(y, x, terms)
            yield y, x

    return path


def single(terms: int) -> Callable[[], Path]:
    """Both at once."""

    def path() -> Path:
        y, x = start()
        while True:
            y, x = y - A_ * g_y(y, x), x - C_ * hyper(y, x, terms)
            yield y, x

    return path


def vrbo() -> Path:
    y, x = start()
    while True:
        x = x - C_ * hyper(y, x, Q_ + 1)
        y = descended(y, x, N_)
        yield y, x


def itd() -> Path:
    y, x = start()
    while True:
        y = descended(y, x, N_)
        x = x - C_ * (f_x(y, x) - M["C"] @ q.truncated(A_, N_) @ f_y(y, x))
        yield y, x


def t1t2() -> Path:
    y, x = start()
    while True:
        y = y - A_ * g_y(y, x)
        x = x - C_ * (f_x(y, x) - A_ * M["C"] @ f_y(y, x))
        yield y, x


def darts(virtual: float) -> Callable[[], Path]:
    def path() -> Path:
        y, x = start()
        while True:
            w = y - virtual * g_y(y, x)
            x = x - C_ * (f_x(w, x) - virtual * M["C"] @ f_y(w, x))
            y = y - A_ * g_y(y, x)
            yield y, x

    return path


L_ = 7.0


def f2sa() -> Path:
    (y, x), z, e = start(), start()[0], A_ / (2 * L_)
    while True:
        for _ in range(N_):
            z, y = z - A_ * g_y(z, x), y - e * (f_y(y, x) + L_ * g_y(y, x))
        x = x - C_ * (f_x(y, x) + L_ * (g_x(y, x) - g_x(z, x)))
        yield y, x


def f3sa() -> Path:
    (y, x), z, e = start(), start()[0], 0.01
    while True:
        z, y, x = (
            z - A_ * g_y(z, x),
            y - e * (f_y(y, x) + L_ * g_y(y, x)),
            x - C_ * (f_x(y, x) + L_ * (g_x(y, x) - g_x(z, x))),
        )
        yield y, x


def bome() -> Path:
    y, x = start()
    while True:
        w = descended(y, x, N_)
        f, slope = np.append(f_y(y, x), f_x(y, x)), g_y(y, x)
        constraint = np.append(slope, g_x(y, x) - g_x(w, x))
        multiplier = max(0, 0.5 - f @ constraint / (constraint @ constraint))
        d = f + multiplier * constraint
        y, x = y - A_ * d[: q.N], x - C_ * d[q.N :]
        yield y, x


SERIES = {"linear_steps": Q_, "linear_step_size": E_}
CASES: dict[str, tuple[Any, Callable[[], Path]]] = {
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
    "SAMA": (SAMA(A_, C_), t1t2),
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


@pytest.mark.parametrize("name", CASES)
def test_the_first_steps_are_those_of_the_equations(name: str) -> None:
    settings, path = CASES[name]
    init, step = settings(q.problem())
    state, step = init(jax.random.key(0), q.Y0, q.X0), jax.jit(step)
    for _, (y, x) in zip(range(4), path(), strict=False):
        state, _ = step(state)
        # Central differences of DARTS and SAMA round.
        tol = 1e-9 if name.startswith(("DARTS", "SAMA")) else 1e-11
        np.testing.assert_allclose(state.y, y, rtol=tol)
        np.testing.assert_allclose(state.theta, x, rtol=tol)


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
