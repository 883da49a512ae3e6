"""The third part of taking a call apart: a solver and a problem become a computation to differentiate.

`bind` serves both kinds of solver: those of `tk.solver`, which show their steps, and callables of the
user, which return a solution and keep their steps to themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from toolkit import tree
from toolkit.derive.composite import composite_problem
from toolkit.derive.curvature import forward_over_reverse
from toolkit.derive.on_devices import device_axes
from toolkit.derive.refusal import NO_GRADIENT_OF_LOOP, naming_loops
from toolkit.errors.readable import call_as, returned_by
from toolkit.jaxprs.lift import Lifted, lift
from toolkit.jaxprs.one_device import as_on_one_device
from toolkit.jaxprs.varying_axes import vary, varying_axes
from toolkit.solve.call import WITH_DATA, Operands, SolveCall, SolverClosures, first
from toolkit.solver.iterate import as_steps
from toolkit.types import (
    Descent,
    Evaluation,
    InnerProblem,
    Method,
    Primal,
    Proximal,
    Solution,
    Solver,
    Tilted,
    Tree,
)

Tilt = Callable[[Tree, Tree, bool], Tilted] | None


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
        primal = _callable_primal(solver, problem, operands, tilted)
        return SolveCall(problem, primal, y0, operands._replace(solver=SolverClosures()), xs, None)
    method = method_of(solver, problem)
    _check_xs(xs, method.num_steps)
    if method.proximal is not None and {*device_axes()} - varying_axes(y0):
        # A `prox` may differ between devices where `fun` does not: see `_lift_fun`.
        y0, operands, xs = vary((y0, operands, xs), _axes_of_a_step(method, y0, operands, xs))
    method = differing_alike(method, y0)
    # The solver's functions are traced here for the first time, and with them the gradient.
    with naming_loops(NO_GRADIENT_OF_LOOP) if problem.kind == "argmin" else nullcontext():
        lifted = _lift_solver(method, y0, operands, first(xs))
    method = lifted.method
    replayed = method
    if not method.linearises:
        # The reverse pass of a step differentiates its gradient by the cheaper product.
        replayed = method._replace(evaluate=solver.bind(forward_over_reverse(problem)).evaluate)
    steps = as_steps(method, replayed, lifted.loops_on_data)
    # The solver needed the smooth part alone; what the adjoint differentiates is the minimum of the sum.
    if method.proximal is not None:
        problem = composite_problem(problem, method.proximal)

    def run(y0: Tree, theta: Tree, xs: Tree) -> tuple[Tree, Array]:
        return steps.finish(steps.run(y0, theta, xs))

    primal = Primal(run, steps, type(solver).__name__, lifted.settings, tilted)
    operands = operands._replace(solver=lifted.closures)
    return SolveCall(problem, primal, y0, operands, xs, method.tol)


def method_of(solver: Solver, problem: InnerProblem) -> Method:
    """The solver's step on the problem."""
    method = solver.bind(problem)
    if not isinstance(method, Method):
        raise TypeError(
            f"`solver` must have bind(problem) -> toolkit.types.Method: that of "
            f"{type(solver).__name__} returned {type(method).__name__}."
        )
    return method


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


class _LiftedSolver(NamedTuple):
    """A method whose functions close over no array any more."""

    method: Method
    closures: SolverClosures  # what they closed over, and now read from `operands.solver`
    settings: Operands  # booleans: the leaves that a setting of the solver, as a schedule, reads
    loops_on_data: bool  # whether an update contains a data-dependent loop


def _lift_solver(method: Method, y0: Tree, operands: Operands, x: Tree) -> _LiftedSolver:
    """Make the closures of the solver's functions explicit.

    `evaluate` needs no lifting where it hands on arrays alone: it is made of the problem, whose closures are
    explicit already.
    """
    number = jnp.asarray(0, jnp.int32)
    begin, closures, loops = lift(method.init, y0, operands), SolverClosures(), False
    if method.linearises:
        evaluated = lift(method.evaluate, begin.shape, operands, x)
        method = method._replace(evaluate=_lifted_evaluate(evaluated))
        closures, loops = closures._replace(evaluate=evaluated.closed), evaluated.loops_on_data
        needed = evaluated.shape.needed
    else:
        needed = jax.eval_shape(method.evaluate, begin.shape, operands, x).needed
    update = lift(method.update, begin.shape, needed, operands, number, x)

    # Not `begin` and `update` themselves: a rule that keeps these functions would keep their arrays.
    start, step = begin.call, update.call

    def init(y0: Tree, theta: Operands) -> Tree:
        return start(theta.solver.init, y0, _bare(theta))

    def move(state: Tree, needed: Tree, theta: Operands, t: Array, x: Tree) -> Tree:
        return step(theta.solver.update, state, needed, _bare(theta), t, x)

    method = method._replace(init=init, update=move)
    closures = closures._replace(init=begin.closed, update=update.closed)
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
        # What the update closes over is also the proximal map's, which is part of the problem and no
        # setting of the solver. Only the closures of the step size count as settings here.
        settings = _settings(step_size.reads[0], closures)
        others = jax.tree.map(lambda _: False, closures)
        settings = settings._replace(solver=others._replace(step_size=settings.solver.step_size))
    else:
        settings = _settings(_nowhere(operands), closures)
    return _LiftedSolver(method, closures, settings, loops or update.loops_on_data)


