"""The gradient of an outer loss through a hierarchy of levels, with a report of each level's pullback."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from toolkit import tree
from toolkit.bilevel.levels.hierarchy import starts_of
from toolkit.bilevel.levels.keywords import Values, call, check_takes
from toolkit.bilevel.levels.level import Level
from toolkit.bilevel.levels.nested import NestedSolution, nested, solution_map
from toolkit.errors.readable import readable
from toolkit.solve.hypergradient import HypergradientReport, hypergradient, real_scalar
from toolkit.types import Tree


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
        solution, begin = solve(starts, **tops), starts_of(levels, starts)
        values = {**tops, **solution.values}
        check_takes("`outer`", outer, values)
        if not jax.tree.leaves(tree.split(tops).inexact):
            raise ValueError(
                "a top variable must have a floating or complex leaf to differentiate: got "
                f"{tree.describe(tops)}."
            )
        parts = {name: tree.split(value) for name, value in values.items()}

        def outer_at(inexact: dict[str, Tree]) -> Array:
            merged = {name: tree.merge(inexact[name], *parts[name][1:]) for name in parts}
            return real_scalar(call(outer, merged), outer)

        inexact = {name: part.inexact for name, part in parts.items()}
        value, bars = jax.value_and_grad(outer_at)(inexact)
        reports = {}
        for i in reversed(range(len(levels))):
            name = levels[i].name
            bar = bars.pop(name)
            del values[name]  # those above are left
            along = lambda y, _, bar=bar: jnp.real(tree.pairing(bar, tree.split(y).inexact))
            pulled = hypergradient(along, solution_map(levels, i, begin))(begin[name], dict(values))
            bars = jax.tree.map(jnp.add, bars, pulled.gradient)
            reports[name] = pulled.report
        return NestedHypergradient(value, bars, solution, dict(reversed(reports.items())))

    return run
