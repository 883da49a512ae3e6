"""One call of a solve, taken apart: what do solvers and adjoints work on?

The user calls `solve(y0, theta, xs)` with trees that hold anything, and with functions that close over
arrays. JAX differentiates, lifts and transposes functions of explicit arrays. Between the two stands
this struct. It is filled in three files, to be read in this order:

1. here: `Operands`, all arrays that a solution depends on, and `SolveCall`, the whole call;
2. `preparation.py`: the user's trees become `y` and `Operands`, the user's `fun` an `InnerProblem`;
3. `binding.py`: the solver and that problem become a `Primal`, the computation to be differentiated.

`toolkit/types.py` has a table of who hands what to whom.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax import Array

from toolkit import tree
from toolkit.derive.constrained import Multipliers
from toolkit.types import InnerProblem, Primal, SolveInfo, Tree

Fun = Callable[..., Any]
# The call with data, for messages: jaxopt's is `solve(y0, theta, data)`.
WITH_DATA = "solve(y0, (theta, data)), with fun(y, (theta, data))"
Closed = tuple[Array, ...]  # what a function closes over


class CarriedLeaves(NamedTuple):
    """Integer, boolean and key leaves, and what a module holds besides parameters: needed, and not moved.

    A floating one, such as the mean of a batch norm, is differentiated like what a function closes over.
    """

    theta: Tree
    y: Tree


class SolverClosures(NamedTuple):
    """What the solver's own functions close over: traced step sizes, optax hyperparameters."""

    init: Closed = ()
    evaluate: Closed = ()
    update: Closed = ()
    schedule: Closed = ()
    step_size: Closed = ()
    prox: Closed = ()
    mirror: Closed = ()


class Operands(NamedTuple):
    """All that a solution depends on, as one tree of arrays: `theta` to solvers and adjoints.

    A derivative rule has derivatives for its arguments only. An array that is missing here would be
    a constant to every rule, silently; so what functions close over is lifted into this tree.
    """

    theta: Tree  # the user's floating and complex leaves
    carried: CarriedLeaves
    fun: Closed = ()
    solver: SolverClosures = SolverClosures()
    tilt: Tree = None  # q of a tilted objective `fun(y, theta) + Re <q, y>`, where there is one


class SolveCall(NamedTuple):
    """One call of a solve, ready for an adjoint: `differentiable(problem, primal)(y0, operands, xs)`."""

    problem: InnerProblem  # what the solver solves: more than was asked, where it adds a term
    primal: Primal
    y0: Tree  # floating and complex leaves
    operands: Operands
    xs: Tree
    tol: float | None  # absolute, on the residual; None judges against the start
    # (y, operands) -> the multipliers of a solution under constraints; None: there are no constraints.
    multipliers: Callable[[Tree, Operands], Tree] | None = None


class ConstrainedInfo(NamedTuple):
    """The `toolkit.types.SolveInfo` of a solve under constraints."""

    status: Array
    steps: Array
    residual: Array
    multipliers: Multipliers  # (equality, inequality, lower, upper), None where there are no such constraints


def told(call: SolveCall, y: Tree, info: SolveInfo) -> Any:
    """`info` with the multipliers, where there are any."""
    if call.multipliers is None:
        return info
    y, operands = tree.stop_gradient((y, call.operands))
    return ConstrainedInfo(*info, tree.stop_gradient(call.multipliers(y, operands)))


def first(xs: Tree) -> Tree:
    """What the first step sees of the per-step inputs."""
    for leaf in jax.tree.leaves(xs):
        if not getattr(leaf, "shape", ()) or leaf.shape[0] < 1:
            raise ValueError(
                "`xs` must have one entry a step along each leaf's leading axis, and at least one: "
                f"got {tree.describe(xs)}; what every step reads is part of theta: {WITH_DATA}."
            )
    return jax.tree.map(lambda leaf: leaf[0], xs)


def last(xs: Tree) -> Tree:
    """What the last step sees of the per-step inputs."""
    return jax.tree.map(lambda leaf: leaf[-1], xs)
