"""A solver bound to a problem: its loop, with what its functions close over as explicit operands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from toolkit import tree
from toolkit.derive.composite import composite_problem
from toolkit.derive.curvature import forward_over_reverse
from toolkit.errors.readable import call_as, returned_by
from toolkit.jaxprs.lift import Lifted, lift
from toolkit.solver.iterate import as_steps
from toolkit.types import Descent, Method, Problem, Proximal, Solution, Solver, Steps, Tree

Fun = Callable[..., Any]
Closed = tuple[Array, ...]  # what a function closes over


class Carried(NamedTuple):
    """Integer, boolean and key leaves: needed, never differentiated."""

    theta: Tree
    y: Tree


class SolverClosures(NamedTuple):
    """What the solver's own functions close over: traced step sizes, optax hyperparameters."""

    init: Closed = ()
    update: Closed = ()
    schedule: Closed = ()
    step_size: Closed = ()
    prox: Closed = ()


class Operands(NamedTuple):
    """All that a solution depends on, as one tree of arrays: `theta` to solvers and adjoints."""

    theta: Tree  # the user's floating and complex leaves
    carried: Carried
    fun: Closed = ()
    solver: SolverClosures = SolverClosures()
    tilt: Tree = None  # q of a tilted objective `fun(y, theta) + Re <q, y>`, where there is one


class Bound(NamedTuple):
    """A solver's computation on one problem."""

    run: Callable[[Tree, Tree, Tree], tuple[Tree, Array]]  # (y0, operands, xs) -> (y, steps made)
    steps: Steps | None  # where the solver shows them
    closures: SolverClosures  # what `run` expects in `operands.solver`
    tol: float | None  # absolute, on the residual; None judges against the start
    name: str
    settings: Operands  # booleans: what a setting of the solver reads, a schedule for one
    problem: Problem  # what the run solves: more than was asked, where the solver adds a term


def bind(
    solver: Solver | Callable[..., Solution],
    problem: Problem,
    y: Tree,
    operands: Operands,
    xs: Tree,
) -> Bound:
    """The loop of `solver` on `problem`, for leaves like those of the other arguments.

    Raises:
      ValueError: the solver does not solve such a problem, or not with such `xs`.
    """
    if not isinstance(solver, Solver):
        return _opaque(solver, problem, operands)
    method = solver.bind(problem)
    _check_xs(xs, method.num_steps)
    method, closures, settings, loops_on_data = _lift_solver(method, y, operands, first(xs))
    replayed = method._replace(evaluate=solver.bind(forward_over_reverse(problem)).evaluate)
    steps = as_steps(method, replayed, loops_on_data)
    if method.proximal is not None:
        problem = composite_problem(problem, method.proximal)

    def run(y0: Tree, theta: Tree, xs: Tree) -> tuple[Tree, Array]:
        return steps.finish(steps.run(y0, theta, xs))

    return Bound(run, steps, closures, method.tol, type(solver).__name__, settings, problem)


def first(xs: Tree) -> Tree:
    """What the first step sees of the per-step inputs."""
    for leaf in jax.tree.leaves(xs):
        if not getattr(leaf, "shape", ()) or leaf.shape[0] < 1:
            raise ValueError(
                "`xs` must have one entry a step along each leaf's leading axis, and at least one: "
                f"got {tree.describe(xs)}."
            )
    return jax.tree.map(lambda leaf: leaf[0], xs)


def last(xs: Tree) -> Tree:
    """What the last step sees of the per-step inputs."""
    return jax.tree.map(lambda leaf: leaf[-1], xs)


def _lift_solver(
    method: Method, y0: Tree, operands: Operands, x: Tree
) -> tuple[Method, SolverClosures, Operands, bool]:
    """The method with its closures explicit, them, what settings read, whether a step loops on data."""
    number = jnp.asarray(0, jnp.int32)
    begin = lift(method.init, y0, operands)
    needed = jax.eval_shape(method.evaluate, begin.shape, operands, x).needed
    update = lift(method.update, begin.shape, needed, operands, number, x)

    def init(y0: Tree, theta: Operands) -> Tree:
        return begin.call(theta.solver.init, y0, _bare(theta))

    def move(state: Tree, needed: Tree, theta: Operands, t: Array, x: Tree) -> Tree:
        return update.call(theta.solver.update, state, needed, _bare(theta), t, x)

    method = method._replace(init=init, update=move)
    closures = SolverClosures(begin.closed, update.closed)
    if method.descent is not None:
        schedule = lift(method.descent.schedule, operands, number)
        closures = closures._replace(schedule=schedule.closed)
        method = method._replace(descent=_lifted_descent(method.descent, schedule))
        settings = _settings(schedule.reads[0], closures)
    elif method.proximal is not None:
        step_size = lift(method.proximal.step_size, operands)
        prox = lift(method.proximal.prox, y0, operands, step_size.shape)
        closures = closures._replace(step_size=step_size.closed, prox=prox.closed)
        method = method._replace(proximal=_lifted_proximal(step_size, prox))
        # What the update closes over is also the proximal map's, which is no setting.
        settings = _settings(step_size.reads[0], closures)
        others = jax.tree.map(lambda _: False, closures)
        settings = settings._replace(solver=others._replace(step_size=settings.solver.step_size))
    else:
        settings = _settings(jax.tree.map(lambda _: False, operands), closures)
    return method, closures, settings, update.loops_on_data


