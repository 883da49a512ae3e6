"""The third part of taking a call apart: a solver and a problem become a computation to differentiate.

`bind` serves all kinds of solver. Those that show their steps are bound here, the others in
`without_steps.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from toolkit import tree
from toolkit.derive.composite import composite_problem
from toolkit.derive.curvature import forward_over_reverse
from toolkit.derive.on_devices import device_axes
from toolkit.derive.refusal import NO_GRADIENT_OF_LOOP, naming_loops
from toolkit.jaxprs.one_device import as_on_one_device
from toolkit.jaxprs.varying_axes import vary, varying_axes
from toolkit.linear.choose import choose, choose_attracted
from toolkit.solve.call import WITH_DATA, Operands, SolveCall, first
from toolkit.solve.lifting import lift_solver
from toolkit.solve.without_steps import Tilt, bind_callable, bind_whole
from toolkit.solver.iterate import as_steps
from toolkit.types import (
    Ended,
    InnerProblem,
    Method,
    Primal,
    Proximal,
    Solution,
    Solver,
    Status,
    Tree,
    WholeSolve,
)


def bind(
    solver: Solver | Callable[..., Solution],
    problem: InnerProblem,
    y0: Tree,
    operands: Operands,
    xs: Tree,
    tilted: Tilt = None,
) -> SolveCall:
    """The call in which `solver` solves `problem`, for leaves like those of the other arguments.

    What the solver's functions close over is added to the operands.

    Raises:
      TypeError: the solver's `bind` returned something else than a `Method`.
      ValueError: the solver does not solve such a problem, or not with such `xs`.
    """
    if not isinstance(solver, Solver):
        return bind_callable(solver, problem, y0, operands, xs, tilted)
    method = bound_to(problem, solver)
    if isinstance(method, WholeSolve):
        return bind_whole(type(solver).__name__, method, problem, y0, operands, xs, tilted)
    _check_xs(xs, method.num_steps)
    if method.attracted:
        problem = replace(problem, linear_solver=choose_attracted(y0))
    if method.proximal is not None and {*device_axes()} - varying_axes(y0):
        # A `prox` may differ between devices where `fun` does not: see `_lift_fun`.
        y0, operands, xs = vary((y0, operands, xs), _axes_of_a_step(method, y0, operands, xs))
    method = differing_alike(_evaluated_first(method) if xs is None else method, y0)
    # The solver's functions are traced here for the first time, and with them the gradient.
    with naming_loops(NO_GRADIENT_OF_LOOP) if problem.kind == "argmin" else nullcontext():
        lifted = lift_solver(method, y0, operands, first(xs))
    method = lifted.method
    replayed = method
    if not method.linearises:
        # The reverse pass of a step differentiates its gradient by the cheaper product.
        cheaper = solver.bind(forward_over_reverse(problem))
        assert isinstance(cheaper, Method)  # the same solver gave one above
        replayed = method._replace(evaluate=cheaper.evaluate)
    steps = as_steps(method, replayed, lifted.loops_on_data)
    # The solver needed the smooth part alone; what the adjoint differentiates is the minimum of the sum.
    if method.proximal is not None:
        problem = composite_problem(problem, method.proximal)
        if isinstance(method.proximal, Proximal) and method.proximal.mirror is not None:
            # Its system is not symmetric.
            general = choose(y0, symmetric=False, hessian=False)
            problem = replace(problem, linear_solver=general)

    def run(y0: Tree, theta: Tree, xs: Tree) -> tuple[Tree, Any]:
        carry = steps.run(y0, theta, xs)
        y, made = steps.finish(carry)
        if method.stalled is None:
            return y, made
        otherwise = jnp.where(
            method.stalled(carry.state), int(Status.STALLED), int(Status.STEP_LIMIT)
        )
        otherwise = jnp.where(tree.all_finite(y), otherwise, int(Status.NOT_FINITE))
        return y, Ended(made, otherwise.astype(jnp.int32))

    primal = Primal(run, steps, type(solver).__name__, lifted.settings, tilted)
    operands = operands._replace(solver=lifted.closures)
    return SolveCall(problem, primal, y0, operands, xs, method.tol)


def bound_to(problem: InnerProblem, solver: Solver) -> Method | WholeSolve:
    """The solver's step on the problem, or its whole solve."""
    method = solver.bind(problem)
    if not isinstance(method, Method | WholeSolve):
        raise TypeError(
            f"`solver` must have bind(problem) -> toolkit.types.Method: that of "
            f"{type(solver).__name__} returned {type(method).__name__}."
        )
    return method


def _evaluated_first(method: Method) -> Method:
    """`method`, its first state made with an evaluation, where it can keep one."""
    init, keep = method.init, method.keep
    if keep is None:
        return method

    def evaluated(y0: Tree, theta: Operands) -> Tree:
        state = init(y0, theta)
        return keep(state, method.evaluate(state, theta, None).needed)

    return method._replace(init=evaluated)


def _axes_of_a_step(method: Method, y0: Tree, operands: Operands, xs: Tree) -> frozenset[str]:
    """The device axes along which a state that has been updated differs."""

    def updated(y0: Tree, operands: Operands, x: Tree) -> Tree:
        state, number = method.init(y0, operands), jnp.asarray(0, jnp.int32)
        needed = method.evaluate(state, operands, x).needed
        return method.update(state, needed, operands, number, x)

    return varying_axes(jax.eval_shape(updated, y0, operands, first(xs)))


def differing_alike(method: Method, y0: Tree) -> Method:
    """`method`, all of its state marked as differing over the device axes over which `y0` does.

    A solver makes arrays of its own, such as the step count of Adam. Inside `jax.shard_map` they differ
    between devices as soon as they meet `y`, and a loop's carry must have one type before and after a step.
    """
    axes = varying_axes(y0)
    if not axes:
        return method
    # The line searches of optax loop over arrays that they make themselves.
    init, update = method.init, as_on_one_device(method.update, loops_only=True)
    return method._replace(
        init=lambda *args: vary(init(*args), axes), update=lambda *args: vary(update(*args), axes)
    )


def _check_xs(xs: Tree, num_steps: int) -> None:
    for leaf in jax.tree.leaves(xs):
        if jnp.ndim(leaf) < 1 or leaf.shape[0] != num_steps:
            raise ValueError(
                f"`xs` must have num_steps={num_steps} entries along its leading axis: got shape "
                f"{jnp.shape(leaf)}; what every step reads is part of theta: {WITH_DATA}."
            )
