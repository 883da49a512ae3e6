"""What a solver's own functions close over becomes an argument: traced step sizes, bounds, hyperparameters.

An array that stays closed over would be a constant to every derivative rule, see `Operands`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from toolkit.jaxprs.lift import Lifted, lift
from toolkit.solve.call import Operands, SolverClosures
from toolkit.types import Box, Descent, Evaluation, Method, Proximal, Tree


class LiftedSolver(NamedTuple):
    """A method whose functions close over no array any more."""

    method: Method
    closures: SolverClosures  # what they closed over, and now read from `operands.solver`
    settings: Operands  # booleans: the leaves that a setting of the solver, as a schedule, reads
    loops_on_data: bool  # whether an update contains a data-dependent loop


def lift_solver(method: Method, y0: Tree, operands: Operands, x: Tree) -> LiftedSolver:
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
        return start(theta.solver.init, y0, bare(theta))

    def move(state: Tree, needed: Tree, theta: Operands, t: Array, x: Tree) -> Tree:
        return step(theta.solver.update, state, needed, bare(theta), t, x)

    method = method._replace(init=init, update=move)
    closures = closures._replace(init=begin.closed, update=update.closed)
    if method.descent is not None:
        schedule = lift(method.descent.schedule, operands, number)
        closures = closures._replace(schedule=schedule.closed)
        method = method._replace(descent=_lifted_descent(method.descent, schedule))
        settings = settings_of(schedule.reads[0], closures)
    elif method.proximal is not None:
        proximal, closures, settings = lift_proximal(method.proximal, y0, operands, closures)
        method = method._replace(proximal=proximal)
    else:
        settings = settings_of(nowhere(operands), closures)
    return LiftedSolver(method, closures, settings, loops or update.loops_on_data)


def settings_of(reads: Operands, closures: SolverClosures) -> Operands:
    """Where a setting of the solver comes from: what it `reads`, and all that it closes over."""
    return reads._replace(solver=jax.tree.map(lambda _: True, closures))


def nowhere(operands: Operands) -> Operands:
    return jax.tree.map(lambda _: False, operands)


def _lifted_evaluate(evaluated: Lifted) -> Callable[[Tree, Tree, Tree], Evaluation]:
    call = evaluated.call

    def evaluate(state: Tree, theta: Operands, x: Tree) -> Evaluation:
        made: Evaluation = call(theta.solver.evaluate, state, bare(theta), x)
        return made

    return evaluate


def _lifted_descent(descent: Descent, schedule: Lifted) -> Descent:
    call = schedule.call

    def scheduled(theta: Operands, t: Array) -> tuple[Tree, Tree]:
        return call(theta.solver.schedule, bare(theta), t)

    return descent._replace(schedule=scheduled)


def lift_proximal(
    proximal: Proximal | Box, y0: Tree, operands: Operands, closures: SolverClosures
) -> tuple[Proximal | Box, SolverClosures, Operands]:
    """The proximal part with its closures among `closures`, and the settings of a solver that has one."""
    if isinstance(proximal, Box):
        made = lift(proximal.cut, y0, y0, operands)
        closures, cut = closures._replace(prox=made.closed), made.call
        box = Box(lambda y, slope, theta: cut(theta.solver.prox, y, slope, bare(theta)))
        # Bounds are part of the problem, and no settings of the solver.
        return (
            box,
            closures,
            jax.tree.map(lambda _: False, nowhere(operands)._replace(solver=closures)),
        )
    step_size = lift(proximal.step_size, operands)
    prox = lift(proximal.prox, y0, operands, step_size.shape)
    closures = closures._replace(step_size=step_size.closed, prox=prox.closed)
    size_of, nearest, loops = step_size.call, prox.call, prox.loops_on_data
    lifted = Proximal(
        lambda theta: size_of(theta.solver.step_size, bare(theta)),
        lambda z, theta, s: nearest(theta.solver.prox, z, bare(theta), s),
        loops,
    )
    if proximal.mirror is not None:
        mirror = lift(proximal.mirror, y0, operands)
        begins = mirror.call
        closures = closures._replace(mirror=mirror.closed)
        lifted = lifted._replace(
            mirror=lambda y, theta: begins(theta.solver.mirror, y, bare(theta)),
            loops_on_data=loops or mirror.loops_on_data,
        )
    # What the steps close over is also the proximal map's, which is part of the problem and no setting of the
    # solver. Only the closures of the step size count as settings here.
    settings = settings_of(step_size.reads[0], closures)
    others = jax.tree.map(lambda _: False, closures)
    return (
        lifted,
        closures,
        settings._replace(solver=others._replace(step_size=settings.solver.step_size)),
    )


def bare(theta: Operands) -> Operands:
    """The operands in the structure with which the solver's functions were lifted: no closures yet."""
    return theta._replace(solver=SolverClosures())
