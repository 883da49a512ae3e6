"""One level of a hierarchy: a variable, the function that it minimises, and the rules of its derivative."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import jax
from jax import Array

from toolkit import tree
from toolkit.adjoint import Implicit
from toolkit.bilevel.levels.edges import ByEdge
from toolkit.bilevel.levels.keywords import takes
from toolkit.errors.readable import readable
from toolkit.solve.maps import argmin
from toolkit.types import Adjoint, Solution, Solver, Tree


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
            # Checks the solver and the rule where the level is written, not where it is first solved.
            argmin(self.fun, self.solver, adjoint=rule)
        if not takes(self.fun, self.name):
            raise ValueError(
                f"`fun` {where} must take `{self.name}` by keyword: got the parameters "
                f"{inspect.signature(self.fun)}."
            )
        if not jax.tree.leaves(tree.parts(self.start).inexact):
            raise ValueError(
                f"`start` {where} must have a floating or complex leaf to solve for: got "
                f"{tree.describe(self.start)}."
            )

    @property
    def rule(self) -> Adjoint:
        """The adjoint of the level: its own rule, or `ByEdge` where some edges have others."""
        rule = self.adjoint or Implicit()
        edges = {name: rule or Implicit() for name, rule in self.edges.items()}
        return ByEdge(rule, edges) if edges else rule
