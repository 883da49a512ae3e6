"""One call of a solve, taken apart: leaves partitioned, closures explicit, the solver bound.

What the user wrote goes in; what solvers and adjoints work on comes out. A problem is known to them
as functions of `(y, operands, x)`, where `operands` holds everything else that the solution depends
on, so that a derivative rule sees all of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from toolkit import linear, tree
from toolkit.closure import Lifted, lift
from toolkit.curvature import forward_over_reverse
from toolkit.solver.iterate import as_steps
from toolkit.types import Kind, Method, Primal, Problem, Solution, Solver, Tree

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


class Operands(NamedTuple):
    """All that a solution depends on, as one tree of arrays: `theta` to solvers and adjoints."""

    theta: Tree  # the user's floating and complex leaves
    carried: Carried
    fun: Closed = ()
    solver: SolverClosures = SolverClosures()
    tilt: Tree = None  # q of a tilted objective `fun(y, theta) + Re <q, y>`, where there is one


class Prepared(NamedTuple):
    """A solve, ready for an adjoint."""

    problem: Problem
    primal: Primal
    y0: Tree  # floating and complex leaves
    operands: Operands
    xs: Tree
    tol: float | None  # absolute, on the residual; None judges against the start


class _Partition(NamedTuple):
    """The user's trees and the way back to them."""

    y: Tree
    operands: Operands
    user_y: Callable[[Tree, Operands], Tree]
    user_theta: Callable[[Operands], Tree]


def prepare(
    kind: Kind,
    fun: Fun,
    solver: Solver | Callable[..., Solution],
    has_aux: bool,
    y0: Tree,
    theta: Tree,
    xs: Tree,
) -> Prepared:
    """Take a call apart. Traces `fun` once.

    Raises:
      ValueError: `y0`, `xs`, or what `fun` returns is not what the kind of solve needs.
    """
    parts, xs, lifted = _lift_fun(kind, fun, has_aux, _partition(y0, theta), xs)
    y, operands = parts.y, parts.operands._replace(fun=lifted.closed)
    evaluate, objective = _evaluations(kind, lifted)
    default = linear.choose(y, symmetric=kind == "argmin")
    problem = Problem(kind, evaluate, objective, parts.user_y, parts.user_theta, default)
    if not isinstance(solver, Solver):
        return Prepared(problem, _opaque(solver, problem), y, operands, xs, None)
    method = solver.bind(problem)
    _check_xs(xs, method.num_steps)
    method, closures, loops_on_data = _lift_solver(method, y, operands, first(xs))
    operands = operands._replace(solver=closures)
    replayed = method._replace(evaluate=solver.bind(forward_over_reverse(problem)).evaluate)
    steps = as_steps(method, replayed, loops_on_data)

    def run(y0: Tree, theta: Tree, xs: Tree) -> tuple[Tree, Array]:
        return steps.finish(steps.run(y0, theta, xs))

    return Prepared(problem, Primal(run, steps, type(solver).__name__), y, operands, xs, method.tol)


def first(xs: Tree) -> Tree:
    """What the first step sees of the per-step inputs."""
    for leaf in jax.tree.leaves(xs):
        if jnp.ndim(leaf) < 1 or len(leaf) < 1:
            raise ValueError(
                "`xs` must have one entry a step along each leaf's leading axis, and at least one: "
                f"got {tree.describe(xs)}."
            )
    return jax.tree.map(lambda leaf: leaf[0], xs)


def last(xs: Tree) -> Tree:
    """What the last step sees of the per-step inputs."""
    return jax.tree.map(lambda leaf: leaf[-1], xs)


def _partition(y0: Tree, theta: Tree) -> _Partition:
    y, theta = tree.split(y0), tree.split(theta)
    if not jax.tree.leaves(y.inexact):
        raise ValueError(
            f"`y0` must have a floating or complex leaf to solve for: got {tree.describe(y0)}."
        )

    def user_y(inexact: Tree, operands: Operands) -> Tree:
        return tree.merge(inexact, operands.carried.y, y.static)

    def user_theta(operands: Operands) -> Tree:
        return tree.merge(operands.theta, operands.carried.theta, theta.static)

    operands = Operands(theta.inexact, Carried(theta.arrays, y.arrays))
    return _Partition(y.inexact, operands, user_y, user_theta)


def _lift_fun(
    kind: Kind, fun: Fun, has_aux: bool, parts: _Partition, xs: Tree
) -> tuple[_Partition, Tree, Lifted]:
    """`fun` of partitioned arguments, without its aux, checked; and all of one device's kind."""

    def flat(y: Tree, operands: Operands, x: Tree) -> Tree:
        args = (parts.user_y(y, operands), parts.user_theta(operands))
        out = fun(*args) if xs is None else fun(*args, x)
        if has_aux:
            out = _without_aux(out)
        return out if kind == "argmin" else _like_y(out, args[0], y)

    lifted = lift(flat, parts.y, parts.operands, first(xs))
    if kind == "argmin":
        _check_scalar(lifted.shape)
    axes = tree.varying_axes(lifted.shape)
    if axes - tree.varying_axes(parts.y):
        # Inside shard_map each device solves a problem of its own. A start that all devices share
        # would make JAX sum the gradients of all their problems, silently.
        y, operands, xs = tree.vary((parts.y, parts.operands, xs), axes)
        parts = parts._replace(y=y, operands=operands)
        lifted = lift(flat, y, operands, first(xs))
        lifted = lifted._replace(closed=tree.vary(lifted.closed, axes))
    return parts, xs, lifted