def _settings(reads: Operands, closures: SolverClosures) -> Operands:
    return reads._replace(solver=jax.tree.map(lambda _: True, closures))


def _lifted_descent(descent: Descent, schedule: Lifted) -> Descent:
    def scheduled(theta: Operands, t: Array) -> tuple[Tree, Tree]:
        return schedule.call(theta.solver.schedule, _bare(theta), t)

    return descent._replace(schedule=scheduled)


def _lifted_proximal(step_size: Lifted, prox: Lifted) -> Proximal:
    return Proximal(
        lambda theta: step_size.call(theta.solver.step_size, _bare(theta)),
        lambda z, theta, s: prox.call(theta.solver.prox, z, _bare(theta), s),
    )


def _bare(theta: Operands) -> Operands:
    return theta._replace(solver=SolverClosures())


def _opaque(solver: Callable[..., Solution], problem: Problem, operands: Operands) -> Bound:
    """A callable solver: it is given the user's trees, and its steps are its own."""
    name = getattr(solver, "__name__", type(solver).__name__)

    def run(y0: Tree, operands: Operands, xs: Tree) -> tuple[Tree, Array]:
        if xs is not None:
            raise ValueError(
                f"`xs` must be None with the callable solver {name}: its steps are its own."
            )

        def fun(user_y: Tree, user_theta: Tree) -> Tree:
            inner = operands._replace(theta=tree.split(user_theta).inexact)
            y = tree.split(user_y).inexact
            if problem.objective is not None:
                return problem.objective(y, inner, None)
            return problem.user_y(problem.evaluate(y, inner, None), inner)

        given = (fun, problem.user_y(y0, operands), problem.user_theta(operands))
        out = call_as("solver", solver, "(fun, y0, theta)", *given)
        if not isinstance(out, Solution):
            raise returned_by(
                solver,
                ValueError(
                    f"`solver` must return tk.Solution(value, info): {name} returned "
                    f"{type(out).__name__}."
                ),
            )
        if not hasattr(out.info, "steps"):
            raise ValueError(
                f"`solver` must return tk.Solution(value, info) with tk.SolveInfo(status, steps, "
                f"residual): the info of {name} is {type(out.info).__name__}."
            )
        y = tree.split(out.value).inexact
        check_same(f"the value of {name}", y, y0, out.value, solver)
        steps = out.info.steps
        if not jnp.issubdtype(getattr(steps, "dtype", type(steps)), jnp.integer) or jnp.shape(
            steps
        ):
            raise ValueError(
                f"`solver` must return tk.SolveInfo with an integer `steps`: {name} returned "
                f"{tree.describe(steps)}."
            )
        return y, jnp.asarray(steps, jnp.int32)

    settings = _settings(jax.tree.map(lambda _: False, operands), SolverClosures())
    return Bound(run, None, SolverClosures(), None, name, settings, problem)


def check_same(what: str, got: Tree, expected: Tree, shown: Tree, by: Callable) -> None:
    """Refuse `got`, part of `shown`, unless it has the structure, shapes and dtypes of `expected`."""
    same = jax.tree.structure(got) == jax.tree.structure(expected) and all(
        a.shape == b.shape and a.dtype == b.dtype
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True)
    )
    if not same:
        raise returned_by(
            by,
            ValueError(
                f"{what} must have the shapes and dtypes of `y`: got {tree.describe(shown)}, "
                f"expected {tree.describe(expected)}."
            ),
        )


def _check_xs(xs: Tree, num_steps: int) -> None:
    for leaf in jax.tree.leaves(xs):
        if jnp.ndim(leaf) < 1 or leaf.shape[0] != num_steps:
            raise ValueError(
                f"`xs` must have num_steps={num_steps} entries along its leading axis: got shape "
                f"{jnp.shape(leaf)}."
            )
