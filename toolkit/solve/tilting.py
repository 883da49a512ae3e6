"""A tilted argmin, `fun(y, theta) + <q, y>`, by the solver of another argmin: what nudging needs.

The solver is bound and traced anew: a line search evaluates the objective, and must see the tilt.
Holomorphic nudges also need the function itself traced anew, at complex `y`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from toolkit import linear, tree
from toolkit.derive import marks
from toolkit.jaxprs.lift import Lifted, lift
from toolkit.jaxprs.read import inner, opened
from toolkit.solve.binding import bind
from toolkit.solve.call import Fun, Operands, SolverClosures
from toolkit.types import Ended, InnerProblem, Solver, Tilted, Tree


def tilt(solver: Any, problem: InnerProblem, y: Tree, operands: Operands) -> Tilted:
    """The argmin `problem`, tilted."""
    objective = problem.objective
    assert objective is not None  # an argmin has one

    def energy(y: Tree, operands: Operands) -> Array:
        return objective(y, operands._replace(tilt=None), None)

    return _tilted(energy, solver, problem, y, operands)


def continue_and_tilt(
    flat: Fun, solver: Any, problem: InnerProblem, y: Tree, operands: Operands
) -> Tilted:
    """The argmin of `flat`, continued to complex leaves `y`, tilted.

    Raises:
      ValueError: `flat` has no complex value there, or the solver needs a real one.
    """
    if not isinstance(solver, Solver):
        raise ValueError(
            "`solver` must be one of tk.solver that follows a gradient (GradientDescent, Optax, "
            f'Newton) under Nudged(scheme="holomorphic"): got the callable '
            f'{bind(solver, problem, y, operands, None).primal.name}; or use scheme="centered".'
        )
    with marks.at(problem.depth + 1):
        lifted = _lift_continued(flat, y, operands)
    call = lifted.call

    def energy(y: Tree, operands: Operands) -> Array:
        value: Array = call(
            operands.fun, y, Operands(operands.theta, operands.carried), None
        ).result
        return value

    def evaluate(y: Tree, operands: Operands, x: Tree) -> Tree:
        # What must vanish here is the complex derivative itself. So it is not conjugated, unlike the
        # gradient of a real function along which a solver descends.
        slope = jax.grad(lambda y: jnp.real(energy(y, operands)))(y)
        return jax.tree.map(jnp.add, slope, operands.tilt)

    continued = dataclasses.replace(
        problem,
        evaluate=evaluate,
        objective=None,
        linear_solver=linear.choose(y, symmetric=False),
    )
    return _tilted(energy, solver, continued, y, operands._replace(fun=lifted.closed))


def _tilted(energy: Any, solver: Any, problem: InnerProblem, y: Tree, operands: Operands) -> Tilted:
    operands = operands._replace(solver=SolverClosures(), tilt=jax.tree.map(jnp.zeros_like, y))
    problem = dataclasses.replace(problem, residuals=None)  # the tilt is no square
    call = bind(solver, problem, y, operands, None)
    solve = call.primal.run
    if isinstance(solver, Solver):

        def run(y0: Tree, operands: Operands, q: Tree) -> tuple[Tree, Array]:
            y, ended = solve(y0, operands._replace(tilt=q), None)
            return y, ended.steps if isinstance(ended, Ended) else ended

        return Tilted(energy, run, call.operands)
    # A callable may close over arrays of the forward pass, and this is run in the reverse pass: used
    # there they would be leaked tracers. Lifting hands them over as operands.
    lifted = lift(lambda y, operands: solve(y, operands, None), y, operands)
    again = lifted.call

    def run_lifted(y0: Tree, operands: Operands, q: Tree) -> tuple[Tree, Array]:
        bare = operands._replace(solver=SolverClosures(), tilt=q)
        return again(operands.solver.update, y0, bare)

    closures = SolverClosures(update=lifted.closed)
    return Tilted(energy, run_lifted, operands._replace(solver=closures))


def _lift_continued(flat: Fun, y: Tree, operands: Operands) -> Lifted:
    remedy = 'use scheme="centered"'
    where = '`fun` must be complex-analytic in `y` under Nudged(scheme="holomorphic"): '
    bare = Operands(operands.theta, operands.carried)
    try:
        lifted = lift(flat, y, bare, None)
    except (TypeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"{where}at complex `y` it raises {reason!r}; {remedy}.") from error
    shape = lifted.shape.result
    if not jnp.issubdtype(shape.dtype, jnp.complexfloating):
        raise ValueError(
            f"{where}at complex `y` it returns {tree.describe(shape)}, so it uses abs, real, "
            f"imag or conj (jnp.sum(y**2), not jnp.sum(jnp.abs(y)**2)); {remedy}."
        )
    # Some operations take complex numbers, and fail where they are differentiated or compiled.
    ordered = _ordered(lifted.program)
    fails = bool(ordered & {"argmax", "argmin"})
    try:
        slope = jax.grad(lambda y: jnp.real(lifted.call(lifted.closed, y, bare, None).result))
        jax.eval_shape(slope, y)
    except TypeError:
        if not ordered:
            raise
        fails = True
    if fails:
        softmax = (
            ""
            if "max" not in ordered
            else "for jax.nn.log_softmax(y), which takes one, write y - jax.nn.logsumexp(y), or "
        )
        raise ValueError(
            f"{where}got {' and '.join(sorted(ordered))} of complex numbers, which have no order; {softmax}{remedy}."
        )
    return lifted


def _ordered(program: Any) -> set[str]:
    """The operations of a program that put complex numbers in an order, and that JAX does not differentiate."""
    jaxpr, _ = opened(program)
    found = set()
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("max", "min", "argmax", "argmin") and any(
            jnp.issubdtype(getattr(atom.aval, "dtype", bool), jnp.complexfloating)
            for atom in equation.invars
        ):
            found.add(equation.primitive.name)
        found = found.union(*map(_ordered, inner(equation)))
    return found
