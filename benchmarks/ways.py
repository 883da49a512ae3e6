"""Ways to a hypergradient: by hand, by hand as tightly as we can, by this package, by its peers.

Each takes a problem and gives `theta -> gradient`, and leaves the problem's losses as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

import toolkit as tk
from benchmarks.problems import MOMENTUM, STEP_SIZE, Problem

Gradient = Callable[[Any], Any]
CG_STEPS = TERMS = 20


def _descend(p: Problem, y: Any, theta: Any) -> Any:
    """The solve: momentum descent as a scan."""

    def step(carry: tuple[Any, Any], _: None) -> tuple[tuple[Any, Any], None]:
        return _move(p, *carry, theta), None

    return jax.lax.scan(step, (y, jax.tree.map(jnp.zeros_like, y)), None, p.steps)[0][0]


def _move(p: Problem, y: Any, velocity: Any, theta: Any) -> tuple[Any, Any]:
    slope = jax.grad(p.inner)(y, theta)
    velocity = jax.tree.map(lambda v, g: MOMENTUM * v - g, velocity, slope)
    return jax.tree.map(lambda a, v: a + STEP_SIZE * v, y, velocity), velocity


def forward_solve(p: Problem) -> Gradient:
    """The solve alone, with no derivative."""
    return lambda theta: _descend(p, p.y0, theta)


def unrolled_by_hand(p: Problem) -> Gradient:
    """`jax.grad` of a scan."""
    return jax.grad(lambda theta: p.outer(_descend(p, p.y0, theta), theta))


def unrolled_limit(p: Problem) -> Gradient:
    """The iterates stored, and a Hessian-vector product at each on the way back."""

    def gradient(theta: Any) -> Any:
        def step(carry: Any, _: None) -> Any:
            return _move(p, *carry, theta), carry[0]

        start = (p.y0, jax.tree.map(jnp.zeros_like, p.y0))
        (y, _), iterates = jax.lax.scan(step, start, None, p.steps)
        y_bar, theta_bar = jax.grad(p.outer, (0, 1))(y, theta)

        def back(carry: Any, y: Any) -> Any:
            y_bar, v_bar, theta_bar = carry
            v_bar = jax.tree.map(lambda v, b: v + STEP_SIZE * b, v_bar, y_bar)
            slope = jax.grad(lambda y, theta: p.inner(y, theta), (0, 1))
            along = lambda y: slope(y, theta)
            _, (hvp, cross) = jax.jvp(along, (y,), (v_bar,))
            y_bar = jax.tree.map(jnp.subtract, y_bar, hvp)
            theta_bar = jax.tree.map(jnp.subtract, theta_bar, cross)
            return (y_bar, jax.tree.map(lambda v: MOMENTUM * v, v_bar), theta_bar), None

        start = (y_bar, jax.tree.map(jnp.zeros_like, y_bar), theta_bar)
        return jax.lax.scan(back, start, iterates, reverse=True)[0][2]

    return gradient


def implicit_by_hand(p: Problem) -> Gradient:
    """The system by `jax.scipy.sparse.linalg.cg`, with a Hessian-vector product a step."""

    def gradient(theta: Any) -> Any:
        y = _descend(p, p.y0, theta)
        y_bar, theta_bar = jax.grad(p.outer, (0, 1))(y, theta)
        hvp = lambda v: jax.jvp(lambda y: jax.grad(p.inner)(y, theta), (y,), (v,))[1]
        v, _ = jax.scipy.sparse.linalg.cg(hvp, y_bar, tol=0.0, maxiter=CG_STEPS)
        _, pull = jax.vjp(lambda theta: jax.grad(p.inner)(y, theta), theta)
        return jax.tree.map(jnp.subtract, theta_bar, pull(v)[0])

    return gradient


def implicit_limit(p: Problem) -> Gradient:
    """The gradient linearised once; conjugate gradients written out."""

    def gradient(theta: Any) -> Any:
        y = _descend(p, p.y0, theta)
        y_bar, theta_bar = jax.grad(p.outer, (0, 1))(y, theta)
        _, product = jax.linearize(lambda y: jax.grad(p.inner)(y, theta), y)
        v = _conjugate_gradients(product, y_bar)
        _, cross = jax.jvp(lambda y: jax.grad(p.inner, 1)(y, theta), (y,), (v,))
        return jax.tree.map(jnp.subtract, theta_bar, cross)

    return gradient


def neumann_by_hand(p: Problem) -> Gradient:
    """`TERMS` terms of `step_size sum_j (I - step_size H)^j q`, a Hessian-vector product each."""

    def gradient(theta: Any) -> Any:
        y = _descend(p, p.y0, theta)
        y_bar, theta_bar = jax.grad(p.outer, (0, 1))(y, theta)
        hvp = lambda v: jax.jvp(lambda y: jax.grad(p.inner)(y, theta), (y,), (v,))[1]

        def term(_: Any, carry: tuple[Any, Any]) -> tuple[Any, Any]:
            power, total = carry
            power = jax.tree.map(lambda a, b: a - STEP_SIZE * b, power, hvp(power))
            return power, jax.tree.map(jnp.add, total, power)

        _, total = jax.lax.fori_loop(1, TERMS, term, (y_bar, y_bar))
        _, pull = jax.vjp(lambda theta: jax.grad(p.inner)(y, theta), theta)
        (cross,) = pull(total)
        return jax.tree.map(lambda direct, c: direct - STEP_SIZE * c, theta_bar, cross)

    return gradient


def _conjugate_gradients(product: Callable[[Any], Any], b: Any) -> Any:
    add = lambda a, s, b: jax.tree.map(lambda x, y: x + s * y, a, b)

    def step(_: Any, state: Any) -> Any:
        x, r, d, rr = state
        hd = product(d)
        a = rr / optax.tree.vdot(d, hd)
        x, r = add(x, a, d), add(r, -a, hd)
        new = optax.tree.vdot(r, r)
        return x, r, add(r, new / rr, d), new

    start = (jax.tree.map(jnp.zeros_like, b), b, b, optax.tree.vdot(b, b))
    return jax.lax.fori_loop(0, CG_STEPS, step, start)[0]


def ours(p: Problem, adjoint: Any) -> Gradient:
    """`tk.argmin`, differentiated by `jax.grad`."""
    solver = tk.solver.GradientDescent(STEP_SIZE, p.steps, MOMENTUM)
    solve = tk.argmin(p.inner, solver, adjoint=adjoint)
    return jax.grad(lambda theta: p.outer(solve(p.y0, theta).value, theta))


def our_solve(p: Problem) -> Gradient:
    """The solve of `tk.argmin` alone, with no derivative."""
    solver = tk.solver.GradientDescent(STEP_SIZE, p.steps, MOMENTUM)
    solve = tk.argmin(p.inner, solver)
    return lambda theta: solve(p.y0, theta).value


def jaxopt(p: Problem, implicit: bool) -> Gradient:
    """`jaxopt.OptaxSolver` with its own implicit rule, or unrolled."""
    import jaxopt

    def cg(matvec: Any, b: Any, **_: Any) -> Any:
        return jaxopt.linear_solve.solve_cg(matvec, b, tol=0.0, maxiter=CG_STEPS)

    optimizer = optax.sgd(STEP_SIZE, MOMENTUM)
    solver = jaxopt.OptaxSolver(
        p.inner, optimizer, maxiter=p.steps, tol=0.0, implicit_diff=implicit, implicit_diff_solve=cg,
        unroll=False if implicit else "auto", jit=True,
    )  # fmt: skip
    return jax.grad(lambda theta: p.outer(solver.run(p.y0, theta).params, theta))


def optimistix(p: Problem) -> Gradient:
    """`optimistix.minimise` with optax's momentum descent, recursive checkpointing of every step."""
    import optimistix

    solver = optimistix.OptaxMinimiser(optax.sgd(STEP_SIZE, MOMENTUM), rtol=0.0, atol=0.0)
    adjoint = optimistix.RecursiveCheckpointAdjoint(checkpoints=p.steps)

    def loss(theta: Any) -> jax.Array:
        found = optimistix.minimise(
            lambda y, theta: p.inner(y, theta), solver, p.y0, theta,
            max_steps=p.steps, throw=False, adjoint=adjoint,
        )  # fmt: skip
        return p.outer(found.value, theta)

    return jax.grad(loss)
