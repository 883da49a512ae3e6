"""The second part of taking a call apart: the user's trees and function become arrays and a problem.

Solvers and adjoints know a problem as functions of `(y, operands, x)`. `operands` holds everything
else that the solution depends on, so that a derivative rule sees all of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from toolkit import linear, tree
from toolkit.derive import marks
from toolkit.derive.collecting import holds_marks
from toolkit.derive.on_devices import device_axes, refuse_differing, refuse_unchecked
from toolkit.jaxprs.collectives import collective_axes
from toolkit.jaxprs.lift import Lifted, lift
from toolkit.jaxprs.numpy_lanes import as_jax_lanes
from toolkit.jaxprs.varying_axes import vary, varying_axes
from toolkit.leaves.containers import unpacked
from toolkit.leaves.module_variables import why_nothing_moves
from toolkit.solve.binding import bind
from toolkit.solve.call import CarriedLeaves, Fun, Operands, SolveCall, first
from toolkit.solve.evaluations import functions_of
from toolkit.solve.returned import Returned, Returns, check_scalar, flat_function
from toolkit.solve.tilting import continue_and_tilt, tilt
from toolkit.types import Asked, InnerProblem, Solution, Solver, Tilted, Tree


class Partition(NamedTuple):
    """The user's trees and the way back to them."""

    y: Tree
    operands: Operands
    user_y: Callable[[Tree, Operands], Tree]
    user_theta: Callable[[Operands], Tree]


class Posed(NamedTuple):
    """A problem as solvers see it, and the leaves that it is posed for."""

    problem: InnerProblem
    y: Tree
    operands: Operands
    axes: frozenset[str]  # of devices, over which the leaves are now marked as differing
    fun: Callable[[Tree, Operands, Tree], Returned]  # (y, operands, x)
    shape: Returned  # what `fun` returns, as jax.ShapeDtypeStruct
    program: Any  # of `fun`
    constants: tuple[Any, ...]  # the concrete arrays that it closes over


def prepare(
    kind: Asked,
    fun: Fun,
    solver: Solver | Callable[..., Solution],
    returns: Returns,
    y0: Tree,
    theta: Tree,
    xs: Tree,
) -> SolveCall:
    """Take a call apart. Traces `fun` once.

    Raises:
      ValueError: `y0`, `xs`, or what `fun` returns is not what the kind of solve needs.
    """
    parts, xs = partition(y0, theta), as_arrays(xs)
    flat = flat_function(
        kind, fun, returns, parts.y, parts.user_y, parts.user_theta, takes_x=xs is not None
    )
    posed = pose(kind, flat, parts, first(xs))
    xs = vary(xs, posed.axes) if posed.axes else xs

    def tilted(y: Tree, operands: Operands, continued: bool) -> Tilted:
        if continued:
            return continue_and_tilt(flat, solver, posed.problem, y, operands)
        return tilt(solver, posed.problem, y, operands)

    return bind(solver, posed.problem, posed.y, posed.operands, xs, tilted)


def pose(kind: Asked, flat: Fun, parts: Partition, x: Tree, observed: bool = False) -> Posed:
    """The problem of `flat` at leaves like those of the other arguments. Traces `flat` once.

    Args:
      observed: whether the problem tells what `fun` returned on the way (`InnerProblem.observe`).
    """
    depth = marks.depth()
    with marks.at(depth + 1):
        parts, axes, lifted = _lift_fun(kind, flat, parts, x)
    y, operands = parts.y, parts.operands._replace(fun=lifted.closed)
    call, program = lifted.call, lifted.program
    # Not `lifted` itself: a rule that keeps `fun` would keep its arrays.

    def fun(y: Tree, operands: Operands, x: Tree) -> Returned:
        bare = Operands(operands.theta, operands.carried)
        returned: Returned = call(operands.fun, y, bare, x)
        return returned

    given = lifted.shape.gradient is not None
    functions = functions_of(kind, fun, program, given, depth + 1)
    own, backward = lifted.rules
    is_argmin = functions.objective is not None
    problem = InnerProblem(
        "argmin" if kind == "least_squares" else kind,
        functions.evaluate,
        functions.objective,
        parts.user_y,
        parts.user_theta,
        linear.choose(y, symmetric=is_argmin and not (own or given), hessian=is_argmin),
        None,
        own,
        backward,
        depth=depth,
        loops_on_data=lifted.loops_on_data,
        holds_solves=lambda: any(holds_marks(one, depth + 1) for one in functions.programs()),
        observe=functions.observe if observed else None,
        given_gradient=given,
        residuals=functions.residuals,
    )
    return Posed(problem, y, operands, axes, fun, lifted.shape, program, lifted.constants)