def _settings(reads: Operands, closures: SolverClosures) -> Operands:
    """Where a setting of the solver comes from: what it `reads`, and all that it closes over."""
    return reads._replace(solver=jax.tree.map(lambda _: True, closures))


def _nowhere(operands: Operands) -> Operands:
    return jax.tree.map(lambda _: False, operands)


def _lifted_evaluate(evaluated: Lifted) -> Callable[[Tree, Tree, Tree], Evaluation]:
    call = evaluated.call

    def evaluate(state: Tree, theta: Operands, x: Tree) -> Evaluation:
        made: Evaluation = call(theta.solver.evaluate, state, _bare(theta), x)
        return made

    return evaluate


def _lifted_descent(descent: Descent, schedule: Lifted) -> Descent:
    call = schedule.call

    def scheduled(theta: Operands, t: Array) -> tuple[Tree, Tree]:
        return call(theta.solver.schedule, _bare(theta), t)

    return descent._replace(schedule=scheduled)


def _lifted_proximal(step_size: Lifted, prox: Lifted) -> Proximal:
    size_of, nearest, loops = step_size.call, prox.call, prox.loops_on_data
    return Proximal(
        lambda theta: size_of(theta.solver.step_size, _bare(theta)),
        lambda z, theta, s: nearest(theta.solver.prox, z, _bare(theta), s),
        loops,
    )


def _bare(theta: Operands) -> Operands:
    """The operands in the structure with which the solver's functions were lifted: no closures yet."""
    return theta._replace(solver=SolverClosures())


def _callable_primal(
    solver: Callable[..., Solution], problem: InnerProblem, operands: Operands, tilted: Tilt
) -> Primal:
    """The computation of a callable solver, which takes the user's trees and hides its steps."""
    name = getattr(solver, "__name__", type(solver).__name__)

    def run(y0: Tree, operands: Operands, xs: Tree) -> tuple[Tree, Array]:
        if xs is not None:
            raise ValueError(
                f"`xs` must be None with the callable solver {name}: its steps are its own."
            )

        # The callable's `fun` takes trees as the user wrote them, but evaluates the lifted problem: so
        # what the user's function closes over stays differentiated.
        def fun(user_y: Tree, user_theta: Tree) -> Tree:
            inner = operands._replace(theta=tree.parts(user_theta).inexact)
            y = tree.parts(user_y).inexact
            if problem.objective is not None:
                return problem.objective(y, inner, None)
            return problem.user_y(problem.evaluate(y, inner, None), inner)

        given = (fun, problem.user_y(y0, operands), problem.user_theta(operands))
        out = call_as("solver", solver, "(fun, y0, theta)", *given)
        return _checked_solution(solver, name, out, y0)

    settings = _settings(_nowhere(operands), SolverClosures())
    return Primal(run, None, name, settings, tilted)


def _checked_solution(
    solver: Callable[..., Solution], name: str, out: Any, y0: Tree
) -> tuple[Tree, Array]:
    """(y, steps made) of what a callable solver returned; refused where it is no solution like y0."""
    if not isinstance(out, Solution):
        raise returned_by(
            solver,
            ValueError(
                f"`solver` must return tk.Solution(value, info): {name} returned "
                f"{type(out).__name__}."
            ),
        )
    if out.aux is not None:
        # A derivative rule passes on the value alone. Dropped here, the aux would be missed much later.
        raise returned_by(
            solver,
            ValueError(
                f"`solver` must return tk.Solution(value, info) without aux: {name} returned "
                f"{tree.describe(out.aux)}; return it from `fun`, with has_aux=True, or call {name} itself."
            ),
        )
    if not hasattr(out.info, "steps"):
        raise ValueError(
            f"`solver` must return tk.Solution(value, info) with tk.SolveInfo(status, steps, "
            f"residual): the info of {name} is {type(out.info).__name__}."
        )
    y = tree.parts(out.value).inexact
    check_same(f"the value of {name}", y, y0, out.value, solver)
    steps = out.info.steps
    if not jnp.issubdtype(getattr(steps, "dtype", type(steps)), jnp.integer) or jnp.shape(steps):
        raise ValueError(
            f"`solver` must return tk.SolveInfo with an integer `steps`: {name} returned "
            f"{tree.describe(steps)}."
        )
    return y, jnp.asarray(steps, jnp.int32)


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
                f"{jnp.shape(leaf)}; what every step reads is part of theta: {WITH_DATA}."
            )
