"""The programs: one problem each, solved by this package, by jaxopt and by optimistix.

All sides get the same problem, start, tolerance and limit on the steps, and else their own defaults: what they
cost a user who changes nothing but the library. Everything is float32, as JAX has it. A function below takes the
name of a library and returns that library's solve, `theta -> solution`, and theta.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import toolkit as tk
from benchmarks.contest import Entry, NoCounterpart, Suite

OURS = "toolkit"
Solve = tuple[Callable[[Any], Any], Any]
TOL = 1e-4  # absolute, on each library's own residual


def _normal(seed: int, *shape: int) -> Any:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def _layer(z: Any, theta: Any) -> Any:
    weights, bias = theta
    return jnp.tanh(z @ weights + bias)


def fixed_points(library: str, batch: int, units: int, accelerated: bool = False) -> Solve:
    """A deep equilibrium model: fixed points of a layer, a row each; a step contracts by about 0.3."""
    theta = 0.3 * _normal(0, units, units) / units**0.5, _normal(1, batch, units)
    start = jnp.zeros((batch, units), jnp.float32)
    if library == "jaxopt":
        import jaxopt

        if accelerated:
            solver = jaxopt.AndersonAcceleration(_layer, history_size=5, maxiter=200, tol=TOL)
        else:
            solver = jaxopt.FixedPointIteration(_layer, maxiter=200, tol=TOL)
        return lambda theta: solver.run(start, theta).params, theta
    if library == "optimistix":
        import optimistix

        if accelerated:
            raise NoCounterpart("optimistix has no Anderson acceleration")
        step = optimistix.FixedPointIteration(rtol=0.0, atol=TOL)
        find = partial(optimistix.fixed_point, _layer, step, start, max_steps=200, throw=False)
        return lambda theta: find(theta).value, theta
    ours = (
        tk.solver.Anderson(200, TOL, 5) if accelerated else tk.solver.FixedPointIteration(200, TOL)
    )
    solve = tk.fixed_point(_layer, ours)
    return lambda theta: solve(start, theta).value, theta


LANES, EXAMPLES, FEATURES = 32, 100, 20


def _logistic(y: Any, theta: Any) -> Any:
    penalty, inputs, labels = theta
    return jnp.mean(jax.nn.softplus(-labels * (inputs @ y))) + 0.5 * penalty * jnp.sum(y**2)


def lbfgs(library: str, lanes: int | None) -> Solve:
    """Logistic regressions of 20 weights on 100 examples: one, or `lanes` of them by `vmap`."""
    shape = () if lanes is None else (lanes,)
    inputs, weights = _normal(0, *shape, EXAMPLES, FEATURES), _normal(1, *shape, FEATURES)
    noise = _normal(2, *shape, EXAMPLES)
    labels = jnp.sign(jnp.einsum("...nd,...d->...n", inputs, weights) + noise)
    theta = jnp.full(shape, 0.01, jnp.float32), inputs, labels
    start = jnp.zeros(FEATURES, jnp.float32)
    if library == "jaxopt":
        import jaxopt

        solver = jaxopt.LBFGS(_logistic, maxiter=100, tol=TOL)
        one: Callable[[Any], Any] = lambda theta: solver.run(start, theta).params
    elif library == "optimistix":
        import optimistix

        step = optimistix.LBFGS(rtol=0.0, atol=TOL)
        find = partial(optimistix.minimise, _logistic, step, start, max_steps=100, throw=False)
        one = lambda theta: find(theta).value
    else:
        solve = tk.argmin(_logistic, tk.solver.LBFGS(100, TOL))
        one = lambda theta: solve(start, theta).value
    return one if lanes is None else jax.vmap(one), theta


def newton(library: str) -> Solve:
    """A root of 50 coupled cubic equations."""
    coupling = 0.1 * _normal(0, 50, 50)
    equations = lambda y, theta: y + y**3 / 3 + coupling @ jnp.sin(y) - theta
    theta, start = _normal(1, 50), jnp.zeros(50, jnp.float32)
    if library == "jaxopt":
        raise NoCounterpart("jaxopt has no Newton's method")
    if library == "optimistix":
        import optimistix

        step = optimistix.Newton(rtol=0.0, atol=TOL)
        find = partial(optimistix.root_find, equations, step, start, max_steps=50, throw=False)
        return lambda theta: find(theta).value, theta
    solve = tk.root(equations, tk.solver.Newton(50, TOL))
    return lambda theta: solve(start, theta).value, theta


def lasso(library: str) -> Solve:
    """The lasso with 200 examples of 500 features, 10 of which matter, by accelerated proximal gradient."""
    inputs = _normal(0, 200, 500) / 200**0.5
    targets = inputs[:, :10] @ _normal(1, 10) + 0.1 * _normal(2, 200)
    step_size = float(1 / jnp.linalg.norm(inputs, 2) ** 2)
    smooth = lambda y, *_: 0.5 * jnp.sum((inputs @ y - targets) ** 2)
    theta, start = jnp.asarray(0.1, jnp.float32), jnp.zeros(500, jnp.float32)
    if library == "jaxopt":
        import jaxopt

        solver = jaxopt.ProximalGradient(
            smooth, jaxopt.prox.prox_lasso, stepsize=step_size, maxiter=2000, tol=TOL
        )
        return lambda theta: solver.run(start, theta).params, theta
    if library == "optimistix":
        raise NoCounterpart("optimistix has no proximal gradient")
    ours = tk.solver.ProximalGradient(tk.prox.lasso, step_size, 2000, TOL, accelerated=True)
    solve = tk.argmin(smooth, ours)
    return lambda theta: solve(start, theta).value, theta


def least_squares(library: str) -> Solve:
    """Two decaying exponentials through 200 points, by Levenberg-Marquardt; theta are the points."""
    times = jnp.linspace(0, 4, 200, dtype=jnp.float32)

    def curve(y: Any) -> Any:
        return y[0] * jnp.exp(-y[1] * times) + y[2] * jnp.exp(-y[3] * times)

    residuals = lambda y, points: curve(y) - points
    theta = curve(jnp.asarray([2, 0.5, 1, 3], jnp.float32)) + 0.01 * _normal(0, 200)
    start = jnp.asarray([1, 0.3, 1, 2], jnp.float32)
    if library == "jaxopt":
        import jaxopt

        solver = jaxopt.LevenbergMarquardt(residuals, maxiter=100, tol=TOL)
        return lambda points: solver.run(start, points).params, theta
    import optimistix

    step = optimistix.LevenbergMarquardt(rtol=TOL, atol=TOL)
    if library == "optimistix":
        find = partial(optimistix.least_squares, residuals, step, start, max_steps=100, throw=False)
        return lambda points: find(points).value, theta
    solve = tk.least_squares(residuals, tk.solver.Optimistix(step, 100, tol=TOL))
    return lambda points: solve(start, points).value, theta


PROGRAMS: dict[str, Callable[[str], Solve]] = {
    "deq": partial(fixed_points, batch=64, units=128),
    "anderson": partial(fixed_points, batch=64, units=128, accelerated=True),
    "fixed_point": partial(fixed_points, batch=1, units=50),
    "lbfgs": partial(lbfgs, lanes=None),
    "lbfgs_vmap": partial(lbfgs, lanes=LANES),
    "newton": newton,
    "lasso": lasso,
    "least_squares": least_squares,
}
WHAT = ("value", "gradient")
PEERS = ("jaxopt", "optimistix")


def _build(program: str, what: str, library: str) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    if (program, what, library) == ("deq", "gradient", "optimistix"):
        raise NoCounterpart("not measured: a call takes 4 s, for a matrix of 268 MB")
    solve, theta = PROGRAMS[program](library)
    if what == "value":
        return solve, (theta,)
    return jax.grad(lambda theta: jnp.sum(jnp.square(solve(theta)))), (theta,)


def _suite(program: str, what: str) -> Suite:
    entries = {name: Entry(partial(_build, program, what, name)) for name in (OURS, *PEERS)}
    return Suite(program, "the solution, or the gradient of its squared norm in theta", entries)


SUITES = {f"{program}-{what}": _suite(program, what) for program in PROGRAMS for what in WHAT}
