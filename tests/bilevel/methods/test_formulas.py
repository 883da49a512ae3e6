"""Each method's first steps on the whole data against its equations, and what each setting does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.bilevel.methods import quadratic as q
from tests.bilevel.methods.equations import (
    A_,
    C_,
    E_,
    L_,
    N_,
    PROBLEMS,
    Q_,
    M,
    Path,
    Reference,
    amigo,
    bome,
    darts,
    descended,
    double,
    f2sa,
    f3sa,
    f_x,
    f_y,
    fsla,
    g_x,
    g_y,
    hyper,
    itd,
    sama,
    single,
    soba,
    start,
    t1t2,
    vrbo,
)
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
    warm = q.final_state(AID(A_, C_, inner_steps=5, linear_steps=1), 3000)
    np.testing.assert_allclose(warm.theta, x, rtol=1e-8)
    np.testing.assert_allclose(
        q.final_state(HOAG(A_, C_, linear_steps=1), 3000).theta, x, rtol=1e-8
    )
    cold = AID(A_, C_, inner_steps=60, linear_steps=1, warm_start=False)
    assert np.linalg.norm(q.final_state(cold, 3000).theta - x) > 1e-3
    state = q.final_state(DoubleLoop(A_, C_, inner_steps=N_, warm_start=False), 1)
    np.testing.assert_allclose(state.y, descended(*start(), N_), rtol=1e-12)
    again = q.final_state(DoubleLoop(A_, C_, inner_steps=N_, warm_start=False), 2)
    np.testing.assert_allclose(
        again.y, descended(start()[0], np.asarray(state.theta), N_), rtol=1e-12
    )


def test_srba_projects_v_on_its_ball() -> None:
    init, step = SRBA(A_, C_, linear_step_size=E_, radius=0.05)(q.problem())
    state, free = jax.jit(step)(init(jax.random.key(0), q.Y0, q.X0))[0], E_ * f_y(*start())
    assert np.linalg.norm(free) > 0.06
    np.testing.assert_allclose(state.v, 0.05 * free / np.linalg.norm(free), rtol=1e-12)


def test_bome_s_control_is_by_how_much_the_constraint_descends() -> None:
    steps = [
        q.final_state(BOME(A_, C_, inner_steps=N_, control=control), 1).theta
        for control in (0.1, 2.0)
    ]
    assert np.linalg.norm(steps[0] - steps[1]) > 1e-2
    y, x = start()
    w = descended(y, x, N_)
    f, q_slope = np.append(f_y(y, x), f_x(y, x)), np.append(g_y(y, x), g_x(y, x) - g_x(w, x))
    for control, theta in zip((0.1, 2.0), steps, strict=True):
        multiplier = max(0, control - f @ q_slope / (q_slope @ q_slope))
        expected = x - C_ * (f_x(y, x) + multiplier * q_slope[q.N :])
        np.testing.assert_allclose(theta, expected, rtol=1e-11)


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
