"""Solvers that keep their steps to themselves: callables of the user, other libraries' solvers, those on the host.

A rule that follows steps refuses them. The others need the value alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from toolkit import tree
from toolkit.derive.composite import composite_problem
from toolkit.derive.constrained import WithMultipliers, constrained_problem, multipliers
from toolkit.derive.on_devices import device_axes
from toolkit.errors.readable import call_as, returned_by
from toolkit.jaxprs.lift import lift
from toolkit.linear.least_norm import least_norm
from toolkit.solve.call import Operands, SolveCall, SolverClosures
from toolkit.solve.lifting import bare, lift_proximal, nowhere, settings_of
from toolkit.types import Ended, InnerProblem, Primal, Solution, Status, Tilted, Tree, WholeSolve

Tilt = Callable[[Tree, Tree, bool], Tilted] | None


def bind_whole(
    name: str,
    whole: WholeSolve,
    problem: InnerProblem,
    y0: Tree,
    operands: Operands,
    xs: Tree,
    tilted: Tilt,
) -> SolveCall:
    """The call of a solver that is bound to its problem as a whole."""
    _refuse_xs(name, xs)
    asked = problem  # before bounds join it
    if device_axes():
        # optimistix compares types that name the devices with types that do not, and fails far from here.
        raise ValueError(
            f"`solver` must not be {name} inside jax.shard_map or jax.pmap; use jax.jit with a "
            "NamedSharding, or a solver that shows its steps, such as tk.solver.LBFGS or Newton."
        )
    solve = lift(whole.run, y0, operands)
    again = solve.call  # not `solve`: a rule that keeps `run` would keep its arrays
    closures = SolverClosures(update=solve.closed)
    settings = settings_of(nowhere(operands), closures)
    bounds, constrained = whole.proximal, whole.constraints is not None
    if bounds is not None:
        bounds, closures, settings = lift_proximal(bounds, y0, operands, closures)
    start, report = y0, None
    if constrained:
        asked, start, report, closures, settings = _constrained(
            whole, problem, bounds, y0, operands, closures
        )
        problem = asked
    elif bounds is not None:
        problem = composite_problem(problem, bounds)

    def run(start: Tree, theta: Operands, xs: Tree) -> tuple[Tree, Any]:
        y, ended = again(theta.solver.update, start.y if constrained else start, bare(theta))
        # A library may end where the function is not finite, and call that a result. A solver that finds none
        # says so by NaN, and why.
        broken = tree.all_finite(y) & ~tree.all_finite(_seen_at(asked, y, theta))
        otherwise = jnp.where(broken, int(Status.NOT_FINITE), ended.otherwise)
        return tree.nan_unless(~broken, y), Ended(ended.steps, otherwise.astype(jnp.int32))

    primal = Primal(run, None, name, settings, tilted, no_derivative=True)
    operands = operands._replace(solver=closures)
    problem = _nan_without_solution(problem)
    return SolveCall(problem, primal, start, operands, xs, whole.tol, report)


def _constrained(
    whole: WholeSolve,
    problem: InnerProblem,
    bounds: Any,
    y0: Tree,
    operands: Operands,
    closures: SolverClosures,
) -> tuple[InnerProblem, Tree, Callable[[Tree, Operands], Tree], SolverClosures, Operands]:
    """The conditions of a minimum under constraints: the problem in `y` and multipliers, its start, the report."""
    assert whole.constraints is not None
    lifted = lift(whole.constraints, y0, operands)
    call, has_bounds = lifted.call, bounds is not None
    closures = closures._replace(init=lifted.closed)
    zeros = jax.tree.map(lambda one: jnp.zeros(one.shape, one.dtype), lifted.shape)

    def constraints(y: Tree, theta: Operands) -> tuple[Tree, Tree]:
        values: tuple[Tree, Tree] = call(theta.solver.init, y, bare(theta))
        return values

    found = constrained_problem(problem, constraints, bounds)
    found = dataclasses.replace(found, linear_solver=least_norm)
    report = lambda z, theta: multipliers(found, z, theta, has_bounds)
    # Constraints are part of the problem, and no settings of the solver.
    settings = jax.tree.map(lambda _: False, nowhere(operands)._replace(solver=closures))
    return found, WithMultipliers(y0, *zeros), report, closures, settings


def _seen_at(problem: InnerProblem, y: Tree, theta: Operands) -> Tree:
    """All that the user's function gives at `y`: a gradient may be finite where its value is not."""
    values = problem.evaluate(y, theta, None)
    return values if problem.objective is None else (values, problem.objective(y, theta, None))


def _nan_without_solution(problem: InnerProblem) -> InnerProblem:
    """`problem`, whose equations have NaN derivatives where there is no solution: at NaN.

    The derivative of an affine equation does not depend on `y`. Without the factor it would be finite, and so
    would be a gradient of a solution that there is not.
    """
    if problem.objective is not None:
        return problem

    def evaluate(y: Tree, theta: Tree, x: Tree) -> Tree:
        known = tree.all_finite(tree.stop_gradient(y))
        out = problem.evaluate(y, theta, x)
        return jax.tree.map(
            lambda leaf: leaf * jnp.where(known, 1, jnp.nan).astype(leaf.dtype), out
        )

    return dataclasses.replace(problem, evaluate=evaluate)


def bind_callable(
    solver: Callable[..., Solution],
    problem: InnerProblem,
    y0: Tree,
    operands: Operands,
    xs: Tree,
    tilted: Tilt,
) -> SolveCall:
    """The call of a solver of the user's own, which takes the user's trees."""
    name = getattr(solver, "__name__", type(solver).__name__)

    def run(y0: Tree, operands: Operands, xs: Tree) -> tuple[Tree, Array]:
        _refuse_xs(f"the callable solver {name}", xs)

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

    settings = settings_of(nowhere(operands), SolverClosures())
    primal = Primal(run, None, name, settings, tilted)
    return SolveCall(problem, primal, y0, operands._replace(solver=SolverClosures()), xs, None)


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


def _refuse_xs(name: str, xs: Tree) -> None:
    if xs is not None:
        raise ValueError(f"`xs` must be None with {name}: its steps are its own.")


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
