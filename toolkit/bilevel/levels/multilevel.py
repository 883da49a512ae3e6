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
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from toolkit import tree
from toolkit.adjoint import Implicit
from toolkit.bilevel.levels.edges import (
    ByEdge,
    UnsymmetricSolutionMap,
    has_forward_mode,
    needs_objective,
)
from toolkit.errors.readable import readable, returned_by
from toolkit.solve.hypergradient import HypergradientReport, hypergradient, real_scalar
from toolkit.solve.maps import SolutionMap, argmin
from toolkit.types import Adjoint, Solution, SolveInfo, Solver, Tree

Values = Mapping[str, Tree]  # by name of variable


@dataclass(frozen=True, eq=False)
class Level:
    """The variable `name` minimises `fun`, in which the levels below have responded to it.

    Args:
      name: an identifier, by which `fun`, the other levels and `edges` know the variable.
      fun: returns a real scalar. It is called by keywords, with those that it takes of the top
        variables and of all levels' variables; with all of them where it takes `**kwargs`.
      solver: as in `tk.argmin`.
      start: where the solver starts, like the variable; a call may bring another.
      adjoint: how the variable's derivative is made in each variable above; None takes `Implicit()`.
      edges: other rules, by name of the variable above along whose edge they make the derivative.
    """

    name: str
    fun: Callable[..., Array]
    solver: Solver | Callable[..., Solution]
    start: Tree
    adjoint: Adjoint | None = None
    edges: Mapping[str, Adjoint] = field(default_factory=dict)

    @readable
    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.isidentifier():
            raise ValueError(f"`name` must be an identifier, such as 'y': got {self.name!r}.")
        where = f"of level `{self.name}`"
        if not isinstance(self.edges, Mapping):
            raise TypeError(
                f"`edges` {where} must map the names of variables above to rules, such as "
                f"{{'x': tk.adjoint.Stopped()}}: got {self.edges!r}."
            )
        for rule in (self.adjoint, *self.edges.values()):
            argmin(self.fun, self.solver, adjoint=rule)  # refuses what is none
        if not _takes(self.fun, self.name):
            raise ValueError(
                f"`fun` {where} must take `{self.name}` by keyword: got the parameters "
                f"{inspect.signature(self.fun)}."
            )
        if not jax.tree.leaves(tree.split(self.start).inexact):
            raise ValueError(
                f"`start` {where} must have a floating or complex leaf to solve for: got "
                f"{tree.describe(self.start)}."
            )

    @property
    def rule(self) -> Adjoint:
        """What makes the derivative, `edges` included."""
        rule = self.adjoint or Implicit()
        edges = {name: rule or Implicit() for name, rule in self.edges.items()}
        return ByEdge(rule, edges) if edges else rule


class NestedSolution(NamedTuple):
    """The solutions of all levels."""

    values: dict[str, Tree]  # by level; differentiable by the levels' rules
    info: dict[str, SolveInfo]  # by level, of the solve at the solutions of the levels above

    @property
    def status(self) -> Array:
        """The worst of the levels' `tk.Status`; 0 is fine."""
        return functools.reduce(jnp.maximum, [info.status for info in self.info.values()])


class NestedHypergradient(NamedTuple):
    """An outer value, its gradient in the top variables, and how both were come by."""

    value: Array  # []
    gradient: dict[str, Tree]  # by top variable; None at leaves without derivative
    solution: NestedSolution
    reports: dict[str, HypergradientReport]  # by level, of the pullback through its solution

    @property
    def status(self) -> Array:
        """The `tk.Issue` bits of all levels; 0 is fine."""
        return functools.reduce(jnp.bitwise_or, [r.status for r in self.reports.values()])