def _evaluations(kind: Kind, lifted: Lifted) -> tuple[Callable, Callable | None]:
    """(evaluate, objective) of a problem, from its lifted function."""

    def fun(y: Tree, operands: Operands, x: Tree) -> Any:
        bare = Operands(operands.theta, operands.carried)
        return lifted.call(operands.fun, y, bare, x)

    if kind != "argmin":
        return fun, None

    def objective(y: Tree, operands: Operands, x: Tree) -> Array:
        value = fun(y, operands, x)
        if operands.tilt is None:
            return value
        return value + optax.tree.sum(
            jax.tree.map(lambda q, leaf: jnp.real(q * leaf), operands.tilt, y)
        ).astype(value.dtype)

    # For complex leaves JAX's gradient is the conjugate of the direction of ascent.
    return lambda y, operands, x: tree.conj(jax.grad(objective)(y, operands, x)), objective


def _lift_solver(
    method: Method, y0: Tree, operands: Operands, x: Tree
) -> tuple[Method, SolverClosures, bool]:
    """The method with its closures explicit, them, and whether a step loops on data."""
    number = jnp.asarray(0, jnp.int32)
    begin = lift(method.init, y0, operands)
    needed = jax.eval_shape(method.evaluate, begin.shape, operands, x).needed
    update = lift(method.update, begin.shape, needed, operands, number, x)

    def bare(theta: Operands) -> Operands:
        return theta._replace(solver=SolverClosures())

    def init(y0: Tree, theta: Operands) -> Tree:
        return begin.call(theta.solver.init, y0, bare(theta))

    def move(state: Tree, needed: Tree, theta: Operands, t: Array, x: Tree) -> Tree:
        return update.call(theta.solver.update, state, needed, bare(theta), t, x)

    method = method._replace(init=init, update=move)
    if method.descent is None:
        return method, SolverClosures(begin.closed, update.closed), update.loops_on_data
    schedule = lift(method.descent.schedule, operands, number)

    def scheduled(theta: Operands, t: Array) -> tuple[Tree, Tree]:
        return schedule.call(theta.solver.schedule, bare(theta), t)

    method = method._replace(descent=method.descent._replace(schedule=scheduled))
    closures = SolverClosures(begin.closed, update.closed, schedule.closed)
    return method, closures, update.loops_on_data


def _opaque(solver: Callable[..., Solution], problem: Problem) -> Primal:
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

        out = solver(fun, problem.user_y(y0, operands), problem.user_theta(operands))
        if not isinstance(out, Solution):
            raise ValueError(
                f"`solver` must return tk.Solution(value, info): {name} returned "
                f"{type(out).__name__}."
            )
        if not hasattr(out.info, "steps"):
            raise ValueError(
                f"`solver` must return tk.Solution(value, info) with tk.SolveInfo(status, steps, "
                f"residual): the info of {name} is {type(out.info).__name__}."
            )
        y = tree.split(out.value).inexact
        _check_same(f"the value of {name}", y, y0)
        return y, jnp.asarray(out.info.steps, jnp.int32)

    return Primal(run, None, name)


def _without_aux(out: Any) -> Any:
    if not (isinstance(out, tuple) and len(out) == 2):
        raise ValueError(
            f"`fun` must return a pair (value, aux) with has_aux=True: got {tree.describe(out)}."
        )
    return out[0]


def _like_y(out: Tree, user_y: Tree, y: Tree) -> Tree:
    """The floating leaves of what a root or a map returned, checked against `y`."""
    parts = tree.split(out).inexact
    if jax.tree.structure(out) != jax.tree.structure(user_y):
        raise ValueError(
            f"`fun` must return a tree like `y`: got {tree.describe(out)}, expected "
            f"{tree.describe(user_y)}."
        )
    _check_same("the result of `fun`", parts, y)
    return parts


def _check_same(what: str, got: Tree, expected: Tree) -> None:
    same = jax.tree.structure(got) == jax.tree.structure(expected) and all(
        a.shape == b.shape and a.dtype == b.dtype
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True)
    )
    if not same:
        raise ValueError(
            f"{what} must have the shapes and dtypes of `y`: got {tree.describe(got)}, "
            f"expected {tree.describe(expected)}."
        )


def _check_scalar(shape: Any) -> None:
    leaves = jax.tree.leaves(shape)
    if (
        len(leaves) != 1
        or leaves[0].shape != ()
        or not jnp.issubdtype(leaves[0].dtype, jnp.floating)
    ):
        raise ValueError(
            f"`fun` must return a real scalar under argmin: got {tree.describe(shape)}; "
            "for (value, aux) pass has_aux=True, for a function to be zeroed use tk.root."
        )


def _check_xs(xs: Tree, num_steps: int) -> None:
    for leaf in jax.tree.leaves(xs):
        if jnp.ndim(leaf) < 1 or leaf.shape[0] != num_steps:
            raise ValueError(
                f"`xs` must have num_steps={num_steps} entries along its leading axis: got shape "
                f"{jnp.shape(leaf)}."
            )
