"""A small program for each public function: its path, and a scalar of three numbers that it computes."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

import toolkit as tk
from benchmarks.transforms.columns import Program, Value

A = np.array([[1.0, 0.2, -0.1], [0.1, 0.8, 0.3], [-0.2, 0.1, 0.9], [0.3, -0.3, 0.4]])
B = np.array([1.0, -0.5, 0.7, 0.2])
GOAL = np.array([0.4, 0.1, -0.2])
Y0 = np.zeros(3)
DAMPING = 1e-3  # of Nystrom's sketch
STEPS, RATE = 300, 0.35  # the slowest error shrinks by 0.7 a step: to 1e-46


def inner(y: Array, theta: Array) -> Array:
    """Ridge regression with a penalty for each weight."""
    return 0.5 * jnp.sum((A @ y - B) ** 2) + 0.5 * jnp.sum(jnp.exp(theta) * y**2)


def residuals(y: Array, theta: Array) -> tuple[Array, Array]:
    """Half of the sum of their squares is `inner`."""
    return A @ y - B, jnp.exp(theta / 2) * y


def outer(y: Array, theta: Array) -> Array:
    return jnp.sum((y - GOAL) ** 2) + jnp.sum(theta**2) * jnp.sum(y)


def minimiser(theta: Array, damping: float = 0.0) -> Array:
    return jnp.linalg.solve(A.T @ A + jnp.diag(jnp.exp(theta) + damping), A.T @ B)


def bounded(theta: Array) -> Array:
    """The minimiser under `y[2] >= 2 + theta[2]`, which is on that bound."""
    hessian, last = A.T @ A + jnp.diag(jnp.exp(theta)), 2.0 + theta[2]
    others = jnp.linalg.solve(hessian[:2, :2], (A.T @ B)[:2] - hessian[:2, 2] * last)
    return jnp.append(others, last)


def step(y: Array, theta: Array) -> Array:
    """One step of gradient descent on `inner`; the minimiser is its fixed point."""
    return y - RATE * (A.T @ (A @ y - B) + jnp.exp(theta) * y)


def exact(theta: Array) -> Array:
    return outer(minimiser(theta), theta)


def solved(solve: Any, y0: Any = Y0) -> Value:
    return lambda theta: outer(solve(jnp.asarray(y0), theta).value, theta)


def descent(momentum: float = 0.0) -> Any:
    return tk.solver.GradientDescent(RATE if momentum == 0 else 0.1, STEPS, momentum)


def _adjoints() -> dict[str, Program]:
    a = tk.adjoint
    held = lambda theta: jax.lax.stop_gradient(minimiser(theta))
    rules: dict[str, tuple[Any, Value]] = {
        "Forward": (a.Forward(), exact),
        "Implicit": (a.Implicit(), exact),
        "Nudged": (a.Nudged(0.01), exact),
        "OneStep": (a.OneStep(), lambda theta: outer(step(held(theta), theta), theta)),
        "Reversible": (a.Reversible(), exact),
        "Stopped": (a.Stopped(), lambda theta: outer(held(theta), theta)),
        "Truncated": (a.Truncated(150), exact),
        "Unroll": (a.Unroll(), exact),
    }
    programs = {}
    for name, (rule, reference) in rules.items():
        # Exact reversal keeps its state on a grid.
        reversible = name == "Reversible"
        solve = tk.argmin(inner, descent(0.5 if reversible else 0.0), adjoint=rule)
        programs[f"tk.adjoint.{name}"] = Program(solved(solve), reference)
    return programs


def _solvers() -> dict[str, Program]:
    s, tol = tk.solver, 1e-13
    minimisers = {
        "GradientDescent": descent(),
        "LBFGS": s.LBFGS(50, 1e-11),
        "MirrorDescent": s.MirrorDescent(lambda y: 2 * y, lambda z, t: z / 2, RATE, STEPS, tol),
        "Newton": s.Newton(5, tol),
        "Optax": s.Optax(optax.sgd(RATE), STEPS),
        "Optimistix": s.Optimistix("BFGS", 100, 1e-11),
        "QuadraticProgram": s.QuadraticProgram(tol=1e-11),
        "Scipy": s.Scipy("trust-exact", 100, 1e-11),
    }
    found = {
        name: Program(solved(tk.argmin(inner, one)), exact) for name, one in minimisers.items()
    }
    penalised = lambda y, theta: 0.5 * jnp.sum((A @ y - B) ** 2)
    ridge = lambda y, theta, step_size: y / (1 + step_size * jnp.exp(theta))
    proximal = s.ProximalGradient(ridge, RATE, 2 * STEPS, tol)
    found["ProximalGradient"] = Program(solved(tk.argmin(penalised, proximal)), exact)
    blocks = s.BlockCoordinateDescent(lambda y, theta, step_size: y, RATE, 2 * STEPS, tol)
    found["BlockCoordinateDescent"] = Program(solved(tk.argmin(inner, blocks)), exact)
    # The third weight is below its bound, which is then its value.
    above = lambda y, theta: jnp.maximum(y, jnp.array([-9.0, -9.0, 2.0]) + theta)
    inside = s.ProjectedGradient(above, RATE, 2 * STEPS, tol)
    found["ProjectedGradient"] = Program(
        solved(tk.argmin(inner, inside), Y0 + 3), lambda theta: outer(bounded(theta), theta)
    )
    maps = {
        "Anderson": s.Anderson(50, 1e-12),
        "FixedPointIteration": s.FixedPointIteration(2 * STEPS, tol),
    }
    for name, one in maps.items():
        found[name] = Program(solved(tk.fixed_point(step, one)), exact)
    cube = tk.root(
        lambda y, theta: y**3 - jnp.sum(jnp.exp(theta)), s.Bisection((0.0, 9.0), 60, 1e-13)
    )
    found["Bisection"] = Program(
        lambda theta: cube(jnp.zeros(()), theta).value,
        lambda theta: jnp.cbrt(jnp.sum(jnp.exp(theta))),
    )
    return {f"tk.solver.{name}": program for name, program in found.items()}


def _linear_solvers() -> dict[str, Program]:
    l = tk.linear
    solvers = {
        "BiCGStab": l.BiCGStab(20, 1e-13),
        "CG": l.CG(20, 1e-13),
        "Dense": l.Dense(),
        "GMRES": l.GMRES(3, 1e-13),
        "Lineax": l.Lineax("LU"),
        "Neumann": l.Neumann(400),
        "Nystrom": l.Nystrom(3, DAMPING),
    }

    def direct(solver: Any) -> Value:
        def value(theta: Array) -> Array:
            product = lambda v: A.T @ (A @ v) + jnp.exp(theta) * v
            return outer(solver(product, jnp.asarray(A.T @ B))[0], theta)

        return value

    # A sketch of three vectors of three is the whole matrix.
    damped = lambda theta: outer(minimiser(theta, DAMPING), theta)
    return {
        f"tk.linear.{name}": Program(direct(one), damped if name == "Nystrom" else exact)
        for name, one in solvers.items()
    }


def _bilevel_methods() -> dict[str, Program]:
    b, size = tk.bilevel, (0.3, 0.1)
    two = {"inner_steps": 3, "linear_steps": 3}
    series = {"linear_steps": 3, "linear_step_size": 0.2}
    methods = {
        # The implicit rule is that of a solution: a start of few steps has no derivative in it.
        "AID": b.AID(*size, inner_steps=STEPS),
        "AmIGO": b.AmIGO(*size, **two),
        "BOME": b.BOME(*size, inner_steps=3),
        "BSA": b.BSA(*size, inner_steps=3, **series),
        "DARTS": b.DARTS(*size),
        "DoubleLoop": b.DoubleLoop(*size, inner_steps=STEPS),
        "F2SA": b.F2SA(*size, inner_steps=3),
        "FSLA": b.FSLA(*size),
        "HOAG": b.HOAG(*size),
        "ITD": b.ITD(*size, inner_steps=3),
        "MRBO": b.MRBO(*size, **series),
        "PZOBO": b.PZOBO(*size, inner_steps=2, directions=2),
        "SABA": b.SABA(*size, batch_size=2),
        "SAMA": b.SAMA(*size),
        "SOBA": b.SOBA(*size, batch_size=2),
        "SRBA": b.SRBA(*size, period=2, batch_size=2),
        "SUSTAIN": b.SUSTAIN(*size, **series),
        "StocBiO": b.StocBiO(*size, inner_steps=3, **series),
        "T1T2": b.T1T2(*size),
        "TTSA": b.TTSA(*size, **series),
        "VRBO": b.VRBO(*size, inner_steps=2, period=2, **series),
    }

    def on_batch(y: Array, theta: Array, batch: Any) -> Array:
        x, z = batch
        return 0.5 * jnp.mean((x @ y - z) ** 2) + 0.5 * jnp.sum(jnp.exp(theta) * y**2)

    def validation(y: Array, theta: Array, batch: Any) -> Array:
        x, z = batch
        return jnp.mean((x @ y + x[:, 0] - z) ** 2) + 0.1 * jnp.sum(theta**2)

    def after(method: Any) -> Value:
        """Two steps from a theta, and what they have made of it."""
        data = jnp.asarray(A), jnp.asarray(B)
        init, advance = method(tk.bilevel.Problem(on_batch, validation, data, data))

        def value(theta: Array) -> Array:
            state = init(jax.random.key(0), jnp.full(3, 0.2), theta)
            for _ in range(2):
                state, _ = advance(state)
            return jnp.sum(state.theta**2) + jnp.sum(jnp.sin(state.y))

        return value

    return {f"tk.bilevel.{name}": Program(after(method)) for name, method in methods.items()}


def _credit_rules() -> dict[str, Program]:
    c = tk.credit
    rules = {
        "Backprop": c.Backprop(),
        "ContrastiveLearning": c.ContrastiveLearning(free_steps=40, clamped_steps=20),
        "CoupledLearning": c.CoupledLearning(free_steps=40, clamped_steps=20),
        "DifferenceTargetPropagation": c.DifferenceTargetPropagation(),
        "DirectFeedbackAlignment": c.DirectFeedbackAlignment(),
        "DualPropagation": c.DualPropagation(),
        "EquilibriumPropagation": c.EquilibriumPropagation(free_steps=40, nudged_steps=20),
        "FeedbackAlignment": c.FeedbackAlignment(),
        "ForwardForward": c.ForwardForward(3),
        "LocalLosses": c.LocalLosses(),
        "NodePerturbation": c.NodePerturbation(),
        "PredictiveCoding": c.PredictiveCoding(),
        "SyntheticGradients": c.SyntheticGradients(),
    }

    def dense(units: int) -> Any:
        def init(key: Array, h: Array) -> Array:
            return jax.random.normal(key, (h.shape[-1], units), h.dtype) / h.shape[-1]

        return init, lambda w, h: h @ w

    model = c.layered([(dense(4), jnp.tanh), (dense(3), jnp.tanh), (dense(3), c.identity)])
    loss = lambda output, target: 0.5 * jnp.sum((output - target) ** 2, axis=-1)
    x = jnp.asarray(np.pad(A, ((0, 0), (1, 1))))
    batch = x, jax.nn.one_hot(jnp.array([0, 1, 2, 1]), 3, dtype=x.dtype)
    key = jax.random.key(1)
    params = model.init(jax.random.key(0), x)

    def gradient(rule: Any) -> Value:
        """A number of the gradient that the rule gives the network whose first weights are moved by theta."""
        init, gradients = rule(model, loss)
        state = init(key, params, batch)

        def value(theta: Array) -> Array:
            leaves, structure = jax.tree.flatten(params)
            moved = structure.unflatten(
                [
                    leaf + jnp.mean(theta * t)
                    for leaf, t in zip(
                        leaves,
                        (
                            jnp.array([1.0, 2.0, -1.0]),
                            jnp.array([-1.0, 0.5, 1.0]),
                            jnp.array([0.3, 1.0, 2.0]),
                        ),
                        strict=True,
                    )
                ]
            )
            found = gradients(moved, state, batch, key)[0]
            return sum(jnp.sum(jnp.sin(leaf + i)) for i, leaf in enumerate(jax.tree.leaves(found)))

        return value

    return {f"tk.credit.{name}": Program(gradient(rule)) for name, rule in rules.items()}


def _functions() -> dict[str, Program]:
    solve = tk.argmin(inner, descent())
    condition = lambda y, theta: A.T @ (A @ y - B) + jnp.exp(theta) * y
    gradient = tk.hypergradient(outer, solve)
    slopes = lambda slope: jnp.sum(jnp.sin(slope))

    def checked(theta: Array) -> Array:
        tk.check_hypergradient(outer, solve, jnp.asarray(Y0), theta)
        return exact(theta)

    def compared(theta: Array) -> Array:
        rules = {"a": tk.adjoint.Implicit(), "b": tk.adjoint.Unroll()}
        tk.compare_adjoints(inner, outer, descent(), jnp.asarray(Y0), theta, rules)
        return exact(theta)

    def looped(theta: Array) -> Array:
        y, _ = tk.loop(lambda y, _: (step(y, theta), None), jnp.asarray(Y0), length=STEPS)
        return outer(y, theta)

    def until(theta: Array) -> Array:
        go_on = lambda carry: carry[1] < STEPS
        advance = lambda carry: (step(carry[0], theta), carry[1] + 1)
        y, _ = tk.while_loop(go_on, advance, (jnp.asarray(Y0), 0), max_steps=STEPS)
        return outer(y, theta)

    @tk.control_flow
    def plain(theta):
        y = jnp.zeros(3)
        for _ in range(STEPS):
            y = step(y, theta)
        return outer(y, theta)

    return {
        "tk.argmin": Program(solved(solve), exact),
        "tk.root": Program(solved(tk.root(condition, tk.solver.Newton(5, 1e-13))), exact),
        "tk.fixed_point": Program(
            solved(tk.fixed_point(step, tk.solver.FixedPointIteration(2 * STEPS, 1e-13))), exact
        ),
        "tk.least_squares": Program(
            solved(tk.least_squares(residuals, tk.solver.Newton(5, 1e-13))), exact
        ),
        "tk.hypergradient": Program(
            lambda theta: slopes(gradient(jnp.asarray(Y0), theta).gradient),
            lambda theta: slopes(jax.grad(exact)(theta)),
        ),
        "tk.check_hypergradient": Program(checked, exact),
        "tk.compare_adjoints": Program(compared, exact),
        "tk.loop": Program(looped, exact),
        "tk.while_loop": Program(until, exact),
        "tk.control_flow": Program(plain, exact),
    }


def programs() -> dict[str, Program]:
    """By path."""
    return {
        **_adjoints(),
        **_solvers(),
        **_linear_solvers(),
        **_bilevel_methods(),
        **_credit_rules(),
        **_functions(),
    }