@readable
def nested(*levels: Level) -> Callable[..., NestedSolution]:
    """The solution of a hierarchy of levels as a pure function of the top variables.

        y*(x) = argmin_y g(x, y, z*(x, y)),  z*(x, y) = argmin_z h(x, y, z),  and so on downwards

    Under `Implicit` on every level the derivative is that of the exact solutions, responses of all
    levels below included: `G(x, y) = g(x, y, z*(x, y))` is differentiated twice, through `z*`.

    A rule makes the derivative, and so the gradient that the level above follows: an approximate rule
    (`OneStep`, `Stopped`, a few Neumann terms) leaves its level's value alone and moves the levels
    above, to where the approximate gradient is zero. There their own rules see what is zero there,
    with its derivative by the rules below once more.

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

    What is watched: `info` judges each level at the solutions above it. Where `Implicit` or `OneStep`
    makes a level's derivative, it looks at no other solves: those on the way to the level's solution
    shape neither its status nor its derivative there. Not watched are solves below the steps that
    `Unroll`, `Truncated`, `Forward`, `Reversible` follow and below nudged solutions, unless they are
    not finite (then so is the level above); and the linear systems, which move the levels above where
    they are not solved: see `nested_hypergradient`.

    Cost: a step of a level costs a solve of the level below and a linear solve there; a product with
    its second derivative two linear solves there, each product of which costs two a level farther
    down. Costs multiply over the levels. A level with `edges` solves once more for each rule that
    follows steps; `Implicit` and `Stopped` edges cost no solve. With k levels above it, the lowest
    function is traced at most 2^k times a call, and a hypergradient of four levels takes several
    times as long to compile as one of three.

    Source: Sato, Tanaka & Takeda 2021 (unrolled); Choe et al. 2023, Betty (a rule an edge).
    """
    _check_levels(levels)

    @readable
    def solve(starts: Values | None = None, /, **tops: Tree) -> NestedSolution:
        _check_names(levels, tops)
        solutions = _respond(levels, range(len(levels)), tops, _starts(levels, starts))
        return NestedSolution(
            {name: solution.value for name, solution in solutions.items()},
            {name: solution.info for name, solution in solutions.items()},
        )

    return solve


@readable
def nested_hypergradient(
    outer: Callable[..., Array], *levels: Level
) -> Callable[..., NestedHypergradient]:
    """`hg(starts=None, /, **tops)`: value and gradient of `outer` at the solution of `nested(*levels)`.

    The gradient is that of `jax.grad` of the composition, pulled back a level at a time, from the
    lowest up, by `tk.hypergradient`; each level's `report` is of its own pullback, its residuals and
    its error estimate included.

    Args:
      outer: returns a real scalar; called by keywords, as `Level.fun`.
      levels: as in `nested`.

    Not watched: the linear systems inside a level's products with its second derivative. They have
    the matrix of the level below at the same point, whose system is watched, and other right-hand
    sides. Nor, besides what `nested` names, any linear system of a level with `edges`.

    Cost: that of `jax.grad`, one more solve of each level, and where they are used the reports.
    """
    if not callable(outer):
        raise TypeError(f"`outer` must be callable: got {type(outer).__name__}.")
    solve = nested(*levels)

    @readable
    def run(starts: Values | None = None, /, **tops: Tree) -> NestedHypergradient:
        solution, begin = solve(starts, **tops), _starts(levels, starts)
        values = {**tops, **solution.values}
        _check_takes("`outer`", outer, values)
        if not jax.tree.leaves(tree.split(tops).inexact):
            raise ValueError(
                "a top variable must have a floating or complex leaf to differentiate: got "
                f"{tree.describe(tops)}."
            )
        parts = {name: tree.split(value) for name, value in values.items()}

        def outer_at(inexact: dict[str, Tree]) -> Array:
            merged = {name: tree.merge(inexact[name], *parts[name][1:]) for name in parts}
            return real_scalar(_call(outer, merged), outer)

        inexact = {name: part.inexact for name, part in parts.items()}
        value, bars = jax.value_and_grad(outer_at)(inexact)
        reports = {}
        for i in reversed(range(len(levels))):
            name = levels[i].name
            bar = bars.pop(name)
            del values[name]  # those above are left
            along = lambda y, _, bar=bar: jnp.real(tree.pairing(bar, tree.split(y).inexact))
            pulled = hypergradient(along, _solution_map(levels, i, begin))(
                begin[name], dict(values)
            )
            bars = jax.tree.map(jnp.add, bars, pulled.gradient)
            reports[name] = pulled.report
        return NestedHypergradient(value, bars, solution, dict(reversed(reports.items())))

    return run


def _respond(
    levels: Sequence[Level], which: range, above: Values, starts: Values
) -> dict[str, Solution]:
    """The solutions of `which` levels, in this order, given all variables above them."""
    values, solutions = dict(above), {}
    for i in which:
        name = levels[i].name
        solutions[name] = _solution_map(levels, i, starts)(starts[name], dict(values))
        values[name] = solutions[name].value
    return solutions


