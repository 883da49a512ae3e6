"""P3, MAML: a start from which five steps fit a wave."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import toolkit as tk
from benchmarks import in_torch
from benchmarks.contest import Entry, Suite
from benchmarks.problems import drawn

TASKS, POINTS, STEPS, STEP_SIZE = 32, 10, 5, 0.01
SIZES = (1, 40, 40, 1)


class Task(NamedTuple):
    """Points of a wave to adapt on, and others to judge by: `[POINTS, 1]` each, or `[TASKS, POINTS, 1]`."""

    x: jax.Array
    y: jax.Array
    new_x: jax.Array
    new_y: jax.Array


Fit = Callable[[Any, Task], Any]  # start, task -> adapted parameters


def tasks() -> Task:
    """Waves of amplitude 0.1 to 5 and any phase."""
    keys = jax.random.split(jax.random.key(0), 4)
    draw = lambda key, shape, low, high: drawn(jax.random.uniform, key, shape, low, high)
    amplitude = draw(keys[0], (TASKS, 1, 1), 0.1, 5.0)
    phase = draw(keys[1], (TASKS, 1, 1), 0.0, jnp.pi)
    x, new_x = (draw(key, (TASKS, POINTS, 1), -5.0, 5.0) for key in keys[2:])
    return Task(x, amplitude * jnp.sin(x + phase), new_x, amplitude * jnp.sin(new_x + phase))


def start() -> list[tuple[jax.Array, jax.Array]]:
    """Gaussian weights of variance 2 / inputs."""
    keys = jax.random.split(jax.random.key(1), len(SIZES) - 1)
    return [
        (drawn(jax.random.normal, key, (n, m)) * (2 / n) ** 0.5, jnp.zeros(m))
        for key, n, m in zip(keys, SIZES, SIZES[1:], strict=False)
    ]


def loss(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
    """Mean squared error."""
    for w, b in params[:-1]:
        x = jax.nn.relu(x @ w + b)
    w, b = params[-1]
    return jnp.mean((x @ w + b - y) ** 2)


def through(fit: Fit) -> Callable[[Any, Task], Any]:
    """The gradient in the start of the mean loss after adapting, one task an entry of a `vmap`."""

    def after(params: Any, task: Task) -> jax.Array:
        return loss(fit(params, task), task.new_x, task.new_y)

    return jax.grad(lambda params, tasks: jnp.mean(jax.vmap(after, (None, 0))(params, tasks)))


def by_hand(params: Any, task: Task) -> Any:
    """Five steps written out by Python's loop."""
    for _ in range(STEPS):
        slope = jax.grad(loss)(params, task.x, task.y)
        params = jax.tree.map(lambda p, g: p - STEP_SIZE * g, params, slope)
    return params


def by_scan(params: Any, task: Task) -> Any:
    """Five steps as a scan."""

    def step(params: Any, _: None) -> tuple[Any, None]:
        slope = jax.grad(loss)(params, task.x, task.y)
        return jax.tree.map(lambda p, g: p - STEP_SIZE * g, params, slope), None

    return jax.lax.scan(step, params, None, STEPS)[0]


def toolkit(rule: Any) -> Fit:
    """`tk.argmin` from the start that is learned."""
    solver = tk.solver.GradientDescent(STEP_SIZE, STEPS)
    solve = tk.argmin(lambda y, task: loss(y, task.x, task.y), solver, adjoint=rule)
    return lambda params, task: solve(params, task).value


def jaxopt(params: Any, task: Task) -> Any:
    """`jaxopt.OptaxSolver`, unrolled."""
    import jaxopt

    solver = jaxopt.OptaxSolver(
        lambda y, task: loss(y, task.x, task.y), optax.sgd(STEP_SIZE), maxiter=STEPS, tol=0.0,
        implicit_diff=False, unroll="auto", jit=True,
    )  # fmt: skip
    return solver.run(params, task).params


def optimistix(params: Any, task: Task) -> Any:
    """`optimistix.minimise`, every step stored."""
    import optimistix

    solver = optimistix.OptaxMinimiser(optax.sgd(STEP_SIZE), rtol=0.0, atol=0.0)
    return optimistix.minimise(
        lambda y, task: loss(y, task.x, task.y), solver, params, task, max_steps=STEPS, throw=False,
        adjoint=optimistix.RecursiveCheckpointAdjoint(checkpoints=STEPS),
    ).value  # fmt: skip


_torch = in_torch.entries("maml.waves")


def _entry(fit: Fit, against: str = "hand") -> Entry:
    return Entry(lambda: (through(fit), (start(), tasks())), against)


SUITE = Suite(
    "P3 MAML: a start from which five steps fit a wave",
    "An MLP 1-40-40-1, 32 waves of 10 points, five steps of gradient descent, gradient of the loss on 10 other points "
    "in the start, through all steps.",
    {
        "hand": _entry(by_hand),
        "hand, by a scan": _entry(by_scan),
        "toolkit Unroll()": _entry(toolkit(tk.adjoint.Unroll())),
        "toolkit Unroll() / scan": _entry(toolkit(tk.adjoint.Unroll()), "hand, by a scan"),
        "toolkit Unroll(written_out=True)": _entry(toolkit(tk.adjoint.Unroll(written_out=True))),
        "jaxopt": _entry(jaxopt),
        "optimistix": _entry(optimistix),
        "torch.func": _torch("maml.func"),
        "higher": _torch("maml.higher"),
        "torchopt": _torch("maml.torchopt"),
    },
    exact="hand",
)
