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
from toolkit.leaves.containers import packed, unpacked
from toolkit.solve.hypergradient import hypergradient, real_scalar
from toolkit.solve.hypergradient_report import HypergradientReport
from toolkit.types import Tree


class NestedHypergradient(NamedTuple):
    """An outer value, its gradient in the top variables, and how well each level was solved for them."""

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

    Every top variable is differentiated, floating data too, for which that costs time and memory: rather
    make levels and `outer` inside the jitted function, and let them close over the data, its arguments.

    Not watched: the linear systems inside a level's products with its second derivative. They have the
    same matrix as the system of the level below, which is watched, and other right-hand sides. Not
    watched either are what `nested` names, and the linear systems of a level with `edges`.

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
        if not jax.tree.leaves(tree.parts(tops).inexact):
            raise ValueError(
                "a top variable must have a floating or complex leaf to differentiate: got "
                f"{tree.describe(tops)}."
            )
        parts = {name: tree.parts(value) for name, value in values.items()}

        def outer_at(inexact: dict[str, Tree]) -> Array:
            merged = {name: tree.whole(inexact[name], *parts[name][1:]) for name in parts}
            return real_scalar(call(outer, merged), outer)

        inexact = {name: part.inexact for name, part in parts.items()}
        # The chain rule, by hand: `bars` first holds the derivative of `outer` in each variable with the
        # others held. From the lowest level up, a level's bar is pulled back through its solution and
        # added to the bars of the variables above. When a level's turn comes, all below have added theirs.
        value, bars = jax.value_and_grad(outer_at)(inexact)
        reports = {}
        for i in reversed(range(len(levels))):
            name = levels[i].name
            bar = bars.pop(name)
            del values[name]  # theta of this level's solve is the variables above it
            # The gradient of `<bar, y>` at the solution is the pullback of `bar`: `hypergradient` makes it,
            # and reports on it.
            along = lambda y, _, bar=bar: jnp.real(tree.pairing(bar, tree.parts(y).inexact))
            pulled = hypergradient(along, solution_map(levels, i, begin))(begin[name], dict(values))
            bars = jax.tree.map(jnp.add, bars, unpacked(pulled.gradient))
            reports[name] = pulled.report
        return NestedHypergradient(value, packed(bars), solution, dict(reversed(reports.items())))

    return run
