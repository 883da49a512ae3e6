"""Problems of three and more levels: each solve inside the function of the level above.

import jax, jax.numpy as jnp, toolkit as tk

h = lambda y, z: jnp.sum((z - jnp.sin(y)) ** 2) + jnp.sum(z**4) / 4
g = lambda x, y, z: jnp.sum((y - x) ** 2) + jnp.sum(y * z)
f = lambda y, z: jnp.sum((y - 1) ** 2) + jnp.sum(z**2)
descent = tk.solver.GradientDescent(step_size=0.2, num_steps=50)
y, z = (tk.bilevel.Level(*level, descent, jnp.zeros(3)) for level in (("y", g), ("z", h)))
solve = tk.bilevel.nested(y, z)
print(jax.jit(jax.grad(lambda x: f(**solve(x=x).values)))(jnp.ones(3)))
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from toolkit import tree
from toolkit.bilevel.levels.edges import UnsymmetricSolutionMap, needs_objective
from toolkit.bilevel.levels.hierarchy import check_levels, check_names, starts_of
from toolkit.bilevel.levels.keywords import Values, call, takes
from toolkit.bilevel.levels.level import Level
from toolkit.errors.readable import readable, returned_by
from toolkit.solve.maps import SolutionMap, argmin
from toolkit.types import Solution, SolveInfo, Tree


class NestedSolution(NamedTuple):
    """The solutions of all levels."""

    values: dict[str, Tree]  # by level; differentiable by the levels' rules
    info: dict[str, SolveInfo]  # by level, of the solve at the solutions of the levels above

    @property
    def status(self) -> Array:
        """The worst of the levels' `tk.Status`; 0 is fine."""
        return functools.reduce(jnp.maximum, [info.status for info in self.info.values()])


@readable
def nested(*levels: Level) -> Callable[..., NestedSolution]:
    """The solution of a hierarchy of levels as a pure function of the top variables.

        y*(x) = argmin_y g(x, y, z*(x, y)),  z*(x, y) = argmin_z h(x, y, z),  and so on downwards

    Under `Implicit` on every level the derivative is that of the exact solutions, responses of all
    levels below included: `G(x, y) = g(x, y, z*(x, y))` is differentiated twice, through `z*`.

    A level's rule makes its derivative, and thereby the gradient that the levels above follow. So an
    approximate rule (`OneStep`, `Stopped`, a few Neumann terms) does not change its own level's value,
    but moves the levels above, to where the approximate gradient is zero. The rules of those levels
    differentiate that approximate gradient, by the rules below.

    Data have no argument of their own: a top variable that functions take, `solve(x=x, rows=rows)`,
    and arrays that functions close over inside the jitted function, are arguments of its program.

    Args:
      levels: from the upper to the lower. What their functions take besides are the top variables.

    Returns: `solve(starts=None, /, **tops) -> NestedSolution(values, info)`. `starts` holds, by name
    of level, where to start in place of `Level.start`: the `values` of an earlier solution, for one.

    Raises: TypeError, ValueError on bad arguments, naming them and the level.

    Differentiation: by the levels' rules, in the top variables and in what the functions close over.
    Along an edge with a rule of its own, first derivatives are that rule's, and so are their
    derivatives along all edges. The gradient that a level follows takes first derivatives of the
    levels below, its own derivative second ones, that of a level farther up third ones: `Nudged` and
    `Reversible` have first ones only, `Unroll()` and `Truncated` two, the other rules and
    `Unroll(forward_mode=True)` all.

    Accuracy: the gradient of a level is as good as the solutions below it: tolerances must fall
    steeply downwards, `tol_z << tol_y`. A level whose tolerance is below what is left of the solves
    under it ends with `STEP_LIMIT`.

    What is watched: `info` judges each level's solve at the solutions of the levels above. A level that
    solves another which stopped short, or whose linear system was not solved, ends with `STEP_LIMIT`. Under
    `Implicit` and `OneStep` that is enough: solves at earlier iterates of the levels above change
    neither the status nor the derivative at the solution. Not watched are solves below the
    iterates that `Unroll`, `Truncated`, `Forward` and `Reversible` differentiate and below nudged
    solutions, unless they are not finite (the level above is then not finite either).

    Cost: a step of a level costs a solve of the level below and a linear solve there; a product with
    its second derivative two linear solves there, each product of which costs two a level farther
    down. Costs multiply over the levels. A level with `edges` solves once more for each rule that
    follows steps; `Implicit` and `Stopped` edges cost no solve. With k levels above it, the lowest
    function is traced at most 2^k times a call, and a hypergradient of four levels takes several
    times as long to compile as one of three.

    Source: Sato, Tanaka & Takeda 2021 (unrolled); Choe et al. 2023, Betty (a rule an edge).
    """
    check_levels(levels)

    @readable
    def solve(starts: Values | None = None, /, **tops: Tree) -> NestedSolution:
        check_names(levels, tops)
        solutions = _respond(levels, range(len(levels)), tops, starts_of(levels, starts))
        return NestedSolution(
            {name: solution.value for name, solution in solutions.items()},
            {name: solution.info for name, solution in solutions.items()},
        )

    return solve


def _respond(
    levels: Sequence[Level], which: range, above: Values, starts: Values
) -> dict[str, Solution]:
    """The solutions of `which` levels, in this order, given all variables above them."""
    values, solutions = dict(above), {}
    for i in which:
        name = levels[i].name
        solutions[name] = solution_map(levels, i, starts)(starts[name], dict(values))
        values[name] = solutions[name].value
    return solutions


def solution_map(levels: Sequence[Level], i: int, starts: Values) -> SolutionMap:
    """Level `i` as a solve whose theta are the variables above, by name."""
    level = levels[i]
    # Levels below the last one that `fun` takes cannot change its value except through that one, which
    # solves them itself. To solve them here too would be thrown away.
    taken = [j for j in range(i + 1, len(levels)) if takes(level.fun, levels[j].name)]
    responding = range(i + 1, max(taken, default=i) + 1)

    def fun(variable: Tree, above: dict[str, Tree]) -> Array:
        values = {**above, level.name: variable}
        responses = _respond(levels, responding, values, starts)
        value = call(level.fun, values | {name: r.value for name, r in responses.items()})
        if not tree.is_inexact(value) or jnp.shape(value) or jnp.iscomplexobj(value):
            got = tree.describe(value)
            raise returned_by(
                level.fun,
                ValueError(f"`fun` of level `{level.name}` must return a real scalar: got {got}."),
            )
        return value

    solve = argmin(fun, level.solver, adjoint=level.rule)
    # The gradient of `fun` is a sum over the paths through the levels below. Where a level two or more
    # below has an edge rule for one of these paths only, the sum is the gradient of no function.
    names = [lower.name for lower in levels]
    mixed = [
        names[j] for j in range(i + 2, len(levels)) if levels[j].edges.keys() & set(names[i:j])
    ]
    if not (taken and mixed):
        return solve
    if level.adjoint is not None and needs_objective(level.adjoint):
        raise ValueError(
            f"`adjoint` of level `{level.name}` must not be {type(level.adjoint).__name__}, which needs the gradient of a "
            f"function, above `edges` of level `{mixed[0]}`; use Unroll or Implicit."
        )
    return UnsymmetricSolutionMap(solve.kind, solve.fun, solve.solver, solve.adjoint)