def with_gauss_newton(problem: InnerProblem) -> InnerProblem:
    """A sum of squares, of which derivative rules see the Gauss-Newton curvature."""
    if problem.composite is None:
        return dataclasses.replace(problem, gauss_newton=True)
    smooth = dataclasses.replace(problem.composite.smooth, gauss_newton=True)
    composite = dataclasses.replace(problem.composite, smooth=smooth)
    return dataclasses.replace(problem, composite=composite)


def partition(y0: Tree, theta: Tree) -> Partition:
    """The user's trees as leaves to solve for, and operands.

    Raises:
      ValueError: nothing in `y0` can be solved for.
    """
    y, theta = as_jax_lanes((tree.parts(y0), tree.parts(theta)))
    if not jax.tree.leaves(y.inexact):
        raise ValueError(
            "`y0` must have a floating or complex leaf to solve for: got "
            f"{tree.describe(y0)}; "
            + why_nothing_moves(y0, "integers are carried, use .astype(float)")
            + "."
        )

    # These functions live in the programs that are traced with them. They must hold no array: a tracer in
    # them would be kept alive beyond its trace, which `jax.checking_leaks` reports.
    y_static, theta_static = y.static, theta.static

    def user_y(inexact: Tree, operands: Operands) -> Tree:
        return tree.whole(inexact, operands.carried.y, y_static)

    def user_theta(operands: Operands) -> Tree:
        return tree.whole(operands.theta, operands.carried.theta, theta_static)

    operands = Operands(theta.inexact, CarriedLeaves(theta.arrays, y.arrays))
    return Partition(tree.strong(y.inexact), operands, user_y, user_theta)


def as_arrays(xs: Tree) -> Tree:
    """Per-step inputs, each leaf that is one as a JAX array: a traced step number indexes no NumPy array."""
    one = lambda leaf: jnp.asarray(leaf) if isinstance(leaf, np.ndarray) else leaf
    return jax.tree.map(one, unpacked(xs))


def _lift_fun(
    kind: Asked, flat: Fun, parts: Partition, x: Tree
) -> tuple[Partition, frozenset[str], Lifted]:
    """`flat` lifted, its result checked; and the leaves, all varying over the same device axes."""
    lifted = lift(flat, parts.y, parts.operands, x, arrange=True)
    if kind == "argmin":
        check_scalar(flat, lifted.shape.result)
    axes, missing = varying_axes(lifted.shape), frozenset[str]()
    if axes - varying_axes(parts.y):
        # Inside shard_map each device solves a problem of its own. If all devices shared the start,
        # JAX would sum the gradients of all their problems, silently. So everything is marked as
        # differing between devices, and `fun` is traced again in these types.
        y, operands, x = vary((parts.y, parts.operands, x), axes)
        parts, missing = parts._replace(y=y, operands=operands), axes
        lifted = lift(flat, y, operands, x, arrange=True)
        lifted = lifted._replace(closed=vary(lifted.closed, axes))
    if device_axes():
        _refuse_wrong_collectives(lifted, parts, x)
    return parts, missing, lifted


def _refuse_wrong_collectives(lifted: Lifted, parts: Partition, x: Tree) -> None:
    """Inside `jax.shard_map` or `jax.pmap`: refuse what JAX would differentiate wrongly."""
    closed, y = iter(lifted.closed), jax.tree.leaves(parts.y)
    others = jax.tree.leaves((parts.operands, x))
    # Nothing differentiates a concrete array that `fun` closes over.
    moves = [one and tree.is_inexact(next(closed)) for one in lifted.is_closed]
    moves += map(tree.is_inexact, [*y, *others])
    refuse_unchecked("fun", lifted.program, moves)
    is_y = [False] * len(lifted.is_closed) + [True] * len(y) + [False] * len(others)
    axes = collective_axes(lifted.program, is_y)
    refuse_differing("fun", "y0", axes & varying_axes(parts.y))