def _solution_map(levels: Sequence[Level], i: int, starts: Values) -> SolutionMap:
    """Level `i` as a solve; its theta are the variables above, by name."""
    level = levels[i]
    # Those below the last one that `fun` takes matter to it through that one at most.
    taken = [j for j in range(i + 1, len(levels)) if _takes(level.fun, levels[j].name)]
    responding = range(i + 1, max(taken, default=i) + 1)

    def fun(variable: Tree, above: dict[str, Tree]) -> Array:
        values = {**above, level.name: variable}
        responses = _respond(levels, responding, values, starts)
        value = _call(level.fun, values | {name: r.value for name, r in responses.items()})
        if not tree.is_inexact(value) or jnp.shape(value) or jnp.iscomplexobj(value):
            got = tree.describe(value)
            raise returned_by(
                level.fun,
                ValueError(f"`fun` of level `{level.name}` must return a real scalar: got {got}."),
            )
        return value

    solve = argmin(fun, level.solver, adjoint=level.rule)
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


def _starts(levels: Sequence[Level], starts: Values | None) -> dict[str, Tree]:
    """Where each level starts: what was given, or its own."""
    own = {level.name: level.start for level in levels}
    given = {} if starts is None else starts
    if not isinstance(given, Mapping) or not given.keys() <= own.keys():
        raise ValueError(
            f"`starts` must map names of levels ({', '.join(own)}) to trees: got "
            f"{tree.describe(starts)}; top variables are given by keyword."
        )
    for name, start in given.items():
        got, expected = tree.describe(start), tree.describe(own[name])
        if got != expected:
            raise ValueError(
                f"`starts[{name!r}]` must be like the start of level `{name}`: got {got}, expected "
                f"{expected}."
            )
    return {**own, **given}


def _check_levels(levels: Sequence[Level]) -> None:
    for level in levels:
        if not isinstance(level, Level):
            raise TypeError(f"`levels` must be of tk.bilevel.Level: got {level!r}.")
    names = [level.name for level in levels]
    if not names or len(set(names)) < len(names):
        raise ValueError(
            f"`levels` must be at least one, with names of their own: got ({', '.join(names)})."
        )


def _check_names(levels: Sequence[Level], tops: Values) -> None:
    """Refuse top variables that no function takes, and what is taken or named but not there."""
    names = [level.name for level in levels]
    for top in tops:
        if top in names:
            raise ValueError(
                f"top variables must have names of their own: got `{top}`, which is a level; its start "
                f"is given by position, solve({{'{top}': ...}}, ...)."
            )
        if not any(_takes(level.fun, top) for level in levels):
            raise ValueError(
                f"top variables must be taken by some level's `fun`: got `{top}`, which none takes."
            )
    for i, level in enumerate(levels):
        _check_takes(f"`fun` of level `{level.name}`", level.fun, {*tops, *names})
        unknown = [edge for edge in level.edges if edge not in (*tops, *names[:i])]
        if unknown:
            raise ValueError(
                f"`edges` of level `{level.name}` must name variables above it "
                f"({', '.join([*tops, *names[:i]])}): got `{unknown[0]}`."
            )
        for above in names[:i] if level.edges else ():
            rule = level.edges.get(above, level.adjoint)
            if rule is not None and not has_forward_mode(rule):
                raise ValueError(
                    f"the rule of level `{level.name}` along `{above}` must have forward mode, as a level's "
                    "derivative is differentiated again: got "
                    f"{rule}; use Implicit, OneStep, Stopped, Forward or Unroll(forward_mode=True)."
                )


def _check_takes(what: str, fun: Callable[..., Any], names: Collection[str]) -> None:
    """Refuse a function that needs what there is not."""
    for p in _parameters(fun):
        needed = p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
        if needed and (p.name not in names or p.kind is p.POSITIONAL_ONLY):
            raise ValueError(
                f"{what} must take only variables, by keyword: got the parameter `{p.name}`, there are "
                f"{', '.join(names)}; top variables are given by keyword, solve({p.name}=...)."
            )


def _parameters(fun: Callable[..., Any]) -> Collection[inspect.Parameter]:
    return inspect.signature(fun).parameters.values()


def _takes(fun: Callable[..., Any], name: str) -> bool:
    """Whether `fun` takes a keyword argument of that name."""
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return any(
        p.kind is p.VAR_KEYWORD or (p.kind in by_name and p.name == name) for p in _parameters(fun)
    )


def _call(fun: Callable[..., Any], values: Values) -> Any:
    """`fun` of those values that it takes."""
    return fun(**{name: value for name, value in values.items() if _takes(fun, name)})
